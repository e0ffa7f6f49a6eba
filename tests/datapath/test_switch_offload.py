# SPDX-License-Identifier: Apache-2.0
"""Offload headers: passed on to whoever understands them, finished or segmented for the rest, refused when
they lie."""

from __future__ import annotations

import struct

import frames
import pytest
import reference
from frames import (
    ARP,
    BROADCAST,
    C_TAG,
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
    S_TAG,
    Frame,
    experimental,
    gso_type_of,
    ipv6,
    mac,
    offload_header,
    tagged,
    tcp,
    udp,
    vnet,
)
from hypothesis import given
from hypothesis import strategies as st
from memory_switch import GATEWAY, MemorySwitch
from vswitch.wire._segment import segment

MASK = {GSO_TCPV4: 1, GSO_TCPV6: 2, GSO_UDP_L4: 4}
V4, V6 = ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")
TIMESTAMPS = b"\1\1\x08\x0a" + bytes(range(8))
DATA = bytes(number % 251 for number in range(70_000))
BUILDERS = {
    "tcp4": lambda to, source, payload, **fields: tcp(to, source, *V4, payload, options=TIMESTAMPS, **fields),
    "tcp6": lambda to, source, payload, **fields: tcp(to, source, *V6, payload, options=TIMESTAMPS, **fields),
    "udp4": lambda to, source, payload, **fields: udp(to, source, *V4, payload, **fields),
    "udp6": lambda to, source, payload, **fields: udp(to, source, *V6, payload, **fields),
}


class Pair:
    """A sender with offloads and any receivers."""

    def __init__(self, switch):
        self.switch = switch
        self.sender = switch.host(vnet=True, gso=7)

    def super_frame(
        self, kind: str, payload: int, size: int, *, to: bytes = BROADCAST, tags=(), **fields
    ) -> tuple[bytes, Frame]:
        """(virtio header, unfinished frame) of `payload` bytes in segments of `size`."""
        frame = tagged(reference.unfinished(BUILDERS[kind](to, self.sender.mac, DATA[:payload], **fields)), *tags)
        return offload_header(frame, gso_type_of(frame), size), frame

    def unfinished(self, kind: str, payload: bytes = b"data", *, tags=()) -> tuple[bytes, Frame]:
        frame = tagged(reference.unfinished(BUILDERS[kind](BROADCAST, self.sender.mac, payload)), *tags)
        return offload_header(frame), frame

    def send(self, header: bytes, frame: bytes) -> None:
        self.sender.send(frame, header)
        self.switch.step()


@pytest.fixture
def pair(switch):
    return Pair(switch)


# ---- passed on


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_super_frame_crosses_whole_between_ports_with_offloads(pair, kind):
    receiver = pair.switch.host(vnet=True, gso=7)
    header, frame = pair.super_frame(kind, 60_000, 1400)
    pair.send(header, frame)
    assert receiver.received_with_headers() == [(header, frame)]
    counted = {name: pair.sender.counters[f"rx_{name}"] for name in ("frames", "bytes", "segments", "wire_bytes")}
    assert counted == {name: receiver.counters[f"tx_{name}"] for name in counted}
    cut = reference.segments(frame, 1400)
    assert counted == {
        "frames": 1,
        "bytes": len(frame),
        "segments": len(cut),
        "wire_bytes": sum(map(len, cut)),
    }


@pytest.mark.parametrize("kind", BUILDERS)
def test_an_unfinished_checksum_crosses_unfinished_to_any_port_with_offload_headers(pair, kind):
    receiver = pair.switch.host(vnet=True, gso=0)
    header, frame = pair.unfinished(kind)
    pair.send(header, frame)
    assert receiver.received_with_headers() == [(header, frame)]


def test_the_congestion_flag_of_a_super_frame_is_passed_on(pair):
    receiver = pair.switch.host(vnet=True, gso=7)
    header, frame = pair.super_frame("tcp4", 3000, 1000)
    header = header[:1] + bytes([GSO_TCPV4 | GSO_ECN]) + header[2:]
    pair.send(header, frame)
    assert receiver.received_with_headers() == [(header, frame)]


def test_a_frame_from_a_port_without_offload_headers_gets_an_empty_one(switch):
    sender, receiver = switch.host(), switch.host(vnet=True, gso=7)
    frame = udp(BROADCAST, sender.mac, *V4)
    sender.send(frame)
    switch.step()
    assert receiver.received_with_headers() == [(bytes(12), frame)]


