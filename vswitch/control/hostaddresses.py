# SPDX-License-Identifier: Apache-2.0
"""The host's own addresses, followed as they come and go.

A netlink socket in the groups for IPv4 and IPv6 addresses wakes the event loop; whatever it says, the whole list is
read again one turn later, so that a hundred addresses that come at once cost one reading. What the messages say is not
used: the kernel drops some when there are too many (ENOBUFS), and a list is right whatever was missed. Read with
nothing but `struct`: pyroute2 would cost the daemon's start 0.2 s for these sixty lines. rtnetlink(7), RFC 3549 §3.1.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x10, 0x100
RTM_NEWADDR, RTM_GETADDR = 20, 22
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
IFA_ADDRESS, IFA_LOCAL = 1, 2
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
RECEIVE_BYTES = 65536
ANSWER_TIMEOUT_S = 2.0  # the kernel answers within send(); this only keeps a bug from hanging the switch
ATTEMPTS = 5  # at a list that changes while it is read


class HostAddresses:
    """`current` is the list as it was read last: 4 or 16 octets each, sorted."""

    def __init__(self) -> None:
        self.current: list[bytes] = []
        self._socket: socket.socket | None = None
        self._changed: Callable[[list[bytes]], None] = lambda addresses: None
        self._reading: asyncio.Handle | None = None

    def follow(self, changed: Callable[[list[bytes]], None]) -> None:
        """Read the list now, and tell `changed` every later one that differs. OSError where there is no netlink."""
        self._changed = changed
        groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, groups))
        asyncio.get_running_loop().add_reader(self._socket, self._stirred)
        self.current = read_addresses()

    def close(self) -> None:
        """Follow no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _stirred(self) -> None:
        """Something changed: take all that has been said, then read once."""
        assert self._socket is not None
        while True:
            try:
                self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as problem:  # ENOBUFS: some was lost, which changes nothing
                log.debug("netlink: %s", problem)
        if self._reading is None:
            self._reading = asyncio.get_running_loop().call_soon(self._read)

    def _read(self) -> None:
        self._reading = None
        try:
            addresses = read_addresses()
        except OSError as problem:
            log.warning("the host's addresses cannot be read, so they count as they were: %s", problem)
            return
        if addresses != self.current:
            self.current = addresses
            self._changed(addresses)


def read_addresses() -> list[bytes]:
    """Every address of this network namespace, sorted; OSError if the kernel doesn't say."""
    question = HEADER.pack(HEADER.size + IFADDRMSG.size, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
    question += IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    for _ in range(ATTEMPTS):
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(ANSWER_TIMEOUT_S)
            netlink.send(question)
            addresses, whole = _answer(netlink)
        if whole:
            break
    return sorted(addresses)


def _answer(netlink: socket.socket) -> tuple[set[bytes], bool]:
    """The addresses, and whether the list stayed the same while it was read."""
    addresses: set[bytes] = set()
    whole = True
    while True:
        for kind, flags, body in messages(netlink.recv(RECEIVE_BYTES)):
            whole = whole and not flags & NLM_F_DUMP_INTR
            if kind == NLMSG_DONE:
                return addresses, whole
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                raise OSError(code, "the kernel does not list its addresses")
            if kind == RTM_NEWADDR and (address := own_address(body)) is not None:
                addresses.add(address)


def messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of each whole message in it."""
    at = 0
    while at + HEADER.size <= len(datagram):
        length, kind, flags, _, _ = HEADER.unpack_from(datagram, at)
        if length < HEADER.size or at + length > len(datagram):
            return
        yield kind, flags, datagram[at + HEADER.size : at + length]
        at += length + 3 & ~3


def own_address(body: bytes) -> bytes | None:
    """The interface's own address in an ifaddrmsg: IFA_LOCAL, or IFA_ADDRESS where there is none (else the peer's)."""
    found: dict[int, bytes] = {}
    at = IFADDRMSG.size
    while at + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, at)
        if length < ATTRIBUTE.size or at + length > len(body):
            break
        found[kind] = body[at + ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    address = found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b""))
    return address if len(address) in (4, 16) else None
