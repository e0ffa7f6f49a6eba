# SPDX-License-Identifier: Apache-2.0
"""The way out of a network: a packet for the gateway's MAC that is not for the gateway itself.

Enters: a frame from a container. Leaves: its payload through a host socket (_tcp, _udp), an ICMP error or reset back to the container, or a
drop with a reason. In the order of the functions below:

    read_ip         the IP header against the frame, its checksum
    decide          where it may go: the world, the host's loopback (where the network allows that), nowhere
    guard           the source address is the port's own, as the neighbour table has it
    put_together    a fragment waits for the others
    read_l4         the L4 header against the packet, its checksum unless the container's kernel left it unfinished for us
    resolver        port 53 of the gateway, where control serves it: datagrams are punted, connections are the translator's
    hand_over       to the protocol's translator

Never handed to a socket, since it would reach the host's loopback, a group, or another network's containers by the host's own routes: 0/8,
127/8, 224/4 and above; ::, ::1, mapped addresses, ff00::/8, fe80::/10, and every subnet of every network of this switch.

The loop calls nat_ready() for a host socket's event, nat_burst_done() after each port's burst and nat_turn() once per turn: answers of
the dialer, timers, and flows with work left over.
"""
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport close

from vswitch._fastpath cimport MAX_PORTS, count_drops
from vswitch.arp._neighbours cimport GATEWAY_PORT, Neighbour, neighbour_find
from vswitch.datapath._drops cimport Drop
from vswitch.datapath._ring cimport add_relaxed
from vswitch.nat._connection cimport tcp_abort, tcp_close, tcp_open
from vswitch.nat._addresses cimport is_forbidden, lies_in
from vswitch.nat._conntrack cimport (
    NO_FLOW, TIMERS_PER_TURN, conntrack_close, conntrack_open, conntrack_patience_ns, flow_find, flow_next_due, flow_next_run, flow_run,
)
from vswitch.nat._dialer cimport dialer_close, dialer_open, dialer_wake, take_results
from vswitch.nat._emit cimport complain_packet
from vswitch.nat._listen cimport STALL_NS, listen_again, listen_close, listen_forget, listen_open, listener_ready
from vswitch.nat._nat cimport EMIT_BYTES, EMIT_ROOM, POLL_FLOW, POLL_LISTENER, POLL_MAPPING, Packet
from vswitch.nat._reassembly cimport (
    MAX_REASSEMBLIES, reassemble, reassemblies_close, reassemblies_expire, reassemblies_forget, reassemblies_open,
)
from vswitch.nat._segments cimport TCP_SYN
from vswitch.nat._service cimport tcp_due, tcp_flush, tcp_ready, tcp_serve
from vswitch.nat._shares cimport may_call
from vswitch.nat._sockets cimport (
    AF_INET, AF_INET6, SO_PEEK_OFF, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, is_mapped, setsockopt, socket,
)
from vswitch.nat._tcp cimport tcp_out
from vswitch.nat._udp cimport udp_close, udp_due, udp_end, udp_flush, udp_open, udp_out, udp_ready
from vswitch.wire._bytes cimport read16
from vswitch.wire._checksum cimport complement, pseudo_sum, sum_bytes
from vswitch.wire._vnet cimport GSO_UDP_L4, VNET_NEEDS_CSUM

cdef enum:
    ETHERNET = 14
    ICMP = 1
    TCP = 6
    UDP = 17
    FRAGMENT = 44
    ICMPV6 = 58
    RUNS_PER_TURN = 256
    ENDS_PER_TURN = 256     # flows of a container that leaves
    MAX_EXTENSIONS = 8      # of an IPv6 packet: more is no honest packet
    NOT_OURS = -1           # translate(): the gateway itself is meant, or there is no way out: it answers
    ANSWER = -3             # for the gateway, which is what a client of a published port may appear as
    WAITING = -2            # a fragment, kept until the others are there
    DOMAIN = 53


cdef bint nat_open(Switch *sw, uint32_t capacity, uint32_t descriptors, uint64_t seed) noexcept nogil:
    """Makes all tables, empty; False when memory or descriptors are short."""
    cdef bint fits = conntrack_open(&sw.nat.conntrack, capacity, descriptors, seed)
    sw.nat.random = seed * <uint64_t>0x9E3779B97F4A7C15 + 1
    sw.nat.tx = <uint8_t *>malloc(EMIT_ROOM + EMIT_BYTES)
    fits = reassemblies_open(&sw.nat.reassemblies, MAX_REASSEMBLIES) and fits
    fits = dialer_open(sw) and fits
    fits = listen_open(sw) and fits
    fits = tcp_open(sw) and fits
    sw.nat.peek4, sw.nat.peek6 = kernel_peeks(AF_INET), kernel_peeks(AF_INET6)
    return udp_open(sw) and fits and sw.nat.tx != NULL


