# SPDX-License-Identifier: Apache-2.0
"""Packets for containers: what the translators have to say gets its IP and Ethernet header here, and what went wrong its ICMP
error.

Enters: an L4 header and its payload with EMIT_ROOM bytes of room before them. Leaves: one frame through transmit(), which
is where a receiver without offloads gets its checksum finished or its segments cut. The headers are written into the room,
so the payload is never copied. TCP and UDP leave with the pseudo header's sum in the checksum field (virtio NEEDS_CSUM):
the container's kernel takes that as it is, and nobody ever sums the payload.

Too long for the network's MTU and not a super-frame: the packet is fragmented (RFC 791 section 3.2, RFC 8200 section 4.5),
its checksum finished before. A fragment's headers are written over the end of the fragment before it, which has left by
then, so this needs no copy either; it does consume the caller's bytes. A UDP super-frame whose datagrams are longer than
the MTU is taken apart the same way first. TCP is never fragmented: its segments are of the container's own MSS.

IPv4: TCP has DF set and no identification (RFC 6864 section 4.1); everything else has DF clear and counts, because we can't
know what the sender wanted, and a router beyond the container may fragment it.

ICMP errors follow RFC 1122 section 3.2.2, RFC 1812 section 4.3.2 and RFC 4443 section 2.4: never about an ICMP error, a
group, or a fragment other than the first; as much quoted as makes 576 or 1280 bytes; from the gateway's address, or from
that of the router beyond that complained, so that traceroute shows the real path. Each container has an allowance of them
(RFC 4443 section 2.4 (f)): packets that can't be answered cost their sender nothing, and must not cost us a frame each.
"""
from libc.errno cimport (
    EACCES, EADDRNOTAVAIL, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EPERM,
)
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from vswitch._fastpath cimport Frame, Network, transmit
from vswitch.datapath._bucket cimport take
from vswitch.nat._nat cimport EMIT_ROOM
from vswitch.wire._bytes cimport read16, store16, write16, write32
from vswitch.wire._checksum cimport complement, fold, pseudo_sum, sum_bytes
from vswitch.wire._vnet cimport GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_BYTES, VNET_NEEDS_CSUM, VnetHeader

cdef enum:
    ETHERNET = 14
    ICMP = 1
    TCP = 6
    UDP = 17
    FRAGMENT = 44
    ICMPV6 = 58
    HOP_LIMIT = 64
    QUOTED4 = 548           # bytes of the offending packet in an ICMPv4 error: 576 altogether (RFC 1812 section 4.3.2.3)
    QUOTED6 = 1232          # and in an ICMPv6 error: 1280 altogether (RFC 4443 section 2.4)
    NO_OPTIONS4 = 20
    NO_OPTIONS6 = 40


# ---- packets


cdef void emit(Switch *sw, Port *port, const Outgoing *out) noexcept nogil:
    """Sends one packet or super-frame to a container; overwrites the room before out.l4, and what is too long for the MTU."""
    cdef uint32_t header = NO_OPTIONS6 if out.ipv6 else NO_OPTIONS4
    cdef uint32_t mtu = sw.networks[port.network].mtu
    cdef uint32_t l4_header = (out.l4[12] >> 4) * 4 if out.protocol == TCP else 8
    cdef bint gso = out.gso_size and out.l4_bytes > l4_header + out.gso_size
    if port.gone or out.l4_bytes + (0 if out.ipv6 else header) > 0xFFFF:
        return
    if out.protocol != TCP and gso and header + 8 + out.gso_size > mtu:
        emit_datagrams(sw, port, out)
    elif out.protocol != TCP and not gso and header + out.l4_bytes > mtu:
        emit_fragments(sw, port, out, mtu)
    else:
        emit_whole(sw, port, out, gso, l4_header)


cdef void emit_whole(Switch *sw, Port *port, const Outgoing *out, bint gso, uint32_t l4_header) noexcept nogil:
    """A packet or super-frame in one frame."""
    cdef Frame frame
    cdef uint32_t segments = 1
    if gso:
        segments = (out.l4_bytes - l4_header + out.gso_size - 1) // out.gso_size
    open_frame(sw, port, out, &frame, out.l4, out.l4_bytes, 0)
    write_ip(sw, out, out.l4, out.l4_bytes, segments)
    if not out.complete:
        leave_checksum(out, frame.vnet)
    if gso:
        frame.vnet.gso_type = GSO_UDP_L4 if out.protocol == UDP else GSO_TCPV6 if out.ipv6 else GSO_TCPV4
        frame.vnet.gso_size = out.gso_size
        frame.vnet.hdr_len = <uint16_t>(frame.vnet.csum_start + l4_header)
        frame.segments = segments
        frame.wire_bytes += (segments - 1) * frame.vnet.hdr_len
    transmit(sw, port, port, &frame)


