# SPDX-License-Identifier: Apache-2.0
"""A DHCP client's frames, made by dpkt."""

from __future__ import annotations

import dpkt

DISCOVER, REQUEST, OFFER, ACK, NAK = 1, 3, 2, 5, 6


def question(kind: int, mac: bytes, *, wanted: bytes | None = None, server: bytes | None = None) -> bytes:
    """A client's frame."""
    options = [(53, bytes([kind])), (55, bytes([1, 3, 6, 26]))]
    options += [(50, wanted)] if wanted else []
    options += [(54, server)] if server else []
    message = dpkt.dhcp.DHCP(op=1, xid=7, chaddr=mac, opts=options)
    udp = dpkt.udp.UDP(sport=68, dport=67, data=bytes(message))
    udp.ulen = len(udp)
    ip = dpkt.ip.IP(src=bytes(4), dst=b"\xff" * 4, p=17, data=udp)
    ip.len = len(ip)
    return bytes(dpkt.ethernet.Ethernet(dst=b"\xff" * 6, src=mac, type=0x0800, data=ip))
