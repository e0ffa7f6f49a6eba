# SPDX-License-Identifier: Apache-2.0
"""Host sockets of TCP flows: made, connected and closed, on the spot or by the dialer, a second thread without the GIL.

connect() does not wait for the peer, and mostly takes some ten microseconds; waking another thread and being woken by it takes five times as
long where a halted virtual processor must be started. But it may be slow by itself: with 17,000 connections to one address the kernel was seen to
look 1.2 ms for a free port. So it is done on the spot and timed; a container whose connect() took longer than SLOW_NS has the next ones made by the
dialer for DIALER_FOR_NS. Thus one container costs the others one slow call per second at most, and each call is on its port's account.

An orderly close() is quick and done on the spot. One with a reset may have megabytes to throw away, and is the dialer's: it has no queue, but waits where more
dials stand before it on the ring than the queues have room for.

Requests wait in a queue per container, and the containers take turns: one that dials a thousand targets delays another's call by one connect.
Answers name flow and generation; one for a flow that has ended meanwhile only has its socket closed.

Without a thread (step(), tests) the same is done on the spot. So it is for a request that finds the ring full.
"""
from libc.errno cimport EALREADY, EINPROGRESS, errno
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport close, read, write

from vswitch._fastpath cimport MAX_PORTS
from vswitch.datapath._ring cimport ring_close, ring_commit, ring_open, ring_peek, ring_release, ring_reserve
from vswitch.datapath._waiting cimport clock_ns
from vswitch.nat._connection cimport tcp_dialed
from vswitch.nat._nat cimport WayOut
from vswitch.nat._sockets cimport (
    AF_INET, AF_INET6, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, IPPROTO_TCP, SO_BINDTODEVICE, SO_LINGER, SOCK_CLOEXEC, SOCK_NONBLOCK,
    SOCK_STREAM, SOL_SOCKET, TCP_NODELAY, bind, connect, is_mapped, linger, setsockopt, sockaddr, sockaddr_in, sockaddr_in6, socket,
    socket_address,
)

cdef extern from "<sys/eventfd.h>" nogil:
    enum: EFD_CLOEXEC
    int eventfd(unsigned int count, int flags)

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int us)

cdef enum:
    SLOW_NS = 200000        # a connect() that took this long delays others
    DIALER_FOR_NS = 1000000000
    DIAL_COST = 131072      # of a connect() on the spot, as TURN_COST counts: six of them are a port's turn
    QUEUED = 16384          # requests that may wait here; as many again fit into the ring
    NOBODY = 0xFFFFFFFF

cdef struct Asked:
    Request request
    uint32_t next

cdef struct Queues:         # the dialer's own: one list of requests per container, and the containers that have one
    Asked *entries
    uint32_t spare
    uint32_t first[MAX_PORTS]
    uint32_t last[MAX_PORTS]
    uint32_t next_port[MAX_PORTS]       # round of those whose queue isn't empty
    uint32_t first_port
    uint32_t last_port


cdef bint dialer_open(Switch *sw) noexcept nogil:
    """Makes the rings; False when memory or descriptors are short."""
    cdef bint fits = ring_open(&sw.nat.requests, 1 << 20)
    fits = ring_open(&sw.nat.results, 1 << 19) and fits
    sw.nat.dial_fd = eventfd(0, EFD_CLOEXEC)
    sw.nat.dial_inline = 1
    return fits and sw.nat.dial_fd >= 0


cdef void dialer_close(Switch *sw) noexcept nogil:
    """The dialer's thread has ended, and every flow: what it was still to close is closed here."""
    cdef uint32_t length
    cdef const Request *request = <const Request *>ring_peek(&sw.nat.requests, &length)
    while request != NULL:
        if request.kind == RESET:
            close_with_reset(request.fd)
        ring_release(&sw.nat.requests, length)
        request = <const Request *>ring_peek(&sw.nat.requests, &length)
    ring_close(&sw.nat.requests)
    ring_close(&sw.nat.results)
    if sw.nat.dial_fd >= 0:
        close(sw.nat.dial_fd)


# ---- the dataplane's side


