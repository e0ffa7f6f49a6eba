# SPDX-License-Identifier: Apache-2.0
"""Software segmentation: golden frames, what segments add up to, and the compiled code against the obvious
one."""

from __future__ import annotations

import dpkt
import frames
import pytest
import reference
from frames import C_TAG, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, S_TAG, gso_type_of, mac, tagged
from hypothesis import given
from hypothesis import strategies as st
from vswitch.wire._segment import segment

A, B = mac(1), mac(2)
V4, V6 = ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")
DATA = bytes(number % 251 for number in range(66_000))


def cut(frame: bytes, size: int, *, gso_type: int | None = None, start: int | None = None) -> list[bytes]:
    gso_type = gso_type_of(frame) if gso_type is None else gso_type
    return segment(bytes(frame), gso_type, size, reference.l4_of(frame)[0] if start is None else start)


# ---- golden


def test_the_bytes_of_three_tcp_segments():
    """FIN, PSH and CWR on a frame of 5 bytes in segments of 2: identification, sequence, flags, lengths,
    sums."""
    super_frame = bytes.fromhex(
        "020000000002 020000000001 0800 4500002d 00ff 4000 40 06 0000 0a000001 0a000002"
        "9c40 0050 ffffffff 00000002 50 99 faf0 0000 0000 6162636465"
    )
    golden = [
        "0200000000020200000000010800"
        "4500002a00ff4000400625cd"
        "0a0000010a000002"
        "9c400050ffffffff0000000250"
        "90"
        "faf0"
        "a26a"
        "0000"
        "6162",
        "0200000000020200000000010800"
        "4500002a01004000400625cc"
        "0a0000010a000002"
        "9c400050000000010000000250"
        "10"
        "faf0"
        "a0e7"
        "0000"
        "6364",
        "0200000000020200000000010800"
        "4500002901014000400625cc"
        "0a0000010a000002"
        "9c400050000000030000000250"
        "19"
        "faf0"
        "9f41"
        "0000"
        "65",
    ]
    assert [one.hex() for one in segment(super_frame, GSO_TCPV4, 2, 34)] == golden


def test_the_bytes_of_two_udp_datagrams_over_ipv6():
    super_frame = bytes.fromhex(
        "020000000002 020000000001 86dd 60012345 000b 11 40 fd000000000000000000000000000001"
        "fd000000000000000000000000000002 9c40 0fa0 000b 0000 616263"
    )
    addresses = "fd000000000000000000000000000001fd000000000000000000000000000002"
    golden = [
        f"02000000000202000000000186dd60012345000a1140{addresses}9c400fa0000af8926162",
        f"02000000000202000000000186dd6001234500091140{addresses}9c400fa00009f6f663",
    ]
    assert [one.hex() for one in segment(super_frame, GSO_UDP_L4, 2, 54)] == golden


# ---- properties


FRAMES = st.builds(
    lambda build, addresses, payload, tags, fields: tagged(build(B, A, *addresses, DATA[:payload], **fields), *tags),
    st.just(frames.tcp),
    st.sampled_from([V4, V6]),
    st.integers(1, 65_000),
    st.lists(st.sampled_from([(C_TAG, 7), (S_TAG, 9)]), max_size=2),
    st.fixed_dictionaries(
        {
            "seq": st.integers(0, 2**32 - 1),
            "flags": st.integers(0, 255),
            "options": st.sampled_from([b"", b"\1\1\x08\x0a" + bytes(8), bytes(40)]),
        }
    ),
) | st.builds(
    lambda addresses, payload, tags: tagged(frames.udp(B, A, *addresses, DATA[:payload]), *tags),
    st.sampled_from([V4, V6]),
    st.integers(1, 65_000),
    st.lists(st.sampled_from([(C_TAG, 7), (S_TAG, 9)]), max_size=2),
)


@given(FRAMES, st.integers(300, 65_000))
def test_segments_are_those_of_the_reference(frame, size):
    assert cut(frame, size) == reference.segments(frame, size)


@given(FRAMES, st.integers(300, 9000))
def test_segments_add_up_to_the_frame(frame, size):
    got = cut(frame, size)
    l4, _, protocol, *_ = reference.l4_of(frame)
    header = l4 + (8 if protocol == 17 else (frame[l4 + 12] >> 4) * 4)
    assert b"".join(one[header:] for one in got) == frame[header:]
    assert all(len(one) == header + size for one in got[:-1]) and header < len(got[-1]) <= header + size
    assert all(reference.wrong_checksums(one) == [] for one in got)
    assert all(one[:12] == frame[:12] and reference.l4_of(one)[1] == len(one) - l4 for one in got)