cdef void open_frame(Switch *sw, Port *port, const Outgoing *out, Frame *frame, uint8_t *payload, uint32_t length,
                     uint32_t extension) noexcept nogil:
    """A frame around `length` bytes of IP payload, without offloads; `extension` bytes of IPv6 header stand between."""
    cdef Network *network = sw.networks[port.network]
    frame.l3 = ETHERNET
    frame.data = payload - (NO_OPTIONS6 if out.ipv6 else NO_OPTIONS4) - extension - ETHERNET
    frame.length = frame.wire_bytes = <uint32_t>(payload - frame.data) + length
    frame.ethertype = 0x86DD if out.ipv6 else 0x0800
    frame.tags = 0
    frame.vnet = <VnetHeader *>(frame.data - VNET_BYTES)
    frame.segments = 1
    frame.finished = NULL
    frame.packet_id = 0
    memset(frame.vnet, 0, VNET_BYTES)
    memcpy(frame.data, out.mac, 6)
    memcpy(frame.data + 6, network.gateway_mac, 6)
    write16(frame.data + 12, frame.ethertype)


cdef void write_ip(Switch *sw, const Outgoing *out, uint8_t *payload, uint32_t length, uint32_t identifications) noexcept nogil:
    """The IP header before `payload`; a packet that may be fragmented takes so many identifications."""
    cdef uint8_t *ip = payload - (NO_OPTIONS6 if out.ipv6 else NO_OPTIONS4)
    if out.ipv6:
        write32(ip, <uint32_t>6 << 28 | <uint32_t>out.tos << 20)
        write16(ip + 4, length)
        ip[6], ip[7] = out.protocol, out.ttl
        memcpy(ip + 8, out.source, 16)
        memcpy(ip + 24, out.destination, 16)
        return
    ip[0], ip[1] = 0x45, out.tos
    write16(ip + 2, 20 + length)
    if out.protocol == TCP:
        write32(ip + 4, 0x4000)
    else:
        write32(ip + 4, <uint32_t>sw.nat.identification << 16)
        sw.nat.identification += <uint16_t>identifications
    ip[8], ip[9] = out.ttl, out.protocol
    store16(ip + 10, 0)
    memcpy(ip + 12, out.source + 12, 4)
    memcpy(ip + 16, out.destination + 12, 4)
    store16(ip + 10, complement(sum_bytes(ip, 20, 0)))


cdef inline uint64_t pseudo(const Outgoing *out) noexcept nogil:
    """Running total of the pseudo header; addresses sum up alike wherever they stand."""
    cdef uint32_t size = 16 if out.ipv6 else 4
    return (pseudo_sum(out.source + 16 - size, size, out.protocol, out.l4_bytes)
            + sum_bytes(out.destination + 16 - size, size, 0))


cdef void leave_checksum(const Outgoing *out, VnetHeader *vnet) noexcept nogil:
    """Leaves the TCP or UDP checksum to the receiver."""
    vnet.flags = VNET_NEEDS_CSUM
    vnet.csum_start = ETHERNET + (NO_OPTIONS6 if out.ipv6 else NO_OPTIONS4)
    vnet.csum_offset = 16 if out.protocol == TCP else 6
    store16(out.l4 + vnet.csum_offset, fold(pseudo(out)))


cdef void finish_udp(const Outgoing *out) noexcept nogil:
    """Completes the UDP checksum, where 0 would mean none."""
    cdef uint16_t checksum
    store16(out.l4 + 6, 0)
    checksum = complement(sum_bytes(out.l4, out.l4_bytes, pseudo(out)))
    store16(out.l4 + 6, checksum if checksum else 0xFFFF)


# ---- what is longer than the MTU


cdef void emit_datagrams(Switch *sw, Port *port, const Outgoing *out) noexcept nogil:
    """A UDP super-frame of datagrams that don't fit the MTU: one after the other, each with its header before its payload."""
    cdef Outgoing one = out[0]
    cdef uint8_t header[8]
    cdef uint32_t at = 8, payload
    memcpy(header, out.l4, 8)
    one.gso_size = 0
    while at < out.l4_bytes:
        payload = out.l4_bytes - at if out.l4_bytes - at < out.gso_size else out.gso_size
        one.l4 = out.l4 + at - 8
        one.l4_bytes = 8 + payload
        memcpy(one.l4, header, 8)
        write16(one.l4 + 4, 8 + payload)
        emit(sw, port, &one)
        at += payload


