# SPDX-License-Identifier: Apache-2.0
# As whom a port may speak; the theory stands in _guard.pyx.
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from vswitch._fastpath cimport HOLDS_IPV4, HOLDS_IPV6, Frame, Network, Port, Switch
from vswitch.arp._neighbours cimport Neighbour
from vswitch.datapath._drops cimport Drop

cdef Drop guard_ipv4(Switch *sw, Port *port, const Frame *frame) noexcept nogil
cdef Drop guard_ipv6(Switch *sw, Network *network, Port *port, const Frame *frame) noexcept nogil
cdef Drop guard_nd(Switch *sw, Network *network, Port *port, const uint8_t *frame) noexcept nogil
cdef bint hides_nd(const Frame *frame) noexcept nogil
cdef void port_binds(Port *port, const uint8_t *address) noexcept nogil
cdef void port_unbinds(Switch *sw, const Neighbour *entry) noexcept nogil
cdef void forget_claims(Switch *sw, Port *port) noexcept nogil

cdef inline Drop guard_packet(Switch *sw, Network *network, Port *port, const Frame *frame) noexcept nogil:
    """Why an untagged IP packet of a guarded port dies; nearly all come from its first address and cost one comparison."""
    if frame.ethertype == 0x0800:
        if not port.holds & HOLDS_IPV4 or frame.length < 34 or (port.own4[0] and memcmp(frame.data + 26, port.own4, 4) == 0):
            return Drop.FORWARDED
        return guard_ipv4(sw, port, frame)
    if frame.length >= 54 and frame.data[20] == 6 and port.own6[0] and memcmp(frame.data + 22, port.own6, 16) == 0:
        return Drop.FORWARDED
    return guard_ipv6(sw, network, port, frame)
