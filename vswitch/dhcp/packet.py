# SPDX-License-Identifier: Apache-2.0
"""Ethernet, IPv4 and UDP around a DHCP payload: a client's frame read with every check, the server's frame
written whole.

In: a complete Ethernet frame without vnet header, checksums finished (what a punt carries). Out: the same. A
UDP checksum of 0 means "none" on the way in (RFC 768) and is never sent: some clients read the raw frame and
insist on a valid one. Fragments are not reassembled and VLAN tags not read: no client needs either here.
"""
from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import NamedTuple

from vswitch.dhcp.drop import Drop
from vswitch.dhcp.reply import SERVER_PORT, Reply

ETHERTYPE_IPV4, PROTOCOL_UDP = 0x0800, 17
ETHERNET_BYTES, IP_BYTES, UDP_BYTES = 14, 20, 8
HEADERS_BYTES = ETHERNET_BYTES + IP_BYTES + UDP_BYTES
TTL = 64
MORE_FRAGMENTS_AND_OFFSET = 0x3FFF

HEADERS = struct.Struct("!6s6sH" "BBHHHBBH4s4s" "HHHH")
IP_START = struct.Struct("!BBHHHBB")
PSEUDO_HEADER = struct.Struct("!4s4sxBH")


class ClientFrame(NamedTuple):
    """A client's datagram to port 67: Ethernet source, IP source and destination, UDP payload."""

    source_mac: bytes
    source: IPv4Address
    destination: IPv4Address
    payload: bytes


def checksum(data: bytes) -> int:
    """RFC 1071 Internet checksum of `data`, which over data with a correct checksum inside is 0."""
    if len(data) % 2:
        data += b"\0"
    # Adding 16-bit words with end-around carry is the remainder by 0xffff, but it gives 0 only for all zeros.
    total = int.from_bytes(data, "big")
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def parse_frame(frame: bytes) -> ClientFrame | Drop:
    """The datagram in a client's frame, or why there is none; never raises."""
    if len(frame) < HEADERS_BYTES:
        return Drop.MALFORMED
    if int.from_bytes(frame[12:14], "big") != ETHERTYPE_IPV4:
        return Drop.NOT_DHCP
    packet = frame[ETHERNET_BYTES:]
    first, _, total_bytes, _, fragment, _, protocol = IP_START.unpack_from(packet)
    header_bytes = (first & 15) * 4
    if first >> 4 != 4 or header_bytes < IP_BYTES:
        return Drop.MALFORMED
    if not header_bytes + UDP_BYTES <= total_bytes <= len(packet):
        return Drop.MALFORMED
    if checksum(packet[:header_bytes]):
        return Drop.CHECKSUM
    if protocol != PROTOCOL_UDP:
        return Drop.NOT_DHCP
    if fragment & MORE_FRAGMENTS_AND_OFFSET:
        return Drop.FRAGMENT
    payload = _parse_udp(packet[12:20], packet[header_bytes:total_bytes])
    if isinstance(payload, Drop):
        return payload
    source_mac, source, destination = frame[6:12], IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    if source_mac[0] & 1 or source.is_multicast or int(source) == 0xFFFFFFFF:
        return Drop.MALFORMED
    return ClientFrame(source_mac, source, destination, payload)


def _parse_udp(addresses: bytes, segment: bytes) -> bytes | Drop:
    """The payload of a UDP datagram to port 67; `addresses` is IP source and destination."""
    _, dport, length, check = struct.unpack_from("!HHHH", segment)
    if dport != SERVER_PORT:
        return Drop.NOT_DHCP
    if not UDP_BYTES <= length <= len(segment):
        return Drop.MALFORMED
    datagram = segment[:length]
    pseudo = PSEUDO_HEADER.pack(addresses[:4], addresses[4:], PROTOCOL_UDP, length)
    if check and checksum(pseudo + datagram):
        return Drop.CHECKSUM
    return datagram[UDP_BYTES:]


def emit_frame(reply: Reply, gateway_mac: bytes, gateway: IPv4Address) -> bytes:
    """The frame that carries an answer from the gateway to its client."""
    buffer = bytearray(HEADERS_BYTES + len(reply.payload))
    emit_frame_into(buffer, reply, gateway_mac, gateway)
    return bytes(buffer)


def emit_frame_into(buffer: bytearray, reply: Reply, gateway_mac: bytes, gateway: IPv4Address) -> int:
    """Writes the frame, every byte of it, into `buffer`; returns its length. ValueError if too short."""
    udp_bytes = UDP_BYTES + len(reply.payload)
    end = HEADERS_BYTES + len(reply.payload)
    if end > len(buffer):
        raise ValueError(f"a frame of {end} bytes doesn't fit into a buffer of {len(buffer)}")
    HEADERS.pack_into(
        buffer, 0, reply.mac, gateway_mac, ETHERTYPE_IPV4,
        0x45, 0, IP_BYTES + udp_bytes, 0, 0, TTL, PROTOCOL_UDP, 0, gateway.packed, reply.ip.packed,
        SERVER_PORT, reply.dport, udp_bytes, 0,
    )
    buffer[HEADERS_BYTES:end] = reply.payload
    struct.pack_into("!H", buffer, 24, checksum(bytes(buffer[ETHERNET_BYTES:ETHERNET_BYTES + IP_BYTES])))
    pseudo = PSEUDO_HEADER.pack(gateway.packed, reply.ip.packed, PROTOCOL_UDP, udp_bytes)
    check = checksum(pseudo + bytes(buffer[ETHERNET_BYTES + IP_BYTES:end]))
    struct.pack_into("!H", buffer, 40, check or 0xFFFF)
    return end
