# SPDX-License-Identifier: Apache-2.0
"""Fragments put together: any packet cut any way comes out as it was, overlaps and nonsense never do."""

from __future__ import annotations

import struct

import frames
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from vswitch.datapath._drops import NAMES
from vswitch.nat._reassembly import Reassembler

V4, V6 = ("10.0.0.1", "192.0.2.1"), ("fd00::1", "2001:db8::1")
DATA = bytes(number % 251 for number in range(66_000))
SECOND = 1_000_000_000


def name(reason: int) -> str:
    return NAMES[reason - 1]


def packet4(
    payload: bytes, *, id: int = 7, offset: int = 0, more: bool = False, options: bytes = b"", **fields
) -> bytes:
    return frames.ipv4(
        b"", b"", *V4, 17, payload, id=id, offset=offset, more=more, options=options, **fields
    )[2:]


def packet6(payload: bytes, extensions: bytes = b"", first: int = 17) -> bytes:
    return frames.ipv6(b"", b"", *V6, first, extensions + payload)[2:]


def fragment6(part: bytes, offset: int, more: bool, *, id: int = 7, options: bool = False) -> bytes:
    """A fragment; with `options` an empty destination options header stands before the fragment header."""
    header = struct.pack(">BBHI", 17, 0, offset | more, id)
    extensions = bytes([44, 0, 1, 4, 0, 0, 0, 0]) if options else b""
    return packet6(part, extensions + header, 60 if options else 44)


def cut(payload: bytes, sizes: list[int], v6: bool, **fields) -> list[bytes]:
    """The fragments of a payload; each size but the last is rounded up to a multiple of 8."""
    parts, at = [], 0
    for size in sizes:
        size = (size + 7) & ~7
        if at + size >= len(payload):
            break
        parts.append((payload[at : at + size], at, True))
        at += size
    parts.append((payload[at:], at, False))
    if v6:
        return [fragment6(part, offset, more, **fields) for part, offset, more in parts]
    return [packet4(part, offset=offset, more=more, **fields) for part, offset, more in parts]


def taken(table: Reassembler, parts: list[bytes], **how) -> list:
    return [table.take(part, **how) for part in parts]


SIZES = st.lists(st.integers(8, 4000), min_size=1, max_size=60)


@given(st.integers(9, 65_400), SIZES, st.booleans(), st.randoms(use_true_random=False), st.data())
def test_any_packet_cut_any_way_in_any_order_comes_out_as_it_was(length, sizes, v6, shuffle, data):
    payload = DATA[:length]
    options = data.draw(st.booleans())
    fields = {"options": options} if v6 else {"options": b"\1\1\1\0" if options else b""}
    parts = cut(payload, sizes, v6, **fields)
    if len(parts) == 1:
        return
    shuffle.shuffle(parts)
    got = taken(Reassembler(), parts)
    whole = got.pop()
    assert got == [None] * len(got)
    if v6:
        header = bytes([17, 0, 1, 4, 0, 0, 0, 0]) if options else b""
        assert whole == packet6(payload, header, 60 if options else 17)
    else:
        assert whole == packet4(payload, **fields)
        assert reference.internet_checksum(whole[: 20 + len(fields["options"])]) == 0


@given(st.integers(100, 20_000), SIZES, st.booleans(), st.data())
def test_repeated_fragments_change_nothing(length, sizes, v6, data):
    parts = cut(DATA[:length], sizes, v6)
    if len(parts) == 1:
        return
    last = parts.pop()
    repeated = [part for part in parts for _ in range(data.draw(st.integers(1, 3)))]
    table = Reassembler()
    assert set(taken(table, repeated)) == {None}
    assert table.take(last).endswith(DATA[:length])


@given(st.integers(0, 200), st.integers(1, 200), st.integers(0, 200), st.integers(1, 200), st.booleans())
def test_parts_that_overlap_kill_the_packet(start, length, other_start, other_length, v6):
    one, other = (start * 8, (start + length) * 8), (other_start * 8, (other_start + other_length) * 8)
    table = Reassembler()

    def part(begin: int, end: int) -> bytes:
        return (
            fragment6(DATA[begin:end], begin, True)
            if v6
            else packet4(DATA[begin:end], offset=begin, more=True)
        )

    assert table.take(part(*one)) is None
    got = table.take(part(*other))
    if one == other or one[1] <= other[0] or other[1] <= one[0]:
        assert got is None and table.state[0] == 1
    else:
        assert name(got) == "fragment_overlap" and table.state[:2] == (0, 1)