@pytest.mark.parametrize(
    "header",
    [
        vnet(flags=2),
        vnet(flags=0xFE),
        vnet(hdr_len=0xFFFF, gso_size=9),
        vnet(csum_start=60_000),
        vnet(num_buffers=7),
    ],
)
def test_a_header_that_asks_for_nothing_is_passed_on_empty(pair, header):
    """Nobody is told that a container has verified its own checksums, and no kernel stumbles over lengths
    that mean nothing."""
    receiver = pair.switch.host(vnet=True, gso=7)
    frame = udp(BROADCAST, pair.sender.mac, *V4)
    pair.send(header, frame)
    assert receiver.received_with_headers() == [(bytes(12), frame)]


# ---- finished


@pytest.mark.parametrize("tags", [(), ((C_TAG, 5),), ((S_TAG, 5), (C_TAG, 6)), ((C_TAG, 0),)])
@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("payload", [b"", b"x", b"odd", bytes(64), DATA[:1399], b"\xff" * 100])
def test_a_checksum_is_finished_for_a_port_without_offload_headers(pair, kind, payload, tags):
    receivers = [pair.switch.host(), pair.switch.host()]
    header, frame = pair.unfinished(kind, payload, tags=tags)
    pair.send(header, frame)
    for receiver in receivers:
        assert receiver.received() == [reference.finished(frame)]


def test_a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones(pair):
    receiver = pair.switch.host()
    bare = reference.finished(BUILDERS["udp4"](BROADCAST, pair.sender.mac, b"\0\0"))
    payload = struct.pack(">H", int.from_bytes(bare[40:42], "big"))
    header, frame = pair.unfinished("udp4", payload)
    pair.send(header, frame)
    (received,) = receiver.received()
    assert received[40:42] == b"\xff\xff" and reference.wrong_checksums(received) == []


def test_a_tcp_checksum_that_comes_out_as_zero_stays_zero(pair):
    receiver = pair.switch.host()
    bare = reference.finished(tcp(BROADCAST, pair.sender.mac, *V4, b"\0\0"))
    frame = reference.unfinished(tcp(BROADCAST, pair.sender.mac, *V4, bare[50:52]))
    pair.send(offload_header(frame), frame)
    assert [received[50:52] for received in receiver.received()] == [b"\0\0"]


def test_a_checksum_inside_a_tunnel_is_finished_where_it_is(pair):
    receivers = pair.switch.host(), pair.switch.host(vnet=True)
    inner = reference.unfinished(tcp(mac(1), mac(2), *V4, b"inside"))
    frame = udp(BROADCAST, pair.sender.mac, *V4, b"\x08" + bytes(7) + inner, sport=4789, dport=4789)
    header = vnet(NEEDS_CSUM, csum_start=50 + 34, csum_offset=16)
    pair.send(header, frame)
    assert receivers[0].received() == [frame[:50] + reference.finished(inner)]
    assert receivers[1].received_with_headers() == [(header, frame)]


def test_each_receiver_of_a_flood_gets_the_form_that_it_can_take(pair):
    switch = pair.switch
    plain, offloading, checksums_only = (
        switch.host(),
        switch.host(vnet=True, gso=7),
        switch.host(vnet=True, gso=0),
    )
    header, frame = pair.super_frame("tcp4", 4000, 1448)
    pair.send(header, frame)
    cut = reference.segments(frame, 1448)
    assert plain.received() == cut
    assert offloading.received_with_headers() == [(header, frame)]
    assert checksums_only.received_with_headers() == [(bytes(12), one) for one in cut]


# ---- segmented


@pytest.mark.parametrize("mask", range(8))
@pytest.mark.parametrize("kind", BUILDERS)
def test_a_super_frame_is_segmented_exactly_where_its_kind_is_not_taken(pair, kind, mask):
    receiver = pair.switch.host(vnet=True, gso=mask)
    header, frame = pair.super_frame(kind, 5000, 1200)
    pair.send(header, frame)
    whole = mask & MASK[gso_type_of(frame)]
    assert receiver.received_with_headers() == (
        [(header, frame)] if whole else [(bytes(12), one) for one in reference.segments(frame, 1200)]
    )


