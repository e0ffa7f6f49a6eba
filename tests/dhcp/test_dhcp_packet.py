# SPDX-License-Identifier: Apache-2.0
"""Frames around DHCP payloads: every check on the way in, every byte on the way out."""
from __future__ import annotations

import struct
from ipaddress import IPv4Address

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_dhcp import GATEWAY, MAC, discover, ip

from vswitch.dhcp.drop import Drop
from vswitch.dhcp.message import MessageType
from vswitch.dhcp.packet import ClientFrame, checksum, emit_frame, emit_frame_into, parse_frame
from vswitch.dhcp.reply import Reply

GATEWAY_MAC = bytes.fromhex("0242ac110001")
REPLY = Reply(MessageType.ACK, b"payload", ip("172.17.0.9"), MAC)


def plain_checksum(data: bytes) -> int:
    """RFC 1071 §4.1, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at:at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def client_frame(
    payload: bytes = b"hello", *, source: str = "0.0.0.0", destination: str = "255.255.255.255",
    dport: int = 67, protocol: int = 17, fragment: int = 0, options: bytes = b"",
    udp_length: int | None = None, total_length: int | None = None, ethertype: int = 0x0800,
    mac: bytes = MAC, version: int = 4, udp_check: int | None = None, ip_check: int | None = None,
    trailer: bytes = b"",
) -> bytes:
    """A client's frame with right checksums, unless a keyword makes it wrong."""
    src, dst = ip(source).packed, ip(destination).packed
    length = 8 + len(payload) if udp_length is None else udp_length
    pseudo = src + dst + struct.pack("!BBH", 0, 17, length)
    segment = struct.pack("!HHHH", 68, dport, length, 0) + payload
    check = (plain_checksum(pseudo + segment[:length]) or 0xFFFF) if udp_check is None else udp_check
    segment = segment[:6] + check.to_bytes(2, "big") + segment[8:]
    total = 20 + len(options) + len(segment) if total_length is None else total_length
    first = version << 4 | 5 + len(options) // 4
    header = struct.pack("!BBHHHBBH4s4s", first, 0x10, total, 7, fragment, 64, protocol, 0, src, dst)
    header += options
    check = plain_checksum(header) if ip_check is None else ip_check
    header = header[:10] + check.to_bytes(2, "big") + header[12:]
    return b"\xff" * 6 + mac + ethertype.to_bytes(2, "big") + header + segment + trailer


def test_a_clients_frame_gives_its_addresses_and_payload():
    frame = client_frame(discover(), source="172.17.0.9", destination="172.17.0.1")
    assert parse_frame(frame) == ClientFrame(MAC, ip("172.17.0.9"), GATEWAY, discover())


FORGIVEN = {
    "no UDP checksum": client_frame(udp_check=0),
    "IP options": client_frame(options=b"\x94\x04\0\0"),
    "Ethernet padding after the packet": client_frame(trailer=b"\xa5" * 13),
    "don't fragment": client_frame(fragment=0x4000),
    "room after the UDP datagram": client_frame(b"hello!!", udp_length=13),
}


@pytest.mark.parametrize("name", FORGIVEN)
def test_what_is_unusual_but_right_is_read(name):
    parsed = parse_frame(FORGIVEN[name])
    assert isinstance(parsed, ClientFrame) and parsed.payload == b"hello"


