# SPDX-License-Identifier: Apache-2.0
"""DHCPv6 clients' messages, built and read without dhcp6/message.py."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, IPv6Network

from vswitch.dhcp6.engine import Delete, Engine, Outcome, Put
from vswitch.dhcp6.scope import Ingress, Scope

GATEWAY_MAC = bytes.fromhex("0242ac110001")
SERVER = bytes.fromhex("00030001") + GATEWAY_MAC
SUBNET = IPv6Network("fd00::/64")
OWN, OTHER = "fd00::2", "fd00::99"
MAC = bytes.fromhex("0242ac110002")
WEB = Ingress("web", IPv6Address(OWN), MAC)
DUID, CLONE = bytes.fromhex("00030001") + MAC, b"\0\4" + bytes(range(16))
IAID = b"\0\0\0\7"
TRANSACTION = b"\xab\xcd\xef"
NOW = 1_700_000_000.0
(SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE, RECONFIGURE, INFORM) = range(1, 12)
CLIENTID, SERVERID, IA_NA, IA_TA, IAADDR, ORO, PREFERENCE, STATUS, RAPID, DNS, SEARCH, IA_PD, REFRESH, NTP = (
    1, 2, 3, 4, 5, 6, 7, 13, 14, 23, 24, 25, 32, 56,
)  # fmt: skip


def ip(text: str) -> IPv6Address:
    return IPv6Address(text)


def opt(code: int, data: bytes = b"") -> bytes:
    return struct.pack("!HH", code, len(data)) + data


def addr(address: str, preferred_s: int = 0, valid_s: int = 0) -> bytes:
    return opt(IAADDR, ip(address).packed + struct.pack("!II", preferred_s, valid_s))


def ia(*addresses: str, iaid: bytes = IAID, code: int = IA_NA) -> bytes:
    head = iaid if code == IA_TA else iaid + bytes(8)
    return opt(code, head + b"".join(map(addr, addresses)))


def message(kind: int, *options: bytes, client: bytes | None = DUID, server: bytes | None = None) -> bytes:
    head = bytes([kind]) + TRANSACTION
    ids = (opt(CLIENTID, client) if client is not None else b"") + (
        opt(SERVERID, server) if server is not None else b""
    )
    return head + ids + b"".join(options)


def engine(**settings) -> Engine:
    return Engine(Scope(**{"server_mac": GATEWAY_MAC, "subnet": SUBNET, "dns": (ip("fd00::53"),), **settings}))


def options(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        code, length = struct.unpack_from("!HH", data, at)
        found.append((code, data[at + 4 : at + 4 + length]))
        at += 4 + length
    assert at == len(data)
    return found


class Answer:
    """A server's message, taken apart."""

    def __init__(self, outcome: Outcome, server: bytes = SERVER, transaction: bytes = TRANSACTION):
        assert outcome.reply is not None, outcome
        self.kind, self.transaction = outcome.reply[0], outcome.reply[1:4]
        self.all = options(outcome.reply[4:])
        self.options = dict(self.all)
        assert self.transaction == transaction and self.options[SERVERID] == server
        status = self.options.get(STATUS)
        self.status = None if status is None else int.from_bytes(status[:2], "big")

    @property
    def associations(self) -> list[tuple]:
        """(code, iaid, {address: (preferred, valid)}, status) of each."""
        found = []
        for code, data in self.all:
            if code in (IA_NA, IA_TA, IA_PD):
                inner = options(data[4:] if code == IA_TA else data[12:])
                given = {str(IPv6Address(d[:16])): struct.unpack("!II", d[16:24]) for c, d in inner if c == IAADDR}
                status = next((int.from_bytes(d[:2], "big") for c, d in inner if c == STATUS), None)
                found.append((code, data[:4], given, status))
        return found


class Store:
    """What a database would hold: rows by address."""

    def __init__(self):
        self.rows: dict[IPv6Address, tuple] = {}

    def apply(self, changes) -> None:
        for change in changes:
            match change:
                case Put(lease=stored):
                    self.rows[stored.address] = stored.row()
                case Delete(address=address):
                    self.rows.pop(address, None)


def bound() -> Engine:
    """A server whose port `web` has its address bound."""
    server = engine()
    assert server.handle(message(REQUEST, ia(), server=SERVER), WEB, NOW).changes
    return server