@pytest.mark.parametrize("tags", [(), ((C_TAG, 5),), ((S_TAG, 5), (C_TAG, 6)), ((C_TAG, 0), (C_TAG, 0))])
@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize(
    "payload, size", [(1, 1000), (1000, 1000), (1001, 1000), (2000, 1000), (12_345, 1428), (61_440, 1428)]
)
def test_segments_are_those_that_a_wire_would_have_carried(pair, kind, tags, payload, size):
    receiver = pair.switch.host()
    header, frame = pair.super_frame(kind, payload, size, tags=tags)
    pair.send(header, frame)
    expected = reference.segments(frame, size)
    got = receiver.received()
    assert got == expected == segment(bytes(frame), gso_type_of(frame), size, struct.unpack_from("<H", header, 6)[0])
    assert all(reference.wrong_checksums(one) == [] for one in got)
    assert (
        pair.sender.counters["rx_segments"]
        == receiver.counters["tx_frames"]
        == receiver.counters["tx_segments"]
        == len(expected)
    )
    assert receiver.counters["tx_bytes"] == receiver.counters["tx_wire_bytes"] == pair.sender.counters["rx_wire_bytes"]


@given(
    kind=st.sampled_from(sorted(BUILDERS)),
    payload=st.integers(1, 20_000),
    size=st.integers(157, 1428),
    flags=st.integers(0, 255),
    seq=st.integers(0, 2**32 - 1),
)
def test_any_super_frame_is_segmented_as_the_reference_does_it(kind, payload, size, flags, seq):
    switch = MemorySwitch(mac_capacity=8, neighbour_capacity=8)
    switch.network()
    pair, receiver = Pair(switch), switch.host()
    fields = {"flags": flags, "seq": seq} if kind.startswith("tcp") else {}
    header, frame = pair.super_frame(kind, payload, size, **fields)
    pair.send(header, frame)
    assert receiver.received() == reference.segments(frame, size)
    switch.close()


def test_a_super_frame_behind_ipv6_extension_headers_is_segmented_with_them(pair):
    receiver = pair.switch.host()
    plain = BUILDERS["tcp6"](BROADCAST, pair.sender.mac, DATA[:3000])
    padding = bytes([6]) + b"\0\1\4\0\0\0\0"
    frame = ipv6(BROADCAST, pair.sender.mac, *V6, 60, padding + plain[54:])
    pair.send(vnet(NEEDS_CSUM, GSO_TCPV6, 94, 1000, 62, 16), frame)
    for number, got in enumerate(receiver.received()):
        assert got[54:62] == padding and got[18:20] == struct.pack(">H", 8 + 32 + 1000)
        straight = ipv6(BROADCAST, pair.sender.mac, *V6, 6, got[62:])
        assert reference.wrong_checksums(straight) == [] and straight[86:] == DATA[number * 1000 :][:1000]
    assert receiver.counters["tx_frames"] == 3


# ---- lies


def lie(**fields) -> tuple[str, dict]:
    return fields.pop("kind", "tcp4"), fields


CHECKSUM_LIES = [
    lie(csum_start=0),
    lie(csum_start=13),
    lie(csum_start=14),
    lie(csum_start=33),
    lie(csum_start=35),
    lie(csum_start=65535),
    lie(csum_start=34, csum_offset=65535),
    lie(csum_offset=0),
    lie(csum_offset=6),
    lie(csum_offset=15),
    lie(csum_offset=17),
    lie(kind="udp4", csum_offset=16),
    lie(kind="udp4", csum_offset=4),
    lie(kind="udp6", csum_start=53),
    lie(kind="udp6", csum_start=34),
    lie(kind="tcp6", csum_start=14),
    lie(kind="tcp6", csum_offset=2),
    lie(hdr_len=2000),
    lie(hdr_len=65535),
]
GSO_LIES = [
    lie(flags=0),
    lie(flags=2),
    lie(gso_size=0),
    lie(gso_size=7),
    lie(gso_size=65535),
    lie(gso_type=2),
    lie(gso_type=3),
    lie(gso_type=6),
    lie(gso_type=0x80),
    lie(gso_type=0x20),
    lie(gso_type=GSO_TCPV6),
    lie(gso_type=GSO_UDP_L4),
    lie(kind="tcp6", gso_type=GSO_TCPV4),
    lie(kind="udp4", gso_type=GSO_TCPV4),
    lie(kind="udp6", gso_type=GSO_TCPV6),
    lie(kind="udp4", gso_type=GSO_UDP_L4 | GSO_ECN),
    lie(kind="udp4", gso_size=10),
    lie(hdr_len=65535),
    *CHECKSUM_LIES[:-2],
]


