# SPDX-License-Identifier: Apache-2.0
"""The consumer's half of a capture: records leave the ring, pcapng blocks enter a descriptor.

The dataplane puts one record into the session's ring for every port that a frame crosses, and never waits. A
thread of its own (class CaptureWriter in capture.py) calls `serve`, which stays here without the GIL, so that
a busy interpreter holds up neither traffic nor log, and comes back only for what needs Python: an interface
that the section doesn't describe yet, a full file, an error, a call. _packet.pyx makes the blocks, _batch.pyx
writes them.

A round: the ring's tail is looked at once, and everything before it becomes blocks and is written. The ring
is read through a copy of its indexes, so that its shared cache lines are touched once a batch and not once a
record. After a round the thread lingers (LINGER_MS), so that many records share a wake-up and a write. If
nothing came meanwhile it sets `ring.waiting`, looks again, and sleeps until the producer, who swaps `waiting`
back to 0, writes wake_fd. Idle means idle.

What a full ring lost is a number, not a place: it is booked on the first record after the round in which it
was seen.
"""
import os
import stat
from enum import IntEnum

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport write

from vswitch.datapath._ring cimport (
    Ring, add_relaxed, load32, load_acquire, load_relaxed, ring_close, ring_commit, ring_empty, ring_open,
    ring_peek, ring_release, ring_reserve, store_release, swap32,
)
from vswitch.observe._batch cimport (
    CALLED, DRAINED, INTERFACE, ROTATE, Batch, batch_abandon, batch_add, batch_call, batch_close, batch_heed,
    batch_open, batch_sleep, batch_write,
)
from vswitch.observe._packet cimport Note, packet_bytes, put_packet
from vswitch.observe._session cimport Record, Session
from vswitch.observe.pcapng import STATISTICS_BYTES, drop_note

cdef enum:
    BATCH_BYTES = 256 * 1024    # per write to a file: the call is noise, and the L2 cache still holds it
    LINGER_MS = 5               # between two rounds: at a million records a second an eighth of the ring
    SETTLE_MS = 20              # to the second look after asking for a wake-up; see rest()
    PORTS = 65536
    INTERFACES_CAP = 65536      # per section, ports that changed hands included; then a new section begins
    DESCRIPTION_ROOM = 512      # kept free in a limited file for one more interface description
    BLOCK_ROOM = 512            # more than a packet's block has around its frame

cdef struct Interface:          # one interface description of this section
    uint16_t port
    uint64_t written
    uint64_t lost

cdef uint64_t RESERVED_BYTES = STATISTICS_BYTES     # per interface, kept free in a limited file
SNAPLEN_MAX = 262144            # libpcap refuses more for Ethernet
RING_BYTES = 8 << 20            # 45,000 records of 128 bytes: 45 ms at a million a second; 127 super-frames


class Outcome(IntEnum):
    """Why `pump`, `serve` or `flush` came back."""

    DRAINED = 0     # everything asked for is written
    INTERFACE = 1   # the next record is of `port`, which the section doesn't describe: declare it
    ROTATE = 2      # the section is as large as it may be: end it, open the next one
    CALLED = 3      # somebody used `call`: heed it
    BLOCKED = 4     # the deadline passed while the reader took nothing
    FAILED = 5      # the write failed; `error` is the errno; what isn't written stays in the batch


