# SPDX-License-Identifier: Apache-2.0
"""The switch with nothing pretended: real helper, dataplane, watcher and store, real network namespaces."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import uuid

import pytest
from switchbox import until

from vswitch.config import parse
from vswitch.container.namespaces import open_netns, origin
from vswitch.container.watch import NamespaceWatcher
from vswitch.control.store import Store
from vswitch.control.switch import Switch
from vswitch.control.twins import MemoryKeeper
from vswitch.datapath.plane import Datapath
from vswitch.model import AttachmentSpec, ContainerSpec, NetworkSpec, Refused
from vswitch.ports.enter import AttachHelper

pytestmark = pytest.mark.root
PATIENCE_S = 40.0


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Machine:
    """Namespaces with names of our own, and a switch that can be killed and started again."""

    def __init__(self, folder, helper: AttachHelper):
        self.folder, self.helper = folder, helper
        self.names: dict[str, str] = {}
        self.keeper = MemoryKeeper()

    def namespace(self, name: str) -> str:
        full = f"vsctl-{uuid.uuid4().hex[:8]}-{name}"
        ip("netns", "add", full)
        self.names[name] = full
        return full

    def remove(self, name: str) -> None:
        ip("netns", "del", self.names.pop(name))

    async def start(self, *, keep: bool = False) -> None:
        self.datapath = Datapath()
        self.datapath.start()
        self.store = Store(str(self.folder / "vswitch.db"))
        kept = self.keeper.hand_over()
        if not keep:
            for fd in kept.values():
                os.close(fd)
            kept = {}
        self.switch = Switch(
            parse(b'[default_network]\nbip = "10.201.7.1/24"\n'),
            state_dir=str(self.folder),
            store=self.store,
            datapath=self.datapath,
            helper=self.helper,
            watcher=NamespaceWatcher(),
            keeper=self.keeper,
        )
        await self.switch.start(kept)

    async def stop(self) -> None:
        await self.switch.close()
        await self.datapath.stop()

    async def attach(self, name: str, *networks: AttachmentSpec):
        fd = open_netns(self.names[name])
        where = origin(fd, path=f"/run/netns/{self.names[name]}")
        spec = ContainerSpec(name=name, networks=list(networks) or [AttachmentSpec()])
        return (await self.switch.attach(spec, where, fd)).container

    async def ping(self, name: str, address: str, *, answered: bool = True) -> None:
        command = [
            "ip",
            "netns",
            "exec",
            self.names[name],
            "ping",
            "-c1",
            "-W3" if answered else "-W1",
            "-n",
            address,
        ]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        assert (process.returncode == 0) == answered, said.decode()


@pytest.fixture
def machine(tmp_path):
    helper = AttachHelper.fork()
    made = Machine(tmp_path, helper)
    yield made
    for name in list(made.names):
        made.remove(name)
    helper.close()
    for fd in made.keeper.hand_over().values():
        os.close(fd)


def run(scene) -> None:
    asyncio.run(asyncio.wait_for(scene, PATIENCE_S))


def test_containers_ping_each_other_and_the_gateway_and_not_another_network(machine):
    async def scene():
        await machine.start()
        await machine.switch.create_network(NetworkSpec(name="blue", ipv6=True))
        for name in "abc":
            machine.namespace(name)
        await machine.attach("a")
        b = await machine.attach("b", AttachmentSpec(), AttachmentSpec(network="blue"))
        c = await machine.attach("c", AttachmentSpec(network="blue"))
        await machine.ping("a", "10.201.7.3")
        await machine.ping("a", "10.201.7.1")
        await machine.ping("b", c.networks[0].ipv6.partition("/")[0])
        await machine.ping("a", c.networks[0].ipv4.partition("/")[0], answered=False)
        assert [endpoint.interface for endpoint in b.networks] == ["eth0", "eth1"]
        routes = ip("-n", machine.names["b"], "route", "show", "default")
        assert (
            routes.split()[:5] == ["default", "via", b.networks[1].gateway, "dev", "eth1"]
            and routes.count("default") == 1
        ), "of networks with equal priority the first by name has it"
        await machine.stop()

    run(scene())


@pytest.mark.parametrize("keep", [False, True])
def test_after_a_restart_the_interfaces_are_the_same_and_traffic_goes_on(machine, keep):
    async def scene():
        await machine.start()
        machine.namespace("a")
        machine.namespace("b")
        await machine.attach("a")
        await machine.attach("b")
        before = ip("-n", machine.names["a"], "-o", "addr", "show", "eth0")
        await machine.stop()
        await machine.start(keep=keep)
        assert ip("-n", machine.names["a"], "-o", "addr", "show", "eth0") == before
        assert {view.state for view in machine.switch.containers()} == {"running"}
        await machine.ping("a", "10.201.7.3")
        await machine.stop()

    run(scene())


def test_a_namespace_that_is_deleted_is_noticed_and_not_kept_alive(machine):
    async def scene():
        await machine.start()
        machine.namespace("a")
        gc.collect()  # event loops of earlier tests still hold descriptors
        before = len(os.listdir("/proc/self/fd"))
        await machine.attach("a")
        machine.remove("a")
        await until(lambda: not machine.switch.containers(everything=True), "the container to go")
        assert machine.keeper.kept == {} and machine.switch.stats().tables["ports"].size == 0
        assert len(os.listdir("/proc/self/fd")) == before
        await machine.stop()

    run(scene())


def test_detach_leaves_the_namespace_as_it_was_and_a_taken_name_is_avoided(machine):
    async def scene():
        await machine.start()
        name = machine.namespace("a")
        ip("-n", name, "tuntap", "add", "dev", "eth0", "mode", "tap")
        view = await machine.attach("a")
        assert view.networks[0].interface == "eth1"
        await machine.switch.detach("a")
        assert "eth1" not in ip("-n", name, "link") and "eth0" in ip("-n", name, "link")
        await machine.stop()

    run(scene())


def test_an_interface_that_is_deleted_inside_is_mended_by_attaching_again(machine):
    async def scene():
        await machine.start()
        name = machine.namespace("a")
        await machine.attach("a")
        ip("-n", name, "link", "del", "eth0")
        await until(lambda: machine.switch.container("a").state == "orphaned", "the interface to be missed")
        assert (await machine.attach("a")).state == "running"
        await machine.ping("a", "10.201.7.1")
        await machine.stop()

    run(scene())


def test_a_refused_attach_leaves_no_interface(machine):
    async def scene():
        await machine.start()
        name = machine.namespace("a")

        async def failing(*args, **kwargs):
            raise Refused("it failed", 500)

        machine.datapath.add_port = failing
        with pytest.raises(Refused, match="it failed"):
            await machine.attach("a")
        assert "eth0" not in ip("-n", name, "link")
        await machine.stop()

    run(scene())
