# SPDX-License-Identifier: Apache-2.0
"""What a network does for its hosts' configuration: DHCPv4 (leasing4.py), DHCPv6 (leasing6.py), router advertisements
(routers.py).

One object for the rooms that tell them of networks and endpoints, and the one receiver of what crosses the punt ring.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

from vswitch.control.edges import Parts
from vswitch.control.keeping import Questions
from vswitch.control.leasing4 import Leasing4
from vswitch.control.leasing6 import Leasing6
from vswitch.control.networks import Network
from vswitch.control.records import EndpointRecord
from vswitch.control.routers import Routers
from vswitch.control.store import Change
from vswitch.control.subnets import Subnet
from vswitch.datapath.plane import Punt


class HostServices:
    """All three, for all networks."""

    def __init__(self, parts: Parts):
        self._parts = parts
        self._questions = Questions()
        self._leasing = Leasing4(parts, self._questions)
        self._leasing6 = Leasing6(parts, self._questions)
        self._routers = Routers(parts, self._questions)
        self.drops, self.network_drops = self._questions.drops, self._questions.network_drops

    def open(self, network: Network) -> None:
        """Serve a network."""
        for service in (self._leasing, self._leasing6, self._routers):
            service.open(network)

    def close(self, network: Network) -> None:
        """Serve it no more."""
        self.network_drops.pop(network.record.id, None)
        for service in (self._leasing, self._leasing6, self._routers):
            service.close(network)

    def close_subnet(self, network: Network, subnet: Subnet) -> None:
        """Serve one subnet of it no more."""
        for service in (self._leasing, self._leasing6):
            service.close_subnet(network, subnet)

    def load(self, rows: Iterable[tuple[str, bytes]]) -> list[Change]:
        """Take over stored leases, once all containers' addresses are held; returns what has to be stored."""
        by_version: dict[bool, list[tuple[str, bytes]]] = {True: [], False: []}
        for row in rows:
            by_version[":" in row[0]].append(row)
        return [*self._leasing.load(by_version[False]), *self._leasing6.load(by_version[True])]

    def forgotten(self, network: Network) -> list[Change]:
        """What takes a network's leases out of the store."""
        return [*self._leasing.forgotten(network), *self._leasing6.forgotten(network)]

    def forget_endpoint(self, endpoint: EndpointRecord, network: Network) -> list[Change]:
        """An endpoint is gone for good, its leases too; returns what has to be stored."""
        self.drops.pop(endpoint.id, None)
        return [
            *self._leasing.forget_endpoint(endpoint, network),
            *self._leasing6.forget_endpoint(endpoint, network),
        ]

    def reconfigure(self) -> None:
        """The host's resolvers or the settings may have changed."""
        for service in (self._leasing, self._leasing6, self._routers):
            service.reconfigure()

    def all(self) -> Iterator[tuple[Network, Any]]:
        """Every lease of every network: of DHCPv4 (offers included), then of DHCPv6."""
        yield from self._leasing.all()
        yield from self._leasing6.all()

    def on_punt(self, punt: Punt) -> None:
        """A host's question; never raises, whatever its bytes."""
        port = self._parts.inventory.ports.get(punt.port)
        if port is None or port.network.index != punt.network:
            return
        {"dhcp": self._leasing, "dhcpv6": self._leasing6, "router": self._routers}[punt.kind].on_punt(port, punt)

    def start(self) -> None:
        """Time passes from now on."""
        for service in (self._leasing.keeping, self._leasing6.keeping, self._routers):
            service.start()

    async def stop(self) -> None:
        """Answer what has been asked, then no more."""
        await asyncio.gather(self._leasing.keeping.stop(), self._leasing6.keeping.stop(), self._routers.stop())
