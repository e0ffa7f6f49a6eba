# SPDX-License-Identifier: Apache-2.0
"""Frames that tell a network who has an address now, sent once when an endpoint comes up.

Neighbours that remember the address's last owner would otherwise send there until their entry ages (RFC 5227
§3, RFC 4861 §7.2.6). The dataplane answers questions by itself; these are the only ARP and ND frames that
Python makes.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from vswitch.wire._checksum import checksum, pseudo_header_sum

BROADCAST = b"\xff" * 6
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")
ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0806, 0x86DD
ICMPV6, NEIGHBOUR_ADVERTISEMENT, OVERRIDE, TARGET_LINK_LAYER = 58, 136, 0x20, 2
ND_HOP_LIMIT = 255  # RFC 4861 §7.1: anything less came through a router and is ignored


def gratuitous_arp(mac: bytes, address: IPv4Address) -> bytes:
    """A request for the sender's own address to everybody (RFC 5227 §3: spa = tpa); a complete frame."""
    ethernet = BROADCAST + mac + struct.pack("!H", ETHERTYPE_ARP)
    return ethernet + struct.pack(
        "!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, address.packed, bytes(6), address.packed
    )


def unsolicited_advertisement(mac: bytes, address: IPv6Address) -> bytes:
    """A neighbour advertisement to all nodes (RFC 4861 §7.2.6: override, not solicited); a complete frame."""
    option = struct.pack("!BB6s", TARGET_LINK_LAYER, 1, mac)
    body = struct.pack("!BBHB3x16s", NEIGHBOUR_ADVERTISEMENT, 0, 0, OVERRIDE, address.packed) + option
    pseudo = pseudo_header_sum(address.packed, ALL_NODES.packed, ICMPV6, len(body))
    body = body[:2] + struct.pack("!H", checksum(body, pseudo)) + body[4:]
    ip = struct.pack(
        "!IHBB16s16s", 6 << 28, len(body), ICMPV6, ND_HOP_LIMIT, address.packed, ALL_NODES.packed
    )
    return ALL_NODES_MAC + mac + struct.pack("!H", ETHERTYPE_IPV6) + ip + body
