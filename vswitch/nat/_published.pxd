# SPDX-License-Identifier: Apache-2.0
# Clients of published UDP ports; the theory stands in _published.pyx.
from libc.stdint cimport uint8_t

from vswitch._fastpath cimport Switch
from vswitch.nat._conntrack cimport Flow
from vswitch.nat._datagrams cimport Arrival, Destination
from vswitch.nat._nat cimport Listener

cdef Flow *flow_of_client(Switch *sw, Listener *listener, const Arrival *arrival, bint may_open) noexcept nogil
cdef void address_client(Switch *sw, const Flow *flow, Destination *to) noexcept nogil
