# SPDX-License-Identifier: Apache-2.0
"""Ethernet, IPv6 and what stands directly in it, for the control plane's few messages: read with every check,
written whole.

In and out: complete untagged frames without offload header, checksums finished. Extension headers are not read: no
message that control answers has any, and the dataplane lets none through that hides one.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address
from typing import Literal, NamedTuple

from vswitch.wire._checksum import checksum, pseudo_header_sum

ETHERTYPE_IPV6 = 0x86DD
UDP, ICMPV6 = 17, 58
ETHERNET_BYTES, IP_BYTES, UDP_BYTES = 14, 40, 8
HOP_LIMIT = 64
ND_HOP_LIMIT = 255  # RFC 4861 §7.1: anything less came through a router

Fault = Literal["malformed", "checksum", "other"]


class Packet(NamedTuple):
    """An IPv6 packet; `payload` is what stands behind its header, with a checksum that is right."""

    source_mac: bytes
    source: IPv6Address
    destination: IPv6Address
    hop_limit: int
    payload: bytes


class Datagram(NamedTuple):
    """A UDP datagram."""

    packet: Packet
    sport: int
    dport: int
    payload: bytes


def parse_packet(frame: bytes, protocol: int) -> Packet | Fault:
    """The packet in a frame if its next header is `protocol` (UDP or ICMPv6), else why not; never raises."""
    if len(frame) < ETHERNET_BYTES + IP_BYTES:
        return "malformed"
    if int.from_bytes(frame[12:14], "big") != ETHERTYPE_IPV6:
        return "other"
    first, length, next_header, hop_limit = struct.unpack_from("!BxxxHBB", frame, ETHERNET_BYTES)
    payload = frame[ETHERNET_BYTES + IP_BYTES :][:length]
    if first >> 4 != 6 or len(payload) < length or frame[6] & 1:
        return "malformed"
    if next_header != protocol:
        return "other"
    source, destination = frame[22:38], frame[38:54]
    if source[0] == 0xFF:
        return "malformed"
    if checksum(payload, pseudo_header_sum(source, destination, protocol, length)):
        return "checksum"
    return Packet(frame[6:12], IPv6Address(source), IPv6Address(destination), hop_limit, payload)


def parse_datagram(frame: bytes) -> Datagram | Fault:
    """The UDP datagram in a frame, else why there is none; never raises."""
    packet = parse_packet(frame, UDP)
    if isinstance(packet, str):
        return packet
    if len(packet.payload) < UDP_BYTES:
        return "malformed"
    sport, dport, length, check = struct.unpack_from("!HHHH", packet.payload)
    if length != len(packet.payload):
        return "malformed"
    if check == 0:  # RFC 8200 §8.1: not to be left out
        return "checksum"
    return Datagram(packet, sport, dport, packet.payload[UDP_BYTES:])


def emit_packet(
    to: bytes,
    source_mac: bytes,
    source: IPv6Address,
    destination: IPv6Address,
    protocol: int,
    message: bytes,
    *,
    checksum_at: int,
    hop_limit: int = HOP_LIMIT,
) -> bytes:
    """A frame around `message`, whose checksum field, two zero bytes at `checksum_at`, is filled in."""
    pseudo = pseudo_header_sum(source.packed, destination.packed, protocol, len(message))
    check = checksum(message, pseudo)
    if protocol == UDP and check == 0:
        check = 0xFFFF
    header = struct.pack("!IHBB", 6 << 28, len(message), protocol, hop_limit) + source.packed + destination.packed
    finished = message[:checksum_at] + check.to_bytes(2, "big") + message[checksum_at + 2 :]
    return to + source_mac + ETHERTYPE_IPV6.to_bytes(2, "big") + header + finished


def emit_datagram(
    to: bytes, source_mac: bytes, source: IPv6Address, destination: IPv6Address, sport: int, dport: int, payload: bytes
) -> bytes:
    """A frame with a UDP datagram."""
    message = struct.pack("!HHHH", sport, dport, UDP_BYTES + len(payload), 0) + payload
    return emit_packet(to, source_mac, source, destination, UDP, message, checksum_at=6)


def group_mac(group: IPv6Address) -> bytes:
    """The Ethernet group of an IPv6 group (RFC 2464 §7)."""
    return b"\x33\x33" + group.packed[12:]


def labels(name: str) -> bytes:
    """A domain name as DNS writes it, uncompressed (RFC 1035 §3.1); ValueError if it is none."""
    try:
        parts = name.removesuffix(".").encode("ascii").split(b".")
    except UnicodeEncodeError:
        raise ValueError(f"'{name}' is not a domain name: write it in its ASCII form (xn--…)") from None
    if not all(1 <= len(part) <= 63 for part in parts) or sum(map(len, parts)) + len(parts) > 254:
        raise ValueError(f"'{name}' is not a domain name: labels have 1 to 63 bytes, names at most 253")
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
