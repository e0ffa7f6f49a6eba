# SPDX-License-Identifier: Apache-2.0
"""The dataplane with real TAPs in throw-away namespaces: real programs talk through it (root)."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time

import frames
import pytest
import reference
from frames import BROADCAST, C_TAG, S_TAG, experimental, mac, tagged
from real_hosts import GATEWAY, RealHost, RealSwitch, lost_by, run, wait_until
from vswitch.wire._segment import segment

from vswitch.ports.tap import open_tap

pytestmark = pytest.mark.root

A4, B4, C4, GATEWAY4 = "10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.1"
A6, B6, C6, GATEWAY6 = "fd09::2", "fd09::3", "fd09::4", "fd09::1"
UDP_SEGMENT = 103


class Trio:
    """Three guarded hosts on a network with a gateway."""

    def __init__(self, switch: RealSwitch, *, mtu: int = 1500):
        self.switch = switch
        switch.network(mtu=mtu)
        switch.bind(GATEWAY4)
        switch.bind(GATEWAY6)
        pairs = ((A4, A6), (B4, B6), (C4, C6))
        self.hosts = [switch.host(f"{v4}/24", f"{v6}/64", mtu=mtu) for v4, v6 in pairs]
        self.a, self.b, self.c = self.hosts


@pytest.fixture
def trio(real_switch):
    return Trio(real_switch)


def pings(host: RealHost, address: str, *, size: int = 56, count: int = 3, wait_s: int = 3) -> int:
    """How many of `count` echo requests were answered."""
    done = host.run(
        "ping", "-n", "-q", "-c", str(count), "-i", "0.01", "-W", str(wait_s), "-s", str(size), address, check=False
    )
    return int(done.stdout.split(" received")[0].split(", ")[-1])


def sockets(*hosts: RealHost, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM) -> list[socket.socket]:
    """One socket in each host's namespace."""
    made = []
    for host in hosts:
        with host.entered():
            made.append(socket.socket(family, kind))
        made[-1].settimeout(5)
    return made


# ---- people's first tries


def test_ping_is_answered_at_any_size_by_neighbours_and_by_the_gateway(trio):
    for address in (B4, C4, GATEWAY4, B6, C6, GATEWAY6):
        assert [pings(trio.a, address, size=size) for size in (0, 56, 1452, 8000)] == [3] * 4, address


def test_ping_does_not_cross_into_another_network(real_switch):
    real_switch.network(0)
    real_switch.network(1)
    a, b = real_switch.host(f"{A4}/24", network=0), real_switch.host(f"{B4}/24", network=1)
    c = real_switch.host(f"{B4}/24", network=0)
    b_frames = b.counters["tx_frames"]
    assert pings(a, B4) == 3
    c.leave()
    a.run("ip", "neigh", "flush", "all")
    assert pings(a, B4, count=1, wait_s=1) == 0
    assert b.counters["tx_frames"] == b_frames


TCP_BYTES = 40 << 20


def iperf3(server: RealHost, client: RealHost, address: str, *options: str) -> None:
    """One run; a failure shows what it said."""
    server.start("iperf3", "-s", "-1", "-p", "5201")
    wait_until(lambda: server.listens(5201))
    client.run("iperf3", "-c", address, "-p", "5201", *options)


@pytest.mark.parametrize("address", [B4, B6])
@pytest.mark.parametrize("options", [(), ("-R",), ("-P", "4")])
def test_tcp_flows_in_super_frames_at_an_mtu_of_1500(trio, address, options):
    iperf3(trio.b, trio.a, address, "-n", str(TCP_BYTES), *options)
    receiver = trio.a if "-R" in options else trio.b
    counters = receiver.counters
    assert counters["tx_bytes"] > TCP_BYTES // 2 and counters["tx_segments"] > 4 * counters["tx_frames"]
    assert counters["tx_wire_bytes"] > counters["tx_bytes"]
    assert set(trio.switch.drops()) <= {"tx_full"}


@pytest.mark.parametrize("address", [B4, B6])
def test_udp_flows(trio, address):
    iperf3(trio.b, trio.a, address, "-u", "-b", "200M", "-l", "1400", "-t", "1")
    assert trio.b.counters["tx_frames"] > 10_000
    assert set(trio.switch.drops()) <= {"tx_full"}


