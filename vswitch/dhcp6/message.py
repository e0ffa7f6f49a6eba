# SPDX-License-Identifier: Apache-2.0
"""DHCPv6 messages: bytes to values and back (RFC 8415 §7.3, §8, §11, §16, §21; read them before changing this).

    type 1  transaction 3  options…         an option: code 2  length 2  data

Strict: an option that runs past the end makes the whole message malformed, one that must stand once and stands
twice too. §16 says for each type which identities must be there and which must not; `read` holds messages to it.
Options that nobody here needs are skipped.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv6Address
from typing import NamedTuple

from vswitch.dhcp6.drop import Drop

MAX_MESSAGE_BYTES = 800
"""Longest message that is read: real ones stay below 400. Answers repeat what stands in it, and add the settings."""
MAX_ASSOCIATIONS = 8
"""Identity associations in one message; real clients have one address's and one prefix's."""
MAX_ADDRESSES = 16
"""Addresses in one association."""
INFINITE_S = 0xFFFFFFFF


class MessageType(IntEnum):
    """RFC 8415 §7.3."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    RECONFIGURE = 10
    INFORMATION_REQUEST = 11
    RELAY_FORW = 12
    RELAY_REPL = 13


class Code(IntEnum):
    """Option codes, named as in the IANA registry."""

    CLIENTID = 1
    SERVERID = 2
    IA_NA = 3
    IA_TA = 4
    IAADDR = 5
    ORO = 6
    PREFERENCE = 7
    STATUS_CODE = 13
    RAPID_COMMIT = 14
    DNS_SERVERS = 23
    DOMAIN_LIST = 24
    IA_PD = 25
    INFORMATION_REFRESH_TIME = 32
    NTP_SERVER = 56


class Status(IntEnum):
    """RFC 8415 §21.13."""

    SUCCESS = 0
    UNSPEC_FAIL = 1
    NO_ADDRS_AVAIL = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX_AVAIL = 6


_T = MessageType
MUST_NAME_SERVER = frozenset({_T.REQUEST, _T.RENEW, _T.RELEASE, _T.DECLINE})
MUST_NOT_NAME_SERVER = frozenset({_T.SOLICIT, _T.CONFIRM, _T.REBIND})
FROM_CLIENTS = MUST_NAME_SERVER | MUST_NOT_NAME_SERVER | {_T.INFORMATION_REQUEST}
DUID_BYTES = range(3, 131)  # RFC 8415 §11.1: a type and up to 128 bytes; with nothing behind it, it names nobody


class Association(NamedTuple):
    """An IA_NA, IA_TA or IA_PD as a client sends it; of a prefix delegation the addresses are not read."""

    code: Code
    iaid: bytes
    addresses: tuple[IPv6Address, ...]


class Request(NamedTuple):
    """A client's message."""

    kind: MessageType
    transaction: bytes
    client: bytes | None
    server: bytes | None
    associations: tuple[Association, ...]
    wanted: frozenset[int]
    rapid_commit: bool


def read(payload: bytes) -> Request | Drop:
    """The request in a UDP payload, or why there is none; never raises."""
    if len(payload) > MAX_MESSAGE_BYTES:
        return Drop.OVERSIZED
    if len(payload) < 4:
        return Drop.MALFORMED
    if payload[0] in (MessageType.RELAY_FORW, MessageType.RELAY_REPL):
        return Drop.RELAYED
    if payload[0] not in FROM_CLIENTS:
        return Drop.TYPE
    kind = MessageType(payload[0])
    options = parse_options(payload[4:])
    if options is None:
        return Drop.MALFORMED
    once: dict[int, bytes] = {}
    associations: list[Association] = []
    for code, data in options:
        if code in (Code.IA_NA, Code.IA_TA, Code.IA_PD):
            association = _association(Code(code), data)
            if association is None:
                return Drop.MALFORMED
            associations.append(association)
        elif code in (Code.CLIENTID, Code.SERVERID, Code.ORO, Code.RAPID_COMMIT):
            if code in once:
                return Drop.OPTIONS
            once[code] = data
    if len(associations) > MAX_ASSOCIATIONS or any(len(ia.addresses) > MAX_ADDRESSES for ia in associations):
        return Drop.OVERSIZED
    fault = _unfit(kind, once, associations)
    if fault is not None:
        return fault
    wanted = once.get(Code.ORO, b"")
    return Request(
        kind,
        payload[1:4],
        once.get(Code.CLIENTID),
        once.get(Code.SERVERID),
        tuple(associations),
        frozenset(struct.unpack(f"!{len(wanted) // 2}H", wanted)),
        Code.RAPID_COMMIT in once,
    )


def _unfit(kind: MessageType, once: dict[int, bytes], associations: list[Association]) -> Drop | None:
    """Why a message is against RFC 8415 §16."""
    client, server = once.get(Code.CLIENTID), once.get(Code.SERVERID)
    if any(duid is not None and len(duid) not in DUID_BYTES for duid in (client, server)):
        return Drop.OPTIONS
    if len(once.get(Code.ORO, b"")) % 2 or once.get(Code.RAPID_COMMIT):
        return Drop.OPTIONS
    if client is None and kind is not MessageType.INFORMATION_REQUEST:
        return Drop.OPTIONS
    if (server is None and kind in MUST_NAME_SERVER) or (server is not None and kind in MUST_NOT_NAME_SERVER):
        return Drop.OPTIONS
    return Drop.OPTIONS if kind is MessageType.INFORMATION_REQUEST and associations else None


def parse_options(area: bytes) -> list[tuple[int, bytes]] | None:
    """All options in their order; None if one runs past the end."""
    options, at = [], 0
    while at < len(area):
        if at + 4 > len(area):
            return None
        code, length = struct.unpack_from("!HH", area, at)
        at += 4 + length
        if at > len(area):
            return None
        options.append((code, area[at - length : at]))
    return options


def _association(code: Code, data: bytes) -> Association | None:
    head = 4 if code is Code.IA_TA else 12
    if len(data) < head or (options := parse_options(data[head:])) is None:
        return None
    addresses = []
    for inner, value in options:
        if inner == Code.IAADDR and code is not Code.IA_PD:
            if len(value) < 24 or parse_options(value[24:]) is None:
                return None
            addresses.append(IPv6Address(value[:16]))
    return Association(code, data[:4], tuple(addresses))


# ---- what the server writes


def option(code: int, data: bytes = b"") -> bytes:
    return struct.pack("!HH", code, len(data)) + data


def status(code: Status, text: str = "") -> bytes:
    return option(Code.STATUS_CODE, struct.pack("!H", code) + text.encode())


def address_option(address: IPv6Address, lifetime_s: int) -> bytes:
    """IAADDR; preferred and valid alike. 0: it is not to be used any more."""
    return option(Code.IAADDR, address.packed + struct.pack("!II", lifetime_s, lifetime_s))


def association_option(asked: Association, lifetime_s: int, inside: bytes) -> bytes:
    """An association as the server answers it; T1 and T2 are half and 0.8 of the lifetime (RFC 8415 §21.4), 0
    without one."""
    if asked.code is Code.IA_TA:
        return option(asked.code, asked.iaid + inside)
    forever = lifetime_s == INFINITE_S
    renew_s, rebind_s = (INFINITE_S, INFINITE_S) if forever else (lifetime_s // 2, lifetime_s * 4 // 5)
    return option(asked.code, asked.iaid + struct.pack("!II", renew_s, rebind_s) + inside)
