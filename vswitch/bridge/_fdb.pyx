# SPDX-License-Identifier: Apache-2.0
"""The MAC table of all networks: which port a MAC lives on (IEEE 802.1Q section 8.8).

Enters: (network, MAC, port) facts, static ones from control and dynamic ones from source addresses. Leaves: the port of a
destination. Only the dataplane's thread touches it.

Entries stand in one array and are found through an open-addressed index of entry numbers, so an entry never moves and memory is
touched only as far as it is used. The hash is seeded: whoever picks his MACs can't build long probe chains.

Limits: `capacity` entries altogether (65,536 by default: one for every port there can be) and `share` dynamic ones per port (1,024: more
than any real host behind one port shows, little enough that 63 flooding ports are needed to fill the table). A port at its share recycles its own
oldest entry; a full table takes the oldest from the port that holds most. So one port's flood never evicts another's addresses.
Each port's dynamic entries are linked in the order in which they were last seen, which makes ageing and eviction O(1).
"""
from libc.stdlib cimport calloc, free


cdef bint fdb_open(Fdb *fdb, uint32_t capacity, uint32_t share, uint64_t seed) noexcept nogil:
    """Makes an empty table; False when memory is short."""
    cdef uint32_t slots = 64
    cdef int port
    while slots < 2 * capacity:
        slots *= 2
    fdb.entries = <FdbEntry *>calloc(capacity, sizeof(FdbEntry))
    fdb.slots = <uint32_t *>calloc(slots, sizeof(uint32_t))
    fdb.owners = <FdbOwner *>calloc(65536, sizeof(FdbOwner))
    fdb.slot_mask = slots - 1
    fdb.capacity = capacity
    fdb.share = share
    fdb.used = fdb.untouched = 0
    fdb.spare = NOBODY
    fdb.seed = seed | 1
    fdb.moves = fdb.evictions = 0
    return fdb.entries != NULL and fdb.slots != NULL and fdb.owners != NULL


cdef void fdb_close(Fdb *fdb) noexcept nogil:
    free(fdb.entries)
    free(fdb.slots)
    free(fdb.owners)
    fdb.entries = NULL
    fdb.slots = NULL
    fdb.owners = NULL


cdef uint64_t fdb_key(uint16_t network, const uint8_t *mac) noexcept nogil:
    return (<uint64_t>network << 48 | <uint64_t>mac[0] << 40 | <uint64_t>mac[1] << 32
            | <uint64_t>mac[2] << 24 | <uint64_t>mac[3] << 16 | <uint64_t>mac[4] << 8 | mac[5])


cdef inline uint32_t slot_of(const Fdb *fdb, uint64_t key) noexcept nogil:
    """The slot where the search for `key` starts (a seeded 64-bit finaliser)."""
    key = (key ^ fdb.seed) * <uint64_t>0xFF51AFD7ED558CCD
    key = (key ^ (key >> 33) ^ fdb.seed) * <uint64_t>0xC4CEB9FE1A85EC53
    return <uint32_t>(key >> 32) & fdb.slot_mask


cdef uint32_t fdb_find(const Fdb *fdb, uint64_t key) noexcept nogil:
    """The number of the entry of `key`, or NOBODY."""
    cdef uint32_t slot = slot_of(fdb, key), number
    while True:
        number = fdb.slots[slot]
        if number == 0:
            return <uint32_t>NOBODY
        if fdb.entries[number - 1].key == key:
            return number - 1
        slot = (slot + 1) & fdb.slot_mask


cdef bint fdb_learn(Fdb *fdb, uint64_t key, uint16_t port, uint32_t now_s) noexcept nogil:
    """Notes that a frame from `key` came in at `port`; False when the MAC is another port's static one (a spoof)."""
    cdef uint32_t number = fdb_find(fdb, key)
    cdef FdbEntry *entry
    if number == <uint32_t>NOBODY:
        number = room_for(fdb, port)
        if number != <uint32_t>NOBODY:
            insert(fdb, number, key, port, FDB_DYNAMIC)
            fdb.entries[number].seen_s = now_s
            append(fdb, number)
        return True
    entry = &fdb.entries[number]
    if entry.kind == FDB_STATIC:
        return entry.port == port
    if entry.port != port:
        unlink(fdb, number)
        entry.port = port
        fdb.moves += 1
        if fdb.owners[port].count >= fdb.share:
            forget(fdb, fdb.owners[port].oldest)
            fdb.evictions += 1
        append(fdb, number)
    elif entry.seen_s != now_s:
        unlink(fdb, number)
        append(fdb, number)
    entry.seen_s = now_s
    return True


cdef bint fdb_assign(Fdb *fdb, uint64_t key, uint16_t port) noexcept nogil:
    """Makes `key` a static entry of `port`, taking it from whoever had learnt it; False when the table holds only static ones."""
    cdef uint32_t number = fdb_find(fdb, key)
    if number != <uint32_t>NOBODY:
        forget(fdb, number)
    number = room_for(fdb, port)
    if number == <uint32_t>NOBODY:
        return False
    insert(fdb, number, key, port, FDB_STATIC)
    return True


