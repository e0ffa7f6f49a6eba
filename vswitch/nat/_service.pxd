# SPDX-License-Identifier: Apache-2.0
# What a TCP connection gets when something has happened; the theory stands in _service.pyx.
from libc.stdint cimport uint32_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow

cdef void touch(Switch *sw, Flow *flow) noexcept nogil
cdef void tcp_flush(Switch *sw) noexcept nogil
cdef void tcp_ready(Switch *sw, uint32_t number, uint32_t generation, uint32_t events) noexcept nogil
cdef void tcp_serve(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void tcp_due(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void arm(Switch *sw, Flow *flow, bint restart) noexcept nogil
