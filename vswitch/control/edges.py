# SPDX-License-Identifier: Apache-2.0
"""What the controller is handed: everything that touches the kernel, the clock or chance, as protocols.

The real ones stand in datapath/, ports/, container/, daemon/ and host.py; in-memory twins of all of them in
twins.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from vswitch.clock import Clock
from vswitch.config import Settings
from vswitch.container.files import ResolvConf
from vswitch.control.events import Events
from vswitch.control.inventory import Inventory, Port
from vswitch.control.store import Store
from vswitch.control.subnets import Subnet
from vswitch.model import NamespaceOrigin
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.tap import Tap


class Datapath(Protocol):
    """datapath.plane.Datapath, as far as the controller uses it."""

    on_punt: Callable[[Any], None]
    on_event: Callable[[Any], None]
    on_connection: Callable[[Any], None]

    async def add_network(self, index: int, *, mtu: int, gateway_mac: bytes, dhcp: bool) -> None: ...
    async def set_network_mtu(self, index: int, mtu: int) -> None: ...
    async def set_network_isolated(self, index: int, isolated: bool) -> None: ...
    async def set_network_router(self, index: int, *, on: bool, prefixes: Collection[bytes] = ()) -> None: ...
    async def remove_network(self, index: int) -> None: ...
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
    ) -> None: ...
    async def remove_port(self, index: int) -> None: ...
    async def add_neighbour(self, network: int, address: bytes, mac: bytes, port: int | None) -> None: ...
    async def remove_neighbour(self, network: int, address: bytes) -> None: ...
    async def serve_names(self, index: int, on: bool) -> None: ...
    async def set_way_out(
        self,
        network: int,
        *,
        open: bool,
        host_loopback: bool,
        endpoint_filtering: bool,
        source4: bytes | None,
        source6: bytes | None,
        device: str | None,
    ) -> None: ...
    async def set_own_subnets(self, subnets: list[tuple[int, bytes, int]]) -> None: ...
    async def set_host_addresses(self, addresses: list[bytes]) -> None: ...
    async def add_listeners(
        self,
        group: ListenerGroup,
        *,
        network: int,
        port: int,
        address4: bytes | None,
        address6: bytes | None,
    ) -> None: ...
    async def remove_listeners(self, group: ListenerGroup) -> None: ...
    async def flows(self) -> list[Any]: ...
    async def kill_flows(self, flows: list[tuple[int, int]]) -> int: ...
    async def watch_flows(self, on: bool) -> None: ...
    async def fdb(self) -> list[Any]: ...
    async def neighbours(self) -> list[Any]: ...
    def counters(self, index: int) -> dict[str, Any]: ...
    def network_drops(self, index: int) -> dict[str, int]: ...
    def totals(self) -> dict[str, int]: ...
    def inject(
        self, frame: bytes, *, network: int, port: int | None = None, except_port: int | None = None
    ) -> bool: ...


class ListenerGroup(Protocol):
    """Sockets of the host that are bound, for as many consecutive ports of a container."""

    @property
    def host_ports(self) -> list[int]: ...
    def close(self) -> None: ...


class Listeners(Protocol):
    """nat.listeners, the module: opens the host's sockets; its ListenError has `errno` and `host_port`."""

    def open_listeners(
        self,
        host_ip: str | None,
        first_host_port: int,
        count: int,
        protocol: str,
        first_container_port: int,
    ) -> ListenerGroup: ...


class HostAddresses(Protocol):
    """hostaddresses.HostAddresses: the host's own addresses, as they come and go."""

    current: list[bytes]

    def follow(self, changed: Callable[[list[bytes]], None]) -> None: ...
    def close(self) -> None: ...


class HostRoutes(Protocol):
    """hostroutes.HostRoutes: tells the host's routes whenever they have changed."""

    def follow(self, changed: Callable[[list[Subnet]], None]) -> None: ...
    def close(self) -> None: ...


