# SPDX-License-Identifier: Apache-2.0
# Packets for containers, and the ICMP errors about those that came from them; the theory stands in _emit.pyx.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow
from vswitch.nat._nat cimport Outgoing, Packet

cdef enum:
    COMPLAINT_BURST = 64    # ICMP errors that one container may be sent at once: a traceroute with all its probes under way
    COMPLAINTS_PER_S = 128  # and per second after that

cdef bint gateway_address(Switch *sw, uint16_t number, bint ipv6, uint8_t *out) noexcept nogil
cdef void emit(Switch *sw, Port *port, const Outgoing *out) noexcept nogil
cdef void complain_packet(Switch *sw, Port *port, const Packet *packet, uint8_t kind, uint8_t code, uint32_t info) noexcept nogil
cdef void complain_flow(Switch *sw, Port *port, const Flow *flow, const uint8_t *offender, uint8_t kind, uint8_t code, uint32_t info, const uint8_t *l4, uint32_t l4_bytes) noexcept nogil
cdef bint complain_errno(Switch *sw, Port *port, const Flow *flow, int error, const uint8_t *l4, uint32_t l4_bytes) noexcept nogil
