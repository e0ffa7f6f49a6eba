# SPDX-License-Identifier: Apache-2.0
"""Every block, byte for byte, and what a frame's options say."""
from __future__ import annotations

import io
import os
import struct
import tempfile

import dpkt
import pytest
from frames_for_capture import CSUM_OFFSET, TCP, UDP, csum_start, l4_sum_is_right, offloaded
from hypothesis import given
from hypothesis import strategies as st
from pcapng_reader import packets, read_block, read_blocks

from vswitch.observe import pcapng
from vswitch.observe._pcapng import Capture, Outcome

HEADER = pcapng.section_header(hardware="x86_64", system="Linux 6.1", application="vswitch 1")
INTERFACE = pcapng.interface_description("web/eth0", snaplen=262144)
NOT_READY, VALID, OFFLOADED = 1 << 9, 1 << 10, 1 << 11


def written(*records: dict, snaplen: int = 262144, reasons: dict[int, str] | None = None) -> bytes:
    """The section of these records (arguments of Capture.offer), all of one port."""
    capture = Capture(snaplen=snaplen, reasons=reasons)
    with tempfile.TemporaryFile() as file:
        capture.open_section(file.fileno(), HEADER)
        capture.declare(1, INTERFACE)
        for record in records:
            assert capture.offer(**{"port": 1, "direction": 1, "time_ns": 0} | record)
        assert capture.pump() is Outcome.DRAINED
        return os.pread(file.fileno(), 1 << 26, 0)


def one(**record) -> tuple:
    snaplen = record.pop("snaplen", 262144)
    reasons = record.pop("reasons", None)
    found = packets(written(record, snaplen=snaplen, reasons=reasons))
    assert len(found) == 1
    return found[0], found[0].number(2)


def test_a_section_header_byte_for_byte():
    assert HEADER.hex() == (
        "0a0d0d0a" "4c000000" "4d3c2b1a" "01000000" "ffffffffffffffff"
        "02000600" "7838365f36340000"
        "03000900" "4c696e757820362e31000000"
        "04000900" "767377697463682031000000"
        "00000000" "4c000000"
    )  # fmt: skip


def test_an_interface_description_byte_for_byte():
    block = pcapng.interface_description(
        "web/eth0", snaplen=262144, mac=b"\x02\x42\xac\x11\0\2", addresses=("172.17.0.2/16", "fd00::2/64")
    )
    assert block.hex() == (
        "01000000" "5c000000" "01000000" "00000400"
        "02000800" "7765622f65746830"
        "04000800" "ac110002ffff0000"
        "05001100" "fd000000000000000000000000000002" "40000000"
        "06000600" "0242ac1100020000"
        "09000100" "09000000"
        "00000000" "5c000000"
    )  # fmt: skip


def test_interface_statistics_byte_for_byte():
    block = pcapng.interface_statistics(3, start_ns=1 << 32 | 2, end_ns=5 << 32 | 6, received=9, dropped=7)
    assert block.hex() == (
        "05000000" "4c000000" "03000000" "05000000" "06000000"
        "02000800" "0100000002000000"
        "03000800" "0500000006000000"
        "04000800" "0900000000000000"
        "05000800" "0700000000000000"
        "00000000" "4c000000"
    )  # fmt: skip
    assert len(block) == pcapng.STATISTICS_BYTES


def test_a_packet_byte_for_byte():
    frame = b"\xff" * 6 + b"\x02abcde" + b"\x88\xb5!"
    raw = written({"frame": frame, "time_ns": 0x1701_0203_0405_0607, "packet_id": 77})
    assert raw[len(HEADER) + len(INTERFACE) :].hex() == (
        "06000000" "48000000" "00000000" "03020117" "07060504" "0f000000" "0f000000"
        "ffffffffffff" "026162636465" "88b521" "00"
        "02000400" "0d000000"
        "05000800" "4d00000000000000"
        "00000000" "48000000"
    )  # fmt: skip


