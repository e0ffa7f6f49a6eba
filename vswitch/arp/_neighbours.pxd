# SPDX-License-Identifier: Apache-2.0
# The neighbour table: which MAC and port an IP address has; the theory stands in _neighbours.pyx.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    GATEWAY_PORT = 0xFFFF   # in place of a port: the address is the gateway's own

cdef struct Neighbour:
    uint8_t address[16]     # IPv4 as ::ffff:a.b.c.d
    uint8_t mac[6]
    uint16_t network
    uint16_t port           # whose it is
    uint8_t used
    uint8_t claimed         # made by the port itself (guard/), not bound by control
    uint32_t seen_s         # when neighbour discovery last mentioned it, of a claimed one
    uint32_t next_spare

cdef struct Neighbours:
    Neighbour *entries
    uint32_t *slots         # entry number + 1, 0 for empty
    uint32_t slot_mask
    uint32_t capacity
    uint32_t used
    uint32_t untouched
    uint32_t spare          # number + 1 of an entry given back, 0 for none
    uint64_t seed

cdef bint neighbours_open(Neighbours *table, uint32_t capacity, uint64_t seed) noexcept nogil
cdef void neighbours_close(Neighbours *table) noexcept nogil
cdef Neighbour *neighbour_find(const Neighbours *table, uint16_t network, const uint8_t *address) noexcept nogil
cdef Neighbour *neighbour_find4(const Neighbours *table, uint16_t network, const uint8_t *address) noexcept nogil
cdef bint neighbour_set(Neighbours *table, uint16_t network, const uint8_t *address, const uint8_t *mac, uint16_t port) noexcept nogil
cdef void neighbour_remove(Neighbours *table, uint16_t network, const uint8_t *address) noexcept nogil
cdef void neighbours_flush(Neighbours *table, uint16_t network) noexcept nogil
