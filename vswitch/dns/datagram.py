# SPDX-License-Identifier: Apache-2.0
"""A question in a frame for the gateway, and the frame that brings the answer back: Ethernet, IPv4 or IPv6, UDP.

The dataplane has checked the headers, the checksums and that the source is the asker's own before it hands such a frame
up (nat/_translate.pyx); here it is only taken apart, and what doesn't fit is None. RFC 791, 768, 8200; RFC 6935 doesn't
apply: over IPv6 the checksum is there always.
"""
from __future__ import annotations

import struct
from typing import NamedTuple

from vswitch.wire._checksum import checksum, pseudo_header_sum

PORT, UDP, HOPS = 53, 17, 64
ETHERTYPES = {4: b"\x08\x00", 16: b"\x86\xdd"}
ETHERNET = 14
UDP_HEADER = struct.Struct("!HHHH")
OVERHEAD = {4: 28, 16: 48}
"""Octets of IP and UDP header before an answer, by the length of an address."""
EXTENSIONS = frozenset({0, 43, 60})


class Origin(NamedTuple):
    """Where a question came from and to which of the gateway's addresses (4 or 16 octets)."""

    mac: bytes
    source: bytes
    sport: int
    gateway: bytes


def parse(frame: bytes) -> tuple[Origin, bytes] | None:
    """Who asks, and the message."""
    if frame[12:14] == ETHERTYPES[4]:
        at = ETHERNET + (frame[14] & 15) * 4 if len(frame) >= 42 else 0
        source, gateway = frame[26:30], frame[30:34]
    elif frame[12:14] == ETHERTYPES[16]:
        at, source, gateway = _behind_extensions(frame), frame[22:38], frame[38:54]
    else:
        return None
    if not at or at + UDP_HEADER.size > len(frame):
        return None
    sport, dport, length, _ = UDP_HEADER.unpack_from(frame, at)
    if dport != PORT or length < UDP_HEADER.size or at + length > len(frame):
        return None
    return Origin(frame[6:12], source, sport, gateway), frame[at + UDP_HEADER.size:at + length]


def _behind_extensions(frame: bytes) -> int:
    """Where the UDP header of an IPv6 packet stands; 0 for none."""
    following, at = (frame[20], ETHERNET + 40) if len(frame) >= ETHERNET + 48 else (0, len(frame))
    while following in EXTENSIONS and at + 8 <= len(frame):
        following, at = frame[at], at + (frame[at + 1] + 1) * 8
    return at if following == UDP else 0


def emit(origin: Origin, gateway_mac: bytes, message: bytes) -> bytes:
    """The frame that carries an answer from the gateway to whoever asked."""
    length = UDP_HEADER.size + len(message)
    body = UDP_HEADER.pack(PORT, origin.sport, length, 0) + message
    check = checksum(body, pseudo_header_sum(origin.gateway, origin.source, UDP, length)) or 0xFFFF
    body = body[:6] + check.to_bytes(2, "big") + message
    if len(origin.source) == 16:
        ip = struct.pack("!IHBB", 6 << 28, length, UDP, HOPS) + origin.gateway + origin.source
    else:
        ip = struct.pack("!BBHIBBH", 0x45, 0, 20 + length, 0, HOPS, UDP, 0) + origin.gateway + origin.source
        ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
    return origin.mac + gateway_mac + ETHERTYPES[len(origin.source)] + ip + body
