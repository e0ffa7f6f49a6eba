# SPDX-License-Identifier: Apache-2.0
"""The host socket's end of a TCP connection: bytes go into it, bytes come out of it, and it says how much room there is.

Container → host: take() gives a frame's payload to send() straight from the receive buffer. What the kernel doesn't take of a frame is held
in chunks, at most MAX_HELD of a flow, and given later; it counts as received. grant() offers the container the room that the socket really
has (SO_MEMINFO: its send buffer less what is queued in it), less an eighth for the kernel's own overhead, plus one frame: so a
fast container now and then overfills it, which is what makes the kernel's autotuning enlarge the buffer. When it is more than two
thirds full the poller is asked to say when that changes. SO_SNDBUF is never set: it would end autotuning.

Host → container: pump() reads with MSG_PEEK at an offset (SO_PEEK_OFF, Linux 6.9), so what the container has not acknowledged stays in the
socket's own receive queue, and a loss is repaired by peeking again. Acknowledged bytes are discarded (MSG_TRUNC) in portions of
DISCARD_BYTES. Where the socket can't do that, bytes are read into chunks, which are kept until they are acknowledged. Chunks have
room for the headers in front, so both ways copy equally often.

A remainder of less than DISCARD_BYTES is discarded when nothing is under way. The kernel charges a buffer whole until its last byte is read, and one
from a fast sender holds half a megabyte: a few hundred bytes left in it keep its window closed, with nothing to come that would end that.

pump() says why it stopped. It stops for the container's window (and sends neither less than a full segment nor less than half a window into
the rest of one while something is under way, RFC 9293 section 3.8.6.2.1), when the socket is empty, and after `frames` frames or when the
container had its share of this turn (PUMP_BYTES in _shares.pxd).

Limits: MAX_CHUNKS for everybody; what one container may hold of them follows what is free, as for flows. Without a chunk a short send
acknowledges less and the container sends the rest again.
"""
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from vswitch.nat._conntrack cimport may_hold
from vswitch.nat._nat cimport POLL_FLOW
from vswitch.nat._segments cimport TCP_FIN, TCP_PSH, send_control, send_data
from vswitch.nat._shares cimport may_pump, pumped
from vswitch.nat._sockets cimport (
    EPOLL_CTL_MOD, FIONREAD, FLOW_EVENTS, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, SHUT_WR, SO_MEMINFO, SO_PEEK_OFF, SOL_SOCKET, epoll_ctl,
    epoll_event, getsockopt, ioctl, poll_key, recv, send, setsockopt, shutdown,
)
from vswitch.nat._tcp cimport (
    AIM, DRAINED, ESTABLISHED, FIN_ACKED, FIN_IN, FIN_OUT, FIRST_CLOSER, FULL, HUNG_UP, NO_CHUNK, PEEKED, SHUT,
)

cdef enum:
    DISCARD_BYTES = 4096
    MEMINFO_WORDS = 9       # sk_meminfo: 3 is the send buffer, 5 what is queued in it
    NO_ROOM = -2
    SLACK = 65536           # offered beyond the room there is: one frame, for which there are chunks


# ---- the pool


cdef Chunk *new_chunk(Switch *sw, Port *port, uint32_t *number) noexcept nogil:
    """An empty chunk on the container's account, or NULL."""
    cdef TcpPool *pool = pool_of(sw)
    cdef Chunk *chunk
    if not may_hold(port.share.chunks, pool.used, MAX_CHUNKS):
        return NULL
    if pool.spare != <uint32_t>NO_CHUNK:
        number[0] = pool.spare
        pool.spare = pool.chunks[pool.spare].next
    else:
        number[0] = pool.untouched
        pool.untouched += 1
    pool.used += 1
    port.share.chunks += 1
    chunk = &pool.chunks[number[0]]
    chunk.next, chunk.start, chunk.bytes = NO_CHUNK, 0, 0
    return chunk