cdef bint kernel_peeks(int family) noexcept nogil:
    """Whether a TCP socket of the family can be read at an offset and keep its data (IPv4: Linux 6.9, IPv6: 6.10)."""
    cdef int offset = 0, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)
    cdef bint works
    if fd < 0:
        return False
    works = setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) == 0
    close(fd)
    return works


cdef void nat_close(Switch *sw) noexcept nogil:
    """Ends every flow and gives everything back but the listeners' sockets, which are control's."""
    cdef int index
    sw.nat.dial_inline = 1
    take_results(sw)
    for index in range(MAX_PORTS):
        if sw.ports[index] != NULL and sw.nat.conntrack.flows != NULL:
            sw.ports[index].gone = 1
            while not nat_forget_port(sw, sw.ports[index]):
                pass
    udp_close(sw)
    tcp_close(sw)
    listen_close(sw)
    dialer_close(sw)
    reassemblies_close(&sw.nat.reassemblies)
    conntrack_close(&sw.nat.conntrack)
    free(sw.nat.own.entries)
    free(sw.nat.host_addresses.entries)
    free(sw.nat.tx)


# ---- a packet on its way out


cdef int translate(Switch *sw, Network *network, Port *port, Frame *frame) noexcept nogil:
    """An untagged IP packet for the gateway's MAC: 0 when a translator took it, NOT_OURS, or why it died."""
    cdef Packet packet
    cdef int verdict, purpose
    cdef bint pieces
    memset(&packet, 0, sizeof(Packet))
    packet.ip = frame.data + ETHERNET
    packet.total = frame.length - ETHERNET
    packet.ipv6 = frame.ethertype == 0x86DD
    memcpy(packet.mac, frame.data + 6, 6)
    verdict = read_ip(&packet)
    purpose = decide(sw, network, port, &packet) if verdict == 0 else verdict
    if purpose != 0 and purpose != ANSWER:
        return purpose
    if packet.ttl <= 1 and purpose == 0:
        complain_packet(sw, port, &packet, 3 if packet.ipv6 else 11, 0, 0)
        return Drop.TTL_EXPIRED
    pieces = is_fragment(&packet)
    if pieces:
        verdict = put_together(sw, port, frame, &packet)
    if verdict == 0:
        verdict = read_l4(frame, &packet)
    if verdict == WAITING:
        return 0
    if verdict == 0 and packet.local and network.dns and packet.dport == DOMAIN and not is_answer(sw, port, &packet):
        return resolver(sw, port, &packet, pieces)
    if purpose == ANSWER and (verdict or not is_answer(sw, port, &packet)):
        return NOT_OURS
    if verdict:
        return verdict
    if frame.vnet.gso_type == GSO_UDP_L4:
        packet.gso_size = frame.vnet.gso_size
    return hand_over(sw, port, &packet)


cdef bint is_answer(Switch *sw, const Port *port, const Packet *packet) noexcept nogil:
    """Whether a packet for the gateway belongs to a client that appears as it."""
    return flow_find(&sw.nat.conntrack, port.network, packet.protocol, packet.inside, packet.sport, packet.outside, packet.dport) != NULL


cdef int resolver(Switch *sw, Port *port, Packet *packet, bint pieces) noexcept nogil:
    """A question for the gateway's resolver. One datagram in pieces is more than any question, and control takes whole frames. A connection
    that comes too soon after the others gets no answer, and so is tried again later."""
    if packet.protocol == TCP:
        if packet.l4[13] & TCP_SYN and not may_call(sw, port):
            return Drop.PUNT_RATE
        packet.service = 1
        memcpy(packet.target, packet.outside, 16)
        return hand_over(sw, port, packet)
    return Drop.PUNT_OVERSIZED if pieces else TO_CONTROL


cdef int hand_over(Switch *sw, Port *port, const Packet *packet) noexcept nogil:
    """To the protocol's translator."""
    cdef int verdict
    if packet.protocol == TCP:
        verdict = tcp_out(sw, port, packet)
    else:
        verdict = udp_out(sw, port, packet)
    if verdict == 0:
        add_relaxed(&port.counters.translated, 1)
    return verdict


