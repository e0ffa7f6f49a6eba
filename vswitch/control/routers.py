# SPDX-License-Identifier: Apache-2.0
"""The shell around router advertisements: solicitations in, advertisements out when their time has come.

One Advertiser per network with IPv6 (unless ipv6_ra_mode=off), one task for all. Advertisements change nothing
that is stored.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from ipaddress import IPv6Network

from vswitch.clock import happens_within
from vswitch.control.edges import Parts
from vswitch.control.hostconfig import STATEFUL, STATELESS, usable_resolvers, usable_search
from vswitch.control.inventory import Port
from vswitch.control.keeping import Questions
from vswitch.control.names import link_local
from vswitch.control.networks import Network
from vswitch.datapath.plane import Punt
from vswitch.ra.drop import Drop
from vswitch.ra.engine import Advertiser
from vswitch.ra.message import Prefix, Router, parse_solicitation

PREFIXES_LIMIT = 16  # of a network's, so that an advertisement fits into the smallest MTU of IPv6


class Routers:
    """All networks' routers."""

    def __init__(self, parts: Parts, questions: Questions):
        self._parts = parts
        self._questions = questions
        self._advertisers: dict[str, tuple[Network, Advertiser[int]]] = {}  # by network id
        self._agenda: list[tuple[float, str]] = []  # when to look at which network again; some entries are stale
        self._stirred = asyncio.Event()
        self._task: asyncio.Task | None = None

    def open(self, network: Network) -> None:
        """Advertise a network's router from now on, or as the network is now."""
        if network.record.id in self._advertisers and network.advertised:
            self.reconfigure()
        elif not network.advertised:
            self.close(network)
        else:
            now = self._parts.clock.monotonic_s()
            self._advertisers[network.record.id] = network, Advertiser(self._router(network), self._parts.random, now)
            self._note(network.record.id)

    def close(self, network: Network) -> None:
        """Say of a network no more; it has no ports left that could hear a farewell."""
        self._advertisers.pop(network.record.id, None)

    def reconfigure(self) -> None:
        """Look at the host's resolvers and the networks' settings again; whoever is told something new hears of it
        at once."""
        for identity, (network, advertiser) in list(self._advertisers.items()):
            if (router := self._router(network)) != advertiser.router:
                advertiser.reconfigure(router, self._parts.clock.monotonic_s())
                self._note(identity)

    def on_punt(self, port: Port, punt: Punt) -> None:
        """A host's solicitation; never raises, whatever its bytes."""
        known = self._advertisers.get(port.network.record.id)
        asked = parse_solicitation(punt.frame)
        if isinstance(asked, Drop) or known is None:
            self._questions.count(port, asked if isinstance(asked, Drop) else Drop.NOT_SOLICITATION)
            return
        known[1].solicited(asked, port.index, self._parts.clock.monotonic_s())
        self._note(port.network.record.id)

    # ---- time

    def start(self) -> None:
        """Send, from now on."""
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Send no more. Hosts are told nothing: containers stay as they are until the switch is back."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            self._stirred.clear()
            now = self._parts.clock.monotonic_s()
            while self._agenda and self._agenda[0][0] <= now:
                self._look(heapq.heappop(self._agenda)[1], now)
            wait_s = self._agenda[0][0] - now if self._agenda else math.inf
            if wait_s == math.inf:
                await self._stirred.wait()
            else:
                await happens_within(self._parts.clock, wait_s, self._stirred)

    def _look(self, identity: str, now: float) -> None:
        """Send what a network's router has to say; an entry that is stale finds nothing due."""
        if (known := self._advertisers.get(identity)) is None:
            return
        network, advertiser = known
        sendings = advertiser.due(now)
        for sending in sendings:
            port = None if sending.port is None else self._parts.inventory.ports.get(sending.port)
            if sending.port is None or (port is not None and port.network is network):
                self._parts.datapath.inject(sending.frame, network=network.index, port=sending.port)
        if sendings:
            self._note(identity)

    def _note(self, identity: str) -> None:
        heapq.heappush(self._agenda, (self._advertisers[identity][1].next_at(), identity))
        self._stirred.set()

    def _router(self, network: Network) -> Router:
        hosts = network.hosts
        subnets = [subnet for subnet in network.subnets if isinstance(subnet, IPv6Network)]
        return Router(
            mac=network.gateway_mac,
            address=link_local(network.gateway_mac),
            mtu=network.record.mtu,
            prefixes=tuple(Prefix(subnet, hosts.autonomous) for subnet in subnets[:PREFIXES_LIMIT]),
            managed=hosts.ra_mode == STATEFUL,
            other=hosts.ra_mode in (STATEFUL, STATELESS),
            default=not network.record.asked.internal,
            dns=usable_resolvers(6, network, self._parts.host.resolv_conf().nameservers),
            search=usable_search(network),
        )
