# SPDX-License-Identifier: Apache-2.0
# How the dataplane waits for events; the theory stands in _waiting.pyx.
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data

cdef enum:
    EVENTS = 64             # taken per wake-up
    FRAME_WORK = 512        # what a frame counts beside its bytes in Waiting.work

cdef struct Waiting:
    uint64_t limit_ns       # awake for at most this long before a sleep; 0: asleep at once
    uint64_t awake_ns       # what it is now
    uint32_t work           # bytes moved in this turn
    uint32_t light_turns    # since one that moved much

cdef int wait_for_events(Waiting *waiting, int poller, epoll_event *ready, int timeout_ms) noexcept nogil