cdef int read_ip(Packet *packet) noexcept nogil:
    """Header and addresses. `total` comes in as the bytes there are and leaves as the packet's own."""
    return read_ip6(packet) if packet.ipv6 else read_ip4(packet)


cdef inline bint is_fragment(const Packet *packet) noexcept nogil:
    if packet.ipv6:
        return packet.protocol == FRAGMENT
    return read16(packet.ip + 6) & 0x3FFF != 0


cdef int read_ip4(Packet *packet) noexcept nogil:
    """RFC 791 section 3.1."""
    cdef const uint8_t *ip = packet.ip
    cdef uint32_t room = packet.total
    if room < 20 or ip[0] >> 4 != 4:
        return Drop.IP_MALFORMED
    packet.ip_bytes = (ip[0] & 15) * 4
    packet.total = read16(ip + 2)
    if packet.ip_bytes < 20 or packet.total < packet.ip_bytes or packet.total > room:
        return Drop.IP_MALFORMED
    if complement(sum_bytes(ip, packet.ip_bytes, 0)) != 0:
        return Drop.IP_CHECKSUM
    packet.protocol, packet.ttl, packet.tos, packet.dont_fragment = ip[9], ip[8], ip[1], ip[6] >> 6 & 1
    memset(packet.inside, 0, 10)
    packet.inside[10] = packet.inside[11] = 0xFF
    memcpy(packet.outside, packet.inside, 12)
    memcpy(&packet.inside[12], ip + 12, 4)
    memcpy(&packet.outside[12], ip + 16, 4)
    return 0


cdef int read_ip6(Packet *packet) noexcept nogil:
    """RFC 8200 section 3; extension headers are skipped, up to a fragment header. A mapped address, which is IPv4's here, is no address."""
    cdef const uint8_t *ip = packet.ip
    cdef uint32_t room = packet.total, at = 40
    cdef int extensions = 0
    if room < 40 or ip[0] >> 4 != 6:
        return Drop.IP_MALFORMED
    packet.total = 40 + read16(ip + 4)
    if packet.total > room:
        return Drop.IP_MALFORMED
    packet.protocol = ip[6]
    while packet.protocol == 0 or packet.protocol == 43 or packet.protocol == 60:
        if at + 8 > packet.total or extensions == MAX_EXTENSIONS or (packet.protocol == 43 and ip[at + 3]):
            return Drop.IP_MALFORMED
        packet.protocol = ip[at]
        at += (ip[at + 1] + 1) * 8
        extensions += 1
    if at > packet.total:
        return Drop.IP_MALFORMED
    packet.ip_bytes, packet.ttl, packet.dont_fragment = at, ip[7], 1
    packet.tos = <uint8_t>((ip[0] & 15) << 4 | ip[1] >> 4)
    memcpy(packet.inside, ip + 8, 16)
    memcpy(packet.outside, ip + 24, 16)
    return Drop.NAT_FORBIDDEN if is_mapped(packet.inside) or is_mapped(packet.outside) else 0


cdef int guard(Switch *sw, Port *port, const Packet *packet) noexcept nogil:
    """A port sends from its own addresses only; one without a guard from any that nobody else has."""
    cdef const Neighbour *owner = neighbour_find(&sw.neighbours, port.network, packet.inside)
    if owner == NULL:
        return Drop.IP_SPOOF if port.guard else 0
    return 0 if owner.port == port.index else Drop.IP_SPOOF


cdef int decide(Switch *sw, Network *network, Port *port, Packet *packet) noexcept nogil:
    """Where the packet may go, and to whom a socket would send it; ANSWER if it is for the gateway and may belong to a known client."""
    cdef const Neighbour *local = neighbour_find(&sw.neighbours, port.network, packet.outside)
    cdef uint8_t protocol = packet.protocol
    cdef int verdict
    if local == NULL and (not network.way_out.open or lies_in(&sw.nat.own, packet.outside)):
        return NOT_OURS
    if local != NULL:
        if protocol == FRAGMENT:
            protocol = packet.ip[packet.ip_bytes] if packet.total > packet.ip_bytes else 0
        if local.port != GATEWAY_PORT or (protocol != TCP and protocol != UDP):
            return NOT_OURS
        if not network.way_out.host_loopback and not network.dns and port.share.flows == 0:
            return NOT_OURS
        packet.local = 1
    verdict = guard(sw, port, packet)
    if verdict:
        return verdict
    if local == NULL:
        memcpy(packet.target, packet.outside, 16)
        return Drop.NAT_FORBIDDEN if is_forbidden(packet.outside) else 0
    if not network.way_out.host_loopback:
        return ANSWER
    if packet.ipv6:
        packet.target[15] = 1
    else:
        packet.target[10] = packet.target[11] = 0xFF
        packet.target[12], packet.target[15] = 127, 1
    return 0


