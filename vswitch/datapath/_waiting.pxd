# SPDX-License-Identifier: Apache-2.0
# How the dataplane waits for events; the theory stands in _waiting.pyx.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

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
    uint32_t last_port      # index + 1 of the port that sent last
    uint64_t company_ns     # when that changed last
    uint64_t rested_ns      # when the last rest for others' sake ended
    uint8_t in_thread       # not stepped by hand
    uint8_t flooded         # in this turn a port used up its own with little frames
    uint64_t busy_polls     # waits that ended awake
    uint64_t rests          # for others' sake

cdef uint64_t clock_ns() noexcept nogil
cdef void waiting_in_thread(Waiting *waiting) noexcept nogil
cdef void note_turn(Waiting *waiting, uint32_t port, uint32_t frames, uint64_t bytes, bint used_up, uint64_t now_ns) noexcept nogil
cdef int wait_for_events(Waiting *waiting, int poller, epoll_event *ready, int timeout_ms) noexcept nogil
