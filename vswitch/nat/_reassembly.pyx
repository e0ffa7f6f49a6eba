# SPDX-License-Identifier: Apache-2.0
"""Fragments put together again, so that what leaves through a host socket is whole.

Enters: one IPv4 or IPv6 fragment of a container's. Leaves: nothing while parts are missing, then the packet as it was
before it was fragmented: IPv4 with offset and flags cleared, total length and checksum made right; IPv6 without its
fragment header. Or a drop reason. An IPv6 fragment that is the whole packet already (an atomic one) passes by itself,
whatever else is under way (RFC 6946).

Overlap kills: a packet of whose parts two cover the same byte is dropped with all of them, in both families (RFC 5722
section 4). Only an exact repetition, same start and end, is ignored, for networks do repeat packets. Since parts never
overlap, the packet is whole when the bytes that came are as many as the last part says there are. A part beyond that end, a
second and different end, or more than an IP packet can hold kills too. A part that is no fragment by itself (empty, or not
a multiple of 8 with more to come) is dropped alone.

Bounds: PORT_REASSEMBLIES packets per container, MAX_REASSEMBLIES altogether of which one container gets at most a multiple
of what is left (as in _conntrack.pyx), 64 KiB each, allocated when the first part comes. A container that wants more loses
its own oldest; where it has none and all are in use, whoever has most loses its oldest. MAX_PARTS fragments per packet:
whoever cuts finer wants to be expensive. What is incomplete after 30 s (IPv4, RFC 1122 section 3.3.2 allows 60 to 120 but
Linux and everybody else waits 30) or 60 s (IPv6, RFC 8200 section 4.5) is given up.

Fragments that waited and die with a later one or with time are told in `lost`, so that every one of them is counted.
"""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from vswitch.datapath._drops cimport Drop
from vswitch.nat._conntrack cimport may_hold
from vswitch.wire._bytes cimport read16, write16
from vswitch.wire._checksum cimport complement, sum_bytes

cdef enum:
    FRAGMENT = 44
    MAX_PACKET = 65535
    WAIT4_S = 30
    WAIT6_S = 60
    PORTS = 65536

cdef struct Part:           # one fragment, taken apart
    const uint8_t *ip
    const uint8_t *payload
    uint32_t header_bytes   # of the IP header without the fragment header
    uint32_t start          # of the payload, in the whole one
    uint32_t end
    uint32_t identification
    uint32_t next_header_at # IPv6: where the type of what follows stands
    bint more
    bint ipv6


cdef bint reassemblies_open(Reassemblies *table, uint32_t capacity) noexcept nogil:
    """An empty table; False when memory is short."""
    memset(table, 0, sizeof(Reassemblies))
    table.entries = <Reassembly *>calloc(capacity, sizeof(Reassembly))
    table.holdings = <Holding *>calloc(PORTS, sizeof(Holding))
    table.capacity = capacity
    return table.entries != NULL and table.holdings != NULL


cdef void reassemblies_close(Reassemblies *table) noexcept nogil:
    cdef uint32_t i
    for i in range(table.untouched if table.entries != NULL else 0):
        free(table.entries[i].buffer)
    for i in range(table.buffer_count):
        free(table.buffers[i])
    free(table.whole)
    free(table.entries)
    free(table.holdings)
    memset(table, 0, sizeof(Reassemblies))


# ---- one fragment


cdef const uint8_t *reassemble(Reassemblies *table, uint16_t port, const uint8_t *ip, uint32_t total, uint64_t now_ns,
                               uint32_t *whole_bytes, int *drop) noexcept nogil:
    """Takes the fragment at ip[0:total]. The whole packet, valid until the next call, and its length; or NULL, and in `drop` why
    this fragment died, 0 while it waits for others."""
    cdef Part part
    cdef Reassembly *entry
    drop[0] = 0
    table.lost = 0
    release(table, table.whole)
    table.whole = NULL
    if not take_apart(ip, total, &part):
        drop[0] = <int>Drop.FRAGMENT_MALFORMED
        return NULL
    if part.start == 0 and not part.more:
        return whole_already(table, &part, whole_bytes, drop)
    entry = find(table, port, &part)
    if entry == NULL:
        entry = open_entry(table, port, &part, now_ns)
        if entry == NULL:
            drop[0] = <int>Drop.FRAGMENT_SHARE
            return NULL
    drop[0] = add_part(entry, &part)
    if drop[0]:
        lose(table, entry, drop[0])
        return NULL
    if entry.end == 0 or entry.bytes < entry.end or entry.header_bytes == 0:
        return NULL
    return complete(table, entry, whole_bytes, drop)


