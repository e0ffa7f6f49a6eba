# SPDX-License-Identifier: Apache-2.0
"""The host's routes, of all its routing tables, followed as they come and go.

Automatic subnets keep out of their way, and a network that one of them overlaps is reported (overlaps.py). Of interest
are the places that the host reaches by a route of its own: not the default route nor the halves of it that VPNs
install, and not what is local, multicast, or a route to nowhere.

A machine may have a route for each of the Internet's networks, and they change all the time. So the list is read in a
thread, some time after the first change, and the next time only after a pause many times as long as reading took.
rtnetlink(7), RFC 3549 §3.1.2.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network

from vswitch.control.netlink import Listener, attributes, listed
from vswitch.control.subnets import Subnet

log = logging.getLogger(__name__)

# Links too: when one goes down the kernel takes its IPv4 routes away without a word about them
RTMGRP_LINK, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x1, 0x40, 0x400
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTN_UNICAST = 1
RTM_F_CLONED = 0x200  # a cache entry
RTA_DST = 1
RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst and src prefix length, tos, table, protocol, scope, type, flags
# A shorter route is a way out and no neighbourhood: the default route, or the halves of it that VPNs install
SHORTEST_NEIGHBOURHOOD = 4
DELAY_S = 0.05  # routes come in crowds
PAUSE = 20.0  # times as long as reading took: at most a twentieth of a core goes into following


class HostRoutes:
    """What follows them."""

    def __init__(self) -> None:
        self._listener: Listener | None = None
        self._changed: Callable[[list[Subnet]], None] = lambda routes: None
        self._reading: asyncio.Task | None = None

    def follow(self, changed: Callable[[list[Subnet]], None]) -> None:
        """Tell `changed` the list whenever something about it has changed. OSError where there is no netlink."""
        self._changed = changed
        self._listener = Listener(RTMGRP_LINK | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE, self._stirred)

    def close(self) -> None:
        """Follow no more."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _stirred(self) -> None:
        """Something changed: read in a moment, and until then listen to no more of it."""
        assert self._listener is not None
        self._listener.pause()
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        await asyncio.sleep(DELAY_S)
        assert self._listener is not None
        self._listener.drain()
        began = time.perf_counter()
        try:
            self._changed(await asyncio.to_thread(read_routes))
        except OSError as problem:
            log.warning("the host's routes cannot be read, so they count as they were: %s", problem)
        await asyncio.sleep((time.perf_counter() - began) * PAUSE)
        self._reading = None
        self._listener.resume()


def read_routes() -> list[Subnet]:
    """Every subnet that this network namespace has a route of its own to. OSError if the kernel doesn't say."""
    bodies = listed(RTM_GETROUTE, RTM_NEWROUTE, RTMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0))
    found = (destination(body) for body in bodies)
    return list(dict.fromkeys(subnet for subnet in found if subnet is not None))


def destination(body: bytes) -> Subnet | None:
    """Where the route of an rtmsg leads, if that is a place that a network had better not be."""
    if len(body) < RTMSG.size:
        return None
    family, bits, _, _, _, _, _, kind, flags = RTMSG.unpack_from(body)
    target = attributes(body, RTMSG.size).get(RTA_DST, b"")
    length, network = (4, IPv4Network) if family == socket.AF_INET else (16, IPv6Network)
    ours = family in (socket.AF_INET, socket.AF_INET6) and kind == RTN_UNICAST and not flags & RTM_F_CLONED
    if not ours or len(target) != length or not SHORTEST_NEIGHBOURHOOD <= bits <= length * 8:
        return None
    subnet = network((target, bits), strict=False)
    return None if subnet.is_multicast or subnet.is_link_local or subnet.is_loopback else subnet
