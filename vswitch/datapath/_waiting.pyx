# SPDX-License-Identifier: Apache-2.0
"""Waiting for events, awake for a moment before asleep: adaptive busy polling.

A core on which nobody runs halts, and to start it again takes 20 to 60 µs where it is a virtual one: several times what everything else about
a small packet takes. Who asks and waits for the answer pays that at every hop. So before it sleeps the dataplane looks for events for up to
`limit_ns`, if that has paid lately: once a sleep was shorter than that it stays awake for so long, and each time that this was in vain for
half as long, until it doesn't (as KVM's halt polling). An idle switch, and one whose packets come further apart than `limit_ns`, sleeps as ever.

It is for little packets that somebody waits for. A turn that moves more than LIGHT_WORK is bulk, in which each end has enough to do
meanwhile, and staying awake would only take the processor from them; LIGHT_TURNS must have been light in a row.
"""
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "<sys/epoll.h>" nogil:
    int epoll_wait(int poller, epoll_event *events, int room, int timeout_ms)

cdef enum:
    LIGHT_WORK = 4096       # bytes: eight little frames, or one with two segments
    LIGHT_TURNS = 8
    SHORTEST_NS = 4000      # to stay awake for less is to not look at all


cdef uint64_t clock_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef int wait_for_events(Waiting *waiting, int poller, epoll_event *ready, int timeout_ms) noexcept nogil:
    """epoll_wait() for at most EVENTS; how many there are."""
    cdef uint64_t began, slept_ns
    cdef int count
    waiting.light_turns = waiting.light_turns + 1 if waiting.work <= LIGHT_WORK else 0
    waiting.work = 0
    if timeout_ms == 0 or waiting.limit_ns == 0 or waiting.light_turns < LIGHT_TURNS:
        return epoll_wait(poller, ready, EVENTS, timeout_ms)
    began = clock_ns()
    while waiting.awake_ns:
        count = epoll_wait(poller, ready, EVENTS, 0)
        if count:
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
