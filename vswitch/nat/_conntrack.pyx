# SPDX-License-Identifier: Apache-2.0
"""Connection tracking: one table for everything that leaves a network through its gateway or comes in through a published port.

Enters: a packet's tuple as the container sees it. Leaves: the flow it belongs to, which carries the verdict reached for its first packet
and the translator's state. The network is the zone: equal addresses in two networks are different flows. The other tuple of a flow, the
host's, needs no index here: the kernel keeps it, and a host socket's event names its flow. Only the dataplane's thread touches any of this.

Room: `capacity` flows altogether. What one container may hold follows what is left: at most MAX_HOLD times what is still free
(dynamic thresholds, Choudhury and Hahne 1998). So one greedy container gets up to 8/9 of everything while it is alone, gives way as others
come, and however many are greedy there is something free for the next one. Host descriptors follow the same rule. A container
that wants more than that loses its own oldest unassured flow (one not yet seen in both directions, or closed already) and never
somebody else's: early drop as in Linux' conntrack, but by owner.

Timers: two wheels, of 8 ms for retransmissions and of 1 s for idle timeouts. Setting a timer later than before costs a store: the flow
stays in its slot, and moves on when that is served. So ten thousand idle flows wake the switch once a second at most, and mostly not at all.

The run queue holds flows whose turn ended before their work did; each gets another turn per turn of the dataplane.

Entries never move; the index holds their numbers, hashed with a secret seed, since containers choose their tuples. `generation` counts the
uses of an entry, so that an event or answer that was under way when its flow ended is told apart.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset


cdef bint conntrack_open(Conntrack *table, uint32_t capacity, uint32_t descriptor_limit, uint64_t seed) noexcept nogil:
    """Makes an empty table; False when memory is short."""
    cdef uint32_t slots = 64, i
    while slots < 2 * capacity:
        slots *= 2
    table.flows = <Flow *>calloc(capacity, sizeof(Flow))
    table.slots = <uint32_t *>calloc(slots, sizeof(uint32_t))
    table.slot_mask = slots - 1
    table.capacity = capacity
    table.descriptor_limit = descriptor_limit
    table.seed = seed | 1
    table.first_run = table.last_run = NO_FLOW
    for i in range(FINE_SLOTS + COARSE_SLOTS + 1):
        table.wheel[i] = NO_FLOW
    return table.flows != NULL and table.slots != NULL


cdef void conntrack_close(Conntrack *table) noexcept nogil:
    free(table.flows)
    free(table.slots)
    table.flows = NULL
    table.slots = NULL


# ---- finding


cdef inline uint64_t mixed(uint64_t hash, uint64_t word) noexcept nogil:
    hash = (hash ^ word) * <uint64_t>0xFF51AFD7ED558CCD
    return hash ^ (hash >> 32)


cdef inline uint64_t word_at(const uint8_t *p) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, p, 8)
    return word


cdef inline uint32_t slot_of(const Conntrack *table, uint16_t network, uint8_t protocol, const uint8_t *inside, uint16_t inside_port,
                             const uint8_t *outside, uint16_t outside_port) noexcept nogil:
    """The slot where the search for a tuple starts."""
    cdef uint64_t hash = mixed(table.seed, <uint64_t>network << 48 | <uint64_t>protocol << 32 | <uint64_t>inside_port << 16 | outside_port)
    hash = mixed(mixed(hash, word_at(inside)), word_at(inside + 8))
    hash = mixed(mixed(hash, word_at(outside)), word_at(outside + 8) ^ table.seed)
    return <uint32_t>(hash >> 32 ^ hash) & table.slot_mask


cdef inline uint32_t home_of(const Conntrack *table, const Flow *flow) noexcept nogil:
    return slot_of(table, flow.network, flow.protocol, flow.inside, flow.inside_port, flow.outside, flow.outside_port)


cdef Flow *flow_find(const Conntrack *table, uint16_t network, uint8_t protocol, const uint8_t *inside, uint16_t inside_port,
                     const uint8_t *outside, uint16_t outside_port) noexcept nogil:
    """The flow of a tuple, or NULL."""
    cdef uint32_t slot = slot_of(table, network, protocol, inside, inside_port, outside, outside_port)
    cdef Flow *flow
    while table.slots[slot]:
        flow = &table.flows[table.slots[slot] - 1]
        if (flow.inside_port == inside_port and flow.outside_port == outside_port and flow.network == network
                and flow.protocol == protocol and memcmp(flow.inside, inside, 16) == 0 and memcmp(flow.outside, outside, 16) == 0):
            return flow
        slot = (slot + 1) & table.slot_mask
    return NULL


# ---- coming and going


cdef bint may_hold(uint32_t held, uint32_t used, uint32_t limit) noexcept nogil:
    """Whether somebody who holds `held` of the `used` out of `limit` may have one more."""
    return used < limit and held < MAX_HOLD * <uint64_t>(limit - used)


cdef bint may_open(const Conntrack *table, const Share *share) noexcept nogil:
    """Whether a container may have another host socket."""
    return may_hold(share.descriptors, table.descriptors + table.taken, table.descriptor_limit)


cdef Flow *flow_add(Conntrack *table, Share *share, uint16_t network, uint8_t protocol, const uint8_t *inside, uint16_t inside_port,
                    const uint8_t *outside, uint16_t outside_port) noexcept nogil:
    """A new, unassured flow of a tuple that has none yet; NULL when the table or the container's share of it is full."""
    cdef uint32_t number, slot
    cdef uint32_t generation
    cdef Flow *flow
    if not may_hold(share.flows, table.used, table.capacity):
        return NULL
    if table.spare:
        number = table.spare - 1
        table.spare = table.flows[number].next_mine
    else:
        number = table.untouched
        table.untouched += 1
    flow = &table.flows[number]
    generation = flow.generation + 1
    memset(flow, 0, sizeof(Flow))
    flow.generation, flow.number, flow.used, flow.fd = generation, number, 1, -1
    flow.network, flow.protocol, flow.inside_port, flow.outside_port = network, protocol, inside_port, outside_port
    flow.verdict = VERDICT_SOCKET
    memcpy(flow.inside, inside, 16)
    memcpy(flow.outside, outside, 16)
    flow.next_run = flow.next_due = flow.previous_due = flow.mapping = flow.next_mapped = flow.previous_mapped = NO_FLOW
    slot = home_of(table, flow)
    while table.slots[slot]:
        slot = (slot + 1) & table.slot_mask
    table.slots[slot] = number + 1
    table.used += 1
    share.flows += 1
    link_mine(table, share, flow)
    link_loose(table, share, flow)
    return flow


