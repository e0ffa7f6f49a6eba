# SPDX-License-Identifier: Apache-2.0
"""The TCP translator: a container's connection on one side, a host socket on the other, and one stream of bytes each way.

There is no TCP stack here. The host's side is the kernel's; towards the container this is a peer that has no buffers of its own: sequence
numbers map straight onto the socket's stream (_stream.pyx), so what is acknowledged is what the socket took, and what is retransmitted
is what the socket still has. Rooms: this one reads segments and decides (RFC 9293 section 3.10), _connection opens and ends, _service does what is due after a burst, a
host socket's event or a timer, _segments writes, _stream moves bytes, _dialer connects and closes.

States (TcpState) and what may happen in them:

    CONNECTING    SYN repeated: ignored. Host connected → SYN_RECEIVED; refused → reset; unreachable → the ICMP error; silence → the
                  container's own timeout. Beware: there is a flow but perhaps no socket yet
    SYN_RECEIVED  SYN repeated → SYN-ACK again; its acknowledgement → ESTABLISHED
    SYN_SENT      a published port's client waits; SYN-ACK → ESTABLISHED; reset → the client is reset; no answer → the same
    ESTABLISHED   data both ways; each direction ends by itself (FIN_IN, FIN_OUT), the flow ends when both have and both are acknowledged
    TIME_WAIT     only where our FIN went first; a repeated FIN is acknowledged, a new SYN starts afresh (RFC 6191 in spirit)

A reset counts only if it is exactly the next byte; anything else suspicious inside the window is answered by an acknowledgement (RFC 5961).
Out-of-order data is dropped with a duplicate acknowledgement and SACK is not offered: between a container and us frames are hardly ever
lost. Losses towards the container are repaired by the third duplicate acknowledgement (RFC 5681 section 3.2, one frame per partial
acknowledgement as in RFC 6582) and by timeout (RFC 6298, exponential backoff). There is no congestion window, since there is no path between
us and the container that could be congested.
"""
from libc.stdint cimport int32_t
from libc.string cimport memcpy

from vswitch.datapath._drops cimport Drop
from vswitch.nat._connection cimport establish, new_flow, serve_locally, tcp_abort, tcp_end
from vswitch.nat._conntrack cimport FLOW_OUT, flow_find, flow_touch
from vswitch.nat._dialer cimport dial
from vswitch.nat._report cimport report_opened
from vswitch.nat._segments cimport (
    MIN_MSS, OWN_SCALE, Syn, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, read_syn, refuse_segment, send_control, send_syn,
)
from vswitch.nat._service cimport arm, touch
from vswitch.nat._stream cimport LARGEST, finish_sending, resend, take
from vswitch.wire._bytes cimport read16, read32

cdef enum:
    TCP = 6
    MIN_RTO_US = 200000     # as Linux: delayed acknowledgements come within 40 ms


cdef inline bint before(uint32_t a, uint32_t b) noexcept nogil:
    """Whether sequence number a comes before b (RFC 9293 section 3.4)."""
    return <int32_t>(a - b) < 0


cdef int tcp_out(Switch *sw, Port *port, const Packet *packet) noexcept nogil:
    """A segment from a container; why it died, 0 if it didn't."""
    cdef const uint8_t *tcp = packet.l4
    cdef uint8_t flags = tcp[13]
    cdef Flow *flow = flow_find(&sw.nat.conntrack, port.network, TCP, packet.inside, packet.sport, packet.outside, packet.dport)
    if flow != NULL and flow.port != port.index:
        return Drop.IP_SPOOF
    if flow != NULL and flow.tcp.state == TIME_WAIT and flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN and before(flow.tcp.rcv_nxt, read32(tcp + 4)):
        tcp_end(sw, port, flow, False)
        flow = NULL
    if flow == NULL:
        if flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN) == TCP_SYN:
            return open_out(sw, port, packet)
        refuse_segment(sw, port, packet)
        return Drop.NAT_NO_FLOW
    flow.seen_ns = sw.now_ns
    flow.out_packets += 1
    flow_touch(&sw.nat.conntrack, &port.share, flow)
    if flow.tcp.state == CONNECTING:
        return waiting(sw, port, flow, packet)
    if flow.tcp.state == SYN_SENT:
        return answered(sw, port, flow, packet)
    if flow.tcp.state == TIME_WAIT:
        return lingering(sw, port, flow, packet)
    return segment(sw, port, flow, packet)


