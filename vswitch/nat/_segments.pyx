# SPDX-License-Identifier: Apache-2.0
"""TCP segments for containers (RFC 9293 section 3.1): data, acknowledgements, SYN with its options, FIN and reset.

Enters: a flow and what to say. Leaves: a packet through emit(), a super-frame where the payload is longer than the container's MSS. The
window that goes with each segment is what _stream granted last: its right edge never moves left (RFC 9293 section 3.8.6.2.1).
"""
from libc.string cimport memcpy, memset

from vswitch.nat._emit cimport emit
from vswitch.nat._nat cimport EMIT_ROOM, Outgoing
from vswitch.wire._bytes cimport read16, read32, write16, write32

cdef enum:
    HOP_LIMIT = 64
    MAX_SCALE = 14          # RFC 7323 section 2.3
    TCP = 6


cdef void read_syn(const uint8_t *tcp, uint32_t header_bytes, bint ipv6, Syn *syn) noexcept nogil:
    """The options of a SYN; malformed ones end the list (RFC 9293 section 3.1, RFC 7323 section 2.2)."""
    cdef uint32_t at = 20, size
    syn.mss, syn.scale, syn.scales = 1220 if ipv6 else DEFAULT_MSS, 0, 0
    while at < header_bytes and tcp[at] != 0:
        if tcp[at] == 1:
            at += 1
            continue
        size = tcp[at + 1] if at + 1 < header_bytes else 0
        if size < 2 or at + size > header_bytes:
            return
        if tcp[at] == 2 and size == 4:
            syn.mss = <uint16_t>read16(tcp + at + 2)
        elif tcp[at] == 3 and size == 3:
            syn.scale = tcp[at + 2] if tcp[at + 2] < MAX_SCALE else MAX_SCALE
            syn.scales = 1
        at += size


cdef uint32_t announced(Flow *flow, bint syn) noexcept nogil:
    """The window field: what lies between rcv_nxt and the edge, which moves right by what rounding up gives away. A SYN's is not scaled."""
    cdef uint32_t window = flow.tcp.rcv_edge - flow.tcp.rcv_nxt
    cdef uint32_t units
    if <int32_t>window < 0:
        window = 0
    if syn:
        return window if window < 65535 else 65535
    units = (window + (<uint32_t>1 << flow.tcp.own_scale) - 1) >> flow.tcp.own_scale
    if units > 65535:
        return 65535
    flow.tcp.rcv_edge = flow.tcp.rcv_nxt + (units << flow.tcp.own_scale)
    return units


