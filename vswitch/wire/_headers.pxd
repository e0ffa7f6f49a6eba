# SPDX-License-Identifier: Apache-2.0
# Where the transport header of an IP packet stands; the theory stands in _headers.pyx.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    FRAGMENT = 44
    AUTHENTICATION = 51

cdef inline bint is_extension(uint8_t header) noexcept nogil:
    """Whether an IPv6 next header is one that a host skips on its way to the transport header (RFC 8200 section 4)."""
    return header == 0 or header == 43 or header == FRAGMENT or header == AUTHENTICATION or header == 60 or header == 135

cdef uint32_t transport(const uint8_t *frame, uint32_t length, uint32_t l3, uint16_t ethertype, uint8_t *protocol) noexcept nogil
cdef bint splits_headers(const uint8_t *frame, uint32_t length) noexcept nogil
