# SPDX-License-Identifier: Apache-2.0
"""Each step of each change fails once: what is left is what was there before, and the next try succeeds."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest
from switchbox import Box, quiet, simulated

from vswitch.control.store import Store
from vswitch.datapath.plane import PlaneEvent
from vswitch.model import AttachmentSpec, NetworkSpec, Refused

STEPS = {
    "namespaces": ("attach", "attach_at", "configure", "remove"),
    "datapath": (
        "add_network",
        "set_network_mtu",
        "set_network_isolated",
        "add_port",
        "add_neighbour",
        "set_own_subnets",
        "set_way_out",
        "add_listeners",
        "flows",
    ),
    "listeners": ("open_listeners",),
    "store": ("write",),
    "watcher": ("watch_pid", "watch_path"),
}


class Faults:
    """Counts the steps that a change takes, and fails the one whose turn it is, or does `then` before it."""

    def __init__(self, box: Box):
        self.box = box
        self.fails_at = None
        self.taken = 0
        self.error: Exception = Refused("it failed", 500)
        self.then = None
        for holder, names in STEPS.items():
            for name in names:
                self._wrap(getattr(box, holder), name)

    def _wrap(self, holder, name):
        original = getattr(holder, name)

        async def step(*args, **kwargs):
            self._turn()
            return await original(*args, **kwargs)

        def sudden(*args, **kwargs):
            self._turn()
            return original(*args, **kwargs)

        setattr(holder, name, step if asyncio.iscoroutinefunction(original) else sudden)

    def _turn(self):
        self.taken += 1
        if self.taken - 1 == self.fails_at:
            if self.then is not None:
                self.then()
            else:
                raise self.error

    def arm(self, at, then=None):
        self.fails_at, self.taken, self.then = at, 0, then


async def fail_every_step(box: Box, change) -> int:
    """Let each step of `change` fail once; nothing may be different afterwards. How many steps there were."""
    faults = Faults(box)
    at = 0
    while True:
        before, stored = box.snapshot(), await box.stored()
        faults.arm(at)
        try:
            await change()
        except (Refused, OSError):
            await quiet(box)
            after = box.snapshot()
            assert after == before, f"step {at} left something behind"
            left = await box.stored()
            left["cursors"] = stored["cursors"]
            assert left == stored, f"step {at} left something in the store"
            at += 1
        else:
            faults.arm(None)
            return at


@simulated
async def test_whatever_step_of_attach_fails_everything_is_as_before(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="six", ipv6=True))
        wishes = (AttachmentSpec(), AttachmentSpec(network="six"))
        os.close(box.namespace("web"))
        # attach: store starting; 2 × (helper, name into the store, add_port, bindings); 2 × (open, listen); store
        # running; watch
        steps = await fail_every_step(box, lambda: box.attach("web", *wishes, ports=["8080:80/tcp+udp"]))
        assert steps == 1 + (3 + 1) + (3 + 3) + 4 + 1 + 1  # an IPv6 endpoint has a link-local binding too
        assert box.switch.container("web").state == "running"


@simulated
async def test_what_the_system_refuses_is_a_refusal_with_a_reason(tmp_path):
    async with Box(tmp_path) as box:
        faults = Faults(box)
        for code, status, words in (
            (errno.EMFILE, 507, "descriptor"),
            (errno.ENOMEM, 507, "memory"),
            (errno.EIO, 500, "Input/output"),
        ):
            faults.error = OSError(code, os.strerror(code))
            faults.arm(1)
            before = box.snapshot()
            with pytest.raises(Refused, match=words) as refusal:
                await box.attach("web")
            assert refusal.value.status == status
            assert box.snapshot() | {"interfaces": {}} == before | {"interfaces": {}}


@simulated
async def test_whatever_step_of_starting_again_fails_the_container_is_stopped_as_before(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("job", detached=True)
        process.popen.kill()
        process.popen.wait()
        await box.switch.report_exit("job", 5)
        again = box.process("again")

        async def start():
            fds = os.dup(again.netns_fd), None, os.dup(again.pidfd)
            await box.switch.start_container("job", again.origin, *fds)

        steps = await fail_every_step(box, start)
        assert steps == 1 + 3 + 1 + 1
        assert box.switch.container("job").state == "running"
        os.close(again.netns_fd)
        os.close(again.pidfd)


@simulated
async def test_whatever_step_of_mending_fails_the_container_is_orphaned_as_before(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", AttachmentSpec(), namespace="a")
        ((index, port),) = box.datapath.ports.items()
        box.interfaces("a").clear()
        box.datapath.on_event(PlaneEvent("port_gone", port.network, index, 77))
        await quiet(box)
        orphan = box.switch.container("web")
        assert orphan.state == "orphaned"
        before = box.watcher.watched
        # the interface's remains; helper, port, binding; running into the store (it is watched already)
        assert await fail_every_step(box, lambda: box.attach("web", namespace="a")) == 1 + 3 + 1
        assert box.switch.container("web").state == "running" and box.watcher.watched == before


@simulated
async def test_whatever_step_of_creating_a_network_fails_everything_is_as_before(tmp_path):
    async with Box(tmp_path) as box:
        steps = await fail_every_step(
            box, lambda: box.switch.create_network(NetworkSpec(name="six", ipv6=True))
        )
        # the network and its gateways (link-local included), all subnets, the way out, the store
        assert steps == 1 + 3 + 1 + 1 + 1
        assert box.switch.network("six").name == "six"


@simulated
async def test_a_store_that_fails_refuses_detach_and_removal_and_all_goes_on(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue"))
        await box.attach("web")
        faults = Faults(box)
        before, stored = box.snapshot(), await box.stored()
        for change in (lambda: box.switch.detach("web"), lambda: box.switch.remove_network("blue")):
            faults.arm(0)
            with pytest.raises(Refused, match="it failed"):
                await change()
            assert box.snapshot() == before and await box.stored() == stored
        faults.arm(None)
        await box.switch.detach("web")
        await box.switch.remove_network("blue")


@simulated
async def test_a_container_that_ended_has_ended_whatever_the_store_says(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        Faults(box).arm(0)
        box.end_namespace("web")
        await quiet(box)
        assert box.switch.containers(everything=True) == [] and box.datapath.ports == {}
        assert len((await box.stored())["containers"]) == 1
        await box.restart()
        assert box.switch.containers(everything=True) == []
        assert (await box.stored())["containers"] == {}


@simulated
async def test_a_dataplane_that_fails_while_a_container_goes_does_not_keep_anything(tmp_path):
    async with Box(tmp_path) as box:
        empty = box.snapshot()
        await box.attach("web")

        async def broken(*args, **kwargs):
            raise RuntimeError("broken")

        box.datapath.remove_neighbour = broken
        await box.switch.detach("web")
        after = box.snapshot()
        assert {**after, "dataplane": 0, "interfaces": 0} == {**empty, "dataplane": 0, "interfaces": 0}
        assert box.datapath.ports == {}


@simulated
async def test_whoever_goes_away_in_the_middle_of_an_attach_leaves_nothing(tmp_path):
    async with Box(tmp_path) as box:
        os.close(box.namespace("web"))
        faults = Faults(box)
        at = 0
        while True:
            before, stored = box.snapshot(), (await box.stored())["containers"]
            request = asyncio.ensure_future(box.attach("web"))
            faults.arm(at, request.cancel)
            try:
                await request
            except asyncio.CancelledError:
                await quiet(box)
                if box.switch.containers():
                    break  # the very last step was done when the caller went
                assert box.snapshot() == before, f"cancelled at step {at}"
                assert (await box.stored())["containers"] == stored
                at += 1
            else:
                break
        assert at >= 6


class FullDisk(Store):
    """Says that the disk is full while `full`."""

    full = False

    async def write(self, changes):
        if self.full:
            raise Refused("nothing was changed: the disk is full", 507)
        await super().write(changes)


@simulated
async def test_a_full_disk_refuses_changes_and_leaves_what_runs_alone(tmp_path):
    async with Box(tmp_path, store=FullDisk) as box:
        await box.attach("web")
        before = box.snapshot()
        box.store.full = True
        with pytest.raises(Refused, match="disk is full") as refusal:
            await box.attach("other", namespace="web2")
        assert refusal.value.status == 507
        assert box.snapshot() == before
        box.store.full = False
        await box.attach("other", namespace="web2")


@simulated
async def test_a_full_neighbour_table_refuses_the_container_and_leaves_nothing_of_it(tmp_path):
    async with Box(tmp_path) as box:
        original = box.datapath.add_neighbour

        async def full(*_):
            raise LookupError("no room")

        box.datapath.add_neighbour = full
        with pytest.raises(Refused, match="neighbour table is full") as refusal:
            await box.attach("web")
        assert refusal.value.status == 507 and box.switch.containers(everything=True) == []
        with pytest.raises(Refused, match="neighbour table is full"):
            await box.switch.create_network(NetworkSpec(name="blue"))
        box.datapath.add_neighbour = original
        await box.attach("again")
