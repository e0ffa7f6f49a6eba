# SPDX-License-Identifier: Apache-2.0
"""Internet checksums: whole (RFC 1071) and incremental (RFC 1624, equation 3).

All sums are one's-complement sums of 16-bit words taken in the machine's own byte order, which RFC 1071 section 2(B) allows:
what is stored into a packet is stored as it was summed, so no byte is ever swapped. Four 32-bit words a turn are added into a
64-bit total, which can't overflow below 16 GiB.

The Python functions at the end take and give numbers as they read on the wire (big-endian), for control-plane code and tests.
"""
from libc.string cimport memcpy

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)


cdef uint64_t sum_bytes(const uint8_t *data, size_t length, uint64_t start) noexcept nogil:
    """`start` plus the words of data[0:length]; an odd last byte counts as the first byte of a word."""
    cdef uint64_t total = start
    cdef uint32_t words[8]
    cdef uint16_t word = 0
    while length >= 32:
        memcpy(words, data, 32)
        total += <uint64_t>words[0] + words[1] + words[2] + words[3]
        total += <uint64_t>words[4] + words[5] + words[6] + words[7]
        data += 32
        length -= 32
    while length >= 2:
        memcpy(&word, data, 2)
        total += word
        data += 2
        length -= 2
    if length:
        word = 0
        memcpy(&word, data, 1)
        total += word
    return total


cdef uint16_t fold(uint64_t total) noexcept nogil:
    """The 16-bit one's-complement sum of a running total."""
    total = <uint64_t><uint32_t>total + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16 & 0xFFFF) + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>total


cdef uint16_t complement(uint64_t total) noexcept nogil:
    """The checksum field that goes with a running total."""
    return <uint16_t>~fold(total)


cdef uint16_t replaced(uint16_t checksum, uint16_t before, uint16_t after) noexcept nogil:
    """RFC 1624 equation 3: the checksum after one 16-bit word of what it covers changed."""
    return complement(<uint64_t><uint16_t>~checksum + <uint16_t>~before + after)


cdef uint64_t pseudo_sum(const uint8_t *addresses, size_t address_bytes, uint8_t protocol, uint32_t length) noexcept nogil:
    """Running total of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1): both addresses, protocol and L4 length."""
    cdef uint64_t total = sum_bytes(addresses, address_bytes, 0)
    total += htons(<uint16_t>protocol)
    total += <uint64_t>htons(<uint16_t>(length >> 16)) + htons(<uint16_t>(length & 0xFFFF))
    return total


cdef void finish_checksum(uint8_t *frame, uint32_t length, uint32_t start, uint32_t offset) noexcept nogil:
    """Completes an offloaded checksum in place: the field at start+offset holds the pseudo header's sum (virtio NEEDS_CSUM).

    The caller has checked start + offset + 2 <= length. A UDP result of 0 is sent as 0xffff (RFC 768); `offset` 6 means UDP.
    """
    cdef uint16_t checksum = complement(sum_bytes(frame + start, length - start, 0))
    if checksum == 0 and offset == 6:
        checksum = 0xFFFF
    memcpy(frame + start + offset, &checksum, 2)


def checksum(const uint8_t[::1] data not None, uint32_t start=0) -> int:
    """The RFC 1071 checksum of `data`, as it reads on the wire; `start` is a running sum to go on from (wire order, 16 bits)."""
    cdef uint64_t total = htons(<uint16_t>start)
    if data.shape[0]:
        total = sum_bytes(&data[0], data.shape[0], total)
    return ntohs(complement(total))


def update_checksum(uint16_t checksum, uint16_t before, uint16_t after) -> int:
    """RFC 1624: the new checksum after a covered word changed from `before` to `after` (all as they read on the wire)."""
    return ntohs(replaced(htons(checksum), htons(before), htons(after)))


def pseudo_header_sum(bytes source not None, bytes destination not None, uint8_t protocol, uint32_t length) -> int:
    """The folded sum of the pseudo header for two addresses of 4 or 16 bytes: a `start` for checksum()."""
    cdef bytes both = source + destination
    if len(source) != len(destination) or len(source) not in (4, 16):
        raise ValueError("addresses must both have 4 or both have 16 bytes")
    return ntohs(fold(pseudo_sum(<const uint8_t *>both, len(both), protocol, length)))
