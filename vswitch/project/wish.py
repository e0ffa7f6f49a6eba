# SPDX-License-Identifier: Apache-2.0
"""What a file wants there to be, whichever language it was written in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from vswitch.model import Refused

PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}", re.ASCII)
NAME_LEFT_OUT = re.compile(r"[^a-z0-9_-]+", re.ASCII)
DEFAULT = "default"  # the key of the network that services are on which name none
PLACES = ("netns", "pid", "podman", "docker")
SERVICE = "service:"  # before the key, as a network mode
SERVICES_LIMIT = 1000  # a switch takes more, but nobody writes them into one file
PROJECT_LABEL = "vswitch.project"  # whose a network or container is
PART_LABEL = "vswitch.part"  # which of the file's keys it is
How = Literal["run", "netns", "pid", "podman", "docker", "there"]


class NetworkWish(Struct, frozen=True):
    """A network: `key` in the file, `name` at the switch. An `external` one must be there already and is left as it is.

    `spec` is a NetworkSpec of the API without name and labels of ours.
    """

    key: str
    name: str
    external: bool = False
    spec: dict[str, Any] = {}


class ServiceWish(Struct, frozen=True):
    """A container: the first of `names` is the one it gets, any of them is one it may have already.

    `how` it comes: run here, attached from `place` (a namespace, a pid, an engine's container), or `there` already,
    since somebody else makes it. `spec` is a ContainerSpec of the API without name and labels of ours; with
    `network_mode` "service:KEY" it shares the network of another of the project's containers.
    """

    key: str
    names: tuple[str, ...]
    how: How = "there"
    place: str = ""
    spec: dict[str, Any] = {}
    after: tuple[str, ...] = ()


class Project(Struct, frozen=True):
    """`services` come after those they depend on. `ignored`: what the file says and vswitch does not do; `called`: what
    it calls services.
    """

    name: str
    networks: tuple[NetworkWish, ...]
    services: tuple[ServiceWish, ...]
    ignored: tuple[str, ...] = ()
    called: Literal["services", "containers"] = "services"


def project_name(wished: str) -> str:
    """A folder's name, say, as a project's: lower case, without what a name cannot have."""
    return NAME_LEFT_OUT.sub("", wished.lower()).lstrip("_-")[:40]


def check_project_name(name: str) -> str:
    """Refused unless networks and containers can be called after it."""
    if not PROJECT_NAME.fullmatch(name):
        raise Refused(
            f"project name {name[:60]!r} is invalid: lower-case letters, digits, - and _, at most 40, beginning with"
            " a letter or digit; say another with --project-name"
        )
    return name


def with_network_names(services: Iterable[ServiceWish], networks: Iterable[NetworkWish]) -> list[ServiceWish]:
    """The services with their networks called as the switch knows them, not as the file does."""
    names = {network.key: network.name for network in networks}
    return [
        replace(s, spec={**s.spec, "networks": [{**a, "network": names[a["network"]]} for a in s.spec["networks"]]})
        for s in services
    ]


def in_order(services: Sequence[ServiceWish]) -> list[ServiceWish]:
    """Each after those it depends on. Refused where that cannot be, or two have one name."""
    if len(services) > SERVICES_LIMIT:
        raise Refused(f"{len(services)} containers are too many for one file: at most {SERVICES_LIMIT}")
    by_key = {service.key: service for service in services}
    owners: dict[str, str] = {}
    for service in services:
        if (other := owners.setdefault(service.names[0], service.key)) != service.key:
            raise Refused(f"{other} and {service.key} have the same container name {service.names[0]}")
    sorter = TopologicalSorter({s.key: [key for key in s.after if key in by_key] for s in services})
    try:
        return [by_key[key] for key in sorter.static_order()]
    except CycleError as circle:
        raise Refused(f"{' → '.join(circle.args[1])} depend on each other in a circle") from None
