# SPDX-License-Identifier: Apache-2.0
# Published host ports as Python holds them.
from libc.stdint cimport int32_t, uint16_t, uint32_t

from vswitch.nat._nat cimport Listener

cdef class ListenerGroup:
    cdef readonly str protocol
    cdef readonly uint32_t count
    cdef readonly uint16_t first_container_port
    cdef int32_t *fds
    cdef Listener *describe(self, uint16_t network, uint16_t port, bytes address4, bytes address6) except NULL
    cdef void close_all(self) noexcept
