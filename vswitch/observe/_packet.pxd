# SPDX-License-Identifier: Apache-2.0
# One captured frame as a pcapng block; the theory stands in _packet.pyx.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from vswitch.observe._session cimport Record

cdef struct Note:           # options that go with a drop reason, ready to be copied
    const uint8_t *options
    uint32_t length         # a multiple of 4

cdef uint32_t packet_bytes(uint32_t captured, uint64_t lost, const Note *note) noexcept nogil
cdef uint32_t put_packet(uint8_t *at, const Record *record, uint32_t interface, uint32_t captured,
                         uint64_t lost, const Note *note) noexcept nogil
