# SPDX-License-Identifier: Apache-2.0
"""Echo through the gateway: requests leave through a ping or raw socket, and only what comes back from there is ever a reply.

A ping socket is given the request as it is and puts its own identifier and checksum in; over a raw one the identifier is
the mapping's and the IPv4 checksum ours to make (the kernel makes ICMPv6's). A reply gets the container's identifier back
and a whole new checksum, for ICMPv6's covers the addresses, which have changed. A raw IPv4 socket shows replies that nobody
has verified yet, with their IP header.

The TTL of a reply is handed on less one, so that the container sees as far into the path as it would behind any router.
"""
from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy, memset

from vswitch.nat._conntrack cimport flow_assure
from vswitch.nat._emit cimport emit
from vswitch.nat._mappings cimport flow_of_peer
from vswitch.nat._nat cimport Outgoing
from vswitch.nat._udp cimport send_out, udp_of
from vswitch.wire._bytes cimport read16, write16
from vswitch.wire._checksum cimport complement, pseudo_sum, sum_bytes

cdef enum:
    ICMP = 1
    ICMPV6 = 58
    UNTOLD_TTL = 64         # of a reply whose TTL the kernel didn't tell


cdef int echo_out(Switch *sw, Port *port, Flow *flow, const Sending *how, const Packet *packet) noexcept nogil:
    """An echo request; why it died, 0 if it didn't."""
    cdef const Mapping *mapping = &udp_of(sw).mappings[flow.mapping]
    cdef uint8_t *message = udp_of(sw).message
    cdef uint16_t checksum = 0
    if not mapping.raw:
        return send_out(sw, port, flow, how, packet.l4, packet.l4_bytes, 0)
    memcpy(message, packet.l4, packet.l4_bytes)
    write16(message + 4, mapping.wire_id)
    memset(message + 2, 0, 2)
    if not packet.ipv6:
        checksum = complement(sum_bytes(message, packet.l4_bytes, 0))
        memcpy(message + 2, &checksum, 2)
    return send_out(sw, port, flow, how, message, packet.l4_bytes, 0)


cdef bint echo_in(Switch *sw, Port *port, Mapping *mapping, Arrival *arrival) noexcept nogil:
    """What a mapping's socket received: a reply to the container, or nothing of its business (False)."""
    cdef uint8_t *message = arrival.data
    cdef uint32_t bytes = arrival.bytes, header
    cdef Flow *flow
    if mapping.raw and not mapping.ipv6:
        header = (message[0] & 15) * 4 if bytes else 0
        if header < 20 or bytes < header + 8 or complement(sum_bytes(message + header, bytes - header, 0)) != 0:
            return False
        arrival.ttl = message[8]
        message += header
        bytes -= header
    if bytes < 8 or message[0] != (129 if mapping.ipv6 else 0) or message[1] != 0:
        return False
    if mapping.raw and read16(message + 4) != mapping.wire_id:
        return False
    flow = flow_of_peer(sw, mapping, arrival.peer, 0)
    if flow == NULL:
        return False
    flow.seen_ns = sw.now_ns
    flow.in_packets += 1
    flow.in_bytes += bytes - 8
    flow_assure(&sw.nat.conntrack, &port.share, flow)
    reply(sw, port, flow, message, bytes, arrival.ttl)
    return True


cdef void reply(Switch *sw, Port *port, const Flow *flow, uint8_t *message, uint32_t bytes, uint8_t ttl) noexcept nogil:
    """Hands an echo reply to the container."""
    cdef Outgoing out
    cdef uint64_t total = 0
    cdef uint16_t checksum
    write16(message + 4, flow.inside_port)
    memset(message + 2, 0, 2)
    if flow.ipv6:
        total = pseudo_sum(flow.outside, 16, ICMPV6, bytes) + sum_bytes(flow.inside, 16, 0)
    checksum = complement(sum_bytes(message, bytes, total))
    memcpy(message + 2, &checksum, 2)
    out.l4, out.l4_bytes, out.protocol, out.ipv6 = message, bytes, ICMPV6 if flow.ipv6 else ICMP, flow.ipv6
    out.ttl, out.tos = UNTOLD_TTL if ttl == 0xFF or ttl == 0 else (ttl - 1 if ttl > 1 else 1), 0
    out.source = <const uint8_t *>flow.outside
    out.destination = <const uint8_t *>flow.inside
    out.mac = <const uint8_t *>flow.mac
    out.gso_size, out.complete = 0, True
    emit(sw, port, &out)


cdef bint quote_echo(const Mapping *mapping, const Flow *flow, uint8_t *message, uint32_t bytes) noexcept nogil:
    """Makes the echo request that an error quotes the container's own again; False when it is somebody else's."""
    cdef uint16_t checksum
    cdef uint64_t total = 0
    if bytes < 8 or message[0] != (128 if mapping.ipv6 else 8) or (mapping.raw and read16(message + 4) != mapping.wire_id):
        return False
    write16(message + 4, flow.inside_port)
    memset(message + 2, 0, 2)
    if flow.ipv6:
        total = pseudo_sum(flow.inside, 16, ICMPV6, bytes) + sum_bytes(flow.outside, 16, 0)
    checksum = complement(sum_bytes(message, bytes, total))
    memcpy(message + 2, &checksum, 2)
    return True