def test_a_dropped_packet_after_a_loss_byte_for_byte():
    capture = Capture(snaplen=14, ring_bytes=1024, reasons={2: "runt"})
    record = {"port": 1, "direction": 2, "time_ns": 1, "packet_id": 2, "drop": 2}
    with tempfile.TemporaryFile() as file:
        capture.open_section(file.fileno(), HEADER)
        capture.declare(1, INTERFACE)
        while capture.offer(b"\x02" * 14, **record):
            pass
        capture.pump()
        at = os.lseek(file.fileno(), 0, os.SEEK_CUR)
        assert capture.offer(b"\x02" * 14, **record)
        capture.pump()
        assert os.pread(file.fileno(), 1000, at).hex() == (
            "06000000" "74000000" "00000000" "00000000" "01000000" "0e000000" "0e000000"
            "0202020202020202020202020202" "0000"
            "02000400" "06000000"
            "04000800" "0100000000000000"
            "05000800" "0200000000000000"
            "07000a00" "00" "64726f703a72756e74" "0000"
            "01000a00" "64726f703a2072756e74" "0000"
            "00000000" "74000000"
        )  # fmt: skip


@pytest.mark.parametrize(
    ("destination", "kind"),
    [("0242ac110002", 1), ("01005e000001", 2), ("333300000001", 2), ("fffffffffffe", 2), ("ffffffffffff", 3)],
)
@pytest.mark.parametrize("direction", [1, 2])
def test_flags_tell_direction_and_kind_of_reception(destination, kind, direction):
    _, flags = one(frame=bytes.fromhex(destination) + bytes(8), direction=direction)
    assert flags == direction | kind << 2


def test_a_frame_too_short_for_an_address_has_no_kind_of_reception():
    _, flags = one(frame=b"\xff" * 5)
    assert flags == 1


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("addresses", [("172.17.0.2", "172.17.0.3"), ("fd00::2", "fd00::3")])
@pytest.mark.parametrize("tag", [b"", b"\x81\x00\x00\x05"])
@pytest.mark.parametrize("payload_bytes", [0, 1, 1000, 60000])
def test_an_unfinished_checksum_is_finished(protocol, addresses, tag, payload_bytes):
    source, destination = addresses
    frame = offloaded(protocol, os.urandom(payload_bytes), source=source, destination=destination, tag=tag)
    super_frame = payload_bytes > 1460
    packet, flags = one(
        frame=frame,
        vnet_flags=1,
        gso_type=super_frame,
        csum_start=csum_start(frame),
        csum_offset=CSUM_OFFSET[protocol],
    )
    assert not l4_sum_is_right(frame) and l4_sum_is_right(packet.data)
    assert flags & (NOT_READY | VALID | OFFLOADED) == (OFFLOADED if super_frame else 0)


def test_a_frame_cut_short_keeps_its_unfinished_checksum_and_says_so():
    frame = offloaded(TCP, bytes(1000))
    packet, flags = one(frame=frame, snaplen=128, vnet_flags=1, csum_start=34, csum_offset=16)
    assert packet.data == frame[:128] and packet.length == len(frame)
    assert flags & NOT_READY


@pytest.mark.parametrize(("start", "offset"), [(0, 0), (33, 16), (34, 65535), (65535, 9), (50, 4), (54, 0)])
def test_an_offload_header_that_lies_changes_nothing(start, offset):
    frame = offloaded(TCP, b"")
    assert len(frame) == 54
    packet, flags = one(frame=frame, vnet_flags=1, csum_start=start, csum_offset=offset)
    assert packet.data == frame and flags & NOT_READY


def test_a_checksum_that_the_kernel_verified_is_marked_valid():
    _, flags = one(frame=bytes(60), vnet_flags=2)
    assert flags & (NOT_READY | VALID) == VALID


def test_a_dropped_frame_tells_why_to_programs_and_to_people():
    packet, _ = one(frame=bytes(60), drop=6, reasons={6: "mac_spoof"})
    assert packet.option(7) == b"\0drop:mac_spoof"
    assert packet.option(1) == b"drop: mac_spoof"


