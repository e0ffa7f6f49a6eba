# SPDX-License-Identifier: Apache-2.0
"""What the store keeps: one JSON document per network and per container. All else is rebuilt from them.

A record holds what was decided, not only what was asked: addresses, MACs, interface names and subnets are
chosen once and are the same after every restart. `before → after` of a container's state, and what a restart
makes of it:

    (nothing) → starting     attach has begun: nothing is there yet, or half of it. A restart undoes it.
    starting → running       interfaces are up. A restart takes them back.
    running → exited         a `run` container ended and is kept: name and addresses stay reserved.
    exited → starting        `start`. A restart undoes it, back to exited (`kept`: there is such a state).
    running → orphaned       an interface is beyond reach; `remedy` says what mends it. A restart tries again.
    any → removing           its interfaces are being taken away. A restart finishes that and forgets it.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from vswitch.model import ContainerSpec, NamespaceOrigin, NetworkSpec, PublishSpec, State, SubnetSpec

R = TypeVar("R", bound=Struct)


class NetworkRecord(Struct, kw_only=True):
    """A network: `asked` as the user wrote it, the rest as it was decided. `unsettled` while a change of it is on its
    way to its containers; a restart brings that to its end."""

    id: str
    name: str
    asked: NetworkSpec
    mtu: int
    subnets: list[SubnetSpec]
    created_at: float
    unsettled: bool = False


class EndpointRecord(Struct, kw_only=True):
    """A container's attachment to a network (its id); `ipv4` and `ipv6` are without prefix length. `unsettled` while it
    comes to a running container, or leaves it: a restart takes it away."""

    id: str
    network: str
    interface: str
    mac: str
    ipv4: str | None
    ipv6: str | None
    aliases: list[str]
    gw_priority: int = 0
    unsettled: bool = False
    source_guard: bool = True


class PublicationRecord(Struct, kw_only=True, frozen=True):
    """Ports that are published: `asked`, and where they were put. `host_port` is None until they were open once."""

    asked: PublishSpec
    host_ip: str | None = None
    host_port: int | None = None


class ContainerRecord(Struct, kw_only=True):
    """A container; which of its endpoints holds the default route and the published ports: endpoints.py."""

    id: str
    name: str
    hostname: str
    spec: ContainerSpec
    origin: NamespaceOrigin
    state: State
    endpoints: list[EndpointRecord]
    created_at: float
    kept: bool = False
    exit_code: int | None = None
    remedy: str | None = None
    ports: list[PublicationRecord] = []


def encode(record: Struct) -> bytes:
    """The document of a record."""
    return msgspec.json.encode(record)


def decode(kind: type[R], document: bytes) -> R:
    """The record in a document; msgspec.ValidationError or DecodeError if it is none."""
    return msgspec.json.decode(document, type=kind)
