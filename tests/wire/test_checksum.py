# SPDX-License-Identifier: Apache-2.0
"""Checksums: published vectors, then the compiled code against the obvious one for any bytes."""

from __future__ import annotations

import array
import mmap

import dpkt
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from vswitch.wire._checksum import checksum, pseudo_header_sum, update_checksum

WORDS = st.integers(0, 0xFFFF)
ADDRESSES = st.one_of(
    *(st.tuples(st.binary(min_size=n, max_size=n), st.binary(min_size=n, max_size=n)) for n in (4, 16))
)


def test_the_example_of_rfc_1071():
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


def test_a_well_known_ipv4_header():
    header = bytes.fromhex("45000073000040004011 0000 c0a80001c0a800c7")
    assert checksum(header) == 0xB861
    assert checksum(header[:10] + b"\xb8\x61" + header[12:]) == 0


def test_the_example_of_rfc_1624():
    """Section 4: a field changes from 0x5555 to 0x3285; equation 3 gives 0x0000 and not 0xffff."""
    assert update_checksum(0xDD2F, 0x5555, 0x3285) == 0x0000


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", 0xFFFF),
        (b"\0", 0xFFFF),
        (b"\xff", 0x00FF),
        (b"\xff\xff", 0),
        (b"\0\1\2", 0xFDFE),
        (bytes(65536), 0xFFFF),
    ],
)
def test_the_edges(data, expected):
    assert checksum(data) == expected


@given(st.binary(max_size=300), WORDS)
def test_any_bytes_sum_up_as_in_the_obvious_way(data, start):
    total = reference.internet_sum(start.to_bytes(2, "big") + data)
    assert checksum(data, start) in (total ^ 0xFFFF, (total ^ 0xFFFF) or 0xFFFF)
    assert checksum(data) == reference.internet_checksum(data) == dpkt.in_cksum(data)


@given(st.integers(0, 70_000), st.binary(min_size=1, max_size=40), st.integers(0, 7))
def test_long_data_at_any_alignment_sums_up_as_in_the_obvious_way(length, pattern, skipped):
    data = (pattern * (length // len(pattern) + 1))[:length]
    assert checksum(memoryview(data)[skipped:]) == reference.internet_checksum(data[skipped:])


@pytest.mark.parametrize("length", [31, 32, 33, 63, 64, 65, 65535, 65536, 131072])
def test_nothing_overflows_on_all_ones(length):
    assert checksum(b"\xff" * length) == reference.internet_checksum(b"\xff" * length)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 31, 33, 4095])
def test_nothing_is_read_past_the_end(length):
    """The data ends where the memory ends: another byte would be a page fault."""
    with mmap.mmap(-1, 8192) as memory:
        memory[:4096] = b"\xaa" * 4096
        view = memoryview(memory)[4096 - length : 4096]
        assert checksum(view) == reference.internet_checksum(b"\xaa" * length)
        view.release()


@given(st.binary(min_size=2, max_size=200).filter(lambda data: len(data) % 2 == 0), st.data())
def test_a_checksum_updated_is_the_checksum_anew(data, draw):
    at = draw.draw(st.integers(0, len(data) // 2 - 1)) * 2
    after = draw.draw(WORDS)
    changed = data[:at] + after.to_bytes(2, "big") + data[at + 2 :]
    updated = update_checksum(checksum(data), int.from_bytes(data[at : at + 2], "big"), after)
    if any(changed):
        assert updated == checksum(changed)
    else:
        assert updated in (0, 0xFFFF)  # only all-zero data, which no packet is, has two checksums


@given(WORDS, WORDS, WORDS)
def test_an_update_is_undone_by_its_opposite(old, before, after):
    there = update_checksum(old, before, after)
    assert update_checksum(there, after, before) in (old, old ^ 0xFFFF if old in (0, 0xFFFF) else old)


@given(ADDRESSES, st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_the_pseudo_header_is_that_of_the_rfcs(addresses, protocol, length):
    source, destination = addresses
    length &= 0xFFFF if len(source) == 4 else 0xFFFFFFFF
    expected = reference.internet_sum(reference.pseudo_header(source, destination, protocol, length))
    assert pseudo_header_sum(source, destination, protocol, length) == expected


@given(ADDRESSES, st.sampled_from([6, 17, 58]), st.binary(max_size=200))
def test_a_pseudo_header_sum_is_where_a_checksum_goes_on_from(addresses, protocol, data):
    source, destination = addresses
    pseudo = reference.pseudo_header(source, destination, protocol, len(data))
    start = pseudo_header_sum(source, destination, protocol, len(data))
    assert checksum(data, start) == reference.internet_checksum(pseudo + data)


@pytest.mark.parametrize("source, destination", [(bytes(4), bytes(16)), (bytes(5), bytes(5)), (b"", b"")])
def test_addresses_of_no_family_are_refused(source, destination):
    with pytest.raises(ValueError, match="4 or both have 16"):
        pseudo_header_sum(source, destination, 6, 0)


def test_any_buffer_of_bytes_will_do_and_nothing_else():
    for data in (b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), array.array("B", b"abcd")):
        assert checksum(data) == reference.internet_checksum(b"abcd")
    for data in ("abcd", None, array.array("H", [1, 2]), memoryview(b"abcdefgh")[::2]):
        with pytest.raises((TypeError, ValueError, BufferError)):
            checksum(data)
