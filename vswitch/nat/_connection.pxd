# SPDX-License-Identifier: Apache-2.0
# How a TCP connection comes to be and how it ends; the theory stands in _connection.pyx.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow

cdef bint tcp_open(Switch *sw) noexcept nogil
cdef void tcp_close(Switch *sw) noexcept nogil
cdef Flow *new_flow(Switch *sw, Port *port, const uint8_t *inside, uint16_t inside_port, const uint8_t *outside, uint16_t outside_port) noexcept nogil
cdef void tcp_dialed(Switch *sw, uint32_t number, uint32_t generation, int32_t fd, int32_t error) noexcept nogil
cdef void tcp_accepted(Switch *sw, Port *port, Flow *flow, int32_t fd) noexcept nogil
cdef void serve_locally(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void connected(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void refused(Switch *sw, Port *port, Flow *flow, int error) noexcept nogil
cdef void establish(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef bint over(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void tcp_abort(Switch *sw, Port *port, Flow *flow, bint reset_host) noexcept nogil
cdef void tcp_end(Switch *sw, Port *port, Flow *flow, bint reset_host) noexcept nogil
