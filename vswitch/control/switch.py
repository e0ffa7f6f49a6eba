# SPDX-License-Identifier: Apache-2.0
"""The switch, as the API, the daemon and tests hold it: everything that can be asked of it, each a method.

This room composes and translates; what is done is done in the rooms below, and each says how it fails:

    networks    segments.py (come and go) · changing.py (change) · networks.py (one of them) · defaultnetwork.py
                subnets.py, ipam.py (addresses) · overlaps.py (with the host's routes)
    containers  attach.py (come) · ending.py (go) · joining.py (connect, disconnect) · settling.py (what runs follows)
                containers.py, endpoints.py (parts) · wiring.py (ports)
    tables      tables.py (what the dataplane knows and counts)
    outside     wayout.py (options) · publishing.py (published ports) · flows.py (connections) · hostaddresses.py
    DHCP, RA    hostservices.py    names     resolving.py         restart   recovery.py          views   views.py

All methods belong to one event loop. Those that change something run to their end or are undone, even if the
caller is cancelled (jobs.py); those that read are plain functions, and coroutines only where the dataplane
has to be asked. Every refusal is a `Refused` with one line and an HTTP status.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from random import Random, SystemRandom
from typing import Any, TypeVar

from msgspec.structs import replace

from vswitch.clock import Clock, SystemClock
from vswitch.config import Change, Settings, applied, changes
from vswitch.control import flows, hostaddresses, hostresolvers, hostroutes, overlaps, views
from vswitch.control.attach import Attaching, Namespace
from vswitch.control.changing import Changing
from vswitch.control.containers import container_files, restart_spec
from vswitch.control.defaultnetwork import DefaultNetwork
from vswitch.control.edges import (
    AttachHelper,
    Datapath,
    Host,
    HostAddresses,
    HostResolvers,
    HostRoutes,
    Keeper,
    Listeners,
    Nobody,
    Parts,
    PortObserver,
    Taps,
    Watcher,
)
from vswitch.control.ending import Ending
from vswitch.control.events import Events
from vswitch.control.fullness import Fullness
from vswitch.control.happenings import Happenings
from vswitch.control.host import ProcHost
from vswitch.control.hostservices import HostServices
from vswitch.control.inventory import Container, Inventory
from vswitch.control.jobs import Job, Jobs
from vswitch.control.joining import Joining
from vswitch.control.logs import log_path, make_log_folder, read_logs
from vswitch.control.publishing import Publishing
from vswitch.control.recovery import Recovery
from vswitch.control.resolving import Resolver
from vswitch.control.segments import Segments
from vswitch.control.settling import Settling
from vswitch.control.store import Store
from vswitch.control.subnets import Subnet
from vswitch.control.tables import Tables
from vswitch.control.wiring import Wiring
from vswitch.model import (
    Attached,
    AttachmentSpec,
    ContainerSpec,
    ContainerView,
    FlowFilter,
    FlowView,
    Killed,
    NamespaceOrigin,
    NetworkSpec,
    NetworkUpdate,
    NetworkView,
    PortMapping,
    Pruned,
    PublishedView,
    Refused,
)
from vswitch.ports import tap

log = logging.getLogger(__name__)
T = TypeVar("T")


class Switch(Tables):
    """One switch: made, started once, closed once. The dataplane is running when `start` is called, and until
    `close` returns.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        state_dir: str,
        config_path: str = "vswitch.toml",
        store: Store,
        datapath: Datapath,
        helper: AttachHelper,
        watcher: Watcher,
        taps: Taps = tap,  # type: ignore[assignment]
        host: Host | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        keeper: Keeper | None = None,
        observer: PortObserver | None = None,
        addresses: HostAddresses | None = None,
        routes: HostRoutes | None = None,
        listeners: Listeners | None = None,
        resolvers: HostResolvers | None = None,
    ):
        clock = clock or SystemClock()
        self.events = Events(clock)
        self._parts = parts = Parts(
            settings=settings,
            state_dir=state_dir,
            config_path=config_path,
            inventory=Inventory(),
            events=self.events,
            store=store,
            datapath=datapath,
            helper=helper,
            taps=taps,
            watcher=watcher,
            host=host or ProcHost(),
            addresses=addresses or hostaddresses.HostAddresses(),
            routes=routes or hostroutes.HostRoutes(),
            resolvers=resolvers or hostresolvers.HostResolvers(),
            listeners=listeners or _listeners(),
            clock=clock,
            random=random or SystemRandom(),
            keeper=keeper or Nobody(),
            observer=observer or Nobody(),
        )
        self._jobs = Jobs()
        self._publishing = Publishing(parts)
        self._fullness = Fullness(parts)
        self._resolving = resolving = Resolver(parts)
        self._wiring = Wiring(parts, self._publishing, resolving)
        self._leasing = HostServices(parts)
        super().__init__(parts, self._leasing, resolving)
        self._segments = Segments(parts, self._leasing, resolving)
        self._ending = Ending(parts, self._wiring, self._leasing, resolving, self._jobs)
        self._attaching = Attaching(parts, self._wiring, self._segments, self._ending, self._publishing, resolving)
        self._settling = Settling(parts, self._wiring, self._publishing)
        self._changing = Changing(parts, self._segments, self._leasing, resolving, self._settling)
        self._default = DefaultNetwork(parts, self._segments, self._changing)
        self._joining = Joining(parts, self._wiring, self._segments, self._leasing, resolving, self._settling)
        self._known_routes = overlaps.Routes([])
        self._addresses_told = asyncio.Lock()  # so that an older list never follows a newer one
        self._happenings = Happenings(parts, self._ending, self._jobs)

    # ---- life

    async def start(self, descriptors: Mapping[str, int] | None = None) -> None:
        """Bring back what is stored; `descriptors` are TAPs that were kept, by endpoint id, ours from now on.

        StoreError where the store cannot be used, Refused where the default network cannot be made.
        """
        parts = self._parts
        await parts.store.open()
        make_log_folder(parts.state_dir)
        dns, others = self._resolving.on_punt, self._leasing.on_punt
        parts.datapath.on_punt = lambda punt: (dns if punt.kind == "dns" else others)(punt)
        parts.datapath.on_event = self._happenings.on_event
        parts.addresses.follow(self._addresses_changed)
        parts.routes.follow(self._routes_changed)
        await self._tell_addresses()
        self._resolving.start()
        recovery = Recovery(
            parts,
            self._wiring,
            self._segments,
            self._ending,
            self._leasing,
            self._publishing,
            self._settling,
            self._changing,
            self._resolving,
        )
        await recovery.recover(descriptors or {})
        await self._default.settle(parts.settings.default_network, Job())
        self._routes_changed(parts.host.routes())
        self._leasing.start()
        self._fullness.start()

    async def close(self) -> None:
        """End what is under way and let go of everything; containers keep their interfaces."""
        self._parts.addresses.close()
        self._parts.routes.close()
        self._fullness.stop()
        await self._jobs.close()
        await self._leasing.stop()
        self._resolving.stop()
        for port in self.ports():
            await self._wiring.disconnect(port, keep_interface=True)
        for container in self._parts.inventory.containers.values():
            self._ending.unwatch(container)
        self._parts.watcher.close()
        self.events.close()
        await self._parts.store.close()

    def reload(self, settings: Settings) -> list[Change]:
        """Work with new settings, as far as they apply to a running switch; every difference is returned."""
        differences = changes(self._parts.settings, settings)
        self._parts.settings = applied(self._parts.settings, settings)
        self._leasing.reconfigure()
        if any(change.place.startswith("default_network.") and change.live for change in differences):
            wanted = self._parts.settings.default_network
            self._jobs.start(lambda job: self._default.settle(wanted, job))
        return differences

    async def settled(self) -> None:
        """Return when no change is under way."""
        await self._jobs.finish()

    # ---- networks

    async def create_network(self, spec: NetworkSpec) -> NetworkView:
        """A new network."""
        network = await self._jobs.run(lambda job: self._segments.create(spec, job))
        overlaps.review([network], self._known_routes, self.events)
        return views.network_view(network, ())

    def networks(self) -> list[NetworkView]:
        """All networks, oldest first."""
        inventory = self._parts.inventory
        members = inventory.members()
        return [views.network_view(n, members.get(n.record.id, ())) for n in inventory.ready_networks()]

    def network(self, reference: str) -> NetworkView:
        """One network, by name or beginning of its id."""
        network = self._parts.inventory.network(reference)
        return views.network_view(network, self._parts.inventory.members().get(network.record.id, ()))

    async def update_network(self, reference: str, update: NetworkUpdate) -> NetworkView:
        """Change what can be changed while containers are on it."""
        work = self._changing.update
        await self._jobs.run(lambda job: work(self._parts.inventory.network(reference), update, job))
        overlaps.review([self._parts.inventory.network(reference)], self._known_routes, self.events)
        return self.network(reference)

    async def connect(self, reference: str, container: str, wish: AttachmentSpec) -> ContainerView:
        """A container that is there joins a network too; `wish` says how."""
        wish = replace(wish, network=reference)
        work = self._joining.connect
        await self._jobs.run(lambda job: work(self._parts.inventory.container(container), wish, job))
        return self.container(container)

    async def disconnect(self, reference: str, container: str) -> ContainerView:
        """A container leaves a network."""
        work = self._joining.disconnect
        await self._jobs.run(lambda job: work(self._parts.inventory.container(container), reference, job))
        return self.container(container)

    async def remove_network(self, reference: str) -> None:
        """Refused while in use."""
        await self._jobs.run(lambda job: self._segments.remove(self._parts.inventory.network(reference)))

    async def prune_networks(self) -> Pruned:
        """Remove every network that no container is on."""
        return Pruned(await self._jobs.run(self._segments.prune))

    # ---- containers

    async def attach(
        self,
        spec: ContainerSpec,
        origin: NamespaceOrigin,
        netns_fd: int,
        userns_fd: int | None = None,
        pidfd: int | None = None,
    ) -> Attached:
        """A container joins its networks. The descriptors are ours from now on, whatever comes of it."""

        async def work(job: Job) -> Attached:
            return self._attached(await self._attaching.attach(spec, origin, namespace, job))

        namespace = Namespace(netns_fd, userns_fd, pidfd)
        return await self._closing(namespace, work)

    async def start_container(
        self,
        reference: str,
        origin: NamespaceOrigin,
        netns_fd: int,
        userns_fd: int | None = None,
        pidfd: int | None = None,
    ) -> Attached:
        """A stopped container joins its networks from new namespaces; the descriptors are ours now."""

        async def work(job: Job) -> Attached:
            container = self._parts.inventory.container(reference)
            await self._attaching.start_again(container, origin, namespace, job)
            return self._attached(container)

        namespace = Namespace(netns_fd, userns_fd, pidfd)
        return await self._closing(namespace, work)

    async def detach(self, reference: str) -> None:
        """An attached namespace leaves all networks and is forgotten."""
        await self._jobs.run(lambda job: self._ending.detach(self._parts.inventory.container(reference), job))

    async def stop(self, reference: str, timeout_s: float = 10.0) -> None:
        """End a container; it keeps its name and addresses. One that has ended already stays so."""
        await self._jobs.run(
            lambda job: self._ending.stop(self._parts.inventory.container(reference), timeout_s)
        )

    async def remove(self, reference: str, *, force: bool = False) -> None:
        """Forget a container; a running one only by force."""
        await self._jobs.run(
            lambda job: self._ending.remove(self._parts.inventory.container(reference), force, job)
        )

    async def report_exit(self, reference: str, exit_code: int) -> None:
        """A container's supervisor says that it is over."""
        await self._jobs.run(
            lambda job: self._ending.reported(self._parts.inventory.container(reference), exit_code)
        )

    def containers(self, *, everything: bool = False) -> list[ContainerView]:
        """Those that live, or all; oldest first."""
        inventory = self._parts.inventory
        shown = [container for container in inventory.containers.values() if everything or container.live]
        shown.sort(key=lambda container: (container.record.created_at, container.name))
        return [views.container_view(container, inventory) for container in shown]

    def container(self, reference: str) -> ContainerView:
        """One container, by name or beginning of its id."""
        return views.container_view(self._parts.inventory.container(reference), self._parts.inventory)

    def container_spec(self, reference: str) -> ContainerSpec:
        """What a client needs to start it again."""
        return restart_spec(self._parts.inventory.container(reference))

    async def signal(self, reference: str, number: int) -> None:
        """A signal for a container's first process."""
        await self._jobs.run(lambda job: self._ending.signal(self._parts.inventory.container(reference), number))

    def logs(self, reference: str, *, follow: bool = False, tail: int | None = None) -> AsyncIterator[bytes]:
        """What a detached container wrote, or its last lines; with `follow`, what it goes on to write until it ends."""
        container = self._parts.inventory.container(reference)
        path = self._log_path(container)
        if path is None:
            raise Refused(
                f"container {container.name} has no log: only those started by `vswitch run -d` have", 409
            )
        there = self._parts.inventory.containers
        identity = container.record.id
        return read_logs(
            path, self._parts.clock, lambda: follow and container.live and there.get(identity) is container, tail
        )

    # ---- published ports

    async def publish(self, reference: str, text: str) -> list[PortMapping]:
        """More of a running container's ports are published."""
        work = self._publishing.add
        publication = await self._jobs.run(
            lambda job: work(self._parts.inventory.container(reference), text, job)
        )
        return views.mappings(publication)

    async def unpublish(self, reference: str, text: str) -> None:
        """Less of a container's ports are published."""
        work = self._publishing.remove
        await self._jobs.run(lambda job: work(self._parts.inventory.container(reference), text, job))

    def published(self, network: str | None = None, container: str | None = None) -> list[PublishedView]:
        """Every port that is published now."""
        wanted = self._wanted(network, container)
        return views.published_views(port for port in self.ports() if wanted.port(port))

    # ---- flows

    async def flows(self, filter: FlowFilter) -> list[FlowView]:
        """Connections through the gateway that fit the filter."""
        return [view for _, view in await self._chosen_flows(filter)]

    async def kill_flows(self, filter: FlowFilter) -> Killed:
        """End every flow that fits the filter."""
        rows = [row for row, _ in await self._chosen_flows(filter)]
        killed = await self._parts.datapath.kill_flows([(row.number, row.generation) for row in rows])
        return Killed(killed)

    async def _chosen_flows(self, filter: FlowFilter) -> list[tuple[Any, FlowView]]:
        wanted, fits = self._wanted(filter.network, filter.container), flows.chosen(filter)
        rows = flows.flow_views(await self._parts.datapath.flows(), self._parts.inventory, wanted)
        return [(row, view) for row, view in rows if fits(view)]

    # ---- below

    def _attached(self, container: Container) -> Attached:
        parts = self._parts
        return Attached(
            container=views.container_view(container, parts.inventory),
            files=container_files(container, parts.inventory, parts.host.resolv_conf()),
            log_path=self._log_path(container),
        )

    def _log_path(self, container: Container) -> str | None:
        detached = container.made_by_us and container.record.spec.detached
        return log_path(self._parts.state_dir, container.record.id) if detached else None

    async def _closing(self, namespace: Namespace, work: Callable[[Job], Awaitable[T]]) -> T:
        """Run work that uses a namespace's descriptors, which are closed when it is over."""

        async def closing(job: Job) -> T:
            try:
                return await work(job)
            finally:
                _close(namespace)

        try:
            self._jobs.refuse_when_closed()
        except Refused:
            _close(namespace)
            raise
        return await self._jobs.run(closing)

    def _routes_changed(self, routes: list[Subnet]) -> None:
        self._known_routes = overlaps.Routes(routes)
        overlaps.review(self._parts.inventory.ready_networks(), self._known_routes, self.events)

    def _addresses_changed(self, addresses: list[bytes]) -> None:
        self._jobs.start(lambda job: self._tell_addresses())

    async def _tell_addresses(self) -> None:
        async with self._addresses_told:
            await self._parts.datapath.set_host_addresses(list(self._parts.addresses.current))


def _listeners() -> Listeners:
    """The real ones; a module of the dataplane's, loaded where no other was given."""
    from vswitch.nat import listeners

    return listeners


def _close(namespace: Namespace) -> None:
    for fd in namespace:
        if fd is not None:
            os.close(fd)
