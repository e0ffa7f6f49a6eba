# SPDX-License-Identifier: Apache-2.0
"""The switch is killed at every step of every change: nothing acknowledged is lost, nothing stays half done.

A kill is that the switch never comes back from a call to the world (store, dataplane, attach helper), once before that
call has done anything and once after it has done everything; then another switch starts on what is left. What it makes
of it has to be as before the change or as after it, in every view, table, interface and reservation, and the change can
be asked for again.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from switchbox import Box

from vswitch.model import AttachmentSpec, NetworkSpec, NetworkUpdate, SubnetSpec

PATIENCE_S = 10.0
NEVER = 1_000_000  # no change has so many steps
THE_DEAD: list[asyncio.Task] = []  # never to be cancelled, which would let them undo things


class Life:
    """Of one switch: counts its calls to the world and ends it at the one that was chosen."""

    def __init__(self) -> None:
        self.taken = 0
        self.ends_at: int | None = None
        self.after = False
        self.ended = asyncio.Event()

    def guard(self, edge: object) -> Mortal:
        return Mortal(edge, self)

    async def call(self, function: Callable[..., Awaitable], *arguments, **named):
        here = self.ends_at is not None and self.taken == self.ends_at
        self.taken += 1
        result = await function(*arguments, **named) if (self.after or not here) and not self.ended.is_set() else None
        if here or self.ended.is_set():
            self.ended.set()
            await asyncio.Event().wait()
        return result


class Mortal:
    """An edge, as a switch with a `life` sees it."""

    def __init__(self, edge: object, life: Life):
        object.__setattr__(self, "_edge", edge)
        object.__setattr__(self, "_life", life)

    def __getattr__(self, name: str):
        value = getattr(self._edge, name)
        if inspect.iscoroutinefunction(value):
            return lambda *arguments, **named: self._life.call(value, *arguments, **named)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._edge, name, value)


class World:
    """A box whose switch can be killed; `keep`: a service manager keeps its descriptors."""

    def __init__(self, folder: Path, keep: bool):
        folder.mkdir()
        self.box, self.keep = Box(folder), keep

    async def start(self, prepare) -> None:
        self.life = Life()
        self.box.through = self.life.guard
        await self.box.start()
        await prepare(self.box)
        await self.again()

    async def again(self) -> None:
        """Another switch on what there is."""
        self.life = Life()
        self.box.through = self.life.guard
        await self.box.restart(keep=self.keep)

    async def killed_at(self, step: int, after: bool, change) -> bool:
        """Whether the switch came to that step of the change; if not, the change is done."""
        self.life.taken, self.life.ends_at, self.life.after = 0, step, after
        working = asyncio.ensure_future(change(self.box))
        dying = asyncio.ensure_future(self.life.ended.wait())
        await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
        if working.done():
            dying.cancel()
            self.life.ends_at = None
            working.result()
            return False
        assert self.life.ended.is_set(), "it hangs of itself"
        THE_DEAD.append(working)
        return True

    def seen(self) -> dict:
        """Everything there is, by names."""
        switch, plane = self.box.switch, self.box.datapath
        inventory = switch._parts.inventory
        networks = {network.index: network for network in inventory.networks.values()}
        names = {index: network.name for index, network in networks.items()}
        ports = {index: (p.container.name, p.endpoint.interface) for index, p in inventory.ports.items()}
        return {
            "networks": [plain(view) for view in switch.networks()],
            "containers": [plain(view) for view in switch.containers(everything=True)],
            "held": {
                network.name: {pool._kind(n): h for pool in network.pools for n, h in pool._holders.items()}
                for network in networks.values()
            },
            "macs": {network.name: dict(network.macs) for network in networks.values()},
            "plane": {names[index]: dict(settings) for index, settings in plane.networks.items()},
            "ports": {ports[index]: (names[port.network], port.mac) for index, port in plane.ports.items()},
            "bindings": {(names[n], a): (mac, ports.get(p)) for (n, a), (mac, p) in plane.bindings.items()},
            "ways_out": {names[index]: way for index, way in plane.ways_out.items()},
            "own": {(names[index], address, bits) for index, address, bits in plane.own_subnets},
            "published": sorted((g.sockets, ports[p], a) for g, (p, a, _) in plane.listeners.items()),
            "listening": set(self.box.listeners.open),
            "interfaces": {
                path.name: {name: msgspec.to_builtins(plan) for name, plan in self.box.interfaces(path.name).items()}
                for path in (self.box.folder / "netns").glob("*")
            },
        }

    async def stored(self) -> dict:
        documents = await self.box.stored()
        tables = ("networks", "containers")
        return {table: {key: msgspec.json.decode(d) for key, d in documents[table].items()} for table in tables}


def plain(view) -> dict:
    found = msgspec.to_builtins(view)
    for name in ("id", "created", "netns", "remedy"):
        found.pop(name, None)
    for member in found.get("containers", ()):
        member.pop("id")
    return found


def alone(scene):
    """Run on a loop of its own that cancels nobody: the dead stay as they are."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(scene, 60))
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def settled(stored: dict) -> bool:
    records = [*stored["networks"].values(), *stored["containers"].values()]
    endpoints = [endpoint for record in stored["containers"].values() for endpoint in record["endpoints"]]
    return not any(record.get("unsettled") for record in [*records, *endpoints])


async def nothing(box: Box) -> None:
    """A switch as it starts."""


