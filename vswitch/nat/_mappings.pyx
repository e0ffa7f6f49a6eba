# SPDX-License-Identifier: Apache-2.0
"""The table of mappings: which host socket a container's UDP port or echo identifier has, and the flows on it.

A mapping is opened for the first datagram from an address and port and lives as long as the last of its flows (see
_udp.pyx). Entries never move; `generation` counts their uses. Buckets are hashed with conntrack's seed, since containers
choose what is hashed.

Room: MAX_MAPPINGS, and a host descriptor each, of which a container gets its share (_conntrack.pyx). A container that wants
more loses its oldest unassured flows (_shares.pyx); where that doesn't help, the datagram is dropped and answered by
'host unreachable', which is what RFC 6888 REQ-8 asks of a translator that is short of something.
"""
from libc.errno cimport EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM, EACCES, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport close

from vswitch._fastpath cimport EVENT_NO_PING, Event
from vswitch.datapath._drops cimport Drop
from vswitch.datapath._ring cimport ring_commit, ring_reserve
from vswitch.nat._addresses cimport is_loopback
from vswitch.nat._conntrack cimport FLOW_IN, FLOW_OUT, NO_FLOW, flow_due, flow_find, flow_remove
from vswitch.nat._datagrams cimport open_echo, open_udp
from vswitch.nat._emit cimport complain_errno, complain_packet
from vswitch.nat._nat cimport POLL_MAPPING
from vswitch.nat._report cimport report_opened
from vswitch.nat._shares cimport claim_descriptor, claim_flow, return_descriptor
from vswitch.nat._sockets cimport EPOLL_CTL_ADD, EPOLLIN, epoll_ctl, epoll_event, poll_key
from vswitch.nat._udp cimport MAX_MAPPINGS, udp_of

cdef enum:
    SOCKET_COST = 65536     # of one that is opened, and of another that is closed for it, as TURN_COST counts: twelve of them are a port's turn
    UDP = 17
    DNS = 53


cdef bint mappings_open(Udp *udp, uint32_t capacity) noexcept nogil:
    """An empty table for at most `capacity` mappings; False when memory is short."""
    cdef uint32_t buckets = 64
    udp.capacity = capacity if capacity < MAX_MAPPINGS else MAX_MAPPINGS
    while buckets < udp.capacity:
        buckets *= 2
    udp.mappings = <Mapping *>calloc(udp.capacity, sizeof(Mapping))
    udp.buckets = <uint32_t *>calloc(buckets, sizeof(uint32_t))
    udp.bucket_mask = buckets - 1
    return udp.mappings != NULL and udp.buckets != NULL


cdef void mappings_close(Udp *udp) noexcept nogil:
    """Closes every socket; their flows are conntrack's."""
    cdef uint32_t i
    for i in range(udp.untouched):
        if udp.mappings[i].used:
            close(udp.mappings[i].fd)
    free(udp.mappings)
    free(udp.buckets)


# ---- a first datagram


cdef Flow *open_flow(Switch *sw, Port *port, const Packet *packet, int *drop) noexcept nogil:
    """The flow of a packet that has none yet, on a new mapping if need be; NULL and the reason when there can't be one."""
    cdef Flow *flow = claim_flow(sw, port, packet.protocol, packet.inside, packet.sport, packet.outside, packet.dport)
    cdef Mapping *mapping
    if flow == NULL:
        short_of(sw, port, packet)
        drop[0] = <int>Drop.NAT_FULL
        return NULL
    flow.ipv6 = packet.ipv6
    memcpy(flow.mac, packet.mac, 6)
    memcpy(flow.target, packet.target, 16)
    mapping = find_mapping(sw, port.network, packet.protocol, packet.inside, packet.sport)
    if mapping != NULL and mapping.port != port.index:
        mapping, drop[0] = NULL, <int>Drop.IP_SPOOF
    elif mapping == NULL:
        mapping = open_mapping(sw, port, packet, flow, drop)
    if mapping == NULL:
        flow_remove(&sw.nat.conntrack, &port.share, flow)
        return NULL
    flow.mapping = <uint32_t>(mapping - udp_of(sw).mappings)
    if is_loopback(packet.target):
        mapping.aliased = 1
        memcpy(mapping.alias, packet.outside, 16)
    start_flow(sw, flow, FLOW_OUT, packet.target, packet.mac, &mapping.first)
    return flow


cdef void start_flow(Switch *sw, Flow *flow, uint8_t direction, const uint8_t *target, const uint8_t *mac,
                     uint32_t *first) noexcept nogil:
    """Puts a flow whose `mapping` is set on that one's list and winds its timer."""
    flow.direction = direction
    memcpy(flow.target, target, 16)
    memcpy(flow.mac, mac, 6)
    flow.next_mapped, flow.previous_mapped = first[0], NO_FLOW
    if first[0] != NO_FLOW:
        sw.nat.conntrack.flows[first[0]].previous_mapped = flow.number
    first[0] = flow.number
    flow_due(&sw.nat.conntrack, flow, sw.now_ns + idle_seconds(sw, flow) * <uint64_t>1000000000, sw.now_ns)
    report_opened(sw, flow)


