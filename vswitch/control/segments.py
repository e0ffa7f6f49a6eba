# SPDX-License-Identifier: Apache-2.0
"""Networks come and go: reserved, made in the dataplane, stored; and backwards.

A network's name, index and subnets are reserved in the turn of the event loop in which it is planned, so no
other request can get them; until it is stored it cannot be found by anybody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from ipaddress import IPv4Interface

from vswitch.config import DefaultNetworkSettings
from vswitch.control.edges import Parts
from vswitch.control.jobs import Job, quietly
from vswitch.control.leases import Leasing
from vswitch.control.names import new_id
from vswitch.control.networks import DEFAULT, Network, Surroundings, plan_network
from vswitch.control.records import NetworkRecord, encode
from vswitch.control.store import Change, Delete, Put
from vswitch.model import NetworkSpec, Refused, SubnetSpec

log = logging.getLogger(__name__)


class Segments:
    """The networks' comings and goings."""

    def __init__(self, parts: Parts, leasing: Leasing):
        self._parts = parts
        self._leasing = leasing
        self._subnets_told = asyncio.Lock()  # so that an older list never follows a newer one

    async def create(self, asked: NetworkSpec, job: Job) -> Network:
        """A user's new network. Refused, and then nothing of it is left."""
        if asked.name == DEFAULT and DEFAULT not in self._parts.inventory.network_ids:
            raise self._left_to_settings("true")
        return await self._create(asked, job)

    async def _create(self, asked: NetworkSpec, job: Job) -> Network:
        parts = self._parts
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._tell_subnets)  # last of all: without the network's
            network = self._reserve(asked, undo)
            await self._open(network, undo)
            job.go_on()
            await parts.store.write([Put("networks", network.record.id, encode(network.record))])
            undo.pop_all()
        self._publish(network)
        parts.events.publish("network", "create", network.record.id, network.name)
        return network

    async def restore(self, record: NetworkRecord, last: Mapping[str, str]) -> Network:
        """A stored network, as it was before the restart."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._tell_subnets)
            network = Network(record, self._take_index(undo), last)
            self._parts.inventory.add_network(network)
            undo.callback(self._parts.inventory.drop_network, network)
            await self._open(network, undo)
            undo.pop_all()
        self._publish(network)
        return network

    async def remove(self, network: Network) -> None:
        """Refused while a container, running or not, is on it."""
        if network.name == DEFAULT:
            raise self._left_to_settings("false")
        await self._remove(network)

    async def prune(self, job: Job) -> list[str]:
        """Remove every network that no container is on, but the default one; their names."""
        unused = [n for n in self._parts.inventory.ready_networks() if not n.endpoints and n.name != DEFAULT]
        removed = []
        for network in unused:
            job.go_on()
            if network.ready and not network.endpoints:
                await self._remove(network)
                removed.append(network.name)
        return removed

    async def settle_default(self, settings: DefaultNetworkSettings) -> None:
        """Bring the default network in line with the settings; a used one is left as it is, which is logged.

        Refused where the settings name a subnet that cannot be had. Without a free subnet in the pools there
        is no default network, and the log says why.
        """
        wanted = default_network(settings)
        existing = self._parts.inventory.network_ids.get(DEFAULT)
        if existing is not None:
            network = self._parts.inventory.networks[existing]
            if settings.enabled and network.record.asked == wanted:
                return
            if network.endpoints:
                log.warning("the default network is in use, so its changed settings wait until it is not")
                return
            await self._remove(network)
        if settings.enabled:
            try:
                await self._create(wanted, Job())
            except Refused as refusal:
                if wanted.subnets or wanted.options:
                    raise
                log.warning("there is no default network: %s", refusal)

    def stored_cursors(self, network: Network) -> list[Change]:
        """What the store must know so that addresses are handed out in the same order after a restart."""
        return [
            Put("cursors", f"{network.record.id}/{subnet}", last.encode())
            for subnet, last in network.cursors().items()
        ]

    def _left_to_settings(self, enabled: str) -> Refused:
        """Where the default network is turned on or off, which no client can."""
        path = self._parts.config_path
        return Refused(
            "the default network belongs to the switch's settings: "
            f"put enabled = {enabled} under [default_network] in {path} and restart vswitch-run",
            403,
        )

    def _reserve(self, asked: NetworkSpec, undo: AsyncExitStack) -> Network:
        parts = self._parts
        if asked.name in parts.inventory.network_ids:
            raise Refused(f"network {asked.name} exists already: choose another name", 409)
        index = self._take_index(undo)
        record = plan_network(
            asked,
            self._surroundings(),
            identity=new_id(parts.random),
            created_at=parts.clock.wall_s(),
            random=parts.random,
        )
        network = Network(record, index, {})
        parts.inventory.add_network(network)
        undo.callback(parts.inventory.drop_network, network)
        return network

    def _take_index(self, undo: AsyncExitStack) -> int:
        indexes, limit = self._parts.inventory.network_indexes, self._parts.settings.switch.max_networks
        index = indexes.take() if indexes.used < limit else None
        if index is None:
            raise Refused(
                f"the switch has {limit} networks, its limit: remove one (vswitch network prune)", 507
            )
        undo.callback(indexes.give_back, index)
        return index

    def _surroundings(self) -> Surroundings:
        networks = {network.name: network.subnets for network in self._parts.inventory.networks.values()}
        parts = self._parts
        return Surroundings(
            networks,
            parts.host.routes(),
            parts.settings.pools,
            parts.addresses.current,
            parts.host.interfaces(),
        )

    async def _open(self, network: Network, undo: AsyncExitStack) -> None:
        """Make it in the dataplane: the gateway's own addresses, and the way out only once nothing can leak by it."""
        datapath, index = self._parts.datapath, network.index
        await datapath.add_network(index, mtu=network.record.mtu, gateway_mac=network.gateway_mac, dhcp=True)
        undo.push_async_callback(self._close, network)
        for gateway in network.bound():
            try:
                await datapath.add_neighbour(index, gateway.packed, network.gateway_mac, None)
            except LookupError as full:
                raise Refused(f"the switch's neighbour table is full ({full}): remove a network", 507) from None
        await self._set_own_subnets()
        if (way := network.way_out) is not None:
            await datapath.set_way_out(
                index,
                open=True,
                host_loopback=way.host_loopback,
                endpoint_filtering=way.endpoint_filtering,
                source4=way.source4,
                source6=way.source6,
                device=way.device,
            )

    async def _set_own_subnets(self) -> None:
        """Tell the dataplane which addresses are the switch's networks' own, so that none leaves by another."""
        async with self._subnets_told:
            await self._parts.datapath.set_own_subnets(
                [
                    (network.index, subnet.network_address.packed, subnet.prefixlen)
                    for network in self._parts.inventory.networks.values()
                    for subnet in network.subnets
                ]
            )

    async def _tell_subnets(self) -> None:
        """The same where nobody could do anything about a failure."""
        await quietly(self._set_own_subnets(), "the networks' own subnets")

    async def _close(self, network: Network) -> None:
        """Take it out of the dataplane; goes on whatever fails."""
        datapath, index = self._parts.datapath, network.index
        for gateway in network.bound():
            await quietly(datapath.remove_neighbour(index, gateway.packed), f"network {network.name}")
        await quietly(datapath.remove_network(index), f"network {network.name}")

    def _publish(self, network: Network) -> None:
        self._leasing.open(network)
        network.ready = True

    async def _remove(self, network: Network) -> None:
        parts = self._parts
        if network.endpoints:
            raise Refused(
                f"network {network.name} is in use by {self._users(network)}: remove them first", 409
            )
        network.ready = False
        try:
            await parts.store.write(self._forgotten(network))
        except BaseException:
            network.ready = True
            raise
        self._leasing.close(network)
        await self._close(network)
        parts.inventory.drop_network(network)
        await self._tell_subnets()
        parts.inventory.network_indexes.give_back(network.index)
        parts.events.publish("network", "remove", network.record.id, network.name)

    def _forgotten(self, network: Network) -> Sequence[Change]:
        cursors = [Delete("cursors", f"{network.record.id}/{subnet}") for subnet in network.subnets]
        return [Delete("networks", network.record.id), *cursors, *self._leasing.forgotten(network)]

    def _users(self, network: Network) -> str:
        """`web, db (exited) and 3 more`."""
        users = [
            container.name
            if container.record.state == "running"
            else f"{container.name} ({container.record.state})"
            for container, _ in self._parts.inventory.members().get(network.record.id, ())
        ]
        return ", ".join(users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")


def default_network(settings: DefaultNetworkSettings) -> NetworkSpec:
    """What the settings ask the default network to be."""
    subnets = []
    if settings.bip is not None:
        gateway = IPv4Interface(settings.bip)
        subnets.append(
            SubnetSpec(subnet=str(gateway.network), gateway=str(gateway.ip), ip_range=settings.fixed_cidr)
        )
    if settings.fixed_cidr_v6 is not None:
        subnets.append(SubnetSpec(subnet=settings.fixed_cidr_v6))
    return NetworkSpec(
        name=DEFAULT, subnets=subnets, ipv6=settings.ipv6, mtu=settings.mtu, options=dict(settings.options)
    )