cdef bint take_apart(const uint8_t *ip, uint32_t total, Part *part) noexcept nogil:
    """Reads a fragment's headers; False when it is none, or none that is allowed."""
    cdef uint32_t at = (ip[0] & 15) * <uint32_t>4 if total else 0
    part.ip = ip
    part.ipv6 = total and ip[0] >> 4 == 6
    part.next_header_at = 0
    if part.ipv6:
        at = find_fragment_header(ip, total, &part.next_header_at)
        if at == 0:
            return False
        part.start, part.more = read16(ip + at + 2) & 0xFFF8, ip[at + 3] & 1
        part.identification = read16(ip + at + 4) << 16 | read16(ip + at + 6)
        part.header_bytes, part.payload = at, ip + at + 8
        part.end = part.start + total - at - 8
    else:
        if total < 20 or ip[0] >> 4 != 4 or at < 20 or total < at or read16(ip + 2) != total:
            return False
        part.start, part.more = (read16(ip + 6) & 0x1FFF) * 8, (ip[6] >> 5) & 1
        part.identification = read16(ip + 4)
        part.header_bytes, part.payload = at, ip + at
        part.end = part.start + total - at
    return part.end > part.start and (not part.more or part.end & 7 == 0)


cdef uint32_t find_fragment_header(const uint8_t *ip, uint32_t total, uint32_t *next_header_at) noexcept nogil:
    """Where the fragment header stands, behind nothing but hop-by-hop, destination and routing headers, and where its type does;
    0 for nowhere."""
    cdef uint32_t at = 40, type_at = 6
    if total < 48 or read16(ip + 4) + 40 != total:
        return 0
    while at + 8 <= total and at + 8 <= WHOLE_ROOM:
        if ip[type_at] == FRAGMENT:
            next_header_at[0] = type_at
            return at
        if ip[type_at] != 0 and ip[type_at] != 43 and ip[type_at] != 60:
            return 0
        type_at = at
        at += (ip[at + 1] + 1) * 8
    return 0


cdef const uint8_t *whole_already(Reassemblies *table, const Part *part, uint32_t *whole_bytes, int *drop) noexcept nogil:
    """An atomic fragment: the same packet without its fragment header."""
    table.whole = take_buffer(table)
    if table.whole == NULL:
        drop[0] = <int>Drop.FRAGMENT_SHARE
        return NULL
    memcpy(table.whole + WHOLE_ROOM, part.payload, part.end)
    memcpy(table.whole + WHOLE_ROOM - part.header_bytes, part.ip, part.header_bytes)
    if part.ipv6:
        table.whole[WHOLE_ROOM - part.header_bytes + part.next_header_at] = part.ip[part.header_bytes]
    return mended(table.whole + WHOLE_ROOM - part.header_bytes, part.header_bytes, part.end, part.ipv6, whole_bytes)


cdef int add_part(Reassembly *entry, const Part *part) noexcept nogil:
    """Keeps one part; the reason when the packet can't be one any more."""
    cdef uint32_t i
    cdef uint8_t *header
    if part.end > MAX_PACKET or (entry.end and (part.end > entry.end or (not part.more and part.end != entry.end))):
        return <int>Drop.FRAGMENT_OVERLAP
    for i in range(entry.parts):
        if part.start == entry.starts[i] and part.end == entry.ends[i]:
            return 0
        if part.start < entry.ends[i] and part.end > entry.starts[i]:
            return <int>Drop.FRAGMENT_OVERLAP
    if not part.more and entry.reach > part.end:
        return <int>Drop.FRAGMENT_OVERLAP
    if entry.parts == MAX_PARTS:
        return <int>Drop.FRAGMENT_SHARE
    entry.starts[entry.parts], entry.ends[entry.parts] = <uint16_t>part.start, <uint16_t>part.end
    entry.parts += 1
    entry.bytes += part.end - part.start
    entry.reach = part.end if part.end > entry.reach else entry.reach
    if not part.more:
        entry.end = part.end
    memcpy(entry.buffer + WHOLE_ROOM + part.start, part.payload, part.end - part.start)
    if part.start == 0:
        header = entry.buffer + WHOLE_ROOM - part.header_bytes
        entry.header_bytes = part.header_bytes
        memcpy(header, part.ip, part.header_bytes)
        if part.ipv6:
            header[part.next_header_at] = part.ip[part.header_bytes]
    return 0


cdef const uint8_t *complete(Reassemblies *table, Reassembly *entry, uint32_t *whole_bytes, int *drop) noexcept nogil:
    """Hands the packet over and forgets it, unless its headers make it too long."""
    cdef uint32_t header_bytes = entry.header_bytes
    if entry.end + header_bytes - (40 if entry.ipv6 else 0) > MAX_PACKET:
        drop[0] = <int>Drop.FRAGMENT_OVERLAP
        lose(table, entry, drop[0])
        return NULL
    table.whole = entry.buffer
    entry.buffer = NULL
    close_entry(table, entry)
    return mended(table.whole + WHOLE_ROOM - header_bytes, header_bytes, entry.end, entry.ipv6, whole_bytes)


