# SPDX-License-Identifier: Apache-2.0
"""After a restart: what is stored is brought back, and what has ended meanwhile is concluded.

    networks     made again in the dataplane
    addresses    every container's held again, then the DHCP leases
    containers   by their stored state (records.py), many at a time:
        running, orphaned   its namespace is still the same?   no → as if it had ended now
                            a descriptor that was kept for us, else the helper takes the interface by name
                            beyond reach → orphaned, with the remedy; the other endpoints work on
                            the resolver's sockets in it open again
                            published ports open again, as far as they can be had
        starting            undone        removing   finished        exited   stays as it is
    unsettled    an endpoint that was coming or leaving is taken away, and the container's routes and published ports
                 are put in order; a network's change is brought to its end

Nothing that is stored is ever given up because something else is wrong: a record that doesn't fit is left in
the store and logged.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack

import msgspec
from msgspec.structs import replace

from vswitch.control.changing import Changing
from vswitch.control.containers import open_process
from vswitch.control.edges import Parts
from vswitch.control.ending import Ending
from vswitch.control.endpoints import hold_endpoint, interface_plans, release_endpoint
from vswitch.control.hostservices import HostServices
from vswitch.control.inventory import Container
from vswitch.control.jobs import Job
from vswitch.control.publishing import Publishing
from vswitch.control.records import ContainerRecord, EndpointRecord, NetworkRecord, decode, encode
from vswitch.control.resolving import Resolver
from vswitch.control.segments import Segments
from vswitch.control.settling import Settling
from vswitch.control.store import Put, StoreError, Table
from vswitch.control.wiring import Wiring
from vswitch.model import NamespaceOrigin, Refused
from vswitch.ports.inside import NamespaceGone
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.tap import Tap

log = logging.getLogger(__name__)

AT_ONCE = (
    16  # containers that are brought back at the same time: the helper does a few at once, the rest overlaps
)

Rows = list[tuple[str, bytes]]


class Recovery:
    """What happens between opening the store and the first request."""

    def __init__(
        self,
        parts: Parts,
        wiring: Wiring,
        segments: Segments,
        ending: Ending,
        leasing: HostServices,
        publishing: Publishing,
        settling: Settling,
        changing: Changing,
        resolving: Resolver,
    ):
        self._parts = parts
        self._resolving = resolving
        self._settling = settling
        self._changing = changing
        self._publishing = publishing
        self._wiring = wiring
        self._segments = segments
        self._ending = ending
        self._leasing = leasing
        self._descriptors: dict[str, int] = {}
        self._unsure: set[str] = set()  # containers whose interfaces may be other than their records say

    async def recover(self, descriptors: Mapping[str, int]) -> None:
        """Bring everything back; `descriptors` (endpoint id → fd, ours from now on) are those that were kept
        for us.
        """
        self._descriptors = dict(descriptors)
        try:
            stored = await self._parts.store.load()
            await self._networks(stored)
            for container in self._held_containers(stored["containers"]):
                self._parts.inventory.add_container(container)
            await self._leases(stored["leases"])
        except msgspec.MsgspecError as problem:
            raise StoreError(
                f"{self._parts.store.path} holds what this vswitch cannot read ({problem})"
            ) from None
        places = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(
            *(self._settle(c, places) for c in list(self._parts.inventory.containers.values()))
        )
        for network in [n for n in self._parts.inventory.ready_networks() if n.record.unsettled]:
            await self._changing.resume(network)
        self._let_go_of_the_rest()

    async def _networks(self, stored: Mapping[Table, Rows]) -> None:
        last: dict[str, dict[str, str]] = {}
        for key, address in stored["cursors"]:
            network_id, _, subnet = key.partition("/")
            last.setdefault(network_id, {})[subnet] = address.decode()
        for identity, document in stored["networks"]:
            record = decode(NetworkRecord, document)
            try:
                await self._segments.restore(record, last.get(identity, {}))
            except Refused as refusal:
                log.error("network %s is not brought back: %s", record.name, refusal)

    def _held_containers(self, rows: Rows) -> list[Container]:
        """Those whose addresses could be held again."""
        containers = []
        for _, document in rows:
            record = decode(ContainerRecord, document)
            try:
                self._hold(record)
            except Refused as refusal:
                log.error("container %s is not brought back: %s", record.name, refusal)
            else:
                containers.append(Container(record))
        return containers

    def _hold(self, record: ContainerRecord) -> None:
        held: list[EndpointRecord] = []
        try:
            for endpoint in record.endpoints:
                network = self._parts.inventory.networks.get(endpoint.network)
                if network is None:
                    raise Refused("one of its networks is gone")
                hold_endpoint(endpoint, network, record.name)
                held.append(endpoint)
        except Refused:
            for endpoint in held:
                release_endpoint(endpoint, self._parts.inventory.networks[endpoint.network])
            raise

    async def _leases(self, rows: Rows) -> None:
        changes = self._leasing.load(rows)
        if changes:
            await self._parts.store.write(changes)

    async def _settle(self, container: Container, places: asyncio.Semaphore) -> None:
        async with places:
            try:
                await self._by_state(container)
            except Refused as refusal:
                log.error("container %s: %s", container.name, refusal)

    async def _by_state(self, container: Container) -> None:
        record = container.record
        if any(endpoint.unsettled for endpoint in record.endpoints) and record.state != "removing":
            await self._take_away_unsettled(container)
        if record.state in ("running", "orphaned"):
            await self._take_back(container)
        elif record.state == "exited":
            container.settled.set()
        elif record.state == "starting" and record.kept:
            await self._ending.sweep(container)
            container.record = replace(record, state="exited")
            container.settled.set()
            await self._write(container)
        else:
            await self._ending.finish_removal(container)

    async def _take_away_unsettled(self, container: Container) -> None:
        """Endpoints that were on their way in or out; the record is written without them when all is in order."""
        record = container.record
        changes = []
        for endpoint in [e for e in record.endpoints if e.unsettled]:
            if (fd := self._descriptors.pop(endpoint.id, None)) is not None:
                self._parts.keeper.forget(endpoint.id)
                self._wiring.let_go(fd)
            if container.live:
                await self._ending.sweep_one(container, endpoint)
            network = self._parts.inventory.networks[endpoint.network]
            changes += self._leasing.forget_endpoint(endpoint, network)
            release_endpoint(endpoint, network)
        container.record = replace(record, endpoints=[e for e in record.endpoints if not e.unsettled])
        self._unsure.add(record.id)
        if not container.live:
            await self._write(container)
        if changes:
            await self._parts.store.write(changes)

    async def _take_back(self, container: Container) -> None:
        origin = container.record.origin
        container.pidfd = open_process(origin)
        if not still_there(origin, container.pidfd):
            await self._ending.found_gone(container)
            return
        troubles = []
        for endpoint in container.record.endpoints:
            try:
                await self._reconnect(container, endpoint)
            except NamespaceGone:
                await self._ending.found_gone(container)
                return
            except Refused as refusal:
                troubles.append(str(refusal))
        self._ending.watch(container)
        if not troubles:
            await self._put_in_order(container)
        await self._resolving.listen(container, origin=container.record.origin)
        changed = await self._publishing.reopen(container)
        await self._conclude(container, troubles, changed or container.record.id in self._unsure)

    async def _put_in_order(self, container: Container) -> None:
        """What was kept for us may be as it was before a change, or half way."""
        async with AsyncExitStack() as undo:
            try:
                await self._settling.settle(container, container.record.endpoints, Job(), undo)
            except Refused as refusal:
                log.warning("container %s may have kept older network settings: %s", container.name, refusal)
            undo.pop_all()

    async def _reconnect(self, container: Container, endpoint: EndpointRecord) -> None:
        tap = self._kept_tap(endpoint)
        plans = interface_plans(container.record.endpoints, self._parts.inventory.networks)
        plan: InterfacePlan | None = plans[endpoint.id]
        if tap is None:
            tap = await self._parts.helper.reattach(container.record.origin, plan)
        elif self._is_unsure(container):
            plan = None
        async with AsyncExitStack() as undo:
            port = await self._wiring.connect(container, endpoint, tap, plan, undo)
            undo.pop_all()
        self._wiring.announce(port)

    def _is_unsure(self, container: Container) -> bool:
        """Whether an interface may be other than its record says."""
        networks = self._parts.inventory.networks
        unsettled = any(networks[e.network].record.unsettled for e in container.record.endpoints)
        return unsettled or container.record.id in self._unsure

    def _kept_tap(self, endpoint: EndpointRecord) -> Tap | None:
        fd = self._descriptors.pop(endpoint.id, None)
        if fd is None:
            return None
        try:
            return self._parts.taps.adopt_tap(fd)
        except (Refused, OSError) as problem:
            log.warning("the descriptor kept for %s is of no use: %s", endpoint.interface, problem)
            self._wiring.put_down(fd)
            return None

    async def _conclude(self, container: Container, troubles: list[str], changed: bool) -> None:
        if troubles:
            await self._ending.orphan(container, troubles[0])
        elif container.record.state == "orphaned":
            container.record = replace(container.record, state="running", remedy=None)
            await self._write(container)
        elif changed:
            await self._write(container)

    async def _write(self, container: Container) -> None:
        await self._parts.store.write([Put("containers", container.record.id, encode(container.record))])

    def _let_go_of_the_rest(self) -> None:
        """Descriptors of endpoints that are no more."""
        for endpoint_id, fd in self._descriptors.items():
            self._parts.keeper.forget(endpoint_id)
            self._wiring.let_go(fd)
        self._descriptors.clear()


def still_there(origin: NamespaceOrigin, pidfd: int | None) -> bool:
    """Whether the namespace may still be reached as it was found; what we may not look at counts as there."""
    if origin.pid is not None:
        return pidfd is not None
    if origin.path is None:
        return False
    try:
        status = os.stat(origin.path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return (status.st_dev, status.st_ino) == (origin.device, origin.inode)
