# SPDX-License-Identifier: Apache-2.0
"""How a TCP connection comes to be and how it ends: flow, host socket, and the shares of both that its container has.

Opened by the container: new_flow() → the dialer → tcp_dialed() → connected(), which answers the SYN, or refused(), which tells the container what a
router or the peer would have told it. Opened by a client of a published port: new_flow() → tcp_accepted(), which asks the container.
Opened by the container to a service of control's (the resolver at the gateway): new_flow() → serve_locally(), which answers the SYN; there is no
second TCP anywhere, the host socket is one end of an AF_UNIX pair. All end in establish(), where such a pair is made and control is told of its
end of it (EVENT_SERVICE), so that a flood of SYNs is none of control's business.

A flow holds a descriptor's share from new_flow() on, before there is a socket, so that a container cannot have more underway than it may have. It
counts as half open until it is established or gone.

The end: over() when both directions are closed and acknowledged; tcp_abort() when something failed, with a reset for the container;
tcp_end() for everything else. The socket is closed, with a reset for the host's peer where the container aborted.
"""
from libc.errno cimport EAGAIN, ECONNREFUSED, EMFILE, ENFILE, ENOBUFS, ENOMEM, ETIMEDOUT
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport close

from vswitch._fastpath cimport EVENT_SERVICE, FlowEvent, count_drops
from vswitch.datapath._drops cimport Drop
from vswitch.datapath._ring cimport ring_commit, ring_reserve
from vswitch.nat._conntrack cimport flow_assure, flow_due, flow_loosen, flow_remove
from vswitch.nat._dialer cimport hang_up
from vswitch.nat._emit cimport complain_errno
from vswitch.nat._nat cimport POLL_FLOW
from vswitch.nat._report cimport describe, report_closed, report_opened
from vswitch.nat._segments cimport TCP_SYN, send_reset, send_syn
from vswitch.nat._service cimport arm, touch
from vswitch.nat._shares cimport claim_descriptor, claim_flow, claim_half_open, return_descriptor, return_half_open
from vswitch.nat._sockets cimport (
    AF_UNIX, EPOLL_CTL_ADD, FLOW_EVENTS, SO_OOBINLINE, SO_PEEK_OFF, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, epoll_ctl, epoll_event,
    poll_key, setsockopt, socketpair,
)
from vswitch.nat._stream cimport MAX_CHUNKS, Chunk, TcpPool, free_chunks, grant, let_go_of_acknowledged, pool_of
from vswitch.nat._tcp cimport (
    CONNECTING, DRAINED, ESTABLISHED, FIN_ACKED, FIRST_CLOSER, HALF_OPEN, NO_CHUNK, PEEKED, RETRANSMITS, SHUT, SYN_RECEIVED, SYN_SENT, TIME_WAIT,
)
from vswitch.wire._bytes cimport write16, write32

cdef enum:
    TCP = 6
    FIRST_RTO_US = 1000000  # RFC 6298 section 2.1


cdef bint tcp_open(Switch *sw) noexcept nogil:
    """Makes the pool; False when memory is short. Its pages cost nothing until they are used."""
    cdef TcpPool *pool = <TcpPool *>calloc(1, sizeof(TcpPool))
    sw.nat.tcp = pool
    if pool == NULL:
        return False
    pool.spare = NO_CHUNK
    pool.chunks = <Chunk *>calloc(MAX_CHUNKS, sizeof(Chunk))
    return pool.chunks != NULL


cdef void tcp_close(Switch *sw) noexcept nogil:
    if sw.nat.tcp != NULL:
        free(pool_of(sw).chunks)
        free(sw.nat.tcp)
        sw.nat.tcp = NULL


cdef Flow *new_flow(Switch *sw, Port *port, const uint8_t *inside, uint16_t inside_port, const uint8_t *outside, uint16_t outside_port) noexcept nogil:
    """A half-open connection on the container's account; NULL when it has all it may have."""
    cdef Flow *flow = NULL
    if not claim_half_open(sw, port):
        return NULL
    if claim_descriptor(sw, port, NULL):
        flow = claim_flow(sw, port, TCP, inside, inside_port, outside, outside_port)
        if flow == NULL:
            return_descriptor(sw, port)
    if flow == NULL:
        return_half_open(port)
        return NULL
    flow.tcp.marks = HALF_OPEN | DRAINED
    flow.tcp.first_held = flow.tcp.first_kept = NO_CHUNK
    flow.tcp.rto_us = FIRST_RTO_US
    flow.tcp.snd_una = flow.tcp.snd_nxt = flow.tcp.snd_max = flow.tcp.consumed = next_random(sw)
    flow.tcp.granted = 65535
    return flow


