# SPDX-License-Identifier: Apache-2.0
"""The dataplane: what happens to a frame between the descriptor it comes from and those it leaves by.

One thread runs all of this and never takes the GIL, never allocates for a frame and never blocks but in epoll. It is the only
writer of its tables. A turn of the loop:

    commands and injected frames from control → epoll → for each ready port a burst of frames → ageing → tell control

and the life of one frame, in the order of the functions below:

    read_frame      one read: virtio header and Ethernet frame, a 64 KiB TCP super-frame included
    check           length, VLAN tags, offload header against the frame, MTU
    admit           source address: not a group, not the gateway's, the endpoint's own (guard), or learnt
    consume         what a guarded port must not say; what the gateway answers or control must see: ARP, ND, DHCP, packets for its MAC
    forward         destination: one port, or a flood to the network's members
    transmit        one write per receiver; checksum finished or frame segmented for a receiver that needs it

A frame is read and written before the next one is read: the super-frame that was just read is still in the cache when it is written,
which a batch of them would not be. A frame that ends anywhere but in transmit() has a Drop reason; it is counted at its ingress port and
network, or at the receiver's where the receiver is at fault.

Fairness: each port's turn ends after BURST_FRAMES frames or TURN_COST of work, copies made by flooding included, and a port that overdrew its
turn sits out until the debt is paid (deficit round robin, Shreedhar and Varghese 1995). So a container that floods delays others by its
own turn at most. Level-triggered epoll rotates the ready ports.

A TAP that somebody handed to us is read and written with RWF_NOWAIT, a socket with MSG_DONTWAIT: whoever holds a copy of the same open file
could clear O_NONBLOCK. Before Linux 6.4 tun doesn't know RWF_NOWAIT; then O_NONBLOCK is set again at each turn. A TAP that our own helper
opened nobody else holds: plain read and write save the kernel an iovec. All of them are made with syscall(2), because in a
process with threads glibc wraps its own in two atomic operations that make them cancellable.
"""
from libc.errno cimport EAGAIN, EBADF, EBADFD, ECONNRESET, EINTR, EINVAL, EIO, ENOBUFS, ENODEV, ENOTCONN, EOPNOTSUPP, EPIPE, errno
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.fcntl cimport F_GETFL, F_SETFL, O_NONBLOCK, fcntl
from posix.unistd cimport close, read, write

from vswitch.arp._neighbours cimport neighbours_close, neighbours_open
from vswitch.bridge._fdb cimport NOBODY, fdb_close, fdb_expire, fdb_find, fdb_key, fdb_learn, fdb_open
from vswitch.datapath._bucket cimport take
from vswitch.datapath._commands cimport apply_commands, fill_snapshots
from vswitch.datapath._ring cimport (
    add_relaxed, load_acquire, ring_close, ring_commit, ring_empty, ring_open, ring_peek, ring_release, ring_reserve, swap32,
)
from vswitch.datapath._waiting cimport EVENTS, FRAME_WORK, clock_ns, epoll_event, note_turn, wait_for_events, waiting_in_thread
from vswitch.gateway._answers cimport REPLY_BYTES, Query, answer_arp, answer_ipv4, answer_ipv6, answer_nd
from vswitch.guard._guard cimport guard_nd, guard_packet, hides_nd
from vswitch.nat._nat cimport POLL_WAKE
from vswitch.nat._translate cimport (
    TO_CONTROL, nat_burst_done, nat_close, nat_open, nat_patience_ns, nat_ready, nat_turn, translate,
)
from vswitch.observe._record cimport capture
from vswitch.observe._session cimport DIRECTION_IN, DIRECTION_OUT
from vswitch.wire._bytes cimport read16
from vswitch.wire._checksum cimport finish_checksum
from vswitch.wire._headers cimport transport
from vswitch.wire._segment cimport Segmenter, segment_next, segment_open
from vswitch.wire._vnet cimport GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_BYTES, VNET_NEEDS_CSUM, VnetHeader

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int poller, int op, int fd, epoll_event *event)

cdef extern from "<sys/eventfd.h>" nogil:
    enum: EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int count, int flags)

cdef extern from "<sys/uio.h>" nogil:
    enum: RWF_NOWAIT
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/syscall.h>" nogil:
    enum: SYS_read, SYS_write, SYS_preadv2, SYS_pwritev2
    long syscall(long number, ...)

cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_DONTWAIT, MSG_NOSIGNAL, MSG_TRUNC
    ssize_t recv(int fd, void *data, size_t length, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)

cdef extern from * nogil:
    """
    #if defined(__SANITIZE_ADDRESS__)
    #include <sanitizer/asan_interface.h>
    #define vs_fence(start, used, room) (ASAN_UNPOISON_MEMORY_REGION((start), (room)), \\
        ASAN_POISON_MEMORY_REGION((start) + (used), (size_t)(room) - (used)))
    #else
    #define vs_fence(start, used, room) ((void)(used))
    #endif
    """
    void fence "vs_fence"(uint8_t *start, size_t used, size_t room)     # sanitize builds: nothing may touch what is behind `used`

