# SPDX-License-Identifier: Apache-2.0
"""UDP and echo onto host sockets, and back.

A **mapping** is a container's address and UDP port (or echo identifier) with one unconnected host socket: whatever the
container sends from there leaves through that socket, so all the world sees one address and port (endpoint-independent
mapping, RFC 4787 REQ-1, RFC 5508 REQ-1). A **flow** is one such inside together with one outside; it is what conntrack
knows, counts and times out. A mapping lives as long as its last flow.

    container → udp_out → flow → batch → sendmsg through the mapping's socket
                                   ↘ errno → error queue → ICMP error to the container
    socket readable → udp_ready → recvmmsg → flow of the sender → emit() to the container
    socket in error → udp_ready → error queue → flow → ICMP error that quotes the container's packet

Filtering is address-dependent (RFC 4787 REQ-8): whom the container has sent to may answer from any port, which opens a flow
of its own; the addresses of the mapping's FILTER_WALK newest flows count. Endpoint-independent filtering is the network's
choice. Idle flows end after 30 s, 180 s once seen in both directions, 15 s towards port 53, and 60 s for echo (RFC 4787
REQ-5 wants 2 minutes of the second kind). ICMP errors end nothing (REQ-12). A **published port** is the other way round:
flows from clients, answered through the listener's socket (_published.pyx).

Batches: consecutive datagrams of one flow, size, TTL and DF are gathered, and leave as one message with UDP_SEGMENT at the
end of the port's burst or when another one comes. A super-frame is sent the same way. Where the kernel refuses (no
UDP_SEGMENT, a path MTU below the size, a device without checksum offload) they are sent one by one. Order is never changed.

The container's TTL less one, its DSCP and DF are handed on; each is told to the socket when it changes, so a traceroute
works and a steady stream costs no extra call. DF clear, or a packet that came in fragments: the kernel may fragment. DF set
and too long for the path: the kernel refuses with EMSGSIZE, its error queue says what would fit, and the container hears
'fragmentation needed' or 'packet too big'. An error that an earlier datagram brought about is reported by the next
sendto(); so a failed send reads the error queue and tries once more, and only a second failure is this datagram's own.

Sockets are level-triggered in epoll: a call takes a bounded amount, and what is left is reported again after all others had
their turn. Edge-triggered, leftovers would need a queue of our own.

Not done: the TOS of what comes in (reading it costs a control message per datagram; echo replies carry their TTL, UDP gets
64).
"""
from libc.errno cimport EAGAIN, EINVAL, EIO, EMSGSIZE, ENOBUFS
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from vswitch._fastpath cimport COPY_COST, count_drops
from vswitch.datapath._drops cimport Drop
from vswitch.nat._conntrack cimport FLOW_IN, NO_FLOW, flow_due, flow_find, flow_remove, flow_touch
from vswitch.nat._datagrams cimport (
    INBOX_SLOT, LARGEST_DATAGRAM, address_to, can_coalesce, can_segment, hear_clients, inbox_close, inbox_open, send_message,
    set_fragmenting, set_tos, set_ttl,
)
from vswitch.nat._echo cimport echo_out
from vswitch.nat._emit cimport complain_errno, complain_flow
from vswitch.nat._inbound cimport heed_errors, receive, train_leaves
from vswitch.nat._mappings cimport idle_seconds, mappings_close, mappings_open, open_flow, unlink_flow
from vswitch.nat._nat cimport EMIT_ROOM, MAX_LISTENERS
from vswitch.nat._published cimport address_client
from vswitch.nat._report cimport report_closed
from vswitch.nat._sockets cimport EPOLLERR, EPOLLIN
from vswitch.wire._bytes cimport write16

cdef enum:
    UDP = 17


