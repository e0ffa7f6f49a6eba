# SPDX-License-Identifier: Apache-2.0
"""UDP through the gateway, against real sockets on the loopback that the gateway's address stands for."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
import struct
import time

import frames
import pytest
import reference
from frames import GSO_UDP_L4
from memory_switch import GATEWAY
from way_out import (
    GATEWAY4,
    GATEWAY6,
    INSIDE4,
    INSIDE6,
    SPORT,
    WayOut,
    datagram,
    descriptors,
    free_port,
    heard,
    loopback,
    super_frame,
)

DATA = bytes(number % 251 for number in range(70_000))
BOTH = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])


@pytest.fixture
def way_out():
    made = WayOut()
    yield made
    made.close()


@pytest.fixture
def container(way_out):
    return way_out.container()


def sent(container, *all_frames) -> list:
    """Sends frames in one burst; what the container hears at once."""
    for frame in all_frames:
        container.send(*(frame if isinstance(frame, tuple) else (frame,)))
    container.switch.step()
    return heard(container)


def answers(container, tries: int = 50) -> list:
    """What the container hears next."""
    for _ in range(tries):
        container.switch.step()
        got = heard(container)
        if got:
            return got
        time.sleep(0.002)
    return []


def flow_outs(way_out) -> list[tuple[int, int]]:
    """(outside port, datagrams out) of every flow."""
    return sorted((row[8], row[12]) for row in way_out.flows())


# ---- out and back


@BOTH
def test_a_datagram_reaches_the_server_and_its_answer_the_container(container, v6):
    with loopback(v6) as server:
        assert sent(container, datagram(container, b"question", server.getsockname()[1], v6=v6)) == []
        data, client = server.recvfrom(100)
        assert data == b"question"
        server.sendto(b"answer", client)
        (got,) = answers(container)
        assert (got.payload, got.sport, got.dport) == (b"answer", server.getsockname()[1], SPORT)
        assert (got.source, got.to) == ((GATEWAY6, INSIDE6) if v6 else (GATEWAY4, INSIDE4))
        assert (
            got.flags == frames.NEEDS_CSUM and reference.wrong_checksums(reference.finished(got.frame)) == []
        )
    assert container.drops == {} and container.counters["translated"] == 1


def test_a_port_without_offloads_gets_finished_checksums(way_out):
    plain = way_out.container(vnet=False)
    with loopback() as server:
        plain.send(datagram(plain, b"q", server.getsockname()[1]))
        plain.switch.step()
        _, client = server.recvfrom(100)
        server.sendto(b"odd", client)
        plain.switch.step()
        (got,) = plain.received()
        assert got.endswith(b"odd") and reference.wrong_checksums(got) == []


@BOTH
def test_empty_datagrams_pass_both_ways(container, v6):
    with loopback(v6) as server:
        sent(container, datagram(container, b"", server.getsockname()[1], v6=v6))
        data, client = server.recvfrom(100)
        assert data == b""
        server.sendto(b"", client)
        assert [one.payload for one in answers(container)] == [b""]


def test_one_inside_port_is_one_outside_port_for_everybody(container):
    with loopback() as one, loopback() as two:
        sent(container, *(datagram(container, b"x", server.getsockname()[1]) for server in (one, two)))
        first, second = one.recvfrom(10)[1], two.recvfrom(10)[1]
        assert first == second
        sent(container, datagram(container, b"x", one.getsockname()[1], sport=SPORT + 1))
        assert one.recvfrom(10)[1] != first


def test_datagrams_keep_their_order_and_bounds(container):
    sizes = [10, 10, 10, 3, 10, 700, 700, 0, 700, 1, 1, 1, 1472, 1472]
    with loopback() as server:
        port = server.getsockname()[1]
        sent(
            container,
            *(datagram(container, bytes([number]) * size, port) for number, size in enumerate(sizes)),
        )
        got = [server.recvfrom(2000)[0] for _ in sizes]
        assert got == [bytes([number]) * size for number, size in enumerate(sizes)]


def test_two_flows_in_one_burst_are_not_mixed_up(container):
    with loopback() as one, loopback() as two:
        pair = one, two
        sent(
            container,
            *(datagram(container, b"%d" % number, pair[number % 2].getsockname()[1]) for number in range(40)),
        )
        for index, server in enumerate(pair):
            assert [server.recvfrom(10)[0] for _ in range(20)] == [
                b"%d" % number for number in range(index, 40, 2)
            ]


@BOTH
def test_a_super_frame_leaves_as_its_datagrams(container, v6):
    with loopback(v6) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sent(container, super_frame(container, DATA[:50_100], 1000, server.getsockname()[1], v6=v6))
        got = [server.recvfrom(2000)[0] for _ in range(51)]
        assert (
            b"".join(got) == DATA[:50_100]
            and {len(one) for one in got[:-1]} == {1000}
            and len(got[-1]) == 100
        )


def test_more_segments_than_one_message_takes_leave_in_several(container):
    with loopback() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sent(container, super_frame(container, DATA[:1270], 10, server.getsockname()[1]))
        assert b"".join(server.recvfrom(100)[0] for _ in range(127)) == DATA[:1270]


@BOTH
def test_a_train_comes_in_as_one_super_frame(container, v6):
    with loopback(v6) as server:
        sent(container, datagram(container, b"q", server.getsockname()[1], v6=v6))
        _, client = server.recvfrom(10)
        server.sendmsg([DATA[:12_500]], [(socket.IPPROTO_UDP, 103, struct.pack("H", 1200))], 0, client)
        (got,) = answers(container)
        assert (got.gso_type, got.gso_size, got.payload) == (GSO_UDP_L4, 1200, DATA[:12_500])
        assert container.counters["tx_segments"] == 11


@BOTH
def test_datagrams_of_one_size_that_follow_each_other_come_in_as_one_super_frame(container, v6):
    with loopback(v6) as server:
        sent(container, datagram(container, b"q", server.getsockname()[1], v6=v6))
        _, client = server.recvfrom(10)
        ends = [0, 700, 1400, 1500, 1700, 1700, 2500, 3300]
        for start, end in itertools.pairwise(ends):
            server.sendto(DATA[start:end], client)
        got = answers(container)
        assert [(one.gso_size, one.payload) for one in got] == [
            (700, DATA[:1500]), (0, DATA[1500:1700]), (0, b""), (800, DATA[1700:3300]),
        ]  # fmt: skip
        assert container.counters["tx_segments"] == 7


def test_datagrams_of_different_flows_stay_apart_and_in_order(container):
    with loopback() as one, loopback() as other:
        sent(container, *(datagram(container, b"q", server.getsockname()[1]) for server in (one, other)))
        client = one.recvfrom(10)[1]
        for server, part in ((one, b"first"), (one, b"again"), (other, b"third"), (one, b"last!")):
            server.sendto(part, client)
        assert [found.payload for found in answers(container)] == [b"firstagain", b"third", b"last!"]


def test_a_port_that_takes_no_super_frames_gets_the_datagrams(way_out):
    simple = way_out.container(gso=0)
    with loopback() as server:
        sent(simple, datagram(simple, b"q", server.getsockname()[1]))
        _, client = server.recvfrom(10)
        server.sendmsg([DATA[:2500]], [(socket.IPPROTO_UDP, 103, struct.pack("H", 1200))], 0, client)
        assert [one.payload for one in answers(simple)] == [DATA[:1200], DATA[1200:2400], DATA[2400:2500]]


# ---- large datagrams


def joined(pieces: list) -> bytes:
    """The UDP datagram that fragments make up, after checking what each says."""
    if not pieces[0].v6:
        assert len({one.ip[4:6] for one in pieces}) == 1
        spans = [(struct.unpack(">H", one.ip[6:8])[0], one.l4) for one in pieces]
        starts, mores = [(word & 0x1FFF) * 8 for word, _ in spans], [bool(word & 0x2000) for word, _ in spans]
        parts = [part for _, part in spans]
    else:
        assert {one.protocol for one in pieces} == {44} and len({one.l4[4:8] for one in pieces}) == 1
        words = [struct.unpack(">H", one.l4[2:4])[0] for one in pieces]
        starts, mores = [word & 0xFFF8 for word in words], [bool(word & 1) for word in words]
        parts = [one.l4[8:] for one in pieces]
    assert mores == [True] * (len(pieces) - 1) + [False]
    assert starts == [sum(map(len, parts[:index])) for index in range(len(parts))]
    assert all(len(one.ip) <= 1500 for one in pieces)
    return b"".join(parts)


@BOTH
def test_the_largest_datagram_passes_both_ways(container, v6):
    payload = DATA[: 65_527 if v6 else 65_507]
    with loopback(v6) as server:
        port = server.getsockname()[1]
        container.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        container.port.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        whole = bytes(datagram(container, payload, port, v6=v6))
        l4 = whole[54 if v6 else 34 :]
        for at in range(0, len(l4), 1440):
            part, more = l4[at : at + 1440], at + 1440 < len(l4)
            if v6:
                part = struct.pack(">BBHI", 17, 0, at | more, 5) + part
                container.send(frames.ipv6(GATEWAY, container.mac, INSIDE6, GATEWAY6, 44, part))
            else:
                container.send(
                    frames.ipv4(GATEWAY, container.mac, INSIDE4, GATEWAY4, 17, part, offset=at, more=more)
                )
            container.switch.step()
        data, client = server.recvfrom(70_000)
        assert data == payload
        server.sendto(payload, client)
        pieces = answers(container)
        assert joined(pieces)[8:] == payload
        ends = (GATEWAY6, INSIDE6) if v6 else (GATEWAY4, INSIDE4)
        again = frames.packet(container.mac, GATEWAY, *ends, 17, joined(pieces)[:6] + b"\0\0" + payload)
        assert again[(54 if v6 else 34) :] == joined(pieces), "the checksum is wrong"


def test_a_train_of_datagrams_longer_than_the_mtu_is_fragmented_one_by_one(container):
    with loopback() as server:
        sent(container, datagram(container, b"q", server.getsockname()[1]))
        _, client = server.recvfrom(10)
        server.sendmsg([DATA[:9000]], [(socket.IPPROTO_UDP, 103, struct.pack("H", 4000))], 0, client)
        pieces = answers(container)
        starts = [
            index for index, one in enumerate(pieces) if struct.unpack(">H", one.ip[6:8])[0] & 0x1FFF == 0
        ] + [len(pieces)]
        got = [joined(pieces[a:b])[8:] for a, b in itertools.pairwise(starts)]
        assert got == [DATA[:4000], DATA[4000:8000], DATA[8000:9000]]


# ---- errors


@BOTH
def test_a_closed_port_is_unreachable_and_the_error_quotes_the_container(container, v6):
    port = free_port(v6)
    frame = datagram(container, b"knock", port, v6=v6)
    got = sent(container, frame) or answers(container)
    (error,) = got
    assert (error.protocol, error.l4[0], error.l4[1]) == ((58, 1, 4) if v6 else (1, 3, 3))
    assert (error.source, error.to) == ((GATEWAY6, INSIDE6) if v6 else (GATEWAY4, INSIDE4))
    quoted = error.l4[8:]
    at = 40 if v6 else 20
    assert quoted[at:] == frame[14 + at :], "the datagram as it was sent, checksum included"
    addresses = slice(8, 40) if v6 else slice(12, 20)
    assert quoted[addresses] == frame[14:][addresses]
    if not v6:
        assert reference.internet_checksum(quoted[:20]) == 0


def test_a_refused_datagram_does_not_cost_the_next_one(container):
    closed = free_port()
    with loopback() as server:
        port = server.getsockname()[1]
        for number in range(10):
            container.send(datagram(container, b"knock", closed))
            container.send(datagram(container, b"%d" % number, port))
            container.switch.step()
        assert [server.recvfrom(10)[0] for _ in range(10)] == [b"%d" % number for number in range(10)]
    assert {one.l4[:2] for one in heard(container) + answers(container, 3)} == {b"\3\3"}


def test_errors_are_rationed(container):
    closed = free_port()
    for _ in range(200):
        container.send(datagram(container, b"knock", closed))
        container.switch.step()
    errors = heard(container)
    assert 1 < len(errors) <= 64
    container.switch.step(after_s=1)
    assert (
        answers(container, 3) or sent(container, datagram(container, b"knock", closed)) or answers(container)
    )


def test_a_datagram_that_contradicts_its_length_is_malformed(container):
    frame = bytearray(datagram(container, b"payload", 9))
    frame[38:40] = b"\x00\x40"
    assert sent(container, bytes(frame)) == [] and container.drops == {"nat_malformed": 1}


# ---- filtering


def test_strangers_are_kept_out_but_other_ports_of_a_known_address_come_in(container, way_out):
    with loopback() as server, loopback() as other:
        sent(container, datagram(container, b"q", server.getsockname()[1]))
        _, client = server.recvfrom(10)
        other.sendto(b"from another port", client)
        (got,) = answers(container)
        assert (
            got.payload == b"from another port"
            and got.sport == other.getsockname()[1]
            and got.source == GATEWAY4
        )
        sent(container, datagram(container, b"back", other.getsockname()[1]))
        assert other.recvfrom(10) == (b"back", client)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.2", 0))
            stranger.sendto(b"hello", client)
            assert answers(container, 5) == []
    assert container.drops == {"nat_filtered": 1}


# ---- time


def test_a_mapping_dies_with_its_last_flow(container, way_out):
    before = descriptors()
    with loopback() as server, loopback() as other:
        opened = descriptors()
        sent(container, datagram(container, b"1", server.getsockname()[1]))
        assert descriptors() == opened + 1
        container.switch.step(after_s=20)
        sent(container, datagram(container, b"2", other.getsockname()[1]))
        container.switch.step(after_s=12)
        assert flow_outs(way_out) == [(other.getsockname()[1], 1)] and descriptors() == opened + 1
        container.switch.step(after_s=19)
        assert way_out.flows() == [] and descriptors() == opened
    assert descriptors() == before


def test_a_flow_seen_in_both_directions_lives_three_minutes(container, way_out):
    with loopback() as server:
        sent(container, datagram(container, b"1", server.getsockname()[1]))
        _, client = server.recvfrom(10)
        server.sendto(b"2", client)
        assert answers(container)
        container.switch.step(after_s=170)
        container.switch.step()
        assert len(way_out.flows()) == 1
        container.switch.step(after_s=12)
        assert way_out.flows() == []


def test_a_flow_lives_on_while_it_is_used(container, way_out):
    with loopback() as server:
        for _ in range(10):
            sent(container, datagram(container, b"1", server.getsockname()[1]))
            container.switch.step(after_s=25)
        assert flow_outs(way_out) == [(server.getsockname()[1], 10)]


def test_questions_to_port_53_live_fifteen_seconds(container, way_out):
    sent(container, datagram(container, b"1", 53))
    answers(container, 3)
    container.switch.step(after_s=14)
    assert len(way_out.flows()) == 1
    container.switch.step(after_s=2)
    assert way_out.flows() == []


# ---- bounds


def test_more_flows_than_the_table_takes_cost_the_container_its_own_oldest():
    way_out = WayOut(max_flows=90)
    greedy, modest = way_out.container(), way_out.container("172.17.0.3", "fd00::3")
    with loopback() as server:
        modest.send(
            frames.udp(
                GATEWAY, modest.mac, "172.17.0.3", GATEWAY4, b"m", sport=1, dport=server.getsockname()[1]
            )
        )
        modest.switch.step()
        for number in range(300):
            greedy.send(datagram(greedy, b"g", server.getsockname()[1], sport=10_000 + number))
            greedy.switch.step()
        flows = way_out.flows()
        assert len(flows) <= 90 and sum(row[1] == modest.index for row in flows) == 1
        assert {row[6] for row in flows if row[1] == greedy.index} >= {10_299, 10_298}
        assert greedy.drops == {}
    way_out.close()


def test_more_sockets_than_a_container_may_have_cost_it_its_oldest():
    way_out = WayOut(max_descriptors=18)
    container = way_out.container()
    with loopback() as server:
        before = descriptors()
        for number in range(100):
            container.send(
                datagram(container, b"%d" % number, server.getsockname()[1], sport=10_000 + number)
            )
            container.switch.step()
        assert descriptors() - before <= 18
        assert [server.recvfrom(10)[0] for _ in range(100)] == [b"%d" % number for number in range(100)]
    way_out.close()


def test_a_host_without_descriptors_is_host_unreachable_and_recovers(container):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with loopback() as server:
        port = server.getsockname()[1]
        sent(container, datagram(container, b"old", port))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
        spare = []
        try:
            while True:
                spare.append(os.dup(server.fileno()))
        except OSError:
            pass
        try:
            container.send(datagram(container, b"new", port, sport=SPORT + 1))
            container.send(datagram(container, b"old", port))
            container.switch.step()
        finally:
            for fd in spare:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        (error,) = heard(container)
        assert error.l4[:2] == b"\3\1" and container.drops == {"nat_descriptors": 1}
        sent(container, datagram(container, b"new", port, sport=SPORT + 1))
        assert [server.recvfrom(10)[0] for _ in range(3)] == [b"old", b"old", b"new"]


def test_a_container_that_leaves_takes_its_sockets_along(container, way_out):
    with loopback() as server:
        before = descriptors()
        sent(
            container,
            *(
                datagram(container, b"x", server.getsockname()[1], sport=SPORT + number)
                for number in range(20)
            ),
        )
        assert descriptors() == before + 20
        container.leave()
        assert descriptors() == before - 2 and way_out.flows() == []


def test_fragments_that_wait_in_vain_are_counted(container):
    def part(at: int, more: bool, id: int = 1) -> bytes:
        return frames.ipv4(
            GATEWAY, container.mac, INSIDE4, GATEWAY4, 17, bytes(64), offset=at, more=more, id=id
        )

    sent(container, part(0, True), part(128, True))
    container.switch.step(after_s=29)
    assert container.drops == {}
    container.switch.step(after_s=2)
    assert container.drops == {"fragment_timeout": 2}
    sent(container, part(0, True), part(128, False), part(120, True))
    assert container.drops == {"fragment_timeout": 2, "fragment_overlap": 3}
    sent(container, *(part(0, True, id) for id in range(66)))
    assert container.drops["fragment_share"] == 2


@BOTH
def test_the_sender_hears_that_the_rest_of_a_packet_did_not_come_if_its_beginning_did(container, v6):
    ends = (INSIDE6, GATEWAY6) if v6 else (INSIDE4, GATEWAY4)

    def part(at: int, id: int) -> frames.Frame:
        if not v6:
            return frames.ipv4(GATEWAY, container.mac, *ends, 17, DATA[:64], offset=at, more=True, id=id)
        header = struct.pack(">BBHI", 17, 0, at | 1, id)
        return frames.ipv6(GATEWAY, container.mac, *ends, 44, header + DATA[:64])

    first = part(0, 1)
    assert sent(container, first, part(128, 1), part(64, 2)) == []
    container.switch.step(after_s=61)
    (error,) = heard(container)
    assert error.source == ends[1] and tuple(error.l4[:2]) == ((3, 1) if v6 else (11, 1))
    quoted = frames.ipv6(b"", b"", *ends, 17, DATA[:64])[2:] if v6 else first[14:]
    assert error.l4[8:] == quoted
    assert container.drops == {"fragment_timeout": 3}


# ---- without the kernel's help


def test_without_segmentation_and_coalescing_everything_passes_one_by_one():
    way_out = WayOut(disabled=("udp_gso", "udp_gro"))
    container = way_out.container()
    with loopback() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        port = server.getsockname()[1]
        sent(container, super_frame(container, DATA[:50_100], 1000, port))
        got = [server.recvfrom(2000)[0] for _ in range(51)]
        assert b"".join(got) == DATA[:50_100] and {len(one) for one in got[:-1]} == {1000}
        sent(container, *(datagram(container, DATA[:700], port) for _ in range(10)))
        assert [server.recvfrom(2000)[0] for _ in range(10)] == [DATA[:700]] * 10
        sent(container, datagram(container, b"q", port))
        _, client = server.recvfrom(10)
        server.sendmsg([DATA[:2500]], [(socket.IPPROTO_UDP, 103, struct.pack("H", 1200))], 0, client)
        assert [one.payload for one in answers(container)] == [DATA[:1200], DATA[1200:2400], DATA[2400:2500]]
    way_out.close()


def test_what_comes_unasked_takes_no_other_flow_s_place():
    way_out = WayOut(max_flows=9)
    container = way_out.container()
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(loopback()) for _ in range(9)]
        sent(container, *(datagram(container, b"q", server.getsockname()[1]) for server in servers[:8]))
        _, client = servers[0].recvfrom(10)
        servers[8].sendto(b"from another port of a known address", client)
        assert answers(container, 3) == []
        assert container.drops == {"nat_full": 1} and len(way_out.flows()) == 8
    way_out.close()
