# SPDX-License-Identifier: Apache-2.0
"""The shell around the DHCP engines: punted frames in, leases to the store, answers to the port that asked.

    punt → which endpoint, which subnet → engine.handle → store the changes → inject the reply

There is one engine per IPv4 subnet. A lease is on the disk before its ACK leaves; if storing fails nothing is
answered, and the client asks again. Answers that change nothing (offers, refusals) leave at once. One task
ends leases when their time is over.

The dataplane lets each port ask only so often; COMMITS_LIMIT is for the case that the disk is slower than
that.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import NamedTuple

import msgspec

from vswitch.clock import happens_within
from vswitch.control.addresses import LeasableAddresses
from vswitch.control.edges import Parts
from vswitch.control.inventory import Container, Port
from vswitch.control.names import mac_bytes
from vswitch.control.networks import Network
from vswitch.control.records import EndpointRecord
from vswitch.control.store import Change, Delete, Put
from vswitch.control.subnets import Subnet
from vswitch.datapath.plane import Punt
from vswitch.dhcp import table
from vswitch.dhcp.drop import Drop
from vswitch.dhcp.engine import Engine
from vswitch.dhcp.packet import emit_frame, parse_frame
from vswitch.dhcp.reply import Reply
from vswitch.dhcp.scope import Ingress, Scope
from vswitch.model import Refused

log = logging.getLogger(__name__)

# Answers that may wait for the disk. A client asks again after 4 s; more than this many take longer.
COMMITS_LIMIT = 4096
SERVERS_LIMIT = 16  # resolvers that a client is told: it asks the first three
OVERLOADED = "dhcp_store_slow"

Row = tuple[str, str, bytes, bytes | None, str | None, str, float, float | None, int]


class Served(NamedTuple):
    """An engine and the subnet it serves."""

    network: Network
    gateway: IPv4Address
    engine: Engine


class Leasing:
    """All networks' DHCP servers."""

    def __init__(self, parts: Parts):
        self._parts = parts
        self._served: dict[tuple[str, IPv4Network], Served] = {}
        self._commits: set[asyncio.Task] = set()
        self._timer: asyncio.Task | None = None
        self._due_at = math.inf
        self._stirred = asyncio.Event()
        self.drops: dict[str, Counter[str]] = {}  # by endpoint id; an endpoint's go with it
        self.network_drops: dict[str, Counter[str]] = {}  # by network id, those of departed endpoints included

    # ---- networks and endpoints come and go

    def open(self, network: Network) -> None:
        """Serve a network's IPv4 subnets; those that are served already as the network is now."""
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
        self._rearm()
        return changes

    def close(self, network: Network) -> None:
        """Serve a network no more."""
        self.network_drops.pop(network.record.id, None)
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
        self.drops.pop(endpoint.id, None)
        return [
            change
            for served in self._of(network)
            for change in _stored(network, served.engine.forget_port(endpoint.id))
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

    def on_punt(self, punt: Punt) -> None:
        """A client's frame; never raises, whatever its bytes."""
        port = self._parts.inventory.ports.get(punt.port)
        if port is None or port.network.index != punt.network:
            return
        served = self._serving(port.network.record.id, port.endpoint.ipv4 or "")
        asked = parse_frame(punt.frame)
        if isinstance(asked, Drop) or served is None:
            self._count(port, asked if isinstance(asked, Drop) else Drop.NO_ADDRESS)
            return
        ingress = _ingress(port, asked.source_mac)
        outcome = served.engine.handle(asked.payload, ingress, self._parts.clock.wall_s())
        self._hasten(served.engine.next_expiry())
        if outcome.note:
            log.debug("DHCP on %s/%s: %s", port.container.name, port.endpoint.interface, outcome.note)
        if outcome.drop is not None:
            self._count(port, outcome.drop)
        if outcome.changes:
            self._commit(served, port, outcome.changes, outcome.reply)
        elif outcome.reply is not None:
            self._send(served, port, outcome.reply)

    def _commit(
        self, served: Served, port: Port, changes: Iterable[table.Change], reply: Reply | None
    ) -> None:
        if len(self._commits) >= COMMITS_LIMIT:
            self._count(port, OVERLOADED)
            return
        commit = asyncio.ensure_future(self._store_and_send(served, port, changes, reply))
        self._commits.add(commit)
        commit.add_done_callback(self._commits.discard)

    async def _store_and_send(
        self, served: Served, port: Port, changes: Iterable[table.Change], reply: Reply | None
    ) -> None:
        try:
            await self._parts.store.write(_stored(served.network, changes))
        except Refused as refusal:
            log.warning("a DHCP client of %s is not answered: %s", port.container.name, refusal)
            return
        if reply is not None:
            self._send(served, port, reply)
        for change in changes:
            if isinstance(change, table.Put):
                self._publish(served.network, port.container, change.lease)

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

    def _count(self, port: Port, reason: str) -> None:
        self.drops.setdefault(port.endpoint.id, Counter())[str(reason)] += 1
        self.network_drops.setdefault(port.network.record.id, Counter())[str(reason)] += 1

    # ---- time

    def start(self) -> None:
        """End leases when their time is over, from now on."""
        self._timer = asyncio.ensure_future(self._expire())

    async def stop(self) -> None:
        """Answer what has been asked, then no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._commits:
            await asyncio.wait(self._commits)

    async def _expire(self) -> None:
        while True:
            self._stirred.clear()
            now = self._parts.clock.wall_s()
            if self._due_at > now:
                await self._sleep(self._due_at - now)
                continue
            changes = [
                change
                for served in list(self._served.values())
                for change in _stored(served.network, served.engine.expire(now))
            ]
            self._rearm()
            if not changes:
                await asyncio.sleep(0)
                continue
            try:
                await self._parts.store.write(changes)
            except Refused as refusal:
                log.warning("ended leases stay in the store until the next start: %s", refusal)

    async def _sleep(self, duration_s: float) -> None:
        if duration_s == math.inf:
            await self._stirred.wait()
        else:
            await happens_within(self._parts.clock, duration_s, self._stirred)

    def _rearm(self) -> None:
        """Look at every engine for what ends next."""
        self._due_at = math.inf
        for served in self._served.values():
            self._hasten(served.engine.next_expiry())

    def _hasten(self, at: float | None) -> None:
        """Something ends at this time: wake the timer if that is earlier than what it waits for.

        What ends later than it did costs one wake-up in which nothing is due.
        """
        if at is not None and at < self._due_at:
            self._due_at = at
            self._stirred.set()

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
        told = network.shape.resolving
        servers = (ip_address(text) for text in told.servers or self._parts.host.resolv_conf().nameservers)
        return Scope(
            server=gateway,
            subnet=subnet,
            router=None if network.record.asked.internal else gateway,
            dns=tuple(server for server in servers if isinstance(server, IPv4Address))[:SERVERS_LIMIT],
            mtu=network.record.mtu,
        )


def _ingress(port: Port, source_mac: bytes) -> Ingress:
    endpoint = port.endpoint
    return Ingress(
        port=endpoint.id,
        address=None if endpoint.ipv4 is None else IPv4Address(endpoint.ipv4),
        mac=mac_bytes(endpoint.mac),
        hostname=port.container.record.hostname,
        source=source_mac,
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