cdef bint udp_open(Switch *sw) noexcept nogil:
    """Everything empty, and what the kernel can do found out; conntrack is open already. False when memory is short."""
    cdef Udp *udp = <Udp *>calloc(1, sizeof(Udp))
    cdef uint32_t i
    cdef bint fits
    sw.nat.udp = udp
    if udp == NULL:
        return False
    sw.nat.gso, sw.nat.gro = can_segment(), can_coalesce()
    udp.listened = <uint32_t *>malloc(MAX_LISTENERS * sizeof(uint32_t))
    udp.clients = <Client *>calloc(sw.nat.conntrack.capacity, sizeof(Client))
    udp.batch.payload = <uint8_t *>malloc(BATCH_BYTES)
    udp.batch.flow = NO_FLOW
    udp.train.room = <uint8_t *>malloc(EMIT_ROOM + 8 + BATCH_BYTES)
    udp.quote = <uint8_t *>malloc(8 + ERROR_BYTES)
    udp.message = <uint8_t *>malloc(LARGEST_DATAGRAM)
    fits = mappings_open(udp, sw.nat.conntrack.capacity)
    fits = inbox_open(&udp.inbox) and fits
    if (not fits or udp.listened == NULL or udp.clients == NULL or udp.batch.payload == NULL or udp.train.room == NULL
            or udp.quote == NULL or udp.message == NULL):
        udp_close(sw)
        return False
    for i in range(MAX_LISTENERS):
        udp.listened[i] = NO_FLOW
    return True


cdef void udp_close(Switch *sw) noexcept nogil:
    """Closes every mapping's socket; listeners' are the caller's."""
    cdef Udp *udp = udp_of(sw)
    if udp == NULL:
        return
    mappings_close(udp)
    inbox_close(&udp.inbox)
    free(udp.listened)
    free(udp.clients)
    free(udp.batch.payload)
    free(udp.train.room)
    free(udp.quote)
    free(udp.message)
    free(udp)
    sw.nat.udp = NULL


# ---- from the container


cdef int udp_out(Switch *sw, Port *port, const Packet *packet) noexcept nogil:
    """A datagram, a super-frame of them or an echo request from a container; why it died, 0 if it didn't."""
    cdef uint32_t bytes = packet.l4_bytes - 8
    cdef Sending how
    cdef Flow *flow
    cdef int reason
    flow = flow_find(&sw.nat.conntrack, port.network, packet.protocol, packet.inside, packet.sport, packet.outside, packet.dport)
    if flow == NULL:
        flow = open_flow(sw, port, packet, &reason)
        if flow == NULL:
            return reason
    elif flow.port != port.index:
        return <int>Drop.IP_SPOOF
    note(sw, port, flow, packet, bytes)
    port.credit -= bytes
    how.ttl, how.tos = packet.ttl - 1, packet.tos
    how.whole = packet.dont_fragment and (packet.total <= sw.networks[port.network].mtu or packet.gso_size != 0)
    if packet.protocol != UDP:
        udp_flush(sw)
        return echo_out(sw, port, flow, &how, packet)
    if gathered(sw, flow, &how, packet, bytes):
        return 0
    return send_out(sw, port, flow, &how, packet.l4 + 8, bytes, packet.gso_size)


cdef void note(Switch *sw, Port *port, Flow *flow, const Packet *packet, uint32_t bytes) noexcept nogil:
    """Keeps the flow's books."""
    flow.seen_ns = sw.now_ns
    flow.out_packets += (bytes + packet.gso_size - 1) // packet.gso_size if packet.gso_size else 1
    flow.out_bytes += bytes
    memcpy(flow.mac, packet.mac, 6)
    flow_touch(&sw.nat.conntrack, &port.share, flow)


# ---- batches


cdef bint gathered(Switch *sw, const Flow *flow, const Sending *how, const Packet *packet, uint32_t bytes) noexcept nogil:
    """Keeps a datagram for the batch, after an earlier batch left that it doesn't go with; False when it is to be sent now."""
    cdef Batch *batch = &udp_of(sw).batch
    if (batch.flow != flow.number or bytes > batch.size or batch.bytes + bytes > BATCH_BYTES or bytes == 0 or packet.gso_size
            or how.ttl != batch.how.ttl or how.tos != batch.how.tos or how.whole != batch.how.whole):
        udp_flush(sw)
    if packet.gso_size or bytes == 0 or bytes > BATCH_BYTES or not sw.nat.gso:
        return False
    if batch.flow == NO_FLOW:
        batch.flow, batch.size, batch.bytes, batch.count, batch.how = flow.number, bytes, 0, 0, how[0]
    memcpy(batch.payload + batch.bytes, packet.l4 + 8, bytes)
    batch.bytes += bytes
    batch.count += 1
    if bytes < batch.size or batch.count == MAX_SEGMENTS:
        udp_flush(sw)
    return True