cdef void dial(Switch *sw, Port *port, Flow *flow) noexcept nogil:
    """Asks for a connection to the flow's target; tcp_dialed() hears of it."""
    cdef Request request
    cdef const WayOut *way = &sw.networks[flow.network].way_out
    memset(&request, 0, sizeof(Request))
    request.kind, request.number, request.generation, request.port = DIAL, flow.number, flow.generation, port.index
    request.l4_port = flow.outside_port
    memcpy(request.address, flow.target, 16)
    memcpy(request.device, way.device, 16)
    if is_mapped(flow.target):
        if way.has_source4:
            request.source[10] = request.source[11] = 0xFF
            memcpy(&request.source[12], way.source4, 4)
    elif way.has_source6:
        memcpy(request.source, way.source6, 16)
    if sw.nat.dial_inline or sw.now_ns >= port.share.dialer_until_ns or not ask(sw, &request):
        dial_now(sw, port, &request)
    else:
        dialer_wake(sw)


cdef void dial_now(Switch *sw, Port *port, const Request *request) noexcept nogil:
    """Connects on the spot, on the port's account; being slow is remembered."""
    cdef Result result
    cdef uint64_t before = clock_ns()
    connect_to(request, &result)
    if clock_ns() - before > SLOW_NS:
        port.share.dialer_until_ns = sw.now_ns + DIALER_FOR_NS
    port.credit -= DIAL_COST
    tcp_dialed(sw, result.number, result.generation, result.fd, result.error)


cdef void hang_up(Switch *sw, int32_t fd, bint hard) noexcept nogil:
    """Closes a socket; `hard` with a reset to its peer, which the dialer does: it hears of it at the end of the turn."""
    cdef Request request
    if not hard:
        close(fd)
        return
    memset(&request, 0, sizeof(Request))
    request.kind, request.fd = RESET, fd
    if sw.nat.dial_inline or not ask(sw, &request):
        close_with_reset(fd)
    else:
        sw.nat.dial_wanted = 1


cdef bint ask(Switch *sw, const Request *request) noexcept nogil:
    cdef uint8_t *record = ring_reserve(&sw.nat.requests, sizeof(Request))
    if record == NULL:
        return False
    memcpy(record, request, sizeof(Request))
    ring_commit(&sw.nat.requests, sizeof(Request))
    return True


cdef void dialer_wake(Switch *sw) noexcept nogil:
    """Tells the dialer that there is something to do."""
    cdef uint64_t one = 1
    sw.nat.dial_wanted = 0
    write(sw.nat.dial_fd, &one, 8)


cdef void take_results(Switch *sw) noexcept nogil:
    """Hands the dialer's answers to their flows."""
    cdef uint32_t length
    cdef Result result
    cdef const uint8_t *record
    while True:
        record = ring_peek(&sw.nat.results, &length)
        if record == NULL:
            return
        memcpy(&result, record, sizeof(Result))
        ring_release(&sw.nat.results, length)
        tcp_dialed(sw, result.number, result.generation, result.fd, result.error)


# ---- the dialer's side


cdef void dialer_run(Switch *sw) noexcept nogil:
    """The thread: asleep until there are requests, back when the switch stops."""
    cdef Queues *queues = <Queues *>calloc(1, sizeof(Queues))
    cdef uint64_t count
    cdef Asked *entry
    if queues == NULL or not queues_open(queues):
        free(queues)
        return
    while not sw.stop:
        collect(sw, queues)
        entry = next_waiting(queues)
        if entry == NULL:
            read(sw.nat.dial_fd, &count, 8)
            continue
        serve(sw, &entry.request)
        entry.next = queues.spare
        queues.spare = <uint32_t>(entry - queues.entries)
    free(queues.entries)
    free(queues)


cdef bint queues_open(Queues *queues) noexcept nogil:
    cdef uint32_t i
    queues.entries = <Asked *>calloc(QUEUED, sizeof(Asked))
    if queues.entries == NULL:
        return False
    for i in range(QUEUED):
        queues.entries[i].next = i + 1 if i + 1 < QUEUED else <uint32_t>NOBODY
    for i in range(MAX_PORTS):
        queues.first[i] = NOBODY
    queues.first_port = queues.last_port = NOBODY
    return True