cdef extern from * nogil:
    """
    #include <malloc.h>
    #ifdef __GLIBC__        /* big tables come as pages that are zero and not there until used, not as freed memory to be cleared */
    #define vs_lazy_tables() mallopt(M_MMAP_THRESHOLD, 1 << 18)
    #else
    #define vs_lazy_tables() ((void)0)
    #endif
    """
    void lazy_tables "vs_lazy_tables"()

cdef enum:
    INJECTED = 256          # frames of control's sent per turn: the others' turn comes soon
    ETHERNET = 14
    MAX_TAGS = 2            # one S-tag and one C-tag (IEEE 802.1ad)
    ARP = 0x0806
    IPV4 = 0x0800
    IPV6 = 0x86DD
    TCP = 6
    UDP = 17
    ICMPV6 = 58
    MIN_TCP_SEGMENT = 8     # smallest TCP gso_size the kernel makes (TCP_MIN_GSO_SIZE)
    MAX_TCP_SEGMENTS = 2048 # of one super-frame, 2 ms of work to cut: reached only with segments of less than 32 bytes
    MAX_UDP_SEGMENTS = 128  # UDP_MAX_SEGMENTS


# ---- the loop


cdef Switch *switch_open(uint32_t mac_capacity, uint32_t mac_share, uint32_t neighbour_capacity, uint32_t flow_capacity,
                         uint32_t descriptors, uint64_t seed) noexcept:
    """A switch without networks or ports; NULL when memory or descriptors are short."""
    cdef Switch *sw = <Switch *>calloc(1, sizeof(Switch))
    cdef epoll_event event
    cdef bint fits
    if sw == NULL:
        return NULL
    lazy_tables()
    sw.poller = epoll_create1(EPOLL_CLOEXEC)
    sw.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    sw.notify_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    sw.notify_wanted = 1
    sw.age_s = 300
    sw.rx = <uint8_t *>malloc(VNET_BYTES + FRAME_BYTES)
    sw.scratch = <uint8_t *>malloc(VNET_BYTES + FRAME_BYTES)
    sw.untagged = <uint8_t *>malloc(VNET_BYTES + FRAME_BYTES)
    sw.reply = <uint8_t *>malloc(VNET_BYTES + FRAME_BYTES + REPLY_BYTES)
    fits = fdb_open(&sw.fdb, mac_capacity, mac_share, seed)
    fits = neighbours_open(&sw.neighbours, neighbour_capacity, seed) and fits
    fits = ring_open(&sw.commands, 1 << 19) and fits
    fits = ring_open(&sw.inject, 1 << 20) and fits
    fits = ring_open(&sw.punt, 1 << 20) and fits
    fits = ring_open(&sw.events, 1 << 16) and fits
    fits = nat_open(sw, flow_capacity, descriptors, seed) and fits
    event.events = EPOLLIN
    event.data.u64 = <uint64_t>POLL_WAKE << 56
    if (not fits or sw.rx == NULL or sw.scratch == NULL or sw.untagged == NULL or sw.reply == NULL or sw.poller < 0 or sw.notify_fd < 0
            or epoll_ctl(sw.poller, EPOLL_CTL_ADD, sw.wake_fd, &event) < 0):
        switch_close(sw)
        return NULL
    return sw


cdef void switch_close(Switch *sw) noexcept:
    """Gives everything back but the ports' descriptors, which are the caller's."""
    cdef int index
    nat_close(sw)
    for index in range(MAX_PORTS):
        free(sw.ports[index])
    for index in range(MAX_NETWORKS):
        if sw.networks[index] != NULL:
            free(sw.networks[index].ports)
            free(sw.networks[index])
    fdb_close(&sw.fdb)
    neighbours_close(&sw.neighbours)
    ring_close(&sw.commands)
    ring_close(&sw.inject)
    ring_close(&sw.punt)
    ring_close(&sw.events)
    free(sw.rx)
    free(sw.scratch)
    free(sw.untagged)
    free(sw.reply)
    for index in (sw.poller, sw.wake_fd, sw.notify_fd):
        if index >= 0:
            close(index)
    free(sw)


cdef void switch_run(Switch *sw) noexcept nogil:
    """The dataplane thread: turns until control says stop."""
    waiting_in_thread(&sw.waiting)
    while not sw.stop:
        switch_turn(sw, -1)


cdef int switch_turn(Switch *sw, int timeout_ms) noexcept nogil:
    """One turn, asleep for at most `timeout_ms` (-1: until something happens); returns how many ports were served."""
    cdef epoll_event ready[EVENTS]
    cdef int count, i, served = 0
    read_clock(sw)
    apply_commands(sw)
    send_injected(sw)
    fill_snapshots(sw)
    tell_control(sw)
    if sw.stop:
        return 0
    count = wait_for_events(&sw.waiting, sw.poller, ready, patience(sw, timeout_ms))
    sw.wakeups += 1
    read_clock(sw)
    sw.turns += 1
    for i in range(count):
        if ready[i].data.u64 == <uint64_t>POLL_WAKE << 56:
            quiet(sw.wake_fd)
            continue
        if ready[i].data.u64 < <uint64_t>1 << 56:
            serve(sw, sw.ports[ready[i].data.u64], ready[i].events)
            nat_burst_done(sw)
        else:
            nat_ready(sw, ready[i].data.u64, ready[i].events)
        served += 1
    nat_turn(sw)
    if sw.age_due_ns and sw.now_ns >= sw.age_due_ns:
        forget_silent(sw)
    tell_control(sw)
    return served