cdef void fdb_resign(Fdb *fdb, uint64_t key, uint16_t port) noexcept nogil:
    """`port` gives its static entry up; a successor that was assigned the same MAC keeps it."""
    cdef uint32_t number = fdb_find(fdb, key)
    if number != <uint32_t>NOBODY and fdb.entries[number].kind == FDB_STATIC and fdb.entries[number].port == port:
        forget(fdb, number)


cdef void fdb_flush(Fdb *fdb, uint16_t port) noexcept nogil:
    """Forgets all that was learnt from `port`."""
    while fdb.owners[port].count:
        forget(fdb, fdb.owners[port].oldest)


cdef uint32_t fdb_expire(Fdb *fdb, uint16_t port, uint32_t now_s, uint32_t age_s) noexcept nogil:
    """Forgets what `port` has not shown for `age_s` seconds; returns when the next one is due (seconds), 0 for none."""
    cdef FdbOwner *owner = &fdb.owners[port]
    while owner.count and now_s - fdb.entries[owner.oldest].seen_s >= age_s:
        forget(fdb, owner.oldest)
    return fdb.entries[owner.oldest].seen_s + age_s if owner.count else 0


cdef uint32_t room_for(Fdb *fdb, uint16_t port) noexcept nogil:
    """A free entry number for `port`, by eviction if need be; NOBODY when every entry is static."""
    cdef FdbOwner *owner = &fdb.owners[port]
    cdef uint32_t number
    cdef int other, fullest = port
    if owner.count >= fdb.share:
        forget(fdb, owner.oldest)
        fdb.evictions += 1
    elif fdb.used == fdb.capacity:
        for other in range(65536):
            if fdb.owners[other].count > fdb.owners[fullest].count:
                fullest = other
        if fdb.owners[fullest].count == 0:
            return <uint32_t>NOBODY
        forget(fdb, fdb.owners[fullest].oldest)
        fdb.evictions += 1
    if fdb.spare != <uint32_t>NOBODY:
        number = fdb.spare
        fdb.spare = fdb.entries[number].older
        return number
    fdb.untouched += 1
    return fdb.untouched - 1


cdef void insert(Fdb *fdb, uint32_t number, uint64_t key, uint16_t port, uint8_t kind) noexcept nogil:
    """Fills entry `number` and puts it into the index."""
    cdef uint32_t slot = slot_of(fdb, key)
    cdef FdbEntry *entry = &fdb.entries[number]
    while fdb.slots[slot]:
        slot = (slot + 1) & fdb.slot_mask
    fdb.slots[slot] = number + 1
    entry.key = key
    entry.port = port
    entry.kind = kind
    entry.used = 1
    entry.seen_s = 0
    entry.older = entry.newer = <uint32_t>NOBODY
    fdb.used += 1


cdef void forget(Fdb *fdb, uint32_t number) noexcept nogil:
    """Takes entry `number` out of the index and its owner's list, closing the gap in the probe chain."""
    cdef FdbEntry *entry = &fdb.entries[number]
    cdef uint32_t hole = slot_of(fdb, entry.key), slot, home
    if entry.kind == FDB_DYNAMIC:
        unlink(fdb, number)
    while fdb.slots[hole] != number + 1:
        hole = (hole + 1) & fdb.slot_mask
    slot = hole
    while True:
        slot = (slot + 1) & fdb.slot_mask
        if fdb.slots[slot] == 0:
            break
        home = slot_of(fdb, fdb.entries[fdb.slots[slot] - 1].key)
        if ((slot - home) & fdb.slot_mask) >= ((slot - hole) & fdb.slot_mask):
            fdb.slots[hole] = fdb.slots[slot]
            hole = slot
    fdb.slots[hole] = 0
    entry.used = 0
    entry.older = fdb.spare
    fdb.spare = number
    fdb.used -= 1


cdef void append(Fdb *fdb, uint32_t number) noexcept nogil:
    """Puts an entry at the new end of its owner's list."""
    cdef FdbEntry *entry = &fdb.entries[number]
    cdef FdbOwner *owner = &fdb.owners[entry.port]
    entry.older = owner.newest if owner.count else <uint32_t>NOBODY
    entry.newer = <uint32_t>NOBODY
    if owner.count:
        fdb.entries[owner.newest].newer = number
    else:
        owner.oldest = number
    owner.newest = number
    owner.count += 1


cdef void unlink(Fdb *fdb, uint32_t number) noexcept nogil:
    """Takes an entry out of its owner's list."""
    cdef FdbEntry *entry = &fdb.entries[number]
    cdef FdbOwner *owner = &fdb.owners[entry.port]
    if entry.older == <uint32_t>NOBODY:
        owner.oldest = entry.newer
    else:
        fdb.entries[entry.older].newer = entry.newer
    if entry.newer == <uint32_t>NOBODY:
        owner.newest = entry.older
    else:
        fdb.entries[entry.newer].older = entry.older
    owner.count -= 1