cdef int put_together(Switch *sw, Port *port, const Frame *frame, Packet *packet) noexcept nogil:
    """A fragment: WAITING for the others, or the whole packet."""
    cdef uint32_t whole = 0
    cdef int reason = 0, verdict
    if frame.vnet.flags & VNET_NEEDS_CSUM:
        return Drop.BAD_VNET_HEADER
    packet.ip = reassemble(&sw.nat.reassemblies, port.index, packet.ip, packet.total, sw.now_ns, &whole, &reason)
    count_fragments(sw)
    if packet.ip == NULL:
        return reason if reason else WAITING
    packet.total = whole
    verdict = read_ip(packet)
    return Drop.IP_MALFORMED if verdict == 0 and is_fragment(packet) else verdict


cdef void count_fragments(Switch *sw) noexcept nogil:
    """Fragments that waited and died with another one, or with time."""
    cdef Port *port = sw.ports[sw.nat.reassemblies.lost_port]
    if sw.nat.reassemblies.lost and port != NULL:
        count_drops(sw, port, <Drop>sw.nat.reassemblies.lost_reason, sw.nat.reassemblies.lost)


cdef void expire_fragments(Switch *sw) noexcept nogil:
    """Packets of which the rest did not come in time; their senders hear of it where the first fragment came (RFC 792, RFC 8200 section 4.5)."""
    cdef const uint8_t *first = NULL
    cdef const Neighbour *sender
    cdef Packet packet
    cdef Port *port
    memset(&packet, 0, sizeof(Packet))
    while reassemblies_expire(&sw.nat.reassemblies, sw.now_ns, &first, &packet.total):
        count_fragments(sw)
        port = sw.ports[sw.nat.reassemblies.lost_port]
        if first == NULL or port == NULL:
            continue
        packet.ip, packet.ipv6 = first, first[0] >> 4 == 6
        if read_ip(&packet):
            continue
        sender = neighbour_find(&sw.neighbours, port.network, packet.inside)
        if sender != NULL and sender.port == port.index:
            memcpy(packet.mac, sender.mac, 6)
            complain_packet(sw, port, &packet, 3 if packet.ipv6 else 11, 1, 0)


cdef int read_l4(const Frame *frame, Packet *packet) noexcept nogil:
    """L4 header, ports and checksum."""
    cdef const uint8_t *l4 = packet.ip + packet.ip_bytes
    cdef uint32_t bytes = packet.total - packet.ip_bytes
    cdef bint unfinished = frame.vnet.flags & VNET_NEEDS_CSUM != 0
    packet.l4, packet.l4_bytes = l4, bytes
    if packet.protocol == TCP:
        if bytes < 20 or l4[12] >> 4 < 5 or (l4[12] >> 4) * 4 > <int>bytes:
            return Drop.NAT_MALFORMED
    elif packet.protocol == UDP:
        if bytes < 8 or read16(l4 + 4) < 8 or read16(l4 + 4) > bytes:
            return Drop.NAT_MALFORMED
        packet.l4_bytes = read16(l4 + 4)
        unfinished = unfinished or (not packet.ipv6 and read16(l4 + 6) == 0)
    elif packet.protocol == (ICMPV6 if packet.ipv6 else ICMP):
        if bytes < 8:
            return Drop.NAT_MALFORMED
        if l4[0] != (128 if packet.ipv6 else 8) or l4[1] != 0:
            return Drop.NAT_UNSUPPORTED
    else:
        return NOT_OURS
    if not unfinished and complement(l4_sum(packet)) != 0:
        return Drop.L4_CHECKSUM
    if packet.protocol == TCP or packet.protocol == UDP:
        packet.sport, packet.dport = <uint16_t>read16(l4), <uint16_t>read16(l4 + 2)
        return Drop.NAT_MALFORMED if packet.dport == 0 or packet.sport == 0 else 0
    packet.sport = <uint16_t>read16(l4 + 4)
    return 0


