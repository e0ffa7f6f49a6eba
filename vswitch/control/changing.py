# SPDX-License-Identifier: Apache-2.0
"""A network changes while containers are on it: all of the change or nothing.

    plan      networks.plan_change: refused here if it cannot be
    become    in memory: from now on whoever attaches gets it so, and nobody else gets a new subnet
    store     as decided, but `unsettled`: from here on a restart brings the change to its end
    act       difference.network_actions, one after the other: dataplane, DHCP, the containers' interfaces
    store     settled; only then is it acknowledged

Whatever fails, the same difference asked the other way round leads back.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from msgspec.structs import replace

from vswitch.control.difference import (
    AddSubnet,
    DropSubnet,
    NetworkAction,
    SetAdvertising,
    SetIsolated,
    SetMtu,
    SetResolving,
    SettleContainers,
    SetWayOut,
    network_actions,
)
from vswitch.control.edges import Parts
from vswitch.control.hostservices import HostServices
from vswitch.control.inventory import Container
from vswitch.control.jobs import Job, quietly
from vswitch.control.names import link_local
from vswitch.control.networks import DEFAULT, Network, plan_change
from vswitch.control.records import NetworkRecord, encode
from vswitch.control.resolving import Resolver
from vswitch.control.segments import Segments
from vswitch.control.settling import Settling
from vswitch.control.store import Put
from vswitch.control.subnets import Address, SubnetPlan, plan_subnet
from vswitch.control.wayout import named_options
from vswitch.model import NetworkSpec, NetworkUpdate, Refused, SubnetSpec
from vswitch.ports.inside import InterfaceGone, NamespaceGone

log = logging.getLogger(__name__)

AT_ONCE = 16  # containers that are settled at the same time: the helper does a few at once, the rest overlaps


class Changing:
    """The networks' changes."""

    def __init__(
        self, parts: Parts, segments: Segments, leasing: HostServices, resolving: Resolver, settling: Settling
    ):
        self._parts = parts
        self._segments = segments
        self._leasing = leasing
        self._resolving = resolving
        self._settling = settling

    async def update(self, network: Network, update: NetworkUpdate, job: Job) -> None:
        """What a user wants to be different. Refused, and then all is as before."""
        if network.name == DEFAULT:
            live = update.ipv6 is None and not any(spec.gateway or not spec.ip_range for spec in update.subnets)
            then = "send vswitch-run SIGHUP (systemctl reload vswitch)" if live else "restart vswitch-run"
            raise self._segments.left_to_settings("change it", then)
        await self.become(network, None, job, update)

    async def become(
        self, network: Network, asked: NetworkSpec | None, job: Job, update: NetworkUpdate | None = None
    ) -> None:
        """Be as `asked`, or as it is with an `update`. Refused, and then all is as before."""
        async with network.lock:
            if not network.ready:
                raise Refused(f"no such network: {network.name!r}", 404)
            wanted = asked if asked is not None else merged(network.record, update or NetworkUpdate())
            parts = self._parts
            record = plan_change(network.record, wanted, self._segments.surroundings(), parts.random)
            if record == network.record:
                return
            async with AsyncExitStack() as undo:
                await self._carry_out(network, record, job, undo)
                undo.pop_all()
            network.open()
            self._parts.events.publish("network", "update", network.record.id, network.name)

    async def _carry_out(self, network: Network, record: NetworkRecord, job: Job, undo: AsyncExitStack) -> None:
        before, former = network.record, network.shape
        network.become(record)
        undo.push_async_callback(self._back, network, before)
        await self._store(replace(record, unsettled=True))
        for action in network_actions(network.shape, former):
            job.go_on()
            await self._act(network, action, job)
        self._leasing.open(network)
        await self._resolving.open(network)
        job.go_on()
        await self._store(record)

    async def _back(self, network: Network, before: NetworkRecord) -> None:
        """As it was, whatever fails on the way."""
        reached = network.shape
        try:
            network.become(before)
        except Refused as refusal:
            log.error("network %s keeps its new subnets: %s", network.name, refusal)
            return
        for action in network_actions(network.shape, reached):
            await quietly(self._act(network, action, Job()), f"network {network.name}")
        self._leasing.open(network)
        await quietly(self._resolving.open(network), f"network {network.name}")
        await quietly(self._store(before), f"network {network.name}")

    async def resume(self, network: Network) -> None:
        """After a restart: the containers have what a change was about; it is settled now."""
        settled = replace(network.record, unsettled=False)
        await quietly(self._store(settled), f"network {network.name}")
        network.record = settled

    async def _store(self, record: NetworkRecord) -> None:
        await self._parts.store.write([Put("networks", record.id, encode(record))])

    # ---- one action each

    async def _act(self, network: Network, action: NetworkAction, job: Job) -> None:
        datapath, index = self._parts.datapath, network.index
        match action:
            case SetMtu(mtu=mtu):
                await datapath.set_network_mtu(index, mtu)
            case SetIsolated(isolated=isolated):
                await datapath.set_network_isolated(index, isolated)
            case AddSubnet(plan=plan):
                await self._add_subnet(network, plan)
            case DropSubnet(plan=plan):
                await self._drop_subnet(network, plan)
            case SetWayOut(way_out=way_out):
                await self._segments.set_way_out(network)
                if way_out is None:
                    await self._end_flows(network)
            case SetAdvertising():
                await self._segments.tell_advertising(network)
            case SetResolving(resolving=resolving) if resolving.names:
                await self._listen(network)
            case SettleContainers():
                await self._settle_containers(network, job)

    async def _add_subnet(self, network: Network, plan: SubnetPlan) -> None:
        for gateway in _bound(network, plan):
            await self._segments.bind_gateway(network, gateway)
        await self._segments.tell_own_subnets()

    async def _drop_subnet(self, network: Network, plan: SubnetPlan) -> None:
        kept = network.bound()
        for gateway in _bound(network, plan):
            if gateway not in kept:
                await self._parts.datapath.remove_neighbour(network.index, gateway.packed)
        self._leasing.close_subnet(network, plan.subnet)
        await self._segments.tell_own_subnets()

    async def _end_flows(self, network: Network) -> None:
        """Those that are open would go on, since a flow is asked about policy once."""
        rows = await self._parts.datapath.flows()
        await self._parts.datapath.kill_flows([(r.number, r.generation) for r in rows if r.network == network.index])

    async def _listen(self, network: Network) -> None:
        """Containers that had no names so far ask at their own loopback from now on."""
        for container in self._parts.inventory.on_network(network):
            async with container.lock:
                if container.record.state == "running":
                    await self._resolving.listen(container, origin=container.record.origin)

    async def _settle_containers(self, network: Network, job: Job) -> None:
        places = asyncio.Semaphore(AT_ONCE)
        settling = [self._settle(c, network, places, job) for c in self._parts.inventory.on_network(network)]
        results = await asyncio.gather(*settling, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _settle(self, container: Container, network: Network, places: asyncio.Semaphore, job: Job) -> None:
        """One that is ending, or whose interface is beyond reach, has nothing to follow with."""
        async with places, container.lock, AsyncExitStack() as undo:
            here = [e for e in container.record.endpoints if e.id in container.ports]
            if not any(endpoint.network == network.record.id for endpoint in here):
                return
            try:
                await self._settling.settle(container, here, job, undo)
            except (NamespaceGone, InterfaceGone) as gone:
                log.debug("container %s does not follow its network: %s", container.name, gone)
            except Refused as refusal:
                raise Refused(f"container {container.name} can't follow: {refusal}", refusal.status) from None
            undo.pop_all()


def merged(record: NetworkRecord, update: NetworkUpdate) -> NetworkSpec:
    """What the user has asked for altogether."""
    asked = record.asked
    options = _patched(asked.options, update.options)
    if update.mtu is not None:
        options = {name: value for name, value in options.items() if "mtu" not in named_options({name: value})}
    plain = {
        name: value
        for name in ("mtu", "internal", "ipv6", "dns", "dns_servers", "dns_search", "dns_options")
        if (value := getattr(update, name)) is not None
    }
    subnets = _merged_subnets(record, update.subnets)
    labels = _patched(asked.labels, update.labels)
    return replace(asked, subnets=subnets, labels=labels, options=options, **plain)


def _patched(before: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    both = {**before, **changes}
    return {name: value for name, value in both.items() if value is not None}


def _merged_subnets(record: NetworkRecord, changes: list[SubnetSpec]) -> list[SubnetSpec]:
    """Those that were asked for, with what is changed of them or of chosen ones, and those that are added."""
    subnets = {plan_subnet(spec).subnet: spec for spec in record.asked.subnets}
    decided = {plan_subnet(spec).subnet: spec for spec in record.subnets}
    for spec in changes:
        subnet = plan_subnet(spec).subnet
        former = subnets.get(subnet) or decided.get(subnet)
        if former is not None:
            spec = SubnetSpec(
                subnet=former.subnet,
                gateway=spec.gateway or former.gateway,
                ip_range=spec.ip_range or former.ip_range,
                aux_addresses={**former.aux_addresses, **spec.aux_addresses},
            )
        subnets[subnet] = spec
    return list(subnets.values())


def _bound(network: Network, plan: SubnetPlan) -> list[Address]:
    """What the gateway answers for because of a subnet."""
    return [plan.gateway, link_local(network.gateway_mac)] if plan.gateway.version == 6 else [plan.gateway]
