# SPDX-License-Identifier: Apache-2.0
# Contents of the ring between two threads; the theory stands in _ring.pyx.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    static inline uint64_t vs_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void vs_store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline uint64_t vs_peek(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void vs_add(uint64_t *p, uint64_t v)
    { __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + v, __ATOMIC_RELAXED); }
    static inline uint32_t vs_swap32(uint32_t *p, uint32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
    static inline uint32_t vs_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
    """
    uint64_t load_acquire "vs_load"(const uint64_t *p) noexcept
    void store_release "vs_store"(uint64_t *p, uint64_t v) noexcept
    uint64_t load_relaxed "vs_peek"(const uint64_t *p) noexcept
    void add_relaxed "vs_add"(uint64_t *p, uint64_t v) noexcept      # one writer only: not a read-modify-write
    uint32_t swap32 "vs_swap32"(uint32_t *p, uint32_t v) noexcept
    uint32_t load32 "vs_load32"(const uint32_t *p) noexcept

cdef struct Ring:
    uint8_t *data           # capacity bytes
    uint64_t capacity       # a power of two
    uint64_t head           # bytes consumed so far; written by the consumer only
    uint64_t apart[7]       # so that the two don't fight for one cache line
    uint64_t tail           # bytes produced so far; written by the producer only
    uint64_t dropped        # records that found no room; written by the producer only
    uint32_t waiting        # 1 while the consumer sleeps and wants a wake-up

cdef bint ring_open(Ring *ring, uint64_t capacity) noexcept nogil
cdef void ring_close(Ring *ring) noexcept nogil
cdef uint8_t *ring_reserve(Ring *ring, uint32_t length) noexcept nogil
cdef void ring_commit(Ring *ring, uint32_t length) noexcept nogil
cdef const uint8_t *ring_peek(Ring *ring, uint32_t *length) noexcept nogil
cdef void ring_release(Ring *ring, uint32_t length) noexcept nogil
cdef bint ring_empty(const Ring *ring) noexcept nogil
