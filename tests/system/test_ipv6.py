# SPDX-License-Identifier: Apache-2.0
"""IPv6 and the source guard with real kernels and programs: dual stack, autoconfiguration, and raw frames of a
container that lies."""

from __future__ import annotations

import json
import socket
import sys
from ipaddress import IPv6Address, IPv6Network, ip_address

import frames
import pytest
from living_switch import LivingSwitch, Namespace, eventually

pytestmark = pytest.mark.root


def global6(container: Namespace, *, temporary: bool | None = None) -> list[str]:
    """The container's global IPv6 addresses that are ready for use."""
    links = json.loads(container.run("ip", "-j", "-6", "addr", "show", "eth0", "scope", "global").stdout)
    return [
        entry["local"]
        for link in links
        for entry in link.get("addr_info", ())
        if entry and not entry.get("tentative") and temporary in (None, bool(entry.get("temporary")))
    ]


def pings(container: Namespace, address: str, *options: str) -> bool:
    return container.run("ping", "-c", "1", "-W", "2", *options, address, check=False).returncode == 0


def test_containers_of_a_dual_stack_network_reach_each_other_the_gateway_and_the_world(
    switch: LivingSwitch, client: Namespace
):
    switch("network", "create", "blue", "--ipv6")
    (view,) = switch.json("network", "inspect", "blue")
    prefix = IPv6Network(next(entry["subnet"] for entry in view["subnets"] if ":" in entry["subnet"]))
    assert prefix.subnet_of(IPv6Network("fd00::/8")) and prefix.prefixlen == 64 and view["ipv6"] is True
    a, b = switch.container("a", "--network", "blue"), switch.container("b", "--network", "blue")
    assert global6(a) == [str(prefix[2])] and global6(b) == [str(prefix[3])]
    assert pings(a, str(prefix[3])) and pings(a, str(prefix[1]))
    server = [sys.executable, "-c", "import socket; s = socket.create_server(('::', 7000), family=socket.AF_INET6)\n"
              "while True:\n c, who = s.accept(); c.sendall(who[0].encode()); c.close()"]  # fmt: skip
    with client.serving(7000, *server):
        told = a.run("socat", "-u", "TCP6:[2001:db8::9]:7000,connect-timeout=3", "-").stdout
    assert told == "2001:db8::1", "as the host: NAT66 through its sockets"
    assert set(switch.drops("a")) <= {"arp_own_address", "nd_own_address"}