@given(st.lists(st.binary(max_size=120), max_size=20))
def test_any_bytes_are_no_crash(pieces):
    table = Reassembler(4)
    for piece in pieces:
        got = table.take(piece)
        assert got is None or isinstance(got, bytes) or name(got).startswith("fragment_")


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 12), st.integers(1, 12), st.booleans(), st.booleans()),
        max_size=60,
    )
)
def test_any_fragments_give_only_packets_of_the_length_they_say(pieces):
    table = Reassembler(2)
    for id, start, length, more, v6 in pieces:
        part, offset = DATA[: length * 8], start * 8
        got = table.take(
            fragment6(part, offset, more, id=id) if v6 else packet4(part, offset=offset, more=more, id=id)
        )
        if isinstance(got, bytes):
            assert len(got) == (
                struct.unpack(">H", got[4:6])[0] + 40 if v6 else struct.unpack(">H", got[2:4])[0]
            )


@pytest.mark.parametrize(
    "fragment",
    [
        packet4(b"", offset=8, more=True),
        packet4(b"", offset=8),
        packet4(bytes(9), offset=8, more=True),
        fragment6(bytes(9), 8, True),
        fragment6(b"", 8, False),
        packet6(bytes(40), b"", 0),
        packet6(bytes(40), bytes([44, 200]) + bytes(6), 60),
        packet4(bytes(8), offset=8)[:-1],
        b"",
    ],
    ids=[
        "empty",
        "empty last",
        "misaligned",
        "misaligned v6",
        "empty v6",
        "no fragment",
        "cut off",
        "short",
        "nothing",
    ],
)
def test_what_is_no_fragment_is_malformed(fragment):
    table = Reassembler()
    assert name(table.take(fragment)) == "fragment_malformed"
    assert table.state[0] == 0


def test_more_than_a_packet_can_hold_kills():
    table = Reassembler()
    assert table.take(packet4(bytes(1000), offset=0, more=True)) is None
    assert name(table.take(packet4(bytes(1000), offset=65_528))) == "fragment_overlap"
    assert table.state[:2] == (0, 1)


def test_headers_that_make_the_whole_too_long_kill():
    table = Reassembler()
    parts = [packet4(bytes(32_768), more=True), packet4(bytes(65_528 - 32_768), offset=32_768)]
    assert table.take(parts[0]) is None
    assert name(table.take(parts[1])) == "fragment_overlap"


def test_a_second_end_kills():
    table = Reassembler()
    assert taken(table, [packet4(bytes(8), offset=64), packet4(bytes(8), offset=32, more=True)]) == [
        None,
        None,
    ]
    assert name(table.take(packet4(bytes(8), offset=40))) == "fragment_overlap"
    assert table.take(packet4(bytes(16), offset=64, more=True)) is None
    assert name(table.take(packet4(bytes(8), offset=32))) == "fragment_overlap"


def test_an_atomic_fragment_passes_by_itself():
    table = Reassembler()
    assert table.take(fragment6(bytes(8), 0, True)) is None
    assert table.take(fragment6(b"whole", 0, False)) == packet6(b"whole")
    assert table.state[0] == 1


def test_finer_than_128_parts_is_too_fine():
    table = Reassembler()
    for number in range(128):
        assert table.take(packet4(bytes(8), offset=number * 8, more=True)) is None
    assert name(table.take(packet4(bytes(8), offset=1024))) == "fragment_share"
    assert table.state[:2] == (0, 128)


def test_packets_that_stay_incomplete_are_given_up_in_30_and_60_seconds():
    table = Reassembler()
    table.take(packet4(bytes(8), more=True), now_ns=SECOND)
    table.take(packet4(bytes(8), offset=16, more=True), now_ns=SECOND)
    table.take(fragment6(bytes(8), 0, True), now_ns=SECOND)
    assert table.state == (2, 0, 31 * SECOND)
    assert table.expire(30 * SECOND) == 0
    assert table.expire(31 * SECOND) == 2
    assert table.state[0] == 1 and table.state[2] == 61 * SECOND
    assert table.expire(61 * SECOND) == 1
    assert table.state[0] == 0 and table.state[2] == 0


def test_a_container_that_wants_too_much_loses_its_own_oldest():
    table = Reassembler()
    table.take(packet4(bytes(8), more=True), port=2)
    for id in range(65):
        assert table.take(packet4(bytes(8), more=True, id=id), port=1) is None
    assert table.state[:2] == (65, 1)
    assert table.take(packet4(b"end", offset=8, id=0), port=1) is None
    assert table.take(packet4(b"end", offset=8, id=64), port=1) is not None
    assert table.take(packet4(b"end", offset=8), port=2) is not None


def test_something_is_left_for_everybody():
    table = Reassembler(32)
    for port in range(1, 20):
        for id in range(40):
            table.take(packet4(bytes(8), more=True, id=id), port=port)
    assert table.take(packet4(bytes(8), more=True), port=99) is None
    assert table.take(packet4(b"end", offset=8), port=99) is not None


def test_a_port_that_leaves_takes_its_fragments_along():
    table = Reassembler()
    table.take(packet4(bytes(8), more=True), port=1)
    table.take(packet4(bytes(8), more=True), port=2)
    table.forget(1)
    assert table.state[0] == 1
    assert table.take(packet4(b"end", offset=8), port=1) is None