WRONG = {
    "nothing": (b"", Drop.MALFORMED),
    "runt": (client_frame()[:41], Drop.MALFORMED),
    "IPv6": (client_frame(ethertype=0x86DD), Drop.NOT_DHCP),
    "VLAN tag": (client_frame(ethertype=0x8100), Drop.NOT_DHCP),
    "TCP": (client_frame(protocol=6), Drop.NOT_DHCP),
    "to a client's port": (client_frame(dport=68), Drop.NOT_DHCP),
    "IP version 5": (client_frame(version=5), Drop.MALFORMED),
    "IP header shorter than 20": (client_frame().replace(b"\x45\x10", b"\x44\x10"), Drop.MALFORMED),
    "IP header longer than the packet": (client_frame().replace(b"\x45\x10", b"\x4f\x10"), Drop.MALFORMED),
    "IP length past the frame": (client_frame(total_length=34), Drop.MALFORMED),
    "IP length without room for UDP": (client_frame(total_length=27), Drop.MALFORMED),
    "truncated": (client_frame(discover())[:-1], Drop.MALFORMED),
    "UDP length past the packet": (client_frame(udp_length=14), Drop.MALFORMED),
    "UDP length below its header": (client_frame(udp_length=7), Drop.MALFORMED),
    "wrong IP checksum": (client_frame(ip_check=0x1234), Drop.CHECKSUM),
    "wrong UDP checksum": (client_frame(udp_check=0x1234), Drop.CHECKSUM),
    "unfinished UDP checksum": (
        client_frame(udp_check=0xFFFF ^ plain_checksum(bytes(4) + b"\xff" * 4 + b"\0\x11\0\x0d")),
        Drop.CHECKSUM),
    "first fragment": (client_frame(fragment=0x2000), Drop.FRAGMENT),
    "later fragment": (client_frame(fragment=0x0001), Drop.FRAGMENT),
    "from a multicast station": (client_frame(mac=b"\x01" + MAC[1:]), Drop.MALFORMED),
    "from a multicast address": (client_frame(source="224.0.0.1"), Drop.MALFORMED),
    "from everybody": (client_frame(source="255.255.255.255"), Drop.MALFORMED),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_frame_is_a_reason(name):
    frame, reason = WRONG[name]
    assert parse_frame(frame) is reason


def test_the_servers_frame_is_exactly_this():
    assert emit_frame(REPLY, GATEWAY_MAC, GATEWAY).hex() == (
        "0242ac110009" "0242ac110001" "0800"
        "4500" "0023" "0000" "0000" "4011" "229e" "ac110001" "ac110009"
        "0043" "0044" "000f" "e9ec" "7061796c6f6164"
    )


def test_every_byte_of_the_frame_is_written_and_none_after_it():
    frames = []
    for fill in (b"\xa5", b"\x5a"):
        buffer = bytearray(fill * 60)
        length = emit_frame_into(buffer, REPLY, GATEWAY_MAC, GATEWAY)
        assert buffer[length:] == fill * (60 - length)
        frames.append(bytes(buffer[:length]))
    assert frames[0] == frames[1] == emit_frame(REPLY, GATEWAY_MAC, GATEWAY)


def test_a_buffer_that_is_too_short_for_the_frame_is_refused():
    with pytest.raises(ValueError, match="a frame of 49 bytes doesn't fit into a buffer of 48"):
        emit_frame_into(bytearray(48), REPLY, GATEWAY_MAC, GATEWAY)


def test_a_udp_checksum_of_zero_is_sent_as_all_ones():
    check = int.from_bytes(emit_frame(REPLY._replace(payload=b"\0\0"), GATEWAY_MAC, GATEWAY)[40:42], "big")
    frame = emit_frame(REPLY._replace(payload=check.to_bytes(2, "big")), GATEWAY_MAC, GATEWAY)
    assert frame[40:42] == b"\xff\xff"


addresses = st.integers(0, 2**32 - 1).map(IPv4Address)


@settings(deadline=None)
@given(st.binary(max_size=600), addresses, addresses, st.sampled_from([67, 68]))
def test_another_parser_finds_the_frame_right(payload, gateway, target, dport):
    reply = Reply(MessageType.ACK, payload, target, MAC, dport)
    frame = dpkt.ethernet.Ethernet(emit_frame(reply, GATEWAY_MAC, gateway))
    packet, segment = frame.data, frame.data.data
    assert (frame.dst, frame.src, packet.src, packet.dst) == (MAC, GATEWAY_MAC, gateway.packed, target.packed)
    assert (segment.sport, segment.dport, segment.ulen) == (67, dport, 8 + len(payload))
    assert bytes(segment.data) == payload
    assert plain_checksum(bytes(packet)[:20]) == 0
    assert segment.sum != 0
    pseudo = packet.src + packet.dst + struct.pack("!BBH", 0, 17, segment.ulen)
    assert plain_checksum(pseudo + bytes(packet)[20:]) == 0


@settings(deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda data: data * 20) | st.just(bytes(64)))
def test_the_checksum_is_that_of_a_plain_loop(data):
    assert checksum(data) == plain_checksum(data)


@settings(deadline=None)
@given(st.binary(max_size=120) | st.binary(max_size=80).map(lambda tail: client_frame()[:30] + tail))
def test_any_bytes_give_a_datagram_or_a_reason(frame):
    assert isinstance(parse_frame(frame), ClientFrame | Drop)


@settings(deadline=None)
@given(st.integers(0, 299), st.integers(1, 255))
def test_one_changed_byte_of_the_datagram_never_passes_for_the_right_one(at, change):
    frame = bytearray(client_frame(discover(), source="172.17.0.9", destination="172.17.0.1"))
    frame[42 + at] ^= change
    assert parse_frame(bytes(frame)) is Drop.CHECKSUM
