# SPDX-License-Identifier: Apache-2.0
"""Frames for tests: built with dpkt, shown decoded when an assertion fails."""

from __future__ import annotations

import ipaddress
import struct

import dpkt
import reference

BROADCAST = b"\xff" * 6
ALL_NODES = bytes.fromhex("333300000001")
NO_MAC = b"\0" * 6
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
LOCAL_EXPERIMENTAL = 0x88B5  # an EtherType for what no host understands (IEEE 802)
ICMP, TCP, UDP, FRAGMENT, ICMPV6 = 1, 6, 17, 44, 58
C_TAG, S_TAG = 0x8100, 0x88A8
NEEDS_CSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 4, 5, 0x80


class Frame(bytes):
    """Bytes that read as a frame."""

    def __repr__(self) -> str:
        return f"<{describe(self)} | {len(self)} bytes: {self[:96].hex()}{'…' if len(self) > 96 else ''}>"


def describe(frame: bytes) -> str:
    """One line about a frame, whatever it holds."""
    try:
        decoded = dpkt.ethernet.Ethernet(frame)
        line = f"{decoded.src.hex(':')} > {decoded.dst.hex(':')} {decoded.type:#06x}"
        tags = [str(tag.id) for tag in getattr(decoded, "vlan_tags", [])]
        wrong = reference.wrong_checksums(frame)
        return " ".join(
            [
                line,
                *(["vlan " + ".".join(tags)] if tags else []),
                layers(decoded.data),
                *(["WRONG CHECKSUM: " + ", ".join(wrong)] if wrong else []),
            ]
        )
    except Exception as error:  # any bytes at all may be shown
        return f"undecodable ({error!r})"


def layers(packet: object) -> str:
    """What dpkt found inside, outermost first, with the fields that aren't at their defaults."""
    if isinstance(packet, (bytes, bytearray)):
        return f"{len(packet)} bytes" if packet else ""
    fields = ", ".join(
        f"{name}={shown(getattr(packet, name))}" for name in packet.__hdr_fields__ if getattr(packet, name, None)
    )
    return f"{type(packet).__name__}({fields}) {layers(packet.data)}".strip()


def shown(value: object) -> str:
    if isinstance(value, bytes):
        return str(ipaddress.ip_address(value)) if len(value) in (4, 16) else value.hex(":")
    return str(value)


def mac(number: int) -> bytes:
    """02:00:00:nn:nn:nn, a locally administered unicast address."""
    return b"\x02\0" + number.to_bytes(4, "big")


