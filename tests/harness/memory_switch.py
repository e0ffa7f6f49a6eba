# SPDX-License-Identifier: Apache-2.0
"""A whole switch in memory, stepped by hand: hosts are AF_UNIX SOCK_SEQPACKET pairs, time is a number, no
privilege is needed."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import frames
from frames import Frame

from vswitch.datapath._plane import NOBODY, Dataplane

GATEWAY = bytes.fromhex("0242ac110001")
START_NS = 1_000_000_000_000
LARGEST = 1 << 18
VNET_BYTES = 12


class MemoryHost:
    """The far end of a port: sends frames, receives frames."""

    def __init__(self, switch: MemorySwitch, index: int, network: int, mac: bytes, vnet: bool):
        self.switch, self.index, self.network, self.mac, self.vnet = switch, index, network, mac, vnet
        self.port, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.port.setblocking(False)
        self.socket.setblocking(False)

    def __repr__(self) -> str:
        return f"<host {self.index} of network {self.network}, {self.mac.hex(':')}>"

    def send(self, frame: bytes, header: bytes | None = None) -> None:
        """Puts a frame before the switch, which sees it at the next step; a vnet port's frame gets
        `header`, or an empty one."""
        if self.vnet:
            frame = (bytes(VNET_BYTES) if header is None else header) + frame
        self.socket.send(frame)

    def raw(self) -> list[bytes]:
        """All that has come since the last look, vnet headers included."""
        found = []
        while self.socket.fileno() >= 0:
            try:
                data = self.socket.recv(LARGEST)
            except BlockingIOError:
                return found
            if not data:
                return found
            found.append(data)
        return found

    def received(self) -> list[Frame]:
        """The frames that have come since the last look, without vnet headers."""
        return [Frame(data[VNET_BYTES:] if self.vnet else data) for data in self.raw()]

    def received_with_headers(self) -> list[tuple[bytes, Frame]]:
        """The same on a vnet port: (virtio header, frame)."""
        assert self.vnet
        return [(data[:VNET_BYTES], Frame(data[VNET_BYTES:])) for data in self.raw()]

    @property
    def counters(self) -> dict:
        return self.switch.plane.port_counters(self.index)

    @property
    def drops(self) -> dict[str, int]:
        return self.counters["drops"]

    def leave(self) -> None:
        """Takes the port out and closes both ends."""
        self.switch.plane.post_port_remove(self.index)
        self.switch.step()
        self.switch.hosts.remove(self)
        self.close()

    def close(self) -> None:
        self.port.close()
        self.socket.close()


class MemorySwitch:
    """A Dataplane, its hosts, and its clock."""

    def __init__(self, **limits):
        self.plane = Dataplane(**limits)
        self.now_ns = START_NS
        self.hosts: list[MemoryHost] = []
        self.indexes = iter(range(1, 65535))
        self.spare_fds: list[int] = []

    def close(self) -> None:
        for host in self.hosts:
            self.plane.post_port_remove(host.index)
        self.step()
        for host in self.hosts:
            host.close()
        for fd in self.spare_fds:
            os.close(fd)
        # Hosts and switch know each other: its tables would stay until the collector comes, and fork() fail
        del self.plane

    def step(self, *, after_s: float = 0) -> int:
        """Lets time pass, then the switch work until nothing is left to do."""
        self.now_ns += round(after_s * 1e9)
        return self.plane.step(self.now_ns)

    def network(self, index: int = 0, *, mtu: int = 1500, gateway: bytes = GATEWAY, dhcp: bool = True) -> int:
        assert self.plane.post_network_add(index, mtu=mtu, gateway_mac=gateway, dhcp=dhcp)
        self.step()
        return index

    def host(
        self,
        *,
        network: int = 0,
        mac: bytes | None = None,
        assigned: bool = False,
        guard: bool | None = None,
        vnet: bool = False,
        gso: int = 0,
        index: int | None = None,
        kind: str = "packet",
        addresses: tuple[str, ...] = (),
        sibling: int | None = None,
    ) -> MemoryHost:
        """A new port. `assigned` gives it its MAC as a static one and, unless `guard` says otherwise, the
        guard that goes with it."""
        index = next(self.indexes) if index is None else index
        host = MemoryHost(self, index, network, frames.mac(index) if mac is None else mac, vnet)
        guard = assigned if guard is None else guard
        assert self.plane.post_port_add(
            index,
            host.port.fileno(),
            network,
            kind=kind,
            vnet_header=vnet,
            gso=gso,
            mac=host.mac if assigned else None,
            guard=guard,
            addresses=[frames.ip(address) for address in addresses],
            sibling=sibling,
        )
        self.step()
        self.hosts.append(host)
        return host

    def port_on(self, fd: int, *, network: int = 0, kind: str = "tap", **how) -> int:
        """A port on any descriptor, which is closed with the switch."""
        index = next(self.indexes)
        self.spare_fds.append(fd)
        assert self.plane.post_port_add(
            index, fd, network, kind=kind, vnet_header=how.pop("vnet", False), gso=0, guard=False, **how
        )
        self.step()
        return index

    def bind(self, address: str, host: MemoryHost | None = None, *, network: int = 0, mac: bytes | None = None) -> None:
        """A neighbour: a host's address, or with None the gateway's own."""
        if host is None:
            self.plane.post_neighbour(network, frames.ip(address), GATEWAY if mac is None else mac, NOBODY)
        else:
            self.plane.post_neighbour(host.network, frames.ip(address), host.mac if mac is None else mac, host.index)
        self.step()

    def unbind(self, address: str, *, network: int = 0) -> None:
        self.plane.post_neighbour(network, frames.ip(address), None)
        self.step()

    def table(self, fdb: bool = True) -> list[tuple]:
        """A snapshot of the MAC table, or else of the neighbour table."""
        _, table = self.plane.post_snapshot("fdb" if fdb else "neighbours")
        self.step()
        return table.rows()

    def macs(self) -> dict[tuple[int, bytes], int]:
        """(network, MAC) → port."""
        return {(network, mac): port for network, port, mac, _, _ in self.table()}

    def flush(self) -> None:
        """Throws away all that has been received."""
        for host in self.hosts:
            host.raw()

    def exchange(
        self, host: MemoryHost, frame: bytes, header: bytes | None = None, *, after_s: float = 0
    ) -> list[Frame]:
        """Sends one frame and returns what came back to its sender."""
        host.send(frame, header)
        self.step(after_s=after_s)
        return host.received()

    def delivered(self, host: MemoryHost, frame: bytes, header: bytes | None = None) -> dict[int, list[Frame]]:
        """Sends one frame and returns what every host received, by port, the empty-handed left out."""
        self.flush()
        host.send(frame, header)
        self.step()
        return {other.index: got for other in self.hosts if (got := other.received())}

    def inject(self, frame: bytes, network: int, *, port: int = NOBODY, flood: bool = False) -> bool:
        return self.plane.inject(bytes(frame), network, port=port, flood=flood)

    def punts(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(kind=kind, network=network, port=port, frame=Frame(frame), time_ns=time_ns)
            for kind, network, port, frame, time_ns in self.plane.punts(1 << 20)
        ]

    @property
    def totals(self) -> dict[str, int]:
        return self.plane.totals()