cdef void collect(Switch *sw, Queues *queues) noexcept nogil:
    """Sorts the dials on the ring into the containers' queues, as far as there is room; a reset is done at once."""
    cdef uint32_t length, number, port
    cdef const Request *request
    while True:
        request = <const Request *>ring_peek(&sw.nat.requests, &length)
        if request == NULL or (request.kind == DIAL and queues.spare == <uint32_t>NOBODY):
            return
        if request.kind == RESET:
            close_with_reset(request.fd)
            ring_release(&sw.nat.requests, length)
            continue
        number = queues.spare
        queues.spare = queues.entries[number].next
        queues.entries[number].request = request[0]
        ring_release(&sw.nat.requests, length)
        queues.entries[number].next = NOBODY
        port = queues.entries[number].request.port
        if queues.first[port] == <uint32_t>NOBODY:
            queues.first[port] = number
            enlist(queues, port)
        else:
            queues.entries[queues.last[port]].next = number
        queues.last[port] = number


cdef void enlist(Queues *queues, uint32_t port) noexcept nogil:
    """Puts a container at the end of the round."""
    queues.next_port[port] = NOBODY
    if queues.first_port == <uint32_t>NOBODY:
        queues.first_port = port
    else:
        queues.next_port[queues.last_port] = port
    queues.last_port = port


cdef Asked *next_waiting(Queues *queues) noexcept nogil:
    """The first request of the container whose turn it is; NULL when nobody asks."""
    cdef uint32_t port = queues.first_port
    cdef Asked *entry
    if port == <uint32_t>NOBODY:
        return NULL
    queues.first_port = queues.next_port[port]
    entry = &queues.entries[queues.first[port]]
    queues.first[port] = entry.next
    if entry.next != <uint32_t>NOBODY:
        enlist(queues, port)
    return entry


cdef void serve(Switch *sw, const Request *request) noexcept nogil:
    """Connects, and tells the dataplane what came of it."""
    cdef Result result
    cdef uint8_t *record
    cdef uint64_t one = 1
    if outdated(sw, request):
        return
    connect_to(request, &result)
    record = ring_reserve(&sw.nat.results, sizeof(Result))
    while record == NULL and not sw.stop:
        usleep(100)
        record = ring_reserve(&sw.nat.results, sizeof(Result))
    if record == NULL:
        if result.fd >= 0:
            close(result.fd)
        return
    memcpy(record, &result, sizeof(Result))
    ring_commit(&sw.nat.results, sizeof(Result))
    write(sw.wake_fd, &one, 8)


cdef bint outdated(const Switch *sw, const Request *request) noexcept nogil:
    """Whether the flow has ended meanwhile. Read beside the dataplane, so only a hint; tcp_dialed() decides."""
    cdef const Flow *flow = &sw.nat.conntrack.flows[request.number]
    return not flow.used or flow.generation != request.generation


cdef void close_with_reset(int32_t fd) noexcept nogil:
    cdef linger now
    now.l_onoff, now.l_linger = 1, 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
    close(fd)


cdef void connect_to(const Request *request, Result *result) noexcept nogil:
    """A socket on its way to the target, from the network's own source address and device where it has any."""
    cdef bint ipv6 = not is_mapped(request.address)
    cdef sockaddr_in6 address
    cdef uint32_t size
    cdef int on = 1, fd = socket(AF_INET6 if ipv6 else AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    result.number, result.generation, result.fd, result.error = request.number, request.generation, -1, 0
    if fd < 0:
        result.error = errno
        return
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
    if request.device[0] and setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, request.device, 16) < 0:
        result.error = errno
    elif bound(request, fd) < 0:
        result.error = errno
    else:
        size = socket_address(&address, request.address, request.l4_port)
        result.error = connecting(fd, <const sockaddr *>&address, size)
    if result.error and result.error != EINPROGRESS:
        close(fd)
    else:
        result.fd = fd


cdef int connecting(int fd, const sockaddr *address, uint32_t size) noexcept nogil:
    """0 when it is connected, EINPROGRESS when that is under way, else why not. A peer on this very host has mostly answered before connect()
    returns, but only a second one says so: it saves a turn of the poller."""
    if connect(fd, address, size) == 0:
        return 0
    if errno != EINPROGRESS:
        return errno
    if connect(fd, address, size) == 0:
        return 0
    return EINPROGRESS if errno == EALREADY else errno


cdef int bound(const Request *request, int fd) noexcept nogil:
    """Binds to the source address, if there is one; the port is chosen when it connects, so that many targets share one."""
    cdef uint8_t any_address[16]
    cdef sockaddr_in6 address
    cdef uint32_t size
    cdef int on = 1
    memset(any_address, 0, 16)
    if memcmp(request.source, any_address, 16) == 0:
        return 0
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on))
    size = socket_address(&address, request.source, 0)
    return bind(fd, <const sockaddr *>&address, size)
