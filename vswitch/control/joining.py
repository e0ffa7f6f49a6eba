# SPDX-License-Identifier: Apache-2.0
"""A container that is there already joins a network, or leaves one.

    connect       reserve → store, the endpoint unsettled → interface, port, default route, published ports → store
    disconnect    store, the endpoint unsettled → default route and published ports elsewhere, port, interface → store

A restart takes away an endpoint that it finds unsettled: one that was coming had not been acknowledged, one that was
leaving had been asked to go. Of a stopped container only the record changes.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, ExitStack

from msgspec.structs import replace

from vswitch.control import modes
from vswitch.control.edges import Parts
from vswitch.control.endpoints import NETWORKS_LIMIT, free_interface, release_endpoint, reserve_endpoint
from vswitch.control.hostservices import HostServices
from vswitch.control.inventory import Container
from vswitch.control.jobs import Job, quietly
from vswitch.control.networks import Network
from vswitch.control.records import ContainerRecord, EndpointRecord, encode
from vswitch.control.resolving import Resolver
from vswitch.control.segments import Segments
from vswitch.control.settling import Settling
from vswitch.control.store import Change, Put
from vswitch.control.wiring import Wiring
from vswitch.model import AttachmentSpec, Refused

log = logging.getLogger(__name__)


class Joining:
    """Endpoints' comings and goings."""

    def __init__(
        self,
        parts: Parts,
        wiring: Wiring,
        segments: Segments,
        leasing: HostServices,
        resolving: Resolver,
        settling: Settling,
    ):
        self._parts = parts
        self._wiring = wiring
        self._segments = segments
        self._leasing = leasing
        self._resolving = resolving
        self._settling = settling

    async def connect(self, container: Container, wish: AttachmentSpec, job: Job) -> None:
        """One more network for a container. Refused, and then all is as before."""
        async with container.lock, AsyncExitStack() as undo:
            network = self._parts.inventory.network(wish.network)
            self._refuse_change(container)
            before = container.record
            modes.refuse_joining(before)
            if _on(before, network) is not None:
                raise Refused(f"container {container.name} is on network {network.name} already", 409)
            if len(before.endpoints) >= NETWORKS_LIMIT:
                raise Refused(f"container {container.name} is on {NETWORKS_LIMIT} networks, the limit", 409)
            endpoint = self._reserve(container, network, wish, undo)
            joined = replace(before, endpoints=[*before.endpoints, endpoint])
            if before.state == "running":
                await self._bring_up(container, endpoint, network, joined, job, undo)
            else:
                await self._store(joined, self._segments.stored_cursors(network))
            container.record = joined
            undo.pop_all()
        self._tell("connect", network, container, endpoint)

    def _reserve(
        self, container: Container, network: Network, wish: AttachmentSpec, undo: AsyncExitStack
    ) -> EndpointRecord:
        reservations = undo.enter_context(ExitStack())
        interface = free_interface(container.record.endpoints) if container.made_by_us else ""
        return reserve_endpoint(wish, network, interface, container.name, self._parts.random, reservations)

    async def _bring_up(
        self,
        container: Container,
        endpoint: EndpointRecord,
        network: Network,
        joined: ContainerRecord,
        job: Job,
        undo: AsyncExitStack,
    ) -> None:
        undo.push_async_callback(self._store_again, container.record)
        endpoint.unsettled = True
        await self._store(joined, self._segments.stored_cursors(network))
        ports = await self._settling.settle(container, joined.endpoints, job, undo)
        if await self._resolving.listen(container, origin=container.record.origin):  # where no network had names
            undo.callback(self._resolving.silence, container)
        endpoint.unsettled = False
        await self._store(joined)
        for port in ports:
            self._wiring.announce(port)

    async def disconnect(self, container: Container, reference: str, job: Job) -> None:
        """A container leaves a network, which may be its last. Refused, and then all is as before."""
        async with container.lock:
            network = self._parts.inventory.network(reference)
            self._refuse_change(container)
            before = container.record
            endpoint = _on(before, network)
            if endpoint is None:
                raise Refused(f"container {container.name} is not on network {network.name}", 409)
            left = replace(before, endpoints=[e for e in before.endpoints if e is not endpoint])
            if before.state == "running":
                await self._take_down(container, endpoint, left, job)
                gone = self._leasing.forget_endpoint(endpoint, network)
                await quietly(self._store(left, gone), f"container {container.name}")  # it is gone in any case
            else:
                await self._store(left, self._leasing.forget_endpoint(endpoint, network))
            container.record = left
            release_endpoint(endpoint, network)
        self._tell("disconnect", network, container, endpoint)

    async def _take_down(
        self, container: Container, endpoint: EndpointRecord, left: ContainerRecord, job: Job
    ) -> None:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._store_again, container.record)
            undo.callback(setattr, endpoint, "unsettled", False)
            endpoint.unsettled = True
            await self._store(container.record)
            await self._settling.settle(container, left.endpoints, job, undo)
            undo.pop_all()

    def _refuse_change(self, container: Container) -> None:
        """Refused unless it runs or is stopped."""
        record = container.record
        if self._parts.inventory.containers.get(record.id) is not container:
            raise Refused(f"no such container: {container.name!r}", 404)
        if record.state not in ("running", "exited"):
            remedy = f": {record.remedy}" if record.remedy else ""
            raise Refused(f"container {container.name} is {record.state}{remedy}", 409)

    async def _store(self, record: ContainerRecord, more: list[Change] | None = None) -> None:
        await self._parts.store.write([Put("containers", record.id, encode(record)), *(more or [])])

    async def _store_again(self, before: ContainerRecord) -> None:
        await quietly(self._store(before), f"container {before.name}")

    def _tell(self, action: str, network: Network, container: Container, endpoint: EndpointRecord) -> None:
        self._parts.events.publish(
            "network",
            action,
            network.record.id,
            network.name,
            container=container.name,
            container_id=container.record.id,
            interface=endpoint.interface,
        )


def _on(record: ContainerRecord, network: Network) -> EndpointRecord | None:
    return next((e for e in record.endpoints if e.network == network.record.id), None)
