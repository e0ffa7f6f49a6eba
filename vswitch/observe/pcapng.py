# SPDX-License-Identifier: Apache-2.0
"""The rare blocks of pcapng (draft-ietf-opsawg-pcapng): section header, interface description, statistics.

The blocks that carry packets are written by _pcapng.pyx. Both use the machine's own byte order, as the
byte-order magic says. Every interface description has the same link type and the same snaplen, because
libpcap refuses a file where they differ, and a time resolution of 1 ns. Strings are UTF-8 and not terminated;
options end with an end-of-options one.
"""
from __future__ import annotations

import ipaddress
import struct

LINKTYPE_ETHERNET = 1
STATISTICS_BYTES = 76  # of one interface_statistics block

SECTION_HEADER, INTERFACE_DESCRIPTION, INTERFACE_STATISTICS = 0x0A0D0D0A, 1, 5
COMMENT, VERDICT = 1, 7
SHB_HARDWARE, SHB_OS, SHB_APPLICATION = 2, 3, 4
IF_NAME, IF_DESCRIPTION, IF_IPV4, IF_IPV6, IF_MAC, IF_TSRESOL = 2, 3, 4, 5, 6, 9
ISB_START, ISB_END, ISB_RECEIVED, ISB_DROPPED = 2, 3, 4, 5
VERDICT_OPAQUE = 0


def section_header(*, hardware: str, system: str, application: str) -> bytes:
    """Section Header Block (section 4.1) of a section whose length isn't known beforehand."""
    texts = ((SHB_HARDWARE, hardware), (SHB_OS, system), (SHB_APPLICATION, application))
    body = struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)
    return block(SECTION_HEADER, body + options((code, text.encode()) for code, text in texts))


def interface_description(
    name: str,
    *,
    snaplen: int,
    mac: bytes | None = None,
    addresses: tuple[str, ...] = (),
    description: str = "",
) -> bytes:
    """Interface Description Block (section 4.2); ValueError unless addresses read as "172.17.0.2/16"."""
    found: list[tuple[int, bytes]] = [(IF_NAME, name.encode())]
    if description:
        found.append((IF_DESCRIPTION, description.encode()))
    found += [address_option(address) for address in addresses]
    if mac is not None:
        if len(mac) != 6:
            raise ValueError(f"a MAC has 6 bytes, not {len(mac)}: {mac.hex(':')}")
        found.append((IF_MAC, mac))
    found.append((IF_TSRESOL, b"\x09"))
    return block(INTERFACE_DESCRIPTION, struct.pack("=HHI", LINKTYPE_ETHERNET, 0, snaplen) + options(found))


def address_option(address: str) -> tuple[int, bytes]:
    """if_IPv4addr (address and mask) or if_IPv6addr (address and prefix length)."""
    interface = ipaddress.ip_interface(address)
    if interface.version == 4:
        return IF_IPV4, interface.packed + interface.netmask.packed
    return IF_IPV6, interface.packed + bytes([interface.network.prefixlen])


def interface_statistics(interface: int, *, start_ns: int, end_ns: int, received: int, dropped: int) -> bytes:
    """Interface Statistics Block (section 4.6); `received` includes what was `dropped`."""
    found = [
        (ISB_START, timestamp(start_ns)),
        (ISB_END, timestamp(end_ns)),
        (ISB_RECEIVED, struct.pack("=Q", received)),
        (ISB_DROPPED, struct.pack("=Q", dropped)),
    ]
    return block(INTERFACE_STATISTICS, struct.pack("=I", interface) + timestamp(end_ns) + options(found))


def drop_note(reason: str) -> bytes:
    """The options that a dropped packet's block carries: an opaque epb_verdict, and a comment for people."""
    text = f"drop:{reason}".encode()
    comment = f"drop: {reason}".encode()
    return option(VERDICT, bytes([VERDICT_OPAQUE]) + text) + option(COMMENT, comment)


def timestamp(time_ns: int) -> bytes:
    """Two 32-bit words, the high one first whatever the byte order."""
    return struct.pack("=II", time_ns >> 32, time_ns & 0xFFFFFFFF)


def options(found) -> bytes:
    """A list of (code, value), ended."""
    return b"".join(option(code, value) for code, value in found) + struct.pack("=HH", 0, 0)


def option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(kind: int, body: bytes) -> bytes:
    """A block around `body`, whose length is a multiple of 4."""
    total = struct.pack("=I", 12 + len(body))
    return struct.pack("=I", kind) + total + body + total
