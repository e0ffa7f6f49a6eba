# SPDX-License-Identifier: Apache-2.0
"""The host's routes as the kernel tells them, and the networks that they lead into."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from switchbox import Box, simulated

from vswitch.control.hostroutes import RTMSG, destination, read_routes
from vswitch.control.overlaps import SHOWN, Routes
from vswitch.model import AttachmentSpec, NetworkSpec, NetworkUpdate, SubnetSpec

IN_A_NAMESPACE = """
import asyncio, subprocess, sys
from vswitch.control.hostroutes import HostRoutes

async def main():
    told = asyncio.Queue()
    routes = HostRoutes()
    routes.follow(told.put_nowait)
    for command in sys.argv[1:]:
        subprocess.run(command, shell=True, check=True)
        print(*map(str, await asyncio.wait_for(told.get(), 10)))
    routes.close()

asyncio.run(main())
"""


def rtmsg(family: int, target: str | None, bits: int, *, kind: int = 1, table: int = 254, flags: int = 0) -> bytes:
    """The body of an RTM_NEWROUTE message."""
    body = RTMSG.pack(family, bits, 0, 0, table, 3, 0, kind, flags)
    if target is not None:
        packed = socket.inet_pton(family, target)
        body += (4 + len(packed)).to_bytes(2, sys.byteorder) + (1).to_bytes(2, sys.byteorder) + packed
    return body


@pytest.mark.parametrize(
    ("body", "subnet"),
    [
        (rtmsg(socket.AF_INET, "10.0.0.0", 8), "10.0.0.0/8"),
        (rtmsg(socket.AF_INET, "100.64.0.7", 32, table=52), "100.64.0.7/32"),
        (rtmsg(socket.AF_INET6, "fd00:1::", 64), "fd00:1::/64"),
        (rtmsg(socket.AF_INET, None, 0), None),
        (rtmsg(socket.AF_INET, "128.0.0.0", 1), None),
        (rtmsg(socket.AF_INET, "10.9.0.0", 16, kind=6), None),  # blackhole
        (rtmsg(socket.AF_INET, "192.0.2.1", 32, kind=2, table=255), None),  # local
        (rtmsg(socket.AF_INET6, "fe80::", 64), None),
        (rtmsg(socket.AF_INET6, "ff00::", 8), None),
        (rtmsg(socket.AF_INET6, "fd00::1", 128, flags=0x200), None),  # a cache entry
        (rtmsg(28, None, 20), None),  # MPLS
        (b"", None),
    ],
)
def test_a_route_leads_to_a_place_of_its_own_or_counts_for_nothing(body, subnet):
    assert destination(body) == (None if subnet is None else ip_network(subnet))


@given(st.binary(max_size=100))
def test_any_bytes_as_a_route_are_survived(body):
    assert destination(body) is None or destination(body).prefixlen >= 4


@pytest.mark.root
def test_routes_of_every_table_are_followed_as_they_come_and_go():
    commands = (
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1;"
        " ip link add va type veth peer vb; ip link set va up; ip link set vb up",
        "ip addr add 192.0.2.1/24 dev va; ip route add 10.8.0.0/16 via 192.0.2.9;"
        " ip route add 198.51.100.0/24 dev va table 52",
        "ip route add blackhole 10.9.0.0/16; ip route add 10.7.0.0/24 dev va",
        "ip link set va down",  # the kernel says nothing of the routes that go
    )
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", IN_A_NAMESPACE, *commands],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
    )
    lines = [set(line.split()) for line in done.stdout.splitlines()]
    assert len(lines) == 4, done.stderr
    assert lines[1] == {"192.0.2.0/24", "10.8.0.0/16", "198.51.100.0/24"}
    assert lines[2] == lines[1] | {"10.7.0.0/24"} and lines[3] == set()


def test_this_machine_has_routes_or_none():
    assert all(isinstance(route, IPv4Network | IPv6Network) for route in read_routes())


subnets = st.builds(
    lambda number, bits: IPv4Network((number << 24, bits), strict=False), st.integers(0, 255), st.integers(4, 32)
)


@given(st.lists(subnets, max_size=7, unique=True), subnets)
def test_overlaps_are_those_that_share_an_address(routes, subnet):
    assert set(Routes(routes).overlapping(subnet)) == {route for route in routes if route.overlaps(subnet)}


def test_a_whole_internet_of_routes_is_held_against_a_network_at_once():
    routes = Routes(IPv4Network((0x0B000000 + (number << 8), 24)) for number in range(50_000))
    began = time.perf_counter()
    for _ in range(100):
        assert len(routes.overlapping(IPv4Network("11.0.0.0/12"))) == SHOWN
        assert routes.overlapping(IPv4Network("10.0.0.0/8")) == []
    assert time.perf_counter() - began < 15, "milliseconds; to look at each route takes minutes"


@simulated
async def test_an_overlap_that_arises_is_told_and_shown_until_it_ends(tmp_path, caplog):
    async with Box(tmp_path) as box:
        spec = NetworkSpec(name="blue", ipv6=True, subnets=[SubnetSpec(subnet=s) for s in ("10.1.0.0/16", "fd01::/64")])
        await box.switch.create_network(spec)
        await box.attach("web", AttachmentSpec(network="blue"))
        events = box.switch.events.subscribe()
        assert box.switch.network("blue").warnings == [] and box.switch.container("web").warnings == []

        box.routes.become("10.0.0.0/8", "192.0.2.0/24")
        told = await asyncio.wait_for(anext(events), 5)
        assert (told.type, told.action, told.name) == ("network", "overlap", "blue")
        assert told.attributes == {"subnet": "10.1.0.0/16", "route": "10.0.0.0/8"}
        (line,) = box.switch.network("blue").warnings
        assert "subnet 10.1.0.0/16 overlaps the host's route to 10.0.0.0/8" in line
        assert box.switch.container("web").warnings == [line] and line in caplog.text
        assert box.switch.network("default").warnings == []

        box.routes.become("10.0.0.0/8", "fd01::/48")
        assert (await asyncio.wait_for(anext(events), 5)).attributes["route"] == "fd01::/48"
        assert len(box.switch.network("blue").warnings) == 2, "the first is told once"
        box.routes.become()
        ended = {(await asyncio.wait_for(anext(events), 5)).action for _ in range(2)}
        assert ended == {"overlap_end"} and box.switch.network("blue").warnings == []


@simulated
async def test_an_overlap_that_is_there_from_the_start_is_shown(tmp_path):
    async with Box(tmp_path) as box:
        box.routes.become("10.1.2.0/24")
        made = await box.switch.create_network(NetworkSpec(name="a", subnets=[SubnetSpec(subnet="10.1.0.0/16")]))
        assert len(made.warnings) == 1
        await box.switch.create_network(NetworkSpec(name="b", subnets=[SubnetSpec(subnet="10.2.0.0/16")]))
        box.routes.become("10.1.2.0/24", "10.3.0.0/24")
        changed = await box.switch.update_network("b", NetworkUpdate(subnets=[SubnetSpec(subnet="10.3.0.0/16")]))
        assert len(changed.warnings) == 1
        await box.restart()
        assert [len(network.warnings) for network in box.switch.networks()] == [1, 1, 0]
