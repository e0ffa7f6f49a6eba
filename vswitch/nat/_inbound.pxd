# SPDX-License-Identifier: Apache-2.0
# What mappings' sockets receive, and the errors that sockets hear; the theory stands in _inbound.pyx.
from libc.stdint cimport uint32_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._nat cimport Listener
from vswitch.nat._udp cimport Mapping

cdef void receive(Switch *sw, Port *port, int fd, Mapping *mapping, Listener *listener) noexcept nogil
cdef void train_leaves(Switch *sw) noexcept nogil
cdef uint32_t heed_errors(Switch *sw, int fd, Mapping *mapping, Listener *listener) noexcept nogil
