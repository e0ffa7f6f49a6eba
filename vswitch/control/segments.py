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

from vswitch.control.edges import Parts
from vswitch.control.hostservices import HostServices
from vswitch.control.jobs import Job, quietly
from vswitch.control.names import new_id
from vswitch.control.networks import DEFAULT, Network, Surroundings, plan_network
from vswitch.control.records import NetworkRecord, encode
from vswitch.control.resolving import Resolver
from vswitch.control.store import Change, Delete, Put
from vswitch.control.subnets import Address
from vswitch.control.wayout import WayOut
from vswitch.model import NetworkSpec, Refused

log = logging.getLogger(__name__)


class Segments:
    """The networks' comings and goings."""

    def __init__(self, parts: Parts, leasing: HostServices, resolving: Resolver):
        self._parts = parts
        self._leasing = leasing
        self._resolving = resolving
        self._subnets_told = asyncio.Lock()  # so that an older list never follows a newer one

    async def create(self, asked: NetworkSpec, job: Job) -> Network:
        """A user's new network. Refused, and then nothing of it is left."""
        if asked.name == DEFAULT and DEFAULT not in self._parts.inventory.network_ids:
            raise self.left_to_settings("put enabled = true", "restart vswitch-run")
        return await self.make(asked, job)

    async def make(self, asked: NetworkSpec, job: Job) -> Network:
        """A new network, the default one included. Refused, and then nothing of it is left."""
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
            raise self.left_to_settings("put enabled = false", "restart vswitch-run")
        await self.unmake(network)

    async def prune(self, job: Job) -> list[str]:
        """Remove every network that no container is on, but the default one; their names."""
        unused = [n for n in self._parts.inventory.ready_networks() if not n.endpoints and n.name != DEFAULT]
        removed = []
        for network in unused:
            job.go_on()
            if network.ready and not network.endpoints:
                await self.unmake(network)
                removed.append(network.name)
        return removed

    def stored_cursors(self, network: Network) -> list[Change]:
        """What the store must know so that addresses are handed out in the same order after a restart."""
        return [
            Put("cursors", f"{network.record.id}/{subnet}", last.encode())
            for subnet, last in network.cursors().items()
        ]

    def left_to_settings(self, what: str, then: str) -> Refused:
        """Where the default network is turned on or off, or changed, which no client can."""
        path = self._parts.config_path
        return Refused(
            "the default network belongs to the switch's settings: "
            f"{what} under [default_network] in {path} and {then}",
            403,
        )

    def _reserve(self, asked: NetworkSpec, undo: AsyncExitStack) -> Network:
        parts = self._parts
        if asked.name in parts.inventory.network_ids:
            raise Refused(f"network {asked.name} exists already: choose another name", 409)
        index = self._take_index(undo)
        record = plan_network(
            asked,
            self.surroundings(),
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

    def surroundings(self) -> Surroundings:
        """What a network must fit in with now."""
        networks = {network.name: network.subnets for network in self._parts.inventory.networks.values()}
        parts = self._parts
        return Surroundings(
            networks,
            parts.host.routes(),
            parts.settings.pools,
            parts.addresses.current,
            parts.host.interfaces(),
        )

    async def tell_advertising(self, network: Network) -> None:
        """Which questions cross to the router, and in which prefixes containers make themselves addresses."""
        said = network.shape.advertising
        await self._parts.datapath.set_network_router(network.index, on=said.on, prefixes=said.prefixes)

    async def _open(self, network: Network, undo: AsyncExitStack) -> None:
        """Make it in the dataplane: the gateway's own addresses, and the way out only once nothing can leak by it."""
        datapath, index = self._parts.datapath, network.index
        mtu, mac = network.record.mtu, network.gateway_mac
        await datapath.add_network(index, mtu=mtu, gateway_mac=mac, dhcp=network.hosts.dhcp)
        undo.push_async_callback(self._close, network)
        if network.advertised:
            await self.tell_advertising(network)
        for gateway in network.bound():
            await self.bind_gateway(network, gateway)
        if network.shape.isolated:
            await datapath.set_network_isolated(index, True)
        await self._resolving.open(network)
        await self.tell_own_subnets()
        if network.way_out is not None:
            await self.set_way_out(network)

    async def set_way_out(self, network: Network) -> None:
        """Open it as the network says, or close it."""
        way = network.way_out or WayOut()
        await self._parts.datapath.set_way_out(
            network.index,
            open=network.way_out is not None,
            host_loopback=way.host_loopback,
            endpoint_filtering=way.endpoint_filtering,
            source4=way.source4,
            source6=way.source6,
            device=way.device,
        )

    async def bind_gateway(self, network: Network, gateway: Address) -> None:
        """Let the gateway answer for an address."""
        try:
            await self._parts.datapath.add_neighbour(network.index, gateway.packed, network.gateway_mac, None)
        except LookupError as full:
            raise Refused(f"the switch's neighbour table is full ({full}): remove a network", 507) from None

    async def tell_own_subnets(self) -> None:
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
        await quietly(self.tell_own_subnets(), "the networks' own subnets")

    async def _close(self, network: Network) -> None:
        """Take it out of the dataplane; goes on whatever fails."""
        datapath, index = self._parts.datapath, network.index
        self._resolving.close(network)
        for gateway in network.bound():
            await quietly(datapath.remove_neighbour(index, gateway.packed), f"network {network.name}")
        await quietly(datapath.remove_network(index), f"network {network.name}")

    def _publish(self, network: Network) -> None:
        self._leasing.open(network)
        network.ready = True

    async def unmake(self, network: Network) -> None:
        """Take it away, the default one included. Refused while in use."""
        async with network.lock:
            await self._unmake(network)

    async def _unmake(self, network: Network) -> None:
        parts = self._parts
        if not network.ready:
            raise Refused(f"no such network: {network.name!r}", 404)
        if network.endpoints:
            them = "it" if len(self._parts.inventory.members().get(network.record.id, ())) == 1 else "them"
            raise Refused(
                f"network {network.name} is in use by {self._users(network)}: remove {them} first", 409
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
