# SPDX-License-Identifier: Apache-2.0
"""An endpoint's descriptor becomes a port of the dataplane, and stops being one.

    connect:     bindings of its addresses → port (static MAC, guard on unless it was asked off) → names → kept
    by the service manager
    disconnect:  published ports, then the same backwards; only then is the descriptor closed

A descriptor belongs to this room from `connect` on. `let_go` also ends the interface's persistence, so it
goes with its last descriptor; `put_down` closes ours only, and the interface waits for the next switch.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, ip_address

from vswitch.control.announce import gratuitous_arp, unsolicited_advertisement
from vswitch.control.edges import Parts
from vswitch.control.inventory import Container, Port
from vswitch.control.jobs import quietly
from vswitch.control.names import link_local, mac_bytes
from vswitch.control.publishing import Publishing
from vswitch.control.records import EndpointRecord
from vswitch.control.resolving import Resolver
from vswitch.model import Refused
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.tap import KIND_PACKET, KIND_TAP, Tap

log = logging.getLogger(__name__)

REMEMBERED = 1 << 16  # addresses whose last MAC is known; beyond, all are forgotten


class Wiring:
    """What connects descriptors with the dataplane."""

    def __init__(self, parts: Parts, publishing: Publishing, resolving: Resolver):
        self._parts = parts
        self._publishing = publishing
        self._resolving = resolving
        self._macs: dict[tuple[str, bytes], bytes] = {}  # of an address on a network, as last told

    async def connect(
        self,
        container: Container,
        endpoint: EndpointRecord,
        tap: Tap,
        plan: InterfacePlan | None,
        undo: AsyncExitStack,
    ) -> Port:
        """Make the endpoint a port, whose interface is as `plan` says (None: nobody knows). `undo` takes it back, the
        interface included; on failure that has happened already.
        """
        parts = self._parts
        async with AsyncExitStack() as partly:
            partly.callback(self.let_go, tap.fd)
            index = self._take_index()
            partly.callback(parts.inventory.port_indexes.give_back, index)
            port = Port(index, tap, container, endpoint, parts.inventory.networks[endpoint.network])
            port.plan = plan
            parts.observer.port_coming(port)
            partly.callback(parts.observer.port_left, port)
            partly.push_async_callback(self._unbind, port)
            await self._bind(port)
            await self._add(port)
            partly.push_async_callback(self._take_out, port)
            await parts.observer.port_came(port)
            partly.callback(self._enlist(port))
            undo.push_async_exit(partly.pop_all())
        return port

    def announce(self, port: Port) -> None:
        """Tell the network who has the port's addresses now, if somebody else had them, whom others may remember.

        Each announcement goes to all members, so that a thousand newcomers would cost half a million copies. Where
        containers are kept apart, nobody asks.
        """
        if port.network.shape.isolated:
            return
        for address, mac in self._addresses(port):
            if self._told(port.network.record.id, address.packed, mac):
                continue
            if isinstance(address, IPv4Address):
                frame = gratuitous_arp(mac, address)
            else:
                frame = unsolicited_advertisement(mac, address)
            self._parts.datapath.inject(frame, network=port.network.index, except_port=port.index)

    def _told(self, network: str, address: bytes, mac: bytes) -> bool:
        """Whether nobody can remember another MAC for an address; this one is the last from now on."""
        if len(self._macs) >= REMEMBERED:
            self._macs.clear()
        former = self._macs.get((network, address), mac)
        self._macs[network, address] = mac
        return former == mac

    async def disconnect(self, port: Port, *, keep_interface: bool = False) -> None:
        """Take the port out of the dataplane and give its descriptor up, whatever fails on the way."""
        await self._publishing.close(port)
        self._delist(port)
        await self._remove(port)
        self._parts.observer.port_left(port)
        self._parts.inventory.port_indexes.give_back(port.index)
        if keep_interface:
            self.put_down(port.tap.fd)
        else:
            self._parts.keeper.forget(port.endpoint.id)
            # the kernel takes an interface apart in tens of milliseconds, or in minutes if somebody holds on to it
            await asyncio.to_thread(self.let_go, port.tap.fd)

    def let_go(self, fd: int) -> None:
        """Close a TAP and let its interface go with it."""
        try:
            self._parts.taps.release_tap(fd)
        except OSError as problem:
            log.warning("an interface stays behind in its namespace: %s", problem)
        self.put_down(fd)

    def put_down(self, fd: int) -> None:
        """Close a TAP whose interface stays."""
        try:
            os.close(fd)
        except OSError as problem:
            log.error("closing a port's descriptor: %s", problem)

    def _take_index(self) -> int:
        inventory, limit = self._parts.inventory, self._parts.settings.switch.max_ports
        index = inventory.port_indexes.take() if inventory.port_indexes.used < limit else None
        if index is None:
            raise Refused(
                f"the switch has {limit} ports, its limit: detach a container or raise switch.max_ports", 507
            )
        return index

    async def _add(self, port: Port) -> None:
        await self._parts.datapath.add_port(
            port.index,
            port.tap.fd,
            port.network.index,
            kind=KIND_PACKET if stat.S_ISSOCK(os.fstat(port.tap.fd).st_mode) else KIND_TAP,
            vnet_header=port.tap.vnet_header,
            gso=port.tap.gso,
            mac=mac_bytes(port.endpoint.mac),
            guard=port.endpoint.source_guard,
            addresses=port.bindings,  # it is held to them from its first frame on
            shared=False,  # our own helper opened it, non-blocking, and a store keeps its copy untouched
            sibling=next((other.index for other in port.container.ports.values()), None),
        )

    async def _bind(self, port: Port) -> None:
        addresses = self._addresses(port)
        if port.endpoint.ipv6 is not None:
            mac = mac_bytes(port.endpoint.mac)
            addresses.append((link_local(mac), mac))
        for address, mac in addresses:
            port.bindings.append(address.packed)
            try:
                await self._parts.datapath.add_neighbour(port.network.index, address.packed, mac, port.index)
            except LookupError as full:
                raise Refused(f"the switch's neighbour table is full ({full}): detach a container", 507) from None

    async def _remove(self, port: Port) -> None:
        await self._take_out(port)
        await self._unbind(port)

    async def _unbind(self, port: Port) -> None:
        while port.bindings:
            unbinding = self._parts.datapath.remove_neighbour(port.network.index, port.bindings.pop())
            await quietly(unbinding, _called(port))

    async def _take_out(self, port: Port) -> None:
        await quietly(self._parts.datapath.remove_port(port.index), _called(port))

    def _enlist(self, port: Port):
        """The port can be found from now on; returns what takes that back."""
        self._parts.inventory.ports[port.index] = port
        port.container.ports[port.endpoint.id] = port
        self._resolving.port_came(port)
        self._parts.keeper.store(port.endpoint.id, port.tap.fd)

        def take_back() -> None:
            self._delist(port)
            self._parts.keeper.forget(port.endpoint.id)

        return take_back

    def _delist(self, port: Port) -> None:
        self._parts.inventory.ports.pop(port.index, None)
        if port.container.ports.pop(port.endpoint.id, None) is not None:
            self._resolving.port_left(port)

    def _addresses(self, port: Port):
        mac = mac_bytes(port.endpoint.mac)
        return [
            (ip_address(text), mac) for text in (port.endpoint.ipv4, port.endpoint.ipv6) if text is not None
        ]


def _called(port: Port) -> str:
    """As the log names it."""
    return f"port {port.container.name}/{port.endpoint.interface}"
