# SPDX-License-Identifier: Apache-2.0
"""The way from blocks in memory to a descriptor, and the waiting that goes with it.

One thread fills and writes the batch. Others may `call` it: it then comes back from wherever it waits, with
CALLED.

A regular file is written with blocking writes. Anything else may belong to a reader who dawdles: it is polled
together with wake_fd, and written at most PIPE_BUF bytes at a time, which a pipe that polls writable takes
without blocking. Its flags are not touched: the descriptor is shared with whoever handed it over. A write
that fails leaves the rest in the batch, and the next try goes on at the same byte, so that a disk that was
full for a while leaves a whole file. Errors are values: FAILED, and the errno in `error`.
"""
from libc.errno cimport EAGAIN, EINTR, EIO, EPIPE, errno
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close, read, write

from vswitch.datapath._ring cimport add_relaxed, load32, swap32

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
    enum:
        POLLIN
        POLLOUT

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int start, int flags)
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK

cdef enum:
    PIPE_BYTES = 4096               # PIPE_BUF (pipe(7))
    ENHANCED_PACKET = 6
    LONGEST_WAIT_MS = 3600000       # fits into an int, and is looked at again


cdef bint batch_open(Batch *batch, size_t size) noexcept nogil:
    """An empty batch with room for `size` bytes; False (errno) when memory or descriptors are short."""
    memset(batch, 0, sizeof(Batch))
    batch.fd = -1
    batch.size = size
    batch.data = <uint8_t *>malloc(size)
    batch.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    return batch.data != NULL and batch.wake_fd >= 0


cdef void batch_close(Batch *batch) noexcept nogil:
    """Undoes batch_open, also one that failed, also of a batch that is all zeroes."""
    if batch.data != NULL or batch.wake_fd > 0:
        close(batch.wake_fd)
    free(batch.data)
    batch.data = NULL
    batch.wake_fd = -1


cdef bint batch_add(Batch *batch, const uint8_t *block, size_t length) noexcept nogil:
    """Appends a block, growing where needed; False when memory is short."""
    cdef uint8_t *grown
    if batch.filled + length > batch.size:
        grown = <uint8_t *>realloc(batch.data, batch.filled + length)
        if grown == NULL:
            return False
        batch.data = grown
        batch.size = batch.filled + length
    memcpy(batch.data + batch.filled, block, length)
    batch.filled += length
    return True


cdef int batch_write(Batch *batch, uint64_t deadline_ns) noexcept nogil:
    """Writes what is in it; waits for a slow reader until `deadline_ns` (CLOCK_MONOTONIC; 0 for ever)."""
    cdef size_t count
    cdef ssize_t done
    cdef int outcome
    while batch.sent < batch.filled:
        count = batch.filled - batch.sent
        if batch.waits:
            outcome = await_room(batch, deadline_ns)
            if outcome != DRAINED:
                return outcome
            count = min(count, <size_t>PIPE_BYTES)
        done = write(batch.fd, batch.data + batch.sent, count)
        if done > 0:
            batch.sent += done
            add_relaxed(&batch.taken, done)
        elif done < 0 and errno == EAGAIN:
            batch.waits = True
        elif done == 0 or errno != EINTR:
            batch.error = errno if done < 0 else EIO
            return FAILED
    batch.filled = batch.sent = 0
    return DRAINED


cdef int await_room(Batch *batch, uint64_t deadline_ns) noexcept nogil:
    """Waits until the descriptor takes bytes, or has an error to tell the next write."""
    cdef pollfd[2] fds
    while True:
        if load32(&batch.called):
            return CALLED
        fds[0] = pollfd(fd=batch.fd, events=POLLOUT, revents=0)
        fds[1] = pollfd(fd=batch.wake_fd, events=POLLIN, revents=0)
        if poll(fds, 2, remaining_ms(deadline_ns)) == 0 and remaining_ms(deadline_ns) == 0:
            return BLOCKED
        if fds[0].revents:
            return DRAINED
        if fds[1].revents:
            clear_wake(batch)


cdef int remaining_ms(uint64_t deadline_ns) noexcept nogil:
    """What poll() may wait; -1 where there is no deadline."""
    cdef timespec now
    cdef uint64_t now_ns
    if deadline_ns == 0:
        return -1
    clock_gettime(CLOCK_MONOTONIC, &now)
    now_ns = <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
    if now_ns >= deadline_ns:
        return 0
    return <int>min((deadline_ns - now_ns) // 1000000 + 1, <uint64_t>LONGEST_WAIT_MS)


cdef void clear_wake(Batch *batch) noexcept nogil:
    cdef uint64_t count
    read(batch.wake_fd, &count, 8)


cdef size_t batch_abandon(Batch *batch, uint64_t *packets) noexcept nogil:
    """Empties the batch; adds the packets that weren't written whole to `packets`.

    Returns how many bytes of a block cut short stand at the end of the output.
    """
    cdef size_t at = 0, end, cut = 0
    cdef uint32_t *head
    while at < batch.filled:
        head = <uint32_t *>(batch.data + at)
        end = at + head[1]
        if at < batch.sent < end:
            cut = batch.sent - at
        if end > batch.sent and head[0] == ENHANCED_PACKET:
            packets[0] += 1
        at = end
    batch.filled = batch.sent = 0
    return cut


cdef void batch_call(Batch *batch) noexcept nogil:
    """From any thread: the writing thread comes back with CALLED, now or when it next would wait."""
    cdef uint64_t one = 1
    swap32(&batch.called, 1)
    write(batch.wake_fd, &one, 8)


cdef bint batch_heed(Batch *batch) noexcept nogil:
    """True where there was a call since the last time."""
    return swap32(&batch.called, 0) != 0


cdef int batch_sleep(Batch *batch, int timeout_ms, bint hang_up) noexcept nogil:
    """Until woken, called or timed out (-1: never); with `hang_up` FAILED as soon as a reader leaves."""
    cdef pollfd[2] fds
    if load32(&batch.called):
        return CALLED
    fds[0] = pollfd(fd=batch.wake_fd, events=POLLIN, revents=0)
    # a hang-up shows without asking for any event
    fds[1] = pollfd(fd=batch.fd if hang_up and batch.waits else -1, events=0, revents=0)
    if poll(fds, 2, timeout_ms) <= 0:
        return DRAINED
    if fds[0].revents:
        clear_wake(batch)
    if fds[1].revents:
        batch.error = EPIPE
        return FAILED
    return DRAINED
