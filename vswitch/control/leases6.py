# SPDX-License-Identifier: Apache-2.0
"""The shell around the DHCPv6 engines: punted frames in, leases to the store, answers to the port that asked (as
leases.py)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

import msgspec

from vswitch.control.edges import Parts
from vswitch.control.hostconfig import usable_resolvers, usable_search
from vswitch.control.inventory import Port
from vswitch.control.keeping import Keeping, Questions
from vswitch.control.names import link_local, mac_bytes
from vswitch.control.networks import Network
from vswitch.control.records import EndpointRecord
from vswitch.control.store import Change, Delete, Put
from vswitch.control.subnets import Subnet
from vswitch.datapath.plane import Punt
from vswitch.dhcp6 import engine
from vswitch.dhcp6.drop import Drop
from vswitch.dhcp6.engine import Engine
from vswitch.dhcp6.scope import Ingress, Scope
from vswitch.wire.ipv6 import Datagram, emit_datagram, parse_datagram

log = logging.getLogger(__name__)

SERVER_PORT, CLIENT_PORT = 547, 546
OVERLOADED = "dhcpv6_store_slow"
FAULTS = {"malformed": Drop.MALFORMED, "checksum": Drop.CHECKSUM, "other": Drop.NOT_DHCP}

Row = tuple[str, str, bytes, bytes, bytes, str, float, float | None]


class Served(NamedTuple):
    """An engine and the network it serves."""

    network: Network
    engine: Engine


class Leasing6:
    """All networks' DHCPv6 servers."""

    def __init__(self, parts: Parts, questions: Questions):
        self._parts = parts
        self._questions = questions
        self._served: dict[tuple[str, IPv6Network], Served] = {}
        self.keeping = Keeping(parts, self._end, self._next_expiry)

    # ---- networks and endpoints come and go

    def open(self, network: Network) -> None:
        """Serve a network's IPv6 subnets; those that are served already as the network is now."""
        if not network.advertised:
            self.close(network)
            return
        for subnet in network.subnets:
            if (served := self._served.get((network.record.id, subnet))) is not None:  # type: ignore[arg-type]
                served.engine.reconfigure(self._scope(network, served.engine.scope.subnet))
            elif isinstance(subnet, IPv6Network):
                self._served[network.record.id, subnet] = Served(network, Engine(self._scope(network, subnet)))

    def load(self, rows: Iterable[tuple[str, bytes]]) -> list[Change]:
        """Take over stored leases; returns what has to be stored."""
        now = self._parts.clock.wall_s()
        by_subnet: dict[tuple[str, IPv6Network], list[tuple]] = {key: [] for key in self._served}
        changes: list[Change] = []
        for key, document in rows:
            network_id, _, address = key.partition("/")
            place = next(
                (place for place in self._served if place[0] == network_id and ip_address(address) in place[1]), None
            )
            if place is None:
                changes.append(Delete("leases", key))
            else:
                by_subnet[place].append(_decoded(document))
        for place, served in self._served.items():
            changes += _stored(served.network, served.engine.load(by_subnet[place], now))
        self.keeping.rearm()
        return changes

    def close(self, network: Network) -> None:
        """Serve a network no more."""
        for subnet in network.subnets:
            self.close_subnet(network, subnet)

    def close_subnet(self, network: Network, subnet: Subnet) -> None:
        """Serve one subnet no more."""
        self._served.pop((network.record.id, subnet), None)  # type: ignore[arg-type]

    def forgotten(self, network: Network) -> list[Change]:
        """What takes a network's leases out of the store."""
        return [
            Delete("leases", f"{network.record.id}/{lease.address}")
            for served in self._of(network)
            for lease in served.engine.leases()
        ]

    def forget_endpoint(self, endpoint: EndpointRecord, network: Network) -> list[Change]:
        """An endpoint is gone for good, its lease too; returns what has to be stored."""
        return [
            change
            for served in self._of(network)
            for change in _stored(network, served.engine.forget_port(endpoint.id))
        ]

    def reconfigure(self) -> None:
        """Look at the host's resolvers again; clients learn of them when they renew."""
        for (_, subnet), served in self._served.items():
            served.engine.reconfigure(self._scope(served.network, subnet))

    def all(self) -> Iterator[tuple[Network, engine.Lease]]:
        """Every lease of every network."""
        for served in self._served.values():
            for lease in served.engine.leases():
                yield served.network, lease

    # ---- questions

    def on_punt(self, port: Port, punt: Punt) -> None:
        """A client's frame; never raises, whatever its bytes."""
        asked = parse_datagram(punt.frame)
        if isinstance(asked, str) or asked.dport != SERVER_PORT:
            self._questions.count(port, FAULTS[asked] if isinstance(asked, str) else Drop.NOT_DHCP)
            return
        served = self._serving(port)
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
        elif outcome.changes:
            self._commit(served, port, asked, outcome)
        elif outcome.reply is not None:
            self._send(served, port, asked, outcome.reply)

    def _commit(self, served: Served, port: Port, asked: Datagram, outcome: engine.Outcome) -> None:
        def stored() -> None:
            if outcome.reply is not None:
                self._send(served, port, asked, outcome.reply)
            for change in outcome.changes:
                if isinstance(change, engine.Put):
                    self._publish(served.network, port, change.lease)

        if not self.keeping.commit(port, _stored(served.network, outcome.changes), stored):
            self._questions.count(port, OVERLOADED)

    def _send(self, served: Served, port: Port, asked: Datagram, reply: bytes) -> None:
        """To the address and MAC that asked, at the client's port (RFC 8415 §7.2)."""
        if self._parts.inventory.ports.get(port.index) is port:
            mac = served.network.gateway_mac
            packet = asked.packet
            frame = emit_datagram(
                packet.source_mac, mac, link_local(mac), packet.source, SERVER_PORT, CLIENT_PORT, reply
            )
            self._parts.datapath.inject(frame, network=served.network.index, port=port.index)

    def _publish(self, network: Network, port: Port, lease: engine.Lease) -> None:
        self._parts.events.publish(
            "lease",
            str(lease.state),
            port.container.record.id,
            port.container.name,
            network=network.name,
            address=str(lease.address),
            mac=lease.mac.hex(":"),
        )

    # ---- time

    def _end(self, now: float) -> list[Change]:
        return [
            change
            for served in list(self._served.values())
            for change in _stored(served.network, served.engine.expire(now))
        ]

    def _next_expiry(self) -> float | None:
        expiries = (served.engine.next_expiry() for served in self._served.values())
        return min((at for at in expiries if at is not None), default=None)

    # ---- which engine

    def _serving(self, port: Port) -> Served | None:
        """The engine of the endpoint's own subnet; one without an address is served by the network's first, for
        settings."""
        mine = self._of(port.network)
        if port.endpoint.ipv6 is None:
            return mine[0] if mine else None
        address = IPv6Address(port.endpoint.ipv6)
        return next((served for served in mine if address in served.engine.scope.subnet), None)

    def _of(self, network: Network) -> list[Served]:
        keys = [(network.record.id, subnet) for subnet in network.subnets]
        return [self._served[key] for key in keys if key in self._served]  # type: ignore[index]

    def _scope(self, network: Network, subnet: IPv6Network) -> Scope:
        hosts = network.hosts
        return Scope(
            server_mac=network.gateway_mac,
            subnet=subnet,
            dns=usable_resolvers(6, network, self._parts.host.resolv_conf().nameservers),
            search=usable_search(network),
            ntp=hosts.ntp6,
            lease_s=hosts.lease_s,
        )


def _stored(network: Network, changes: Iterable[engine.Change]) -> list[Change]:
    """The engine's changes as the store's. JSON has no infinity: a lease without end is stored with none."""
    stored: list[Change] = []
    for change in changes:
        if isinstance(change, engine.Delete):
            stored.append(Delete("leases", f"{network.record.id}/{change.address}"))
        else:
            document = msgspec.json.encode(change.lease.row())
            stored.append(Put("leases", f"{network.record.id}/{change.lease.address}", document))
    return stored


def _decoded(document: bytes) -> tuple:
    """A lease's row; msgspec.MsgspecError if it is none."""
    row = msgspec.json.decode(document, type=Row)
    return (*row[:7], math.inf if row[7] is None else row[7])
