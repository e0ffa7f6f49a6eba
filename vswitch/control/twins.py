# SPDX-License-Identifier: Apache-2.0
"""In-memory twins of what the controller is handed (edges.py): a whole switch without kernel or root.

    MemoryNamespaces   attach helper and TAPs: a namespace is whatever a descriptor is of (a file will do),
                       an interface is a plan, a port the end of a socket pair whose other end `hosts` holds
    MemoryDatapath     remembers what it was told, refuses what the real one refuses, forwards nothing
    MemoryWatcher      notices the end of what `end_path` is told; processes are real and watched by pidfd
    MemoryKeeper       the service manager's descriptor store

The host's own (resolvers, addresses, sockets) are in host_twins.py. They are faithful where the controller can tell
the difference, and no further. With MemoryNamespaces and the real datapath.plane.Datapath, frames sent into `hosts` are
really switched.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from vswitch.control.edges import ListenerGroup
from vswitch.control.views import summed
from vswitch.datapath.plane import FdbRow, FlowRow, NeighbourRow
from vswitch.model import NamespaceOrigin, Refused
from vswitch.ports.inside import InterfaceGone, NamespaceGone
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.memory import memory_pair
from vswitch.ports.tap import Tap

Identity = tuple[int, int]  # device and inode of a namespace


class MemoryNamespaces:
    """ports.enter.AttachHelper and the functions of ports.tap in one, since they speak of the same
    interfaces.
    """

    def __init__(self) -> None:
        self.interfaces: dict[Identity, dict[str, InterfacePlan]] = {}
        self.hosts: dict[tuple[Identity, str], socket.socket] = {}
        self.gone: set[Identity] = set()
        self.forbidden: set[Identity] = set()
        self.port_53_taken: set[Identity] = set()
        self.resolvers: dict[Identity, tuple[tuple[str, int], tuple[str, int]]] = {}  # UDP and TCP addresses
        self._taps: dict[Identity, tuple[Identity, str]] = {}  # a descriptor's own identity → its interface

    # ---- as the helper

    async def attach(self, netns_fd: int, userns_fd: int | None, plan: InterfacePlan) -> Tap:
        """A new interface; Refused if its name is taken."""
        await asyncio.sleep(0)
        return self._attach(self._enter(_identity(netns_fd)), plan)

    def _attach(self, namespace: Identity, plan: InterfacePlan) -> Tap:
        there = self.interfaces.setdefault(namespace, {})
        name = plan.name or next(name for n in range(len(there) + 1) if (name := f"eth{n}") not in there)
        if name in there:
            raise Refused(
                f"the namespace has an interface {name} already: choose another name or leave it out", 409
            )
        there[name] = replace(plan, name=name)
        return self._open(namespace, name)

    async def attach_at(self, origin: NamespaceOrigin, plan: InterfacePlan) -> Tap:
        """A new interface where the namespace is known from before."""
        await asyncio.sleep(0)
        return self._attach(self._enter((origin.device, origin.inode)), plan)

    async def configure(self, origin: NamespaceOrigin, plan: InterfacePlan) -> None:
        """An interface that is there becomes as planned."""
        await asyncio.sleep(0)
        there = self.interfaces.get(self._enter((origin.device, origin.inode)), {})
        if plan.name not in there:
            raise InterfaceGone(plan.name or "")
        there[plan.name] = plan

    async def reattach(self, origin: NamespaceOrigin, plan: InterfacePlan) -> Tap:
        """An interface that is there already."""
        await asyncio.sleep(0)
        namespace = self._enter((origin.device, origin.inode))
        if plan.name not in self.interfaces.get(namespace, {}):
            raise InterfaceGone(plan.name or "")
        self.interfaces[namespace][plan.name] = plan
        return self._open(namespace, plan.name)

    async def remove(
        self,
        name: str,
        *,
        netns_fd: int | None = None,
        userns_fd: int | None = None,
        origin: NamespaceOrigin | None = None,
        mac: str | None = None,
    ) -> None:
        """Delete an interface; one that is gone already is fine."""
        await asyncio.sleep(0)
        identity = _identity(netns_fd) if netns_fd is not None else (origin.device, origin.inode)
        if identity not in self.gone:
            there = self.interfaces.get(self._enter(identity), {})
            there.pop(name or next((n for n, plan in there.items() if plan.mac == mac), ""), None)

    async def listen(
        self,
        *,
        netns_fd: int | None = None,
        userns_fd: int | None = None,
        origin: NamespaceOrigin | None = None,
        ask: bool = False,
    ) -> tuple[int, ...]:
        """The resolver's sockets: on a port of the machine's own loopback that `resolvers` tells, by namespace."""
        await asyncio.sleep(0)
        identity = _identity(netns_fd) if netns_fd is not None else (origin.device, origin.inode)
        self._enter(identity)
        if identity in self.port_53_taken:
            raise Refused("UDP port 53 of 127.0.0.11 is taken there by another program", 409)
        made = [socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
        for one in made:
            one.setblocking(False)
            one.bind(("127.0.0.1", 0))
        made[1].listen()
        self.resolvers[identity] = made[0].getsockname(), made[1].getsockname()
        if ask:
            for family, loopback in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                made.append(socket.socket(family, socket.SOCK_DGRAM))
                made[-1].setblocking(False)
                made[-1].bind((loopback, 0))  # so that nothing can leave the machine
        return tuple(one.detach() for one in made)

    # ---- as ports.tap

    def adopt_tap(self, fd: int) -> Tap:
        """The interface of a descriptor that was kept."""
        found = self._taps.get(_identity(fd))
        if found is None or found[1] not in self.interfaces.get(found[0], {}):
            raise Refused(f"descriptor {fd} is no TAP")
        return Tap(fd, found[1], vnet_header=False, gso=0)

    def release_tap(self, fd: int) -> None:
        """The interface goes: whoever releases it closes the descriptor next."""
        namespace, name = self._taps.pop(_identity(fd))
        self.interfaces.get(namespace, {}).pop(name, None)
        host = self.hosts.pop((namespace, name), None)
        if host is not None:
            host.close()

    # ---- as the world outside

    def end(self, origin: NamespaceOrigin) -> None:
        """The namespace ends, with every interface in it."""
        identity = (origin.device, origin.inode)
        self.gone.add(identity)
        self.interfaces.pop(identity, None)

    def _enter(self, identity: Identity) -> Identity:
        if identity in self.gone:
            raise NamespaceGone("it has ended")
        if identity in self.forbidden:
            raise Refused("may not enter the network namespace: it belongs to uid 4711", 403)
        return identity

    def _open(self, namespace: Identity, name: str) -> Tap:
        fd, host = memory_pair()
        self._taps[_identity(fd)] = (namespace, name)
        self.hosts[namespace, name] = host
        return Tap(fd, name, vnet_header=False, gso=0)


@dataclass
class MemoryPort:
    fd: int
    network: int
    kind: str
    mac: bytes | None
    guard: bool
    sibling: int | None


class MemoryDatapath:
    """datapath.plane.Datapath without frames."""

    def __init__(self) -> None:
        self.networks: dict[int, dict[str, Any]] = {}
        self.ports: dict[int, MemoryPort] = {}
        self.bindings: dict[tuple[int, bytes], tuple[bytes, int | None]] = {}
        self.injected: list[
            tuple[bytes, int, int | None, int | None]
        ] = []  # frame, network, port, except_port
        self.ways_out: dict[int, dict[str, Any]] = {}
        self.own_subnets: list[tuple[int, bytes, int]] = []
        self.host_addresses: list[bytes] = []
        self.listeners: dict[Any, tuple[int, bytes | None, bytes | None]] = {}  # group → port, addresses
        self.flow_rows: list[FlowRow] = []
        self.flows_watched = False
        self.port_drops: dict[int, dict[str, int]] = {}
        self.departed_drops: dict[int, dict[str, int]] = {}  # by network, of ports that were removed
        self.on_punt: Callable[[Any], None] = lambda punt: None
        self.on_event: Callable[[Any], None] = lambda event: None
        self.on_connection: Callable[[Any], None] = lambda connection: None

    async def add_network(self, index: int, *, mtu: int, gateway_mac: bytes, dhcp: bool) -> None:
        await asyncio.sleep(0)
        if index in self.networks or not 0 <= index < 4096 or len(gateway_mac) != 6:
            raise ValueError("index taken or out of range, or no valid MAC")
        self.networks[index] = {"mtu": mtu, "gateway_mac": gateway_mac, "dhcp": dhcp, "isolated": False}

    async def set_network_mtu(self, index: int, mtu: int) -> None:
        await asyncio.sleep(0)
        self.networks[index]["mtu"] = mtu

    async def set_network_isolated(self, index: int, isolated: bool) -> None:
        await asyncio.sleep(0)
        self.networks[index]["isolated"] = isolated

    async def set_network_router(self, index: int, *, on: bool, prefixes: Collection[bytes] = ()) -> None:
        await asyncio.sleep(0)
        if any(len(prefix) != 8 for prefix in prefixes):
            raise ValueError("not the 8 bytes of a /64")
        self.networks[index]["router"] = on, tuple(prefixes)

    async def remove_network(self, index: int) -> None:
        await asyncio.sleep(0)
        if any(port.network == index for port in self.ports.values()):
            raise ValueError("the network still has ports")
        del self.networks[index]
        self.ways_out.pop(index, None)
        self.departed_drops.pop(index, None)

    async def add_port(
        self,
        index: int,
        fd: int,
        network: int,
        *,
        kind: str,
        vnet_header: bool,
        gso: int,
        mac: bytes | None = None,
        guard: bool = True,
        addresses: Collection[bytes] = (),
        shared: bool = True,
        sibling: int | None = None,
    ) -> None:
        await asyncio.sleep(0)
        if index in self.ports or not 0 <= index < 65535 or network not in self.networks:
            raise ValueError("port index taken or out of range, or no such network")
        os.fstat(fd)  # a closed descriptor is an error here, not later
        if any((network, address) not in self.bindings for address in addresses):
            raise ValueError("a port's addresses are bound before it is added")
        self.ports[index] = MemoryPort(fd, network, kind, mac, guard, sibling)

    async def remove_port(self, index: int) -> None:
        await asyncio.sleep(0)
        if any(port == index for port, _, _ in self.listeners.values()):
            raise ValueError("the port still has listeners")
        port = self.ports.pop(index)
        os.fstat(port.fd)  # whoever closes a descriptor before its port is removed finds out here
        dropped = [self.departed_drops.get(port.network, {}), self.port_drops.pop(index, {})]
        self.departed_drops[port.network] = summed(dropped)

    async def add_neighbour(self, network: int, address: bytes, mac: bytes, port: int | None) -> None:
        await asyncio.sleep(0)
        if network not in self.networks or len(address) not in (4, 16) or len(mac) != 6:
            raise ValueError("no such network, or no valid address or MAC")
        self.bindings[network, address] = (mac, port)

    async def remove_neighbour(self, network: int, address: bytes) -> None:
        await asyncio.sleep(0)
        if network not in self.networks:
            raise ValueError("no such network")
        self.bindings.pop((network, address), None)

    async def serve_names(self, index: int, on: bool) -> None:
        await asyncio.sleep(0)
        if index not in self.networks:
            raise ValueError("no such network")
        self.networks[index]["dns"] = on

    async def set_way_out(self, network: int, **way: Any) -> None:
        await asyncio.sleep(0)
        if network not in self.networks:
            raise ValueError("no such network")
        if way["open"]:
            self.ways_out[network] = way
        else:
            self.ways_out.pop(network, None)

    async def set_own_subnets(self, subnets: list[tuple[int, bytes, int]]) -> None:
        await asyncio.sleep(0)
        self.own_subnets = subnets

    async def set_host_addresses(self, addresses: list[bytes]) -> None:
        await asyncio.sleep(0)
        self.host_addresses = addresses

    async def add_listeners(
        self,
        group: ListenerGroup,
        *,
        network: int,
        port: int,
        address4: bytes | None,
        address6: bytes | None,
    ) -> None:
        await asyncio.sleep(0)
        if self.ports[port].network != network or network not in self.ways_out:
            raise ValueError("no such port on the network, or it has no way out")
        self.listeners[group] = (port, address4, address6)

    async def remove_listeners(self, group: ListenerGroup) -> None:
        await asyncio.sleep(0)
        self.listeners.pop(group, None)

    async def flows(self) -> list[FlowRow]:
        await asyncio.sleep(0)
        return list(self.flow_rows)

    async def kill_flows(self, flows: list[tuple[int, int]]) -> int:
        await asyncio.sleep(0)
        before = len(self.flow_rows)
        self.flow_rows = [row for row in self.flow_rows if (row.number, row.generation) not in flows]
        return before - len(self.flow_rows)

    async def watch_flows(self, on: bool) -> None:
        await asyncio.sleep(0)
        self.flows_watched = on

    async def fdb(self) -> list[FdbRow]:
        await asyncio.sleep(0)
        return [
            FdbRow(port.network, index, port.mac, True, 0)
            for index, port in self.ports.items()
            if port.mac is not None
        ]

    async def neighbours(self) -> list[NeighbourRow]:
        await asyncio.sleep(0)
        return [
            NeighbourRow(network, port, addr, mac) for (network, addr), (mac, port) in self.bindings.items()
        ]

    def counters(self, index: int) -> dict[str, Any]:
        counted = ("frames", "bytes", "segments", "wire_bytes")
        zeros = {f"{direction}_{what}": 0 for direction in ("rx", "tx") for what in counted}
        return {**zeros, "answered": 0, "punted": 0, "drops": dict(self.port_drops.get(index, {}))}

    def network_drops(self, index: int) -> dict[str, int]:
        present = [drops for port, drops in self.port_drops.items() if self.ports[port].network == index]
        return summed([self.departed_drops.get(index, {}), *present])

    def totals(self) -> dict[str, int]:
        sizes = {"ports": len(self.ports), "networks": len(self.networks), "fdb_entries": len(self.ports)}
        capacities = {"port_capacity": 65535, "network_capacity": 4096, "fdb_capacity": 65536}
        return {
            "wakeups": 0,
            "busy_polls": 0,
            "rests": 0,
            **sizes,
            **capacities,
            "neighbours": len(self.bindings),
            "neighbour_capacity": 131072,
            "flows": len(self.flow_rows),
            "flow_capacity": 65536,
            "descriptors": 0,
            "descriptor_capacity": 65536,
        }

    def inject(
        self, frame: bytes, *, network: int, port: int | None = None, except_port: int | None = None
    ) -> bool:
        self.injected.append((frame, network, port, except_port))
        return True


@dataclass
class MemoryWatch:
    callback: Callable[[], None]
    active: bool = True


class MemoryWatcher:
    """container.watch.NamespaceWatcher: pidfds by the event loop, paths by hand."""

    def __init__(self) -> None:
        self._pids: dict[int, tuple[MemoryWatch, int]] = {}
        self._paths: dict[int, tuple[MemoryWatch, str]] = {}

    @property
    def watched(self) -> int:
        """How much is watched now."""
        return len(self._pids) + len(self._paths)

    def watch_pid(self, pidfd: int, callback: Callable[[], None]) -> MemoryWatch:
        watch, own = MemoryWatch(callback), os.dup(pidfd)
        self._pids[id(watch)] = (watch, own)
        asyncio.get_running_loop().add_reader(own, self._ended, watch)
        return watch

    def watch_path(self, path: str, inode: int, callback: Callable[[], None]) -> MemoryWatch:
        watch = MemoryWatch(callback)
        self._paths[id(watch)] = (watch, path)
        return watch

    def forget(self, watch: MemoryWatch | None) -> None:
        if watch is None or not watch.active:
            return
        watch.active = False
        self._paths.pop(id(watch), None)
        if (found := self._pids.pop(id(watch), None)) is not None:
            asyncio.get_running_loop().remove_reader(found[1])
            os.close(found[1])

    def end_path(self, path: str) -> None:
        """What was at `path` is there no more."""
        for watch, watched in list(self._paths.values()):
            if watched == path:
                self._ended(watch)

    def close(self) -> None:
        for watch, _ in [*self._pids.values(), *self._paths.values()]:
            self.forget(watch)

    def _ended(self, watch: MemoryWatch) -> None:
        if watch.active:
            self.forget(watch)
            watch.callback()


class MemoryKeeper:
    """daemon.notify.Notifier: duplicates by name."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    def store(self, name: str, fd: int) -> None:
        self.forget(name)
        self.kept[name] = os.dup(fd)

    def forget(self, name: str) -> None:
        if (fd := self.kept.pop(name, None)) is not None:
            os.close(fd)

    def hand_over(self) -> dict[str, int]:
        """What a restarted switch is given: the duplicates are its own from now on."""
        kept, self.kept = self.kept, {}
        return kept


def _identity(fd: int) -> Identity:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