cdef int open_out(Switch *sw, Port *port, const Packet *packet) noexcept nogil:
    """A container opens a connection: the host is asked first, the container hears what came of it."""
    cdef Flow *flow = new_flow(sw, port, packet.inside, packet.sport, packet.outside, packet.dport)
    cdef Syn syn
    if flow == NULL:
        refuse_segment(sw, port, packet)
        return Drop.NAT_FULL
    read_syn(packet.l4, (packet.l4[12] >> 4) * 4, packet.ipv6, &syn)
    flow.direction, flow.ipv6 = FLOW_OUT, packet.ipv6
    memcpy(flow.target, packet.target, 16)
    memcpy(flow.mac, packet.mac, 6)
    flow.tcp.state = CONNECTING
    flow.tcp.irs = read32(packet.l4 + 4)
    flow.tcp.rcv_nxt = flow.tcp.irs + 1
    heed_syn(sw, flow, &syn, read16(packet.l4 + 14))
    flow.tcp.own_scale = OWN_SCALE if syn.scales else 0
    arm(sw, flow, True)
    report_opened(sw, flow)
    if packet.service:
        serve_locally(sw, port, flow)
    else:
        dial(sw, port, flow)
    return 0


cdef void heed_syn(Switch *sw, Flow *flow, const Syn *syn, uint32_t window) noexcept nogil:
    """What the container's SYN says about it: MSS within the network's MTU (and room for a minimum), scale, first window."""
    cdef uint32_t most = sw.networks[flow.network].mtu - (60 if flow.ipv6 else 40)
    flow.tcp.mss = <uint16_t>max(min(<uint32_t>syn.mss, most, <uint32_t>LARGEST), <uint32_t>MIN_MSS)
    flow.tcp.peer_scale = syn.scale
    flow.tcp.snd_window = window
    flow.tcp.window_seq = flow.tcp.rcv_nxt
    flow.tcp.window_ack = flow.tcp.snd_una
    flow.tcp.acknowledged = flow.tcp.rcv_nxt
    flow.tcp.rcv_edge = flow.tcp.rcv_nxt + 65535


cdef int waiting(Switch *sw, Port *port, Flow *flow, const Packet *packet) noexcept nogil:
    """CONNECTING: the container asks again, or gives up."""
    cdef uint32_t seq = read32(packet.l4 + 4)
    if packet.l4[13] & TCP_RST:
        if seq == flow.tcp.rcv_nxt or seq == flow.tcp.irs:
            tcp_end(sw, port, flow, True)
            return 0
        return Drop.NAT_OUT_OF_WINDOW
    if packet.l4[13] & TCP_SYN and seq != flow.tcp.irs:
        flow.tcp.irs = seq
        flow.tcp.rcv_nxt = flow.tcp.acknowledged = flow.tcp.window_seq = seq + 1
        flow.tcp.rcv_edge = seq + 1 + 65535
    return 0


cdef int answered(Switch *sw, Port *port, Flow *flow, const Packet *packet) noexcept nogil:
    """SYN_SENT (RFC 9293 section 3.10.7.3): what the container says to a client's connection."""
    cdef const uint8_t *tcp = packet.l4
    cdef uint8_t flags = tcp[13]
    cdef bint acceptable = flags & TCP_ACK and read32(tcp + 8) == flow.tcp.snd_nxt
    cdef Syn syn
    if flags & TCP_ACK and not acceptable:
        refuse_segment(sw, port, packet)
        return Drop.NAT_OUT_OF_WINDOW
    if flags & TCP_RST:
        if not acceptable:
            return Drop.NAT_OUT_OF_WINDOW
        tcp_end(sw, port, flow, True)
        return 0
    if not flags & TCP_SYN:
        return Drop.NAT_OUT_OF_WINDOW
    read_syn(tcp, (tcp[12] >> 4) * 4, packet.ipv6, &syn)
    flow.tcp.irs = read32(tcp + 4)
    flow.tcp.rcv_nxt = flow.tcp.irs + 1
    flow.tcp.own_scale = OWN_SCALE if syn.scales else 0
    if not acceptable:
        heed_syn(sw, flow, &syn, read16(tcp + 14))
        flow.tcp.state = SYN_RECEIVED
        send_syn(sw, port, flow, True)
        return 0
    flow.tcp.snd_una = flow.tcp.snd_nxt
    heed_syn(sw, flow, &syn, read16(tcp + 14))
    establish(sw, port, flow)
    flow.tcp.marks |= ACK_NOW
    touch(sw, flow)
    return 0


cdef int lingering(Switch *sw, Port *port, Flow *flow, const Packet *packet) noexcept nogil:
    """TIME_WAIT: the container may have missed our last acknowledgement."""
    if packet.l4[13] & TCP_RST:
        if read32(packet.l4 + 4) == flow.tcp.rcv_nxt:
            tcp_end(sw, port, flow, False)
        return 0
    if packet.l4[13] & (TCP_FIN | TCP_SYN) or packet.l4_bytes > (packet.l4[12] >> 4) * 4:
        send_control(sw, port, flow, 0, flow.tcp.snd_max)
    return 0


