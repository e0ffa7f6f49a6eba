# SPDX-License-Identifier: Apache-2.0
# The table of UDP and echo mappings and the flows on them; the theory stands in _udp.pyx.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow
from vswitch.nat._nat cimport Packet
from vswitch.nat._udp cimport Mapping, Udp

cdef bint mappings_open(Udp *udp, uint32_t capacity) noexcept nogil
cdef void mappings_close(Udp *udp) noexcept nogil
cdef Flow *open_flow(Switch *sw, Port *port, const Packet *packet, int *drop) noexcept nogil
cdef void start_flow(Switch *sw, Flow *flow, uint8_t direction, const uint8_t *target, const uint8_t *mac, uint32_t *first) noexcept nogil
cdef Flow *flow_of_peer(Switch *sw, Mapping *mapping, const uint8_t *address, uint16_t port) noexcept nogil
cdef void unlink_flow(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef uint32_t idle_seconds(const Switch *sw, const Flow *flow) noexcept nogil
