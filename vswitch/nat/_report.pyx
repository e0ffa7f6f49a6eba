# SPDX-License-Identifier: Apache-2.0
"""Flows as control is shown them: rows of a snapshot, and an event for each that comes and goes while somebody watches.

Nobody watching, which is the usual case, costs one comparison. Watched, an event is dropped and counted when its ring is full, like any
other: a container that opens connections faster than control reads is not slowed down by that.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from vswitch._fastpath cimport EVENT_FLOW_CLOSED, EVENT_FLOW_OPENED, FlowEvent
from vswitch.datapath._ring cimport ring_commit, ring_reserve

cdef enum:
    TCP = 6


cdef void describe(const Switch *sw, const Flow *flow, FlowRow *row) noexcept nogil:
    """All that a user may want to know of a flow."""
    memset(row, 0, sizeof(FlowRow))
    row.network, row.port, row.protocol, row.direction = flow.network, flow.port, flow.protocol, flow.direction
    row.state = flow.tcp.state if flow.protocol == TCP else 0
    row.assured = flow.assured
    memcpy(row.inside, flow.inside, 16)
    memcpy(row.outside, flow.outside, 16)
    memcpy(row.target, flow.target, 16)
    row.inside_port, row.outside_port, row.number, row.generation = flow.inside_port, flow.outside_port, flow.number, flow.generation
    row.out_bytes, row.in_bytes, row.out_packets, row.in_packets = flow.out_bytes, flow.in_bytes, flow.out_packets, flow.in_packets
    row.age_ns = sw.now_ns - flow.opened_ns
    row.idle_ns = sw.now_ns - flow.seen_ns


cdef void report_opened(Switch *sw, const Flow *flow) noexcept nogil:
    if sw.nat.watched:
        report(sw, flow, EVENT_FLOW_OPENED)


cdef void report_closed(Switch *sw, const Flow *flow) noexcept nogil:
    if sw.nat.watched:
        report(sw, flow, EVENT_FLOW_CLOSED)


cdef void report(Switch *sw, const Flow *flow, uint32_t kind) noexcept nogil:
    cdef FlowEvent *event = <FlowEvent *>ring_reserve(&sw.events, sizeof(FlowEvent))
    sw.notify = 1
    if event == NULL:
        return
    event.event.kind, event.event.port, event.event.network, event.event.error = kind, flow.port, flow.network, 0
    describe(sw, flow, &event.row)
    ring_commit(&sw.events, sizeof(FlowEvent))
