# SPDX-License-Identifier: Apache-2.0
"""What the controller is handed: everything that touches the kernel, the clock or chance, as protocols.

The real ones stand in datapath/, ports/, container/, daemon/ and host.py; in-memory twins of all of them in
twins.py.
"""

from __future__ import annotations

from collections.abc import Callable
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

    async def add_network(self, index: int, *, mtu: int, gateway_mac: bytes, dhcp: bool) -> None: ...
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
        shared: bool = True,
    ) -> None: ...
    async def remove_port(self, index: int) -> None: ...
    async def add_neighbour(self, network: int, address: bytes, mac: bytes, port: int | None) -> None: ...
    async def remove_neighbour(self, network: int, address: bytes) -> None: ...
    async def fdb(self) -> list[Any]: ...
    async def neighbours(self) -> list[Any]: ...
    def counters(self, index: int) -> dict[str, Any]: ...
    def network_drops(self, index: int) -> dict[str, int]: ...
    def totals(self) -> dict[str, int]: ...
    def inject(
        self, frame: bytes, *, network: int, port: int | None = None, except_port: int | None = None
    ) -> bool: ...


class AttachHelper(Protocol):
    """ports.enter.AttachHelper: enters namespaces and brings TAPs back."""

    async def attach(self, netns_fd: int, userns_fd: int | None, plan: InterfacePlan) -> Tap: ...
    async def reattach(self, origin: NamespaceOrigin, plan: InterfacePlan) -> Tap: ...
    async def remove(
        self,
        name: str,
        *,
        netns_fd: int | None = None,
        userns_fd: int | None = None,
        origin: NamespaceOrigin | None = None,
    ) -> None: ...


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
    inventory: Inventory
    events: Events
    store: Store
    datapath: Datapath
    helper: AttachHelper
    taps: Taps
    watcher: Watcher
    host: Host
    clock: Clock
    random: Random
    keeper: Keeper
    observer: PortObserver
