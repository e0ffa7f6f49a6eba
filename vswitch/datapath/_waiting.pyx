# SPDX-License-Identifier: Apache-2.0
"""Waiting for events: awake for a moment before asleep, and asleep for a moment where somebody floods.

Adaptive busy polling. A core on which nobody runs halts, and to start it again takes 20 to 60 µs where it is a virtual one: several times what everything else about
a small packet takes. Who asks and waits for the answer pays that at every hop. So before it sleeps the dataplane looks for events for up to
`limit_ns`, if that has paid lately: once a sleep was shorter than that it stays awake for so long, and each time that this was in vain for
half as long, until it doesn't (as KVM's halt polling). An idle switch, and one whose packets come further apart than `limit_ns`, sleeps as ever.

It is for little packets that somebody waits for. A turn that moves more than LIGHT_WORK is bulk, in which each end has enough to do
meanwhile, and staying awake would only take the processor from them; LIGHT_TURNS must have been light in a row.

Rest. Flooder and dataplane keep two cores busy, and whoever else wants one, such as the client and the server between whom the dataplane carries a
connection, waits for a time slice of 1.5 to 3 ms to end: the scheduler lets a thread that never sleeps finish its slice. So where a port uses up
its turns with little frames while others have something to say too, the dataplane sleeps REST_NS out of every RUN_NS. The frames that came meanwhile it
finds in the queue; bulk meanwhile loses a fifth at most, and the others' 99th percentile falls to a third (docs/decisions/awake-and-at-rest.md).
"""
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, nanosleep, timespec

from vswitch.datapath._ring cimport add_relaxed

cdef extern from "<sys/epoll.h>" nogil:
    int epoll_wait(int poller, epoll_event *events, int room, int timeout_ms)

cdef extern from "<sys/prctl.h>" nogil:
    enum: PR_SET_TIMERSLACK
    int prctl(int option, unsigned long value)

cdef enum:
    LIGHT_WORK = 4096       # bytes: eight little frames, or one with two segments
    LIGHT_TURNS = 8
    SHORTEST_NS = 4000      # to stay awake for less is to not look at all
    LITTLE_BYTES = 1024     # a flood's frames are smaller on average
    COMPANY_NS = 100000000  # how long after another port sent something somebody may be waiting
    RUN_NS = 200000
    REST_NS = 50000


cdef uint64_t clock_ns() noexcept nogil:
    """CLOCK_MONOTONIC."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef void waiting_in_thread(Waiting *waiting) noexcept nogil:
    """The calling thread is the dataplane's from now on: it may sleep, and to the microsecond."""
    waiting.in_thread = 1
    prctl(PR_SET_TIMERSLACK, 1)


cdef void note_turn(Waiting *waiting, uint32_t port, uint32_t frames, uint64_t bytes, bint used_up, uint64_t now_ns) noexcept nogil:
    """A port had its turn, and perhaps `used_up` all of it."""
    if frames and waiting.last_port != port + 1:
        waiting.company_ns = now_ns if waiting.last_port else 0
        waiting.last_port = port + 1
    if used_up and bytes < <uint64_t>frames * LITTLE_BYTES:
        waiting.flooded = 1


cdef void rest(Waiting *waiting) noexcept nogil:
    """Lets others have the processor, if it is time."""
    cdef timespec span
    cdef uint64_t now_ns = clock_ns()
    waiting.flooded = 0
    if now_ns - waiting.company_ns > COMPANY_NS or now_ns - waiting.rested_ns < RUN_NS:
        return
    span.tv_sec, span.tv_nsec = 0, REST_NS
    nanosleep(&span, NULL)
    waiting.rested_ns = now_ns + REST_NS
    add_relaxed(&waiting.rests, 1)


cdef int wait_for_events(Waiting *waiting, int poller, epoll_event *ready, int timeout_ms) noexcept nogil:
    """epoll_wait() for at most EVENTS; how many there are."""
    cdef uint64_t began, slept_ns
    cdef int count
    waiting.light_turns = waiting.light_turns + 1 if waiting.work <= LIGHT_WORK else 0
    waiting.work = 0
    if waiting.flooded and waiting.in_thread:
        rest(waiting)
    if timeout_ms == 0 or waiting.limit_ns == 0 or waiting.light_turns < LIGHT_TURNS:
        return epoll_wait(poller, ready, EVENTS, timeout_ms)
    began = clock_ns()
    while waiting.awake_ns:
        count = epoll_wait(poller, ready, EVENTS, 0)
        if count:
            add_relaxed(&waiting.busy_polls, 1)
            return count
        if clock_ns() - began >= waiting.awake_ns:
            break
    count = epoll_wait(poller, ready, EVENTS, timeout_ms)
    slept_ns = clock_ns() - began
    if slept_ns < waiting.limit_ns:
        waiting.awake_ns = waiting.limit_ns
    else:
        waiting.awake_ns = waiting.awake_ns // 2 if waiting.awake_ns >= 2 * SHORTEST_NS else 0
    return count
