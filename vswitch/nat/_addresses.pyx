# SPDX-License-Identifier: Apache-2.0
"""What an address is: which of our prefixes it lies in, and which of the special ones it is (RFC 6890).

A packet on its way out and a client's datagram ask for each address whether it is one of ours, and there may be thousands of networks. Prefixes that
don't lie within each other, in order, are searched by halves: the last that starts at or before an address is the only one that may hold it.
"""
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy

from vswitch.nat._sockets cimport is_mapped


cdef Prefix *make_prefixes(list prefixes, uint32_t *count) except NULL:
    """A table of (16 bytes, bits of the 128), for the caller to free; those within another are left out. MemoryError."""
    cdef Prefix *entries = <Prefix *>calloc(len(prefixes) + 1, sizeof(Prefix))
    cdef const uint8_t *address
    cdef uint32_t kept = 0
    if entries == NULL:
        raise MemoryError("no memory for a table of addresses")
    for packed, bits in sorted(prefixes):
        address = packed
        if kept and covers(&entries[kept - 1], address):
            continue
        memcpy(entries[kept].address, address, 16)
        entries[kept].bits = bits
        kept += 1
    count[0] = kept
    return entries


cdef bint lies_in(const Prefixes *prefixes, const uint8_t *address) noexcept nogil:
    """Whether one of the prefixes holds the address."""
    cdef uint32_t low = 0, high = prefixes.count, middle
    while low < high:
        middle = (low + high) // 2
        if memcmp(prefixes.entries[middle].address, address, 16) <= 0:
            low = middle + 1
        else:
            high = middle
    return low != 0 and covers(&prefixes.entries[low - 1], address)


cdef bint covers(const Prefix *prefix, const uint8_t *address) noexcept nogil:
    cdef uint32_t whole = prefix.bits // 8
    return memcmp(prefix.address, address, whole) == 0 and (prefix.bits % 8 == 0 or
        (prefix.address[whole] ^ address[whole]) >> (8 - prefix.bits % 8) == 0)


cdef bint is_loopback(const uint8_t *address) noexcept nogil:
    """127/8 or ::1."""
    if is_mapped(address):
        return address[12] == 127
    return address[15] == 1 and begins_with_zeroes(address)


cdef bint is_unspecified(const uint8_t *address) noexcept nogil:
    """0/8 or ::."""
    if is_mapped(address):
        return address[12] == 0
    return address[15] == 0 and begins_with_zeroes(address)


cdef bint begins_with_zeroes(const uint8_t *address) noexcept nogil:
    cdef int i
    for i in range(15):
        if address[i]:
            return False
    return True


cdef bint is_link_local(const uint8_t *address) noexcept nogil:
    """fe80::/10; IPv4's 169.254/16 are ordinary addresses here, as for the host's routes."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


cdef bint is_forbidden(const uint8_t *address) noexcept nogil:
    """Destinations that no socket may be sent to: loopback or worse, multicast, broadcast, and what needs a scope."""
    if is_loopback(address) or is_unspecified(address):
        return True
    return address[12] >= 224 if is_mapped(address) else address[0] == 0xFF or is_link_local(address)
