# SPDX-License-Identifier: Apache-2.0
"""Interfaces configured for real, and looked at with iproute2."""
import os
import select
import subprocess
from pathlib import Path

import pytest
from throwaway import DEADLINE_S, ip

from vswitch.container._linux import CLONE_NEWNS, MS_BIND, MS_PRIVATE, MS_RDONLY, MS_REC, mount, unshare
from vswitch.model import Refused
from vswitch.ports import interface
from vswitch.ports.interface import InterfacePlan, configure, free_name, unconfigure
from vswitch.ports.tap import open_tap

MAC = "02:42:ac:11:00:02"
PLAN4 = InterfacePlan(
    name="eth0", mac=MAC, mtu=1400, txqueuelen=3000, ipv4=["172.17.0.2/16"], gateway4="172.17.0.1"
)
PLAN6 = InterfacePlan(
    name="eth0",
    mac=MAC,
    ipv4=["172.17.0.2/16"],
    ipv6=["fd00::2/64"],
    gateway4="172.17.0.1",
    gateway6="fd00::1",
)
MS_REMOUNT = 32


def sysctl(name: str) -> str:
    return Path(f"/proc/sys/net/ipv6/conf/{name}").read_text().strip()


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def look() -> dict:
    """Everything about the namespace that a plan decides."""
    link = ip("link", "show", "eth0")[0]
    addresses = ip("address", "show", "eth0")[0]["addr_info"]
    wide = [address for address in addresses if address["scope"] == "global"]
    return {
        "link": (link["address"], link["mtu"], link["txqlen"], "UP" in link["flags"]),
        "lo": "UP" in ip("link", "show", "lo")[0]["flags"],
        "global": [(a["local"], a["prefixlen"], a.get("broadcast")) for a in wide],
        "local": [a["local"] for a in addresses if a["scope"] == "link"],
        "tentative": [a["local"] for a in wide if a.get("tentative")],
        "default4": [(r["gateway"], r["dev"]) for r in ip("-4", "route", "show", "default")],
        "default6": [(r["gateway"], r["dev"]) for r in ip("-6", "route", "show", "default")],
        "disable_ipv6": sysctl("eth0/disable_ipv6"),
        "accept_ra": sysctl("eth0/accept_ra"),
    }


def configured(plan: InterfacePlan, times: int = 1) -> tuple[int, dict]:
    """The TAP's descriptor and what the namespace looks like."""
    fd = open_tap("eth0", persist=False).fd
    for _ in range(times):
        configure(plan)
    return fd, look()


def seen(plan: InterfacePlan, times: int = 1) -> dict:
    return configured(plan, times)[1]


@pytest.mark.root
@pytest.mark.parametrize("times", [1, 2])
def test_an_ipv4_plan_is_carried_out_and_may_be_repeated(netns, times):
    assert netns.inside(seen, PLAN4, times) == {
        "link": (MAC, 1400, 3000, True),
        "lo": True,
        "global": [("172.17.0.2", 16, "172.17.255.255")],
        "local": [],
        "tentative": [],
        "default4": [("172.17.0.1", "eth0")],
        "default6": [],
        "disable_ipv6": "1",
        "accept_ra": "0",
    }


@pytest.mark.root
@pytest.mark.parametrize("times", [1, 2])
def test_a_dual_stack_plan_is_carried_out_and_usable_at_once(netns, times):
    found = netns.inside(seen, PLAN6, times)
    assert found["global"] == [("172.17.0.2", 16, "172.17.255.255"), ("fd00::2", 64, None)]
    assert found["tentative"] == []
    assert (found["default4"], found["default6"]) == ([("172.17.0.1", "eth0")], [("fd00::1", "eth0")])
    assert (found["disable_ipv6"], found["accept_ra"]) == ("0", "0")


def with_ipv6_off_by_default():
    for scope in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
    return seen(PLAN6)


@pytest.mark.root
def test_an_inherited_default_does_not_decide_about_ipv6(netns):
    found = netns.inside(with_ipv6_off_by_default)
    assert ("fd00::2", 64, None) in found["global"]
    assert found["default6"] == [("fd00::1", "eth0")]


def frames_of(plan: InterfacePlan) -> list[bytes]:
    """The (Ethernet) frames that configuring makes the kernel send by itself; those of IPv6 are awaited."""
    fd, _ = configured(plan)
    if plan.ipv6:
        assert select.select([fd], [], [], DEADLINE_S)[0], "IPv6 reports its multicast groups"
    found = []
    while True:
        try:
            found.append(os.read(fd, 70000)[12:])
        except BlockingIOError:
            return found


@pytest.mark.root
def test_a_container_without_ipv6_says_nothing_by_itself(netns):
    assert netns.inside(frames_of, PLAN4) == []


@pytest.mark.root
def test_no_frame_leaves_with_another_mac_than_the_planned(netns):
    frames = netns.inside(frames_of, PLAN6)
    assert {frame[6:12].hex(":") for frame in frames} == {MAC}


