# SPDX-License-Identifier: Apache-2.0
"""The DHCP engine's other side, in memory: IPAM's twin and clients' messages, built without message.py."""
from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import dpkt

from vswitch.dhcp.engine import Engine, Outcome
from vswitch.dhcp.message import MessageType
from vswitch.dhcp.scope import Ingress, Scope
from vswitch.dhcp.table import Client, Delete, Put, State

SUBNET = IPv4Network("172.17.0.0/24")
GATEWAY = IPv4Address("172.17.0.1")
MAC = bytes.fromhex("0242ac110009")
OTHER_MAC = bytes.fromhex("0242ac11000a")
XID = 0x3903F326
NOW = 1_700_000_000.0


def ip(text: str) -> IPv4Address:
    return IPv4Address(text)


OFFER, ACK, NAK = MessageType.OFFER, MessageType.ACK, MessageType.NAK
VM = Ingress("vm")
WEB = Ingress("web", address=ip("172.17.0.9"), mac=MAC, hostname="web")
FIRST = "172.17.0.2"   # what the pool gives first


class Pool:
    """IPAM's twin: a subnet's addresses, lowest first; to give back what was never taken fails the test."""

    def __init__(self, subnet: IPv4Network = SUBNET, assigned=(), size: int | None = None):
        self.range = list(subnet.hosts())[1:][:size]
        self.assigned = set(assigned)
        self.taken: set[IPv4Address] = set()

    def peek(self) -> IPv4Address | None:
        return next((a for a in self.range if a not in self.taken and a not in self.assigned), None)

    def reserve(self, address: IPv4Address) -> bool:
        if address not in self.range or address in self.taken or address in self.assigned:
            return False
        self.taken.add(address)
        return True

    def release(self, address: IPv4Address) -> None:
        assert address in self.taken, f"{address} was given back but never taken"
        self.taken.remove(address)


def scope(**settings) -> Scope:
    usual = {"server": GATEWAY, "subnet": SUBNET, "router": GATEWAY, "dns": (GATEWAY,)}
    return Scope(**{**usual, "domain": "lab.internal", **settings})


def engine(pool: Pool | None = None, **settings) -> Engine:
    return Engine(scope(**settings), pool or Pool())


def option(code: int, data: bytes) -> bytes:
    return bytes([code, len(data)]) + data


def bootp(
    options: bytes, *, mac: bytes = MAC, op: int = 1, htype: int = 1, hlen: int = 6, xid: int = XID,
    flags: int = 0, ciaddr: str = "0.0.0.0", giaddr: str = "0.0.0.0", sname: bytes = b"",
    file: bytes = b"", cookie: bytes = b"\x63\x82\x53\x63",
) -> bytes:
    """A client's message from its parts, padded to 300 bytes."""
    head = struct.pack(
        "!BBBBIHH4s4s4s4s16s64s128s4s", op, htype, hlen, 0, xid, 0, flags,
        ip(ciaddr).packed, bytes(4), bytes(4), ip(giaddr).packed, mac, sname, file, cookie,
    )
    return (head + options).ljust(300, b"\0")


def client(
    kind: MessageType, *, wanted: str | None = None, server: str | None = None,
    client_id: bytes | None = None, asks: bytes | None = None, extra: bytes = b"", **header,
) -> bytes:
    """A client's message as real ones look."""
    options = option(53, bytes([kind]))
    if client_id is not None:
        options += option(61, client_id)
    if wanted is not None:
        options += option(50, ip(wanted).packed)
    if server is not None:
        options += option(54, ip(server).packed)
    if asks is not None:
        options += option(55, asks)
    return bootp(options + extra + b"\xff", **header)


def discover(**wishes) -> bytes:
    return client(MessageType.DISCOVER, **wishes)


def select(address: str, **wishes) -> bytes:
    return client(MessageType.REQUEST, wanted=address, server=str(GATEWAY), **wishes)


def reboot(address: str, **wishes) -> bytes:
    return client(MessageType.REQUEST, wanted=address, **wishes)


def renew(address: str, **wishes) -> bytes:
    return client(MessageType.REQUEST, ciaddr=address, **wishes)


def release(address: str, **wishes) -> bytes:
    return client(MessageType.RELEASE, ciaddr=address, **{"server": str(GATEWAY), **wishes})


def decline(address: str, **wishes) -> bytes:
    return client(MessageType.DECLINE, wanted=address, **{"server": str(GATEWAY), **wishes})


def inform(address: str, **wishes) -> bytes:
    return client(MessageType.INFORM, ciaddr=address, **wishes)


def strangers(count: int):
    """Clients that nobody knows, as keywords for messages."""
    for number in range(count):
        yield {"mac": b"\2\0" + number.to_bytes(4, "big")}


def options_of(outcome: Outcome) -> list[tuple[int, bytes]]:
    """The options of the reply in their order, read by dpkt."""
    return [(code, bytes(data)) for code, data in dpkt.dhcp.DHCP(outcome.reply.payload).opts]


def yiaddr(outcome: Outcome) -> IPv4Address:
    return IPv4Address(dpkt.dhcp.DHCP(outcome.reply.payload).yiaddr)


def lease(
    target: Engine, port: str | Ingress, now: float = NOW, *, wanted: str | None = None, **who
) -> str:
    """DISCOVER to ACK; returns the address."""
    ingress = port if isinstance(port, Ingress) else Ingress(port)
    offered = target.handle(discover(wanted=wanted, **who), ingress, now)
    assert offered.reply is not None, offered.drop
    address = str(yiaddr(offered))
    acked = target.handle(select(address, **who), ingress, now)
    assert acked.reply is not None and acked.reply.kind is MessageType.ACK
    return address


def bound() -> Engine:
    """An engine whose first address VM has."""
    server = engine()
    assert lease(server, VM) == FIRST
    return server


def state_of(server: Engine, port: str = "vm", mac: bytes = MAC) -> State | None:
    """The state of the lease of a client without a client id."""
    found = server._table.of(Client(port, b"h\x01" + mac))
    return found and found.state


class Store:
    """What a database would hold: rows by address."""

    def __init__(self):
        self.rows: dict[IPv4Address, tuple] = {}

    def apply(self, changes) -> None:
        for change in changes:
            match change:
                case Put(lease=stored):
                    self.rows[stored.address] = stored.row()
                case Delete(address=address):
                    self.rows.pop(address, None)