cdef uint64_t l4_sum(const Packet *packet) noexcept nogil:
    """The L4 packet's sum, pseudo header included where there is one."""
    cdef uint64_t start = 0
    if packet.ipv6:
        start = pseudo_sum(packet.ip + 8, 32, packet.protocol, packet.l4_bytes)
    elif packet.protocol != ICMP:
        start = pseudo_sum(packet.ip + 12, 8, packet.protocol, packet.l4_bytes)
    return sum_bytes(packet.l4, packet.l4_bytes, start)


# ---- what the loop calls


cdef void nat_ready(Switch *sw, uint64_t key, uint32_t events) noexcept nogil:
    """A descriptor of ours has something to say."""
    cdef uint32_t kind = <uint32_t>(key >> 56), generation = <uint32_t>(key >> 32) & 0xFFFFFF, index = <uint32_t>key
    if kind == POLL_FLOW:
        tcp_ready(sw, index, generation, events)
    elif kind == POLL_MAPPING:
        udp_ready(sw, index, generation, events)
    elif kind == POLL_LISTENER:
        listener_ready(sw, index, generation, events)


cdef void nat_burst_done(Switch *sw) noexcept nogil:
    """What a burst of frames left to be said: acknowledgements, and datagrams gathered for one call."""
    tcp_flush(sw)
    udp_flush(sw)


cdef int64_t nat_patience_ns(const Switch *sw) noexcept nogil:
    """How long the loop may sleep as far as translation is concerned, in ns; -1 for ever."""
    cdef int64_t soonest = conntrack_patience_ns(&sw.nat.conntrack, sw.now_ns)
    if sw.nat.dial_wanted:
        return 0
    if sw.nat.reassemblies.due_ns:
        soonest = sooner(soonest, <int64_t>(sw.nat.reassemblies.due_ns - sw.now_ns))
    if sw.nat.stalled:
        soonest = sooner(soonest, <int64_t>(sw.nat.stalled_at_ns + STALL_NS - sw.now_ns))
    return soonest


cdef inline int64_t sooner(int64_t patience, int64_t left) noexcept nogil:
    """`patience` (-1: for ever), but no longer than `left`, which is negative when overdue."""
    left = left if left > 0 else 0
    return left if patience < 0 or left < patience else patience


cdef void nat_turn(Switch *sw) noexcept nogil:
    """Once per turn of the loop, after the ports."""
    cdef Flow *flow
    cdef uint32_t last, left = TIMERS_PER_TURN
    take_results(sw)
    expire_fragments(sw)
    listen_again(sw)
    while True:
        flow = flow_next_due(&sw.nat.conntrack, sw.now_ns, &left)
        if flow == NULL:
            break
        if flow.protocol == TCP:
            tcp_due(sw, sw.ports[flow.port], flow)
        else:
            udp_due(sw, sw.ports[flow.port], flow)
    last = sw.nat.conntrack.last_run
    left = RUNS_PER_TURN if last != <uint32_t>NO_FLOW else 0
    while left:
        flow = flow_next_run(&sw.nat.conntrack)
        if flow == NULL:
            break
        left = left - 1 if flow.number != last else 0
        tcp_serve(sw, sw.ports[flow.port], flow)
    tcp_flush(sw)
    udp_flush(sw)
    if sw.nat.dial_wanted:
        dialer_wake(sw)


# ---- ends


cdef void end_flow(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """Ends a flow now, whatever it is: both ends of a TCP connection are reset."""
    if flow.protocol == TCP:
        tcp_abort(sw, port, flow, True)
    else:
        udp_end(sw, port, flow)


cdef bint nat_forget_port(Switch *sw, Port *port) noexcept nogil:
    """A container leaves: its flows and listeners end, ENDS_PER_TURN at a time. False while there are more; its port is `gone` already."""
    cdef int left = ENDS_PER_TURN
    while port.share.first:
        if left == 0:
            return False
        end_flow(sw, port, &sw.nat.conntrack.flows[port.share.first - 1])
        left -= 1
    listen_forget(sw, port.index)
    reassemblies_forget(&sw.nat.reassemblies, port.index)
    return True


cdef void nat_kill(Switch *sw, uint32_t number, uint32_t generation) noexcept nogil:
    """A user ends one flow."""
    cdef Flow *flow
    if number >= sw.nat.conntrack.untouched:
        return
    flow = &sw.nat.conntrack.flows[number]
    if flow.used and flow.generation == generation:
        end_flow(sw, sw.ports[flow.port], flow)