cdef const uint8_t *mended(uint8_t *ip, uint32_t header_bytes, uint32_t payload, bint ipv6, uint32_t *whole_bytes) noexcept nogil:
    """Makes the IP header say that the packet is whole."""
    cdef uint16_t checksum = 0
    whole_bytes[0] = header_bytes + payload
    if ipv6:
        write16(ip + 4, header_bytes - 40 + payload)
        return ip
    write16(ip + 2, header_bytes + payload)
    write16(ip + 6, 0)
    memcpy(ip + 10, &checksum, 2)
    checksum = complement(sum_bytes(ip, header_bytes, 0))
    memcpy(ip + 10, &checksum, 2)
    return ip


# ---- the table


cdef Reassembly *find(const Reassemblies *table, uint16_t port, const Part *part) noexcept nogil:
    """The packet that a fragment is part of, or NULL; a port has PORT_REASSEMBLIES at most."""
    cdef uint32_t number = table.holdings[port].oldest
    cdef Reassembly *entry
    while number:
        entry = &table.entries[number - 1]
        if entry.identification == part.identification and entry.ipv6 == part.ipv6:
            if part.ipv6:
                if memcmp(entry.addresses, part.ip + 8, 32) == 0:
                    return entry
            elif entry.protocol == part.ip[9] and memcmp(entry.addresses, part.ip + 12, 8) == 0:
                return entry
        number = entry.next_mine
    return NULL


cdef Reassembly *open_entry(Reassemblies *table, uint16_t port, const Part *part, uint64_t now_ns) noexcept nogil:
    """A new packet under way, in place of the port's oldest one where it has its share already; NULL when memory is short."""
    cdef Holding *holding = &table.holdings[port]
    cdef Reassembly *entry
    cdef uint8_t *buffer
    if holding.count >= PORT_REASSEMBLIES or not may_hold(holding.count, table.used, table.capacity):
        lose(table, &table.entries[(holding if holding.count else greediest(table)).oldest - 1], <int>Drop.FRAGMENT_SHARE)
    buffer = take_buffer(table)
    if buffer == NULL:
        return NULL
    if table.spare:
        entry = &table.entries[table.spare - 1]
        table.spare = entry.next_mine
    else:
        entry = &table.entries[table.untouched]
        table.untouched += 1
    memset(entry, 0, sizeof(Reassembly))
    entry.buffer, entry.port, entry.ipv6, entry.identification = buffer, port, part.ipv6, part.identification
    if part.ipv6:
        memcpy(entry.addresses, part.ip + 8, 32)
    else:
        entry.protocol = part.ip[9]
        memcpy(entry.addresses, part.ip + 12, 8)
    entry.due_ns = now_ns + <uint64_t>(WAIT6_S if part.ipv6 else WAIT4_S) * 1000000000
    if table.due_ns == 0 or entry.due_ns < table.due_ns:
        table.due_ns = entry.due_ns
    link(table, holding, entry)
    return entry


cdef Holding *greediest(const Reassemblies *table) noexcept nogil:
    """What the port has that has most; the table is full, so there is one."""
    cdef Holding *most = &table.holdings[table.entries[0].port]
    cdef uint32_t i
    for i in range(table.untouched):
        if table.entries[i].due_ns and table.holdings[table.entries[i].port].count > most.count:
            most = &table.holdings[table.entries[i].port]
    return most


cdef void link(Reassemblies *table, Holding *holding, Reassembly *entry) noexcept nogil:
    """Puts an entry at the young end of its port's list."""
    cdef uint32_t number = <uint32_t>(entry - table.entries) + 1
    entry.previous_mine = holding.newest
    if holding.newest:
        table.entries[holding.newest - 1].next_mine = number
    else:
        holding.oldest = number
    holding.newest = number
    holding.count += 1
    table.used += 1


cdef void close_entry(Reassemblies *table, Reassembly *entry) noexcept nogil:
    """Takes an entry out; what it knows can still be read until the next one is opened, but for next_mine."""
    cdef Holding *holding = &table.holdings[entry.port]
    if entry.previous_mine:
        table.entries[entry.previous_mine - 1].next_mine = entry.next_mine
    else:
        holding.oldest = entry.next_mine
    if entry.next_mine:
        table.entries[entry.next_mine - 1].previous_mine = entry.previous_mine
    else:
        holding.newest = entry.previous_mine
    holding.count -= 1
    table.used -= 1
    release(table, entry.buffer)
    entry.buffer = NULL
    entry.due_ns = 0
    entry.next_mine = table.spare
    table.spare = <uint32_t>(entry - table.entries) + 1
    if table.used == 0:
        table.due_ns = 0