cdef void fill(Flow *flow, uint8_t *tcp, uint32_t seq, uint8_t flags, uint32_t header_bytes) noexcept nogil:
    """The header of a segment to the flow's container; from here on the container knows rcv_nxt."""
    write16(tcp, flow.outside_port)
    write16(tcp + 2, flow.inside_port)
    write32(tcp + 4, seq)
    write32(tcp + 8, flow.tcp.rcv_nxt if flags & TCP_ACK else 0)
    tcp[12] = <uint8_t>(header_bytes // 4 << 4)
    tcp[13] = flags
    write16(tcp + 14, announced(flow, flags & TCP_SYN))
    write32(tcp + 16, 0)


cdef void deliver(Switch *sw, Port *port, Flow *flow, uint8_t *tcp, uint32_t bytes, uint16_t gso_size) noexcept nogil:
    cdef Outgoing out
    memset(&out, 0, sizeof(Outgoing))
    out.l4, out.l4_bytes, out.protocol, out.ipv6, out.ttl = tcp, bytes, TCP, flow.ipv6, HOP_LIMIT
    out.source, out.destination, out.mac, out.gso_size = flow.outside, flow.inside, flow.mac, gso_size
    flow.in_packets += 1
    emit(sw, port, &out)


cdef void send_data(Switch *sw, Port *port, Flow *flow, uint8_t *l4, uint32_t seq, uint32_t bytes, uint8_t flags) noexcept nogil:
    """`bytes` of the stream from `seq` on, which stand at l4 + 20, with EMIT_ROOM of room before l4."""
    fill(flow, l4, seq, TCP_ACK | flags, 20)
    flow.tcp.acknowledged = flow.tcp.rcv_nxt
    fit_network(sw, flow)
    deliver(sw, port, flow, l4, 20 + bytes, flow.tcp.mss if bytes > flow.tcp.mss else 0)


cdef inline void fit_network(const Switch *sw, Flow *flow) noexcept nogil:
    """A network's MTU may have been lowered since the connection began: its segments follow."""
    cdef uint32_t most = sw.networks[flow.network].mtu - (60 if flow.ipv6 else 40)
    if flow.tcp.mss > most:
        flow.tcp.mss = <uint16_t>max(most, <uint32_t>MIN_MSS)


cdef void send_control(Switch *sw, Port *port, Flow *flow, uint8_t flags, uint32_t seq) noexcept nogil:
    """A segment without payload: acknowledgement, FIN, probe."""
    send_data(sw, port, flow, sw.nat.tx + EMIT_ROOM, seq, 0, flags)


cdef void send_syn(Switch *sw, Port *port, Flow *flow, bint acknowledges) noexcept nogil:
    """SYN, or SYN-ACK: our MSS is what the network's MTU allows; the window scale is offered to whoever offers one."""
    cdef uint8_t *tcp = sw.nat.tx + EMIT_ROOM
    cdef bint scales = flow.tcp.own_scale or not acknowledges
    cdef uint32_t size = 28 if scales else 24
    cdef uint32_t mtu = sw.networks[flow.network].mtu
    fill(flow, tcp, flow.tcp.snd_una, TCP_SYN | (TCP_ACK if acknowledges else 0), size)
    tcp[20], tcp[21] = 2, 4
    write16(tcp + 22, mtu - (60 if flow.ipv6 else 40))
    if scales:
        tcp[24], tcp[25], tcp[26], tcp[27] = 1, 3, 3, OWN_SCALE
    flow.tcp.acknowledged = flow.tcp.rcv_nxt
    deliver(sw, port, flow, tcp, size, 0)


cdef void send_reset(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """Ends the container's side of a connection at once; where it has no sequence number of ours yet, as the answer to its SYN."""
    cdef uint8_t *tcp = sw.nat.tx + EMIT_ROOM
    fill(flow, tcp, flow.tcp.snd_max, TCP_RST | TCP_ACK, 20)
    deliver(sw, port, flow, tcp, 20, 0)


cdef void refuse_segment(Switch *sw, Port *port, const Packet *packet) noexcept nogil:
    """A reset for a segment that belongs to no connection (RFC 9293 section 3.5.2); never one for a reset."""
    cdef const uint8_t *tcp = packet.l4
    cdef uint8_t *reply = sw.nat.tx + EMIT_ROOM
    cdef Outgoing out
    cdef uint32_t taken
    if tcp[13] & TCP_RST:
        return
    memset(reply, 0, 20)
    write16(reply, packet.dport)
    write16(reply + 2, packet.sport)
    reply[12] = 0x50
    if tcp[13] & TCP_ACK:
        memcpy(reply + 4, tcp + 8, 4)
        reply[13] = TCP_RST
    else:
        taken = packet.l4_bytes - (tcp[12] >> 4) * 4 + (1 if tcp[13] & TCP_SYN else 0) + (1 if tcp[13] & TCP_FIN else 0)
        write32(reply + 8, read32(tcp + 4) + taken)
        reply[13] = TCP_RST | TCP_ACK
    memset(&out, 0, sizeof(Outgoing))
    out.l4, out.l4_bytes, out.protocol, out.ipv6, out.ttl = reply, 20, TCP, packet.ipv6, HOP_LIMIT
    out.source, out.destination, out.mac = packet.outside, packet.inside, packet.mac
    emit(sw, port, &out)
