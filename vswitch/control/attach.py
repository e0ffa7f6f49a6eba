# SPDX-License-Identifier: Apache-2.0
"""A container comes: all of it or nothing.

    reserve   name, addresses, MACs                  one turn of the event loop, so nobody else gets them
    store     as `starting`                          from here on a restart knows what to clear away
    for each network:
        helper    TAP in the namespace, configured
        wiring    port, bindings, names
    helper    the resolver's sockets in the namespace
    publish   its ports, on the endpoint with the default route
    store     as `running`
    watch     for the namespace's end
    announce  to the neighbours

Every step says how it is undone before the next one begins (AsyncExitStack); whatever fails, or if whoever
asked goes away, the undoings run backwards. The same path starts a stopped container again (its reservations
are there already, and a failure leads back to `exited`) and mends an orphaned one.
"""

from __future__ import annotations

import logging
import os
from contextlib import AsyncExitStack, ExitStack
from typing import NamedTuple

from msgspec.structs import replace

from vswitch.control import modes
from vswitch.control.containers import identified, plan_container
from vswitch.control.edges import Parts
from vswitch.control.ending import Ending
from vswitch.control.endpoints import interface_plans, reserve_endpoints
from vswitch.control.inventory import Container
from vswitch.control.jobs import Job, quietly
from vswitch.control.publishing import Publishing, planned
from vswitch.control.records import ContainerRecord, EndpointRecord, encode
from vswitch.control.resolving import Resolver
from vswitch.control.segments import Segments
from vswitch.control.store import Delete, Put
from vswitch.control.wiring import Wiring
from vswitch.model import ContainerSpec, NamespaceOrigin, Refused
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.tap import Tap

log = logging.getLogger(__name__)


class Namespace(NamedTuple):
    """Open descriptors of where the container lives; the caller closes them. `pidfd` is of the process that
    it ends with.
    """

    netns_fd: int
    userns_fd: int | None = None
    pidfd: int | None = None


def refuse_without_process(namespace: Namespace) -> None:
    """What is run is stopped by its first process, so that must be known."""
    if namespace.pidfd is None:
        raise Refused("a container that is run has a first process: send its pidfd too")


