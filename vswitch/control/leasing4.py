# SPDX-License-Identifier: Apache-2.0
"""The shell around the DHCPv4 engines (leasing.py).

A port's own station gets the port's address. Behind a port without the source guard there may be others: those with a
reservation get what is reserved, the rest what is free.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from ipaddress import IPv4Address

from vswitch.control.addresses import LeasableAddresses
from vswitch.control.hostconfig import usable_resolvers, usable_search
from vswitch.control.inventory import Port
from vswitch.control.leasing import Leasing, Served
from vswitch.control.names import mac_bytes
from vswitch.control.networks import Network
from vswitch.control.records import EndpointRecord
from vswitch.control.subnets import SubnetPlan
from vswitch.datapath.plane import Punt
from vswitch.dhcp import table
from vswitch.dhcp.drop import Drop
from vswitch.dhcp.engine import Engine
from vswitch.dhcp.options import Route
from vswitch.dhcp.packet import ClientFrame, emit_frame, parse_frame
from vswitch.dhcp.reply import Reply
from vswitch.dhcp.scope import Ingress, Scope

log = logging.getLogger(__name__)

CHADDR = slice(28, 34)  # where a message says which station it is about (RFC 2131 §2)


class Leasing4(Leasing):
    """All networks' DHCPv4 servers."""

    version = 4
    lease, deletion = table.Lease, table.Delete
    row = tuple[str, str, bytes, bytes | None, str | None, str, float, float | None, int]
    overloaded = "dhcp_store_slow"

    def _wanted(self, network: Network) -> bool:
        return network.hosts.dhcp

    def _engine(self, network: Network, plan: SubnetPlan) -> Engine:
        return Engine(self._scope(network, plan), LeasableAddresses(network.pool_of(plan.gateway)))

    def _clients(self, endpoint: EndpointRecord, network: Network) -> Iterable[str]:
        return (endpoint.id, *(_beside(endpoint, mac) for mac in network.hosts.reservations))

    def on_punt(self, port: Port, punt: Punt) -> None:
        """A client's frame; never raises, whatever its bytes."""
        served = self._serving(port.network.record.id, port.endpoint.ipv4 or "")
        asked = parse_frame(punt.frame)
        if isinstance(asked, Drop) or served is None:
            self._questions.count(port, asked if isinstance(asked, Drop) else Drop.NO_ADDRESS)
            return
        ingress = _ingress(port, asked)
        outcome = served.engine.handle(asked.payload, ingress, self._parts.clock.wall_s())
        self.keeping.hasten(served.engine.next_expiry())
        if outcome.note:
            log.debug("DHCP on %s/%s: %s", port.container.name, port.endpoint.interface, outcome.note)
        if outcome.drop is not None:
            self._questions.count(port, outcome.drop)

        def send() -> None:
            if outcome.reply is not None:
                self._send(served, port, outcome.reply)

        if outcome.changes:
            self._commit(served, port, outcome.changes, send)
        else:
            send()

    def _send(self, served: Served, port: Port, reply: Reply) -> None:
        self._inject(served, port, emit_frame(reply, served.network.gateway_mac, served.engine.scope.server))

    def _scope(self, network: Network, plan: SubnetPlan) -> Scope:
        hosts = network.hosts
        return Scope(
            server=plan.gateway,
            subnet=plan.subnet,
            router=None if network.record.asked.internal else plan.gateway,
            dns=usable_resolvers(4, network, self._parts.host.resolv_conf().nameservers),
            domain=hosts.domain,
            search=usable_search(network),
            ntp=hosts.ntp4,
            routes=tuple(Route(destination, via) for destination, via in hosts.routes),
            mtu=network.record.mtu,
            lease_s=hosts.lease_s,
        )


def _ingress(port: Port, asked: ClientFrame) -> Ingress:
    """Who asks: the port's own station, or behind a port without the guard another one."""
    endpoint, own = port.endpoint, mac_bytes(port.endpoint.mac)
    chaddr = asked.payload[CHADDR]
    if not endpoint.source_guard and chaddr != own:
        reserved = port.network.hosts.reservations.get(chaddr)
        name = endpoint.id if reserved is None else _beside(endpoint, chaddr)
        return Ingress(port=name, address=reserved, source=asked.source_mac)
    return Ingress(
        port=endpoint.id,
        address=None if endpoint.ipv4 is None else IPv4Address(endpoint.ipv4),
        mac=own,
        hostname=port.container.record.hostname,
        source=asked.source_mac,
    )



def _beside(endpoint: EndpointRecord, mac: bytes) -> str:
    """The engine's name of a station with a reservation behind somebody's port."""
    return f"{endpoint.id}/{mac.hex()}"