cdef void short_of(Switch *sw, Port *port, const Packet *packet) noexcept nogil:
    """'Host unreachable' (IPv6: 'address unreachable'): something here is used up."""
    complain_packet(sw, port, packet, 1 if packet.ipv6 else 3, 3 if packet.ipv6 else 1, 0)


cdef uint32_t idle_seconds(const Switch *sw, const Flow *flow) noexcept nogil:
    """How long a flow may be silent."""
    if flow.protocol != UDP:
        return sw.nat.conntrack.timeouts.icmp
    if flow.outside_port == DNS:
        return sw.nat.conntrack.timeouts.dns
    return sw.nat.conntrack.timeouts.udp_stream if flow.in_packets and flow.out_packets else sw.nat.conntrack.timeouts.udp


# ---- mappings


cdef uint32_t *bucket_of(Switch *sw, uint16_t network, uint8_t protocol, const uint8_t *inside,
                         uint16_t inside_port) noexcept nogil:
    cdef uint64_t words[2]
    cdef uint64_t hash = sw.nat.conntrack.seed ^ (<uint64_t>network << 32 | <uint64_t>protocol << 16 | inside_port)
    memcpy(words, inside, 16)
    hash = (hash ^ hash >> 29 ^ words[0]) * <uint64_t>0xFF51AFD7ED558CCD
    hash = (hash ^ hash >> 32 ^ words[1]) * <uint64_t>0xC4CEB9FE1A85EC53
    return &udp_of(sw).buckets[<uint32_t>(hash >> 32) & udp_of(sw).bucket_mask]


cdef Mapping *find_mapping(Switch *sw, uint16_t network, uint8_t protocol, const uint8_t *inside,
                           uint16_t inside_port) noexcept nogil:
    """The mapping of a container's address and port, or NULL."""
    cdef uint32_t number = bucket_of(sw, network, protocol, inside, inside_port)[0]
    cdef Mapping *mapping
    while number:
        mapping = &udp_of(sw).mappings[number - 1]
        if (mapping.inside_port == inside_port and mapping.network == network and mapping.protocol == protocol
                and memcmp(mapping.inside, inside, 16) == 0):
            return mapping
        number = mapping.next
    return NULL


cdef Mapping *open_mapping(Switch *sw, Port *port, const Packet *packet, const Flow *flow, int *drop) noexcept nogil:
    """A new mapping with its socket in the poller; NULL and the reason, and the container has been told, when that fails."""
    cdef Udp *udp = udp_of(sw)
    cdef Mapping *mapping
    cdef uint32_t number
    drop[0] = <int>Drop.NAT_DESCRIPTORS
    if not claim_descriptor(sw, port, flow):
        short_of(sw, port, packet)
        return NULL
    if udp.spare == 0 and udp.untouched == udp.capacity:
        short_of(sw, port, packet)
        return_descriptor(sw, port)
        return NULL
    number = udp.spare - 1 if udp.spare else udp.untouched
    mapping = &udp.mappings[number]
    if not open_socket(sw, port, packet, flow, number, mapping, drop):
        return_descriptor(sw, port)
        return NULL
    if udp.spare:
        udp.spare = mapping.next
    else:
        udp.untouched += 1
    enter(sw, port, packet, mapping, number)
    return mapping


cdef bint open_socket(Switch *sw, Port *port, const Packet *packet, const Flow *flow, uint32_t number, Mapping *mapping,
                      int *drop) noexcept nogil:
    """Opens the socket that mapping `number` will have; False with the reason when the kernel says no."""
    cdef bint raw = False
    cdef uint16_t wire_id = <uint16_t>(number ^ sw.nat.conntrack.seed >> 16)
    cdef int fd, error
    cdef epoll_event event
    port.credit -= SOCKET_COST
    if packet.protocol == UDP:
        fd = open_udp(&sw.networks[port.network].way_out, packet.ipv6, sw.nat.gro)
    else:
        fd = open_echo(&sw.networks[port.network].way_out, packet.ipv6, wire_id, &raw)
    if fd >= 0:
        event.events = EPOLLIN
        event.data.u64 = poll_key(POLL_MAPPING, mapping.generation + 1, number)
        if epoll_ctl(sw.poller, EPOLL_CTL_ADD, fd, &event) < 0:
            error = errno
            close(fd)
            return refused(sw, port, packet, flow, error, drop)
        mapping.fd, mapping.raw, mapping.wire_id = fd, raw, wire_id
        return True
    return refused(sw, port, packet, flow, errno, drop)


