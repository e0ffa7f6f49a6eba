# SPDX-License-Identifier: Apache-2.0
"""A whole switch in memory: the real controller and the real store (SQLite in a folder), else twins.

Namespaces are files: what counts of a namespace is that a descriptor identifies it. Processes are real ones.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import socket
import subprocess
import time
from pathlib import Path
from random import Random

from vswitch.clock import SteppedClock, settle
from vswitch.config import parse
from vswitch.container.namespaces import pid_started
from vswitch.control.host_twins import MemoryAddresses, MemoryHost, MemoryListeners, MemoryResolvers, MemoryRoutes
from vswitch.control.store import Store
from vswitch.control.switch import Switch
from vswitch.control.twins import MemoryDatapath, MemoryKeeper, MemoryNamespaces, MemoryWatcher
from vswitch.model import AttachmentSpec, ContainerSpec, NamespaceOrigin

PATIENCE_S = 20.0


def simulated(test):
    """Run an async test on an event loop of its own, for at most PATIENCE_S."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), PATIENCE_S))

    return run


async def until(condition, what: str = "it to be so"):
    """Poll until `condition()` is true."""
    deadline = time.monotonic() + PATIENCE_S / 2
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.001)
    return result


class Process:
    """A real process in a pretended namespace of its own."""

    def __init__(self, box: Box, name: str, command: list[str]):
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.popen.stdout.readline()
        self.pidfd = os.pidfd_open(self.popen.pid)
        self.netns_fd = box.namespace(name)
        pid, status = self.popen.pid, os.fstat(self.netns_fd)
        self.origin = NamespaceOrigin(
            pid=pid, pid_started=pid_started(pid), device=status.st_dev, inode=status.st_ino
        )

    @property
    def descriptors(self) -> tuple[int, None, int]:
        return self.netns_fd, None, self.pidfd


