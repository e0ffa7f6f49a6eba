# SPDX-License-Identifier: Apache-2.0
"""The shell around the DHCPv4 engines: punted frames in, leases to the store, answers to the port that asked.

    punt → which endpoint, which subnet → engine.handle → store the changes → inject the reply

There is one engine per IPv4 subnet. A lease is on the disk before its ACK leaves (keeping.py); if storing fails
nothing is answered, and the client asks again. Answers that change nothing (offers, refusals) leave at once.

A port's own station gets the port's address. Behind a port without the source guard there may be others: those with a
reservation get what is reserved, the rest what is free.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import NamedTuple

import msgspec

from vswitch.control.addresses import LeasableAddresses
from vswitch.control.edges import Parts
from vswitch.control.hostconfig import usable_resolvers, usable_search
from vswitch.control.inventory import Container, Port
from vswitch.control.keeping import Keeping, Questions
from vswitch.control.names import mac_bytes
from vswitch.control.networks import Network
from vswitch.control.records import EndpointRecord
from vswitch.control.store import Change, Delete, Put
from vswitch.control.subnets import Subnet
from vswitch.datapath.plane import Punt
from vswitch.dhcp import table
from vswitch.dhcp.drop import Drop
from vswitch.dhcp.engine import Engine
from vswitch.dhcp.options import Route
from vswitch.dhcp.packet import ClientFrame, emit_frame, parse_frame
from vswitch.dhcp.reply import Reply
from vswitch.dhcp.scope import Ingress, Scope

log = logging.getLogger(__name__)

OVERLOADED = "dhcp_store_slow"
CHADDR = slice(28, 34)  # where a message says which station it is about (RFC 2131 §2)

Row = tuple[str, str, bytes, bytes | None, str | None, str, float, float | None, int]


class Served(NamedTuple):
    """An engine and the subnet it serves."""

    network: Network
    gateway: IPv4Address
    engine: Engine


class Leasing:
    """All networks' DHCPv4 servers."""

    def __init__(self, parts: Parts, questions: Questions):
        self._parts = parts
        self._questions = questions
        self._served: dict[tuple[str, IPv4Network], Served] = {}
        self.keeping = Keeping(parts, self._end, self._next_expiry)

    # ---- networks and endpoints come and go

    def open(self, network: Network) -> None:
        """Serve a network's IPv4 subnets; those that are served already as the network is now."""
        if not network.hosts.dhcp:
            return
        for pool in network.pools:
            subnet, gateway = pool.plan.subnet, pool.plan.gateway
            served = self._served.get((network.record.id, subnet))  # type: ignore[arg-type]
            if served is not None:
                served.engine.reconfigure(self._scope(network, served.engine.scope.subnet, served.gateway))
            elif isinstance(subnet, IPv4Network) and isinstance(gateway, IPv4Address):
                engine = Engine(self._scope(network, subnet, gateway), LeasableAddresses(pool))
                self._served[network.record.id, subnet] = Served(network, gateway, engine)

    def load(self, rows: Iterable[tuple[str, bytes]]) -> list[Change]:
        """Take over stored leases, once all containers' addresses are held; returns what has to be stored."""
        now = self._parts.clock.wall_s()
        by_network: dict[str, list[tuple]] = {}
        changes: list[Change] = []
        for key, document in rows:
            network_id, _, address = key.partition("/")
            served = self._serving(network_id, address)
            if served is None:
                changes.append(Delete("leases", key))
            else:
                by_network.setdefault(f"{network_id}/{served.engine.scope.subnet}", []).append(
                    _decoded(document)
                )
        for (network_id, subnet), served in self._served.items():
            kept = served.engine.load(by_network.get(f"{network_id}/{subnet}", ()), now)
            changes += _stored(served.network, kept)
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
        """An endpoint is gone for good, its leases too; returns what has to be stored."""
        return [
            change
            for served in self._of(network)
            for port in (endpoint.id, *(f"{endpoint.id}/{mac.hex()}" for mac in network.hosts.reservations))
            for change in _stored(network, served.engine.forget_port(port))
        ]

    def reconfigure(self) -> None:
        """Look at the host's resolvers again; clients learn of them when they renew."""
        for (_, subnet), served in self._served.items():
            served.engine.reconfigure(self._scope(served.network, subnet, served.gateway))

    def all(self) -> Iterator[tuple[Network, table.Lease]]:
        """Every lease of every network, offers included."""
        for served in self._served.values():
            for lease in served.engine.leases():
                yield served.network, lease

    # ---- questions

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
        if outcome.changes:
            self._commit(served, port, outcome.changes, outcome.reply)
        elif outcome.reply is not None:
            self._send(served, port, outcome.reply)

    def _commit(
        self, served: Served, port: Port, changes: Iterable[table.Change], reply: Reply | None
    ) -> None:
        def stored() -> None:
            if reply is not None:
                self._send(served, port, reply)
            for change in changes:
                if isinstance(change, table.Put):
                    self._publish(served.network, port.container, change.lease)

        if not self.keeping.commit(port, _stored(served.network, changes), stored):
            self._questions.count(port, OVERLOADED)

    def _send(self, served: Served, port: Port, reply: Reply) -> None:
        if self._parts.inventory.ports.get(port.index) is port:
            frame = emit_frame(reply, served.network.gateway_mac, served.gateway)
            self._parts.datapath.inject(frame, network=served.network.index, port=port.index)

    def _publish(self, network: Network, container: Container, lease: table.Lease) -> None:
        self._parts.events.publish(
            "lease",
            str(lease.state),
            container.record.id,
            container.name,
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

    def _serving(self, network_id: str, address: str) -> Served | None:
        try:
            wanted = ip_address(address)
        except ValueError:
            return None
        network = self._parts.inventory.networks.get(network_id)
        pool = network.pool_of(wanted) if network is not None else None
        return None if pool is None else self._served.get((network_id, pool.plan.subnet))  # type: ignore[arg-type]

    def _of(self, network: Network) -> list[Served]:
        keys = [(network.record.id, subnet) for subnet in network.subnets]
        return [self._served[key] for key in keys if key in self._served]  # type: ignore[index]

    def _scope(self, network: Network, subnet: IPv4Network, gateway: IPv4Address) -> Scope:
        hosts = network.hosts
        return Scope(
            server=gateway,
            subnet=subnet,
            router=None if network.record.asked.internal else gateway,
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
        name = endpoint.id if reserved is None else f"{endpoint.id}/{chaddr.hex()}"
        return Ingress(port=name, address=reserved, source=asked.source_mac)
    return Ingress(
        port=endpoint.id,
        address=None if endpoint.ipv4 is None else IPv4Address(endpoint.ipv4),
        mac=own,
        hostname=port.container.record.hostname,
        source=asked.source_mac,
    )


def _stored(network: Network, changes: Iterable[table.Change]) -> list[Change]:
    """The engine's changes as the store's. JSON has no infinity: a lease without end is stored with none."""
    stored: list[Change] = []
    for change in changes:
        if isinstance(change, table.Delete):
            stored.append(Delete("leases", f"{network.record.id}/{change.address}"))
        else:
            document = msgspec.json.encode(change.lease.row())
            stored.append(Put("leases", f"{network.record.id}/{change.lease.address}", document))
    return stored


def _decoded(document: bytes) -> tuple:
    """A lease's row; msgspec.MsgspecError if it is none."""
    row = msgspec.json.decode(document, type=Row)
    expires_at = row[table.LEASE_COLUMNS.index("expires_at")]
    return (*row[:7], math.inf if expires_at is None else expires_at, row[8])