@pytest.mark.parametrize("disabled", ["", "uso", "vnet_hdr"])
@pytest.mark.parametrize("family, address", [(socket.AF_INET, B4), (socket.AF_INET6, B6)])
def test_a_udp_super_frame_arrives_as_its_datagrams(real_switch, monkeypatch, disabled, family, address):
    real_switch.network()
    a = real_switch.host(f"{A4}/24", f"{A6}/64")
    monkeypatch.setenv("VSWITCH_DISABLE", disabled)
    b = real_switch.host(f"{B4}/24", f"{B6}/64")
    assert b.tap.vnet_header == (disabled != "vnet_hdr") and (b.tap.gso == 7) == (disabled == "")
    sender, receiver = sockets(a, b, family=family)
    receiver.bind((address, 4000))
    sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
    data = os.urandom(1200 * 30 + 7)
    sender.sendto(data, (address, 4000))
    got = []
    with contextlib.suppress(TimeoutError):
        while len(got) < 31:
            got.append(receiver.recv(65536))
    where = lost_by(a), a.counters, b.counters, real_switch.drops()
    assert got == [data[at : at + 1200] for at in range(0, len(data), 1200)], where
    assert (a.counters["rx_segments"], real_switch.drops()) == (a.counters["rx_frames"] + 30, {})


@pytest.mark.parametrize("disabled", ["uso", "vnet_hdr"])
@pytest.mark.parametrize("address", [B4, B6])
def test_tcp_flows_to_and_from_a_host_without_offloads(real_switch, monkeypatch, disabled, address):
    real_switch.network()
    a = real_switch.host(f"{A4}/24", f"{A6}/64")
    monkeypatch.setenv("VSWITCH_DISABLE", disabled)
    b = real_switch.host(f"{B4}/24", f"{B6}/64")
    for options in ((), ("-R",)):
        iperf3(b, a, address, "-n", str(TCP_BYTES // 4), *options)
    assert set(real_switch.drops()) <= {"tx_full"}


def test_jumbo_frames_up_to_65520_bytes(real_switch):
    trio = Trio(real_switch, mtu=65520)
    for address in (B4, B6, GATEWAY4, GATEWAY6):
        assert pings(trio.a, address, size=65_400) == 3
    for address in (B4, B6):
        iperf3(trio.b, trio.a, address, "-n", str(TCP_BYTES))
    assert trio.b.counters["tx_bytes"] > TCP_BYTES  # at its end iperf3 leaves some of it unread
    assert set(real_switch.drops()) <= {"tx_full"}


def test_a_million_small_packets_are_all_accounted_for(trio):
    sender, receiver = sockets(trio.a, trio.b)
    receiver.bind((B4, 4000))
    before = trio.a.counters["rx_frames"], trio.b.counters["tx_frames"]
    for _ in range(20_000):
        sender.sendto(b"x", (B4, 4000))
    wait_until(lambda: trio.a.counters["rx_frames"] >= before[0] + 20_000 - lost_by(trio.a))
    wait_until(lambda: trio.b.counters["tx_frames"] - before[1] >= 20_000 - lost_by(trio.a))
    assert set(trio.switch.drops()) <= {"tx_full"}


# ---- one to many


def test_multicast_reaches_all_who_joined(trio):
    sender, *receivers = sockets(*trio.hosts)
    for host, receiver in zip((B4, C4), receivers, strict=True):
        receiver.bind(("239.1.2.3", 4000))
        receiver.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton("239.1.2.3") + socket.inet_aton(host),
        )
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(A4))
    sender.sendto(b"to all", ("239.1.2.3", 4000))
    assert [receiver.recv(100) for receiver in receivers] == [b"to all"] * 2


def test_ipv6_multicast_reaches_all_who_joined(trio):
    sender, *receivers = sockets(*trio.hosts, family=socket.AF_INET6)
    for host, receiver in zip(trio.hosts[1:], receivers, strict=True):
        with host.entered():
            index = socket.if_nametoindex("eth0")
        receiver.bind(("ff02::4711", 4000, 0, index))
        receiver.setsockopt(
            socket.IPPROTO_IPV6,
            socket.IPV6_JOIN_GROUP,
            socket.inet_pton(socket.AF_INET6, "ff02::4711") + struct.pack("@I", index),
        )
    with trio.a.entered():
        sender.sendto(b"to all", ("ff02::4711", 4000, 0, socket.if_nametoindex("eth0")))
    assert [receiver.recv(100) for receiver in receivers] == [b"to all"] * 2


