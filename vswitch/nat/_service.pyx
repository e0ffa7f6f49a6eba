# SPDX-License-Identifier: Apache-2.0
"""What a TCP connection gets when something has happened: after a burst of frames, for a host socket's event, when its timer rings.

A burst is taken in whole before anything is said about it: its flows are touched, and tcp_flush() then sends each one's data, which carries
the acknowledgement, or else the acknowledgement alone. A flow's turn is FRAMES super-frames; what is left over waits on the run queue.

One timer per flow (arm): in CONNECTING for the container's patience; while something is unacknowledged, for its retransmission (RFC 6298,
restarted by each acknowledgement of something new); while the container's window is closed, or there was no buffer, for asking again; otherwise
for idleness. Host sockets are polled edge-triggered: an event is told once, and DRAINED and FULL remember what it said.
"""
from libc.stdint cimport uint64_t

from vswitch.nat._connection cimport connected, over, refused, tcp_abort, tcp_end
from vswitch.nat._conntrack cimport Timeouts, flow_due, flow_run
from vswitch.nat._segments cimport send_control, send_syn
from vswitch.nat._sockets cimport (
    EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, SO_ERROR, SOL_SOCKET, getsockopt,
)
from vswitch.nat._stream cimport TOUCHED_FLOWS, TcpPool, give_held, grant, let_go_of_acknowledged, pool_of, pump, rewind
from vswitch.nat._tcp cimport (
    ACK_NOW, CONNECTING, DRAINED, ESTABLISHED, FIN_IN, FIN_OUT, FULL, HUNG_UP, MAX_RTO_US, PROBING, RECOVERING, RETRANSMITS, SYN_RECEIVED,
    TIME_WAIT, TOUCHED,
)

cdef enum:
    TCP = 6
    SYN_RETRIES = 6         # a minute altogether, as Linux' tcp_syn_retries
    MAX_RETRIES = 12        # of one byte: some eight minutes (RFC 9293 section 3.8.3: at least 100 s)
    FRAMES = 4              # a flow's turn: 256 KiB


cdef void touch(Switch *sw, Flow *flow) noexcept nogil:
    """The flow is to be served at the burst's end."""
    cdef TcpPool *pool = pool_of(sw)
    if flow.tcp.marks & TOUCHED:
        return
    if pool.touched_count == TOUCHED_FLOWS:
        tcp_flush(sw)
    flow.tcp.marks |= TOUCHED
    pool.touched[pool.touched_count] = flow.number
    pool.touched_count += 1


cdef void tcp_flush(Switch *sw) noexcept nogil:
    """Serves the flows that the burst touched."""
    cdef TcpPool *pool = pool_of(sw)
    cdef uint32_t i, count = pool.touched_count
    cdef Flow *flow
    for i in range(count):
        flow = &sw.nat.conntrack.flows[pool.touched[i]]
        if flow.used and flow.tcp.marks & TOUCHED:
            flow.tcp.marks &= ~TOUCHED
            tcp_serve(sw, sw.ports[flow.port], flow)
    pool.touched_count = 0


cdef void tcp_serve(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """A flow's turn: moves what can be moved to the container, acknowledges what it sent, and ends the flow if it is over."""
    cdef int left = 0
    cdef bint opened
    if flow.tcp.state != ESTABLISHED:
        if flow.tcp.marks & ACK_NOW and flow.tcp.state != CONNECTING:
            flow.tcp.marks &= ~ACK_NOW
            send_control(sw, port, flow, 0, flow.tcp.snd_max)
        return
    let_go_of_acknowledged(sw, port, flow, False)
    opened = grant(sw, flow, False)
    left = pump(sw, port, flow, FRAMES)
    if left < 0:
        tcp_abort(sw, port, flow, True)
        return
    if flow.tcp.acknowledged != flow.tcp.rcv_nxt or flow.tcp.marks & ACK_NOW or opened:
        send_control(sw, port, flow, 0, flow.tcp.snd_max)
    flow.tcp.marks &= ~ACK_NOW
    if over(sw, port, flow):
        return
    if left:
        flow_run(&sw.nat.conntrack, flow)
    arm(sw, flow, False)


cdef void tcp_ready(Switch *sw, uint32_t number, uint32_t generation, uint32_t events) noexcept nogil:
    """A host socket has data, room, an end or an error."""
    cdef Flow *flow = &sw.nat.conntrack.flows[number]
    cdef Port *port
    cdef int error = 0
    cdef unsigned int size = sizeof(error)
    if not flow.used or (flow.generation ^ generation) & 0xFFFFFF or flow.fd < 0 or flow.protocol != TCP:
        return
    port = sw.ports[flow.port]
    if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI):
        flow.tcp.marks |= HUNG_UP
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        flow.tcp.marks &= ~DRAINED
    if flow.tcp.state == CONNECTING:
        if events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            getsockopt(flow.fd, SOL_SOCKET, SO_ERROR, &error, &size)
            if error:
                refused(sw, port, flow, error)
            else:
                connected(sw, port, flow)
        return
    if events & EPOLLOUT and flow.tcp.marks & FULL:
        if not give_held(sw, port, flow):
            tcp_abort(sw, port, flow, True)
            return
        if grant(sw, flow, True):
            flow.tcp.marks |= ACK_NOW
    if events & EPOLLERR and (pump(sw, port, flow, FRAMES) < 0 or broken(flow)):
        tcp_abort(sw, port, flow, True)
        return
    tcp_serve(sw, port, flow)


