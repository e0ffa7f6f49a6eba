# SPDX-License-Identifier: Apache-2.0
# What a container may have of that which all share; the theory stands in _shares.pyx.
from libc.stdint cimport uint8_t, uint16_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow

cdef Flow *claim_flow(Switch *sw, Port *port, uint8_t protocol, const uint8_t *inside, uint16_t inside_port, const uint8_t *outside, uint16_t outside_port) noexcept nogil
cdef bint claim_descriptor(Switch *sw, Port *port, const Flow *spared) noexcept nogil
cdef void return_descriptor(Switch *sw, Port *port) noexcept nogil
cdef bint claim_half_open(Switch *sw, Port *port) noexcept nogil
cdef void return_half_open(Port *port) noexcept nogil
