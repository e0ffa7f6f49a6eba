# SPDX-License-Identifier: Apache-2.0
"""Networks change and containers join and leave them while they run: real namespaces, real programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from living_switch import LivingSwitch, Namespace, eventually

pytestmark = pytest.mark.root


def pings(container: Namespace, address: str, *options: str) -> bool:
    return container.run("ping", "-c", "1", "-W", "0.3", *options, address, check=False).returncode == 0


def default_routes(container: Namespace) -> list[tuple[str, str]]:
    """(gateway, interface) of each."""
    routes = json.loads(container.run("ip", "-j", "route", "show", "default").stdout or "[]")
    return [(route["gateway"], route["dev"]) for route in routes]


def interfaces(container: Namespace) -> dict[str, dict]:
    """By name: what `ip addr` says."""
    return {row["ifname"]: row for row in json.loads(container.run("ip", "-j", "addr").stdout) if row["ifname"] != "lo"}


def test_a_running_container_joins_and_leaves_networks(switch: LivingSwitch):
    switch("network", "create", "blue", "--subnet", "10.5.0.0/24")
    switch("network", "create", "inner", "--subnet", "10.6.0.0/24", "--internal")
    web, peer = switch.container("web"), switch.container("peer", "--network", "blue")
    assert default_routes(web) == [("172.17.0.1", "eth0")] and not pings(web, "10.5.0.2")

    mac = "02:00:00:00:00:99"
    switch("network", "connect", "blue", "web", "--ip", "10.5.0.77", "--mac-address", mac, "--alias", "w")
    switch("network", "connect", "inner", "web", "--gw-priority", "9")
    assert set(interfaces(web)) == {"eth0", "eth1", "eth2"} and interfaces(web)["eth1"]["address"] == mac
    assert default_routes(web) == [("10.5.0.1", "eth1")], "blue comes before default; an internal one never has it"
    assert pings(web, "10.5.0.2") and pings(peer, "10.5.0.77")
    (shown,) = switch.json("inspect", "web")
    assert [(n["name"], n["interface"], n["default_route"]) for n in shown["networks"]] == [
        ("default", "eth0", []),
        ("blue", "eth1", [4]),
        ("inner", "eth2", []),
    ]
    (member,) = [c for c in switch.json("network", "inspect", "blue")[0]["containers"] if c["name"] == "web"]
    assert (member["ipv4"], member["mac"], member["aliases"]) == ("10.5.0.77/24", mac, ["w"])

    switch("network", "disconnect", "blue", "web")
    assert set(interfaces(web)) == {"eth0", "eth2"} and default_routes(web) == [("172.17.0.1", "eth0")]
    refused = switch("network", "disconnect", "blue", "web", check=False)
    assert refused.returncode == 1 and "web is not on network blue" in refused.stderr
    switch("network", "disconnect", "default", "web")
    switch("network", "disconnect", "inner", "web")
    assert interfaces(web) == {} and switch.json("inspect", "web")[0]["networks"] == []
    switch("network", "connect", "blue", "web")
    assert pings(web, "10.5.0.2") and default_routes(web) == [("10.5.0.1", "eth0")]


@pytest.mark.slow
def test_the_default_route_goes_by_priority_then_name_and_survives_a_crash(switch: LivingSwitch):
    for name, subnet in (("a", "10.1.0.0/24"), ("b", "10.2.0.0/24"), ("c", "10.3.0.0/24")):
        switch("network", "create", name, "--subnet", subnet)
    box = switch.container("box", "--network", "c,gw-priority=-1", "--network", "b")
    assert default_routes(box) == [("10.2.0.1", "eth1")]
    switch("network", "connect", "a", "box")
    assert default_routes(box) == [("10.1.0.1", "eth2")]
    switch("network", "disconnect", "c", "box")
    switch("network", "connect", "--gw-priority", "1", "c", "box")
    assert default_routes(box) == [("10.3.0.1", "eth0")]
    switch.kill()
    switch.start()
    assert default_routes(box) == [("10.3.0.1", "eth0")]
    assert [n["name"] for n in switch.json("inspect", "box")[0]["networks"]] == ["b", "a", "c"]
    switch("network", "disconnect", "c", "box")
    assert default_routes(box) == [("10.1.0.1", "eth2")]


@pytest.mark.slow
def test_published_ports_go_with_the_default_route(switch: LivingSwitch, client: Namespace):
    switch("network", "create", "a", "--subnet", "10.1.0.0/24")
    web = switch.container("web", "-p", "8080:80")
    server = [sys.executable, "-m", "http.server", "80", "--directory", "/proc/sys/net/ipv4"]

    def served() -> bool:
        return client.run("curl", "-sf", "-m", "3", "http://192.0.2.1:8080/ip_forward", check=False).returncode == 0

    with web.serving(80, *server, stdout=-3, stderr=-3):
        assert served()
        switch("network", "connect", "a", "web")
        assert served() and switch.json("port", "ls")[0]["network"] == "a"
        switch("network", "disconnect", "default", "web")
        assert served()
        switch("network", "update", "a", "--internal")
        assert not served() and "no network of it has a way out" in switch.json("inspect", "web")[0]["remedy"]
        assert default_routes(web) == []
        switch("network", "update", "a", "--no-internal")
        assert served() and default_routes(web) == [("10.1.0.1", "eth1")]


def test_a_new_mtu_reaches_the_interfaces_of_running_containers(switch: LivingSwitch):
    switch("network", "create", "blue", "--subnet", "10.5.0.0/24")
    one, two = (switch.container(name, "--network", "blue") for name in ("one", "two"))
    assert pings(one, "10.5.0.3", "-M", "do", "-s", "1472") and not pings(one, "10.5.0.3", "-M", "do", "-s", "8972")
    switch("network", "update", "blue", "--mtu", "9000")
    assert interfaces(one)["eth0"]["mtu"] == interfaces(two)["eth0"]["mtu"] == 9000
    assert pings(one, "10.5.0.3", "-M", "do", "-s", "8972")
    switch("network", "update", "blue", "--mtu", "1300")
    assert interfaces(one)["eth0"]["mtu"] == 1300 and not pings(one, "10.5.0.3", "-M", "do", "-s", "1472")
    assert pings(one, "10.5.0.3", "-M", "do", "-s", "1272")


def test_containers_that_are_kept_apart_reach_the_world_but_not_each_other(switch: LivingSwitch, client: Namespace):
    switch("network", "create", "apart", "--subnet", "10.5.0.0/24", "-o", "com.docker.network.bridge.enable_icc=false")
    one = switch.container("one", "--network", "apart")
    two = switch.container("two", "--network", "apart", "-p", "8080:80")
    assert pings(one, "10.5.0.1") and pings(one, "192.0.2.9") and not pings(one, "10.5.0.3")
    one.run("ip", "neigh", "replace", "10.5.0.3", "lladdr", interfaces(two)["eth0"]["address"], "dev", "eth0")
    assert not pings(one, "10.5.0.3"), "not even where it knows the MAC"
    server = [sys.executable, "-m", "http.server", "80", "--directory", "/proc/sys/net"]
    with two.serving(80, *server, stdout=-3, stderr=-3):
        for who in (client, one):
            assert who.run("curl", "-sf", "-m", "3", "http://192.0.2.1:8080/").returncode == 0, "published ports work"
    assert switch.drops("one")["isolated"] >= 2
    switch("network", "update", "apart", "--opt-rm", "com.docker.network.bridge.enable_icc")
    assert pings(one, "10.5.0.3")
    switch("network", "update", "apart", "--opt", "icc=false")
    assert not pings(one, "10.5.0.3")


@pytest.mark.slow
def test_subnets_ranges_and_labels_change_while_containers_run(switch: LivingSwitch):
    switch("network", "create", "blue", "--subnet", "10.5.0.0/24", "--label", "old=1")
    one = switch.container("one", "--network", "blue")
    switch("network", "update", "blue", "--ip-range", "10.5.0.128/30", "--label", "new=2", "--label-rm", "old")
    switch("network", "update", "blue", "--subnet", "10.6.0.0/24")
    (shown,) = switch.json("network", "inspect", "blue")
    assert shown["labels"] == {"new": "2"} and [s["subnet"] for s in shown["subnets"]] == ["10.5.0.0/24", "10.6.0.0/24"]
    assert shown["subnets"][0]["ip_range"] == "10.5.0.128/30"
    for name in ("a", "b", "c", "d"):
        switch.container(name, "--network", "blue")
    addresses = [switch.address(name) for name in "abcd"]
    assert addresses == ["10.5.0.128", "10.5.0.129", "10.5.0.130", "10.5.0.131"]
    two = switch.container("two", "--network", "blue")
    assert switch.address("two") == "10.6.0.2"
    assert pings(two, "10.5.0.2") and pings(one, "10.6.0.2"), "one network, whatever the subnet"
    assert pings(two, "10.6.0.1")


@pytest.mark.slow
def test_the_default_network_follows_its_settings(tmp_path: Path):
    settings = tmp_path / "vswitch.toml"
    settings.write_text('[default_network]\nbip = "10.9.0.1/24"\nicc = false\nmtu = 1400\n')
    switch = LivingSwitch(tmp_path, "--config", str(settings))
    try:
        switch.start()
        one, two = switch.container("one"), switch.container("two")
        assert not pings(one, "10.9.0.3") and interfaces(one)["eth0"]["mtu"] == 1400
        settings.write_text('[default_network]\nbip = "10.9.0.1/24"\nmtu = 1300\n')
        switch.process.send_signal(1)
        eventually(lambda: interfaces(two)["eth0"]["mtu"] == 1300, "the containers' interfaces to follow the settings")
        assert pings(one, "10.9.0.3")
        refused = switch("network", "update", "default", "--mtu", "1500", check=False)
        assert refused.returncode == 1 and "belongs to the switch's settings" in refused.stderr
    finally:
        switch.close()