cdef void emit_fragments(Switch *sw, Port *port, const Outgoing *out, uint32_t mtu) noexcept nogil:
    """A packet in fragments; headers go over the end of the fragment that left before."""
    cdef uint32_t room = (mtu - (NO_OPTIONS6 + 8 if out.ipv6 else NO_OPTIONS4)) & ~<uint32_t>7
    cdef uint16_t identification = sw.nat.identification
    cdef uint32_t at = 0, length
    if out.protocol == UDP and not out.complete:
        finish_udp(out)
    while at < out.l4_bytes:
        length = out.l4_bytes - at if out.l4_bytes - at < room else room
        emit_fragment(sw, port, out, at, length, identification)
        at += length
    sw.nat.identification = identification + 1


cdef void emit_fragment(Switch *sw, Port *port, const Outgoing *out, uint32_t at, uint32_t length,
                        uint16_t identification) noexcept nogil:
    """The fragment of `length` bytes that starts at byte `at` of the payload."""
    cdef uint8_t *payload = out.l4 + at
    cdef uint8_t *extension = payload - 8
    cdef uint8_t *ip = payload - NO_OPTIONS4
    cdef bint more = at + length < out.l4_bytes
    cdef Outgoing part = out[0]
    cdef Frame frame
    open_frame(sw, port, out, &frame, payload, length, 8 if out.ipv6 else 0)
    if out.ipv6:
        part.protocol = FRAGMENT
        write_ip(sw, &part, extension, length + 8, 0)
        extension[0], extension[1] = out.protocol, 0
        write16(extension + 2, at | more)
        write32(extension + 4, identification)
    else:
        write_ip(sw, out, payload, length, 0)
        write16(ip + 4, identification)
        write16(ip + 6, at >> 3 | (0x2000 if more else 0))
        store16(ip + 10, 0)
        store16(ip + 10, complement(sum_bytes(ip, 20, 0)))
    transmit(sw, port, port, &frame)


# ---- errors


cdef void complain_packet(Switch *sw, Port *port, const Packet *packet, uint8_t kind, uint8_t code, uint32_t info) noexcept nogil:
    """An ICMP error from the gateway about the packet at hand; `info` is the MTU where the kind has one."""
    cdef uint32_t limit = QUOTED6 if packet.ipv6 else QUOTED4
    cdef uint32_t quoted = packet.total if packet.total < limit else limit
    cdef uint8_t *out = sw.reply + EMIT_ROOM
    if not may_complain(packet) or not take(&port.share.complaints, sw.now_ns, COMPLAINT_BURST, COMPLAINTS_PER_S):
        return
    memcpy(out + 8, packet.ip, quoted)
    send_error(sw, port, packet.ipv6, packet.inside, packet.mac, NULL, kind, code, info, quoted)


cdef bint may_complain(const Packet *packet) noexcept nogil:
    """Whether an error is allowed about it: sender and receiver are single hosts, it is no error and no later fragment."""
    cdef const uint8_t *ip = packet.ip
    cdef const uint8_t *l4 = ip + packet.ip_bytes
    cdef uint32_t l4_bytes = packet.total - packet.ip_bytes
    if packet.ipv6:
        if ip[8] == 0xFF or ip[24] == 0xFF or (ip[6] == FRAGMENT and read16(ip + 42) & 0xFFF8):
            return False
        return packet.protocol != ICMPV6 or (l4_bytes >= 8 and l4[0] >= 128)
    if read16(ip + 6) & 0x1FFF or ip[12] == 0 or ip[12] == 127 or ip[12] >= 224 or ip[16] >= 224:
        return False
    return packet.protocol != ICMP or (l4_bytes >= 8 and (l4[0] == 8 or l4[0] == 0 or l4[0] == 13 or l4[0] == 14))


cdef void complain_flow(Switch *sw, Port *port, const Flow *flow, const uint8_t *offender, uint8_t kind, uint8_t code,
                        uint32_t info, const uint8_t *l4, uint32_t l4_bytes) noexcept nogil:
    """The same about an earlier packet of a flow, of which there is the L4 header and perhaps some payload; from `offender`, or
    for NULL from the gateway. Where the gateway's address stands for the host, it is the host that complains."""
    cdef uint32_t header = NO_OPTIONS6 if flow.ipv6 else NO_OPTIONS4
    cdef uint32_t limit = (QUOTED6 if flow.ipv6 else QUOTED4) - header
    cdef uint32_t quoted = l4_bytes if l4_bytes < limit else limit
    cdef uint8_t *out = sw.reply + EMIT_ROOM
    cdef uint32_t length = l4_bytes
    if quoted < 8 or not take(&port.share.complaints, sw.now_ns, COMPLAINT_BURST, COMPLAINTS_PER_S):
        return
    if flow.protocol == UDP and read16(l4 + 4) > length:
        length = read16(l4 + 4)
    if memcmp(flow.outside, flow.target, 16) != 0:
        offender = <const uint8_t *>flow.outside
    write_quote(out + 8, flow, 1 if kind == (3 if flow.ipv6 else 11) else HOP_LIMIT - 1, length)
    memcpy(out + 8 + header, l4, quoted)
    send_error(sw, port, flow.ipv6, flow.inside, flow.mac, offender, kind, code, info, header + quoted)