@pytest.mark.parametrize("kind, fields", CHECKSUM_LIES, ids=str)
def test_a_header_that_lies_about_the_checksum_is_refused(pair, kind, fields):
    others = pair.switch.host(), pair.switch.host(vnet=True, gso=7)
    _, frame = pair.unfinished(kind)
    pair.send(offload_header(frame, **fields), frame)
    assert [host.received() for host in others] == [[], []]
    assert pair.sender.drops == {"bad_vnet_header": 1}


@pytest.mark.parametrize("kind, fields", GSO_LIES, ids=str)
def test_a_header_that_lies_about_segments_is_refused(pair, kind, fields):
    others = pair.switch.host(), pair.switch.host(vnet=True, gso=7)
    _, frame = pair.super_frame(kind, 4000, 1000)
    pair.send(offload_header(frame, **{"gso_type": gso_type_of(frame), "gso_size": 1000, **fields}), frame)
    assert [host.received() for host in others] == [[], []]
    assert pair.sender.drops == {"bad_vnet_header": 1} and pair.sender.counters["rx_segments"] == 1


FRAME_LIES = {
    "header length beyond csum_start": (14, b"\x46"),
    "header length short of csum_start": (14, b"\x44"),
    "version": (14, b"\x65"),
    "protocol": (23, b"\x11"),
    "fragment": (20, b"\x20\0"),
    "later fragment": (20, b"\0\1"),
    "total length too small": (16, b"\0\x64"),
    "total length too large": (16, b"\xff\xff"),
    "total length 0": (16, b"\0\0"),
    "ethertype of IPv6": (12, b"\x86\xdd"),
    "ethertype of ARP": (12, b"\x08\x06"),
    "no ethertype": (12, b"\0\x20"),
    "data offset too small": (46, b"\x40"),
}


@pytest.mark.parametrize("what", FRAME_LIES)
def test_a_super_frame_that_contradicts_its_header_is_refused(pair, what):
    others = pair.switch.host(), pair.switch.host(vnet=True, gso=7)
    header, frame = pair.super_frame("tcp4", 4000, 1000)
    at, value = FRAME_LIES[what]
    pair.send(header, frame[:at] + value + frame[at + len(value) :])
    assert [host.received() for host in others] == [[], []]
    assert pair.sender.drops == {"bad_vnet_header": 1}


def test_a_super_frame_of_nothing_but_headers_is_refused(pair):
    header, frame = pair.super_frame("tcp4", 0, 1000)
    pair.send(header, frame)
    header, frame = pair.super_frame("udp6", 0, 1000)
    pair.send(header, frame)
    assert pair.sender.drops == {"bad_vnet_header": 2}


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_super_frame_that_is_cut_off_anywhere_in_its_headers_is_refused(pair, kind):
    header, frame = pair.super_frame(kind, 100, 50)
    headers = len(frame) - 100
    for length in range(14, headers + 1):
        pair.sender.send(frame[:length], header)
    pair.switch.step()
    assert pair.sender.drops == {"bad_vnet_header": headers - 13}


@pytest.mark.parametrize("ethertype", [ARP, 0x88B5, 0x8863])
def test_only_ip_packets_have_unfinished_checksums(pair, ethertype):
    frame = frames.ethernet(BROADCAST, pair.sender.mac, ethertype, bytes(100))
    pair.send(vnet(NEEDS_CSUM, csum_start=34, csum_offset=16), frame)
    assert pair.sender.drops == {"bad_vnet_header": 1}


def test_a_super_frame_stands_for_a_bounded_number_of_segments(pair):
    receiver = pair.switch.host(vnet=True, gso=7)
    for kind, size, most in (("tcp4", 20, 2048), ("tcp6", 20, 2048), ("udp4", 100, 128)):
        for segments in (most, most + 1):
            pair.send(*pair.super_frame(kind, size * segments, size))
    assert [len(frame) for frame in receiver.received()] == [20 * 2048 + 66, 20 * 2048 + 86, 128 * 100 + 42]
    assert pair.sender.drops == {"bad_vnet_header": 3}


