# SPDX-License-Identifier: Apache-2.0
"""From the host's sockets to the container: datagrams, and ICMP errors.

Datagrams are received INBOX_MESSAGES at once, or LONG_AT_ONCE where they are long, each with room for its headers before
it. A train that the kernel coalesced goes on as one super-frame, and so do datagrams of one size that came behind each
other on one flow, where the container takes that: one write to its TAP costs far more than to copy them together. Their
sender finds the flow; a sender without one is let in by the filtering rule and gets one, but never at another flow's
expense: what comes unasked evicts nothing.

Errors come through the sockets' error queues (IP_RECVERR): kind, code and the router that sent them, with what it quoted of
the datagram. The container hears the same from that router about the packet as it sent it. An error about a datagram of no
flow is nobody's: the kernel matched it to the socket, and we to an address the container sends to, so a forger has to know
both.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t
from libc.string cimport memcmp, memcpy

from vswitch._fastpath cimport TAKES_UDP, count_drops
from vswitch.datapath._drops cimport Drop
from vswitch.nat._addresses cimport is_loopback, lies_in
from vswitch.nat._conntrack cimport FLOW_OUT, NO_FLOW, Conntrack, Flow, flow_add, flow_assure, flow_find
from vswitch.nat._datagrams cimport INBOX_MESSAGES, Arrival, inbox_read, inbox_receive, next_error
from vswitch.nat._echo cimport echo_in, quote_echo
from vswitch.nat._emit cimport complain_flow, emit
from vswitch.nat._mappings cimport flow_of_peer, start_flow
from vswitch.nat._nat cimport EMIT_ROOM, Outgoing
from vswitch.nat._published cimport flow_of_client
from vswitch.nat._shares cimport may_pump, pumped
from vswitch.nat._sockets cimport SO_ERROR, SOL_SOCKET, getsockopt, socklen_t
from vswitch.nat._udp cimport BATCH_BYTES, ERROR_BYTES, ERRORS_AT_ONCE, FILTER_WALK, MAX_SEGMENTS, Train, udp_of
from vswitch.wire._bytes cimport write16
from vswitch.wire._checksum cimport complement, pseudo_sum, sum_bytes

cdef enum:
    UDP = 17
    UDP_TTL = 64
    LONG_TRAIN = 8192       # bytes of a message that count as many
    LONG_AT_ONCE = 4        # of those received at once: each is still in the cache when it leaves


cdef void receive(Switch *sw, Port *port, int fd, Mapping *mapping, Listener *listener) noexcept nogil:
    """One turn of a mapping's or a listener's socket; what is left is reported again."""
    cdef bint echo = mapping != NULL and mapping.protocol != UDP
    cdef uint8_t *long_trains = &mapping.long_trains if mapping != NULL else &listener.long_trains
    cdef Arrival arrival
    cdef int i, most, got
    while may_pump(sw, port):
        most = LONG_AT_ONCE if long_trains[0] else INBOX_MESSAGES
        got = inbox_receive(&udp_of(sw).inbox, fd, most, EMIT_ROOM + (0 if echo else 8))
        if got <= 0:
            return
        for i in range(got):
            inbox_read(&udp_of(sw).inbox, i, &arrival)
            long_trains[0] = arrival.bytes >= LONG_TRAIN
            pumped(sw, port, arrival.bytes)
            if echo:
                echo_in(sw, port, mapping, &arrival)
            else:
                take(sw, port, mapping, listener, &arrival)
        train_leaves(sw)
        if got < most:
            return


cdef void take(Switch *sw, Port *port, Mapping *mapping, Listener *listener, const Arrival *arrival) noexcept nogil:
    """One datagram or train."""
    cdef Flow *flow
    if listener != NULL:
        flow = flow_of_client(sw, listener, arrival, True)
    else:
        flow = flow_of_peer(sw, mapping, arrival.peer, arrival.peer_port)
        if flow == NULL:
            flow = let_in(sw, port, mapping, arrival)
    if flow == NULL:
        return
    port = sw.ports[flow.port]
    if flow.out_packets:    # one that was let in unasked gives way until the container has answered
        flow_assure(&sw.nat.conntrack, &port.share, flow)
    deliver(sw, port, flow, arrival)


cdef Flow *let_in(Switch *sw, Port *port, Mapping *mapping, const Arrival *arrival) noexcept nogil:
    """A flow for a sender that has none on this mapping, if the network's filtering lets it; else NULL, and it is counted."""
    cdef const uint8_t *outside = &arrival.peer[0]
    cdef bint known = knows(sw, mapping, arrival.peer)
    cdef Conntrack *table = &sw.nat.conntrack
    cdef Flow *flow
    if is_loopback(arrival.peer):
        if not mapping.aliased:
            known = False
        outside = mapping.alias
    elif sw.networks[mapping.network].way_out.endpoint_filtering:
        known = not lies_in(&sw.nat.own, arrival.peer)
    flow = flow_find(table, mapping.network, UDP, mapping.inside, mapping.inside_port, outside, arrival.peer_port)
    if not known or flow != NULL:
        count_drops(sw, port, Drop.NAT_FILTERED, 1)
        return NULL
    flow = flow_add(table, &port.share, mapping.network, UDP, mapping.inside, mapping.inside_port, outside, arrival.peer_port)
    if flow == NULL:
        count_drops(sw, port, Drop.NAT_FULL, 1)
        return NULL
    flow.port, flow.ipv6 = port.index, mapping.ipv6
    flow.opened_ns = flow.seen_ns = sw.now_ns
    flow.mapping = <uint32_t>(mapping - udp_of(sw).mappings)
    start_flow(sw, flow, FLOW_OUT, arrival.peer, sw.nat.conntrack.flows[mapping.first].mac, &mapping.first)
    return flow


