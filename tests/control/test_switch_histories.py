# SPDX-License-Identifier: Apache-2.0
"""Any history of changes: whatever came before, a crash changes nothing, and every part of the switch says the same."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from switchbox import Box
from test_switch_kills import World, alone, settled

from vswitch.model import AttachmentSpec, NetworkSpec, NetworkUpdate, Refused, SubnetSpec

NETWORKS = ("a", "b", "c")
CONTAINERS = ("x", "y")

networks, containers = st.sampled_from(NETWORKS), st.sampled_from(CONTAINERS)
updates = st.builds(
    NetworkUpdate,
    mtu=st.none() | st.sampled_from([1300, 1500, 9000]),
    internal=st.none() | st.booleans(),
    options=st.sampled_from([{}, {"icc": "false"}, {"icc": None}]),
    subnets=st.sampled_from(
        [
            [],
            [SubnetSpec(subnet="10.9.0.0/24")],
            [SubnetSpec(subnet="10.1.0.0/24", ip_range="10.1.0.128/25")],
            [SubnetSpec(subnet="10.2.0.0/24", aux_addresses={"nas": "10.2.0.5"})],
        ]
    ),
)
steps = st.one_of(
    st.tuples(st.just("update"), networks, updates),
    st.tuples(st.just("connect"), networks, containers, st.integers(-1, 1)),
    st.tuples(st.just("disconnect"), st.sampled_from([*NETWORKS, "default"]), containers),
    st.tuples(st.just("publish"), containers, st.sampled_from(["80", "8080:80", "53:53/udp"])),
    st.tuples(st.just("restart"), st.booleans()),
)


async def prepare(box: Box) -> None:
    for number, name in enumerate(NETWORKS, 1):
        subnets = [SubnetSpec(subnet=f"10.{number}.0.0/24"), SubnetSpec(subnet=f"fd0{number}::/64")]
        await box.switch.create_network(NetworkSpec(name=name, ipv6=True, internal=name == "c", subnets=subnets))
    for name in CONTAINERS:
        await box.attach(name, ports=["9000-9001:90-91"] if name == "x" else [])


async def take(world: World, step: tuple) -> None:
    switch = world.box.switch
    match step:
        case "update", network, update:
            await switch.update_network(network, update)
        case "connect", network, container, priority:
            await switch.connect(network, container, AttachmentSpec(gw_priority=priority))
        case "disconnect", network, container:
            await switch.disconnect(network, container)
        case "publish", container, text:
            await switch.publish(container, text)
        case "restart", keep:
            world.keep = keep
            before = world.seen()
            await world.again()
            assert world.seen() == before


def consistent(world: World) -> None:
    """The views agree with the dataplane and with the interfaces."""
    seen = world.seen()
    shapes = {network["name"]: network for network in seen["networks"]}
    for container in seen["containers"]:
        there = seen["interfaces"][container["name"]]
        assert set(there) == {e["interface"] for e in container["networks"]}
        able = [e for e in container["networks"] if not shapes[e["name"]]["internal"]]
        best = min(able, key=lambda e: (-e["gw_priority"], e["name"]), default=None)
        for endpoint in container["networks"]:
            plan, shape = there[endpoint["interface"]], shapes[endpoint["name"]]
            assert plan["mtu"] == shape["mtu"] == seen["plane"][endpoint["name"]]["mtu"]
            assert (plan["gateway4"] is not None) == (endpoint is best) == (4 in endpoint["default_route"])
            assert plan["gateway4"] in (None, endpoint["gateway"])
            assert endpoint["ipv4"] in plan["ipv4"]
        if best is None:
            assert container["ports"] == []
    for name, shape in shapes.items():
        assert seen["plane"][name]["isolated"] == (shape["options"].get("icc") == "false")
        assert (name in seen["ways_out"]) != shape["internal"]
    ends = [(c["name"], e["interface"]) for c in seen["containers"] for e in c["networks"]]
    assert sorted(seen["ports"]) == sorted(ends)
    for _, (container, _), _ in seen["published"]:
        assert container in CONTAINERS
    assert {port for sockets, _, _ in seen["published"] for port in sockets} == seen["listening"]


def lived(history: list[tuple]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="vswitch-history-"))

    async def scene() -> None:
        world = World(folder / "world", False)
        await world.start(prepare)
        for step in itertools.chain(history, [("restart", False), ("restart", True)]):
            with contextlib.suppress(Refused):
                await take(world, step)
            consistent(world)
        assert settled(await world.stored())
        await world.box.__aexit__()

    try:
        alone(scene())
    finally:
        shutil.rmtree(folder)


@settings(max_examples=12)
@given(st.lists(steps, min_size=3, max_size=10))
def test_any_history_of_changes_is_the_same_after_a_crash(history):
    lived(history)


@pytest.mark.slow
@settings(max_examples=400)
@given(st.lists(steps, min_size=3, max_size=20))
def test_many_histories_of_changes_are_the_same_after_a_crash(history):
    lived(history)
