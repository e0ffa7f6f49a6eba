# SPDX-License-Identifier: Apache-2.0
"""The way through IP headers to the transport header, as a receiving host goes it (RFC 791 section 3.1, RFC 8200 section 4)."""
from vswitch.wire._bytes cimport read16

cdef enum:
    ETHERNET = 14
    IPV4 = 0x0800
    IPV6 = 0x86DD


cdef uint32_t transport(const uint8_t *frame, uint32_t length, uint32_t l3, uint16_t ethertype, uint8_t *protocol) noexcept nogil:
    """Where the transport header of an IP packet stands, and its protocol; 0 for anything else and for headers that are cut off. Of a later
    fragment there is none: `protocol` is FRAGMENT."""
    cdef const uint8_t *ip = frame + l3
    cdef uint32_t l4
    if length < l3 + 20:
        return 0
    if ethertype == IPV4 and ip[0] >> 4 == 4 and ip[0] & 15 >= 5:
        protocol[0] = ip[9]
        return l3 + (ip[0] & 15) * 4
    if ethertype != IPV6 or ip[0] >> 4 != 6:
        return 0
    protocol[0] = ip[6]
    l4 = l3 + 40
    while is_extension(protocol[0]):
        if l4 + 8 > length:
            return 0
        if protocol[0] == FRAGMENT and read16(frame + l4 + 2) & 0xFFF8:
            return l4
        protocol[0], l4 = frame[l4], l4 + extension_bytes(protocol[0], frame[l4 + 1])
    return l4


cdef bint splits_headers(const uint8_t *frame, uint32_t length) noexcept nogil:
    """Whether an untagged IPv6 packet is a first fragment without the whole chain of headers, as no host makes one and no guard can judge it
    (RFC 7112 section 5): eight bytes of the transport header at least must be there."""
    cdef uint8_t protocol = frame[ETHERNET + 6]
    cdef uint32_t at = ETHERNET + 40, end = ETHERNET + 40 + read16(frame + ETHERNET + 4)
    cdef bint first = False
    end = end if end < length else length
    while is_extension(protocol):
        if at + 8 > end:
            return first
        if protocol == FRAGMENT:
            if read16(frame + at + 2) & 0xFFF8:
                return False
            first = first or read16(frame + at + 2) & 1
        protocol, at = frame[at], at + extension_bytes(protocol, frame[at + 1])
    return first and at + 8 > end


cdef inline uint32_t extension_bytes(uint8_t header, uint8_t length) noexcept nogil:
    if header == FRAGMENT:
        return 8
    return (length + 2) * 4 if header == AUTHENTICATION else (length + 1) * 8
