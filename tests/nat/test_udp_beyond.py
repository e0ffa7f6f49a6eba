# SPDX-License-Identifier: Apache-2.0
"""UDP and echo to real addresses: a host's own, and one behind a router, in namespaces of the test's own."""

from __future__ import annotations

import socket
import struct
import time

import frames
import pytest
import reference
from memory_switch import GATEWAY
from own_namespace import (
    FAR4,
    FAR6,
    ROUTER4,
    ROUTER6,
    Beyond,
    give_up_raw_sockets,
    in_own_namespace,
    ip,
    sysctl,
)
from way_out import GATEWAY4, GATEWAY6, INSIDE4, INSIDE6, WayOut, heard

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
HOST4, OTHER4 = "192.0.2.1", "192.0.2.2"
EVENT_NO_PING = 2
LIMITS = ["0 2147483647", "1 0"]


def addresses(v6: bool) -> tuple[str, str]:
    return (INSIDE6, FAR6) if v6 else (INSIDE4, FAR4)


def probe(
    host, payload: bytes, dport: int, v6: bool, ttl: int = 64, to: str | None = None, more: bytes = b""
) -> bytes:
    inside, far = addresses(v6)
    fields = {"hop_limit": ttl} if v6 else {"ttl": ttl}
    return frames.udp(GATEWAY, host.mac, inside, to or far, payload, dport=dport, **fields)


def request(
    host, v6: bool, ttl: int = 64, payload: bytes = b"ping", to: str | None = None, **fields
) -> bytes:
    inside, far = addresses(v6)
    limit = {"hop_limit": ttl} if v6 else {"ttl": ttl}
    return frames.echo(GATEWAY, host.mac, inside, to or far, payload, **limit, **fields)


def exchange(host, frame: bytes, tries: int = 200) -> list:
    host.send(frame)
    for _ in range(tries):
        host.switch.step()
        got = heard(host)
        if got:
            return got
        time.sleep(0.005)
    return []


@BOTH
@pytest.mark.parametrize("ping_group_range", LIMITS, ids=["ping socket", "raw socket"])
@in_own_namespace
def test_echo_goes_through_and_comes_back(v6, ping_group_range):
    sysctl("ipv4/ping_group_range", ping_group_range)
    beyond, way_out = Beyond(), WayOut()
    try:
        host = way_out.container()
        for seq in (1, 2):
            (reply,) = exchange(host, request(host, v6, payload=b"x" * 1400, id=777, seq=seq))
            assert reply.l4[0] == (129 if v6 else 0) and reply.source == addresses(v6)[1]
            assert struct.unpack(">HH", reply.l4[4:8]) == (777, seq) and reply.payload == b"x" * 1400
            assert reply.ttl == 62, "a router and the gateway"
        (reply,) = exchange(host, request(host, v6, id=778))
        assert struct.unpack(">H", reply.l4[4:6]) == (778,)
        assert len(way_out.flows()) == 2 and host.drops == {}
        host.switch.step(after_s=61)
        assert way_out.flows() == []
    finally:
        way_out.close()
        beyond.close()


@in_own_namespace
def test_without_ping_and_raw_sockets_echo_is_prohibited_and_control_hears_once():
    sysctl("ipv4/ping_group_range", "1 0")
    beyond, way_out = Beyond(), WayOut()
    try:
        give_up_raw_sockets()
        host = way_out.container()
        for v6, answer in ((False, b"\x03\x0d"), (True, b"\x01\x01")):
            (error,) = exchange(host, request(host, v6))
            assert error.l4[:2] == answer and error.source == (GATEWAY6 if v6 else GATEWAY4)
        assert host.drops == {"nat_prohibited": 2}
        assert sum(event[0] == EVENT_NO_PING for event in way_out.switch.plane.events()) == 1
    finally:
        way_out.close()
        beyond.close()


@BOTH
@pytest.mark.parametrize("ping_group_range", LIMITS, ids=["ping socket", "raw socket"])
@in_own_namespace
def test_traceroute_shows_the_real_path(v6, ping_group_range):
    sysctl("ipv4/ping_group_range", ping_group_range)
    beyond, way_out = Beyond(), WayOut()
    try:
        host = way_out.container()
        exceeded, unreachable = (b"\3\0", b"\1\4") if v6 else (b"\x0b\0", b"\3\3")
        header = 40 if v6 else 20
        for number in range(3):
            for ttl, hop, said in (
                (1, GATEWAY6 if v6 else GATEWAY4, exceeded),
                (2, ROUTER6 if v6 else ROUTER4, exceeded),
                (3, addresses(v6)[1], unreachable),
            ):
                frame = probe(host, b"traceroute" * 4, 33434 + number, v6, ttl)
                (error,) = exchange(host, frame)
                assert (error.source, error.l4[:2]) == (hop, said)
                assert error.l4[8 + header : 8 + header + 8] == frame[14 + header : 14 + header + 8]
        for ttl, hop in ((1, GATEWAY6 if v6 else GATEWAY4), (2, ROUTER6 if v6 else ROUTER4)):
            frame = request(host, v6, ttl, id=5, seq=ttl)
            (error,) = exchange(host, frame)
            assert (error.source, error.l4[:2]) == (hop, exceeded)
            assert error.l4[8 + header :][:12] == frame[14 + header :][:12], "id, seq, payload and checksum"
        (reply,) = exchange(host, request(host, v6, 3, id=5, seq=3))
        assert reply.source == addresses(v6)[1] and reply.l4[0] == (129 if v6 else 0)
    finally:
        way_out.close()
        beyond.close()