cdef bint broken(const Flow *flow) noexcept nogil:
    """Whether the host's connection was reset or timed out. Only after a read: asking takes the error away, and the stream then seems to end."""
    cdef int error = 0
    cdef unsigned int size = sizeof(error)
    getsockopt(flow.fd, SOL_SOCKET, SO_ERROR, &error, &size)
    return error != 0


cdef void arm(Switch *sw, Flow *flow, bint restart) noexcept nogil:
    """Sets the flow's timer for what it waits for; a retransmission that is pending already keeps its time unless `restart`."""
    cdef const Timeouts *timeouts = &sw.nat.conntrack.timeouts
    cdef uint64_t due, patience
    if flow.tcp.state == CONNECTING:
        due = flow.seen_ns + <uint64_t>timeouts.tcp_opening * 1000000000
    elif flow.tcp.snd_una != flow.tcp.snd_max:
        if flow.tcp.marks & RETRANSMITS and not restart:
            return
        flow.tcp.marks |= RETRANSMITS
        due = sw.now_ns + retry_ns(flow)
    else:
        flow.tcp.marks &= ~RETRANSMITS
        if flow.tcp.state == ESTABLISHED and not flow.tcp.marks & (DRAINED | FIN_OUT) and not flow.runnable:
            if flow.tcp.marks & PROBING and not restart:
                return
            flow.tcp.marks |= PROBING
            due = sw.now_ns + retry_ns(flow)
        else:
            flow.tcp.marks &= ~PROBING
            patience = timeouts.tcp_closing if flow.tcp.marks & (FIN_IN | FIN_OUT) == FIN_IN | FIN_OUT else timeouts.tcp_established
            due = flow.seen_ns + patience * 1000000000
    flow_due(&sw.nat.conntrack, flow, due, sw.now_ns)


cdef uint64_t retry_ns(const Flow *flow) noexcept nogil:
    """The retransmission timeout, doubled for each time it was waited for in vain (RFC 6298 section 5.5)."""
    cdef uint64_t us = <uint64_t>flow.tcp.rto_us << (flow.tcp.backoff if flow.tcp.backoff < 16 else 16)
    return (us if us < MAX_RTO_US else <uint64_t>MAX_RTO_US) * 1000


cdef void tcp_due(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """The flow's timer rang."""
    cdef const Timeouts *timeouts = &sw.nat.conntrack.timeouts
    if flow.tcp.state == CONNECTING or flow.tcp.state == TIME_WAIT:
        tcp_end(sw, port, flow, True)
    elif flow.tcp.state != ESTABLISHED:
        repeat_syn(sw, port, flow)
    elif flow.tcp.snd_una != flow.tcp.snd_max:
        repeat_data(sw, port, flow)
    elif flow.tcp.marks & PROBING:
        probe(sw, port, flow)
    else:
        tcp_abort(sw, port, flow, True)


cdef void repeat_syn(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """The handshake got no answer: once more, or never again."""
    if flow.tcp.backoff >= SYN_RETRIES:
        tcp_abort(sw, port, flow, True)
        return
    flow.tcp.backoff += 1
    send_syn(sw, port, flow, flow.tcp.state == SYN_RECEIVED)
    arm(sw, flow, True)


cdef void repeat_data(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """Retransmission timeout: back to the oldest byte that is not acknowledged, one frame first (RFC 6298 section 5.4). A container that
    answers without taking anything (it closed a window that was open) is asked for as long as it answers (RFC 9293 section 3.8.6.1)."""
    if flow.tcp.backoff >= MAX_RETRIES and sw.now_ns - flow.seen_ns > 2 * retry_ns(flow):
        tcp_abort(sw, port, flow, True)
        return
    if flow.tcp.backoff < 255:
        flow.tcp.backoff += 1
    flow.tcp.marks &= ~RECOVERING
    flow.tcp.duplicates = 0
    if flow.tcp.snd_window == 0:
        flow.tcp.snd_window = 1
    rewind(flow)
    if pump(sw, port, flow, 1) < 0:
        tcp_abort(sw, port, flow, True)
        return
    if flow.tcp.snd_nxt == flow.tcp.snd_una:
        flow_run(&sw.nat.conntrack, flow)
    arm(sw, flow, True)


cdef void probe(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """The container's window is closed, or there was no buffer: asks for a sign with a segment that is no news (RFC 9293 section 3.8.6.1)."""
    cdef uint64_t silent_s = (sw.now_ns - flow.seen_ns) // 1000000000
    if silent_s > sw.nat.conntrack.timeouts.tcp_closing:
        tcp_abort(sw, port, flow, True)
        return
    if flow.tcp.backoff < 16:
        flow.tcp.backoff += 1
    if flow.tcp.snd_window == 0:
        send_control(sw, port, flow, 0, flow.tcp.snd_una - 1)
    flow.tcp.marks &= ~PROBING
    tcp_serve(sw, port, flow)