cdef bint refused(Switch *sw, Port *port, const Packet *packet, const Flow *flow, int error, int *drop) noexcept nogil:
    """Tells the container why it got no socket; always False."""
    if error == EMFILE or error == ENFILE or error == ENOBUFS or error == ENOMEM or error == EAGAIN:
        drop[0] = <int>Drop.NAT_DESCRIPTORS
        short_of(sw, port, packet)
    elif packet.protocol != UDP and (error == EPERM or error == EACCES):
        drop[0] = <int>Drop.NAT_PROHIBITED
        complain_packet(sw, port, packet, 1 if packet.ipv6 else 3, 1 if packet.ipv6 else 13, 0)
        report_no_ping(sw, port, error)
    else:
        drop[0] = <int>Drop.NAT_UNREACHABLE
        complain_errno(sw, port, flow, error, packet.l4, packet.l4_bytes)
    return False


cdef void report_no_ping(Switch *sw, const Port *port, int error) noexcept nogil:
    """Lets control log, once, which sysctl would help."""
    cdef Event *event
    if udp_of(sw).told_no_ping:
        return
    event = <Event *>ring_reserve(&sw.events, sizeof(Event))
    if event == NULL:
        return
    event.kind, event.port, event.network, event.error = EVENT_NO_PING, port.index, port.network, error
    ring_commit(&sw.events, sizeof(Event))
    udp_of(sw).told_no_ping = 1
    sw.notify = 1


cdef void enter(Switch *sw, Port *port, const Packet *packet, Mapping *mapping, uint32_t number) noexcept nogil:
    """Puts a mapping whose socket is open into the table."""
    cdef uint32_t *bucket = bucket_of(sw, port.network, packet.protocol, packet.inside, packet.sport)
    mapping.generation += 1
    mapping.used = 1
    mapping.network, mapping.port, mapping.inside_port = port.network, port.index, packet.sport
    mapping.protocol, mapping.ipv6 = packet.protocol, packet.ipv6
    mapping.ttl = mapping.tos = mapping.aliased = mapping.long_trains = 0
    mapping.whole = 2
    memcpy(mapping.inside, packet.inside, 16)
    mapping.first = mapping.recent = NO_FLOW
    mapping.next = bucket[0]
    bucket[0] = number + 1


cdef void close_mapping(Switch *sw, Port *port, Mapping *mapping) noexcept nogil:
    """Its last flow has gone: so do the socket and its place in the table."""
    cdef Udp *udp = udp_of(sw)
    cdef uint32_t number = <uint32_t>(mapping - udp.mappings) + 1
    cdef uint32_t *link = bucket_of(sw, mapping.network, mapping.protocol, mapping.inside, mapping.inside_port)
    while link[0] != number:
        link = &udp.mappings[link[0] - 1].next
    link[0] = mapping.next
    close(mapping.fd)
    mapping.used = 0
    mapping.next = udp.spare
    udp.spare = number
    return_descriptor(sw, port)


# ---- flows of a mapping


cdef Flow *flow_of_peer(Switch *sw, Mapping *mapping, const uint8_t *address, uint16_t port) noexcept nogil:
    """The flow on which a mapping exchanges datagrams with a peer of the host's, or NULL."""
    cdef const uint8_t *outside = address
    cdef Flow *flow
    if mapping.recent != NO_FLOW:
        flow = &sw.nat.conntrack.flows[mapping.recent]
        if flow.outside_port == port and memcmp(flow.target, address, 16) == 0:
            return flow
    if is_loopback(address):
        if not mapping.aliased:
            return NULL
        outside = mapping.alias
    flow = flow_find(&sw.nat.conntrack, mapping.network, mapping.protocol, mapping.inside, mapping.inside_port, outside, port)
    if flow == NULL or flow.direction != FLOW_OUT or memcmp(flow.target, address, 16) != 0:
        return NULL
    mapping.recent = flow.number
    return flow


cdef void unlink_flow(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """Takes a flow off its mapping, which goes with its last one, or off its listener."""
    cdef Udp *udp = udp_of(sw)
    cdef Flow *flows = sw.nat.conntrack.flows
    cdef uint32_t *first = &udp.listened[flow.mapping] if flow.direction == FLOW_IN else &udp.mappings[flow.mapping].first
    if flow.previous_mapped == NO_FLOW:
        first[0] = flow.next_mapped
    else:
        flows[flow.previous_mapped].next_mapped = flow.next_mapped
    if flow.next_mapped != NO_FLOW:
        flows[flow.next_mapped].previous_mapped = flow.previous_mapped
    if flow.direction == FLOW_IN:
        return
    if udp.mappings[flow.mapping].recent == flow.number:
        udp.mappings[flow.mapping].recent = NO_FLOW
    if first[0] == NO_FLOW:
        close_mapping(sw, port, &udp.mappings[flow.mapping])