cdef void udp_flush(Switch *sw) noexcept nogil:
    """Sends what has been gathered."""
    cdef Batch *batch = &udp_of(sw).batch
    cdef Flow *flow
    cdef Port *port
    cdef int reason
    if batch.flow == NO_FLOW:
        return
    flow = &sw.nat.conntrack.flows[batch.flow]
    port = sw.ports[flow.port]
    batch.flow = NO_FLOW
    if port == NULL:
        return
    reason = send_out(sw, port, flow, &batch.how, batch.payload, batch.bytes, batch.size if batch.count > 1 else 0)
    if reason:
        count_drops(sw, port, <Drop>reason, batch.count)


# ---- sending


cdef int send_out(Switch *sw, Port *port, Flow *flow, const Sending *how, const uint8_t *payload, uint32_t bytes,
                  uint32_t size) noexcept nogil:
    """Sends payload[0:bytes] to the flow's other end, in datagrams of `size` (0: one); why they died, 0 if they didn't."""
    cdef Destination to
    cdef uint32_t at = 0, step, now
    cdef int fd = aim(sw, flow, how, &to)
    cdef int reason = 0, failed
    if size == 0 or bytes <= size:
        return send_one(sw, port, flow, fd, &to, payload, bytes)
    step = size * (MAX_SEGMENTS if size * MAX_SEGMENTS <= BATCH_BYTES else BATCH_BYTES // size if size < BATCH_BYTES else 1)
    while at < bytes:
        now = bytes - at if bytes - at < step else step
        failed = send_train(sw, port, flow, fd, &to, payload + at, now, size)
        reason = failed if failed else reason
        at += now
    return reason


cdef int aim(Switch *sw, Flow *flow, const Sending *how, Destination *to) noexcept nogil:
    """Addresses a message and prepares the socket for it, whose descriptor is returned."""
    cdef Mapping *mapping
    if flow.direction == FLOW_IN:
        address_client(sw, flow, to)
        return sw.nat.listeners[flow.mapping].fd
    mapping = &udp_of(sw).mappings[flow.mapping]
    address_to(to, flow.target, flow.outside_port, 0, False)
    if mapping.ttl != how.ttl:
        mapping.ttl = how.ttl
        set_ttl(mapping.fd, mapping.ipv6, how.ttl)
    if mapping.tos != how.tos:
        mapping.tos = how.tos
        set_tos(mapping.fd, mapping.ipv6, how.tos)
    if mapping.whole != how.whole:
        mapping.whole = how.whole
        set_fragmenting(mapping.fd, mapping.ipv6, not how.whole)
    return mapping.fd


cdef int send_train(Switch *sw, Port *port, Flow *flow, int fd, const Destination *to, const uint8_t *payload, uint32_t bytes,
                    uint32_t size) noexcept nogil:
    """Datagrams of `size` in one message, or one by one where the kernel refuses that."""
    cdef uint32_t at = 0, now
    cdef int reason, error
    if sw.nat.gso and bytes > size:
        error = send_message(fd, to, payload, bytes, size)
        if error == 0:
            return 0
        if error == EAGAIN or error == ENOBUFS:
            return <int>Drop.NAT_BUSY
    while at < bytes:
        now = bytes - at if bytes - at < size else size
        port.credit -= COPY_COST
        reason = send_one(sw, port, flow, fd, to, payload + at, now)
        if reason:          # the rest has the same size and target
            return reason
        at += now
    return 0


cdef int send_one(Switch *sw, Port *port, Flow *flow, int fd, const Destination *to, const uint8_t *payload,
                  uint32_t bytes) noexcept nogil:
    """One message; an earlier one's failure is heard and the message sent again, its own is the container's to hear."""
    cdef int error = send_message(fd, to, payload, bytes, 0)
    cdef uint32_t mtu = 0
    if error == 0:
        return 0
    if error == EAGAIN or error == ENOBUFS:
        return <int>Drop.NAT_BUSY
    mtu = errors_of(sw, port, flow, fd)
    if mtu == 0:
        error = send_message(fd, to, payload, bytes, 0)
        if error == 0:
            return 0
        if error == EMSGSIZE:
            mtu = errors_of(sw, port, flow, fd)
    return failed_for(sw, port, flow, error, mtu, payload, bytes)


cdef uint32_t errors_of(Switch *sw, Port *port, Flow *flow, int fd) noexcept nogil:
    """Hears the errors that wait at the flow's socket; the MTU that our own kernel named, 0 for none."""
    if flow.direction == FLOW_IN:
        return heed_errors(sw, fd, NULL, &sw.nat.listeners[flow.mapping])
    return heed_errors(sw, fd, &udp_of(sw).mappings[flow.mapping], NULL)


cdef int failed_for(Switch *sw, Port *port, Flow *flow, int error, uint32_t mtu, const uint8_t *payload,
                    uint32_t bytes) noexcept nogil:
    """Tells the container of a datagram that could not be sent, of which a UDP header is quoted, or the echo request's own."""
    cdef uint8_t header[8]
    if flow.protocol == UDP:
        write_header(header, flow.inside_port, flow.outside_port, 8 + bytes)
    else:
        memcpy(header, payload, 8)
        write16(header + 4, flow.inside_port)
    if error == EMSGSIZE and mtu:
        complain_flow(sw, port, flow, NULL, 2 if flow.ipv6 else 3, 0 if flow.ipv6 else 4, mtu, header, 8)
        return <int>Drop.NAT_TOO_BIG
    complain_errno(sw, port, flow, error, header, 8)
    return <int>Drop.NAT_UNREACHABLE


cdef void write_header(uint8_t *out, uint16_t sport, uint16_t dport, uint32_t length) noexcept nogil:
    """A UDP header without checksum."""
    write16(out, sport)
    write16(out + 2, dport)
    write16(out + 4, length)
    write16(out + 6, 0)


# ---- from the sockets


cdef void udp_ready(Switch *sw, uint32_t number, uint32_t generation, uint32_t events) noexcept nogil:
    """A mapping's socket has something: errors first, so that they come before what was received after them."""
    cdef Mapping *mapping = &udp_of(sw).mappings[number] if number < udp_of(sw).untouched else NULL
    if mapping == NULL or not mapping.used or (mapping.generation ^ generation) & 0xFFFFFF or sw.ports[mapping.port] == NULL:
        return
    if events & EPOLLERR:
        heed_errors(sw, mapping.fd, mapping, NULL)
    if events & EPOLLIN:
        receive(sw, sw.ports[mapping.port], mapping.fd, mapping, NULL)


cdef void udp_published(Switch *sw, Listener *listener, uint32_t events) noexcept nogil:
    """The same for a published port's socket."""
    if events & EPOLLERR:
        heed_errors(sw, listener.fd, NULL, listener)
    if events & EPOLLIN and sw.ports[listener.port] != NULL:
        receive(sw, sw.ports[listener.port], listener.fd, NULL, listener)


# ---- the end


cdef void udp_due(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """A flow's timer rang: it ends, or was seen meanwhile and goes on."""
    cdef uint64_t due_ns = flow.seen_ns + idle_seconds(sw, flow) * <uint64_t>1000000000
    if due_ns > sw.now_ns:
        flow_due(&sw.nat.conntrack, flow, due_ns, sw.now_ns)
    else:
        udp_end(sw, port, flow)


cdef void udp_end(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """Forgets a flow; what was gathered of it leaves before."""
    if udp_of(sw).batch.flow == flow.number:
        udp_flush(sw)
    if udp_of(sw).train.flow == flow.number:
        train_leaves(sw)
    report_closed(sw, flow)
    unlink_flow(sw, port, flow)
    flow_remove(&sw.nat.conntrack, &port.share, flow)


cdef void udp_listen(Switch *sw, uint32_t number) noexcept nogil:
    """A published UDP port's socket was handed over: from now on it tells which of the host's addresses a datagram came to."""
    hear_clients(sw.nat.listeners[number].fd, sw.nat.gro)


cdef void udp_unpublished(Switch *sw, uint32_t number) noexcept nogil:
    """A published port goes: so do the flows that answer through its socket, which is still open."""
    cdef Flow *flow
    while udp_of(sw).listened[number] != NO_FLOW:
        flow = &sw.nat.conntrack.flows[udp_of(sw).listened[number]]
        udp_end(sw, sw.ports[flow.port], flow)
