# SPDX-License-Identifier: Apache-2.0
"""In-memory twins of the machine that the switch runs on (edges.py), beside those of the dataplane in twins.py.

    MemoryHost         routes, interfaces and resolvers as set
    MemoryAddresses    its addresses, as they are made to come and go
    MemoryRoutes       what tells of its routes
    MemoryResolvers    what its resolv.conf says, which `become` changes
    MemoryListeners    its sockets, as port numbers that are taken or free
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from vswitch.container.files import ResolvConf
from vswitch.control.subnets import Subnet


@dataclass
class MemoryHost:
    """A machine without routes, whose resolver is 192.0.2.53."""

    subnets: list[Subnet] = field(default_factory=list)
    resolvers: ResolvConf = field(default_factory=lambda: ResolvConf(["192.0.2.53"], ["example.org"], []))

    def routes(self) -> list[Subnet]:
        return self.subnets

    def resolv_conf(self) -> ResolvConf:
        return self.resolvers

    def interfaces(self) -> list[str]:
        return ["lo", "eth0"]

    def first_unprivileged_port(self) -> int:
        return 1024

    def resident_bytes(self) -> int:
        return 32 * 1024 * 1024


class ListenError(OSError):
    """nat.listeners.ListenError."""

    def __init__(self, code: int, host_port: int):
        super().__init__(code, os.strerror(code))
        self.host_port = host_port


class MemoryListeners:
    """nat.listeners, the module: a host whose ports are numbers in a set. `taken` are those of other programs, for
    every address; below `first_unprivileged` none can be had.
    """

    def __init__(self, first_unprivileged: int = 1024, addresses: tuple[str, ...] = ("127.0.0.1", "::1")):
        self.first_unprivileged = first_unprivileged
        self.addresses = {*addresses, "0.0.0.0", "::"}
        self.taken: set[tuple[str, int]] = set()  # protocol, port
        self.open: set[tuple[str, int, str | None]] = set()  # protocol, port, address
        self._kernels_choice = 32768

    def open_listeners(
        self,
        host_ip: str | None,
        first_host_port: int,
        count: int,
        protocol: str,
        first_container_port: int,
    ) -> MemoryListenerGroup:
        """All of them or a ListenError that names the first that can't be had."""
        if first_host_port == 0:
            first_host_port = self._free(host_ip, protocol)
        wanted = range(first_host_port, first_host_port + count)
        for port in wanted:
            if host_ip is not None and host_ip not in self.addresses:
                raise ListenError(errno.EADDRNOTAVAIL, port)
            if port < self.first_unprivileged:
                raise ListenError(errno.EACCES, port)
            if self._in_use(host_ip, port, protocol):
                raise ListenError(errno.EADDRINUSE, port)
        group = MemoryListenerGroup(self, [(protocol, port, host_ip) for port in wanted])
        self.open.update(group.sockets)
        return group

    def _free(self, host_ip: str | None, protocol: str) -> int:
        while self._in_use(host_ip, self._kernels_choice, protocol):
            self._kernels_choice += 1
        self._kernels_choice += 1  # never the same twice, as the kernel's is random
        return self._kernels_choice - 1

    def _in_use(self, host_ip: str | None, port: int, protocol: str) -> bool:
        everywhere = (None, "0.0.0.0", "::")
        meeting = {ip for kind, number, ip in self.open if (kind, number) == (protocol, port)}
        meets = any(ip == host_ip or ip in everywhere or host_ip in everywhere for ip in meeting)
        return meets or (protocol, port) in self.taken


class MemoryListenerGroup:
    def __init__(self, listeners: MemoryListeners, sockets: list[tuple[str, int, str | None]]):
        self._listeners = listeners
        self.sockets = sockets

    @property
    def host_ports(self) -> list[int]:
        return [port for _, port, _ in self.sockets]

    def close(self) -> None:
        self._listeners.open.difference_update(self.sockets)


class MemoryResolvers:
    """hostresolvers.HostResolvers: nobody is there to ask unless `become` says so."""

    def __init__(self, *servers: str):
        self.current = ResolvConf(list(servers), [], [])
        self._changed: Callable[[], None] = lambda: None

    def follow(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def close(self) -> None:
        self._changed = lambda: None

    def become(self, *servers: str) -> None:
        """The host asks these from now on."""
        self.current = ResolvConf(list(servers), [], [])
        self._changed()


class MemoryAddresses:
    """hostaddresses.HostAddresses: a list that `become` changes."""

    def __init__(self, *addresses: str):
        self.current = [ip_address(address).packed for address in addresses]
        self._changed: Callable[[list[bytes]], None] = lambda addresses: None

    def follow(self, changed: Callable[[list[bytes]], None]) -> None:
        self._changed = changed

    def close(self) -> None:
        self._changed = lambda addresses: None

    def become(self, *addresses: str) -> None:
        """The host has these from now on."""
        self.current = [ip_address(address).packed for address in addresses]
        self._changed(self.current)


class MemoryRoutes:
    """hostroutes.HostRoutes: `become` changes those of a MemoryHost."""

    def __init__(self, host: MemoryHost):
        self._host = host
        self._changed: Callable[[list[Subnet]], None] = lambda routes: None

    def follow(self, changed: Callable[[list[Subnet]], None]) -> None:
        self._changed = changed

    def close(self) -> None:
        self._changed = lambda routes: None

    def become(self, *routes: str) -> None:
        """The host has these from now on."""
        self._host.subnets = [ip_network(route) for route in routes]
        self._changed(self._host.subnets)