cdef int patience(Switch *sw, int timeout_ms) noexcept nogil:
    """How long epoll may sleep, in ms: not at all while work is left over, no longer than to the next timer."""
    cdef int64_t left = nat_patience_ns(sw)
    if sw.snapshots != NULL or not ring_empty(&sw.inject) or not ring_empty(&sw.commands) or left == 0:
        return 0
    if left > 0:
        left = (left + 999999) // 1000000
        timeout_ms = <int>left if timeout_ms < 0 or left < timeout_ms else timeout_ms
    if sw.age_due_ns:
        left = (<int64_t>(sw.age_due_ns - sw.now_ns) + 999999) // 1000000
        left = 0 if left < 0 else left
        if timeout_ms < 0 or left < timeout_ms:
            return <int>left
    return timeout_ms


cdef void read_clock(Switch *sw) noexcept nogil:
    """The one place where time comes in; step() hands it in instead."""
    if not sw.stepped:
        sw.now_ns = clock_ns()


cdef void quiet(int fd) noexcept nogil:
    """Takes an eventfd's count, so that it stops being readable."""
    cdef uint64_t count
    read(fd, &count, 8)


cdef void tell_control(Switch *sw) noexcept nogil:
    """Wakes control if this batch left it something and it hasn't been told since it last looked; captures' writers too."""
    cdef uint64_t one = 1
    cdef int slot
    for slot in range(MAX_SESSIONS if sw.captured else 0):
        if sw.captured >> slot & 1 and sw.sessions[slot] != NULL and swap32(&sw.sessions[slot].ring.waiting, 0):
            write(sw.sessions[slot].wake_fd, &one, 8)
    sw.captured = 0
    if sw.notify:
        sw.notify = 0
        if swap32(&sw.notify_wanted, 0):
            write(sw.notify_fd, &one, 8)


cdef void forget_silent(Switch *sw) noexcept nogil:
    """Ages the MAC table (IEEE 802.1Q section 8.8.3) and sets the timer for the next entry, a second away at least."""
    cdef uint32_t now_s = <uint32_t>(sw.now_ns // 1000000000), due, soonest = 0
    cdef int index
    for index in range(MAX_PORTS):
        if sw.fdb.owners[index].count:
            due = fdb_expire(&sw.fdb, index, now_s, sw.age_s)
            if due and (soonest == 0 or due < soonest):
                soonest = due
    if soonest == 0:
        sw.age_due_ns = 0
    else:
        sw.age_due_ns = <uint64_t>(soonest if soonest > now_s else now_s + 1) * 1000000000


# ---- one port's turn


cdef void serve(Switch *sw, Port *port, uint32_t events) noexcept nogil:
    """A burst of frames from `port`, as long as its turn lasts."""
    cdef int left = BURST_FRAMES
    cdef Frame frame
    cdef uint64_t before
    if port == NULL or port.gone:
        return
    before = port.counters.rx_bytes
    port.credit += TURN_COST
    if port.credit > TURN_COST:
        port.credit = TURN_COST
    if port.shared and not port.nowait:
        fcntl(port.fd, F_SETFL, fcntl(port.fd, F_GETFL) | O_NONBLOCK)
    while left and port.credit > 0 and not port.gone:
        if not read_frame(sw, port, &frame):
            break
        receive(sw, port, &frame)
        left -= 1
    note_turn(&sw.waiting, port.index, BURST_FRAMES - left, port.counters.rx_bytes - before, left == 0 or port.credit <= 0, sw.now_ns)
    if left == BURST_FRAMES and events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR) and port.credit > 0:
        lose_port(sw, port, ENOTCONN)


cdef bint read_frame(Switch *sw, Port *port, Frame *frame) noexcept nogil:
    """Reads one frame into the rx buffer; False when there is none (or the port just died)."""
    cdef uint8_t *into = sw.rx if port.vnet else sw.rx + VNET_BYTES
    cdef size_t room = FRAME_BYTES + (VNET_BYTES if port.vnet else 0)
    cdef iovec iov
    cdef ssize_t got
    fence(sw.rx, VNET_BYTES + FRAME_BYTES, VNET_BYTES + FRAME_BYTES)
    while True:
        if port.kind == PORT_PACKET:
            got = recv(port.fd, into, room, MSG_DONTWAIT | MSG_TRUNC)
        elif port.nowait:
            iov.iov_base, iov.iov_len = into, room
            got = syscall(SYS_preadv2, port.fd, &iov, 1, <long>-1, <long>-1, RWF_NOWAIT)
        else:
            got = syscall(SYS_read, port.fd, into, room)
        if got >= 0:
            break
        if errno == EAGAIN:
            return False
        if errno == EOPNOTSUPP and port.nowait:
            port.nowait = 0
            fcntl(port.fd, F_SETFL, fcntl(port.fd, F_GETFL) | O_NONBLOCK)
        elif errno != EINTR:
            lose_port(sw, port, errno)
            return False
    if got == 0 and port.kind == PORT_PACKET:
        return False
    frame.vnet = <VnetHeader *>sw.rx
    frame.data = sw.rx + VNET_BYTES
    if not port.vnet:
        memset(sw.rx, 0, VNET_BYTES)
        got += VNET_BYTES
    elif got < VNET_BYTES:
        memset(sw.rx, 0, VNET_BYTES)
        got = VNET_BYTES
    frame.length = <uint32_t>(got - VNET_BYTES)
    fence(sw.rx, VNET_BYTES + min(frame.length, <uint32_t>FRAME_BYTES), VNET_BYTES + FRAME_BYTES)
    frame.finished = NULL
    frame.packet_id = 0
    return True


