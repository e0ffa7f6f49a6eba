# SPDX-License-Identifier: Apache-2.0
"""A real switch is killed while networks change; an ordinary user's networks change as root's do."""

from __future__ import annotations

import contextlib
import itertools
import subprocess

import pytest
from living_switch import DEADLINE_S, LivingSwitch
from rootless_switch import rootless_switch
from test_network_changes import default_routes, interfaces, pings

pytestmark = pytest.mark.root

CHANGES = (
    ("connect", "blue", "web", "--ip", "10.5.0.9"),
    ("update", "blue", "--mtu", "1300", "--opt", "icc=false"),
    ("disconnect", "default", "web"),
    ("update", "blue", "--mtu", "9000", "--opt-rm", "icc"),
    ("connect", "default", "web", "--gw-priority", "1"),
    ("disconnect", "blue", "web"),
)


def whole(switch: LivingSwitch, web, before: dict, said: bool) -> dict:
    """What there is, which is as before or as after a change; after, if it was acknowledged."""
    (container,) = switch.json("inspect", "web")
    networks = {row["name"]: row for row in switch.json("network", "ls")}
    assert container["state"] == "running", container["remedy"]
    joined = {row["name"]: row for row in container["networks"]}
    there = interfaces(web)
    assert {row["interface"] for row in joined.values()} == set(there)
    for name, row in joined.items():
        link = there[row["interface"]]
        assert (link["address"], link["mtu"]) == (row["mac"], networks[name]["mtu"])
        assert row["ipv4"] in {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"]}
    routed = [(row["gateway"], row["interface"]) for row in joined.values() if row["default_route"]]
    assert default_routes(web) == routed and len(routed) == min(len(joined), 1)
    members = {name: {c["name"] for c in network["containers"]} for name, network in networks.items()}
    assert {name for name, those in members.items() if "web" in those} == set(joined)
    state = {
        "joined": set(joined),
        "mtu": networks["blue"]["mtu"],
        "icc": networks["blue"]["options"].get("icc", "true"),
    }
    differences = sum(state[key] != before.get(key) for key in ("mtu", "icc"))
    assert not before or differences in (0, 2), f"half a change: {before} → {state}"
    assert not said or not before or state != before, "what was acknowledged is there"
    return state


def killed_again_and_again(switch: LivingSwitch, delays) -> None:
    switch("network", "create", "blue", "--subnet", "10.5.0.0/24", "--mtu", "9000")
    web = switch.container("web", "-p", "8080:80")
    state = whole(switch, web, {}, False)
    for change, delay_s in zip(itertools.cycle(CHANGES), delays, strict=False):
        client = switch.popen("network", *change, stdout=-3, stderr=-3)
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(delay_s)  # the moment of the kill is what is tried; at the latest, when it was acknowledged
        switch.kill()
        said = client.wait(20) == 0
        switch.start()
        state = whole(switch, web, state, said)
        if not said:
            switch("network", *change, check=False)  # refused where it is so already
            state = whole(switch, web, state, False)


@pytest.mark.slow
def test_a_switch_that_is_killed_while_networks_change_has_all_of_a_change_or_nothing(switch: LivingSwitch):
    killed_again_and_again(switch, (0.09, DEADLINE_S, 0.1))


@pytest.mark.slow
def test_a_switch_that_is_killed_at_many_moments_while_networks_change(switch: LivingSwitch):
    killed_again_and_again(switch, (0.07 + 0.0015 * step for step in range(60)))


def test_a_users_containers_join_and_leave_networks_that_change():
    with rootless_switch() as switch:

        def inside(*command: str) -> str:
            return switch("exec", "web", "--", *command).stdout

        switch("network", "create", "blue", "--subnet", "10.5.0.0/24", "-o", "icc=false")
        switch("run", "-d", "--name", "web", "--", "sleep", "600")
        switch("run", "-d", "--name", "peer", "--network", "blue", "--", "sleep", "600")
        named = ("exec", "web", "--", "getent", "hosts", "peer")
        assert switch(*named, check=False).returncode != 0
        switch("network", "connect", "blue", "web", "--gw-priority", "1")
        assert switch(*named).stdout.split()[0] == "10.5.0.2", "names come with the network"
        assert "10.5.0.3/24" in inside("ip", "-br", "addr", "show", "eth1")
        assert inside("ip", "route", "show", "default").split()[:5] == ["default", "via", "10.5.0.1", "dev", "eth1"]
        assert switch("exec", "web", "--", "ping", "-c1", "-W1", "10.5.0.2", check=False).returncode != 0
        switch("network", "update", "blue", "--mtu", "1300", "--opt", "icc=true")
        assert "mtu 1300" in inside("ip", "link", "show", "eth1")
        assert switch("exec", "web", "--", "ping", "-c1", "-W1", "10.5.0.2").returncode == 0
        switch("network", "disconnect", "blue", "web")
        assert switch(*named, check=False).returncode != 0
        assert "eth1" not in inside("ip", "-br", "link")
        assert inside("ip", "route", "show", "default").split()[2] == "172.17.0.1"


def test_routes_and_mtus_of_the_host_are_taken_over_while_it_runs(switch: LivingSwitch, client):
    events = switch.popen("events", "--json", stdout=-1)
    switch("network", "create", "blue", "--subnet", "10.5.0.0/24")
    web = switch.container("web", "--network", "blue")
    switch.host.run("ip", "route", "add", "10.5.0.0/16", "via", "192.0.2.9")
    line = next(line for line in events.stdout if '"overlap"' in line)
    assert '"10.5.0.0/16"' in line
    for command in (("network", "ls"), ("ps",)):
        assert "subnet 10.5.0.0/24 overlaps the host's route to 10.5.0.0/16" in switch(*command).stderr
    assert len(switch.json("network", "inspect", "blue")[0]["warnings"]) == 1
    switch.host.run("ip", "route", "del", "10.5.0.0/16")
    assert next(line for line in events.stdout if '"overlap_end"' in line)
    assert switch("network", "ls").stderr == "" and "overlaps the host's route" in switch.log.read_text()
    events.kill()
    events.wait()

    switch.host.run("ip", "route", "add", "172.18.0.0/16", "via", "192.0.2.9", "table", "52")
    switch("network", "create", "next")
    assert switch.json("network", "inspect", "next")[0]["subnets"][0]["subnet"] == "172.19.0.0/16"

    assert pings(web, "192.0.2.9", "-M", "do", "-s", "1472")
    switch.host.run("ip", "link", "set", switch.wire, "mtu", "1300")
    said = web.run("ping", "-c1", "-W1", "-M", "do", "-s", "1472", "192.0.2.9", check=False).stdout
    assert "mtu" in said.lower() and "1300" in said, said
