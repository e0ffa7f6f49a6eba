# SPDX-License-Identifier: Apache-2.0
# The MAC table; the theory stands in _fdb.pyx.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    NOBODY = 0xFFFFFFFF     # no entry: the end of a list
    FDB_STATIC = 1          # an endpoint's assigned MAC: never ages, never moves, never evicted
    FDB_DYNAMIC = 0

cdef struct FdbEntry:
    uint64_t key            # network << 48 | MAC
    uint32_t seen_s         # when a frame last came from it, seconds of the dataplane's clock
    uint32_t older          # the owner's entries in the order in which they were last seen
    uint32_t newer
    uint16_t port           # where it lives
    uint8_t kind            # FDB_STATIC, FDB_DYNAMIC
    uint8_t used

cdef struct FdbOwner:       # one per port, beside the table: its dynamic entries
    uint32_t oldest
    uint32_t newest
    uint32_t count

cdef struct Fdb:
    FdbEntry *entries       # capacity of them, handed out from the front
    uint32_t *slots         # hash index: entry number + 1, 0 for empty; slot_mask + 1 of them
    uint32_t slot_mask
    uint32_t capacity       # entries, static ones included
    uint32_t share          # dynamic entries that one port may hold
    uint32_t used
    uint32_t untouched      # entries never handed out so far start here
    uint32_t spare          # entries given back, linked through `older`
    FdbOwner *owners        # by port index, 65,536 of them
    uint64_t seed           # makes the hash unpredictable for those who choose their MACs
    uint64_t moves          # dynamic entries that changed port
    uint64_t evictions      # dynamic entries that gave way to a new one

cdef bint fdb_open(Fdb *fdb, uint32_t capacity, uint32_t share, uint64_t seed) noexcept nogil
cdef void fdb_close(Fdb *fdb) noexcept nogil
cdef uint64_t fdb_key(uint16_t network, const uint8_t *mac) noexcept nogil
cdef uint32_t fdb_find(const Fdb *fdb, uint64_t key) noexcept nogil
cdef bint fdb_learn(Fdb *fdb, uint64_t key, uint16_t port, uint32_t now_s) noexcept nogil
cdef bint fdb_assign(Fdb *fdb, uint64_t key, uint16_t port) noexcept nogil
cdef void fdb_resign(Fdb *fdb, uint64_t key, uint16_t port) noexcept nogil
cdef void fdb_flush(Fdb *fdb, uint16_t port) noexcept nogil
cdef uint32_t fdb_expire(Fdb *fdb, uint16_t port, uint32_t now_s, uint32_t age_s) noexcept nogil
