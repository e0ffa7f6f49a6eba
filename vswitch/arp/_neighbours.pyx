# SPDX-License-Identifier: Apache-2.0
"""The neighbour table of all networks: IP address → MAC and port.

Enters: bindings that control knows to be true (endpoints' addresses, the gateway's own). Leaves: what ARP and neighbour
discovery are answered from, and whom an address belongs to when a port claims it. Of frames only guard/ learns, IPv6 addresses that a
container makes itself, and those are marked: a container is an attacker. Only the dataplane's thread touches it.

IPv4 addresses are kept in their IPv6-mapped form, so one table serves both families. Entries never move; the index holds entry
numbers. Limit: `capacity` bindings (131,072 by default: one IPv4 and one IPv6 address for every port there can be);
a full table refuses the new binding and control refuses the endpoint.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset


cdef bint neighbours_open(Neighbours *table, uint32_t capacity, uint64_t seed) noexcept nogil:
    """Makes an empty table; False when memory is short."""
    cdef uint32_t slots = 64
    while slots < 2 * capacity:
        slots *= 2
    table.entries = <Neighbour *>calloc(capacity, sizeof(Neighbour))
    table.slots = <uint32_t *>calloc(slots, sizeof(uint32_t))
    table.slot_mask = slots - 1
    table.capacity = capacity
    table.used = table.untouched = table.spare = 0
    table.seed = seed | 1
    return table.entries != NULL and table.slots != NULL


cdef void neighbours_close(Neighbours *table) noexcept nogil:
    free(table.entries)
    free(table.slots)
    table.entries = NULL
    table.slots = NULL


cdef inline uint32_t slot_of(const Neighbours *table, uint16_t network, const uint8_t *address) noexcept nogil:
    """The slot where the search for an address starts (seeded: containers choose the addresses they ask for)."""
    cdef uint64_t high, low
    memcpy(&high, address, 8)
    memcpy(&low, address + 8, 8)
    high = (high ^ table.seed ^ network) * <uint64_t>0xFF51AFD7ED558CCD
    low = (low ^ (high >> 29) ^ high) * <uint64_t>0xC4CEB9FE1A85EC53
    low = (low ^ (low >> 33) ^ table.seed) * <uint64_t>0xFF51AFD7ED558CCD
    return <uint32_t>(low >> 32) & table.slot_mask


cdef Neighbour *neighbour_find(const Neighbours *table, uint16_t network, const uint8_t *address) noexcept nogil:
    """The binding of a 16-byte address, or NULL."""
    cdef uint32_t slot = slot_of(table, network, address), number
    cdef Neighbour *entry
    while True:
        number = table.slots[slot]
        if number == 0:
            return NULL
        entry = &table.entries[number - 1]
        if entry.network == network and memcmp(entry.address, address, 16) == 0:
            return entry
        slot = (slot + 1) & table.slot_mask


cdef Neighbour *neighbour_find4(const Neighbours *table, uint16_t network, const uint8_t *address) noexcept nogil:
    """The binding of a 4-byte address, or NULL."""
    cdef uint8_t mapped[16]
    memset(mapped, 0, 10)
    mapped[10] = mapped[11] = 0xFF
    memcpy(&mapped[12], address, 4)
    return neighbour_find(table, network, mapped)


cdef bint neighbour_set(Neighbours *table, uint16_t network, const uint8_t *address, const uint8_t *mac, uint16_t port) noexcept nogil:
    """Adds or replaces a binding; False when the table is full."""
    cdef Neighbour *entry = neighbour_find(table, network, address)
    cdef uint32_t slot, number
    if entry == NULL:
        if table.used == table.capacity:
            return False
        if table.spare:
            number = table.spare - 1
            table.spare = table.entries[number].next_spare
        else:
            number = table.untouched
            table.untouched += 1
        slot = slot_of(table, network, address)
        while table.slots[slot]:
            slot = (slot + 1) & table.slot_mask
        table.slots[slot] = number + 1
        table.used += 1
        entry = &table.entries[number]
        memcpy(entry.address, address, 16)
        entry.network = network
        entry.used = 1
    memcpy(entry.mac, mac, 6)
    entry.port, entry.claimed = port, 0
    return True


cdef void neighbour_remove(Neighbours *table, uint16_t network, const uint8_t *address) noexcept nogil:
    """Forgets a binding and closes the gap in the probe chain."""
    cdef Neighbour *entry = neighbour_find(table, network, address)
    cdef Neighbour *other
    cdef uint32_t hole, slot, home, number
    if entry == NULL:
        return
    number = <uint32_t>(entry - table.entries)
    hole = slot_of(table, network, address)
    while table.slots[hole] != number + 1:
        hole = (hole + 1) & table.slot_mask
    slot = hole
    while True:
        slot = (slot + 1) & table.slot_mask
        if table.slots[slot] == 0:
            break
        other = &table.entries[table.slots[slot] - 1]
        home = slot_of(table, other.network, other.address)
        if ((slot - home) & table.slot_mask) >= ((slot - hole) & table.slot_mask):
            table.slots[hole] = table.slots[slot]
            hole = slot
    table.slots[hole] = 0
    entry.used = 0
    entry.next_spare = table.spare
    table.spare = number + 1
    table.used -= 1


cdef void neighbours_flush(Neighbours *table, uint16_t network) noexcept nogil:
    """Forgets all bindings of a network."""
    cdef uint32_t number
    for number in range(table.untouched):
        if table.entries[number].used and table.entries[number].network == network:
            neighbour_remove(table, network, table.entries[number].address)
