# SPDX-License-Identifier: Apache-2.0
# Bytes on their way to a descriptor that may be slow, full or gone; the theory stands in _batch.pyx.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:              # why an operation came back; class Outcome in _pcapng.pyx says what to do then
    DRAINED
    INTERFACE
    ROTATE
    CALLED
    BLOCKED
    FAILED

cdef struct Batch:
    uint8_t *data       # whole pcapng blocks
    size_t size         # what `data` has room for
    size_t filled       # bytes in it
    size_t sent         # of these, bytes that the descriptor took
    int fd
    bint waits          # no regular file: it is polled before each write
    int error           # errno of what failed
    uint64_t taken      # bytes that descriptors took since the start
    int wake_fd         # eventfd: somebody wants the writing thread
    uint32_t called     # 1 where that is `batch_call`

cdef bint batch_open(Batch *batch, size_t size) noexcept nogil
cdef void batch_close(Batch *batch) noexcept nogil
cdef bint batch_add(Batch *batch, const uint8_t *block, size_t length) noexcept nogil
cdef int batch_write(Batch *batch, uint64_t deadline_ns) noexcept nogil
cdef size_t batch_abandon(Batch *batch, uint64_t *packets) noexcept nogil
cdef void batch_call(Batch *batch) noexcept nogil
cdef bint batch_heed(Batch *batch) noexcept nogil
cdef int batch_sleep(Batch *batch, int timeout_ms, bint hang_up) noexcept nogil