def with_read_only_sysctls(plan: InterfacePlan, default: str):
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text(default)
    unshare(CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("/proc/sys", "/proc/sys", None, MS_BIND)
    mount(None, "/proc/sys", None, MS_BIND | MS_REMOUNT | MS_RDONLY)
    frames = frames_of(plan)
    return look(), frames


@pytest.mark.root
def test_where_sysctls_are_read_only_the_interface_is_still_quiet(netns):
    found, frames = netns.inside(with_read_only_sysctls, PLAN4, "0")
    assert found["disable_ipv6"] == "0", "the test's own premise"
    assert found["local"] == []
    assert found["global"] == [("172.17.0.2", 16, "172.17.255.255")]
    assert frames == []


@pytest.mark.root
def test_where_sysctls_are_read_only_ipv6_works_if_it_is_on(netns):
    found, _ = netns.inside(with_read_only_sysctls, PLAN6, "0")
    assert ("fd00::2", 64, None) in found["global"]


@pytest.mark.root
def test_ipv6_that_cannot_be_turned_on_is_one_clear_line(netns):
    with pytest.raises(Refused, match=r"interface eth0: cannot set address fd00::2/64: .*IPv6 is disabled"):
        netns.inside(with_read_only_sysctls, PLAN6, "1")


def on_a_kernel_without_ipv6(plan: InterfacePlan):
    interface._kernel_has_ipv6 = lambda: False
    return seen(plan)


@pytest.mark.root
def test_a_kernel_without_ipv6_serves_ipv4_and_refuses_ipv6(netns):
    assert netns.inside(on_a_kernel_without_ipv6, PLAN4)["global"] == [("172.17.0.2", 16, "172.17.255.255")]
    with pytest.raises(Refused, match="this kernel has no IPv6"):
        netns.inside(on_a_kernel_without_ipv6, InterfacePlan(name="lo", mac=MAC, ipv6=["fd00::2/64"]))


def with_a_small_mtu():
    plan = InterfacePlan(name="eth0", mac=MAC, mtu=576, ipv4=["10.0.0.2/24"])
    fd = open_tap("eth0", persist=False).fd
    configure(plan)
    configure(plan)
    return fd, ip("link", "show", "eth0")[0]["mtu"]


@pytest.mark.root
def test_an_mtu_below_what_ipv6_needs_is_fine_without_it(netns):
    assert netns.inside(with_a_small_mtu)[1] == 576


def after_a_dhcp_client():
    fd = open_tap("eth0", persist=False).fd
    configure(PLAN4)
    run("ip", "address", "change", "172.17.0.2/16", "dev", "eth0", "valid_lft", "600", "preferred_lft", "300")
    run("ip", "address", "add", "10.1.1.1/24", "dev", "eth0")
    configure(PLAN4)
    return fd, {a["local"]: a["valid_life_time"] < 700 for a in ip("address", "show", "eth0")[0]["addr_info"]}


@pytest.mark.root
def test_repeating_leaves_leased_and_added_addresses_alone(netns):
    assert netns.inside(after_a_dhcp_client)[1] == {"172.17.0.2": True, "10.1.1.1": False}


def beside_other_default_routes():
    """Default routes before, with ours, and after our interface has gone."""
    run("ip", "link", "add", "name", "wan", "type", "veth", "peer", "name", "far")
    Path("/proc/sys/net/ipv6/conf/wan/accept_dad").write_text("0")
    for command in (
        "address add 192.0.2.2/24 dev wan",
        "address add 2001:db8::2/64 dev wan nodad",
        "link set far up",
        "link set wan up",
        "route add default via 192.0.2.1",
        "-6 route add default via 2001:db8::1",
    ):
        run("ip", *command.split())
    fd, _ = configured(PLAN6)

    def way_out():
        return [ip("route", "get", target)[0]["gateway"] for target in ("203.0.113.1", "2001:db8:9::1")]

    ours = way_out()
    os.close(fd)
    return ours, way_out()


@pytest.mark.root
def test_our_default_route_is_preferred_and_the_others_come_back(netns):
    assert netns.inside(beside_other_default_routes) == (
        ["172.17.0.1", "fd00::1"],
        ["192.0.2.1", "2001:db8::1"],
    )


@pytest.mark.root
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mtu": 70000}, "mtu greater than device maximum"),
        ({"mac": "01:00:00:00:00:01"}, "the kernel refused MAC 01:00:00:00:00:01"),
        ({"gateway4": "203.0.113.1"}, "cannot set the default route via 203.0.113.1: Network is unreachable"),
    ],
)
def test_what_the_kernel_refuses_is_one_line(netns, changes, words):
    plan = InterfacePlan(name="eth0", **({"mac": MAC, "ipv4": ["172.17.0.2/16"]} | changes))
    with pytest.raises(Refused) as caught:
        netns.inside(seen, plan)
    assert words in str(caught.value)
    assert str(caught.value).startswith("interface eth0: ")
    assert "\n" not in str(caught.value)


def names():
    """The free names as interfaces come and go."""
    found = [free_name()]
    fds = [open_tap(name, persist=False).fd for name in ("eth0", "eth1", "eth3")]
    found.append(free_name())
    os.close(fds[0])
    found.append(free_name())
    return found


@pytest.mark.root
def test_the_first_free_name_is_found(netns):
    assert netns.inside(names) == ["eth0", "eth2", "eth0"]


def removed(hold: bool):
    fd = open_tap("eth0", persist=True).fd
    configure(PLAN6)
    if not hold:
        os.close(fd)
    unconfigure("eth0")
    unconfigure("eth0")
    return [link["ifname"] for link in ip("link")], ip("-4", "route"), ip("-6", "route", "show", "default")


@pytest.mark.root
@pytest.mark.parametrize("hold", [True, False])
def test_after_unconfigure_nothing_remains(netns, hold):
    assert netns.inside(removed, hold) == (["lo"], [], [])


def remove_what_is_not_ours():
    run("ip", "link", "add", "name", "eth0", "type", "veth", "peer", "name", "far")
    try:
        unconfigure("eth0")
    finally:
        assert "eth0" in [link["ifname"] for link in ip("link")]


@pytest.mark.root
def test_another_kind_of_interface_is_not_deleted(netns):
    with pytest.raises(Refused, match="no TAP, so it is not ours"):
        netns.inside(remove_what_is_not_ours)