cdef int segment(Switch *sw, Port *port, Flow *flow, const Packet *packet) noexcept nogil:
    """SYN_RECEIVED and ESTABLISHED (RFC 9293 section 3.10.7.4): sequence number, reset, SYN, acknowledgement, payload, FIN, in this order."""
    cdef const uint8_t *tcp = packet.l4
    cdef uint32_t seq = read32(tcp + 4), header = (tcp[12] >> 4) * 4, bytes = packet.l4_bytes - header, skip
    cdef uint8_t flags = tcp[13]
    cdef int verdict
    if flow.tcp.state == SYN_RECEIVED and flags & TCP_SYN and seq == flow.tcp.irs:
        if flags & (TCP_ACK | TCP_RST) == TCP_ACK and read32(tcp + 8) == flow.tcp.snd_max:
            return opened_at_once(sw, port, flow)
        send_syn(sw, port, flow, True)
        return 0
    if not acceptable_seq(flow, seq, bytes + (1 if flags & TCP_FIN else 0)):
        return unacceptable(sw, flow, flags)
    if flags & TCP_RST:
        return reset_by_container(sw, port, flow, seq)
    if flags & TCP_SYN:
        challenge(sw, flow)
        return Drop.NAT_OUT_OF_WINDOW
    if not flags & TCP_ACK:
        return Drop.NAT_OUT_OF_WINDOW
    verdict = acknowledgement(sw, port, flow, packet, seq, bytes)
    if verdict:
        return verdict
    skip = flow.tcp.rcv_nxt - seq
    if <int32_t>skip < 0:
        challenge(sw, flow)
        return Drop.NAT_OUT_OF_ORDER
    if skip < bytes and not flow.tcp.marks & FIN_IN:
        verdict = payload(sw, port, flow, tcp + header + skip, bytes - skip)
        if verdict:
            return verdict
    elif bytes:
        flow.tcp.marks |= ACK_NOW
    if flags & TCP_FIN:
        flow.tcp.marks |= ACK_NOW
        if seq + bytes == flow.tcp.rcv_nxt and not flow.tcp.marks & FIN_IN:
            flow.tcp.marks |= FIN_IN
            flow.tcp.rcv_nxt += 1
            finish_sending(sw, flow)
    touch(sw, flow)
    return 0