def test_a_reason_without_a_name_goes_by_its_number():
    packet, _ = one(frame=bytes(60), drop=255, reasons={6: "mac_spoof"})
    assert packet.option(1) == b"drop: reason 255"


def test_a_frame_that_lived_has_neither_verdict_nor_comment():
    packet, _ = one(frame=bytes(60), reasons={0: "forwarded"})
    assert [code for code, _ in packet.options] == [2, 5]


def test_dpkt_reads_what_was_written():
    frames = [os.urandom(length) for length in (0, 1, 14, 60, 61, 62, 63, 1514, 65226)]
    raw = written(*({"frame": frame, "time_ns": 10**9 * at + 1} for at, frame in enumerate(frames)))
    assert [(at, frame) for at, frame in dpkt.pcapng.Reader(io.BytesIO(raw))] == [
        (pytest.approx(at + 1e-9, abs=1e-10), frame) for at, frame in enumerate(frames)
    ]


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "frame": st.binary(max_size=300),
                "time_ns": st.integers(0, 2**64 - 1),
                "packet_id": st.integers(0, 2**64 - 1),
                "direction": st.integers(0, 255),
                "drop": st.integers(0, 255),
                "vnet_flags": st.integers(0, 255),
                "gso_type": st.integers(0, 255),
                "csum_start": st.integers(0, 65535) | st.integers(30, 100),
                "csum_offset": st.integers(0, 65535) | st.integers(0, 20),
            }
        ),
        max_size=8,
    ),
    st.integers(14, 310),
)
def test_any_records_make_a_well_formed_section_and_nothing_is_lost(records, snaplen):
    found = packets(written(*records, snaplen=snaplen))
    assert len(found) == len(records)
    for record, packet in zip(records, found, strict=True):
        assert (packet.time_ns, packet.number(5)) == (record["time_ns"], record["packet_id"])
        assert packet.length == len(record["frame"])
        assert len(packet.data) == min(packet.length, snaplen)
        finished = record["vnet_flags"] & 1 and not packet.number(2) & NOT_READY
        assert packet.data == record["frame"][:snaplen] or finished
        assert packet.number(2) >> 12 == 0
        assert (packet.option(1) is None) == (record["drop"] == 0)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.lists(st.ip_addresses(), max_size=5),
    st.none() | st.binary(min_size=6, max_size=6),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
)
def test_any_interface_makes_a_well_formed_description(name, addresses, mac, description):
    texts = tuple(f"{address}/{address.max_prefixlen}" for address in addresses)
    raw = pcapng.interface_description(name, snaplen=128, mac=mac, addresses=texts, description=description)
    block = read_block(1, raw)
    assert block.option(2).decode() == name and block.option(6) == mac and block.option(9) == b"\x09"
    assert [value[: len(address.packed)] for (_, value), address in zip(
        [pair for pair in block.options if pair[0] in (4, 5)], addresses, strict=True)
    ] == [address.packed for address in addresses]


@pytest.mark.parametrize("bad", [{"addresses": ("172.17.0.2/33",)}, {"addresses": ("web",)}, {"mac": b"\2"}])
def test_a_description_of_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match=r"172\.17\.0\.2/33|web|6 bytes"):
        pcapng.interface_description("web/eth0", snaplen=128, **bad)


def test_all_interfaces_have_the_same_link_type_and_snaplen():
    capture = Capture(snaplen=128)
    with tempfile.TemporaryFile() as file:
        capture.open_section(file.fileno(), HEADER)
        for port in range(3):
            capture.declare(port, pcapng.interface_description(f"c{port}/eth0", snaplen=capture.snaplen))
        capture.flush()
        blocks = read_blocks(os.pread(file.fileno(), 1 << 20, 0))
    assert {struct.unpack_from("<HHI", block.raw, 8) for block in blocks[1:]} == {(1, 0, 128)}
