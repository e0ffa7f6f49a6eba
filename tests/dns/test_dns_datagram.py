# SPDX-License-Identifier: Apache-2.0
"""Questions in frames for the gateway, and the frames with their answers; dpkt is the oracle."""

from __future__ import annotations

import dpkt
import frames
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from vswitch.dns.datagram import OVERHEAD, Origin, emit, parse

GATEWAY_MAC, MAC = bytes.fromhex("0242ac110001"), bytes.fromhex("0242ac110002")
ENDS = {4: ("172.17.0.2", "172.17.0.1"), 6: ("fd00::2", "fd00::1")}
BOTH = pytest.mark.parametrize("version", [4, 6])


def question(version: int, message: bytes, **fields) -> bytes:
    return frames.udp(GATEWAY_MAC, MAC, *ENDS[version], message, sport=4000, dport=fields.pop("dport", 53), **fields)


@BOTH
def test_a_question_is_taken_out_of_its_frame(version):
    source, gateway = map(frames.ip, ENDS[version])
    assert parse(question(version, b"hello") + b"padding") == (Origin(MAC, source, 4000, gateway), b"hello")


def test_ip_options_and_extension_headers_are_passed_over():
    plain = question(4, b"hello")
    with_option = plain[:14] + b"\x46" + plain[15:34] + b"\x01\x01\x01\x00" + plain[34:]
    assert parse(with_option) == parse(plain)
    plain = question(6, b"hello")
    hop_by_hop = plain[:20] + b"\x00" + plain[21:54] + b"\x11\x00" + bytes(6) + plain[54:]
    assert parse(hop_by_hop) == parse(plain)


@BOTH
def test_what_is_no_question_is_none(version):
    whole = question(version, b"hello")
    header = 34 if version == 4 else 54
    assert parse(question(version, b"hello", dport=54)) is None
    for length in range(header + 8):
        assert parse(whole[:length]) is None
    assert parse(whole[: header + 4] + b"\0\7" + whole[header + 6 :]) is None  # a UDP length below its header's
    assert parse(whole[: header + 4] + b"\0\xff" + whole[header + 6 :]) is None  # beyond the frame
    assert parse(b"\0" * 12 + b"\x08\x06" + whole[14:]) is None


@given(st.binary(max_size=200), st.sampled_from([b"\x08\x00", b"\x86\xdd"]))
def test_any_bytes_are_a_question_or_none(rest, ethertype):
    parse(MAC + GATEWAY_MAC + ethertype + rest)


@BOTH
@pytest.mark.parametrize("size", [0, 1, 12, 511, 1232])
def test_the_answer_comes_from_the_address_and_port_that_was_asked(version, size):
    origin, _ = parse(question(version, b"hello"))
    frame = emit(origin, GATEWAY_MAC, bytes(range(256))[: size % 256] + bytes(size - size % 256))
    assert reference.wrong_checksums(frame) == [] and len(frame) == 14 + OVERHEAD[len(origin.source)] + size
    packet = dpkt.ethernet.Ethernet(frame)
    ip = packet.data
    assert (packet.dst, packet.src) == (MAC, GATEWAY_MAC)
    assert (ip.src, ip.dst) == (origin.gateway, origin.source)
    assert (ip.data.sport, ip.data.dport, ip.data.ulen) == (53, 4000, 8 + size)


@BOTH
def test_a_sum_of_zero_is_sent_as_all_ones(version):
    origin, _ = parse(question(version, b"hello"))
    for number in range(65536):
        frame = emit(origin, GATEWAY_MAC, number.to_bytes(2, "big"))
        at = 14 + OVERHEAD[len(origin.source)] - 2
        assert frame[at : at + 2] != b"\0\0"
        if frame[at : at + 2] == b"\xff\xff":
            break
    else:
        raise AssertionError("no message of two octets sums up to zero")
