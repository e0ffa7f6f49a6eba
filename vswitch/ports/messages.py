# SPDX-License-Identifier: Apache-2.0
"""What the switch and its attach helper say to each other: a JSON object per message, descriptors beside it.

Both ends are the same program in the same version, so a message that does not decode is a bug and raises.
"""
from __future__ import annotations

import array
import socket
from typing import Literal

import msgspec
from msgspec import Struct

from vswitch.model import NamespaceOrigin, Refused
from vswitch.ports.inside import InterfaceGone, NamespaceGone, NotPermitted
from vswitch.ports.interface import InterfacePlan

MESSAGE_BYTES = 65536  # the longest request is a plan of some 500 bytes
DESCRIPTORS = 4  # per message; a request brings two at most, an answer four
CMSG_SPACE = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)


class Attach(Struct, tag="attach"):
    """Descriptors: the network namespace, then its user namespace if that is known; none where there is an origin."""

    id: int
    plan: InterfacePlan
    origin: NamespaceOrigin | None = None


class Reattach(Struct, tag="reattach"):
    """No descriptors."""

    id: int
    origin: NamespaceOrigin
    plan: InterfacePlan


class Configure(Struct, tag="configure"):
    """No descriptors."""

    id: int
    origin: NamespaceOrigin
    plan: InterfacePlan


class Remove(Struct, tag="remove"):
    """Descriptors as for Attach. Without a name it is the TAP that has this MAC."""

    id: int
    name: str
    origin: NamespaceOrigin | None = None
    mac: str | None = None


class Listen(Struct, tag="listen"):
    """Sockets for the resolver, and two more by which to `ask`. Descriptors as for Attach where `origin` is None."""

    id: int
    origin: NamespaceOrigin | None = None
    ask: bool = False


Request = Attach | Reattach | Configure | Remove | Listen

Fault = Literal["namespace_gone", "interface_gone", "not_permitted", "other"]
FAULTS: dict[type[Refused], Fault] = {
    NamespaceGone: "namespace_gone",
    InterfaceGone: "interface_gone",
    NotPermitted: "not_permitted",
    Refused: "other",
}
REFUSALS: dict[Fault, type[Refused]] = {fault: refusal for refusal, fault in FAULTS.items()}


class Parcel(Struct, tag="parcel"):
    """Brings a TAP's or sockets' descriptors ahead of the answer, which is sent when the sender has closed its own."""

    id: int


class Answer(Struct, tag="answer"):
    """`fault` None: done; where a TAP was asked for, this describes it."""

    id: int
    name: str = ""
    vnet_header: bool = False
    gso: int = 0
    fault: Fault | None = None
    message: str = ""
    status: int = 500


_requests = msgspec.json.Decoder(Request)
_replies = msgspec.json.Decoder(Parcel | Answer)
encode = msgspec.json.encode


def decode_request(body: bytes) -> Request:
    """A request as the switch sent it."""
    return _requests.decode(body)


def decode_reply(body: bytes) -> Parcel | Answer:
    """An answer, or what comes before it, as the helper sent it."""
    return _replies.decode(body)


def receive(channel: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """One message and its descriptors (CLOEXEC), the caller's to close; (b"", []) at the end."""
    body, ancillary, _, _ = channel.recvmsg(MESSAGE_BYTES, CMSG_SPACE, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return body, fds.tolist()
