# SPDX-License-Identifier: Apache-2.0
"""What the shells around the DHCP engines share: one engine per subnet, its leases in the store, answers to the port
that asked.

    punt → which endpoint, which subnet → engine.handle → store the changes → inject the reply

A lease is on the disk before its answer leaves (keeping.py); if storing fails nothing is answered, and the client asks
again. Answers that change nothing (offers, refusals) leave at once. leasing4.py and leasing6.py add what is their
version's own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import ip_address
from typing import Any, NamedTuple

import msgspec

from vswitch.control.edges import Parts
from vswitch.control.inventory import Port
from vswitch.control.keeping import Keeping, Questions
from vswitch.control.networks import Network
from vswitch.control.records import EndpointRecord
from vswitch.control.store import Change, Delete, Put
from vswitch.control.subnets import Subnet, SubnetPlan
from vswitch.datapath.plane import Punt


class Served(NamedTuple):
    """An engine (of vswitch.dhcp or vswitch.dhcp6), and the network that it serves a subnet of."""

    network: Network
    plan: SubnetPlan
    engine: Any


class Leasing(ABC):
    """All networks' servers of one DHCP version."""

    version: int  # of IP
    lease: type  # the engine's, and the types of its row in the store
    row: Any
    deletion: type  # the engine's word for 'this address has no lease any more'
    overloaded: str  # the drop of a question that found too many waiting for the disk

    def __init__(self, parts: Parts, questions: Questions):
        self._parts = parts
        self._questions = questions
        self._served: dict[tuple[str, Subnet], Served] = {}
        self.keeping = Keeping(parts, self._end, self._next_expiry)

    @abstractmethod
    def on_punt(self, port: Port, punt: Punt) -> None:
        """A client's frame; never raises, whatever its bytes."""

    @abstractmethod
    def _wanted(self, network: Network) -> bool:
        """Whether a network is to be served at all."""

    @abstractmethod
    def _engine(self, network: Network, plan: SubnetPlan) -> Any:
        """A new engine for a subnet."""

    @abstractmethod
    def _scope(self, network: Network, plan: SubnetPlan) -> Any:
        """What an engine tells its clients, as network and host are now."""

    def _clients(self, endpoint: EndpointRecord, network: Network) -> Iterable[str]:
        """The names under which the engines know who is behind an endpoint's port."""
        return (endpoint.id,)

    # ---- networks and endpoints come and go

    def open(self, network: Network) -> None:
        """Serve a network's subnets of this version; those that are served already as the network is now."""
        if not self._wanted(network):
            self.close(network)
            return
        for plan in (pool.plan for pool in network.pools if pool.plan.subnet.version == self.version):
            key = network.record.id, plan.subnet
            if key in self._served:
                self._served[key].engine.reconfigure(self._scope(network, plan))
            else:
                self._served[key] = Served(network, plan, self._engine(network, plan))

    def load(self, rows: Iterable[tuple[str, bytes]]) -> list[Change]:
        """Take over stored leases, once all containers' addresses are held; returns what has to be stored."""
        now = self._parts.clock.wall_s()
        by_subnet: dict[tuple[str, Subnet], list[tuple]] = {key: [] for key in self._served}
        changes: list[Change] = []
        for key, document in rows:
            network_id, _, address = key.partition("/")
            served = self._serving(network_id, address)
            if served is None:
                changes.append(Delete("leases", key))
            else:
                by_subnet[network_id, served.plan.subnet].append(self._decoded(document))
        for place, served in self._served.items():
            changes += self._stored(served.network, served.engine.load(by_subnet[place], now))
        self.keeping.rearm()
        return changes

    def close(self, network: Network) -> None:
        """Serve a network no more."""
        for subnet in network.subnets:
            self.close_subnet(network, subnet)

    def close_subnet(self, network: Network, subnet: Subnet) -> None:
        """Serve one subnet no more."""
        self._served.pop((network.record.id, subnet), None)

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
            for client in self._clients(endpoint, network)
            for change in self._stored(network, served.engine.forget_port(client))
        ]

    def reconfigure(self) -> None:
        """Look at the host's resolvers again; clients learn of them when they renew."""
        for network, plan, engine in self._served.values():
            engine.reconfigure(self._scope(network, plan))

    def all(self) -> Iterator[tuple[Network, Any]]:
        """Every lease of every network, offers included."""
        for served in self._served.values():
            for lease in served.engine.leases():
                yield served.network, lease

    # ---- answers

    def _commit(self, served: Served, port: Port, changes: Collection, send: Callable[[], None]) -> None:
        """Store what a question changed, then answer it and tell the events."""

        def stored() -> None:
            send()
            for change in changes:
                if not isinstance(change, self.deletion):
                    self._publish(served.network, port, change.lease)

        if not self.keeping.commit(port, self._stored(served.network, changes), stored):
            self._questions.count(port, self.overloaded)

    def _inject(self, served: Served, port: Port, frame: bytes) -> None:
        """Into the port that asked, if it still is one."""
        if self._parts.inventory.ports.get(port.index) is port:
            self._parts.datapath.inject(frame, network=served.network.index, port=port.index)

    def _publish(self, network: Network, port: Port, lease: Any) -> None:
        self._parts.events.publish(
            "lease",
            str(lease.state),
            port.container.record.id,
            port.container.name,
            network=network.name,
            address=str(lease.address),
            mac=lease.mac.hex(":"),
        )

    # ---- in the store. JSON has no infinity: a lease without end is stored with none

    @classmethod
    def _stored(cls, network: Network, changes: Iterable) -> list[Change]:
        """An engine's changes as the store's."""
        return [
            Delete("leases", f"{network.record.id}/{change.address}")
            if isinstance(change, cls.deletion)
            else Put("leases", f"{network.record.id}/{change.lease.address}", msgspec.json.encode(change.lease.row()))
            for change in changes
        ]

    @classmethod
    def _decoded(cls, document: bytes) -> tuple:
        """A lease's row; msgspec.MsgspecError if it is none."""
        row = dict(zip(cls.lease._fields, msgspec.json.decode(document, type=cls.row), strict=True))
        return tuple({**row, "expires_at": math.inf if row["expires_at"] is None else row["expires_at"]}.values())

    # ---- time

    def _end(self, now: float) -> list[Change]:
        return [
            change
            for served in list(self._served.values())
            for change in self._stored(served.network, served.engine.expire(now))
        ]

    def _next_expiry(self) -> float | None:
        expiries = (served.engine.next_expiry() for served in self._served.values())
        return min((at for at in expiries if at is not None), default=None)

    # ---- which engine

    def _serving(self, network_id: str, address: str) -> Served | None:
        """Whose subnet an address is in; None too for what is no address."""
        try:
            wanted = ip_address(address)
        except ValueError:
            return None
        network = self._parts.inventory.networks.get(network_id)
        pool = network.pool_of(wanted) if network is not None else None
        return None if pool is None else self._served.get((network_id, pool.plan.subnet))

    def _of(self, network: Network) -> list[Served]:
        keys = [(network.record.id, subnet) for subnet in network.subnets]
        return [self._served[key] for key in keys if key in self._served]

