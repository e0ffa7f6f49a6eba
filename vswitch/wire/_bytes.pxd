# SPDX-License-Identifier: Apache-2.0
# Numbers in network byte order, at any address.
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy


cdef inline uint32_t read16(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] << 8 | p[1]


cdef inline uint32_t read32(const uint8_t *p) noexcept nogil:
    return read16(p) << 16 | read16(p + 2)


cdef inline void write16(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 8)
    p[1] = <uint8_t>value


cdef inline void write32(uint8_t *p, uint32_t value) noexcept nogil:
    write16(p, value >> 16)
    write16(p + 2, value)


cdef inline void store16(uint8_t *p, uint16_t checksum) noexcept nogil:
    """A checksum: it was summed in memory order, and so it is stored."""
    memcpy(p, &checksum, 2)
