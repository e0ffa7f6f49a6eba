# SPDX-License-Identifier: Apache-2.0
"""What there is, as a user is shown it. Pure: the inventory and rows of the dataplane in, views out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from vswitch.clock import rfc3339
from vswitch.control import modes
from vswitch.control.endpoints import default_routes
from vswitch.control.inventory import Container, Inventory, Member, Port, Publication
from vswitch.control.names import mac_text
from vswitch.control.networks import Network
from vswitch.control.overlaps import warnings
from vswitch.control.records import EndpointRecord
from vswitch.dhcp.table import Lease
from vswitch.dhcp6.engine import Lease as Lease6
from vswitch.drops import explanation
from vswitch.model import (
    ContainerView,
    DropView,
    EndpointView,
    FdbView,
    LeaseView,
    MemberView,
    NeighbourView,
    NetworkView,
    PortMapping,
    PortView,
    PublishedView,
    StatsView,
    SubnetView,
    TableView,
)

COUNTERS = tuple(
    f"{direction}_{what}"
    for direction in ("rx", "tx")
    for what in ("frames", "bytes", "segments", "wire_bytes")
)
# The dataplane's totals that are tables: name → (size, capacity)
TABLES = {
    "ports": ("ports", "port_capacity"),
    "networks": ("networks", "network_capacity"),
    "fdb": ("fdb_entries", "fdb_capacity"),
    "neighbours": ("neighbours", "neighbour_capacity"),
    "flows": ("flows", "flow_capacity"),
    "flow_sockets": ("descriptors", "descriptor_capacity"),
}


class Wanted(NamedTuple):
    """Which rows to show: those of a network, of a container, of both, or all."""

    network: Network | None = None
    container: Container | None = None

    def port(self, port: Port | None) -> bool:
        """Whether a row of this port is wanted; a row of no port is no container's."""
        if port is None:
            return self.container is None
        return self.network in (None, port.network) and self.container in (None, port.container)

    def on(self, network: Network) -> bool:
        return self.network in (None, network)


def network_view(network: Network, members: Iterable[Member]) -> NetworkView:
    record, asked = network.record, network.record.asked
    return NetworkView(
        name=record.name,
        id=record.id,
        driver=asked.driver,
        internal=asked.internal,
        ipv6=asked.ipv6,
        mtu=record.mtu,
        created=rfc3339(record.created_at),
        subnets=[SubnetView(s.subnet, s.gateway, s.ip_range, dict(s.aux_addresses)) for s in record.subnets],
        options=dict(asked.options),
        labels=dict(asked.labels),
        containers=[_member(container, endpoint, network) for container, endpoint in members],
        dns=asked.dns,
        dns_servers=list(asked.dns_servers),
        dns_search=list(asked.dns_search),
        dns_options=list(asked.dns_options),
        warnings=warnings(network),
    )


def _member(container: Container, endpoint: EndpointRecord, network: Network) -> MemberView:
    return MemberView(
        name=container.name,
        id=container.record.id,
        interface=endpoint.interface,
        mac=endpoint.mac,
        ipv4=_with_prefix(endpoint.ipv4, network),
        ipv6=_with_prefix(endpoint.ipv6, network),
        aliases=list(endpoint.aliases),
    )


def container_view(container: Container, inventory: Inventory) -> ContainerView:
    record, origin = container.record, container.record.origin
    remedies = [record.remedy, *container.unpublished.values()] if container.live else [record.remedy]
    netns = origin.path or (f"/proc/{origin.pid}/ns/net" if origin.pid is not None else None)
    return ContainerView(
        name=record.name,
        id=record.id,
        hostname=record.hostname,
        netns=netns if container.live else None,
        pid=origin.pid if container.live else None,
        state=record.state,
        created=rfc3339(record.created_at),
        exit_code=record.exit_code,
        command=record.spec.command,
        remedy="; ".join(filter(None, remedies)) or None,
        labels=dict(record.spec.labels),
        networks=[_endpoint(endpoint, record.endpoints, inventory) for endpoint in record.endpoints],
        ports=[mapping for port in container.ports.values() for mapping in port_mappings(port)],
        warnings=[w for e in record.endpoints for w in warnings(inventory.networks[e.network])],
        network_mode=modes.shown(record, inventory),
    )


def port_mappings(port: Port) -> list[PortMapping]:
    """What is published at a port and open now, one by one."""
    return [mapping for publication in port.publications for mapping in mappings(publication)]


def mappings(publication: Publication) -> list[PortMapping]:
    """A publication's ports, one by one."""
    record = publication.record
    first = record.host_port or 0
    return [
        PortMapping(record.host_ip, first + step, record.asked.container_port + step, protocol)
        for protocol in record.asked.protocols
        for step in range(record.asked.count)
    ]


def published_views(ports: Iterable[Port]) -> list[PublishedView]:
    """All published ports, in the order of the host's."""
    views = [
        PublishedView(port.network.name, port.container.name, m.host_ip, m.host_port, m.container_port, m.protocol)
        for port in ports
        for m in port_mappings(port)
    ]
    return sorted(views, key=lambda view: (view.host_port, view.protocol, view.host_ip or ""))