cdef void lose_port(Switch *sw, Port *port, int error) noexcept nogil:
    """The descriptor is dead: stop polling it and let control know."""
    epoll_ctl(sw.poller, EPOLL_CTL_DEL, port.fd, NULL)
    give_up(sw, port, error)


cdef void give_up(Switch *sw, Port *port, int error) noexcept nogil:
    """The port takes no part any more (its descriptor may be polled as another's): tells control, once. Where the ring has no room for
    that, control finds the mark when it has drained the ring."""
    cdef Event *event
    if port.gone:
        return
    port.gone = <uint8_t>error if 0 < error < 256 else EIO
    event = <Event *>ring_reserve(&sw.events, sizeof(Event))
    if event != NULL:
        event.kind = EVENT_PORT_GONE
        event.port = port.index
        event.network = port.network
        event.error = error
        ring_commit(&sw.events, sizeof(Event))
    sw.notify = 1


cdef void receive(Switch *sw, Port *port, Frame *frame) noexcept nogil:
    """The whole way of one frame."""
    cdef Network *network = sw.networks[port.network]
    cdef Drop reason
    port.credit -= COPY_COST
    sw.waiting.work += FRAME_WORK + frame.length
    add_relaxed(&port.counters.rx_frames, 1)
    add_relaxed(&port.counters.rx_bytes, frame.length)
    reason = check(network, frame)
    add_relaxed(&port.counters.rx_segments, frame.segments)
    add_relaxed(&port.counters.rx_wire_bytes, frame.wire_bytes)
    if reason == Drop.FORWARDED:
        reason = admit(sw, network, port, frame)
    if reason != Drop.FORWARDED:
        drop(sw, port, frame, reason)
        return
    if not consume(sw, network, port, frame):
        if network.isolated:
            drop(sw, port, frame, Drop.ISOLATED)
        else:
            forward(sw, network, port, frame)


cdef void drop(Switch *sw, Port *port, Frame *frame, Drop reason) noexcept nogil:
    """The end of a frame at its ingress."""
    count_drops(sw, port, reason, 1)
    if port.captured_by:
        capture(sw, port, frame, DIRECTION_IN, reason)


# ---- check


cdef Drop check(Network *network, Frame *frame) noexcept nogil:
    """Is it a frame at all: length, tags, offload header, MTU. Fills in what the later steps want to know of it."""
    cdef uint32_t biggest = frame.length
    frame.segments = 1
    frame.wire_bytes = frame.length
    frame.tags = 0
    frame.l3 = ETHERNET
    if frame.length > FRAME_BYTES:
        frame.length = FRAME_BYTES
        return Drop.OVERSIZED
    if frame.length < ETHERNET:
        return Drop.RUNT
    frame.ethertype = <uint16_t>read16(frame.data + 12)
    while (frame.ethertype == 0x8100 or frame.ethertype == 0x88A8) and frame.tags < MAX_TAGS:
        if frame.length < frame.l3 + 4:
            return Drop.RUNT
        frame.ethertype = <uint16_t>read16(frame.data + frame.l3 + 2)
        frame.l3 += 4
        frame.tags += 1
    if frame.vnet.flags & VNET_NEEDS_CSUM or frame.vnet.gso_type:
        biggest = check_offload(frame)
        if biggest == 0:
            return Drop.BAD_VNET_HEADER
        frame.vnet.flags = VNET_NEEDS_CSUM
    else:
        memset(frame.vnet, 0, VNET_BYTES)
    if biggest > network.mtu + frame.l3:
        return Drop.OVERSIZED
    return Drop.FORWARDED


cdef uint32_t check_offload(Frame *frame) noexcept nogil:
    """Holds the virtio header against the frame; the length of the longest segment, 0 when the header lies."""
    cdef VnetHeader *vnet = frame.vnet
    cdef Segmenter cut
    cdef uint32_t payload, segments, most
    cdef uint8_t protocol = 0
    cdef uint32_t l4 = transport(frame.data, frame.length, frame.l3, frame.ethertype, &protocol)
    if not vnet.flags & VNET_NEEDS_CSUM or l4 == 0 or vnet.hdr_len > frame.length or not checksum_in_place(frame, l4, protocol):
        return 0
    if vnet.gso_type == 0:
        return frame.length
    if vnet.csum_start != l4 or not segment_open(&cut, frame.data, frame.length, frame.l3, vnet):
        return 0
    payload = frame.length - cut.header
    segments = (payload + cut.size - 1) // cut.size
    most = MAX_UDP_SEGMENTS if cut.udp else MAX_TCP_SEGMENTS
    if segments > most or (cut.size < MIN_TCP_SEGMENT and not cut.udp):
        return 0
    frame.segments = segments
    frame.wire_bytes = frame.length + (segments - 1) * cut.header
    return cut.header + (cut.size if payload > cut.size else payload)


