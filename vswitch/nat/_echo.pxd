# SPDX-License-Identifier: Apache-2.0
# Echo requests out, replies in; the theory stands in _echo.pyx.
from libc.stdint cimport uint8_t, uint32_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow
from vswitch.nat._datagrams cimport Arrival
from vswitch.nat._nat cimport Packet
from vswitch.nat._udp cimport Mapping, Sending

cdef int echo_out(Switch *sw, Port *port, Flow *flow, const Sending *how, const Packet *packet) noexcept nogil
cdef bint echo_in(Switch *sw, Port *port, Mapping *mapping, Arrival *arrival) noexcept nogil
cdef bint quote_echo(const Mapping *mapping, const Flow *flow, uint8_t *message, uint32_t bytes) noexcept nogil
