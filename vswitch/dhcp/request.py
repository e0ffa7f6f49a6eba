# SPDX-License-Identifier: Apache-2.0
"""A client's message as the engine reads it: its type, what it wishes for, and who it says it is.

An option that decides something (type, addresses, times, ids) must be well formed, or the message is dropped.
Names are hearsay: one that is no host name is ignored.
"""
from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from vswitch.dhcp.drop import Drop
from vswitch.dhcp.message import ANY, BOOTREQUEST, Message, MessageType, parse
from vswitch.dhcp.options import Code, Fqdn, decode

CLIENT_TYPES = frozenset({
    MessageType.DISCOVER, MessageType.REQUEST, MessageType.DECLINE, MessageType.RELEASE, MessageType.INFORM,
})
DECISIVE = (
    Code.MESSAGE_TYPE, Code.REQUESTED_ADDRESS, Code.SERVER_ID, Code.LEASE_TIME, Code.CLIENT_ID,
    Code.MAX_MESSAGE_SIZE, Code.RAPID_COMMIT,
)
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST_NAME = re.compile(rf"(?!.{{254}}){_LABEL}(\.{_LABEL})*")


class Request(NamedTuple):
    """One message of a client; an address that was zero or absent is None, `parameters` may be empty."""

    message: Message
    kind: MessageType
    requested: IPv4Address | None
    ciaddr: IPv4Address | None
    server: IPv4Address | None
    lease_s: int | None
    client_id: bytes | None
    max_datagram_bytes: int | None
    rapid_commit: bool
    parameters: bytes
    hostname: str | None
    fqdn: Fqdn | None

    @property
    def mac(self) -> bytes:
        return self.message.chaddr


def read(payload: bytes) -> Request | Drop:
    """The request in a UDP payload, or why there is none; never raises."""
    message = parse(payload)
    if isinstance(message, Drop):
        return message
    if message.op != BOOTREQUEST:
        return Drop.REPLY
    if message.chaddr[0] & 1 or not any(message.chaddr):
        return Drop.HARDWARE
    values = {code: decode(code, message.options[code]) for code in DECISIVE if code in message.options}
    if None in values.values():
        return Drop.OPTIONS
    kind = values.get(Code.MESSAGE_TYPE)
    if kind is None:
        return Drop.BOOTP
    if kind not in CLIENT_TYPES:
        return Drop.TYPE
    return _request(message, kind, values)


def _request(message: Message, kind: MessageType, values: dict[Code, Any]) -> Request:
    fqdn = decode(Code.CLIENT_FQDN, message.options.get(Code.CLIENT_FQDN, b""))
    return Request(
        message=message,
        kind=kind,
        requested=_or_none(values.get(Code.REQUESTED_ADDRESS)),
        ciaddr=_or_none(message.ciaddr),
        server=values.get(Code.SERVER_ID),
        lease_s=values.get(Code.LEASE_TIME),
        client_id=values.get(Code.CLIENT_ID),
        max_datagram_bytes=values.get(Code.MAX_MESSAGE_SIZE),
        rapid_commit=Code.RAPID_COMMIT in values,
        parameters=message.options.get(Code.PARAMETER_LIST, b""),
        hostname=_host_name(message, fqdn),
        fqdn=fqdn,
    )


def _or_none(address: IPv4Address | None) -> IPv4Address | None:
    return None if address == ANY else address


def _host_name(message: Message, fqdn: Fqdn | None) -> str | None:
    """What a client calls itself, option 81 or 12 (RFC 4702 §3.1); None if no host name (RFC 1123 §2.1)."""
    plain = decode(Code.HOSTNAME, message.options.get(Code.HOSTNAME, b""))
    name = (fqdn.name if fqdn and fqdn.name else plain or "").removesuffix(".")
    return name if HOST_NAME.fullmatch(name) else None