cdef int opened_at_once(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """Both sides opened (RFC 9293 figure 8): the container's SYN-ACK acknowledges our SYN, and may be all it ever says about that."""
    flow.tcp.snd_una = flow.tcp.snd_max
    establish(sw, port, flow)
    challenge(sw, flow)
    return 0


cdef bint acceptable_seq(const Flow *flow, uint32_t seq, uint32_t length) noexcept nogil:
    """The four cases of RFC 9293 section 3.10.7.4. A segment without payload may stand at the window's right edge too: that is the next number
    of a container that has filled it, and what it acknowledges counts."""
    cdef uint32_t window = flow.tcp.rcv_edge - flow.tcp.rcv_nxt
    if <int32_t>window < 0:
        window = 0
    if seq == flow.tcp.rcv_nxt:
        return True
    if length == 0:
        return seq - flow.tcp.rcv_nxt <= window
    return seq - flow.tcp.rcv_nxt < window or (seq + length - 1 - flow.tcp.rcv_nxt < window)


cdef int unacceptable(Switch *sw, Flow *flow, uint8_t flags) noexcept nogil:
    """Outside the window: an old repetition or a keepalive, which want an acknowledgement, or nonsense, which gets the same."""
    if not flags & TCP_RST:
        challenge(sw, flow)
    return Drop.NAT_OUT_OF_WINDOW


cdef void challenge(Switch *sw, Flow *flow) noexcept nogil:
    """The container is to hear where we are (at most once per burst)."""
    flow.tcp.marks |= ACK_NOW
    touch(sw, flow)


cdef int reset_by_container(Switch *sw, Port *port, Flow *flow, uint32_t seq) noexcept nogil:
    """A reset: exactly the next byte ends the connection, and the host's side too; another inside the window is challenged (RFC 5961)."""
    if seq != flow.tcp.rcv_nxt:
        challenge(sw, flow)
        return Drop.NAT_OUT_OF_WINDOW
    tcp_end(sw, port, flow, True)
    return 0


cdef int acknowledgement(Switch *sw, Port *port, Flow *flow, const Packet *packet, uint32_t seq, uint32_t bytes) noexcept nogil:
    """What the container has of ours, and how much more it takes. A segment that acknowledges something new is newer than what was heard
    before, whatever its sequence number: a repeated one tells today's window."""
    cdef const uint8_t *tcp = packet.l4
    cdef uint32_t ack = read32(tcp + 8), window = read16(tcp + 14) << flow.tcp.peer_scale
    cdef bint more = before(flow.tcp.snd_una, ack)
    if before(flow.tcp.snd_max, ack):
        if flow.tcp.state == SYN_RECEIVED:
            refuse_segment(sw, port, packet)
        else:
            challenge(sw, flow)
        return Drop.NAT_OUT_OF_WINDOW
    if flow.tcp.state == SYN_RECEIVED:
        if not more:
            refuse_segment(sw, port, packet)
            return Drop.NAT_OUT_OF_WINDOW
        flow.tcp.snd_una = ack
        flow.tcp.snd_nxt = ack
        flow.tcp.consumed = ack
        establish(sw, port, flow)
        more = False
    elif not more and ack == flow.tcp.snd_una and ack != flow.tcp.snd_max and bytes == 0 and window == flow.tcp.snd_window and not tcp[13] & TCP_FIN:
        duplicate(sw, port, flow)
    if more or before(flow.tcp.window_seq, seq) or (flow.tcp.window_seq == seq and not before(ack, flow.tcp.window_ack)):
        if window and (flow.tcp.marks & PROBING or (flow.tcp.snd_window == 0 and flow.tcp.backoff)):
            flow.tcp.marks &= ~PROBING
            flow.tcp.backoff = 0
            arm(sw, flow, True)
        flow.tcp.snd_window, flow.tcp.window_seq, flow.tcp.window_ack = window, seq, ack
    if more:
        progress(sw, port, flow, ack)
    return 0


cdef void duplicate(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """The same acknowledgement once more: the third means a loss (RFC 5681 section 3.2)."""
    if flow.tcp.duplicates < 255:
        flow.tcp.duplicates += 1
    if flow.tcp.duplicates == 3 and not flow.tcp.marks & RECOVERING:
        flow.tcp.marks |= RECOVERING
        flow.tcp.recover = flow.tcp.snd_max
        resend(sw, port, flow)
        arm(sw, flow, True)


cdef void progress(Switch *sw, Port *port, Flow *flow, uint32_t ack) noexcept nogil:
    """New bytes are acknowledged."""
    flow.in_bytes += ack - flow.tcp.snd_una - (1 if flow.tcp.marks & FIN_OUT and ack == flow.tcp.snd_max else 0)
    flow.tcp.snd_una = ack
    flow.tcp.duplicates = flow.tcp.backoff = 0
    if before(flow.tcp.snd_nxt, ack):
        flow.tcp.snd_nxt = ack
        flow.tcp.marks |= AIM
    if flow.tcp.timed_ns and not before(ack, flow.tcp.timed_seq):
        sample(flow, <uint32_t>((sw.now_ns - flow.tcp.timed_ns) // 1000))
    if flow.tcp.marks & FIN_OUT and ack == flow.tcp.snd_max:
        flow.tcp.marks |= FIN_ACKED
    if flow.tcp.marks & RECOVERING:
        if before(ack, flow.tcp.recover):
            resend(sw, port, flow)
        else:
            flow.tcp.marks &= ~RECOVERING
    arm(sw, flow, True)


cdef void sample(Flow *flow, uint32_t rtt_us) noexcept nogil:
    """One round trip was timed (RFC 6298 section 2)."""
    cdef int32_t error = <int32_t>(rtt_us - flow.tcp.srtt_us)
    flow.tcp.timed_ns = 0
    if flow.tcp.srtt_us == 0:
        flow.tcp.srtt_us, flow.tcp.rttvar_us = rtt_us, rtt_us // 2
    else:
        flow.tcp.rttvar_us += ((error if error > 0 else -error) - <int32_t>flow.tcp.rttvar_us) // 4
        flow.tcp.srtt_us += error // 8
    flow.tcp.srtt_us = max(flow.tcp.srtt_us, <uint32_t>1)
    flow.tcp.rto_us = min(max(flow.tcp.srtt_us + 4 * flow.tcp.rttvar_us, <uint32_t>MIN_RTO_US), <uint32_t>MAX_RTO_US)


cdef int payload(Switch *sw, Port *port, Flow *flow, const uint8_t *data, uint32_t bytes) noexcept nogil:
    """New payload, in order, as far as it fits into the window; a host that has gone ends the connection."""
    cdef uint32_t window = flow.tcp.rcv_edge - flow.tcp.rcv_nxt
    cdef int32_t took
    if bytes > window:
        bytes = window
    if bytes == 0:
        flow.tcp.marks |= ACK_NOW
        return 0
    took = take(sw, port, flow, data, bytes)
    if took < 0:
        tcp_abort(sw, port, flow, True)
        return Drop.NAT_HOST_GONE
    flow.tcp.rcv_nxt += <uint32_t>took
    flow.out_bytes += <uint32_t>took
    port.credit -= bytes
    return 0
