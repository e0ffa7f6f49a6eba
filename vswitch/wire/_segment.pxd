# SPDX-License-Identifier: Apache-2.0
# Cutting a super-frame into the frames that a wire would carry; the theory stands in _segment.pyx.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vswitch.wire._vnet cimport VnetHeader

cdef struct Segmenter:
    const uint8_t *frame
    uint32_t l3             # where the IP header starts
    uint32_t l4             # where the TCP or UDP header starts
    uint32_t header         # bytes of all headers
    uint32_t end            # bytes of the frame
    uint32_t size           # payload bytes per segment
    uint32_t next           # where the next segment's payload starts
    uint16_t count          # segments cut so far
    bint ipv6
    bint udp

cdef bint segment_open(Segmenter *cut, const uint8_t *frame, uint32_t length, uint32_t l3, const VnetHeader *vnet) noexcept nogil
cdef uint32_t segment_next(Segmenter *cut, uint8_t *out) noexcept nogil
