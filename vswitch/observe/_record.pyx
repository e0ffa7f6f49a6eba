# SPDX-License-Identifier: Apache-2.0
"""The producer's half of a capture, called by the dataplane: one record for each capture that watches a port.

Enters: a frame that crosses a port, or dies there. Leaves: a Record and at most the snaplen's bytes of the frame on each
capture's own ring. A full ring loses the record and counts it; nothing here waits. The writers are woken once per batch
(tell_control in _fastpath.pyx), and _pcapng.pyx is what they do.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from vswitch._fastpath cimport MAX_SESSIONS
from vswitch.datapath._ring cimport ring_commit, ring_reserve
from vswitch.observe._session cimport Record, Session


cdef void capture(Switch *sw, Port *port, Frame *frame, uint8_t direction, Drop reason) noexcept nogil:
    """One record for each capture that watches this port; a full ring loses it and counts."""
    cdef int slot
    cdef uint64_t time_ns
    cdef uint32_t kept
    cdef Session *session
    cdef Record *record
    if frame.packet_id == 0:
        sw.packet_ids += 1
        frame.packet_id = sw.packet_ids
    time_ns = wall_time(sw)
    for slot in range(MAX_SESSIONS):
        session = sw.sessions[slot]
        if session == NULL or not port.captured_by >> slot & 1:
            continue
        kept = frame.length if frame.length < session.snaplen else session.snaplen
        record = <Record *>ring_reserve(&session.ring, sizeof(Record) + kept)
        if record != NULL:
            fill_record(record, port, frame, direction, reason)
            record.time_ns = time_ns
            record.captured = kept
            memcpy(<uint8_t *>record + sizeof(Record), frame.data, kept)
            ring_commit(&session.ring, sizeof(Record) + kept)
        sw.captured |= 1 << slot


cdef void fill_record(Record *record, Port *port, Frame *frame, uint8_t direction, Drop reason) noexcept nogil:
    record.packet_id = frame.packet_id
    record.length = frame.length
    record.port = port.index
    record.network = port.network
    record.csum_start = frame.vnet.csum_start
    record.csum_offset = frame.vnet.csum_offset
    record.direction = direction
    record.drop = <uint8_t>reason
    record.vnet_flags = frame.vnet.flags if reason != Drop.BAD_VNET_HEADER else 0
    record.gso_type = frame.vnet.gso_type if reason != Drop.BAD_VNET_HEADER else 0


cdef uint64_t wall_time(Switch *sw) noexcept nogil:
    """Nanoseconds since the epoch: a capture's stamps are per frame, not per turn, since a turn of super-frames lasts a millisecond."""
    cdef timespec now
    if sw.stepped:
        return sw.now_ns + sw.realtime_ns
    clock_gettime(CLOCK_REALTIME, &now)
    return <uint64_t>now.tv_sec * 1000000000 + now.tv_nsec