class HostResolvers(Protocol):
    """hostresolvers.HostResolvers: what the host's resolv.conf says, as it changes."""

    current: ResolvConf

    def follow(self, changed: Callable[[], None]) -> None: ...
    def close(self) -> None: ...


class AttachHelper(Protocol):
    """ports.enter.AttachHelper: enters namespaces and brings TAPs back."""

    async def attach(self, netns_fd: int, userns_fd: int | None, plan: InterfacePlan) -> Tap: ...
    async def attach_at(self, origin: NamespaceOrigin, plan: InterfacePlan) -> Tap: ...
    async def configure(self, origin: NamespaceOrigin, plan: InterfacePlan) -> None: ...
    async def reattach(self, origin: NamespaceOrigin, plan: InterfacePlan) -> Tap: ...
    async def remove(
        self,
        name: str,
        *,
        netns_fd: int | None = None,
        userns_fd: int | None = None,
        origin: NamespaceOrigin | None = None,
        mac: str | None = None,
    ) -> None: ...
    async def listen(
        self,
        *,
        netns_fd: int | None = None,
        userns_fd: int | None = None,
        origin: NamespaceOrigin | None = None,
        ask: bool = False,
    ) -> tuple[int, ...]: ...


class Taps(Protocol):
    """ports.tap, the module: what can be done with a TAP's descriptor."""

    def adopt_tap(self, fd: int) -> Tap: ...
    def release_tap(self, fd: int) -> None: ...


class Watcher(Protocol):
    """container.watch.NamespaceWatcher: notices that a namespace has ended."""

    def watch_pid(self, pidfd: int, callback: Callable[[], None]) -> Any: ...
    def watch_path(self, path: str, inode: int, callback: Callable[[], None]) -> Any: ...
    def forget(self, watch: Any) -> None: ...
    def close(self) -> None: ...


class Host(Protocol):
    """The machine, as far as it is asked about itself."""

    def routes(self) -> list[Subnet]:
        """Every subnet that the machine itself reaches by a route of its own."""

    def resolv_conf(self) -> ResolvConf:
        """The resolvers it uses."""

    def interfaces(self) -> list[str]:
        """The names of its network interfaces."""

    def first_unprivileged_port(self) -> int:
        """The lowest port that needs no privilege (net.ipv4.ip_unprivileged_port_start)."""

    def resident_bytes(self) -> int:
        """This process's resident memory."""


class Keeper(Protocol):
    """daemon.notify.Notifier: a service manager that keeps descriptors while the switch is dead; names are
    endpoint ids.
    """

    def store(self, name: str, fd: int) -> None: ...
    def forget(self, name: str) -> None: ...


class PortObserver(Protocol):
    """Whoever must know of every port, such as captures."""

    def port_coming(self, port: Port) -> None:
        """Before its first frame."""

    async def port_came(self, port: Port) -> None:
        """The dataplane has it now."""

    def port_left(self, port: Port) -> None:
        """The dataplane has it no more; its index will be another's."""


class Nobody:
    """No service manager, and nobody who observes ports."""

    def store(self, name: str, fd: int) -> None:
        """Nothing is kept."""

    def forget(self, name: str) -> None:
        """Nothing was kept."""

    def port_coming(self, port: Port) -> None:
        """Nobody looks."""

    async def port_came(self, port: Port) -> None:
        """Nobody looks."""

    def port_left(self, port: Port) -> None:
        """Nobody looks."""


@dataclass
class Parts:
    """Everything that the controller's rooms share. `settings` is replaced when the file is read again."""

    settings: Settings
    state_dir: str
    config_path: str  # where the settings come from, for refusals that name the place to change them
    inventory: Inventory
    events: Events
    store: Store
    datapath: Datapath
    helper: AttachHelper
    taps: Taps
    watcher: Watcher
    host: Host
    addresses: HostAddresses
    routes: HostRoutes
    resolvers: HostResolvers
    listeners: Listeners
    clock: Clock
    random: Random
    keeper: Keeper
    observer: PortObserver