cdef void lose(Reassemblies *table, Reassembly *entry, int reason) noexcept nogil:
    """Gives a packet up; the parts of it that had come are lost."""
    table.lost_port, table.lost_reason = entry.port, reason
    table.lost += entry.parts
    close_entry(table, entry)


cdef uint8_t *take_buffer(Reassemblies *table) noexcept nogil:
    """Room for the largest packet there is, or NULL when memory is short."""
    if table.buffer_count:
        table.buffer_count -= 1
        return table.buffers[table.buffer_count]
    return <uint8_t *>malloc(WHOLE_ROOM + MAX_PACKET)


cdef void release(Reassemblies *table, uint8_t *buffer) noexcept nogil:
    """Takes a buffer back; a few are kept, so that a container that does send fragments costs no allocation for each."""
    if buffer != NULL and table.buffer_count < SPARE_BUFFERS:
        table.buffers[table.buffer_count] = buffer
        table.buffer_count += 1
    else:
        free(buffer)


# ---- giving up


cdef bint reassemblies_expire(Reassemblies *table, uint64_t now_ns, const uint8_t **first, uint32_t *first_bytes) noexcept nogil:
    """Gives one overdue packet up, whose parts are in `lost`; False when none is overdue. Call it until then. `first` is its first fragment, without
    IPv6's fragment header, valid until the next call; NULL when that never came."""
    cdef uint64_t soonest = 0
    cdef uint32_t i
    table.lost = 0
    first[0] = NULL
    if table.due_ns == 0 or now_ns < table.due_ns:
        return False
    for i in range(table.untouched):
        if table.entries[i].due_ns == 0:
            continue
        if table.entries[i].due_ns <= now_ns:
            first[0] = first_part(table, &table.entries[i], first_bytes)
            lose(table, &table.entries[i], <int>Drop.FRAGMENT_TIMEOUT)
            return True
        if soonest == 0 or table.entries[i].due_ns < soonest:
            soonest = table.entries[i].due_ns
    table.due_ns = soonest
    return False


cdef const uint8_t *first_part(Reassemblies *table, Reassembly *entry, uint32_t *bytes) noexcept nogil:
    """Takes the first fragment out of a packet that is given up; NULL when it never came."""
    cdef uint8_t *ip = entry.buffer + WHOLE_ROOM - entry.header_bytes
    cdef uint32_t i
    for i in range(entry.parts):
        if entry.starts[i] == 0:
            bytes[0] = entry.header_bytes + entry.ends[i]
            if entry.ipv6:
                write16(ip + 4, bytes[0] - 40)
            release(table, table.whole)
            table.whole = entry.buffer
            entry.buffer = NULL
            return ip
    return NULL


cdef void reassemblies_forget(Reassemblies *table, uint16_t port) noexcept nogil:
    """The port is gone, and all that it had under way."""
    while table.holdings[port].count:
        close_entry(table, &table.entries[table.holdings[port].oldest - 1])


# ---- for tests


cdef class Reassembler:
    """A table of its own, for property tests; nothing in the dataplane uses it."""
    cdef Reassemblies table

    def __cinit__(self, uint32_t capacity=MAX_REASSEMBLIES):
        if not reassemblies_open(&self.table, capacity):
            raise MemoryError

    def __dealloc__(self):
        reassemblies_close(&self.table)

    def take(self, bytes fragment not None, uint16_t port=1, uint64_t now_ns=1) -> bytes | int | None:
        """The whole packet, None while parts are missing, or the Drop reason."""
        cdef uint32_t length = 0
        cdef int drop = 0
        cdef const uint8_t *whole = reassemble(&self.table, port, fragment, <uint32_t>len(fragment), now_ns, &length, &drop)
        return drop or None if whole == NULL else (<const char *>whole)[:length]

    def expire(self, uint64_t now_ns) -> int:
        """Gives up what is overdue; how many fragments that were."""
        cdef int lost = 0
        cdef const uint8_t *first
        cdef uint32_t first_bytes
        while reassemblies_expire(&self.table, now_ns, &first, &first_bytes):
            lost += self.table.lost
        return lost

    def forget(self, uint16_t port) -> None:
        reassemblies_forget(&self.table, port)

    @property
    def state(self) -> tuple:
        """(packets under way, fragments lost by the last take(), when to expire next)"""
        return self.table.used, self.table.lost, self.table.due_ns