@BOTH
@in_own_namespace
def test_a_narrow_path_is_told_and_remembered(v6):
    beyond, way_out = Beyond(far_mtu=1300), WayOut()
    try:
        host = way_out.container()
        frame = bytearray(probe(host, b"x" * 1400, 9, v6))
        if not v6:
            frame[20] |= 0x40
            frame[24:26] = b"\0\0"
            struct.pack_into(">H", frame, 24, reference.internet_checksum(bytes(frame[14:34])))
        for hop in (ROUTER6 if v6 else ROUTER4, GATEWAY6 if v6 else GATEWAY4):
            (error,) = exchange(host, bytes(frame))
            assert error.source == hop
            assert error.l4[:2] == (b"\2\0" if v6 else b"\3\4")
            assert struct.unpack(">I", error.l4[4:8]) == (1300,)
        assert host.drops == {"nat_too_big": 1}
    finally:
        way_out.close()
        beyond.close()


@BOTH
@in_own_namespace
def test_large_echo_is_fragmented_on_the_narrow_path_and_comes_back_whole(v6):
    sysctl("ipv4/ping_group_range", LIMITS[0])
    beyond, way_out = Beyond(far_mtu=1300), WayOut()
    try:
        host = way_out.container()
        whole = request(host, v6, payload=b"y" * 3000)
        inside, far = addresses(v6)
        l4 = whole[54 if v6 else 34 :]
        got = []
        for _ in range(3):  # the first may be what finds the narrow place
            for at in range(0, len(l4), 1400):
                part, more = l4[at : at + 1400], at + 1400 < len(l4)
                if v6:
                    part = struct.pack(">BBHI", 58, 0, at | more, 5) + part
                    host.send(frames.ipv6(GATEWAY, host.mac, inside, far, 44, part))
                else:
                    host.send(frames.ipv4(GATEWAY, host.mac, inside, far, 1, part, offset=at, more=more))
            for _ in range(40):
                host.switch.step()
                got += [one for one in heard(host) if v6 <= (one.protocol == 44)]
                time.sleep(0.005)
            if len(got) == 3:
                break
        assert len(got) == 3 and host.drops == {}
        assert b"".join(one.l4[8:] if v6 else one.l4 for one in got)[8:] == b"y" * 3000
    finally:
        way_out.close()
        beyond.close()


@in_own_namespace
def test_no_route_is_network_unreachable():
    way_out = WayOut()
    try:
        host = way_out.container()
        (error,) = exchange(host, probe(host, b"x", 9, False))
        assert error.l4[:2] == b"\3\0" and error.source == GATEWAY4 and host.drops == {"nat_unreachable": 1}
        (error,) = exchange(host, probe(host, b"x", 9, True))
        assert error.l4[:2] == b"\1\0"
    finally:
        way_out.close()


@pytest.mark.parametrize("endpoint_filtering", [False, True])
@in_own_namespace
def test_strangers_come_in_only_where_the_network_lets_them(endpoint_filtering):
    for address in (HOST4, OTHER4):
        ip(f"addr add {address}/32 dev lo")
    way_out = WayOut(endpoint_filtering=endpoint_filtering)
    try:
        host = way_out.container()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as known,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        ):
            known.bind((HOST4, 0))
            stranger.bind((OTHER4, 0))
            known.settimeout(2)
            exchange(host, probe(host, b"x", known.getsockname()[1], False, to=HOST4), 1)
            _, client = known.recvfrom(10)
            stranger.sendto(b"hello", (HOST4, client[1]))
            host.switch.step()
            got = [(one.source, one.sport, one.payload) for one in heard(host)]
            assert got == ([(OTHER4, stranger.getsockname()[1], b"hello")] if endpoint_filtering else [])
            assert host.drops == ({} if endpoint_filtering else {"nat_filtered": 1})
    finally:
        way_out.close()


@in_own_namespace
def test_a_network_leaves_from_the_address_it_was_given():
    for address in (HOST4, OTHER4):
        ip(f"addr add {address}/32 dev lo")
    way_out = WayOut()
    try:
        way_out.switch.plane.post_way_out(0, open=True, source4=frames.ip(OTHER4), device=b"lo")
        way_out.switch.step()
        host = way_out.container()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((HOST4, 0))
            server.settimeout(2)
            exchange(host, probe(host, b"x", server.getsockname()[1], False, to=HOST4), 1)
            assert server.recvfrom(10)[1][0] == OTHER4
    finally:
        way_out.close()


@in_own_namespace
def test_what_the_host_can_not_get_rid_of_is_dropped_and_counted():
    """A neighbour that never answers ARP, in whose queue the kernel keeps all that one socket may have under way."""
    ip("link add one type veth peer name other")
    sysctl("ipv4/neigh/one/unres_qlen_bytes", "100000000")
    ip("addr add 198.51.100.2/24 dev one")
    ip("link set one up")
    ip("link set other up")
    way_out = WayOut()
    try:
        host = way_out.container()
        for number in range(400):
            host.send(probe(host, b"x" * 1400, 9, False, to="198.51.100.77"))
            if number % 50 == 49:
                host.switch.step()
        assert set(host.drops) == {"nat_busy"} and 0 < host.drops["nat_busy"] < 400
    finally:
        way_out.close()
