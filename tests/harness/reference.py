# SPDX-License-Identifier: Apache-2.0
"""The slow and obvious way to do what the dataplane's compiled code does: checksums and segmentation, from
the RFCs."""

from __future__ import annotations

import struct

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMPV6: 2}
FIN_PSH, CWR = 0x09, 0x80


def internet_sum(data: bytes) -> int:
    """RFC 1071: the folded one's-complement sum of the big-endian words of `data`."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def internet_checksum(data: bytes) -> int:
    """RFC 1071: the complement of the sum."""
    return internet_sum(data) ^ 0xFFFF


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """RFC 9293 section 3.1 for 4-byte addresses, RFC 8200 section 8.1 for 16-byte ones."""
    if len(source) == 4:
        return source + destination + struct.pack(">BBH", 0, protocol, length)
    return source + destination + struct.pack(">IHBB", length, 0, 0, protocol)


def l3_of(frame: bytes) -> tuple[int, int]:
    """(offset of what the innermost tag or the Ethernet header carries, its EtherType)."""
    at = 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    return at + 2, int.from_bytes(frame[at : at + 2], "big")


def l4_of(frame: bytes) -> tuple[int, int, int, bytes, bytes] | None:
    """(offset, length, protocol, source, destination) of the L4 part of an unfragmented IP packet; None for
    anything else."""
    at, ethertype = l3_of(frame)
    if ethertype == 0x0800:
        header = (frame[at] & 15) * 4
        total, fragment = (
            int.from_bytes(frame[at + 2 : at + 4], "big"),
            int.from_bytes(frame[at + 6 : at + 8], "big"),
        )
        if fragment & 0x3FFF:
            return None
        return at + header, total - header, frame[at + 9], frame[at + 12 : at + 16], frame[at + 16 : at + 20]
    if ethertype == 0x86DD:
        size = int.from_bytes(frame[at + 4 : at + 6], "big")
        return at + 40, size, frame[at + 6], frame[at + 8 : at + 24], frame[at + 24 : at + 40]
    return None


def wrong_checksums(frame: bytes) -> list[str]:
    """Names of the checksums in `frame` that don't fit it."""
    wrong = []
    at, ethertype = l3_of(frame)
    if ethertype == 0x0800 and internet_sum(frame[at : at + (frame[at] & 15) * 4]) != 0xFFFF:
        wrong.append("ipv4 header")
    found = l4_of(frame)
    if found is None:
        return wrong
    l4, length, protocol, source, destination = found
    covered = frame[l4 : l4 + length]
    if protocol == ICMP and internet_sum(covered) != 0xFFFF:
        wrong.append("icmp")
    if protocol in CHECKSUM_AT:
        field = covered[CHECKSUM_AT[protocol] :][:2]
        if protocol == UDP and field == b"\0\0" and len(source) == 4:
            return wrong
        if internet_sum(pseudo_header(source, destination, protocol, length) + covered) != 0xFFFF:
            wrong.append(f"protocol {protocol}")
    return wrong


def finished(frame: bytes) -> bytes:
    """`frame` with a right L4 checksum, whatever stood there."""
    l4, length, protocol, source, destination = l4_of(frame)
    field = l4 + CHECKSUM_AT[protocol]
    bare = frame[:field] + b"\0\0" + frame[field + 2 :]
    checksum = internet_checksum(pseudo_header(source, destination, protocol, length) + bare[l4 : l4 + length])
    if protocol == UDP and checksum == 0:
        checksum = 0xFFFF
    return frame[:field] + struct.pack(">H", checksum) + frame[field + 2 :]


def unfinished(frame: bytes) -> bytes:
    """`frame` as a kernel hands it to an offloading device: the pseudo header's sum in place of the L4
    checksum."""
    l4, length, protocol, source, destination = l4_of(frame)
    field = l4 + CHECKSUM_AT[protocol]
    total = internet_sum(pseudo_header(source, destination, protocol, length))
    return frame[:field] + struct.pack(">H", total) + frame[field + 2 :]


def segments(frame: bytes, size: int) -> list[bytes]:
    """The frames that a super-frame of an unfragmented TCP or UDP packet stands for, `size` payload bytes
    each."""
    l3, _ = l3_of(frame)
    l4, length, protocol, _, _ = l4_of(frame)
    header = l4 + (8 if protocol == UDP else (frame[l4 + 12] >> 4) * 4)
    payload = frame[header : l4 + length]
    chunks = [payload[at : at + size] for at in range(0, len(payload), size)]
    return [
        one_segment(frame[:header], chunk, l3, l4, protocol, number, number * size, number == len(chunks) - 1)
        for number, chunk in enumerate(chunks)
    ]


def one_segment(
    headers: bytes, chunk: bytes, l3: int, l4: int, protocol: int, number: int, offset: int, last: bool
) -> bytes:
    """One of the frames: lengths, identification, sequence number, flags and checksums its own."""
    out = bytearray(headers)
    if headers[l3] >> 4 == 4:
        struct.pack_into(">H", out, l3 + 2, len(headers) - l3 + len(chunk))
        struct.pack_into(">H", out, l3 + 4, (int.from_bytes(headers[l3 + 4 : l3 + 6], "big") + number) & 0xFFFF)
        struct.pack_into(">H", out, l3 + 10, 0)
        struct.pack_into(">H", out, l3 + 10, internet_checksum(bytes(out[l3:l4])))
    else:
        struct.pack_into(">H", out, l3 + 4, len(headers) - l3 - 40 + len(chunk))
    if protocol == UDP:
        struct.pack_into(">H", out, l4 + 4, 8 + len(chunk))
    else:
        struct.pack_into(">I", out, l4 + 4, (int.from_bytes(headers[l4 + 4 : l4 + 8], "big") + offset) & 0xFFFFFFFF)
        out[l4 + 13] &= ~((0 if last else FIN_PSH) | (CWR if number else 0)) & 0xFF
    return finished(bytes(out) + chunk)
