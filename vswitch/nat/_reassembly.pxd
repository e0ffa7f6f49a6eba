# SPDX-License-Identifier: Apache-2.0
# Fragments from containers put together again (RFC 791 section 3.2, RFC 8200 section 4.5); the theory stands in _reassembly.pyx.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    MAX_REASSEMBLIES = 1024 # packets under way altogether: 64 MiB of buffers at most
    PORT_REASSEMBLIES = 64  # of one container: 4 MiB
    MAX_PARTS = 128         # fragments of one packet: 65,535 bytes at the smallest MTU of today (576) are 119
    WHOLE_ROOM = 512        # before the payload, for the headers of the whole packet
    SPARE_BUFFERS = 16      # kept when they come free: 1 MiB

cdef struct Reassembly:     # one packet of which parts have come
    uint8_t *buffer         # WHOLE_ROOM, then the payload
    uint8_t addresses[32]   # source and destination, of 4 or 16 bytes each
    uint32_t identification
    uint8_t protocol        # IPv4 only: part of the key (RFC 791); IPv6's may differ between fragments (RFC 8200)
    uint8_t ipv6
    uint16_t port
    uint32_t next_mine      # number + 1 of the port's next younger, 0 for none
    uint32_t previous_mine
    uint64_t due_ns         # when it is given up; 0 for a free entry
    uint32_t header_bytes   # of the first fragment's IP header without the fragment header, 0 until that has come
    uint32_t end            # payload bytes of the whole, 0 until the last fragment has come
    uint32_t reach          # end of the fragment that reaches farthest
    uint32_t bytes          # payload that has come
    uint32_t parts
    uint16_t starts[MAX_PARTS]
    uint16_t ends[MAX_PARTS]

cdef struct Holding:        # what a port has under way
    uint32_t oldest         # number + 1, 0 for none
    uint32_t newest
    uint32_t count

cdef struct Reassemblies:
    Reassembly *entries
    Holding *holdings       # by port index
    uint32_t capacity
    uint32_t used
    uint32_t untouched
    uint32_t spare          # number + 1 of an entry given back
    uint64_t due_ns         # nothing is given up before this; 0 while nothing is under way
    uint8_t *whole          # buffer of what reassemble() or reassemblies_expire() returned last
    uint8_t *buffers[SPARE_BUFFERS]
    uint32_t buffer_count
    uint32_t lost           # fragments kept so far that died in the last call,
    uint16_t lost_port      # of this port,
    int lost_reason         # for this Drop reason

cdef bint reassemblies_open(Reassemblies *table, uint32_t capacity) noexcept nogil
cdef void reassemblies_close(Reassemblies *table) noexcept nogil
cdef const uint8_t *reassemble(Reassemblies *table, uint16_t port, const uint8_t *ip, uint32_t total, uint64_t now_ns, uint32_t *whole_bytes, int *drop) noexcept nogil
cdef bint reassemblies_expire(Reassemblies *table, uint64_t now_ns, const uint8_t **first, uint32_t *first_bytes) noexcept nogil
cdef void reassemblies_forget(Reassemblies *table, uint16_t port) noexcept nogil