def _endpoint(endpoint: EndpointRecord, endpoints: Sequence[EndpointRecord], inventory: Inventory) -> EndpointView:
    network = inventory.networks[endpoint.network]
    return EndpointView(
        name=network.name,
        interface=endpoint.interface,
        mac=endpoint.mac,
        ipv4=_with_prefix(endpoint.ipv4, network),
        ipv6=_with_prefix(endpoint.ipv6, network),
        gateway=network.gateway_for(endpoint.ipv4),
        gateway6=network.gateway_for(endpoint.ipv6),
        aliases=list(endpoint.aliases),
        gw_priority=endpoint.gw_priority,
        default_route=default_routes(endpoint, endpoints, inventory.networks),
        source_guard=endpoint.source_guard,
    )


def _with_prefix(address: str | None, network: Network) -> str | None:
    return None if address is None else network.with_prefix(address)


def fdb_views(rows: Iterable[Any], inventory: Inventory, wanted: Wanted) -> list[FdbView]:
    """The dataplane's MAC table; rows of networks that went meanwhile are left out."""
    networks = inventory.networks_by_index()
    views = []
    for row in rows:
        network, port = networks.get(row.network), inventory.ports.get(row.port)
        if network is None or not wanted.on(network) or not wanted.port(port):
            continue
        views.append(
            FdbView(
                network=network.name,
                mac=mac_text(row.mac),
                container=port and port.container.name,
                interface=port and port.endpoint.interface,
                port=row.port,
                kind="static" if row.static else "dynamic",
                age=None if row.static else float(row.age_s),
            )
        )
    return sorted(views, key=lambda view: (view.network, view.mac))


def neighbour_views(rows: Iterable[Any], inventory: Inventory, wanted: Wanted) -> list[NeighbourView]:
    """The dataplane's bindings of addresses to MACs."""
    networks = inventory.networks_by_index()
    views = []
    for row in rows:
        network, port = networks.get(row.network), inventory.ports.get(row.port)
        if network is None or not wanted.on(network) or not wanted.port(port):
            continue
        address = ip_address(row.address)
        view = NeighbourView(
            network=network.name,
            address=str(address),
            mac=mac_text(row.mac),
            container=port and port.container.name,
            interface=port and port.endpoint.interface,
            kind="gateway" if row.port is None else "endpoint" if port and row.address in port.bindings else "claimed",
        )
        views.append(((network.name, address.version, address), view))
    return [view for _, view in sorted(views, key=lambda pair: pair[0])]


def lease_views(
    leases: Iterable[tuple[Network, Lease | Lease6]], inventory: Inventory, wanted: Wanted
) -> list[LeaseView]:
    """DHCP leases; memories of ended ones included, offers too."""
    holders = {
        e.id: container for container in inventory.containers.values() for e in container.record.endpoints
    }
    views = []
    for network, lease in leases:
        container = holders.get(lease.port.partition("/")[0])
        if not wanted.on(network) or wanted.container not in (None, container):
            continue
        view = LeaseView(
            network=network.name,
            address=str(lease.address),
            mac=mac_text(lease.mac),
            client_id=None if lease.client_id is None else lease.client_id.hex(":"),
            hostname=lease.hostname,
            container=container and container.name,
            state=lease.state.value,
            expires=None if lease.expires_at == math.inf else rfc3339(lease.expires_at),
        )
        views.append(((network.name, lease.address.version, lease.address), view))
    return [view for _, view in sorted(views, key=lambda pair: pair[0])]


def port_view(port: Port, counters: Mapping[str, Any], more_drops: Mapping[str, int]) -> PortView:
    """A port's counters, with the drops of the control plane's own services among them."""
    return PortView(
        network=port.network.name,
        container=port.container.name,
        interface=port.endpoint.interface,
        port=port.index,
        drops=summed([counters["drops"], more_drops]),
        **{name: counters[name] for name in COUNTERS},
    )


def drop_views(ports: Iterable[PortView], networks: Mapping[str, Mapping[str, int]]) -> list[DropView]:
    """One row per port and reason, the most frequent first; and for what the totals of `networks` have beyond
    their ports, which died at ports that have left, a row without a port.
    """
    rows, rest = [], {name: dict(drops) for name, drops in networks.items()}
    for port in ports:
        left = rest.get(port.network, {})
        for reason, count in port.drops.items():
            place = (port.network, port.container, port.interface, port.port)
            rows.append(DropView(*place, reason, count, explanation(reason)))
            left[reason] = left.get(reason, 0) - count
    for network, drops in rest.items():
        for reason, count in drops.items():
            if count > 0:
                rows.append(DropView(network, None, None, None, reason, count, explanation(reason)))
    return sorted(rows, key=lambda row: (-row.count, row.network, row.container or "", row.interface or "", row.reason))


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Drops by reason, added up."""
    totals: dict[str, int] = {}
    for reasons in counts:
        for reason, count in reasons.items():
            totals[reason] = totals.get(reason, 0) + count
    return totals


def stats_view(
    ports: list[PortView],
    totals: Mapping[str, int],
    drops: Mapping[str, int],
    *,
    now: float,
    uptime_s: float,
    resident_bytes: int,
) -> StatsView:
    """Everything that is counted; `totals` are the dataplane's, to which the sums over the shown ports are
    added.
    """
    in_tables = {name for pair in TABLES.values() for name in pair}
    sums = {name: sum(getattr(port, name) for port in ports) for name in COUNTERS}
    others = {name: count for name, count in totals.items() if name not in in_tables and name != "wakeups"}
    return StatsView(
        time=rfc3339(now),
        uptime=uptime_s,
        resident_memory=resident_bytes,
        wakeups=totals["wakeups"],
        totals={**sums, **others},
        drops=dict(drops),
        tables={name: TableView(totals[size], totals[capacity]) for name, (size, capacity) in TABLES.items()},
        ports=ports,
    )
