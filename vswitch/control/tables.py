# SPDX-License-Identifier: Apache-2.0
"""What the dataplane knows and counts, as it is asked for: of a network, of a container, of both, or of all."""

from __future__ import annotations

from vswitch.control import views
from vswitch.control.edges import Parts
from vswitch.control.hostservices import HostServices
from vswitch.control.inventory import Port
from vswitch.control.resolving import Resolver
from vswitch.model import DropView, FdbView, LeaseView, NeighbourView, PortView, StatsView


class Tables:
    """The part of a switch that shows tables and counters."""

    def __init__(self, parts: Parts, leasing: HostServices, resolving: Resolver):
        self._parts = parts
        self._resolving = resolving
        self._leasing = leasing
        self._started_at = parts.clock.monotonic_s()

    async def fdb(self, network: str | None = None, container: str | None = None) -> list[FdbView]:
        """Which MAC is behind which port."""
        wanted = self._wanted(network, container)
        return views.fdb_views(await self._parts.datapath.fdb(), self._parts.inventory, wanted)

    async def neighbours(
        self, network: str | None = None, container: str | None = None
    ) -> list[NeighbourView]:
        """Which address is bound to which MAC."""
        wanted = self._wanted(network, container)
        return views.neighbour_views(await self._parts.datapath.neighbours(), self._parts.inventory, wanted)

    def leases(self, network: str | None = None, container: str | None = None) -> list[LeaseView]:
        """What DHCP clients were given."""
        return views.lease_views(self._leasing.all(), self._parts.inventory, self._wanted(network, container))

    def stats(self, network: str | None = None, container: str | None = None) -> StatsView:
        """Counters of ports, sums, tables, memory."""
        wanted = self._wanted(network, container)
        ports = self._port_views(wanted)
        parts = self._parts
        return views.stats_view(
            ports,
            parts.datapath.totals(),
            self._drops_by_reason(wanted, ports),
            now=parts.clock.wall_s(),
            uptime_s=parts.clock.monotonic_s() - self._started_at,
            resident_bytes=parts.host.resident_bytes(),
        )

    def drops(self, network: str | None = None, container: str | None = None) -> list[DropView]:
        """How many frames died at which port, and why; with what died at ports that have left."""
        wanted = self._wanted(network, container)
        return views.drop_views(self._port_views(wanted), self._network_drops(wanted))

    def ports(self) -> list[Port]:
        """Every port that the dataplane has, for captures."""
        return list(self._parts.inventory.ports.values())

    def _wanted(self, network: str | None, container: str | None) -> views.Wanted:
        inventory = self._parts.inventory
        return views.Wanted(
            None if network is None else inventory.network(network),
            None if container is None else inventory.container(container),
        )

    def _port_views(self, wanted: views.Wanted) -> list[PortView]:
        dhcp, dns = self._leasing.drops, self._resolving.drops
        return [
            views.port_view(
                port,
                self._parts.datapath.counters(port.index),
                {**dhcp.get(port.endpoint.id, {}), **dns.get(port.endpoint.id, {})},
            )
            for port in self.ports()
            if wanted.port(port)
        ]

    def _drops_by_reason(self, wanted: views.Wanted, ports: list[PortView]) -> dict[str, int]:
        """Of whole networks, with what died at ports that have gone; of one container, what died at its
        ports.
        """
        if wanted.container is not None:
            return views.summed(port.drops for port in ports)
        return views.summed(self._network_drops(wanted).values())

    def _network_drops(self, wanted: views.Wanted) -> dict[str, dict[str, int]]:
        """What died in each whole network, by its name; of a container's ports there is no whole."""
        if wanted.container is not None:
            return {}
        in_dataplane = self._parts.datapath.network_drops
        in_control = self._leasing.network_drops, self._resolving.network_drops
        return {
            network.name: views.summed(
                [in_dataplane(network.index), *(counts.get(network.record.id, {}) for counts in in_control)]
            )
            for network in self._parts.inventory.ready_networks()
            if wanted.on(network)
        }