cdef uint32_t next_random(Switch *sw) noexcept nogil:
    """For initial sequence numbers: splitmix64 from a secret seed. Who could guess them sits behind the same container's port."""
    cdef uint64_t z
    sw.nat.random += <uint64_t>0x9E3779B97F4A7C15
    z = (sw.nat.random ^ (sw.nat.random >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return <uint32_t>(z >> 32 ^ z)


cdef void tcp_dialed(Switch *sw, uint32_t number, uint32_t generation, int32_t fd, int32_t error) noexcept nogil:
    """The dialer has a socket, connected or on its way, or an error."""
    cdef Flow *flow = &sw.nat.conntrack.flows[number]
    cdef Port *port
    if not flow.used or flow.generation != generation or flow.protocol != TCP or flow.tcp.state != CONNECTING:
        if fd >= 0:
            hang_up(sw, fd, True)
        return
    port = sw.ports[flow.port]
    flow.fd = fd
    if fd < 0:
        refused(sw, port, flow, error)
    elif not watch(sw, flow):
        refused(sw, port, flow, ENOMEM)
    elif error == 0:
        connected(sw, port, flow)


cdef bint watch(Switch *sw, Flow *flow) noexcept nogil:
    cdef epoll_event event
    event.events = FLOW_EVENTS
    event.data.u64 = poll_key(POLL_FLOW, flow.generation, flow.number)
    return epoll_ctl(sw.poller, EPOLL_CTL_ADD, flow.fd, &event) == 0


cdef void connected(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """The host's side stands: now the container may have its SYN-ACK."""
    flow.tcp.state = SYN_RECEIVED
    send_syn(sw, port, flow, True)
    if not flow.service:
        start_peeking(sw, flow)
    flow.tcp.snd_nxt = flow.tcp.snd_max = flow.tcp.snd_una + 1
    arm(sw, flow, True)


cdef void serve_locally(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """The peer is control, which is always there."""
    flow.service = 1
    connected(sw, port, flow)


cdef bint take_up_service(Switch *sw, Flow *flow) noexcept nogil:
    """Gives control its end of a connection; where that can't be, the flow has no socket, and its first read ends it with a reset. Unix sockets
    can't discard without reading, so this one is read into chunks."""
    cdef FlowEvent *event
    cdef int ends[2]
    if socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0:
        return False
    event = <FlowEvent *>ring_reserve(&sw.events, sizeof(FlowEvent))
    sw.notify = 1
    flow.fd = ends[0]
    if event == NULL or not watch(sw, flow):
        flow.fd = -1
        close(ends[0])
        close(ends[1])
        return False
    event.event.kind, event.event.port, event.event.network, event.event.error = EVENT_SERVICE, flow.port, flow.network, ends[1]
    describe(sw, flow, &event.row)
    ring_commit(&sw.events, sizeof(FlowEvent))
    return True


cdef void start_peeking(Switch *sw, Flow *flow) noexcept nogil:
    """Lets the socket's data stay in it until the container has it, where the kernel can do that. Urgent data is data like any other (RFC
    6093 section 4): out of line it would be lost, and be a hole in the stream that peek offsets don't count."""
    cdef int offset = 0, on = 1
    cdef bint works = sw.nat.peek6 if flow.ipv6 else sw.nat.peek4
    setsockopt(flow.fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on))
    if works and setsockopt(flow.fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) == 0:
        flow.tcp.marks |= PEEKED


cdef void refused(Switch *sw, Port *port, Flow *flow, int error) noexcept nogil:
    """The host can't connect: the container hears what a router or the peer would have told it; of a timeout it hears nothing."""
    cdef uint8_t syn[20]
    if error == EMFILE or error == ENFILE or error == ENOBUFS or error == ENOMEM or error == EAGAIN:
        count_drops(sw, port, Drop.NAT_DESCRIPTORS, 1)
    memset(syn, 0, 20)
    write16(syn, flow.inside_port)
    write16(syn + 2, flow.outside_port)
    write32(syn + 4, flow.tcp.irs)
    syn[12], syn[13] = 0x50, TCP_SYN
    if error == ETIMEDOUT:
        tcp_end(sw, port, flow, False)
    elif error != ECONNREFUSED and complain_errno(sw, port, flow, error, syn, 20):
        tcp_end(sw, port, flow, False)
    else:
        tcp_abort(sw, port, flow, False)


cdef void tcp_accepted(Switch *sw, Port *port, Flow *flow, int32_t fd) noexcept nogil:
    """A client connected to a published port: the container is asked."""
    flow.fd = fd
    flow.tcp.state = SYN_SENT
    flow.tcp.mss = 536
    if not watch(sw, flow):
        tcp_end(sw, port, flow, True)
        return
    start_peeking(sw, flow)
    flow.tcp.rcv_edge = flow.tcp.rcv_nxt + 65535
    send_syn(sw, port, flow, False)
    flow.tcp.snd_nxt = flow.tcp.snd_max = flow.tcp.snd_una + 1
    arm(sw, flow, True)
    report_opened(sw, flow)


cdef void establish(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """The handshake with the container is done."""
    flow.tcp.state = ESTABLISHED
    flow.tcp.snd_nxt = flow.tcp.snd_max = flow.tcp.consumed = flow.tcp.snd_una
    flow.tcp.backoff = 0
    flow.tcp.rto_us = FIRST_RTO_US
    flow.tcp.marks &= ~RETRANSMITS
    opened(port, flow)
    if flow.service and not take_up_service(sw, flow):
        flow.tcp.marks &= ~DRAINED
        count_drops(sw, port, Drop.NAT_DESCRIPTORS, 1)
    flow_assure(&sw.nat.conntrack, &port.share, flow)
    grant(sw, flow, True)
    touch(sw, flow)


cdef void opened(Port *port, Flow *flow) noexcept nogil:
    """No longer half open, whether it came to be or not."""
    if flow.tcp.marks & HALF_OPEN:
        flow.tcp.marks &= ~HALF_OPEN
        return_half_open(port)


cdef bint over(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """Ends the flow, or leaves it in TIME_WAIT, when both directions are closed and acknowledged."""
    if flow.tcp.marks & (SHUT | FIN_ACKED) != SHUT | FIN_ACKED:
        return False
    if not flow.tcp.marks & FIRST_CLOSER:
        tcp_end(sw, port, flow, False)
        return True
    drop_socket(sw, port, flow, False)
    flow.tcp.state = TIME_WAIT
    flow_loosen(&sw.nat.conntrack, &port.share, flow)
    flow_due(&sw.nat.conntrack, flow, sw.now_ns + <uint64_t>sw.nat.conntrack.timeouts.tcp_time_wait * 1000000000, sw.now_ns)
    return True


cdef void tcp_abort(Switch *sw, Port *port, Flow *flow, bint reset_host) noexcept nogil:
    """Ends a connection that failed: the container gets a reset, and with `reset_host` the host's peer too."""
    if flow.tcp.state != TIME_WAIT and sw.ports[flow.port] == port and not port.gone:
        if flow.tcp.state == CONNECTING:
            flow.tcp.snd_max = 0
        send_reset(sw, port, flow)
    tcp_end(sw, port, flow, reset_host)


cdef void tcp_end(Switch *sw, Port *port, Flow *flow, bint reset_host) noexcept nogil:
    """Forgets a connection and gives all back that it has; the host's peer sees an orderly end, or with `reset_host` a reset."""
    report_closed(sw, flow)
    if flow.tcp.state != TIME_WAIT:
        drop_socket(sw, port, flow, reset_host)
    flow_remove(&sw.nat.conntrack, &port.share, flow)


cdef void drop_socket(Switch *sw, Port *port, Flow *flow, bint reset_host) noexcept nogil:
    """Gives socket, chunks and shares back."""
    opened(port, flow)
    if flow.fd >= 0:
        let_go_of_acknowledged(sw, port, flow, True)
        hang_up(sw, flow.fd, reset_host)
        flow.fd = -1
    free_chunks(sw, port, flow)
    return_descriptor(sw, port)
