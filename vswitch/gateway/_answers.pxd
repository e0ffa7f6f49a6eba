# SPDX-License-Identifier: Apache-2.0
# What a network's gateway says to the frames that ask it something; the theory stands in _answers.pyx.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from vswitch.arp._neighbours cimport Neighbours

cdef enum:
    REPLY_BYTES = 2048      # what an error message or a resolution reply may need beyond the request's own length

cdef struct Query:
    const Neighbours *neighbours
    const uint8_t *gateway_mac
    const uint8_t *gateway4 # its first IPv4 address, in whose name it complains about others
    const uint8_t *frame    # complete checksums, no VLAN tag
    uint32_t length
    uint16_t network
    uint16_t port           # where the frame came in
    bint isolated           # its network's containers don't learn of each other
    bint guard              # the port may only speak for itself,
    bint held4              # and as its own IPv4 addresses
    uint8_t *reply          # out: room for length + REPLY_BYTES
    uint32_t reply_bytes    # out: 0 for no answer
    uint8_t drop            # out: why the frame died, FORWARDED where it was answered or goes on

cdef bint answer_arp(Query *query) noexcept nogil
cdef bint answer_nd(Query *query) noexcept nogil
cdef void answer_ipv4(Query *query) noexcept nogil
cdef void answer_ipv6(Query *query) noexcept nogil
