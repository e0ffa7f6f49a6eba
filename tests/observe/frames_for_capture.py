# SPDX-License-Identifier: Apache-2.0
"""Frames as a kernel with offloads hands them over: in place of a checksum the pseudo header's sum."""
from __future__ import annotations

import ipaddress
import struct

MAC_A, MAC_B = bytes.fromhex("0242ac110002"), bytes.fromhex("0242ac110003")
TCP, UDP = 6, 17
CSUM_OFFSET = {TCP: 16, UDP: 6}


def internet_sum(data: bytes) -> int:
    """The folded one's-complement sum (RFC 1071), the slow and obvious way."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def offloaded(
    protocol: int, payload: bytes, *, source="172.17.0.2", destination="172.17.0.3", tag=b""
) -> bytes:
    """A TCP segment or UDP datagram over IPv4 or IPv6 with an unfinished checksum; `tag` is a VLAN tag."""
    from_, to = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
    header_bytes = {TCP: 20, UDP: 8}[protocol]
    length = header_bytes + len(payload)
    pseudo = internet_sum(from_ + to + struct.pack(">IHBB", length, 0, 0, protocol))
    if protocol == TCP:
        l4 = struct.pack(">HHIIBBHHH", 40000, 80, 1, 1, 5 << 4, 0x10, 64240, pseudo, 0)
    else:
        l4 = struct.pack(">HHHH", 40000, 54321, length, pseudo)
    return MAC_B + MAC_A + tag + ip_header(from_, to, protocol, length) + l4 + payload


def ip_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """EtherType and a complete IP header for `length` bytes of L4."""
    if len(source) == 16:
        return b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, length, protocol, 64) + source + destination
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 1, 0x4000, 64, protocol, 0) + source + destination
    checksum = internet_sum(header) ^ 0xFFFF
    return b"\x08\x00" + header[:10] + struct.pack(">H", checksum) + header[12:]


def csum_start(frame: bytes) -> int:
    """Where L4 begins, as the vnet header would say."""
    at = 12
    while frame[at : at + 2] == b"\x81\x00":
        at += 4
    return at + 2 + (40 if frame[at : at + 2] == b"\x86\xdd" else 20)


def l4_sum_is_right(frame: bytes) -> bool:
    """Whether the L4 checksum fits addresses, protocol and bytes: what every receiver and analyser checks."""
    start = csum_start(frame)
    v6 = frame[start - 40 - 2 : start - 40] == b"\x86\xdd"
    addresses = frame[start - 32 : start] if v6 else frame[start - 8 : start]
    protocol = frame[start - 34] if v6 else frame[start - 11]
    pseudo = addresses + struct.pack(">IHBB", len(frame) - start, 0, 0, protocol)
    return internet_sum(pseudo + frame[start:]) == 0xFFFF
