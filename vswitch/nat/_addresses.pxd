# SPDX-License-Identifier: Apache-2.0
# What an address is: 16 bytes, IPv4 in its mapped form. The theory stands in _addresses.pyx.
from libc.stdint cimport uint8_t, uint32_t

cdef struct Prefix:
    uint8_t address[16]
    uint32_t bits           # of the 128

cdef struct Prefixes:       # none lies within another; in the order of their addresses
    Prefix *entries
    uint32_t count

cdef Prefix *make_prefixes(list prefixes, uint32_t *count) except NULL
cdef bint lies_in(const Prefixes *prefixes, const uint8_t *address) noexcept nogil
cdef bint is_loopback(const uint8_t *address) noexcept nogil
cdef bint is_unspecified(const uint8_t *address) noexcept nogil
cdef bint is_link_local(const uint8_t *address) noexcept nogil
cdef bint is_forbidden(const uint8_t *address) noexcept nogil
