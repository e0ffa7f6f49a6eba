# SPDX-License-Identifier: Apache-2.0
# The gateway's way out: what the dataplane's loop asks of translation; the theory stands in _translate.pyx.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from vswitch._fastpath cimport Frame, Network, Port, Switch
from vswitch.nat._conntrack cimport Flow

cdef enum:
    TO_CONTROL = -4         # translate(): a question for control's resolver, to be punted

cdef bint nat_open(Switch *sw, uint32_t capacity, uint32_t descriptors, uint64_t seed) noexcept nogil
cdef void nat_close(Switch *sw) noexcept nogil
cdef int translate(Switch *sw, Network *network, Port *port, Frame *frame) noexcept nogil
cdef void nat_ready(Switch *sw, uint64_t key, uint32_t events) noexcept nogil
cdef void nat_burst_done(Switch *sw) noexcept nogil
cdef int64_t nat_patience_ns(const Switch *sw) noexcept nogil
cdef void nat_turn(Switch *sw) noexcept nogil
cdef void end_flow(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef bint nat_forget_port(Switch *sw, Port *port) noexcept nogil
cdef void nat_kill(Switch *sw, uint32_t number, uint32_t generation) noexcept nogil