cdef uint32_t free_chunk(Switch *sw, Port *port, uint32_t number) noexcept nogil:
    """Gives a chunk back; the one behind it."""
    cdef TcpPool *pool = pool_of(sw)
    cdef uint32_t following = pool.chunks[number].next
    pool.chunks[number].next = pool.spare
    pool.spare = number
    pool.used -= 1
    port.share.chunks -= 1
    return following


cdef void free_chunks(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """Gives all chunks of a flow back."""
    while flow.tcp.first_held != <uint32_t>NO_CHUNK:
        flow.tcp.first_held = free_chunk(sw, port, flow.tcp.first_held)
    while flow.tcp.first_kept != <uint32_t>NO_CHUNK:
        flow.tcp.first_kept = free_chunk(sw, port, flow.tcp.first_kept)


# ---- container → host


cdef int32_t take(Switch *sw, Port *port, Flow *flow, const uint8_t *data, uint32_t bytes) noexcept nogil:
    """Takes payload, the next in order, for the host; how much of it, or -1 when the host's end is broken."""
    cdef ssize_t took = 0
    if flow.tcp.first_held == <uint32_t>NO_CHUNK:
        took = send(flow.fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
        if took < 0:
            if errno != EAGAIN and errno != EINTR and errno != ENOBUFS and errno != ENOMEM:
                return -1
            took = 0
    if <uint32_t>took < bytes:
        flow.tcp.marks |= FULL
        took += hold(sw, port, flow, data + took, bytes - <uint32_t>took)
    return <int32_t>took


cdef uint32_t hold(Switch *sw, Port *port, Flow *flow, const uint8_t *data, uint32_t bytes) noexcept nogil:
    """Keeps what the host socket did not take; how much of it found room."""
    cdef TcpPool *pool = pool_of(sw)
    cdef Chunk *chunk = NULL
    cdef uint32_t number = flow.tcp.last_held, done = 0, part
    if flow.tcp.first_held != <uint32_t>NO_CHUNK:
        chunk = &pool.chunks[number]
    while done < bytes:
        if chunk == NULL or chunk.bytes == CHUNK_BYTES:
            if flow.tcp.held_bytes > (MAX_HELD - 1) * CHUNK_BYTES:
                break
            chunk = new_chunk(sw, port, &number)
            if chunk == NULL:
                break
            if flow.tcp.first_held == <uint32_t>NO_CHUNK:
                flow.tcp.first_held = number
            else:
                pool.chunks[flow.tcp.last_held].next = number
            flow.tcp.last_held = number
        part = min(bytes - done, CHUNK_BYTES - chunk.bytes)
        memcpy(chunk.data + chunk.bytes, data + done, part)
        chunk.bytes += part
        flow.tcp.held_bytes += part
        done += part
    return done


cdef bint give_held(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """The host socket has room: gives it what was held; False when the host's end is broken."""
    cdef Chunk *chunk
    cdef ssize_t took
    while flow.tcp.first_held != <uint32_t>NO_CHUNK:
        chunk = &pool_of(sw).chunks[flow.tcp.first_held]
        took = send(flow.fd, chunk.data + chunk.start, chunk.bytes - chunk.start, MSG_DONTWAIT | MSG_NOSIGNAL)
        if took < 0:
            return errno == EAGAIN or errno == EINTR or errno == ENOBUFS or errno == ENOMEM
        chunk.start += <uint32_t>took
        flow.tcp.held_bytes -= <uint32_t>took
        if chunk.start < chunk.bytes:
            return True
        flow.tcp.first_held = free_chunk(sw, port, flow.tcp.first_held)
    flow.tcp.marks &= ~FULL
    finish_sending(sw, flow)
    return True


cdef void finish_sending(Switch *sw, Flow *flow) noexcept nogil:
    """Ends the host's incoming stream once the container's end came and all before it was given."""
    if flow.tcp.marks & FIN_IN and not flow.tcp.marks & SHUT and flow.tcp.first_held == <uint32_t>NO_CHUNK:
        flow.tcp.marks |= SHUT
        shutdown(flow.fd, SHUT_WR)


cdef bint grant(Switch *sw, Flow *flow, bint anew) noexcept nogil:
    """Moves the right edge of the window on to what the host socket has room for, if half of the last grant is used up, or `anew`.
    True when the container ought to be told: its window was small, and is not now."""
    cdef uint32_t info[MEMINFO_WORDS]
    cdef unsigned int size = sizeof(info)
    cdef uint32_t left = flow.tcp.rcv_edge - flow.tcp.rcv_nxt, room = 0, most = <uint32_t>65535 << flow.tcp.own_scale
    if <int32_t>left < 0:
        left = 0
    if flow.tcp.marks & FIN_IN:     # nothing more comes; and a socket that is shut counts as writable, so that asking it for room never ends
        return False
    if flow.tcp.first_held != <uint32_t>NO_CHUNK or (not anew and left > flow.tcp.granted // 2):
        return False
    if getsockopt(flow.fd, SOL_SOCKET, SO_MEMINFO, info, &size) == 0 and info[3] > info[5]:
        room = info[3] - info[5]
    if room < info[3] // 3 and not flow.tcp.marks & FULL:
        flow.tcp.marks |= FULL
        ask_for_room(sw, flow)
    room = min(room - room // 8 + SLACK, most)
    if room <= left:
        return False
    flow.tcp.granted = room
    flow.tcp.rcv_edge = flow.tcp.rcv_nxt + room
    return left < 2 * <uint32_t>flow.tcp.mss or left < room // 4


cdef void ask_for_room(Switch *sw, Flow *flow) noexcept nogil:
    """Polled once more, a socket that is not writable promises an event for when it is."""
    cdef epoll_event event
    event.events = FLOW_EVENTS
    event.data.u64 = poll_key(POLL_FLOW, flow.generation, flow.number)
    epoll_ctl(sw.poller, EPOLL_CTL_MOD, flow.fd, &event)


# ---- host → container


cdef int pump(Switch *sw, Port *port, Flow *flow, int frames) noexcept nogil:
    """Moves what the host has sent on to the container. 1 when there may be more to do at once, 0 when something must happen first, -1 when
    the host's end is broken."""
    cdef uint32_t under_way, room, most = LARGEST // flow.tcp.mss * flow.tcp.mss
    cdef int32_t got
    cdef int64_t credit
    while not flow.tcp.marks & DRAINED and flow.tcp.state == ESTABLISHED:
        if flow.tcp.marks & FIN_OUT and flow.tcp.snd_nxt == flow.tcp.snd_max:
            return 0
        under_way = flow.tcp.snd_nxt - flow.tcp.snd_una
        if under_way >= flow.tcp.snd_window:
            return 0
        room = min(flow.tcp.snd_window - under_way, most)
        if under_way and room < min(<uint32_t>flow.tcp.mss, flow.tcp.snd_window // 2):
            return 0
        if frames == 0 or not may_pump(sw, port):
            return 1
        credit = port.credit    # what comes in is not on the account of what the container may send
        got = move_kept(sw, port, flow, room) if not flow.tcp.marks & PEEKED else move_peeked(sw, port, flow, room)
        port.credit = credit
        if got == NO_ROOM:
            return 0
        if got < 0:
            return got
        pumped(sw, port, <uint32_t>got)
        frames -= 1
    return 0


cdef int32_t move_peeked(Switch *sw, Port *port, Flow *flow, uint32_t room) noexcept nogil:
    """One frame from the socket's receive queue, where it stays; its bytes, 0 for none, -1 for an error."""
    cdef uint8_t *l4 = sw.nat.tx + EMIT_ROOM
    cdef ssize_t got
    if flow.tcp.marks & AIM and not aim(flow, flow.tcp.snd_nxt):
        return -1
    got = recv(flow.fd, l4 + 20, room, MSG_PEEK | MSG_DONTWAIT)
    if got <= 0:
        return nothing_read(sw, port, flow, got)
    if <uint32_t>got < room and not flow.tcp.marks & HUNG_UP:
        flow.tcp.marks |= DRAINED
    send_data(sw, port, flow, l4, flow.tcp.snd_nxt, <uint32_t>got, TCP_PSH)
    went(sw, flow, <uint32_t>got)
    return <int32_t>got


cdef bint aim(Flow *flow, uint32_t seq) noexcept nogil:
    """The next peek starts at `seq`; False when the socket refuses."""
    cdef int offset = <int>(seq - flow.tcp.consumed)
    flow.tcp.marks &= ~AIM
    return setsockopt(flow.fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) == 0


cdef int32_t nothing_read(Switch *sw, Port *port, Flow *flow, ssize_t got) noexcept nogil:
    """The host's stream has nothing for now, has ended, or is broken."""
    if got < 0:
        if errno != EAGAIN and errno != EINTR:
            return -1
        flow.tcp.marks |= DRAINED
        return 0
    if not flow.tcp.marks & FIN_IN:
        flow.tcp.marks |= FIRST_CLOSER
    flow.tcp.marks |= FIN_OUT
    send_control(sw, port, flow, TCP_FIN, flow.tcp.snd_nxt)
    went(sw, flow, 1)
    return 0


cdef void went(Switch *sw, Flow *flow, uint32_t bytes) noexcept nogil:
    """Counts what was sent; times it if it is new and nothing else is being timed (RFC 6298 section 3)."""
    flow.tcp.snd_nxt += bytes
    if <int32_t>(flow.tcp.snd_nxt - flow.tcp.snd_max) > 0:
        if flow.tcp.timed_ns == 0 and flow.tcp.snd_nxt - bytes == flow.tcp.snd_max:
            flow.tcp.timed_ns = sw.now_ns
            flow.tcp.timed_seq = flow.tcp.snd_nxt
        flow.tcp.snd_max = flow.tcp.snd_nxt


cdef int32_t move_kept(Switch *sw, Port *port, Flow *flow, uint32_t room) noexcept nogil:
    """One frame by way of a chunk: again if the container missed it, otherwise from the socket; its bytes, 0 for none, -1 for an error,
    NO_ROOM when there is no chunk to be had."""
    cdef uint32_t number
    cdef Chunk *chunk = kept_at(sw, flow, flow.tcp.snd_nxt)
    cdef ssize_t got
    if chunk != NULL:
        send_data(sw, port, flow, chunk.data - 20, chunk.seq, chunk.bytes, TCP_PSH)
        flow.tcp.snd_nxt = chunk.seq
        went(sw, flow, chunk.bytes)
        return <int32_t>chunk.bytes
    chunk = new_chunk(sw, port, &number)
    if chunk == NULL:
        return NO_ROOM
    got = recv(flow.fd, chunk.data, min(room, <uint32_t>CHUNK_BYTES), MSG_DONTWAIT)
    if got <= 0:
        free_chunk(sw, port, number)
        return nothing_read(sw, port, flow, got)
    if <uint32_t>got < room and not flow.tcp.marks & HUNG_UP:
        flow.tcp.marks |= DRAINED
    chunk.seq, chunk.bytes = flow.tcp.snd_nxt, <uint32_t>got
    if flow.tcp.first_kept == <uint32_t>NO_CHUNK:
        flow.tcp.first_kept = number
    else:
        pool_of(sw).chunks[flow.tcp.last_kept].next = number
    flow.tcp.last_kept = number
    send_data(sw, port, flow, chunk.data - 20, chunk.seq, chunk.bytes, TCP_PSH)
    went(sw, flow, chunk.bytes)
    return <int32_t>got


cdef Chunk *kept_at(Switch *sw, Flow *flow, uint32_t seq) noexcept nogil:
    """The chunk with the byte `seq` of the stream, or NULL."""
    cdef uint32_t number = flow.tcp.first_kept
    cdef Chunk *chunk
    if seq == flow.tcp.snd_max:
        return NULL
    while number != <uint32_t>NO_CHUNK:
        chunk = &pool_of(sw).chunks[number]
        if seq - chunk.seq < chunk.bytes:
            return chunk
        number = chunk.next
    return NULL


cdef void resend(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """Sends the oldest frame again that the container has not acknowledged; what was sent after it is not touched."""
    cdef uint8_t *l4 = sw.nat.tx + EMIT_ROOM
    cdef uint32_t missing = flow.tcp.snd_max - flow.tcp.snd_una - (1 if flow.tcp.marks & FIN_OUT else 0)
    cdef Chunk *chunk
    cdef ssize_t got
    flow.tcp.timed_ns = 0
    if missing == 0:
        if flow.tcp.marks & FIN_OUT and not flow.tcp.marks & FIN_ACKED:
            send_control(sw, port, flow, TCP_FIN, flow.tcp.snd_una)
        return
    if not flow.tcp.marks & PEEKED:
        chunk = kept_at(sw, flow, flow.tcp.snd_una)
        if chunk != NULL:
            send_data(sw, port, flow, chunk.data - 20, chunk.seq, chunk.bytes, TCP_PSH)
        return
    if not aim(flow, flow.tcp.snd_una):
        return
    flow.tcp.marks |= AIM
    got = recv(flow.fd, l4 + 20, min(missing, LARGEST // flow.tcp.mss * <uint32_t>flow.tcp.mss), MSG_PEEK | MSG_DONTWAIT)
    if got > 0:
        send_data(sw, port, flow, l4, flow.tcp.snd_una, <uint32_t>got, TCP_PSH)


cdef void rewind(Flow *flow) noexcept nogil:
    """Whatever is not acknowledged is to be sent again, the end of the stream included (it keeps FIN_OUT: its number is given away)."""
    flow.tcp.snd_nxt = flow.tcp.snd_una
    flow.tcp.timed_ns = 0
    flow.tcp.marks = flow.tcp.marks & ~DRAINED | AIM


cdef void let_go_of_acknowledged(Switch *sw, Port *port, Flow *flow, bint all) noexcept nogil:
    """Discards what the container has, once it is worth a system call, or `all` of it."""
    cdef uint32_t end = flow.tcp.snd_una - (1 if flow.tcp.marks & FIN_ACKED else 0), bytes = end - flow.tcp.consumed
    cdef Chunk *chunk
    cdef ssize_t gone
    if not flow.tcp.marks & PEEKED:
        while flow.tcp.first_kept != <uint32_t>NO_CHUNK:
            chunk = &pool_of(sw).chunks[flow.tcp.first_kept]
            if <int32_t>(chunk.seq + chunk.bytes - flow.tcp.snd_una) > 0:
                return
            flow.tcp.first_kept = free_chunk(sw, port, flow.tcp.first_kept)
        return
    if <int32_t>bytes <= 0:
        return
    if bytes < DISCARD_BYTES and not all and not (flow.tcp.partly and flow.tcp.snd_una == flow.tcp.snd_max):
        return
    while <int32_t>(end - flow.tcp.consumed) > 0:   # a read ends at an urgent byte, and one left unread would make close() reset the host's peer
        gone = recv(flow.fd, NULL, end - flow.tcp.consumed, MSG_TRUNC | MSG_DONTWAIT)
        if gone <= 0:
            return
        flow.tcp.consumed += <uint32_t>gone
    flow.tcp.partly = bytes >= DISCARD_BYTES or holds_something(flow.fd)


cdef bint holds_something(int fd) noexcept nogil:
    """Whether the socket's receive queue has unread bytes, of which a buffer may be partly read."""
    cdef int bytes = 0
    return ioctl(fd, FIONREAD, &bytes) != 0 or bytes != 0