def test_broadcast_reaches_everybody(trio):
    sender, *receivers = sockets(*trio.hosts)
    for receiver in receivers:
        receiver.bind(("", 4000))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sender.sendto(b"to all", ("10.9.0.255", 4000))
    assert [receiver.recv(100) for receiver in receivers] == [b"to all"] * 2


# ---- VLANs


VLAN_DEVICE = ("ip", "link", "add", "link", "eth0", "name", "eth0.5", "type", "vlan", "id", "5")


def test_a_vlan_of_the_containers_own_making_works(trio):
    for host, address in ((trio.a, "10.99.0.2/24"), (trio.b, "10.99.0.3/24")):
        added = run(*host.command(*VLAN_DEVICE), check=False)
        if "Unknown device type" in added.stderr:
            pytest.skip("this kernel has no VLAN devices")
        host.ip("link", "set", "eth0.5", "up")
        host.ip("addr", "add", address, "dev", "eth0.5")
    assert pings(trio.a, "10.99.0.3", size=1400) == 3
    iperf3(trio.b, trio.a, "10.99.0.3", "-n", str(TCP_BYTES // 4))
    assert set(trio.switch.drops()) <= {"tx_full"}


@pytest.mark.parametrize("tags", [((C_TAG, 5),), ((S_TAG, 7), (C_TAG, 5)), ((S_TAG, 1), (C_TAG, 2), (C_TAG, 3))])
def test_raw_frames_cross_with_their_tags(trio, tags):
    sender, receiver = trio.a.packet_socket(), trio.b.packet_socket()
    frame = tagged(experimental(trio.b.mac, trio.a.mac, b"tagged" + bytes(60)), *tags)
    before = trio.b.counters["tx_bytes"]
    sender.send(frame)
    wait_until(lambda: trio.b.counters["tx_bytes"] >= before + len(frame))
    received(receiver, lambda got: b"tagged" in got)


def received(receiver: socket.socket, wanted, deadline_s: float = 5) -> bytes:
    """The first frame on a packet socket that is wanted."""
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        frame = receiver.recv(65536)
        if wanted(frame):
            return frame
    raise AssertionError("it never came")


def test_linux_takes_a_priority_tagged_frame_as_an_untagged_one(netns):
    """Why the guard looks behind VLAN 0 (_fastpath.pyx, untag): this is a kernel's answer to a tagged
    question."""
    namespace = netns()
    with namespace.entered():
        tap = open_tap("eth0", persist=False)
    namespace.ip("addr", "add", f"{A4}/24", "dev", "eth0")
    namespace.ip("link", "set", "eth0", "up")
    question = frames.who_has(mac(7), B4, A4)
    for tags in ((), ((C_TAG, 0xE000),), ((S_TAG, 0), (C_TAG, 0), (C_TAG, 0))):
        os.write(tap.fd, bytes(12) + tagged(question, *tags))
        wait_until(lambda: any(got[20:22] == b"\0\2" and got[38:42] == frames.ip(B4) for got in read_frames(tap.fd)))
    os.write(tap.fd, bytes(12) + tagged(question, (C_TAG, 5)))
    assert not select.select([tap.fd], [], [], 0.1)[0] or all(got[20:22] != b"\0\2" for got in read_frames(tap.fd))
    os.close(tap.fd)


def read_frames(fd: int, header: int = 12) -> list[bytes]:
    """All that a TAP holds, without its offload headers."""
    found = []
    while True:
        try:
            found.append(os.read(fd, 1 << 17)[header:])
        except BlockingIOError:
            return found


# ---- who has which address


def overheard(*hosts: RealHost) -> list[socket.socket]:
    """Sockets that hear the ARP packets that reach these hosts."""
    made = [host.packet_socket(protocol=0x0806) for host in hosts]
    for one in made:
        one.setblocking(False)
    return made


def silent(listeners: list[socket.socket]) -> bool:
    for listener in listeners:
        with contextlib.suppress(BlockingIOError), listener:
            return not listener.recv(2048)
    return True


def test_arping_finds_who_has_a_known_address_and_nobody_hears_the_question(trio):
    listeners = overheard(trio.b, trio.c)
    done = trio.a.run("arping", "-c", "2", "-w", "2", "-I", "eth0", B4, check=False)
    assert trio.b.mac.hex(":") in done.stdout.lower(), (done.stdout, done.stderr)
    assert silent(listeners)


def iputils_arping() -> bool:
    return "iputils" in run("arping", "-V", check=False).stdout + run("arping", "-V", check=False).stderr


def probes(host: RealHost, address: str) -> bool:
    """Whether a duplicate-address probe (RFC 5227) found somebody."""
    with host.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        listener.bind(("eth0", 0))
    listener.settimeout(0.3)
    listener.send(frames.who_has(host.mac, "0.0.0.0", address))
    try:
        while True:
            got = listener.recv(2048)
            if got[20:22] == b"\0\2" and got[28:32] == frames.ip(address):
                return True
    except TimeoutError:
        return False
    finally:
        listener.close()


def test_a_duplicate_address_probe_finds_others_and_never_oneself(trio):
    assert probes(trio.a, B4) and probes(trio.a, GATEWAY4)
    assert not probes(trio.a, A4)
    assert not probes(trio.a, "10.9.0.77")


@pytest.mark.skipif(not iputils_arping(), reason="this arping has no -D")
def test_arping_d_agrees(trio):
    for address, free in ((B4, False), (GATEWAY4, False), (A4, True), ("10.9.0.77", True)):
        done = trio.a.run("arping", "-D", "-c", "2", "-w", "1", "-I", "eth0", address, check=False)
        assert (done.returncode == 0) == free, done.stdout


def test_ipv6_duplicate_address_detection_fails_for_anothers_address_and_not_for_ones_own(trio):
    trio.a.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_dad")
    trio.switch.bind("fd09::99", trio.a)
    for address in (B6, GATEWAY6, "fd09::99"):
        trio.a.ip("addr", "add", f"{address}/64", "dev", "eth0")
    state = lambda address: trio.a.ip("-6", "addr", "show", "to", address)  # noqa: E731
    wait_until(lambda: "dadfailed" in state(B6) and "dadfailed" in state(GATEWAY6))
    wait_until(lambda: "tentative" not in state("fd09::99"))
    assert "dadfailed" not in state("fd09::99")


def test_a_flood_of_arp_for_a_known_address_leaves_on_no_port(trio):
    flooder, listeners = trio.a.packet_socket(), overheard(trio.b, trio.c)
    question = frames.who_has(trio.a.mac, A4, B4)
    sent, until = 0, time.monotonic() + 0.5
    while time.monotonic() < until:
        flooder.send(question)
        sent += 1
    wait_until(lambda: trio.a.counters["answered"] >= sent - lost_by(trio.a))
    assert sent > 1000 and silent(listeners)


def test_nobody_believes_a_spoofed_answer(trio):
    assert pings(trio.c, B4) == 3
    liar = trio.a.packet_socket()
    for lie in (frames.is_at(trio.a.mac, B4, C4), frames.is_at(trio.a.mac, GATEWAY4, C4)):
        for tags in ((), ((C_TAG, 0),)):
            liar.send(tagged(lie, *tags))
    wait_until(lambda: trio.a.counters["drops"].get("arp_spoof", 0) >= 4)
    assert trio.b.mac.hex(":") in trio.c.ip("neigh", "show", B4)
    assert pings(trio.c, B4) == 3


# ---- devices come and go


def test_a_device_that_is_deleted_inside_is_a_port_gone(trio):
    trio.a.ip("link", "del", "eth0")
    events = wait_until(trio.switch.plane.events)
    assert [(network, port) for _, network, port, *_ in events] == [(0, trio.a.index)]
    assert pings(trio.b, C4) == 3


def test_frames_for_an_interface_that_is_down_die_of_it_and_come_again_when_it_is_up(trio):
    trio.b.ip("link", "set", "eth0", "down")
    trio.a.run("ip", "neigh", "replace", B4, "lladdr", trio.b.mac.hex(":"), "dev", "eth0")
    assert pings(trio.a, B4, count=1, wait_s=1) == 0
    assert trio.b.counters["drops"]["tx_link_down"] >= 1 and trio.switch.plane.events() == []
    trio.b.ip("link", "set", "eth0", "up")
    assert wait_until(lambda: pings(trio.a, B4))


def test_a_holder_of_the_same_open_file_cannot_make_the_switch_block(trio):
    for host in trio.hosts:
        os.set_blocking(host.tap.fd, True)
    assert pings(trio.a, B4) == 3
    trio.switch.do(trio.switch.plane.post_poke)


def test_hosts_join_and_leave_while_tcp_flows(trio):
    trio.b.start("iperf3", "-s", "-1", "-p", "5201")
    wait_until(lambda: trio.b.listens(5201))
    client = trio.a.start("iperf3", "-c", B4, "-p", "5201", "-t", "2")
    for number in range(6):
        host = trio.switch.host(f"10.9.0.{100 + number}/24")
        assert pings(host, C4, count=1) == 1
        host.leave()
    assert client.wait(20) == 0, client.stdout.read()


# ---- the kernel as the reference


GSO_FRAMES = {
    "tcp4": lambda a, b, data: frames.tcp(b, a, A4, B4, data, flags=0x99, options=b"\1\1\x08\x0a" + bytes(8)),
    "tcp6": lambda a, b, data: frames.tcp(b, a, A6, B6, data, flags=0x19, seq=2**32 - 500),
    "udp4": lambda a, b, data: frames.udp(b, a, A4, B4, data, id=0xFFFE),
    "udp6": lambda a, b, data: frames.udp(b, a, A6, B6, data),
}


@pytest.mark.parametrize("kind", GSO_FRAMES)
@pytest.mark.parametrize("payload, size", [(5000, 1400), (3000, 1000), (1001, 1000)])
def test_the_kernels_own_segmentation_gives_the_same_bytes(netns, kind, payload, size):
    """A super-frame through a kernel bridge to a device without offloads, and through wire.segment()."""
    namespace = netns()
    run(
        "nsenter",
        f"--net=/run/netns/{namespace.name}",
        "sysctl",
        "-qw",
        "net.ipv6.conf.default.disable_ipv6=1",
    )
    namespace.ip("link", "add", "br0", "type", "bridge")
    fds = []
    for name, disabled in (("tap0", ""), ("tap1", "vnet_hdr")):
        os.environ["VSWITCH_DISABLE"] = disabled
        with namespace.entered():
            fds.append(open_tap(name, persist=False).fd)
        namespace.ip("link", "set", name, "master", "br0")
        namespace.ip("link", "set", name, "up")
    del os.environ["VSWITCH_DISABLE"]
    namespace.ip("link", "set", "br0", "up")
    frame = reference.unfinished(GSO_FRAMES[kind](mac(1), mac(2), bytes(number % 251 for number in range(payload))))
    gso_type = frames.gso_type_of(frame)
    wait_until(lambda: "forwarding" in run("bridge", "-n", namespace.name, "link", "show", "dev", "tap1").stdout)
    os.write(fds[0], frames.offload_header(frame, gso_type, size) + frame)
    expected = segment(bytes(frame), gso_type, size, reference.l4_of(frame)[0])
    got: list[bytes] = []
    wait_until(lambda: got.extend(only_from(mac(1), read_frames(fds[1], 0))) or len(got) >= len(expected))
    assert got == expected
    for fd in fds:
        os.close(fd)


def only_from(source: bytes, found: list[bytes]) -> list[bytes]:
    """Without what the bridge itself has to say."""
    return [frame for frame in found if frame[6:12] == source]


def test_the_ports_of_a_dead_switch_are_free_again(real_switch):
    real_switch.network()
    host = real_switch.host(f"{A4}/24")
    real_switch.do(real_switch.plane.post_port_remove, host.index)
    real_switch.do(
        real_switch.plane.post_port_add,
        host.index,
        host.tap.fd,
        0,
        kind="tap",
        vnet_header=True,
        gso=7,
        mac=host.mac,
    )
    real_switch.bind(GATEWAY4)
    assert pings(host, GATEWAY4) == 3
    with pytest.raises(OSError) as error:
        os.fstat(99_999)
    assert error.value.errno == errno.EBADF


def test_broadcasts_of_the_gateway_reach_real_hosts(trio):
    receiver = trio.a.packet_socket()
    frame = bytes(experimental(BROADCAST, GATEWAY, b"from control" + bytes(40)))
    assert trio.switch.plane.inject(frame, 0, flood=True)
    assert received(receiver, lambda got: b"from control" in got) == frame
