# SPDX-License-Identifier: Apache-2.0
"""A Dataplane in its thread, and hosts that are throw-away network namespaces with a real TAP each (root)."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

from patience import eventually

from vswitch.container._linux import CLONE_NEWNET, setns
from vswitch.control.names import link_local
from vswitch.datapath._plane import NOBODY, Dataplane
from vswitch.ports.tap import open_tap

GATEWAY = bytes.fromhex("0242ac110001")
NUMBERS = itertools.count()
ETH_P_ALL = 3


def wait_until(predicate: Callable[[], object], deadline_s: float = 10.0, what: str | None = None):
    """As eventually() in patience.py, where the predicate says enough."""
    return eventually(predicate, what or str(predicate), deadline_s)


def run(*command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess:
    """A program's end, its output as text; a failure shows what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class Namespace:
    """A named network namespace; everything that runs in it goes with it."""

    def __init__(self):
        self.name = f"vsdp{os.getpid()}n{next(NUMBERS)}"
        run("ip", "netns", "add", self.name)
        self.processes: list[subprocess.Popen] = []
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> str:
        return run("ip", "-n", self.name, *arguments).stdout

    def command(self, *command: str) -> tuple[str, ...]:
        return ("nsenter", f"--net=/run/netns/{self.name}", *command)

    def run(self, *command: str, **how) -> subprocess.CompletedProcess:
        return run(*self.command(*command), **how)

    def start(self, *command: str, **how) -> subprocess.Popen:
        """A program that is ended with the namespace; its output is a pipe."""
        process = subprocess.Popen(
            self.command(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how
        )
        self.processes.append(process)
        return process

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread inside the namespace."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as there:
            setns(there.fileno(), CLONE_NEWNET)
            try:
                yield
            finally:
                setns(home.fileno(), CLONE_NEWNET)

    def packet_socket(self, interface: str = "eth0", protocol: int = ETH_P_ALL) -> socket.socket:
        """An AF_PACKET socket that sends any frames and receives those of one EtherType, or all."""
        with self.entered():
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
            made.bind((interface, 0))
        made.settimeout(5)
        return made

    def listens(self, port: int) -> bool:
        return f":{port} " in self.run("ss", "-Hltnu").stdout

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()
        run("ip", "netns", "del", self.name)


class RealHost(Namespace):
    """A namespace whose eth0 is a port of the switch."""

    def __init__(
        self,
        switch: RealSwitch,
        index: int,
        network: int,
        *,
        mtu: int,
        guard: bool,
        addresses: tuple[str, ...],
        mac: bytes | None = None,
    ):
        super().__init__()
        self.switch, self.index, self.network = switch, index, network
        self.mac = mac or bytes.fromhex("0242ac11") + index.to_bytes(2, "big")
        with self.entered():
            Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
            self.tap = open_tap("eth0", persist=False)
        self.ip("link", "set", "eth0", "address", self.mac.hex(":"), "mtu", str(mtu), "txqueuelen", "4096")
        for address in addresses:
            self.ip("addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        self.ip("link", "set", "eth0", "up")
        self.addresses = [address.partition("/")[0] for address in addresses]
        for address in [*self.addresses, str(link_local(self.mac))]:
            switch.bind(address, self)
        switch.do(
            switch.plane.post_port_add,
            index,
            self.tap.fd,
            network,
            kind="tap",
            vnet_header=self.tap.vnet_header,
            gso=self.tap.gso,
            mac=self.mac,
            guard=guard,
            addresses=[ip_address(address).packed for address in self.addresses],
        )

    @property
    def counters(self) -> dict:
        return self.switch.plane.port_counters(self.index)

    def leave(self) -> None:
        self.switch.do(self.switch.plane.post_port_remove, self.index)
        self.switch.hosts.remove(self)
        os.close(self.tap.fd)
        self.close()


def lost_by(host: RealHost) -> int:
    """Frames that the host's own interface had to drop before the switch saw them."""
    with host.entered():
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return int(next(line for line in lines if "eth0:" in line).split()[12])


class RealSwitch:
    """A Dataplane in a thread of its own."""

    def __init__(self, **limits):
        self.plane = Dataplane(**limits)
        self.hosts: list[RealHost] = []
        self.indexes = itertools.count(2)
        self.thread = threading.Thread(target=self.plane.run, daemon=True)
        self.thread.start()

    def do(self, post: Callable, *arguments, **how):
        """Posts a command and waits until the dataplane has carried it out; returns what `post` returned."""
        answer = post(*arguments, **how)
        ticket = answer[0] if isinstance(answer, tuple) else answer
        wait_until(lambda: self.plane.completed >= ticket)
        return answer

    def network(self, index: int = 0, *, mtu: int = 1500, gateway: bytes = GATEWAY, dhcp: bool = False) -> int:
        self.do(self.plane.post_network_add, index, mtu=mtu, gateway_mac=gateway, dhcp=dhcp)
        return index

    def host(self, *addresses: str, network: int = 0, mtu: int = 1500, guard: bool = True, **how) -> RealHost:
        """A namespace with these addresses (with prefix length) on eth0, all of them known to the switch."""
        host = RealHost(self, next(self.indexes), network, mtu=mtu, guard=guard, addresses=addresses, **how)
        self.hosts.append(host)
        return host

    def bind(self, address: str, host: RealHost | None = None, *, network: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        packed = socket.inet_pton(family, address)
        if host is None:
            self.do(self.plane.post_neighbour, network, packed, GATEWAY, NOBODY)
        else:
            self.do(self.plane.post_neighbour, host.network, packed, host.mac, host.index)

    def unbind(self, address: str, *, network: int = 0) -> None:
        self.do(
            self.plane.post_neighbour,
            network,
            socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address),
            None,
        )

    def drops(self) -> dict[str, int]:
        """All drops of all hosts."""
        total: dict[str, int] = {}
        for host in self.hosts:
            for reason, count in host.counters["drops"].items():
                total[reason] = total.get(reason, 0) + count
        return total

    def close(self) -> None:
        for host in list(self.hosts):
            host.leave()
        self.plane.post_stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