@given(
    seq=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 255),
    id=st.integers(0, 65535),
    count=st.integers(1, 40),
    last=st.integers(1, 500),
)
def test_tcp_segments_count_on_and_keep_their_flags_where_they_belong(seq, flags, id, count, last):
    frame = frames.tcp(B, A, *V4, DATA[: 500 * (count - 1) + last], seq=seq, flags=flags, id=id)
    got = [dpkt.ethernet.Ethernet(one).data for one in cut(frame, 500)]
    assert [packet.id for packet in got] == [(id + number) & 0xFFFF for number in range(count)]
    assert [packet.data.seq for packet in got] == [(seq + 500 * number) & 0xFFFFFFFF for number in range(count)]
    fin_psh, cwr, others = flags & 0x09, flags & 0x80, flags & 0x76
    assert [packet.data.flags & 0xFF for packet in got] == [
        others | (cwr if number == 0 else 0) | (fin_psh if number == count - 1 else 0) for number in range(count)
    ]


@given(st.binary(max_size=200), st.integers(0, 255), st.integers(0, 65535), st.integers(0, 65535))
def test_any_bytes_and_any_header_are_cut_or_refused(frame, gso_type, size, start):
    got = segment(frame, gso_type, size, start)
    assert all(len(one) <= len(frame) for one in got)


@given(
    FRAMES,
    st.integers(0, 120),
    st.integers(0, 255),
    st.sampled_from([0, 1, 8, 1000, 65534, 65535]),
    st.data(),
)
def test_a_frame_with_one_byte_changed_is_cut_into_sound_frames_or_refused(frame, at, value, size, draw):
    frame = bytes(frame[: at % len(frame)] + bytes([value]) + frame[at % len(frame) + 1 :])[:4000]
    start = draw.draw(st.sampled_from([34, 54, 58, 62, 38]))
    for one in segment(frame, draw.draw(st.sampled_from([GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4])), size, start)[:50]:
        assert reference.wrong_checksums(one) == [] or reference.l4_of(one)[0] != start


# ---- refusals


TCP4, TCP6, UDP4 = (
    frames.tcp(B, A, *V4, DATA[:3000]),
    frames.tcp(B, A, *V6, DATA[:3000]),
    frames.udp(B, A, *V4, DATA[:3000]),
)


@pytest.mark.parametrize(
    "frame, patch, fields",
    [
        (TCP4, None, {"size": 0}),
        (TCP4, None, {"size": 65535}),
        (TCP4, None, {"gso_type": 0}),
        (TCP4, None, {"gso_type": 2}),
        (TCP4, None, {"gso_type": 3}),
        (TCP4, None, {"gso_type": GSO_TCPV6}),
        (TCP4, None, {"gso_type": GSO_UDP_L4}),
        (TCP6, None, {"gso_type": GSO_TCPV4}),
        (UDP4, None, {"gso_type": GSO_TCPV4}),
        (UDP4, None, {"gso_type": GSO_UDP_L4 | GSO_ECN}),
        (TCP4, None, {"start": 0}),
        (TCP4, None, {"start": 33}),
        (TCP4, None, {"start": 35}),
        (TCP4, None, {"start": 65535}),
        (TCP4, (16, b"\x0b\xdf"), {}),
        (TCP4, (14, b"\x4f"), {}),
        (TCP4, (14, b"\x55"), {}),
        (TCP4, (20, b"\x20\0"), {}),
        (TCP4, (20, b"\0\1"), {}),
        (TCP4, (23, b"\x2f"), {}),
        (TCP4, (46, b"\x40"), {}),
        (TCP4, (12, b"\x88\xb5"), {}),
        (TCP6, (20, b"\x2f"), {}),
        (TCP6, (14, b"\x45"), {}),
        (TCP6, (18, b"\0\0"), {}),
    ],
)
def test_headers_that_contradict_the_offload_fields_are_refused(frame, patch, fields):
    honest = {"gso_type": gso_type_of(frame), "size": 1000, "start": reference.l4_of(frame)[0]}
    assert len(cut(frame, **honest)) > 2
    if patch:
        at, value = patch
        frame = frame[:at] + value + frame[at + len(value) :]
    assert cut(frame, **{**honest, **fields}) == []


def test_the_congestion_flag_of_tcp_is_no_contradiction():
    assert cut(TCP4, 1000, gso_type=GSO_TCPV4 | GSO_ECN) == cut(TCP4, 1000)


@pytest.mark.parametrize("frame", [TCP4, TCP6, UDP4, tagged(TCP4, (C_TAG, 1), (S_TAG, 2))])
def test_a_frame_cut_off_anywhere_is_refused(frame):
    for length in range(len(frame)):
        assert segment(bytes(frame[:length]), gso_type_of(frame), 1000, reference.l4_of(frame)[0]) == []


def test_only_bytes_are_taken():
    with pytest.raises(TypeError):
        segment(None, 1, 1000, 34)