cdef void flow_remove(Conntrack *table, Share *share, Flow *flow) noexcept nogil:
    """Forgets a flow; its socket and its translator's state are the caller's business."""
    cdef uint32_t hole = home_of(table, flow), slot, home
    while table.slots[hole] != flow.number + 1:
        hole = (hole + 1) & table.slot_mask
    slot = hole
    while True:
        slot = (slot + 1) & table.slot_mask
        if table.slots[slot] == 0:
            break
        home = home_of(table, &table.flows[table.slots[slot] - 1])
        if ((slot - home) & table.slot_mask) >= ((slot - hole) & table.slot_mask):
            table.slots[hole] = table.slots[slot]
            hole = slot
    table.slots[hole] = 0
    if not flow.assured:
        unlink_loose(table, share, flow)
    unlink_mine(table, share, flow)
    flow_undue(table, flow)
    unqueue(table, flow)
    flow.used = 0
    flow.next_mine = table.spare
    table.spare = flow.number + 1
    table.used -= 1
    share.flows -= 1


cdef void link_mine(Conntrack *table, Share *share, Flow *flow) noexcept nogil:
    """Puts a flow on its container's list. Lists start with number + 1, so that a Share of zeroes is an empty one."""
    flow.next_mine = share.first
    flow.previous_mine = 0
    if share.first:
        table.flows[share.first - 1].previous_mine = flow.number + 1
    share.first = flow.number + 1


cdef void unlink_mine(Conntrack *table, Share *share, Flow *flow) noexcept nogil:
    if flow.previous_mine:
        table.flows[flow.previous_mine - 1].next_mine = flow.next_mine
    else:
        share.first = flow.next_mine
    if flow.next_mine:
        table.flows[flow.next_mine - 1].previous_mine = flow.previous_mine