async def in_use(box: Box) -> None:
    """Two containers on a network with published ports, one of them on another too; and one that is stopped."""
    spec = NetworkSpec(name="blue", ipv6=True, subnets=[SubnetSpec(subnet=s) for s in ("10.1.0.0/24", "fd01::/64")])
    await box.switch.create_network(spec)
    await box.switch.create_network(NetworkSpec(name="red"))
    await box.attach("web", AttachmentSpec(network="blue"), ports=["8080:80/tcp+udp"])
    await box.attach("both", AttachmentSpec(network="red"), AttachmentSpec(network="blue"), ports=["9090:90"])
    _, process = await box.run("job", detached=True)
    process.popen.kill()
    process.popen.wait()
    await box.switch.report_exit("job", 0)


def change(**words) -> Callable[[Box], Awaitable]:
    return lambda box: box.switch.update_network("blue", NetworkUpdate(**words))


CHANGES: dict[str, tuple[Callable, Callable]] = {
    "create": (
        nothing,
        lambda box: box.switch.create_network(
            NetworkSpec(name="new", ipv6=True, options={"icc": "false"}, subnets=[SubnetSpec(subnet="fd09::/64")])
        ),
    ),
    "remove": (in_use, lambda box: box.switch.remove_network("spare")),
    "mtu grows": (in_use, change(mtu=9000)),
    "mtu shrinks": (in_use, change(mtu=1300)),
    "icc": (in_use, change(options={"icc": "false"}, labels={"a": "b"})),
    "internal": (in_use, change(internal=True)),
    "subnet": (in_use, change(subnets=[SubnetSpec(subnet="10.2.0.0/24")])),
    "everything": (
        in_use,
        change(
            mtu=1400,
            internal=True,
            options={"icc": "false"},
            labels={"a": "b"},
            dns_servers=["192.0.2.7"],
            subnets=[SubnetSpec(subnet="10.1.0.0/24", ip_range="10.1.0.128/25"), SubnetSpec(subnet="fd02::/64")],
        ),
    ),
    "connect": (in_use, lambda box: box.switch.connect("red", "web", AttachmentSpec(ip="172.18.0.9"))),
    "connect with the default route": (
        in_use,
        lambda box: box.switch.connect("red", "web", AttachmentSpec(ip="172.18.0.9", gw_priority=1)),
    ),
    "connect a stopped one": (in_use, lambda box: box.switch.connect("red", "job", AttachmentSpec(ip="172.18.0.77"))),
    "disconnect": (in_use, lambda box: box.switch.disconnect("red", "both")),
    "disconnect with the default route": (in_use, lambda box: box.switch.disconnect("blue", "both")),
    "disconnect the last": (in_use, lambda box: box.switch.disconnect("blue", "web")),
    "disconnect a stopped one": (in_use, lambda box: box.switch.disconnect("default", "job")),
}


class Tried:
    """A change, on worlds of its own that are killed."""

    def __init__(self, folder: Path, what: str, keep: bool):
        self.folder, self.what, self.keep = folder, what, keep
        self.prepare, self.change = CHANGES[what]
        self.before: dict = {}
        self.after: dict = {}

    async def ready(self, box: Box) -> None:
        await self.prepare(box)
        if self.what == "remove":
            await box.switch.create_network(NetworkSpec(name="spare"))

    async def whole(self) -> None:
        """Without a kill: before and after, each as a restart brings it back."""
        world = World(self.folder / "whole", self.keep)
        await world.start(self.ready)
        self.before = world.seen()
        assert not await world.killed_at(NEVER, False, self.change)
        self.after = world.seen()
        assert self.before != self.after
        assert settled(await world.stored())
        await world.again()
        assert world.seen() == self.after, "what was acknowledged is there after a crash"
        await world.box.__aexit__()

    async def kill(self, step: int, late: bool) -> bool:
        """Whether there was such a step."""
        world = World(self.folder / f"{step}{late}", self.keep)
        await world.start(self.ready)
        assert world.seen() == self.before
        there = await world.killed_at(step, late, self.change)
        if there:
            await world.again()
            found = world.seen()
            neither = f"step {step}, {late=}: {difference(found, self.before, self.after)}"
            assert found in (self.before, self.after), neither
            assert settled(await world.stored())
            if found == self.before:
                assert not await world.killed_at(NEVER, False, self.change)
                assert world.seen() == self.after
        await world.box.__aexit__()
        return there


EVERY = [(what, keep) for what in CHANGES for keep in (False, True)]
IN_EACH_RUN = [
    ("everything", True),
    ("connect with the default route", False),
]


@pytest.mark.parametrize(
    ("what", "keep"),
    [case if case in IN_EACH_RUN else pytest.param(*case, marks=pytest.mark.slow) for case in EVERY],
)
def test_a_kill_at_any_step_leaves_all_or_nothing_of(tmp_path, what, keep):
    tried = Tried(tmp_path, what, keep)
    alone(tried.whole())
    steps = 0
    while all([alone(tried.kill(steps, late)) for late in (False, True)]):
        steps += 1
    assert steps > 0


def difference(found: dict, before: dict, after: dict) -> str:
    """Where it is neither."""
    return "\n".join(
        f"{key}: {found[key]}\n  before: {before[key]}\n  after: {after[key]}"
        for key in found
        if found[key] not in (before[key], after[key])
    ) or "each part for itself is one or the other"