def test_hosts_that_make_themselves_addresses_are_known_by_them(switch: LivingSwitch, client: Namespace):
    switch("network", "create", "auto", "--ipv6", "--opt", "ipv6_ra_mode=slaac")
    a, b = (switch.container(name, "--network", "auto") for name in "ab")
    for container in (a, b):
        container.run("sh", "-c", "echo 2 >/proc/sys/net/ipv6/conf/eth0/use_tempaddr")
        container.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/eth0/router_solicitation_interval")
        container.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
        container.run("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
    made = {
        container: eventually(
            lambda container=container: global6(container, temporary=True) and global6(container, temporary=False),
            "addresses of its own",
        )
        for container in (a, b)
    }
    gateway = next(row["address"] for row in switch.json("neigh", "--network", "auto") if row["kind"] == "gateway")
    (private,), (stable, *_) = global6(a, temporary=True)[:1], made[a]
    others = [*global6(b, temporary=True), *made[b]]
    for mine in (private, stable):
        for theirs in others:
            assert pings(a, theirs, "-I", mine), f"{mine} to {theirs}: {switch.drops('a')} {switch.drops('b')}"
    known = {row["address"]: (row["container"], row["kind"]) for row in switch.json("neigh", "--network", "auto")}
    assert known[private] == known[stable] == ("a", "claimed") and gateway in known
    with client.serving(7001, "socat", "TCP6-LISTEN:7001,fork,reuseaddr", "EXEC:echo heard"):
        said = a.run("socat", "-u", f"TCP6:[2001:db8::9]:7001,bind=[{private}],connect-timeout=3", "-").stdout
    assert said == "heard\n"
    taken = str(IPv6Network(f"{stable}/64", strict=False)[0xABCD])
    a.run("ip", "addr", "add", f"{taken}/64", "dev", "eth0")
    eventually(lambda: taken in global6(a), "an address that nobody else has")
    b.run("ip", "addr", "add", f"{taken}/64", "dev", "eth0")
    eventually(lambda: "dadfailed" in b.run("ip", "addr", "show", "eth0", "to", taken).stdout, "a duplicate to be told")
    assert taken in global6(a) and pings(a, str(ip_address(taken) - 0xABCC), "-I", taken), "the first one keeps it"
    switch.kill()
    switch.start()
    eventually(lambda: pings(a, others[0], "-I", private), "the address to be known again after a restart", 60)


LIE = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
for frame in sys.stdin.read().split():
    s.send(bytes.fromhex(frame))
"""


def test_every_lie_of_a_container_dies_by_name_and_nobody_hears_it(switch: LivingSwitch):
    switch("network", "create", "blue", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64")
    a, b = (switch.container(name, "--network", "blue") for name in "ab")
    mac_a, mac_b = (frames_mac(switch, name) for name in "ab")
    local_a, local_b = (str(link_local(mac)) for mac in (mac_a, mac_b))
    group, all_nodes = frames.BROADCAST, frames.ALL_NODES
    lies = {
        "mac_spoof": [frames.udp(group, mac_b, "10.7.0.2", "10.7.0.255")],
        "gateway_spoof": [frames.udp(group, gateway_mac(switch), "10.7.0.2", "10.7.0.255")],
        "ip_spoof": [
            frames.udp(mac_b, mac_a, "10.7.0.3", "10.7.0.3"),
            frames.udp(group, mac_a, "10.7.0.99", "10.7.0.255"),
            frames.udp(mac_b, mac_a, "10.7.0.1", "10.7.0.3"),
            frames.udp(mac_b, mac_a, "fd07::3", "fd07::3"),
            frames.udp(mac_b, mac_a, "fd07::99", "fd07::3"),
            frames.udp(mac_b, mac_a, local_b, "fd07::3"),
            frames.tagged(frames.udp(mac_b, mac_a, "10.7.0.99", "10.7.0.3"), (frames.C_TAG, 0)),
        ],
        "arp_spoof": [
            frames.is_at(mac_a, "10.7.0.1", "10.7.0.3"),
            frames.is_at(mac_a, "10.7.0.3", "10.7.0.3"),
            frames.who_has(mac_a, "10.7.0.99", "10.7.0.3"),
            frames.is_at(mac_b, "10.7.0.2", "10.7.0.3", source=mac_a),
        ],
        "nd_spoof": [
            frames.advertisement(mac_a, local_a, "fd07::3"),
            frames.advertisement(mac_a, local_a, "fd07::1"),
            frames.advertisement(mac_a, local_a, "fd07::99"),
            frames.solicitation(mac_a, "fd07::3", "fd07::98"),
            frames.advertisement(mac_a, "fd07::2", "fd07::2", options=frames.option(2, mac_b)),
        ],
        "rogue_ra": [frames.packet(all_nodes, mac_a, local_a, "ff02::1", 58, b"\x86" + bytes(15), hop_limit=255)],
        "rogue_dhcp": [frames.udp(group, mac_a, "10.7.0.2", "255.255.255.255", b"offer", sport=67, dport=68)],
        "rogue_dhcpv6": [frames.udp(mac_b, mac_a, local_a, local_b, b"\7", sport=547, dport=546)],
        "header_chain": [frames.ipv6(mac_b, mac_a, "fd07::2", "fd07::3", 44, b"\x11\0\0\1\0\0\0\7")],
    }  # fmt: skip
    truth = [frames.udp(mac_b, mac_a, "10.7.0.2", "10.7.0.3"), frames.udp(mac_b, mac_a, "fd07::2", "fd07::3")]
    heard = listening(b)
    before = switch.drops("a")
    everything = [frame for told in lies.values() for frame in told] + truth
    a.run(sys.executable, "-c", LIE, input=" ".join(frame.hex() for frame in everything))
    expected = {reason: len(told) for reason, told in lies.items()}

    def counted() -> dict[str, int]:
        now = switch.drops("a")
        return {reason: now.get(reason, 0) - before.get(reason, 0) for reason in expected}

    eventually(lambda: counted() == expected, f"{expected}, each by its name")
    came = [got for got in received(heard, count=2) if got[6:12] != gateway_mac(switch)]
    assert sorted(came) == sorted(map(bytes, truth))
    assert pings(b, "10.7.0.2") and pings(a, "fd07::3")


def test_without_the_guard_a_container_may_send_from_other_addresses(switch: LivingSwitch):
    switch("network", "create", "blue", "--subnet", "10.7.0.0/24")
    a = switch.container("a", "--network", "blue", "--no-source-guard")
    b = switch.container("b", "--network", "blue")
    guards = {view["name"]: view["networks"][0]["source_guard"] for view in switch.json("ps")}
    assert guards == {"a": False, "b": True}
    heard = listening(b)
    strange = frames.udp(frames_mac(switch, "b"), frames.mac(77), "10.7.0.77", "10.7.0.3")
    a.run(sys.executable, "-c", LIE, input=strange.hex())
    assert received(heard, count=1) == [bytes(strange)]
    shown = json.loads(switch("inspect", "a").stdout)[0]["networks"][0]
    assert shown["source_guard"] is False


def frames_mac(switch: LivingSwitch, name: str) -> bytes:
    return bytes.fromhex(switch.json("inspect", name)[0]["networks"][0]["mac"].replace(":", ""))


def gateway_mac(switch: LivingSwitch) -> bytes:
    row = next(row for row in switch.json("neigh", "--network", "blue") if row["kind"] == "gateway")
    return bytes.fromhex(row["mac"].replace(":", ""))


def link_local(mac: bytes) -> IPv6Address:
    return ip_address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])


def listening(container: Namespace) -> socket.socket:
    """All frames that come to a container from now on."""
    with container.entered():
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    return ear


def received(ear: socket.socket, *, count: int) -> list[bytes]:
    """UDP frames from outside, `count` of them at least."""
    found: list[bytes] = []
    ear.settimeout(0.3)

    def enough() -> bool:
        try:
            while True:
                frame, (_, _, kind, _, _) = ear.recvfrom(2000)
                udp = frame[23] == 17 if frame[12:14] == b"\x08\0" else frame[12:14] == b"\x86\xdd" and frame[20] == 17
                if kind != socket.PACKET_OUTGOING and udp:
                    found.append(frame)
        except TimeoutError:
            return len(found) >= count

    eventually(enough, f"{count} frames")
    return found