cdef bint knows(const Switch *sw, const Mapping *mapping, const uint8_t *address) noexcept nogil:
    """Whether the container has sent to this address, whatever port, as far as the mapping's newest flows tell."""
    cdef const Flow *flows = sw.nat.conntrack.flows
    cdef uint32_t number = mapping.first, left = FILTER_WALK
    while number != NO_FLOW and left:
        if memcmp(flows[number].target, address, 16) == 0:
            return True
        number = flows[number].next_mapped
        left -= 1
    return False


cdef void deliver(Switch *sw, Port *port, Flow *flow, const Arrival *arrival) noexcept nogil:
    """A datagram or train is the container's: it waits for those of its size that follow it, until train_leaves()."""
    cdef Train *train = &udp_of(sw).train
    cdef bint joins = sw.nat.gro and port.vnet and port.gso & TAKES_UDP and not arrival.gso_size and 0 < arrival.bytes <= BATCH_BYTES
    if train.count and not (joins and train.flow == flow.number and arrival.bytes <= train.size
                            and train.whole.bytes + arrival.bytes <= BATCH_BYTES):
        train_leaves(sw)
    if not joins:
        hand_over(sw, port, flow, arrival)
        return
    if train.count == 0:
        train.flow, train.count, train.size, train.whole = flow.number, 1, arrival.bytes, arrival[0]
        return
    if train.count == 1:
        memcpy(train.room + EMIT_ROOM + 8, train.whole.data, train.size)
        train.whole.data, train.whole.gso_size = train.room + EMIT_ROOM + 8, <uint16_t>train.size
    memcpy(train.whole.data + train.whole.bytes, arrival.data, arrival.bytes)
    train.whole.bytes += arrival.bytes
    train.count += 1
    if arrival.bytes < train.size or train.count == MAX_SEGMENTS:
        train_leaves(sw)


cdef void train_leaves(Switch *sw) noexcept nogil:
    """What waits leaves."""
    cdef Train *train = &udp_of(sw).train
    cdef Flow *flow
    if train.count:
        train.count = 0
        flow = &sw.nat.conntrack.flows[train.flow]
        hand_over(sw, sw.ports[flow.port], flow, &train.whole)