cdef bint checksum_in_place(const Frame *frame, uint32_t l4, uint8_t protocol) noexcept nogil:
    """Whether the unfinished checksum is the one of the transport header, or a deeper one (a tunnel's). Finishing it must not change what
    the guards look at: they judge the finished frame, and a receiver that has offloads gets the unfinished one."""
    cdef const VnetHeader *vnet = frame.vnet
    if <uint32_t>vnet.csum_start + vnet.csum_offset + 2 > frame.length:
        return False
    if vnet.csum_start != l4:
        return vnet.csum_start >= l4 + 8 and protocol != ICMPV6
    if protocol == TCP:
        return vnet.csum_offset == 16
    if protocol == UDP:
        return vnet.csum_offset == 6
    return vnet.csum_offset == 2 if protocol == ICMPV6 else vnet.csum_offset >= 4


# ---- admit


cdef Drop admit(Switch *sw, Network *network, Port *port, Frame *frame) noexcept nogil:
    """May this port speak as this source address? Learns it where addresses are learnt."""
    cdef const uint8_t *source = frame.data + 6
    if source[0] & 1 or (read16(source) | read16(source + 2) | read16(source + 4)) == 0:
        return Drop.BAD_SOURCE_MAC
    if memcmp(source, network.gateway_mac, 6) == 0:
        return Drop.GATEWAY_SPOOF
    if port.guard and port.has_mac:
        return Drop.FORWARDED if memcmp(source, port.mac, 6) == 0 else Drop.MAC_SPOOF
    if not fdb_learn(&sw.fdb, fdb_key(port.network, source), port.index, <uint32_t>(sw.now_ns // 1000000000)):
        return Drop.MAC_SPOOF
    if sw.age_due_ns == 0:
        sw.age_due_ns = sw.now_ns + <uint64_t>sw.age_s * 1000000000
    return Drop.FORWARDED


# ---- consume


cdef bint consume(Switch *sw, Network *network, Port *port, Frame *frame) noexcept nogil:
    """Answers or punts what is for the gateway; False when the frame is the others' business."""
    cdef Query query
    cdef Frame plain
    cdef VnetHeader bare
    cdef bint to_gateway = memcmp(frame.data, network.gateway_mac, 6) == 0
    cdef bint ends = False
    cdef Drop reason
    if frame.tags:
        if not untag(sw, frame, &plain, &bare):
            if to_gateway:
                drop(sw, port, frame, Drop.VLAN_TO_GATEWAY)
            return to_gateway
        port.credit -= frame.length
        frame = &plain
    if frame.ethertype == ARP:
        ask(sw, network, port, frame, &query)
        ends = answer_arp(&query)
    elif frame.ethertype == IPV4 or frame.ethertype == IPV6:
        reason = guard_packet(sw, network, port, frame) if port.guard else Drop.FORWARDED
        if frame.ethertype == IPV6 and hides_nd(frame):
            reason = Drop.ND_MALFORMED
        if reason != Drop.FORWARDED:
            drop(sw, port, frame, reason)
            return True
        if frame.ethertype == IPV4 and frame.length >= 42 and frame.data[23] == UDP and is_dhcp(sw, network, port, frame, to_gateway):
            return True
        if frame.ethertype == IPV6 and frame.length >= 62 and (
                discover(sw, network, port, frame) if frame.data[20] == ICMPV6 else is_dhcpv6(sw, network, port, frame, to_gateway)):
            return True
    if to_gateway and not ends and (frame.ethertype == IPV4 or frame.ethertype == IPV6) and leaves(sw, network, port, frame):
        return True
    if to_gateway and not ends:
        ask(sw, network, port, frame, &query)
        if frame.ethertype == IPV4:
            answer_ipv4(&query)
        elif frame.ethertype == IPV6:
            answer_ipv6(&query)
        else:
            query.drop = Drop.NOT_FOR_GATEWAY
        ends = True
    if ends:
        conclude(sw, port, frame, &query)
    return ends


cdef bint discover(Switch *sw, Network *network, Port *port, Frame *frame) noexcept nogil:
    """Neighbour discovery: True when the frame ends here, False when it goes on."""
    cdef Query query
    cdef uint8_t kind = frame.data[54]
    cdef bint ends
    if kind < 133 or kind > 137:
        return False
    ask(sw, network, port, frame, &query)
    ends = answer_nd(&query)
    if query.drop == Drop.FORWARDED:
        query.drop = <uint8_t>guard_nd(sw, network, port, query.frame)
        if query.drop:
            query.reply_bytes, ends = 0, True
    if ends:
        conclude(sw, port, frame, &query)
    elif kind == 133 and network.router:
        punt(sw, port, frame, PUNT_ROUTER)
        return True
    return ends


cdef bint leaves(Switch *sw, Network *network, Port *port, Frame *frame) noexcept nogil:
    """Whether a packet was taken by translation, or died there; False when the gateway itself is to answer it."""
    cdef int verdict = translate(sw, network, port, frame)
    if verdict == 0:
        if port.captured_by:
            capture(sw, port, frame, DIRECTION_IN, Drop.FORWARDED)
    elif verdict > 0:
        drop(sw, port, frame, <Drop>verdict)
    elif verdict == TO_CONTROL:
        punt(sw, port, frame, PUNT_DNS)
    return verdict >= 0 or verdict == TO_CONTROL


cdef bint untag(Switch *sw, const Frame *frame, Frame *plain, VnetHeader *bare) noexcept nogil:
    """VLAN 0 is no VLAN, the tag is for its priority only (IEEE 802.1Q section 6.9): hosts take such a frame as an untagged one, so the
    gateway must. Makes an untagged copy, finished, in `plain`; False when the frame is of a VLAN after all."""
    cdef uint32_t at = 12, shift
    while at + 6 <= frame.length and is_tag(frame.data + at) and read16(frame.data + at + 2) & 0x0FFF == 0:
        at += 4
    if is_tag(frame.data + at):
        return False
    shift = at - 12
    plain[0] = frame[0]
    plain.data = plain.finished = sw.untagged
    plain.length -= shift
    plain.l3, plain.tags, plain.ethertype = ETHERNET, 0, <uint16_t>read16(frame.data + at)
    fence(sw.untagged, plain.length, FRAME_BYTES)
    memcpy(sw.untagged, frame.data, 12)
    memcpy(sw.untagged + 12, frame.data + at, plain.length - 12)
    if frame.vnet.flags & VNET_NEEDS_CSUM:
        finish_checksum(sw.untagged, plain.length, frame.vnet.csum_start - shift, frame.vnet.csum_offset)
    memset(bare, 0, sizeof(VnetHeader))
    bare.gso_type, bare.gso_size = frame.vnet.gso_type, frame.vnet.gso_size
    plain.vnet = bare
    return True


cdef inline bint is_tag(const uint8_t *p) noexcept nogil:
    return read16(p) == 0x8100 or read16(p) == 0x88A8


cdef void ask(Switch *sw, Network *network, Port *port, Frame *frame, Query *query) noexcept nogil:
    """Puts a frame into the form in which the gateway takes questions."""
    if frame.finished == NULL and frame.vnet.flags & VNET_NEEDS_CSUM:
        port.credit -= frame.length
    query.neighbours = &sw.neighbours
    query.gateway_mac = network.gateway_mac
    query.gateway4 = network.gateway4
    query.frame = finished(sw, frame)
    query.length = frame.length
    query.network = port.network
    query.port = port.index
    query.guard, query.isolated = port.guard, network.isolated
    query.held4 = port.guard and port.holds & HOLDS_IPV4
    query.reply = sw.reply + VNET_BYTES
    query.reply_bytes = 0
    query.drop = Drop.FORWARDED


cdef void conclude(Switch *sw, Port *port, Frame *frame, Query *query) noexcept nogil:
    """Counts what became of a question and sends the answer, if there is one, back to the asker."""
    if query.drop:
        drop(sw, port, frame, <Drop>query.drop)
    else:
        add_relaxed(&port.counters.answered, 1)
        if port.captured_by:
            capture(sw, port, frame, DIRECTION_IN, Drop.FORWARDED)
    if query.reply_bytes:
        send_plain(sw, port, port, query.reply, query.reply_bytes)


cdef bint is_dhcp(Switch *sw, Network *network, Port *port, Frame *frame, bint to_gateway) noexcept nogil:
    """A UDP packet: hands a DHCP client's message to control; True when the frame ends here."""
    cdef const uint8_t *ip = frame.data + ETHERNET
    cdef uint32_t header = (ip[0] & 15) * 4
    if read16(ip + 6) & 0x1FFF or frame.length < ETHERNET + header + 8 or header < 20:
        return False
    if port.guard and read16(ip + header + 2) == 68:
        drop(sw, port, frame, Drop.ROGUE_DHCP)
        return True
    if not network.dhcp or read16(ip + header + 2) != 67 or not (to_gateway or frame.data[0] & 1):
        return False
    punt(sw, port, frame, PUNT_DHCP)
    return True


cdef bint is_dhcpv6(Switch *sw, Network *network, Port *port, Frame *frame, bint to_gateway) noexcept nogil:
    """The same for IPv6: to a group, or to the gateway, as a client may once it was told so (RFC 8415 section 18.4)."""
    if not network.router or frame.data[20] != UDP or read16(frame.data + 56) != 547 or not (to_gateway or frame.data[0] & 1):
        return False
    punt(sw, port, frame, PUNT_DHCPV6)
    return True


cdef void punt(Switch *sw, Port *port, Frame *frame, uint32_t kind) noexcept nogil:
    """Hands a frame to control, within the port's allowance."""
    cdef PuntHeader *header
    if frame.length > PUNT_BYTES or frame.vnet.gso_type or (kind == PUNT_DHCP and frame.data[ETHERNET + 6] & 0x20):
        drop(sw, port, frame, Drop.PUNT_OVERSIZED)
        return
    if not (may_ask(sw, port.allowance) if kind == PUNT_DNS else take(&port.punts, sw.now_ns, PUNT_BURST, PUNT_PER_S)):
        drop(sw, port, frame, Drop.PUNT_RATE)
        return
    header = <PuntHeader *>ring_reserve(&sw.punt, sizeof(PuntHeader) + frame.length)
    sw.notify = 1
    if header == NULL:
        drop(sw, port, frame, Drop.PUNT_FULL)
        return
    header.time_ns = sw.now_ns
    header.port = port.index
    header.network = port.network
    header.kind = kind
    memcpy(<uint8_t *>header + sizeof(PuntHeader), finished(sw, frame), frame.length)
    ring_commit(&sw.punt, sizeof(PuntHeader) + frame.length)
    if kind == PUNT_DNS:
        port.allowance.mark, port.allowance.waiting = sw.punt.tail, port.allowance.waiting + 1
    add_relaxed(&port.counters.punted, 1)
    if port.captured_by:
        capture(sw, port, frame, DIRECTION_IN, Drop.FORWARDED)


cdef bint may_ask(Switch *sw, Allowance *mine) noexcept nogil:
    """Whether control gets another question about a name. What may wait follows the room that is left: a crowd fills no ring."""
    cdef uint64_t head = load_acquire(&sw.punt.head), room = sw.punt.capacity - (sw.punt.tail - head)
    if head >= mine.mark:
        mine.waiting = 0
    return mine.waiting < min(<uint64_t>DNS_WAITING, room // DNS_ROOM) and take(&mine.questions, sw.now_ns, DNS_BURST, DNS_PER_S)


# ---- forward


cdef void forward(Switch *sw, Network *network, Port *port, Frame *frame) noexcept nogil:
    """Sends the frame where its destination address says."""
    cdef const uint8_t *destination = frame.data
    cdef uint32_t number
    cdef uint16_t home
    if destination[0] & 1:
        if is_reserved(destination):
            drop(sw, port, frame, Drop.RESERVED_GROUP)
            return
        flood(sw, network, port, frame, False)
        return
    number = fdb_find(&sw.fdb, fdb_key(port.network, destination))
    if number == <uint32_t>NOBODY:
        if not flood(sw, network, port, frame, True):
            drop(sw, port, frame, Drop.UNKNOWN_UNICAST)
        return
    home = sw.fdb.entries[number].port
    if home == port.index:
        drop(sw, port, frame, Drop.SAME_PORT)
        return
    if port.captured_by:
        capture(sw, port, frame, DIRECTION_IN, Drop.FORWARDED)
    transmit(sw, port, sw.ports[home], frame)


cdef bint is_reserved(const uint8_t *destination) noexcept nogil:
    """01:80:c2:00:00:00 to :0f stay on their link (IEEE 802.1Q table 8-1)."""
    return (read16(destination) == 0x0180 and read16(destination + 2) == 0xC200
            and destination[4] == 0 and destination[5] < 16)


cdef bint flood(Switch *sw, Network *network, Port *port, Frame *frame, bint unknown) noexcept nogil:
    """A copy to every other member; with `unknown` only to those behind which an unknown MAC can live. False when there is none."""
    cdef Port *member
    cdef uint32_t i
    cdef bint any_taker = False
    for i in range(network.members):
        member = sw.ports[network.ports[i]]
        if member == port or member.gone or (unknown and member.guard and member.has_mac):
            continue
        if not any_taker and port.captured_by:
            capture(sw, port, frame, DIRECTION_IN, Drop.FORWARDED)
        any_taker = True
        transmit(sw, port, member, frame)
    if not any_taker and not unknown and port.captured_by:
        capture(sw, port, frame, DIRECTION_IN, Drop.FORWARDED)
    return any_taker


# ---- transmit


cdef void transmit(Switch *sw, Port *payer, Port *port, Frame *frame) noexcept nogil:
    """One copy to `port`, in the form that it can take; the work is on `payer`'s account."""
    cdef uint8_t kind = frame.vnet.gso_type & ~GSO_ECN
    cdef uint8_t takes = TAKES_TCP4 if kind == GSO_TCPV4 else TAKES_TCP6 if kind == GSO_TCPV6 else TAKES_UDP
    cdef Drop reason
    if kind and not (port.vnet and port.gso & takes):
        transmit_segments(sw, payer, port, frame)
        return
    payer.credit -= COPY_COST + frame.length
    if port.vnet:
        reason = write_frame(sw, port, <uint8_t *>frame.vnet, VNET_BYTES + frame.length)
    elif frame.vnet.flags & VNET_NEEDS_CSUM:
        reason = write_frame(sw, port, finished(sw, frame), frame.length)
    else:
        reason = write_frame(sw, port, frame.data, frame.length)
    sent(sw, port, frame, reason)


cdef void sent(Switch *sw, Port *port, Frame *frame, Drop reason) noexcept nogil:
    """Counts one copy at its receiver."""
    if reason == Drop.FORWARDED:
        add_relaxed(&port.counters.tx_frames, 1)
        add_relaxed(&port.counters.tx_bytes, frame.length)
        add_relaxed(&port.counters.tx_segments, frame.segments)
        add_relaxed(&port.counters.tx_wire_bytes, frame.wire_bytes)
    else:
        count_drops(sw, port, reason, 1)
    if port.captured_by:
        capture(sw, port, frame, DIRECTION_OUT, reason)


cdef void transmit_segments(Switch *sw, Port *payer, Port *port, Frame *frame) noexcept nogil:
    """Cuts a super-frame for a receiver that can't take it whole."""
    cdef Segmenter cut
    cdef uint32_t length
    cdef uint64_t packet_id = frame.packet_id
    if not segment_open(&cut, frame.data, frame.length, frame.l3, frame.vnet):
        return
    while True:
        length = segment_next(&cut, sw.reply + VNET_BYTES)
        if length == 0:
            break
        send_plain(sw, payer, port, sw.reply + VNET_BYTES, length)
    frame.packet_id = packet_id


cdef void send_plain(Switch *sw, Port *payer, Port *port, uint8_t *data, uint32_t length) noexcept nogil:
    """Sends a complete frame that has VNET_BYTES of room before it."""
    cdef Frame frame
    memset(data - VNET_BYTES, 0, VNET_BYTES)
    frame.vnet = <VnetHeader *>(data - VNET_BYTES)
    frame.data = data
    frame.finished = data
    frame.length = frame.wire_bytes = length
    frame.segments = 1
    frame.packet_id = 0
    transmit(sw, payer, port, &frame)


cdef Drop write_frame(Switch *sw, Port *port, const uint8_t *data, size_t length) noexcept nogil:
    """One write; FORWARDED, or why the receiver didn't take it."""
    cdef ssize_t done
    cdef iovec iov
    while True:
        if port.kind == PORT_PACKET:
            done = send(port.fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL)
        elif port.nowait:
            iov.iov_base, iov.iov_len = <void *>data, length
            done = syscall(SYS_pwritev2, port.fd, &iov, 1, <long>-1, <long>-1, RWF_NOWAIT)
        else:
            done = syscall(SYS_write, port.fd, data, length)
        if done >= 0:
            return Drop.FORWARDED
        if errno == EOPNOTSUPP and port.nowait:
            port.nowait = 0
        elif errno != EINTR:
            break
    if errno == EAGAIN or errno == ENOBUFS:
        return Drop.TX_FULL
    if errno == EIO:
        return Drop.TX_LINK_DOWN
    if errno == EINVAL:
        return Drop.TX_REFUSED
    if errno == EBADFD or errno == EBADF or errno == ENODEV or errno == EPIPE or errno == ECONNRESET:
        lose_port(sw, port, errno)
    return Drop.TX_ERROR


cdef uint8_t *finished(Switch *sw, Frame *frame) noexcept nogil:
    """The frame's bytes with its checksum complete: itself, or a copy made once."""
    if frame.finished == NULL:
        frame.finished = frame.data
        if frame.vnet.flags & VNET_NEEDS_CSUM:
            frame.finished = sw.scratch
            fence(sw.scratch, frame.length, FRAME_BYTES)
            memcpy(sw.scratch, frame.data, frame.length)
            finish_checksum(sw.scratch, frame.length, frame.vnet.csum_start, frame.vnet.csum_offset)
    return frame.finished


# ---- control's frames


cdef void send_injected(Switch *sw) noexcept nogil:
    """Sends what control has to say, a bounded number of frames at a time."""
    cdef uint32_t length, i
    cdef const uint8_t *record
    cdef int left = INJECTED
    while left:
        record = ring_peek(&sw.inject, &length)
        if record == NULL:
            return
        memcpy(sw.reply + VNET_BYTES, record + sizeof(InjectHeader), length - sizeof(InjectHeader))
        inject(sw, <const InjectHeader *>record, length - sizeof(InjectHeader))
        ring_release(&sw.inject, length)
        left -= 1


cdef void inject(Switch *sw, const InjectHeader *header, uint32_t length) noexcept nogil:
    """One frame of control's, to one port or to a network; whoever has gone meanwhile misses it."""
    cdef Network *network = sw.networks[header.network] if header.network < MAX_NETWORKS else NULL
    cdef Port *port
    cdef uint32_t i
    if header.how == TO_PORT:
        port = sw.ports[header.port]
        if port != NULL and not port.gone and port.network == header.network:
            send_plain(sw, port, port, sw.reply + VNET_BYTES, length)
        return
    if network == NULL:
        return
    for i in range(network.members):
        port = sw.ports[network.ports[i]]
        if port.index != header.port and not port.gone:
            send_plain(sw, port, port, sw.reply + VNET_BYTES, length)


def limits() -> dict:
    """The dataplane's fixed limits by name, for those who show or test them."""
    return {
        "ports": MAX_PORTS, "networks": MAX_NETWORKS, "captures": MAX_SESSIONS, "burst_frames": BURST_FRAMES,
        "turn_cost_bytes": TURN_COST, "copy_cost_bytes": COPY_COST, "frame_bytes": FRAME_BYTES, "punt_bytes": PUNT_BYTES,
        "punt_burst": PUNT_BURST, "punt_per_s": PUNT_PER_S, "dns_burst": DNS_BURST, "dns_per_s": DNS_PER_S, "dns_waiting": DNS_WAITING,
        "snapshot_rows": SNAPSHOT_ROWS, "claims_per_port": CLAIMS_PER_PORT,
    }