cdef void link_loose(Conntrack *table, Share *share, Flow *flow) noexcept nogil:
    """Puts a flow at the young end of its container's unassured ones."""
    flow.previous_loose = share.newest
    flow.next_loose = 0
    if share.newest:
        table.flows[share.newest - 1].next_loose = flow.number + 1
    else:
        share.oldest = flow.number + 1
    share.newest = flow.number + 1


cdef void unlink_loose(Conntrack *table, Share *share, Flow *flow) noexcept nogil:
    if flow.previous_loose:
        table.flows[flow.previous_loose - 1].next_loose = flow.next_loose
    else:
        share.oldest = flow.next_loose
    if flow.next_loose:
        table.flows[flow.next_loose - 1].previous_loose = flow.previous_loose
    else:
        share.newest = flow.previous_loose


cdef void flow_assure(Conntrack *table, Share *share, Flow *flow) noexcept nogil:
    """The flow was seen in both directions: it is not dropped early any more."""
    if not flow.assured:
        flow.assured = 1
        unlink_loose(table, share, flow)


cdef void flow_loosen(Conntrack *table, Share *share, Flow *flow) noexcept nogil:
    """The flow has ended but for its timer: it may be dropped early."""
    if flow.assured:
        flow.assured = 0
        link_loose(table, share, flow)


cdef void flow_touch(Conntrack *table, Share *share, Flow *flow) noexcept nogil:
    """An unassured flow was seen again: others are older now."""
    if not flow.assured and share.newest != flow.number + 1:
        unlink_loose(table, share, flow)
        link_loose(table, share, flow)


# ---- timers


cdef void flow_due(Conntrack *table, Flow *flow, uint64_t due_ns, uint64_t now_ns) noexcept nogil:
    """Sets a flow's timer, in place of an earlier setting."""
    flow.due_ns = due_ns
    if flow.slot and flow.rings_ns <= due_ns:
        return
    flow_undue(table, flow)
    flow.due_ns = due_ns
    place(table, flow, now_ns)


cdef void place(Conntrack *table, Flow *flow, uint64_t now_ns) noexcept nogil:
    """Puts a flow into the slot that is served when it is due, or as late as the wheel reaches."""
    cdef uint64_t tick
    if table.fine_used == 0 and table.fine_at < now_ns // FINE_NS:
        table.fine_at = now_ns // FINE_NS
    if table.coarse_used == 0 and table.coarse_at < now_ns // COARSE_NS:
        table.coarse_at = now_ns // COARSE_NS
    tick = (flow.due_ns + FINE_NS - 1) // FINE_NS
    if tick <= table.fine_at:
        tick = table.fine_at + 1
    if tick < table.fine_at + FINE_SLOTS:
        flow.slot = 1 + <uint32_t>(tick % FINE_SLOTS)
        flow.rings_ns = tick * FINE_NS
        table.fine_used += 1
    else:
        tick = (flow.due_ns + COARSE_NS - 1) // COARSE_NS
        if tick <= table.coarse_at:
            tick = table.coarse_at + 1
        elif tick >= table.coarse_at + COARSE_SLOTS:
            tick = table.coarse_at + COARSE_SLOTS - 1
        flow.slot = 1 + FINE_SLOTS + <uint32_t>(tick % COARSE_SLOTS)
        flow.rings_ns = tick * COARSE_NS
        table.coarse_used += 1
    flow.previous_due = NO_FLOW
    flow.next_due = table.wheel[flow.slot]
    if flow.next_due != NO_FLOW:
        table.flows[flow.next_due].previous_due = flow.number
    table.wheel[flow.slot] = flow.number


cdef void flow_undue(Conntrack *table, Flow *flow) noexcept nogil:
    """Takes a flow's timer away."""
    if flow.slot == 0:
        return
    if flow.previous_due == NO_FLOW:
        table.wheel[flow.slot] = flow.next_due
    else:
        table.flows[flow.previous_due].next_due = flow.next_due
    if flow.next_due != NO_FLOW:
        table.flows[flow.next_due].previous_due = flow.previous_due
    if flow.slot <= FINE_SLOTS:
        table.fine_used -= 1
    else:
        table.coarse_used -= 1
    flow.slot = 0
    flow.next_due = flow.previous_due = NO_FLOW


