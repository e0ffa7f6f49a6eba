# SPDX-License-Identifier: Apache-2.0
"""The server's messages: which fields, which options in which order, how large, and to which address (RFC
2131 §4.1, §4.3.1, table 3).

Order of options: 53 54 51 58 59 80 1, then what the client asked for in the order in which it asked, then 81,
61 (RFC 6842), 82 (RFC 3046). Options 3 and 121 are both sent to whoever asks for both: a client that
understands 121 must ignore 3, and scripts that don't handle 121 although their client asked for it still find
a router.

Where an answer goes: through a relay agent, to it; NAK, to everybody; to a client that has an address, there;
else, if the client set the broadcast flag, to everybody, and if not, to the address it is about to get, at
its MAC (nobody could ARP for it yet). "To everybody" is only the address on the frame: the shell hands each
answer to the one port that asked.
"""
from __future__ import annotations

from ipaddress import IPv4Address
from typing import NamedTuple

from vswitch.dhcp.message import (
    ANY,
    BOOTREPLY,
    BROADCAST_FLAG,
    MIN_MESSAGE_BYTES,
    Message,
    MessageType,
    emit_laid_out,
    lay_out,
)
from vswitch.dhcp.options import FQDN_E, FQDN_N, FQDN_O, FQDN_S, Code, Fqdn, encode
from vswitch.dhcp.request import HOST_NAME, Request
from vswitch.dhcp.scope import INFINITE_S, Ingress, Scope

SERVER_PORT, CLIENT_PORT = 67, 68
BROADCAST_IP, BROADCAST_MAC = IPv4Address(0xFFFFFFFF), b"\xff" * 6
MIN_DATAGRAM_BYTES = 576
"""What every host must accept (RFC 791); RFC 2132 §9.10 forbids clients to ask for less."""
IP_AND_UDP_BYTES = 28
DEFAULT_PARAMETERS = bytes([
    Code.ROUTER, Code.DOMAIN_SERVER, Code.HOSTNAME, Code.DOMAIN_NAME, Code.MTU, Code.BROADCAST,
    Code.DOMAIN_SEARCH, Code.CLASSLESS_ROUTES,
])
"""For clients that send no parameter list."""


class Reply(NamedTuple):
    """A message to send: a UDP payload, and the destination of the datagram and the frame around it."""

    kind: MessageType
    payload: bytes
    ip: IPv4Address
    mac: bytes
    dport: int = CLIENT_PORT
    left_out: tuple[int, ...] = ()

    @property
    def broadcast(self) -> bool:
        return self.mac == BROADCAST_MAC