def ip(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def ethernet(
    to: bytes, source: bytes, ethertype: int, payload: bytes = b"", *, tags: tuple[tuple[int, int], ...] = ()
) -> Frame:
    """An Ethernet frame; `tags` are (TPID, VLAN id), outermost first."""
    stack = b"".join(struct.pack(">HH", tpid, vid) for tpid, vid in tags)
    return Frame(to + source + stack + struct.pack(">H", ethertype) + bytes(payload))


def tagged(frame: bytes, *tags: tuple[int, int]) -> Frame:
    """`frame` with VLAN tags put in."""
    return Frame(frame[:12] + b"".join(struct.pack(">HH", tpid, vid) for tpid, vid in tags) + frame[12:])


def experimental(to: bytes, source: bytes, payload: bytes = b"hello") -> Frame:
    """A frame that means nothing to anyone: it is only carried."""
    return ethernet(to, source, LOCAL_EXPERIMENTAL, payload)


def arp(
    op: int,
    *,
    sha: bytes,
    spa: str,
    tpa: str,
    tha: bytes = NO_MAC,
    to: bytes = BROADCAST,
    source: bytes | None = None,
) -> Frame:
    """An ARP packet (RFC 826); its Ethernet source is its sha unless given."""
    packet = dpkt.arp.ARP(op=op, sha=sha, spa=ip(spa), tha=tha, tpa=ip(tpa))
    return ethernet(to, sha if source is None else source, ARP, bytes(packet))


def who_has(asker: bytes, spa: str, tpa: str, **fields) -> Frame:
    return arp(1, sha=asker, spa=spa, tpa=tpa, **fields)


def is_at(sha: bytes, spa: str, tpa: str, **fields) -> Frame:
    return arp(2, sha=sha, spa=spa, tpa=tpa, **fields)


def ipv4(
    to: bytes,
    source: bytes,
    src: str,
    dst: str,
    protocol: int,
    payload: bytes,
    *,
    id: int = 1,
    offset: int = 0,
    more: bool = False,
    ttl: int = 64,
    options: bytes = b"",
) -> Frame:
    """An IPv4 packet (RFC 791) with a right header checksum; `offset` in bytes, a multiple of 8."""
    header = bytearray(
        struct.pack(
            ">BBHHHBBH4s4s",
            0x45 + len(options) // 4,
            0,
            20 + len(options) + len(payload),
            id,
            offset // 8 | (0x2000 if more else 0),
            ttl,
            protocol,
            0,
            ip(src),
            ip(dst),
        )
        + options
    )
    struct.pack_into(">H", header, 10, reference.internet_checksum(bytes(header)))
    return ethernet(to, source, IPV4, bytes(header) + payload)


def ipv6(
    to: bytes, source: bytes, src: str, dst: str, next_header: int, payload: bytes, *, hop_limit: int = 64
) -> Frame:
    """An IPv6 packet (RFC 8200)."""
    return ethernet(
        to,
        source,
        IPV6,
        struct.pack(">IHBB", 6 << 28, len(payload), next_header, hop_limit) + ip(src) + ip(dst) + payload,
    )


def packet(to: bytes, source: bytes, src: str, dst: str, protocol: int, l4: bytes, **fields) -> Frame:
    """An IP packet of the family of its addresses, with a right TCP, UDP or ICMPv6 checksum."""
    build = ipv4 if len(ip(src)) == 4 else ipv6
    return Frame(reference.finished(build(to, source, src, dst, protocol, l4, **fields)))


def udp(
    to: bytes,
    source: bytes,
    src: str,
    dst: str,
    payload: bytes = b"",
    *,
    sport: int = 40000,
    dport: int = 4000,
    **fields,
) -> Frame:
    datagram = struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload
    return packet(to, source, src, dst, UDP, datagram, **fields)


def tcp(
    to: bytes,
    source: bytes,
    src: str,
    dst: str,
    payload: bytes = b"",
    *,
    flags: int = 0x10,
    seq: int = 1000,
    ack: int = 2000,
    options: bytes = b"",
    sport: int = 40000,
    dport: int = 80,
    **fields,
) -> Frame:
    header = struct.pack(">HHIIBBHHH", sport, dport, seq, ack, (5 + len(options) // 4) << 4, flags, 64240, 0, 0)
    return packet(to, source, src, dst, TCP, header + options + payload, **fields)


def echo(
    to: bytes,
    source: bytes,
    src: str,
    dst: str,
    payload: bytes = b"ping",
    *,
    id: int = 7,
    seq: int = 1,
    reply: bool = False,
    **fields,
) -> Frame:
    """An echo request or reply (RFC 792, RFC 4443) of the family of its addresses, with a right checksum."""
    if len(ip(src)) == 16:
        message = struct.pack(">BBHHH", 129 if reply else 128, 0, 0, id, seq) + payload
        return packet(to, source, src, dst, ICMPV6, message, **fields)
    message = bytes(dpkt.icmp.ICMP(type=0 if reply else 8, data=dpkt.icmp.ICMP.Echo(id=id, seq=seq, data=payload)))
    return ipv4(to, source, src, dst, ICMP, message, **fields)


def option(kind: int, lladdr: bytes) -> bytes:
    """A link-layer address option of neighbour discovery: kind 1 is the source's, 2 the target's."""
    return struct.pack(">BB", kind, 1) + lladdr


def group_of(address: str) -> str:
    """The solicited-node group of an address (RFC 4291 section 2.7.1)."""
    return str(ipaddress.ip_address(ip("ff02::1:ff00:0")[:13] + ip(address)[13:]))


def group_mac(group: str) -> bytes:
    """The Ethernet group of an IPv6 group (RFC 2464 section 7)."""
    return b"\x33\x33" + ip(group)[12:]


def solicitation(
    asker: bytes,
    src: str,
    target: str,
    *,
    options: bytes | None = None,
    to: bytes | None = None,
    dst: str | None = None,
    hop_limit: int = 255,
    code: int = 0,
) -> Frame:
    """A neighbour solicitation (RFC 4861 section 4.3); from :: it carries no option, as a probe must not."""
    if options is None:
        options = b"" if src == "::" else option(1, asker)
    group = group_of(target) if dst is None else dst
    message = struct.pack(">BBHI", 135, code, 0, 0) + ip(target) + options
    return packet(group_mac(group) if to is None else to, asker, src, group, ICMPV6, message, hop_limit=hop_limit)


def advertisement(
    sender: bytes,
    src: str,
    target: str,
    *,
    options: bytes | None = None,
    to: bytes = ALL_NODES,
    dst: str = "ff02::1",
    flags: int = 0x20,
    hop_limit: int = 255,
) -> Frame:
    """A neighbour advertisement (RFC 4861 section 4.4)."""
    message = (
        struct.pack(">BBHBxxx", 136, 0, 0, flags) + ip(target) + (option(2, sender) if options is None else options)
    )
    return packet(to, sender, src, dst, ICMPV6, message, hop_limit=hop_limit)


def dhcp(
    client: bytes,
    *,
    to: bytes = BROADCAST,
    src: str = "0.0.0.0",
    dst: str = "255.255.255.255",
    xid: int = 1,
    padding: int = 0,
    **fields,
) -> Frame:
    """A DHCPDISCOVER (RFC 2131)."""
    message = bytes(dpkt.dhcp.DHCP(chaddr=client, xid=xid, opts=((dpkt.dhcp.DHCP_OPT_MSGTYPE, b"\x01"),)))
    return udp(to, client, src, dst, message + bytes(padding), sport=68, dport=67, **fields)


def vnet(
    flags: int = 0,
    gso_type: int = 0,
    hdr_len: int = 0,
    gso_size: int = 0,
    csum_start: int = 0,
    csum_offset: int = 0,
    num_buffers: int = 0,
) -> bytes:
    """A virtio_net_hdr_v1 (virtio 1.2 section 5.1.6), little endian."""
    return struct.pack("<BBHHHHH", flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers)


def offload_header(frame: bytes, gso_type: int = 0, gso_size: int = 0, **fields) -> bytes:
    """The virtio header of an unfinished frame, as a kernel writes it."""
    l4, _, protocol, _, _ = reference.l4_of(frame)
    header = 8 if protocol == UDP else (frame[l4 + 12] >> 4) * 4
    values = {
        "flags": NEEDS_CSUM,
        "gso_type": gso_type,
        "hdr_len": l4 + header if gso_type else 0,
        "gso_size": gso_size,
        "csum_start": l4,
        "csum_offset": reference.CHECKSUM_AT[protocol],
    }
    return vnet(**{**values, **fields})


def gso_type_of(frame: bytes) -> int:
    """The super-frame type that fits a TCP or UDP frame."""
    _, _, protocol, source, _ = reference.l4_of(frame)
    return GSO_UDP_L4 if protocol == UDP else GSO_TCPV4 if len(source) == 4 else GSO_TCPV6