cdef class Capture:
    """A session shared with the dataplane, and the section that is being written from it.

    One thread at a time may use it, save `call`, `offer`, `produced` and the counters, which any thread may.
    It must outlive the dataplane's use of `address`.
    """
    cdef Session session
    cdef Ring view                  # the ring as we see it: head runs ahead, tail is the round's end
    cdef Batch batch
    cdef uint32_t *interface_of     # by port: the interface's id in this section + 1, 0 where it has none yet
    cdef Interface *interfaces      # by id
    cdef uint32_t interface_count
    cdef uint64_t section_bytes, section_written, max_bytes
    cdef uint64_t seen, due, booked # of ring.dropped: when the round began, what may be booked, what is
    cdef uint64_t written_count, abandoned_count
    cdef Note[256] notes            # by drop reason
    cdef list notes_kept
    cdef readonly uint16_t port

    def __cinit__(self, *, uint32_t snaplen=SNAPLEN_MAX, uint64_t ring_bytes=RING_BYTES, reasons=None):
        if not 14 <= snaplen <= SNAPLEN_MAX:
            raise ValueError(f"snaplen {snaplen} is out of range: 14 to {SNAPLEN_MAX} bytes")
        if ring_bytes & (ring_bytes - 1) or not 2 * (snaplen + 64) <= ring_bytes <= 1 << 30:
            raise ValueError(f"ring of {ring_bytes} bytes: it takes a power of two, twice the snaplen to 1 GiB")
        self.session.snaplen = snaplen
        self.keep_notes(reasons or {})
        self.interface_of = <uint32_t *>calloc(PORTS, sizeof(uint32_t))
        self.interfaces = <Interface *>calloc(INTERFACES_CAP, sizeof(Interface))
        if not self.interface_of or not self.interfaces or not ring_open(&self.session.ring, ring_bytes):
            raise MemoryError()
        memset(self.session.ring.data, 0, ring_bytes)   # page faults now, not in the dataplane
        self.view = self.session.ring
        if not batch_open(&self.batch, BATCH_BYTES + BLOCK_ROOM + snaplen):
            raise OSError(errno, os.strerror(errno))
        self.session.wake_fd = self.batch.wake_fd

    def __dealloc__(self):
        batch_close(&self.batch)
        ring_close(&self.session.ring)
        free(self.interface_of)
        free(self.interfaces)

    cdef keep_notes(self, reasons):
        """A note for every reason that a record can carry; one without a name goes by its number."""
        cdef bytes options
        self.notes_kept = [b""]
        for reason in range(1, 256):
            self.notes_kept.append(drop_note(reasons.get(reason, f"reason {reason}")))
        for reason in range(256):
            options = self.notes_kept[reason]
            self.notes[reason] = Note(options=<const uint8_t *>options, length=len(options))

    # -- a section: opened, described, closed

    def open_section(self, int fd, bytes header not None, max_bytes=None):
        """Begins a section on `fd` (the caller's) with its header block; records stop before `max_bytes`."""
        if self.batch.filled:
            raise RuntimeError("the section before isn't written: flush or abandon it")
        for i in range(self.interface_count):
            self.interface_of[self.interfaces[i].port] = 0
        self.interface_count = 0
        self.section_bytes = self.section_written = 0
        self.max_bytes = <uint64_t>-1 if max_bytes is None else max_bytes
        self.batch.fd = fd
        self.batch.waits = not stat.S_ISREG(os.fstat(fd).st_mode)
        self.append(header)

    def append(self, bytes block not None):
        """Adds a whole block to the batch."""
        if not batch_add(&self.batch, <const uint8_t *>block, len(block)):
            raise MemoryError()
        self.section_bytes += len(block)

    def declare(self, uint16_t port, bytes description not None) -> int:
        """Adds `port`'s interface description, which its next records refer to; returns the interface id."""
        if self.interface_count == INTERFACES_CAP:
            raise RuntimeError("no more interfaces fit into this section: open the next one")
        self.append(description)
        self.interfaces[self.interface_count] = Interface(port=port, written=0, lost=0)
        self.interface_count += 1
        self.interface_of[port] = self.interface_count
        return self.interface_count - 1

    def forget(self, uint16_t port):
        """`port` is somebody else's from here on: its next record asks for a new description."""
        self.interface_of[port] = 0

    def settle(self):
        """Books what was lost after the last record on the last interface; for the end of a capture."""
        cdef uint64_t dropped = load_relaxed(&self.session.ring.dropped)
        if self.interface_count:
            self.interfaces[self.interface_count - 1].lost += dropped - self.booked
            self.booked = self.due = self.seen = dropped

    def interface_counts(self) -> list:
        """(port, records written, records lost) of each interface of the section, by id."""
        return [(self.interfaces[i].port, self.interfaces[i].written, self.interfaces[i].lost)
                for i in range(self.interface_count)]

    def abandon(self) -> int:
        """Forgets what isn't written; returns how many bytes of a block cut short end the output."""
        cdef uint64_t packets = 0
        cdef size_t cut = batch_abandon(&self.batch, &packets)
        add_relaxed(&self.abandoned_count, packets)
        add_relaxed(&self.written_count, -packets)
        return cut

    def abandon_ring(self):
        """Counts what is left in the ring as abandoned, and empties it."""
        cdef uint32_t length = 0
        self.view.tail = load_acquire(&self.session.ring.tail)
        while ring_peek(&self.view, &length) != NULL:
            ring_release(&self.view, length)
            add_relaxed(&self.abandoned_count, 1)
        store_release(&self.session.ring.head, self.view.head)

    # -- from the ring to the descriptor

    def pump(self, until=None, uint64_t deadline_ns=0):
        """Writes the records that are there, or those before position `until` (a value of `produced`).

        Waits for a slow reader until CLOCK_MONOTONIC reads `deadline_ns`, 0 for ever. Returns an Outcome.
        """
        cdef uint64_t limit = <uint64_t>-1 if until is None else until
        cdef uint64_t end = min(load_acquire(&self.session.ring.tail), limit)
        cdef int outcome
        with nogil:
            outcome = self.drain(limit, deadline_ns)
            while outcome == DRAINED and self.view.head < end:  # what was drained began before this call
                outcome = self.drain(limit, deadline_ns)
        return Outcome(outcome)

    def serve(self):
        """Writes records as they come, asleep in between; returns an Outcome, neither DRAINED nor BLOCKED."""
        cdef int outcome = DRAINED
        cdef uint64_t start
        with nogil:
            while outcome == DRAINED:
                start = self.view.head
                outcome = self.drain(<uint64_t>-1, 0)
                if outcome == DRAINED and self.view.head - start < self.view.capacity // 8:
                    outcome = self.rest()
        return Outcome(outcome)

    def flush(self, uint64_t deadline_ns=0):
        """Writes what the batch holds; returns an Outcome."""
        cdef int outcome
        with nogil:
            outcome = batch_write(&self.batch, deadline_ns)
        return Outcome(outcome)

    cdef int drain(self, uint64_t limit, uint64_t deadline_ns) noexcept nogil:
        """One round, or the rest of one that was broken off; ends with the batch written."""
        cdef int outcome = DRAINED if self.begin_round(limit) else CALLED
        while outcome == DRAINED:
            outcome = self.fill()
            store_release(&self.session.ring.head, self.view.head)  # room for the producer before we wait
            if outcome == DRAINED:
                outcome = batch_write(&self.batch, deadline_ns)
                if self.view.head == self.view.tail:
                    break
        return outcome

    cdef bint begin_round(self, uint64_t limit) noexcept nogil:
        """Sets the round's end, unless one is under way; False when called.

        `called` is looked at after the tail: who calls before he lets new records in may rely on those being
        in no round yet.
        """
        cdef uint64_t dropped, tail
        if self.view.head != self.view.tail:
            return True
        dropped = load_relaxed(&self.session.ring.dropped)
        tail = load_acquire(&self.session.ring.tail)
        if load32(&self.batch.called):
            return False
        self.due = self.seen
        self.seen = dropped
        self.view.tail = max(self.view.head, min(tail, limit))
        return True

    cdef int fill(self) noexcept nogil:
        """Takes records until the batch is full or the round is over."""
        cdef uint32_t length = 0
        cdef int outcome
        cdef const uint8_t *record
        while self.batch.filled < BATCH_BYTES:
            record = ring_peek(&self.view, &length)
            if record == NULL:
                break
            outcome = self.take(<const Record *>record)
            if outcome != DRAINED:
                return outcome
            ring_release(&self.view, length)
        return DRAINED

    cdef int take(self, const Record *record) noexcept nogil:
        """Adds a record to the batch, which has room for any; INTERFACE and ROTATE leave it in the ring."""
        cdef uint32_t interface = self.interface_of[record.port] - 1
        cdef uint32_t captured = min(record.captured, self.session.snaplen)
        cdef uint64_t lost = self.due - self.booked
        cdef const Note *note = &self.notes[record.drop]
        if self.interface_of[record.port] == 0:
            if self.interface_count == INTERFACES_CAP or not self.has_room(DESCRIPTION_ROOM):
                return ROTATE
            self.port = record.port
            return INTERFACE
        if not self.has_room(packet_bytes(captured, lost, note)):
            return ROTATE
        self.count(interface, lost, put_packet(
            self.batch.data + self.batch.filled, record, interface, captured, lost, note))
        return DRAINED

    cdef bint has_room(self, uint64_t length) noexcept nogil:
        """Whether `length` bytes more and the statistics fit; a section's first packet always does."""
        cdef uint64_t needed = self.section_bytes + RESERVED_BYTES * self.interface_count + length
        return needed <= self.max_bytes or not self.section_written

    cdef void count(self, uint32_t interface, uint64_t lost, uint32_t block_bytes) noexcept nogil:
        """A packet's block was put at the end of the batch."""
        self.batch.filled += block_bytes
        self.section_bytes += block_bytes
        self.section_written += 1
        self.booked += lost
        self.interfaces[interface].lost += lost
        self.interfaces[interface].written += 1
        add_relaxed(&self.written_count, 1)

    # -- waiting

    cdef int rest(self) noexcept nogil:
        """Lingers; if nothing came, sleeps until the producer wakes us. FAILED when the reader left.

        The look after SETTLE_MS is for a producer who read `waiting` while his last commit was still in the
        store buffer.
        """
        cdef int outcome = batch_sleep(&self.batch, LINGER_MS, True)
        if outcome != DRAINED or not ring_empty(&self.session.ring):
            return outcome
        swap32(&self.session.ring.waiting, 1)
        if ring_empty(&self.session.ring):
            outcome = batch_sleep(&self.batch, SETTLE_MS, True)
        if outcome == DRAINED and ring_empty(&self.session.ring):
            outcome = batch_sleep(&self.batch, -1, True)
        swap32(&self.session.ring.waiting, 0)
        return outcome

    def wait(self, int timeout_ms):
        """Sleeps until `call` or the time-out, whatever the ring holds."""
        with nogil:
            batch_sleep(&self.batch, timeout_ms, False)

    def call(self):
        """From any thread: makes the writing thread come back with CALLED, now or when it next would wait."""
        batch_call(&self.batch)

    def heed(self) -> bool:
        """True when there was a `call` since the last time."""
        return batch_heed(&self.batch)

    # -- the other side, and what everybody sees

    def offer(self, const uint8_t[::1] frame not None, *, uint16_t port, uint8_t direction, uint64_t time_ns,
              uint64_t packet_id=0, uint16_t network=0, uint8_t drop=0, uint8_t vnet_flags=0,
              uint8_t gso_type=0, uint16_t csum_start=0, uint16_t csum_offset=0) -> bool:
        """Plays the dataplane, for tests and examples: puts `frame` into the ring; False when it is full.

        A ring has one producer: never use this on a capture that a dataplane writes to.
        """
        cdef uint32_t captured = <uint32_t>min(<size_t>frame.shape[0], <size_t>self.session.snaplen)
        cdef uint64_t one = 1
        cdef uint8_t *at = ring_reserve(&self.session.ring, sizeof(Record) + captured)
        if at == NULL:
            return False
        (<Record *>at)[0] = Record(
            time_ns=time_ns, packet_id=packet_id, length=<uint32_t>frame.shape[0], captured=captured,
            port=port, network=network, csum_start=csum_start, csum_offset=csum_offset,
            direction=direction, drop=drop, vnet_flags=vnet_flags, gso_type=gso_type)
        if captured:
            memcpy(at + sizeof(Record), &frame[0], captured)
        ring_commit(&self.session.ring, sizeof(Record) + captured)
        if swap32(&self.session.ring.waiting, 0):
            write(self.session.wake_fd, &one, 8)
        return True

    @property
    def address(self) -> int:
        """The Session, for Datapath.start_capture."""
        return <uintptr_t>&self.session

    @property
    def snaplen(self) -> int:
        return self.session.snaplen

    @property
    def error(self) -> int:
        """The errno behind the last FAILED."""
        return self.batch.error

    @property
    def produced(self) -> int:
        """The ring's position after the newest record, for `pump`."""
        return load_acquire(&self.session.ring.tail)

    @property
    def written(self) -> int:
        """Records put into blocks, less those abandoned."""
        return load_relaxed(&self.written_count)

    @property
    def written_bytes(self) -> int:
        """Bytes that descriptors took."""
        return load_relaxed(&self.batch.taken)

    @property
    def dropped(self) -> int:
        """Records that found the ring full."""
        return load_relaxed(&self.session.ring.dropped)

    @property
    def abandoned(self) -> int:
        """Records taken from the ring that never reached the output."""
        return load_relaxed(&self.abandoned_count)

    @property
    def asleep(self) -> bool:
        """Whether the writing thread waits for the producer to wake it."""
        return load32(&self.session.ring.waiting) != 0
