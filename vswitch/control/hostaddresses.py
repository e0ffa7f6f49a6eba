# SPDX-License-Identifier: Apache-2.0
"""The host's own addresses, followed as they come and go.

A netlink socket in the groups for IPv4 and IPv6 addresses wakes the event loop; whatever it says, the whole list is
read again one turn later, so that a hundred addresses that come at once cost one reading. rtnetlink(7), RFC 3549 §3.1.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable

from vswitch.control.netlink import Listener, attributes, listed

log = logging.getLogger(__name__)

RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x10, 0x100
RTM_NEWADDR, RTM_GETADDR = 20, 22
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface


class HostAddresses:
    """`current` is the list as it was read last: 4 or 16 octets each, sorted."""

    def __init__(self) -> None:
        self.current: list[bytes] = []
        self._listener: Listener | None = None
        self._changed: Callable[[list[bytes]], None] = lambda addresses: None
        self._reading: asyncio.Handle | None = None

    def follow(self, changed: Callable[[list[bytes]], None]) -> None:
        """Read the list now, and tell `changed` every later one that differs. OSError where there is no netlink."""
        self._changed = changed
        self._listener = Listener(RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR, self._stirred)
        self.current = read_addresses()

    def close(self) -> None:
        """Follow no more."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _stirred(self) -> None:
        """Something changed: take all that has been said, then read once."""
        assert self._listener is not None
        self._listener.drain()
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
    bodies = listed(RTM_GETADDR, RTM_NEWADDR, IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
    return sorted({address for body in bodies if (address := own_address(body)) is not None})


def own_address(body: bytes) -> bytes | None:
    """The interface's own address in an ifaddrmsg: IFA_LOCAL, or IFA_ADDRESS where there is none (else the peer's)."""
    found = attributes(body, IFADDRMSG.size)
    address = found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b""))
    return address if len(address) in (4, 16) else None