class Box:
    """A switch that can be killed and started again; the world around it stays."""

    def __init__(
        self, tmp_path: Path, settings: str = "", *, store: type[Store] = Store, datapath=MemoryDatapath
    ):
        self.folder = tmp_path
        self.settings = parse(settings.encode())
        self.namespaces = MemoryNamespaces()
        self.host = MemoryHost()
        self.routes = MemoryRoutes(self.host)
        self.addresses = MemoryAddresses("127.0.0.1", "192.0.2.7", "2001:db8::7")
        self.listeners = MemoryListeners()
        self.resolvers = MemoryResolvers()
        self.keeper = MemoryKeeper()
        self.clock = SteppedClock()
        self.random = Random(4711)
        self.store_type, self.datapath_type = store, datapath
        self.through = lambda edge: edge  # what stands between the switch and the world, such as its mortality
        self.processes: list[subprocess.Popen] = []

    async def __aenter__(self) -> Box:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        if self.switch is not None:
            await self.switch.close()
        if not isinstance(self.datapath, MemoryDatapath):
            await self.datapath.stop()
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()
        for fd in self.keeper.hand_over().values():
            os.close(fd)
        for host in self.namespaces.hosts.values():
            host.close()

    async def start(self, *, keep: bool = False) -> Box:
        """Start the switch; with `keep` it is given the descriptors that a service manager kept."""
        self.datapath = self.datapath_type()
        if not isinstance(self.datapath, MemoryDatapath):
            self.datapath.start()
        self.watcher = MemoryWatcher()
        self.store = self.store_type(str(self.folder / "vswitch.db"))
        kept = self.keeper.hand_over()
        self.switch = Switch(
            self.settings,
            state_dir=str(self.folder),
            store=self.through(self.store),
            datapath=self.through(self.datapath),
            helper=self.through(self.namespaces),
            taps=self.namespaces,
            watcher=self.watcher,
            host=self.host,
            addresses=self.addresses,
            routes=self.routes,
            listeners=self.listeners,
            resolvers=self.resolvers,
            clock=self.clock,
            random=self.random,
            keeper=self.keeper,
        )
        if not keep:
            for fd in kept.values():
                os.close(fd)
        await self.switch.start(kept if keep else None)
        return self

    async def restart(self, *, keep: bool = False) -> None:
        """As after kill -9: nothing is said to anybody, what is open is closed, the interfaces stay."""
        switch, self.switch = self.switch, None
        await switch._leasing.stop()
        switch._resolving.stop()
        switch._fullness.stop()
        self.watcher.close()
        for container in switch._parts.inventory.containers.values():
            if container.pidfd is not None:
                os.close(container.pidfd)
        await self.store.close()
        for port in self.datapath.ports.values():
            os.close(port.fd)
        self.listeners.open.clear()
        await self.start(keep=keep)

    # ---- the world

    def namespace(self, name: str) -> int:
        """A descriptor of the namespace called `name`, which is made if it isn't there."""
        path = self.folder / "netns" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def origin(self, name: str) -> NamespaceOrigin:
        """Where it is found."""
        status = (self.folder / "netns" / name).stat()
        return NamespaceOrigin(
            path=str(self.folder / "netns" / name), device=status.st_dev, inode=status.st_ino
        )

    def end_namespace(self, name: str) -> None:
        """It goes, and whoever watches its path is told."""
        self.namespaces.end(self.origin(name))
        (self.folder / "netns" / name).unlink()
        self.watcher.end_path(str(self.folder / "netns" / name))

    def process(self, name: str, *, stubborn: bool = False) -> Process:
        """A process that runs until it is told to end, or killed if it is stubborn."""
        trap = "trap '' TERM; " if stubborn else ""
        process = Process(self, name, ["sh", "-c", f"{trap}echo ready; while :; do sleep 1 & wait $!; done"])
        self.processes.append(process.popen)
        return process

    def host_end(self, name: str, interface: str = "eth0") -> socket.socket:
        """The container's end of its interface: frames are sent and received there."""
        origin = self.origin(name)
        return self.namespaces.hosts[(origin.device, origin.inode), interface]

    def interfaces(self, name: str) -> dict:
        """What a namespace has, by interface name."""
        origin = self.origin(name)
        return self.namespaces.interfaces.get((origin.device, origin.inode), {})

    # ---- what people do

    async def attach(self, name: str, *networks: AttachmentSpec, namespace: str | None = None, **spec):
        """`vswitch attach --netns … --name NAME`."""
        wanted = {"networks": list(networks)} if networks else {}
        fd = self.namespace(namespace or name)
        return await self.switch.attach(
            ContainerSpec(name=name, **wanted, **spec), self.origin(namespace or name), fd
        )

    async def run(self, name: str, *, process: Process | None = None, **spec):
        """`vswitch run --name NAME`; the process is returned with the answer."""
        process = process or self.process(name)
        wanted = ContainerSpec(name=name, command=["sh"], **spec)
        return await self.switch.attach(wanted, process.origin, *process.descriptors), process

    def snapshot(self) -> dict:
        """Everything that a change may leave behind, comparable."""
        inventory, plane = self.switch._parts.inventory, self.datapath
        gc.collect()  # event loops of earlier tests still hold descriptors
        return {
            "networks": [
                (
                    n.name,
                    n.index,
                    [p._holders.copy() for p in n.pools],
                    dict(n.macs),
                    set(n.endpoints),
                    n.ready,
                )
                for n in inventory.networks.values()
            ],
            "names": (dict(inventory.network_ids), dict(inventory.container_ids)),
            "containers": [
                (c.name, c.record.state, c.record.origin, list(c.ports), len(c.watches), c.pidfd is None)
                for c in inventory.containers.values()
            ],
            "indexes": (inventory.network_indexes.used, inventory.port_indexes.used, set(inventory.ports)),
            "dataplane": (dict(plane.networks), dict(plane.ports), dict(plane.bindings)),
            "outside": (dict(plane.ways_out), list(plane.own_subnets), published(plane)),
            "listening": set(self.listeners.open),
            "interfaces": {key: set(there) for key, there in self.namespaces.interfaces.items() if there},
            "watched": self.watcher.watched,
            "kept": set(self.keeper.kept),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }

    async def stored(self) -> dict:
        """What the store would bring back: documents by key, for each table."""
        return {table: dict(rows) for table, rows in (await self.store.load()).items()}


async def quiet(box: Box) -> None:
    """Everything that is under way has ended."""
    await settle()
    await box.switch.settled()
    await settle()


def published(plane) -> dict:
    """What listens for which port, by its sockets."""
    return {tuple(group.sockets): accepted for group, accepted in plane.listeners.items()}
