# SPDX-License-Identifier: Apache-2.0
# What mappings' sockets receive, and the errors that sockets hear; the theory stands in _inbound.pyx.
from libc.stdint cimport uint32_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow
from vswitch.nat._datagrams cimport Arrival
from vswitch.nat._nat cimport Listener
from vswitch.nat._udp cimport Mapping

cdef enum:
    LONG_TRAIN = 8192       # bytes of a message that count as many
    LONG_AT_ONCE = 4        # of those received at once: each is still in the cache when it leaves

cdef void receive(Switch *sw, Port *port, Mapping *mapping) noexcept nogil
cdef uint32_t heed_errors(Switch *sw, int fd, Mapping *mapping, Listener *listener) noexcept nogil
cdef void deliver(Switch *sw, Port *port, Flow *flow, const Arrival *arrival) noexcept nogil
cdef void train_leaves(Switch *sw) noexcept nogil
