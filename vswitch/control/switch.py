# SPDX-License-Identifier: Apache-2.0
"""The switch, as the API, the daemon and tests hold it: everything that can be asked of it, each a method.

This room composes and translates; what is done is done in the rooms below, and each says how it fails:

    networks    segments.py (come and go) · networks.py (one of them) · subnets.py, ipam.py (addresses)
    containers  attach.py (come) · ending.py (go) · containers.py, endpoints.py (parts) · wiring.py (ports)
    outside     wayout.py (options) · publishing.py (published ports) · flows.py (connections) · hostaddresses.py
    DHCP        leases.py          restart   recovery.py          views   views.py

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

from vswitch.clock import Clock, SystemClock
from vswitch.config import Change, Settings, applied, changes
from vswitch.control import flows, hostaddresses, views
from vswitch.control.attach import Attaching, Namespace
from vswitch.control.containers import container_files, restart_spec
from vswitch.control.edges import (
    AttachHelper,
    Datapath,
    Host,
    HostAddresses,
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
from vswitch.control.happenings import Happenings
from vswitch.control.host import ProcHost
from vswitch.control.inventory import Container, Inventory, Port
from vswitch.control.jobs import Job, Jobs
from vswitch.control.leases import Leasing
from vswitch.control.logs import log_path, make_log_folder, read_logs
from vswitch.control.publishing import Publishing
from vswitch.control.recovery import Recovery
from vswitch.control.segments import Segments
from vswitch.control.store import Store
from vswitch.control.wiring import Wiring
from vswitch.model import (
    Attached,
    ContainerSpec,
    ContainerView,
    DropView,
    FdbView,
    FlowFilter,
    FlowView,
    Killed,
    LeaseView,
    NamespaceOrigin,
    NeighbourView,
    NetworkSpec,
    NetworkView,
    PortMapping,
    PortView,
    Pruned,
    PublishedView,
    Refused,
    StatsView,
)
from vswitch.ports import tap

log = logging.getLogger(__name__)
T = TypeVar("T")


class Switch:
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
        listeners: Listeners | None = None,
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
            listeners=listeners or _listeners(),
            clock=clock,
            random=random or SystemRandom(),
            keeper=keeper or Nobody(),
            observer=observer or Nobody(),
        )
        self._started_at = clock.monotonic_s()
        self._jobs = Jobs()
        self._publishing = Publishing(parts)
        self._wiring = Wiring(parts, self._publishing)
        self._leasing = Leasing(parts)
        self._segments = Segments(parts, self._leasing)
        self._ending = Ending(parts, self._wiring, self._leasing, self._jobs)
        self._attaching = Attaching(parts, self._wiring, self._segments, self._ending, self._publishing)
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
        parts.datapath.on_punt = self._leasing.on_punt
        parts.datapath.on_event = self._happenings.on_event
        parts.addresses.follow(self._addresses_changed)
        await self._tell_addresses()
        recovery = Recovery(
            parts, self._wiring, self._segments, self._ending, self._leasing, self._publishing
        )
        await recovery.recover(descriptors or {})
        await self._segments.settle_default(parts.settings.default_network)
        self._leasing.start()

    async def close(self) -> None:
        """End what is under way and let go of everything; containers keep their interfaces."""
        self._parts.addresses.close()
        await self._jobs.close()
        await self._leasing.stop()
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
        return differences

    async def settled(self) -> None:
        """Return when no change is under way."""
        await self._jobs.finish()

    # ---- networks

    async def create_network(self, spec: NetworkSpec) -> NetworkView:
        """A new network."""
        network = await self._jobs.run(lambda job: self._segments.create(spec, job))
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

    def logs(self, reference: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        """What a detached container wrote; with `follow`, what it goes on to write until it ends."""
        container = self._parts.inventory.container(reference)
        path = self._log_path(container)
        if path is None:
            raise Refused(
                f"container {container.name} has no log: only those started by `vswitch run -d` have", 409
            )
        return read_logs(path, self._parts.clock, lambda: follow and container.live)

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

    # ---- tables and counters

    async def fdb(self, network: str | None = None, container: str | None = None) -> list[FdbView]:
        """Which MAC is behind which port."""
        wanted = self._wanted(network, container)
        return views.fdb_views(await self._parts.datapath.fdb(), self._parts.inventory, wanted)

    async def neighbours(
        self, network: str | None = None, container: str | None = None
    ) -> list[NeighbourView]:
        """Which address is bound to which MAC."""
        wanted = self._wanted(network, container)
        return views.neighbour_views(await self._parts.datapath.neighbours(), self._parts.inventory, wanted)

    def leases(self, network: str | None = None, container: str | None = None) -> list[LeaseView]:
        """What DHCP clients were given."""
        return views.lease_views(self._leasing.all(), self._parts.inventory, self._wanted(network, container))

    def stats(self, network: str | None = None, container: str | None = None) -> StatsView:
        """Counters of ports, sums, tables, memory."""
        wanted = self._wanted(network, container)
        ports = self._port_views(wanted)
        parts = self._parts
        return views.stats_view(
            ports,
            parts.datapath.totals(),
            self._drops_by_reason(wanted, ports),
            now=parts.clock.wall_s(),
            uptime_s=parts.clock.monotonic_s() - self._started_at,
            resident_bytes=parts.host.resident_bytes(),
        )

    def drops(self, network: str | None = None, container: str | None = None) -> list[DropView]:
        """How many frames died at which port, and why; with what died at ports that have left."""
        wanted = self._wanted(network, container)
        return views.drop_views(self._port_views(wanted), self._network_drops(wanted))

    def ports(self) -> list[Port]:
        """Every port that the dataplane has, for captures."""
        return list(self._parts.inventory.ports.values())

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

    def _wanted(self, network: str | None, container: str | None) -> views.Wanted:
        inventory = self._parts.inventory
        return views.Wanted(
            None if network is None else inventory.network(network),
            None if container is None else inventory.container(container),
        )

    def _port_views(self, wanted: views.Wanted) -> list[PortView]:
        drops = self._leasing.drops
        return [
            views.port_view(port, self._parts.datapath.counters(port.index), drops.get(port.endpoint.id, {}))
            for port in self.ports()
            if wanted.port(port)
        ]

    def _drops_by_reason(self, wanted: views.Wanted, ports: list[PortView]) -> dict[str, int]:
        """Of whole networks, with what died at ports that have gone; of one container, what died at its
        ports.
        """
        if wanted.container is not None:
            return views.summed(port.drops for port in ports)
        return views.summed(self._network_drops(wanted).values())

    def _network_drops(self, wanted: views.Wanted) -> dict[str, dict[str, int]]:
        """What died in each whole network, by its name; of a container's ports there is no whole."""
        if wanted.container is not None:
            return {}
        in_dataplane, in_dhcp = self._parts.datapath.network_drops, self._leasing.network_drops
        return {
            network.name: views.summed([in_dataplane(network.index), in_dhcp.get(network.record.id, {})])
            for network in self._parts.inventory.ready_networks()
            if wanted.on(network)
        }

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