cdef Flow *flow_next_due(Conntrack *table, uint64_t now_ns, uint32_t *left) noexcept nogil:
    """A flow whose timer rings now, its timer taken away; NULL when there is none, or `left` is used up, of which each flow that is looked at takes
    one. Call it until then."""
    cdef Flow *flow = ripe(table, 1, FINE_SLOTS, FINE_NS, &table.fine_at, &table.fine_used, now_ns, left)
    if flow == NULL:
        flow = ripe(table, 1 + FINE_SLOTS, COARSE_SLOTS, COARSE_NS, &table.coarse_at, &table.coarse_used, now_ns, left)
    return flow


cdef Flow *ripe(Conntrack *table, uint32_t first, uint32_t slots, uint64_t tick_ns, uint64_t *at, const uint32_t *used,
                uint64_t now_ns, uint32_t *left) noexcept nogil:
    """The same for one wheel: serves its slots up to now; flows that are not due yet move on."""
    cdef uint64_t now = now_ns // tick_ns
    cdef Flow *flow
    while at[0] < now and used[0]:
        while table.wheel[first + (at[0] + 1) % slots] != NO_FLOW:
            if left[0] == 0:
                return NULL
            left[0] -= 1
            flow = &table.flows[table.wheel[first + (at[0] + 1) % slots]]
            flow_undue(table, flow)
            if flow.due_ns <= now_ns:
                return flow
            place_later(table, flow, now_ns)
        at[0] += 1
    if at[0] < now:
        at[0] = now
    return NULL


cdef void place_later(Conntrack *table, Flow *flow, uint64_t now_ns) noexcept nogil:
    """Moves a flow on from the slot that is being served, which counts as served already so that it can't land there again."""
    table.fine_at += 1
    table.coarse_at += 1
    place(table, flow, now_ns)
    table.fine_at -= 1
    table.coarse_at -= 1


cdef int64_t conntrack_patience_ns(const Conntrack *table, uint64_t now_ns) noexcept nogil:
    """How long nothing is due, in ns; -1 for ever."""
    cdef int64_t fine = quiet_ns(table, 1, FINE_SLOTS, FINE_NS, table.fine_at, table.fine_used, now_ns)
    cdef int64_t coarse = quiet_ns(table, 1 + FINE_SLOTS, COARSE_SLOTS, COARSE_NS, table.coarse_at, table.coarse_used, now_ns)
    if table.first_run != NO_FLOW:
        return 0
    if fine < 0 or (coarse >= 0 and coarse < fine):
        return coarse
    return fine


cdef int64_t quiet_ns(const Conntrack *table, uint32_t first, uint32_t slots, uint64_t tick_ns, uint64_t at, uint32_t used,
                      uint64_t now_ns) noexcept nogil:
    cdef uint64_t tick
    if used == 0:
        return -1
    for tick in range(at + 1, at + slots + 1):
        if table.wheel[first + tick % slots] != NO_FLOW:
            return <int64_t>(tick * tick_ns - now_ns) if tick * tick_ns > now_ns else 0
    return -1


# ---- the run queue


cdef void flow_run(Conntrack *table, Flow *flow) noexcept nogil:
    """Gives a flow another turn."""
    if flow.runnable:
        return
    flow.runnable = 1
    flow.next_run = NO_FLOW
    flow.previous_run = table.last_run
    if table.first_run == NO_FLOW:
        table.first_run = flow.number
    else:
        table.flows[table.last_run].next_run = flow.number
    table.last_run = flow.number


cdef Flow *flow_next_run(Conntrack *table) noexcept nogil:
    """The flow whose turn it is, taken off the queue; NULL when nobody waits."""
    cdef Flow *flow
    if table.first_run == NO_FLOW:
        return NULL
    flow = &table.flows[table.first_run]
    unqueue(table, flow)
    return flow


cdef void unqueue(Conntrack *table, Flow *flow) noexcept nogil:
    """Takes a flow off the run queue."""
    if not flow.runnable:
        return
    flow.runnable = 0
    if flow.previous_run == NO_FLOW:
        table.first_run = flow.next_run
    else:
        table.flows[flow.previous_run].next_run = flow.next_run
    if flow.next_run == NO_FLOW:
        table.last_run = flow.previous_run
    else:
        table.flows[flow.next_run].previous_run = flow.previous_run
