# SPDX-License-Identifier: Apache-2.0
# The host socket's end of a TCP connection; the theory stands in _stream.pyx.
from libc.stdint cimport int32_t, uint8_t, uint32_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow
from vswitch.nat._nat cimport EMIT_ROOM

cdef enum:
    LARGEST = 65535 - 60    # payload of a super-frame with an IPv6 and a TCP header
    CHUNK_BYTES = 65536     # of the stream in one chunk: a whole super-frame
    MAX_CHUNKS = 2048       # 128 MiB of address space, touched only as far as it is needed
    MAX_HELD = 4            # chunks of one flow that wait for its host socket
    TOUCHED_FLOWS = 64      # that a burst of frames may touch before they are served

cdef struct Chunk:
    uint32_t next           # chunk number
    uint32_t seq            # of its first byte, where it is kept for the container
    uint32_t start          # first byte not given to the host socket yet, where it is held for that
    uint32_t bytes          # in it altogether
    uint8_t room[EMIT_ROOM + 20]    # for the headers of the frame it leaves in
    uint8_t data[CHUNK_BYTES]

cdef struct TcpPool:
    Chunk *chunks
    uint32_t used
    uint32_t untouched
    uint32_t spare          # number of a chunk given back, NO_CHUNK for none
    uint32_t touched_count
    uint32_t touched[TOUCHED_FLOWS]     # flow numbers

cdef inline TcpPool *pool_of(Switch *sw) noexcept nogil:
    return <TcpPool *>sw.nat.tcp

cdef int32_t take(Switch *sw, Port *port, Flow *flow, const uint8_t *data, uint32_t bytes) noexcept nogil
cdef bint give_held(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void finish_sending(Switch *sw, Flow *flow) noexcept nogil
cdef bint grant(Switch *sw, Flow *flow, bint anew) noexcept nogil
cdef int pump(Switch *sw, Port *port, Flow *flow, int frames) noexcept nogil
cdef void resend(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void rewind(Flow *flow) noexcept nogil
cdef void let_go_of_acknowledged(Switch *sw, Port *port, Flow *flow, bint all) noexcept nogil
cdef void free_chunks(Switch *sw, Port *port, Flow *flow) noexcept nogil
