# SPDX-License-Identifier: Apache-2.0
"""A byte ring between exactly one producer thread and one consumer thread, without a lock.

Enters: records of any length up to half the capacity. Leaves: the same records, whole and in order. A record is a
four-byte length, four bytes of padding and the payload, rounded up to eight bytes, and never wraps: where the rest of the
ring is too short, a marker fills it and the record starts again at the front. The producer reserves room, writes in place and
commits; the consumer peeks, reads in place and releases. When there is no room the record is dropped and counted: a slow
consumer never holds up the dataplane.

`head` and `tail` count bytes since the start and are only ever written by their owner, so an acquire load on one side and a
release store on the other are all the synchronisation there is.
"""
from libc.stdlib cimport calloc, free

cdef enum:
    HEADER_BYTES = 8
    SKIP = 0xFFFFFFFF       # in place of a length: nothing more up to the ring's end


cdef inline uint64_t span(uint32_t length) noexcept nogil:
    """Bytes that a record of `length` payload bytes takes in the ring."""
    return (<uint64_t>length + HEADER_BYTES + 7) & ~<uint64_t>7


cdef bint ring_open(Ring *ring, uint64_t capacity) noexcept nogil:
    """Gives `ring` a buffer of `capacity` bytes (a power of two); False when memory is short."""
    ring.data = <uint8_t *>calloc(1, capacity)
    ring.capacity = capacity
    ring.head = ring.tail = ring.dropped = 0
    ring.waiting = 0
    return ring.data != NULL


cdef void ring_close(Ring *ring) noexcept nogil:
    free(ring.data)
    ring.data = NULL


cdef uint8_t *ring_reserve(Ring *ring, uint32_t length) noexcept nogil:
    """Producer: room for `length` bytes, to be committed with a length no larger; NULL (and a count) when the ring is full."""
    cdef uint64_t need = span(length)
    cdef uint64_t offset = ring.tail & (ring.capacity - 1)
    cdef uint64_t to_end = ring.capacity - offset
    cdef uint64_t room = ring.capacity - (ring.tail - load_acquire(&ring.head))
    if need > ring.capacity // 2 or room < need or (to_end < need and room < to_end + need):
        add_relaxed(&ring.dropped, 1)
        return NULL
    if to_end < need:
        (<uint32_t *>(ring.data + offset))[0] = <uint32_t>SKIP
        store_release(&ring.tail, ring.tail + to_end)
        offset = 0
    return ring.data + offset + HEADER_BYTES


cdef void ring_commit(Ring *ring, uint32_t length) noexcept nogil:
    """Producer: publishes the record reserved last."""
    (<uint32_t *>(ring.data + (ring.tail & (ring.capacity - 1))))[0] = length
    store_release(&ring.tail, ring.tail + span(length))


cdef const uint8_t *ring_peek(Ring *ring, uint32_t *length) noexcept nogil:
    """Consumer: the oldest record and its length, or NULL when there is none."""
    cdef uint64_t offset
    while ring.head != load_acquire(&ring.tail):
        offset = ring.head & (ring.capacity - 1)
        length[0] = (<uint32_t *>(ring.data + offset))[0]
        if length[0] != <uint32_t>SKIP:
            return ring.data + offset + HEADER_BYTES
        store_release(&ring.head, ring.head + ring.capacity - offset)
    return NULL


cdef void ring_release(Ring *ring, uint32_t length) noexcept nogil:
    """Consumer: gives the room of the record peeked last back."""
    store_release(&ring.head, ring.head + span(length))


cdef bint ring_empty(const Ring *ring) noexcept nogil:
    return load_acquire(&ring.head) == load_acquire(&ring.tail)
