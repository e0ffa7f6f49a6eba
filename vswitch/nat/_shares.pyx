# SPDX-License-Identifier: Apache-2.0
"""Early drop: a container that has all it may have of something gets more of it only in place of its own oldest unassured flows.

Shares follow what is free (_conntrack.pyx). The oldest flow need not have what is wanted: one in TIME_WAIT has no host socket, a
datagram's is not half open. So up to GIVE_WAY of them end for one new claim, and a claim that this doesn't help is refused. Others' flows
are never touched.
"""
from vswitch.nat._conntrack cimport flow_add, may_open
from vswitch.nat._tcp cimport MAX_HALF_OPEN
from vswitch.nat._translate cimport end_flow

cdef enum:
    GIVE_WAY = 16


cdef bint give_way(Switch *sw, Port *port, const Flow *spared) noexcept nogil:
    """Ends the container's oldest unassured flow that isn't `spared`; False when it has none."""
    cdef Flow *flows = sw.nat.conntrack.flows
    cdef Flow *oldest
    if port.share.oldest == 0:
        return False
    oldest = &flows[port.share.oldest - 1]
    if oldest == spared:
        if oldest.next_loose == 0:
            return False
        oldest = &flows[oldest.next_loose - 1]
    end_flow(sw, port, oldest)
    return True


cdef Flow *claim_flow(Switch *sw, Port *port, uint8_t protocol, const uint8_t *inside, uint16_t inside_port, const uint8_t *outside,
                      uint16_t outside_port) noexcept nogil:
    """A new flow of a tuple that has none yet; NULL when the container may not have another."""
    cdef Flow *flow = flow_add(&sw.nat.conntrack, &port.share, port.network, protocol, inside, inside_port, outside, outside_port)
    if flow == NULL and give_way(sw, port, NULL):
        flow = flow_add(&sw.nat.conntrack, &port.share, port.network, protocol, inside, inside_port, outside, outside_port)
    if flow != NULL:
        flow.port = port.index
        flow.opened_ns = flow.seen_ns = sw.now_ns
    return flow


cdef bint claim_descriptor(Switch *sw, Port *port, const Flow *spared) noexcept nogil:
    """Counts another host socket on the container's account, for `spared` if that is there already; False when it may not have one."""
    cdef int left = GIVE_WAY
    while not may_open(&sw.nat.conntrack, &port.share):
        if left == 0 or not give_way(sw, port, spared):
            return False
        left -= 1
    port.share.descriptors += 1
    sw.nat.conntrack.descriptors += 1
    return True


cdef void return_descriptor(Switch *sw, Port *port) noexcept nogil:
    port.share.descriptors -= 1
    sw.nat.conntrack.descriptors -= 1


cdef bint claim_half_open(Switch *sw, Port *port) noexcept nogil:
    """Counts another connection whose handshake isn't done; False when the container may not have one."""
    cdef int left = GIVE_WAY
    while port.share.half_open >= MAX_HALF_OPEN:
        if left == 0 or not give_way(sw, port, NULL):
            return False
        left -= 1
    port.share.half_open += 1
    return True


cdef void return_half_open(Port *port) noexcept nogil:
    port.share.half_open -= 1
