# SPDX-License-Identifier: Apache-2.0
"""A record of the ring as an Enhanced Packet Block (draft-ietf-opsawg-pcapng section 4.3).

Options, in this order: flags (2): direction, reception type, what is wrong or special about the checksum;
drop count (4), where records were lost before this one; packet id (5), the same wherever one frame crossed;
verdict (7) and comment (1), where it died.

Frames that a kernel left to an offload carry the pseudo header's sum where the checksum belongs. It is
finished in the block, over the whole super-frame as one big segment, which is what its IP length says it is:
no analyser has anything to complain of. That needs all of the frame. One cut to the snaplen, or whose offload
header lies, stays as it is and is flagged (bit 9). So does what an ICMP error quotes: a kernel quotes an
unfinished datagram as it has it.

Words are in the machine's own byte order, as the section header says.
"""
from libc.stdint cimport uint16_t
from libc.string cimport memcpy

from vswitch.wire._checksum cimport finish_checksum

cdef enum:
    FIXED_BYTES = 28 + 8 + 12 + 4 + 4       # head, flags, packet id, end of options, length again
    LOST_BYTES = 12
    L4_LOWEST = 34                          # Ethernet and the shortest IP header: csum_start's least
    NEEDS_CSUM = 1
    DATA_VALID = 2

cdef enum:                                  # epb_flags
    UNICAST = 1 << 2
    MULTICAST = 2 << 2
    BROADCAST = 3 << 2
    CHECKSUM_NOT_READY = 1 << 9
    CHECKSUM_VALID = 1 << 10
    SEGMENTATION_OFFLOADED = 1 << 11


cdef uint32_t packet_bytes(uint32_t captured, uint64_t lost, const Note *note) noexcept nogil:
    """Length of the block of a frame of which `captured` bytes are kept."""
    return FIXED_BYTES + padded(captured) + (LOST_BYTES if lost else 0) + note.length


cdef inline uint32_t padded(uint32_t length) noexcept nogil:
    return (length + 3) & ~<uint32_t>3


cdef uint32_t put_packet(uint8_t *at, const Record *record, uint32_t interface, uint32_t captured,
                         uint64_t lost, const Note *note) noexcept nogil:
    """Writes the block to `at` (4-byte aligned, packet_bytes() of room); returns its length."""
    cdef uint32_t *head = <uint32_t *>at
    cdef uint32_t size = packet_bytes(captured, lost, note)
    cdef uint32_t flags
    head[0] = 6
    head[1] = size
    head[2] = interface
    head[3] = <uint32_t>(record.time_ns >> 32)
    head[4] = <uint32_t>record.time_ns
    head[5] = captured
    head[6] = record.length
    if captured & 3:
        head[7 + captured // 4] = 0     # the padding
    at += 28
    memcpy(at, <const uint8_t *>(record + 1), captured)
    flags = finish_and_flag(at, record, captured)
    at = put_option(at + padded(captured), 2, &flags, 4)
    if lost:
        at = put_option(at, 4, &lost, 8)
    at = put_option(at, 5, &record.packet_id, 8)
    memcpy(at, note.options, note.length)
    at += note.length
    (<uint32_t *>at)[0] = 0
    (<uint32_t *>at)[1] = size
    return size


cdef inline uint32_t finish_and_flag(uint8_t *frame, const Record *record, uint32_t captured) noexcept nogil:
    """epb_flags of the frame copied to `frame`, whose checksum is finished on the way."""
    cdef uint32_t flags = (record.direction & 3) | reception(frame, captured)
    if record.vnet_flags & NEEDS_CSUM:
        if not finish(frame, record, captured):
            flags |= CHECKSUM_NOT_READY
    elif record.vnet_flags & DATA_VALID:
        flags |= CHECKSUM_VALID
    if record.gso_type:
        flags |= SEGMENTATION_OFFLOADED
    return flags


cdef inline uint32_t reception(const uint8_t *frame, uint32_t captured) noexcept nogil:
    """Bits 2-4 of epb_flags, from the destination address; 0 where it wasn't captured."""
    if captured < 6:
        return 0
    if not frame[0] & 1:
        return UNICAST
    if (frame[0] & frame[1] & frame[2] & frame[3] & frame[4] & frame[5]) == 0xFF:
        return BROADCAST
    return MULTICAST


cdef inline bint finish(uint8_t *frame, const Record *record, uint32_t captured) noexcept nogil:
    """Completes the unfinished checksum; False where the frame isn't whole or the offsets lie."""
    if captured != record.length or record.csum_start < L4_LOWEST:
        return False
    if <uint32_t>record.csum_start + record.csum_offset + 2 > captured:
        return False
    finish_checksum(frame, captured, record.csum_start, record.csum_offset)
    return True


cdef inline uint8_t *put_option(uint8_t *at, uint16_t code, const void *value,
                                uint16_t length) noexcept nogil:
    """One option whose length needs no padding; returns where the next one goes."""
    cdef uint16_t[2] head
    head[0] = code
    head[1] = length
    memcpy(at, head, 4)
    memcpy(at + 4, value, length)
    return at + 4 + length