class Attaching:
    """The containers' comings."""

    def __init__(
        self,
        parts: Parts,
        wiring: Wiring,
        segments: Segments,
        ending: Ending,
        publishing: Publishing,
        resolving: Resolver,
    ):
        self._parts = parts
        self._resolving = resolving
        self._publishing = publishing
        self._wiring = wiring
        self._segments = segments
        self._ending = ending

    async def attach(
        self, spec: ContainerSpec, origin: NamespaceOrigin, namespace: Namespace, job: Job
    ) -> Container:
        """A new container, running. Refused, and then nothing of it is left."""
        spec, provider = modes.settled(spec, self._parts.inventory)
        borrows = modes.borrows(spec)
        origin = identified(origin, namespace.netns_fd, namespace.pidfd, ours_too=borrows)
        modes.refuse_elsewhere(provider, origin)
        if spec.command:
            refuse_without_process(namespace)
        if not borrows and (there := self._parts.inventory.container_in(origin.device, origin.inode)) is not None:
            return await self._mend(there, spec, origin, namespace, job)
        async with AsyncExitStack() as reserved:
            container = self._reserve(spec, origin, reserved)
            async with container.lock, AsyncExitStack() as undo:
                await self._store_new(container, undo)
                await self._bring_up(container, namespace, job, undo)
                undo.pop_all()
            reserved.pop_all()
        self._came(container, "attach")
        return container

    async def start_again(
        self, container: Container, origin: NamespaceOrigin, namespace: Namespace, job: Job
    ) -> None:
        """A stopped container in new namespaces, with the addresses it had. Refused, and then it is stopped
        as before.
        """
        spec, provider = modes.settled(container.record.spec, self._parts.inventory)
        origin = identified(origin, namespace.netns_fd, namespace.pidfd, ours_too=modes.borrows(spec))
        modes.refuse_elsewhere(provider, origin)
        refuse_without_process(namespace)
        async with container.lock, AsyncExitStack() as undo:
            before = container.record
            if before.state != "exited" or container.name not in self._parts.inventory.container_ids:
                raise Refused(
                    f"container {container.name} is {before.state}: only a stopped one can be started", 409
                )
            if not modes.borrows(spec):
                self._refuse_shared(origin)
            spec = replace(before.spec, detached=True)  # a start is always in the background
            container.record = replace(before, spec=spec, state="starting", origin=origin, exit_code=None)
            undo.callback(setattr, container, "record", before)
            await self._store(container.record)
            undo.push_async_callback(self._store_again, before)
            await self._bring_up(container, namespace, job, undo)
            undo.pop_all()
        self._came(container, "start")

    async def _mend(
        self,
        container: Container,
        spec: ContainerSpec,
        origin: NamespaceOrigin,
        namespace: Namespace,
        job: Job,
    ) -> Container:
        """The namespace is known already: an orphaned container's is taken back, another one's is refused."""
        async with container.lock, AsyncExitStack() as undo:
            before = container.record
            if before.state != "orphaned" or spec.name not in (None, container.name):
                raise Refused(
                    f"that network namespace is attached already, as {container.name}: detach it first", 409
                )
            undo.push_async_callback(self._store_again, before)
            for port in list(container.ports.values()):
                await self._wiring.disconnect(port)
            for endpoint in container.record.endpoints:
                await self._parts.helper.remove(
                    endpoint.interface,
                    netns_fd=namespace.netns_fd,
                    userns_fd=namespace.userns_fd,
                    mac=endpoint.mac,
                )
            container.record = before if container.watches else replace(before, origin=origin)
            undo.callback(setattr, container, "record", before)
            await self._bring_up(container, namespace, job, undo)
            undo.pop_all()
        self._came(container, "mend")
        return container

    def _refuse_shared(self, origin: NamespaceOrigin) -> None:
        if (there := self._parts.inventory.container_in(origin.device, origin.inode)) is not None:
            raise Refused(
                f"that network namespace is attached already, as {there.name}: detach it first", 409
            )

    # ---- the steps

    def _reserve(self, spec: ContainerSpec, origin: NamespaceOrigin, undo: AsyncExitStack) -> Container:
        """Name, addresses and MACs, all or none."""
        parts = self._parts
        record = plan_container(
            spec,
            origin,
            parts.inventory,
            parts.settings.switch.max_containers,
            now=parts.clock.wall_s(),
            random=parts.random,
        )
        container = Container(record)
        parts.inventory.refuse_taken(container)
        wishes = [(wish, parts.inventory.network(wish.network)) for wish in spec.networks]
        reservations = undo.enter_context(ExitStack())
        if spec.network_mode == modes.BRIDGE:
            record.endpoints = reserve_endpoints(
                wishes, container.name, parts.random, reservations, named=container.made_by_us
            )
        record.ports = planned(spec.ports, record, parts.inventory.networks)
        parts.inventory.add_container(container)
        undo.callback(parts.inventory.drop_container, container)
        return container

    async def _store_new(self, container: Container, undo: AsyncExitStack) -> None:
        """As starting, with the marks of how far addresses have been handed out."""
        record = container.record
        cursors = [
            change
            for endpoint in record.endpoints
            for change in self._segments.stored_cursors(self._parts.inventory.networks[endpoint.network])
        ]
        await self._parts.store.write([Put("containers", record.id, encode(record)), *cursors])
        undo.push_async_callback(self._forget, record)

    async def _forget(self, record: ContainerRecord) -> None:
        await quietly(self._parts.store.write([Delete("containers", record.id)]), f"container {record.name}")

    async def _store_again(self, before: ContainerRecord) -> None:
        await quietly(self._store(before), f"container {before.name}")

    async def _store(self, record: ContainerRecord) -> None:
        await self._parts.store.write([Put("containers", record.id, encode(record))])

    async def _bring_up(
        self, container: Container, namespace: Namespace, job: Job, undo: AsyncExitStack
    ) -> None:
        """From reserved to running; `undo` takes interfaces and ports away again."""
        container.stopping = False
        container.settled.clear()
        for endpoint in container.record.endpoints:
            job.go_on()
            tap, plan = await self._interface(container, endpoint, namespace)
            await self._wiring.connect(container, endpoint, tap, plan, undo)
        if await self._resolving.listen(container, netns_fd=namespace.netns_fd, userns_fd=namespace.userns_fd):
            undo.callback(self._resolving.silence, container)
        job.go_on()
        ports = await self._publishing.open_all(container, undo)
        job.go_on()
        running = replace(
            container.record, state="running", kept=True, remedy=None, exit_code=None, ports=ports
        )
        await self._store(running)
        self._watch(container, namespace.pidfd, undo)
        job.go_on()
        container.record = running

    async def _interface(
        self, container: Container, endpoint: EndpointRecord, namespace: Namespace
    ) -> tuple[Tap, InterfacePlan]:
        """The endpoint's TAP, and how it was made; in a namespace of others the helper chooses a free name, which is
        stored at once.
        """
        plan = interface_plans(container.record.endpoints, self._parts.inventory.networks)[endpoint.id]
        tap = await self._parts.helper.attach(namespace.netns_fd, namespace.userns_fd, plan)
        if tap.name != endpoint.interface:
            endpoint.interface = tap.name
            try:
                await self._store(container.record)
            except BaseException:
                endpoint.interface = ""
                self._wiring.let_go(tap.fd)
                raise
        return tap, replace(plan, name=tap.name)

    def _watch(self, container: Container, pidfd: int | None, undo: AsyncExitStack) -> None:
        """Notice the namespace's end, keep a descriptor of its process; an orphan is watched already."""
        if container.watches:
            return
        undo.callback(self._ending.unwatch, container)
        container.pidfd = None if pidfd is None else os.dup(pidfd)
        self._ending.watch(container)

    def _came(self, container: Container, action: str) -> None:
        for port in container.ports.values():
            self._wiring.announce(port)
        record = container.record
        self._parts.events.publish("container", action, record.id, record.name)