def test_headers_that_would_be_copied_into_every_segment_are_bounded(pair):
    """A frame of 60 kB headers and 8-byte segments would make half a gigabyte."""
    switch = MemorySwitch()
    switch.network(mtu=65520)
    pair, receiver = Pair(switch), switch.host()
    plain = BUILDERS["tcp6"](BROADCAST, pair.sender.mac, DATA[: 8 * 100])
    for size, fits in ((512, True), (520, False), (2048, False)):
        chain = bytes([6, size // 8 - 1]) + bytes(size - 2) if size <= 2048 else b""
        frame = ipv6(BROADCAST, pair.sender.mac, *V6, 60, chain + plain[54:])
        pair.send(vnet(NEEDS_CSUM, GSO_TCPV6, 0, 8, 54 + size, 16), frame)
        assert len(receiver.received()) == (100 if fits else 0)
    assert pair.sender.drops == {"bad_vnet_header": 2}
    switch.close()


@pytest.mark.parametrize("kind, headers", [("tcp4", 66 - 14), ("udp6", 62 - 14)])
def test_the_longest_segment_is_what_the_mtu_measures(pair, kind, headers):
    receiver = pair.switch.host(vnet=True, gso=7)
    pair.send(*pair.super_frame(kind, 20_000, 1500 - headers))
    assert len(receiver.received()) == 1
    pair.send(*pair.super_frame(kind, 20_000, 1500 - headers + 9))
    assert receiver.received() == [] and pair.sender.drops == {"oversized": 1}


@given(
    header=st.binary(min_size=12, max_size=12),
    kind=st.sampled_from(sorted(BUILDERS)),
    payload=st.integers(0, 3000),
    tags=st.lists(st.sampled_from([(C_TAG, 0), (S_TAG, 9)]), max_size=3),
)
def test_any_header_at_all_is_passed_on_honest_or_refused(header, kind, payload, tags):
    switch = MemorySwitch(mac_capacity=8, neighbour_capacity=8)
    switch.network()
    pair, receiver = Pair(switch), switch.host(vnet=True, gso=7)
    frame = tagged(BUILDERS[kind](BROADCAST, pair.sender.mac, DATA[:payload]), *tags)
    pair.send(header, frame)
    for got, carried in receiver.received_with_headers():
        flags, gso_type, _, _, start, offset, _ = struct.unpack("<BBHHHHH", got)
        assert carried == frame
        assert got == bytes(12) or (flags == NEEDS_CSUM and start >= 34 and start + offset + 2 <= len(frame))
        assert gso_type & ~GSO_ECN in (0, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4)
    assert receiver.counters["tx_frames"] + sum(pair.sender.drops.values()) == 1
    switch.close()


# ---- to the gateway


def test_a_super_frame_for_the_gateway_is_answered_as_the_one_segment_that_it_is(pair):
    pair.switch.bind("10.0.0.2")
    pair.switch.bind("fd00::2")
    for kind, at in (("tcp4", 34), ("tcp6", 54)):
        header, frame = pair.super_frame(kind, 60_000, 1400, to=GATEWAY, flags=0x02, seq=7)
        pair.send(header, frame)
        (answer,) = pair.sender.received()
        assert reference.wrong_checksums(answer) == []
        assert answer[at + 13] == 0x14 and answer[at + 8 : at + 12] == struct.pack(">I", 7 + 60_000 + 1)
    assert pair.sender.drops == {"no_listener": 2}


def test_an_answer_to_a_port_with_offload_headers_has_an_empty_one(pair):
    pair.switch.bind("10.0.0.2")
    pair.sender.send(frames.echo(GATEWAY, pair.sender.mac, *V4))
    pair.switch.step()
    ((header, answer),) = pair.sender.received_with_headers()
    assert header == bytes(12) and answer == frames.echo(pair.sender.mac, GATEWAY, *reversed(V4), reply=True)


def test_plain_frames_among_offloading_ports_are_left_alone(pair):
    receiver = pair.switch.host()
    frame = experimental(BROADCAST, pair.sender.mac)
    pair.send(bytes(12), frame)
    assert receiver.received() == [frame]