cdef void hand_over(Switch *sw, Port *port, Flow *flow, const Arrival *arrival) noexcept nogil:
    """Hands a datagram or train to the container, its header written before the payload."""
    cdef uint8_t *header = arrival.data - 8
    cdef int64_t credit = port.credit   # what comes in is not on the account of what the container may send
    cdef Outgoing out
    flow.seen_ns = sw.now_ns
    flow.in_bytes += arrival.bytes
    flow.in_packets += (arrival.bytes + arrival.gso_size - 1) // arrival.gso_size if arrival.gso_size else 1
    write16(header, flow.outside_port)
    write16(header + 2, flow.inside_port)
    write16(header + 4, 8 + arrival.bytes)
    out.l4, out.l4_bytes, out.protocol, out.ipv6 = header, 8 + arrival.bytes, UDP, flow.ipv6
    out.ttl, out.tos = UDP_TTL, 0
    out.source = <const uint8_t *>flow.outside
    out.destination = <const uint8_t *>flow.inside
    out.mac = <const uint8_t *>flow.mac
    out.gso_size = arrival.gso_size if arrival.gso_size < arrival.bytes else 0
    out.complete = False
    emit(sw, port, &out)
    port.credit = credit


# ---- errors


cdef uint32_t heed_errors(Switch *sw, int fd, Mapping *mapping, Listener *listener) noexcept nogil:
    """Passes the errors that a mapping's or a listener's socket heard on; the MTU that our own kernel named, 0 for none."""
    cdef uint8_t *quoted = udp_of(sw).quote
    cdef uint32_t mtu = 0
    cdef int left = ERRORS_AT_ONCE, error = 0
    cdef socklen_t size = sizeof(error)
    cdef Arrival arrival
    while left and next_error(fd, quoted + 8, ERROR_BYTES, &arrival):
        left -= 1
        if arrival.is_local:
            mtu = arrival.info if arrival.info else mtu
        elif arrival.is_icmp:
            pass_on(sw, mapping, listener, &arrival, quoted)
    if left == ERRORS_AT_ONCE:
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size)
    return mtu


cdef void pass_on(Switch *sw, Mapping *mapping, Listener *listener, const Arrival *arrival, uint8_t *quoted) noexcept nogil:
    """An ICMP error about a datagram to arrival.peer; what it quotes starts 8 bytes into `quoted`."""
    cdef Flow *flow
    if mapping != NULL:
        flow = flow_of_peer(sw, mapping, arrival.peer, arrival.peer_port if mapping.protocol == UDP else 0)
    else:
        flow = flow_of_client(sw, listener, arrival, False)
    if flow == NULL or sw.ports[flow.port] == NULL or flow.ipv6 != arrival.ipv6:
        return
    if flow.protocol == UDP:
        quote_udp(flow, quoted, 8 + arrival.bytes)
        complain(sw, flow, arrival, quoted, 8 + arrival.bytes)
    elif quote_echo(mapping, flow, quoted + 8, arrival.bytes):
        complain(sw, flow, arrival, quoted + 8, arrival.bytes)


cdef void complain(Switch *sw, const Flow *flow, const Arrival *arrival, const uint8_t *l4, uint32_t l4_bytes) noexcept nogil:
    """The MTU is the only thing that an error of ours has to tell beside kind and code."""
    cdef bint too_big = arrival.kind == 2 if flow.ipv6 else (arrival.kind == 3 and arrival.code == 4)
    cdef const uint8_t *offender = NULL
    if arrival.has_offender:
        offender = <const uint8_t *>arrival.offender
    complain_flow(sw, sw.ports[flow.port], flow, offender, arrival.kind, arrival.code, arrival.info if too_big else 0, l4,
                  l4_bytes)


cdef void quote_udp(const Flow *flow, uint8_t *header, uint32_t length) noexcept nogil:
    """The container's UDP header before the payload that was quoted; the checksum is right where all of it was."""
    cdef uint16_t checksum = 0
    cdef uint32_t size = 16 if flow.ipv6 else 4
    write16(header, flow.inside_port)
    write16(header + 2, flow.outside_port)
    write16(header + 4, length)
    memcpy(header + 6, &checksum, 2)
    checksum = complement(sum_bytes(header, length, pseudo_sum(flow.inside + 16 - size, size, UDP, length)
                                    + sum_bytes(flow.outside + 16 - size, size, 0)))
    checksum = checksum if checksum else 0xFFFF
    memcpy(header + 6, &checksum, 2)
