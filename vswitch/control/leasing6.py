# SPDX-License-Identifier: Apache-2.0
"""The shell around the DHCPv6 engines (leasing.py)."""

from __future__ import annotations

import logging
from ipaddress import IPv6Address

from vswitch.control.hostconfig import usable_resolvers, usable_search
from vswitch.control.inventory import Port
from vswitch.control.leasing import Leasing, Served
from vswitch.control.names import link_local, mac_bytes
from vswitch.control.networks import Network
from vswitch.control.subnets import SubnetPlan
from vswitch.datapath.plane import Punt
from vswitch.dhcp6 import engine
from vswitch.dhcp6.drop import Drop
from vswitch.dhcp6.scope import Ingress, Scope
from vswitch.wire.ipv6 import Datagram, emit_datagram, parse_datagram

log = logging.getLogger(__name__)

SERVER_PORT, CLIENT_PORT = 547, 546
FAULTS = {"malformed": Drop.MALFORMED, "checksum": Drop.CHECKSUM, "other": Drop.NOT_DHCP}


class Leasing6(Leasing):
    """All networks' DHCPv6 servers."""

    version = 6
    lease, deletion = engine.Lease, engine.Delete
    row = tuple[str, str, bytes, bytes, bytes, str, float, float | None]
    overloaded = "dhcpv6_store_slow"

    def _wanted(self, network: Network) -> bool:
        return network.advertised

    def _engine(self, network: Network, plan: SubnetPlan) -> engine.Engine:
        return engine.Engine(self._scope(network, plan))

    def on_punt(self, port: Port, punt: Punt) -> None:
        """A client's frame; never raises, whatever its bytes."""
        asked = parse_datagram(punt.frame)
        if isinstance(asked, str) or asked.dport != SERVER_PORT:
            self._questions.count(port, FAULTS[asked] if isinstance(asked, str) else Drop.NOT_DHCP)
            return
        served = self._asked(port)
        if served is None:
            self._questions.count(port, Drop.NO_SUBNET)
            return
        address = port.endpoint.ipv6
        ingress = Ingress(
            port.endpoint.id, None if address is None else IPv6Address(address), mac_bytes(port.endpoint.mac)
        )
        to_group = asked.packet.destination.is_multicast
        outcome = served.engine.handle(asked.payload, ingress, self._parts.clock.wall_s(), to_group=to_group)
        self.keeping.hasten(served.engine.next_expiry())
        if outcome.note:
            log.debug("DHCPv6 on %s/%s: %s", port.container.name, port.endpoint.interface, outcome.note)
        if outcome.drop is not None:
            self._questions.count(port, outcome.drop)
            return

        def send() -> None:
            if outcome.reply is not None:
                self._send(served, port, asked, outcome.reply)

        if outcome.changes:
            self._commit(served, port, outcome.changes, send)
        else:
            send()

    def _asked(self, port: Port) -> Served | None:
        """The engine of the endpoint's own subnet; one without an address is served by the network's first, for
        settings."""
        if port.endpoint.ipv6 is not None:
            return self._serving(port.network.record.id, port.endpoint.ipv6)
        return next(iter(self._of(port.network)), None)

    def _send(self, served: Served, port: Port, asked: Datagram, reply: bytes) -> None:
        """To the address and MAC that asked, at the client's port (RFC 8415 §7.2)."""
        mac, packet = served.network.gateway_mac, asked.packet
        frame = emit_datagram(packet.source_mac, mac, link_local(mac), packet.source, SERVER_PORT, CLIENT_PORT, reply)
        self._inject(served, port, frame)

    def _scope(self, network: Network, plan: SubnetPlan) -> Scope:
        hosts = network.hosts
        return Scope(
            server_mac=network.gateway_mac,
            subnet=plan.subnet,
            dns=usable_resolvers(6, network, self._parts.host.resolv_conf().nameservers),
            search=usable_search(network),
            ntp=hosts.ntp6,
            lease_s=hosts.lease_s,
        )
