# SPDX-License-Identifier: Apache-2.0
"""Containers on one switch reach each other, and nothing else, seen through the programs that people use."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from living_switch import LivingSwitch, eventually
from unconfined import copy_of

pytestmark = pytest.mark.root


def test_two_containers_of_the_default_network_ping_each_other(switch: LivingSwitch):
    a, _ = switch.container("a"), switch.container("b")
    assert switch.address("a") == "172.17.0.2" and switch.address("b") == "172.17.0.3"
    a.run("ping", "-c", "2", "-i", "0.2", "-W", "2", "172.17.0.3")
    a.run("ping", "-c", "1", "-W", "2", "172.17.0.1")


def test_containers_of_different_networks_do_not_reach_each_other(switch: LivingSwitch):
    switch("network", "create", "blue")
    switch("network", "create", "green")
    a, b = switch.container("a", "--network", "blue"), switch.container("b", "--network", "green")
    assert a.run("ping", "-c", "2", "-i", "0.2", "-W", "1", switch.address("b"), check=False).returncode == 1
    a.run(
        "ip",
        "neigh",
        "replace",
        switch.address("b"),
        "lladdr",
        switch.json("inspect", "b")[0]["networks"][0]["mac"],
        "dev",
        "eth0",
    )
    a.run("ip", "route", "add", switch.address("b"), "dev", "eth0")
    before = switch.json("stats")
    a.run("ping", "-c", "2", "-i", "0.2", "-W", "1", switch.address("b"), check=False)
    sent = {row["container"]: row["tx_frames"] for row in before["ports"]}
    after = {row["container"]: row["tx_frames"] for row in switch.json("stats")["ports"]}
    assert after["b"] == sent["b"]
    assert switch.drops("a")["unknown_unicast"] >= 2
    b.run("true")


def test_tcp_crosses_as_super_frames_at_mtu_1500(switch: LivingSwitch):
    a, b = switch.container("a"), switch.container("b")
    server = b.start("iperf3", "-s", "-1", stdout=subprocess.DEVNULL)
    eventually(lambda: "LISTEN" in b.run("ss", "-tln").stdout, "iperf3 listens")
    result = json.loads(a.run("iperf3", "-c", switch.address("b"), "-n", "50M", "-J").stdout)
    server.wait(10)
    assert result["end"]["sum_received"]["bytes"] >= 49_000_000
    row = next(row for row in switch.json("stats")["ports"] if row["container"] == "a")
    assert row["rx_segments"] > 10 * row["rx_frames"], "frames crossed one by one, not as super-frames"


def test_udp_of_every_size_arrives_whole(switch: LivingSwitch):
    a, b = switch.container("a"), switch.container("b")
    with b.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((switch.address("b"), 7000))
    with a.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client, server:
        server.settimeout(5)
        for size in (0, 1, 17, 18, 19, 1471, 1472, 1473, 9000, 65507):
            sent = os.urandom(size)
            client.sendto(sent, server.getsockname())
            assert server.recv(70000) == sent, size


def test_a_network_with_jumbo_frames_carries_them_and_an_ordinary_one_drops_them(switch: LivingSwitch):
    switch("network", "create", "jumbo", "--mtu", "9000")
    a, b = switch.container("a", "--network", "jumbo"), switch.container("b", "--network", "jumbo")
    a.run("ping", "-c", "1", "-W", "2", "-M", "do", "-s", "8972", switch.address("b"))
    c, d = switch.container("c"), switch.container("d")
    for namespace in (c, d):
        namespace.run("ip", "link", "set", "eth0", "mtu", "9000")
    assert (
        c.run("ping", "-c", "1", "-W", "1", "-M", "do", "-s", "4000", switch.address("d"), check=False).returncode == 1
    )
    assert switch.drops("c")["oversized"] == 1
    b.run("true")


def test_dual_stack_containers_ping_each_other_and_the_gateway_over_ipv6(switch: LivingSwitch):
    switch("network", "create", "six", "--ipv6", "--subnet", "fd00:6::/64", "--subnet", "10.66.0.0/24")
    a, _ = switch.container("a", "--network", "six"), switch.container("b", "--network", "six")
    there = switch.json("inspect", "b")[0]["networks"][0]
    a.run("ping", "-6", "-c", "2", "-i", "0.2", "-W", "2", there["ipv6"].split("/")[0])
    a.run("ping", "-6", "-c", "1", "-W", "2", there["gateway6"])
    a.run("ping", "-4", "-c", "1", "-W", "2", there["ipv4"].split("/")[0])
    a.run("ping", "-6", "-c", "1", "-W", "2", "fe80::42:aff:fe42:1%eth0")
    kinds = {row["address"]: row["kind"] for row in switch.json("neigh")}
    assert kinds["fe80::42:aff:fe42:1"] == "gateway" and kinds["fe80::42:aff:fe42:3"] == "endpoint"


def test_duplicate_address_detection_sees_others_addresses_and_not_ones_own(switch: LivingSwitch):
    a, _ = switch.container("a"), switch.container("b")
    assert a.run("arping", "-D", "-c", "1", "-w", "2", "-I", "eth0", switch.address("b"), check=False).returncode == 1
    assert a.run("arping", "-D", "-c", "1", "-w", "1", "-I", "eth0", switch.address("a"), check=False).returncode == 0
    assert a.run("arping", "-D", "-c", "1", "-w", "1", "-I", "eth0", "172.17.0.99", check=False).returncode == 0


def test_a_question_for_a_known_address_leaves_on_no_port(switch: LivingSwitch):
    a, _, c = switch.container("a"), switch.container("b"), switch.container("c")
    listening = c.start("tcpdump", "-i", "eth0", "-nn", "-l", "arp", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert "listening" in listening.stderr.readline() + listening.stderr.readline()
    a.run("arping", "-c", "3", "-i", "0.1", "-I", "eth0", switch.address("b"), check=False)
    a.run("arping", "-c", "1", "-w", "1", "-I", "eth0", "172.17.0.99", check=False)
    heard = listening.stdout.readline()
    listening.terminate()
    assert "who-has 172.17.0.99" in heard, heard


def test_a_container_that_takes_anothers_mac_is_silenced(switch: LivingSwitch):
    a, b = switch.container("a"), switch.container("b")
    mac = switch.json("inspect", "b")[0]["networks"][0]["mac"]
    a.run("ip", "link", "set", "eth0", "address", mac)
    assert a.run("ping", "-c", "1", "-W", "1", "172.17.0.1", check=False).returncode == 1
    assert switch.drops("a")["mac_spoof"] >= 1
    b.run("ping", "-c", "1", "-W", "2", "172.17.0.1")


def pid_in(file: Path) -> int:
    """The process id that a daemon has written, 0 while it has not."""
    return int(file.read_text() or 0) if file.exists() else 0


@pytest.mark.parametrize("client", ["udhcpc", "dhclient"])
def test_a_dhcp_client_gets_the_address_that_is_its_own(switch: LivingSwitch, client: str, tmp_path):
    a = switch.container("a")
    address = switch.address("a")
    a.run("ip", "addr", "flush", "dev", "eth0")
    if client == "udhcpc":
        got = a.run("busybox", "udhcpc", "-i", "eth0", "-f", "-n", "-q", "-s", "/bin/true").stdout
    else:
        dhclient = copy_of("dhclient", tmp_path)
        files = ["-lf", str(tmp_path / "leases"), "-pf", str(tmp_path / "pid"), "-sf", "/bin/true"]
        got = a.run(dhclient, "-4", "-1", "-v", *files, "eth0").stdout
        pid = eventually(lambda: pid_in(tmp_path / "pid"), "the daemon, whose parent is gone, to write its pid")
        os.kill(pid, signal.SIGTERM)  # -x of a copy ends nothing
    assert address in got, got
    assert [(row["address"], row["container"], row["state"]) for row in switch.json("lease")] == [
        (address, "a", "bound")
    ]


def test_frames_of_any_ethertype_and_vlan_tag_are_carried(switch: LivingSwitch):
    a, b = switch.container("a"), switch.container("b")
    macs = [switch.json("inspect", name)[0]["networks"][0]["mac"] for name in "ab"]
    listening = b.start(
        "tcpdump",
        "-i",
        "eth0",
        "-nn",
        "-e",
        "-l",
        "-c",
        "2",
        "ether proto 0x88b5 or vlan",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert "listening" in listening.stderr.readline() + listening.stderr.readline()
    send = (
        "import socket,sys; s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind(('eth0',0)); "
        "h=bytes.fromhex(sys.argv[1].replace(':','')+sys.argv[2].replace(':','')); "
        "s.send(h+b'\\x88\\xb5'+b'x'*50); s.send(h+b'\\x81\\x00\\x00\\x07\\x88\\xb5'+b'x'*50)"
    )
    a.run("python3", "-c", send, macs[1], macs[0])
    heard, _ = listening.communicate(timeout=10)
    assert "0x88b5" in heard and "vlan 7" in heard, heard