def grant(
    scope: Scope, request: Request, ingress: Ingress, kind: MessageType, address: IPv4Address, lease_s: int
) -> Reply:
    """OFFER or ACK of an address for `lease_s` seconds."""
    options = _opening(scope, kind)
    options[Code.LEASE_TIME] = encode(Code.LEASE_TIME, lease_s)
    if lease_s != INFINITE_S:
        options[Code.RENEWAL_TIME] = encode(Code.RENEWAL_TIME, lease_s // 2)
        options[Code.REBINDING_TIME] = encode(Code.REBINDING_TIME, lease_s * 7 // 8)
    if kind is MessageType.ACK and request.kind is MessageType.DISCOVER:
        options[Code.RAPID_COMMIT] = b""
    _add_settings(options, scope, request, ingress)
    return _reply(scope, request, ingress, kind, options, yiaddr=address)


def inform(scope: Scope, request: Request, ingress: Ingress) -> Reply:
    """ACK to a client that has an address of its own: settings, no times, no address (RFC 2131 §4.3.5)."""
    options = _opening(scope, MessageType.ACK)
    _add_settings(options, scope, request, ingress)
    return _reply(scope, request, ingress, MessageType.ACK, options)


def refuse(scope: Scope, request: Request, ingress: Ingress, why: str) -> Reply:
    """NAK: the client must start again."""
    options = _opening(scope, MessageType.NAK)
    options[Code.MESSAGE] = encode(Code.MESSAGE, why)
    return _reply(scope, request, ingress, MessageType.NAK, options)


def _opening(scope: Scope, kind: MessageType) -> dict[int, bytes]:
    return {Code.MESSAGE_TYPE: bytes([kind]), Code.SERVER_ID: scope.encoded[Code.SERVER_ID]}


def _add_settings(options: dict[int, bytes], scope: Scope, request: Request, ingress: Ingress) -> None:
    """The subnet mask (it must stand before the router), then whatever else was asked for and is set."""
    options[Code.SUBNET_MASK] = scope.encoded[Code.SUBNET_MASK]
    for code in request.parameters or DEFAULT_PARAMETERS:
        if code == Code.HOSTNAME and ingress.hostname:
            options[code] = encode(Code.HOSTNAME, ingress.hostname)
        elif code in scope.encoded and code not in options:
            options[code] = scope.encoded[code]
    if request.fqdn is not None:
        options[Code.CLIENT_FQDN] = _fqdn(scope, request.fqdn, ingress.hostname)


def _fqdn(scope: Scope, theirs: Fqdn, hostname: str | None) -> bytes:
    """RFC 4702 §4: the network's DNS serves assigned names (S), no others (N); O says: not as wished."""
    ours = f"{hostname}.{scope.domain}." if hostname and scope.domain else hostname or ""
    assigned = HOST_NAME.fullmatch(ours.removesuffix(".")) is not None
    serves = assigned and not theirs.flags & FQDN_N
    wishes = bool(theirs.flags & FQDN_S)
    flags = (FQDN_S if serves else FQDN_N) | (FQDN_O if serves != wishes else 0) | theirs.flags & FQDN_E
    return encode(Code.CLIENT_FQDN, Fqdn(flags, ours if assigned else theirs.name))


def _reply(
    scope: Scope, request: Request, ingress: Ingress, kind: MessageType, options: dict[int, bytes],
    yiaddr: IPv4Address = ANY,
) -> Reply:
    asked = request.message
    for code in (Code.CLIENT_ID, Code.RELAY_AGENT):
        if code in asked.options:
            options[code] = asked.options[code]
    relayed = asked.giaddr != ANY
    flags = asked.flags & BROADCAST_FLAG
    if kind is MessageType.NAK and relayed:
        flags = BROADCAST_FLAG   # the relay must not send it to an address that the client may not use
    message = Message(
        BOOTREPLY, asked.xid, asked.chaddr, options, flags=flags, yiaddr=yiaddr, giaddr=asked.giaddr,
        ciaddr=asked.ciaddr if kind is MessageType.ACK else ANY,
    )
    layout = lay_out(message, _limit_bytes(scope, request))
    ip, mac, dport = _destination(message, kind, relayed, ingress)
    return Reply(kind, emit_laid_out(message, layout), ip, mac, dport, layout.left_out)


def _limit_bytes(scope: Scope, request: Request) -> int:
    """How long the payload may be: what the client takes, within what the network carries."""
    datagram_bytes = max(MIN_DATAGRAM_BYTES, request.max_datagram_bytes or 0)
    return max(MIN_MESSAGE_BYTES, min(datagram_bytes, scope.mtu) - IP_AND_UDP_BYTES)


def _destination(
    message: Message, kind: MessageType, relayed: bool, ingress: Ingress,
) -> tuple[IPv4Address, bytes, int]:
    """IP, MAC and UDP port of the answer (RFC 2131 §4.1)."""
    if relayed:
        return message.giaddr, ingress.source or message.chaddr, SERVER_PORT
    if kind is MessageType.NAK:
        return BROADCAST_IP, BROADCAST_MAC, CLIENT_PORT
    if message.ciaddr != ANY:
        return message.ciaddr, message.chaddr, CLIENT_PORT
    if message.flags & BROADCAST_FLAG:
        return BROADCAST_IP, BROADCAST_MAC, CLIENT_PORT
    return message.yiaddr, message.chaddr, CLIENT_PORT
