# SPDX-License-Identifier: Apache-2.0
"""What there is: networks, containers and ports, found by name, id, index. It belongs to the event loop.

Everything here can be rebuilt from the store's records, the namespaces and the dataplane; recovery.py does
that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any

from vswitch.control.names import resolve
from vswitch.control.networks import Network
from vswitch.control.records import ContainerRecord, EndpointRecord, PublicationRecord
from vswitch.model import Refused
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.tap import Tap

NETWORK_INDEXES = 4096  # the dataplane's network table
PORT_INDEXES = 65535  # the dataplane's port table; the last 16-bit number means "no port" there
# Indexes given back rest until this many wait: what is still on its way out of the dataplane (a punted frame,
# an event, a row of a snapshot) must not be taken for the next owner's.
INDEX_REST = 64
LIVE_STATES = ("starting", "running", "orphaned", "removing")


class Indexes:
    """Small numbers for the dataplane's tables: the lowest never used, or the one given back longest ago."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._next = 0
        self._resting: deque[int] = deque()

    @property
    def used(self) -> int:
        """How many are given out."""
        return self._next - len(self._resting)

    def take(self) -> int | None:
        """A free number; None if there is none."""
        if len(self._resting) > INDEX_REST or self._next == self.capacity:
            return self._resting.popleft() if self._resting else None
        self._next += 1
        return self._next - 1

    def give_back(self, index: int) -> None:
        self._resting.append(index)


class Publication:
    """Published ports that are open: a group of sockets (edges.ListenerGroup) for each protocol."""

    def __init__(self, record: PublicationRecord, groups: dict[str, Any]):
        self.record = record
        self.groups = groups


class Port:
    """One endpoint's descriptor in the dataplane; `bindings` are the addresses it is known to answer for."""

    def __init__(
        self, index: int, tap: Tap, container: Container, endpoint: EndpointRecord, network: Network
    ):
        self.index = index
        self.tap = tap
        self.container = container
        self.endpoint = endpoint
        self.network = network
        self.plan: InterfacePlan | None = None  # how its interface was made; None: nobody knows
        self.bindings: list[bytes] = []
        self.publications: list[Publication] = []


class Container:
    """A container while the switch runs. Whoever changes its state holds `lock`."""

    def __init__(self, record: ContainerRecord):
        self.record = record
        self.lock = asyncio.Lock()
        self.ports: dict[str, Port] = {}  # by endpoint id
        self.pidfd: int | None = None  # of the process to stop, ours to close
        self.watches: list[Any] = []  # what tells us of its end
        self.stopping = False  # somebody ran `vswitch stop`: keep it when it ends
        self.settled = asyncio.Event()  # it has ended and its interfaces are gone
        self.nameserver: str | None = None  # where the resolver answers inside it
        self.unpublished: dict[PublicationRecord, str] = {}  # what should be published and is not, and why

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def live(self) -> bool:
        """Whether it has, or may have, a namespace."""
        return self.record.state in LIVE_STATES

    @property
    def made_by_us(self) -> bool:
        """`vswitch run` made its namespaces; else it was attached."""
        return self.record.spec.command is not None


Member = tuple[Container, EndpointRecord]


class Inventory:
    """The three tables and their keys."""

    def __init__(self) -> None:
        self.networks: dict[str, Network] = {}
        self.network_ids: dict[str, str] = {}  # name → id
        self.network_indexes = Indexes(NETWORK_INDEXES)
        self._by_index: dict[int, Network] = {}
        self.containers: dict[str, Container] = {}
        self.container_ids: dict[str, str] = {}  # name → id
        self.ports: dict[int, Port] = {}
        self.port_indexes = Indexes(PORT_INDEXES)

    # ---- networks

    def network(self, reference: str) -> Network:
        """By name, id or beginning of an id; one that is only being made is not there yet. Refused with 404
        or 409.
        """
        if reference == "bridge" and reference not in self.network_ids and "default" in self.network_ids:
            raise Refused("no such network: 'bridge': here Docker's bridge network is called default", 404)
        network = resolve(reference, self.networks, self.network_ids, "network")
        if not network.ready:
            raise Refused(f"no such network: {reference!r}", 404)
        return network

    def networks_by_index(self) -> dict[int, Network]:
        """By the dataplane's numbers."""
        return self._by_index

    def ready_networks(self) -> Iterator[Network]:
        """Every network that is there, oldest first."""
        ready = (network for network in self.networks.values() if network.ready)
        return iter(sorted(ready, key=lambda network: (network.record.created_at, network.name)))

    def add_network(self, network: Network) -> None:
        """Refused with 409 if the name is taken."""
        if network.name in self.network_ids:
            raise Refused(f"network {network.name} exists already: choose another name", 409)
        self.networks[network.record.id] = network
        self.network_ids[network.name] = network.record.id
        self._by_index[network.index] = network

    def drop_network(self, network: Network) -> None:
        self.networks.pop(network.record.id, None)
        self.network_ids.pop(network.name, None)
        self._by_index.pop(network.index, None)

    # ---- containers

    def container(self, reference: str) -> Container:
        """By name, id or beginning of an id. Refused with 404 or 409."""
        return resolve(reference, self.containers, self.container_ids, "container")

    def refuse_taken(self, container: Container) -> None:
        """Refused with 409 if the name is taken."""
        if (holder := self.container_ids.get(container.name)) is not None:
            state = self.containers[holder].record.state
            how = "rm --force" if self.containers[holder].live else "rm"
            raise Refused(
                f"container name {container.name} is taken by {holder[:12]} ({state}): choose another,"
                f" or remove it with `vswitch {how} {container.name}`",
                409,
            )

    def add_container(self, container: Container) -> None:
        self.containers[container.record.id] = container
        self.container_ids[container.name] = container.record.id

    def drop_container(self, container: Container) -> None:
        self.containers.pop(container.record.id, None)
        self.container_ids.pop(container.name, None)

    def container_in(self, device: int, inode: int) -> Container | None:
        """The container whose network namespace is this one."""
        for container in self.containers.values():
            origin = container.record.origin
            if origin.inode != inode or origin.device != device or not container.live:
                continue
            if container.record.spec.network_mode in ("bridge", "none"):
                return container
        return None

    def on_network(self, network: Network) -> list[Container]:
        """Every container that has an endpoint on it, running or not."""
        return [c for c in self.containers.values() if any(e.network == network.record.id for e in c.record.endpoints)]

    # ---- ports

    def members(self) -> dict[str, list[Member]]:
        """Who is on which network (by id), the oldest first, stopped containers included."""
        members: dict[str, list[Member]] = {}
        for container in sorted(self.containers.values(), key=lambda one: (one.record.created_at, one.name)):
            for endpoint in container.record.endpoints:
                members.setdefault(endpoint.network, []).append((container, endpoint))
        return members
