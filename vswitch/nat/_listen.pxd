# SPDX-License-Identifier: Apache-2.0
# Published ports: host sockets that accept on behalf of containers; the theory stands in _listen.pyx.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from vswitch._fastpath cimport Switch
from vswitch.nat._nat cimport Listener

cdef enum:
    STALL_NS = 100000000    # before accept() is tried again that failed for want of descriptors

cdef bint listen_open(Switch *sw) noexcept nogil
cdef void listen_close(Switch *sw) noexcept nogil
cdef void listen_add(Switch *sw, uint32_t first, const Listener *listeners, uint32_t count) noexcept nogil
cdef void listen_remove(Switch *sw, uint32_t first, uint32_t count) noexcept nogil
cdef void listen_forget(Switch *sw, uint16_t port) noexcept nogil
cdef void listen_again(Switch *sw) noexcept nogil
cdef void listener_ready(Switch *sw, uint32_t number, uint32_t generation, uint32_t events) noexcept nogil
cdef bint ends_of(Switch *sw, const Listener *listener, const uint8_t *client, uint8_t *inside, uint8_t *outside) noexcept nogil
