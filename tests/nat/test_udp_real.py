# SPDX-License-Identifier: Apache-2.0
"""Real programs in a namespace with a TAP: ping and iperf3 through the switch to hosts beyond a router."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from own_namespace import FAR4, FAR6, ROUTER4, ROUTER6, Beyond, in_own_namespace, sysctl
from real_hosts import RealSwitch

pytestmark = pytest.mark.root
GATEWAY4, GATEWAY6 = "172.17.0.1", "fd00::1"


class RealWayOut:
    """A container namespace behind a switch in this thread's namespace, which has a router and a far host."""

    def __init__(self, **how):
        sysctl("ipv4/ping_group_range", "0 2147483647")
        self.beyond = Beyond(**how)
        self.switch = RealSwitch()
        self.switch.network()
        self.switch.do(self.switch.plane.post_way_out, 0, open=True)
        for address in (GATEWAY4, GATEWAY6):
            self.switch.bind(address)
        self.host = self.switch.host("172.17.0.2/16", "fd00::2/64")
        self.host.ip("route", "add", "default", "via", GATEWAY4)
        self.host.ip("-6", "route", "add", "default", "via", GATEWAY6)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.switch.close()
        self.beyond.close()

    def far(self, *command: str) -> subprocess.Popen:
        """A program on the far host."""
        enter = ["nsenter", "-t", str(self.beyond.processes[1].pid), "-n"]
        return subprocess.Popen([*enter, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("far", [FAR4, FAR6])
@in_own_namespace
def test_ping_of_any_size_comes_back(far):
    with RealWayOut() as way_out:
        for size, count in (("56", "20"), ("1472", "3"), ("30000", "3")):
            said = way_out.host.run("ping", "-q", "-c", count, "-i", "0.01", "-W", "2", "-s", size, far).stdout
            assert f"{count} received" in said, said
        assert way_out.switch.drops() == {}


@pytest.mark.parametrize("far", [FAR4, FAR6])
@in_own_namespace
def test_ping_shows_each_router_on_the_way(far):
    with RealWayOut() as way_out:
        routers = (GATEWAY6, ROUTER6) if ":" in far else (GATEWAY4, ROUTER4)
        for ttl, router in enumerate(routers, 1):
            said = way_out.host.run("ping", "-n", "-c", "1", "-W", "2", "-t", str(ttl), far, check=False).stdout
            assert re.search(rf"From {router}:? icmp_seq=1 Time (to live )?exceeded", said), said
        assert "1 received" in way_out.host.run("ping", "-n", "-c", "1", "-W", "2", "-t", "3", far).stdout


@in_own_namespace
def test_a_narrow_path_is_found_by_the_container_itself():
    with RealWayOut(far_mtu=1300) as way_out:
        for _ in range(2):
            said = way_out.host.run("ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1400", FAR4, check=False)
        # not every ping names the size that its kernel knows
        known = way_out.host.run("ip", "route", "get", FAR4).stdout
        assert re.search(r"\bmtu 1300\b", known), (said, known)
        assert "1 received" in way_out.host.run("ping", "-c", "1", "-W", "2", "-s", "1400", FAR4).stdout


@pytest.mark.parametrize("far", [FAR4, FAR6])
@pytest.mark.parametrize("reverse", [[], ["-R"]], ids=["out", "in"])
@in_own_namespace
def test_iperf3_sends_datagrams_at_a_steady_rate_without_loss(far, reverse):
    with RealWayOut() as way_out:
        server = way_out.far("iperf3", "-s", "-1", "--forceflush")
        while "listening" not in server.stdout.readline():
            pass
        client = ("iperf3", "-u", "-J", "-t", "2", "-b", "20M", "-l", "1400", "-c", far)
        said = json.loads(way_out.host.run(*client, *reverse, timeout=20).stdout)
        server.wait(10)
        server.stdout.close()
        assert said["end"]["sum"]["lost_percent"] < 2, said["end"]["sum"]
        assert said["end"]["sum"]["packets"] > 3_000