cdef void write_quote(uint8_t *out, const Flow *flow, uint8_t ttl, uint32_t length) noexcept nogil:
    """The IP header that a packet of the flow had when it failed."""
    if flow.ipv6:
        write32(out, <uint32_t>6 << 28)
        write16(out + 4, length)
        out[6], out[7] = flow.protocol, ttl
        memcpy(out + 8, flow.inside, 16)
        memcpy(out + 24, flow.outside, 16)
        return
    memset(out, 0, 20)
    out[0], out[6], out[8], out[9] = 0x45, 0x40, ttl, flow.protocol
    write16(out + 2, 20 + length)
    memcpy(out + 12, flow.inside + 12, 4)
    memcpy(out + 16, flow.outside + 12, 4)
    store16(out + 10, complement(sum_bytes(out, 20, 0)))


cdef void send_error(Switch *sw, Port *port, bint ipv6, const uint8_t *to, const uint8_t *mac, const uint8_t *offender,
                     uint8_t kind, uint8_t code, uint32_t info, uint32_t quoted) noexcept nogil:
    """An ICMP error whose quotation stands in the reply buffer already."""
    cdef uint8_t *message = sw.reply + EMIT_ROOM
    cdef uint8_t gateway[16]
    cdef Outgoing out
    if offender == NULL:
        if not gateway_address(sw, port.network, ipv6, gateway):
            return
        offender = gateway
    out.l4, out.l4_bytes = message, 8 + quoted
    out.mac = mac
    out.protocol, out.ipv6, out.ttl, out.tos = ICMPV6 if ipv6 else ICMP, ipv6, HOP_LIMIT, 0
    out.source = offender
    out.destination = to
    out.gso_size, out.complete = 0, True
    message[0], message[1] = kind, code
    store16(message + 2, 0)
    write32(message + 4, info)
    store16(message + 2, complement(sum_bytes(message, out.l4_bytes, pseudo(&out) if ipv6 else 0)))
    emit(sw, port, &out)


cdef bint gateway_address(Switch *sw, uint16_t number, bint ipv6, uint8_t *out) noexcept nogil:
    """In whose name the gateway complains: its first address of that family, or for IPv6 the link-local one that it always has
    (fe80::/64 with its MAC's modified EUI-64, RFC 4291 appendix A). False where it has none."""
    cdef const Network *network = sw.networks[number]
    memset(out, 0, 16)
    if not ipv6:
        out[10], out[11] = 0xFF, 0xFF
        memcpy(out + 12, network.gateway4, 4)
        return network.gateway4[0] != 0
    if network.gateway6[0]:
        memcpy(out, network.gateway6, 16)
        return True
    out[0], out[1] = 0xFE, 0x80
    memcpy(out + 8, network.gateway_mac, 3)
    out[8] ^= 2
    out[11], out[12] = 0xFF, 0xFE
    memcpy(out + 13, network.gateway_mac + 3, 3)
    return True


cdef bint complain_errno(Switch *sw, Port *port, const Flow *flow, int error, const uint8_t *l4,
                         uint32_t l4_bytes) noexcept nogil:
    """What a router would say of a packet that connect() or sendto() failed with `error` for; False when it would say nothing."""
    cdef uint8_t code4, code6
    if error == ENETUNREACH or error == ENETDOWN or error == EADDRNOTAVAIL or error == ENONET:
        code4, code6 = 0, 0
    elif error == EHOSTUNREACH or error == EHOSTDOWN:
        code4, code6 = 1, 3
    elif error == EACCES or error == EPERM:
        code4, code6 = 13, 1
    elif error == ECONNREFUSED and flow.protocol == UDP:
        code4, code6 = 3, 4
    elif error == ENOPROTOOPT:
        code4, code6 = 2, 4
    else:
        return False
    complain_flow(sw, port, flow, NULL, 1 if flow.ipv6 else 3, code6 if flow.ipv6 else code4, 0, l4, l4_bytes)
    return True
