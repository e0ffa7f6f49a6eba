# SPDX-License-Identifier: Apache-2.0
"""Published ports: host sockets that accept on behalf of containers.

Enters: connections that the host's kernel has completed (TCP; datagrams are _udp's). Leaves: flows towards the container, in which the client
keeps its own address and port. So the container's logs, limits and rules see who it is. A client that has no address the
container could answer to by itself (loopback, the host's own addresses, another family than the container's) appears as the gateway, on the
port it has if that is free. Containers reach published ports through the host's addresses like anybody else, and so appear as the gateway.

Control opens the sockets and owns them. A listener is polled level-triggered, a few connections per event, so a flood of connections to one port
delays the others by its turn only. Where accept() fails for want of descriptors the listener leaves the poller for STALL_NS, because
it would stay readable and keep the loop busy.
"""
from libc.errno cimport EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from vswitch._fastpath cimport Port, count_drops
from vswitch.arp._neighbours cimport Neighbour, neighbour_find
from vswitch.datapath._drops cimport Drop
from vswitch.nat._addresses cimport is_link_local, is_loopback, is_unspecified, lies_in
from vswitch.nat._connection cimport new_flow, tcp_accepted, tcp_end
from vswitch.nat._conntrack cimport FLOW_IN, Flow, flow_find
from vswitch.nat._dialer cimport hang_up
from vswitch.nat._emit cimport gateway_address
from vswitch.nat._nat cimport MAX_LISTENERS, NO_PORT, POLL_LISTENER
from vswitch.nat._sockets cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN, IPPROTO_TCP, SOCK_CLOEXEC, SOCK_NONBLOCK, TCP_NODELAY, accept4, epoll_ctl, epoll_event,
    is_mapped, poll_key, read_socket_address, setsockopt, sockaddr, sockaddr_in6,
)
from vswitch.nat._tcp cimport TIME_WAIT
from vswitch.nat._udp cimport udp_listen, udp_published, udp_unpublished

cdef enum:
    TCP = 6
    ACCEPTED = 16           # connections taken from one listener per event
    PORT_TRIES = 64         # to find a free port of the gateway's for a client that appears as it


cdef bint listen_open(Switch *sw) noexcept nogil:
    """Makes the table; False when memory is short."""
    sw.nat.listeners = <Listener *>calloc(MAX_LISTENERS, sizeof(Listener))
    return sw.nat.listeners != NULL


cdef void listen_close(Switch *sw) noexcept nogil:
    free(sw.nat.listeners)
    sw.nat.listeners = NULL


# ---- coming and going


cdef void listen_add(Switch *sw, uint32_t first, const Listener *listeners, uint32_t count) noexcept nogil:
    """Starts to accept on `count` sockets, which get consecutive numbers."""
    cdef uint32_t i
    cdef uint16_t generation
    cdef Listener *listener
    for i in range(count):
        listener = &sw.nat.listeners[first + i]
        generation = listener.generation + 1
        listener[0] = listeners[i]
        listener.generation = generation
        sw.nat.conntrack.taken += 1
        if listener.protocol != TCP:
            udp_listen(sw, first + i)
        poll_listener(sw, first + i)
    if first + count > sw.nat.listener_count:
        sw.nat.listener_count = first + count


cdef bint in_use(const Listener *listener) noexcept nogil:
    return listener.fd > 0


cdef void poll_listener(Switch *sw, uint32_t number) noexcept nogil:
    """Puts a listener into the poller; where there is no room it waits like one that is out of descriptors."""
    cdef Listener *listener = &sw.nat.listeners[number]
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = poll_key(POLL_LISTENER, listener.generation, number)
    if epoll_ctl(sw.poller, EPOLL_CTL_ADD, listener.fd, &event) < 0:
        stall(sw, listener)


cdef void stall(Switch *sw, Listener *listener) noexcept nogil:
    listener.stalled = 1
    sw.nat.stalled += 1
    sw.nat.stalled_at_ns = sw.now_ns


cdef void listen_again(Switch *sw) noexcept nogil:
    """Gives listeners that ran out of descriptors another try, STALL_NS after the last of them did."""
    cdef uint32_t number
    if sw.nat.stalled == 0 or sw.now_ns < sw.nat.stalled_at_ns + STALL_NS:
        return
    sw.nat.stalled = 0
    for number in range(sw.nat.listener_count):
        if in_use(&sw.nat.listeners[number]) and sw.nat.listeners[number].stalled:
            sw.nat.listeners[number].stalled = 0
            poll_listener(sw, number)


cdef void listen_remove(Switch *sw, uint32_t first, uint32_t count) noexcept nogil:
    """Stops accepting; connections that were accepted go on, datagram flows end with their socket."""
    cdef uint32_t number
    cdef Listener *listener
    for number in range(first, first + count):
        listener = &sw.nat.listeners[number]
        if not in_use(listener):
            continue
        if listener.protocol != TCP:
            udp_unpublished(sw, number)
        if listener.stalled:
            sw.nat.stalled -= 1
        else:
            epoll_ctl(sw.poller, EPOLL_CTL_DEL, listener.fd, NULL)
        listener.fd, listener.port, listener.stalled = 0, NO_PORT, 0
        sw.nat.conntrack.taken -= 1


cdef void listen_forget(Switch *sw, uint16_t port) noexcept nogil:
    """A container has left: nobody accepts for it any more."""
    cdef uint32_t number
    for number in range(sw.nat.listener_count):
        if in_use(&sw.nat.listeners[number]) and sw.nat.listeners[number].port == port:
            listen_remove(sw, number, 1)


# ---- a client


cdef void listener_ready(Switch *sw, uint32_t number, uint32_t generation, uint32_t events) noexcept nogil:
    """Clients wait at a published port."""
    cdef Listener *listener = &sw.nat.listeners[number]
    cdef sockaddr_in6 client
    cdef uint32_t size
    cdef int fd, left = ACCEPTED
    if not in_use(listener) or listener.generation != generation:
        return
    if listener.protocol != TCP:
        udp_published(sw, listener, events)
        return
    while left:
        size = sizeof(client)
        fd = accept4(listener.fd, <sockaddr *>&client, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
                epoll_ctl(sw.poller, EPOLL_CTL_DEL, listener.fd, NULL)
                stall(sw, listener)
            return
        accepted(sw, listener, fd, &client)
        left -= 1


cdef void accepted(Switch *sw, const Listener *listener, int fd, const sockaddr_in6 *address) noexcept nogil:
    """One connection: becomes a flow, or is reset."""
    cdef uint8_t client[16]
    cdef uint8_t inside[16]
    cdef uint8_t outside[16]
    cdef uint16_t l4_port = read_socket_address(address, client)
    cdef Port *port = sw.ports[listener.port]
    cdef const Neighbour *home
    cdef Flow *flow = NULL
    cdef int on = 1
    if port != NULL and not port.gone and ends_of(sw, listener, client, inside, outside):
        home = neighbour_find(&sw.neighbours, listener.network, inside)
        l4_port = free_port(sw, port, listener, inside, outside, l4_port, memcmp(client, outside, 16) != 0)
        if home != NULL and home.port == port.index and l4_port:
            flow = new_flow(sw, port, inside, listener.inside_port, outside, l4_port)
    if flow == NULL:
        if port != NULL:
            count_drops(sw, port, Drop.NAT_FULL, 1)
        hang_up(sw, fd, True)
        return
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
    flow.direction, flow.ipv6 = FLOW_IN, not is_mapped(inside)
    memcpy(flow.target, client, 16)
    memcpy(flow.mac, home.mac, 6)
    tcp_accepted(sw, port, flow, fd)


cdef bint ends_of(Switch *sw, const Listener *listener, const uint8_t *client, uint8_t *inside, uint8_t *outside) noexcept nogil:
    """The container's address that a client is to reach, and the one it appears with; False when there is none."""
    cdef bint four = is_mapped(client)
    cdef bint as_gateway = shown_as_gateway(sw, client)
    if sw.networks[listener.network] == NULL or not (listener.has4 or listener.has6):
        return False
    if not (listener.has4 if four else listener.has6):
        four = not four
        as_gateway = True
    memcpy(inside, &listener.inside4[0] if four else &listener.inside6[0], 16)
    if as_gateway:
        return gateway_address(sw, listener.network, not four, outside)
    memcpy(outside, client, 16)
    return True


cdef bint shown_as_gateway(const Switch *sw, const uint8_t *client) noexcept nogil:
    """Whether a container could not answer to this address through its gateway: loopback, link-local, the host itself, a network of ours."""
    return (is_loopback(client) or is_unspecified(client) or is_link_local(client)
            or lies_in(&sw.nat.own, client) or lies_in(&sw.nat.host_addresses, client))


cdef uint16_t free_port(Switch *sw, Port *port, const Listener *listener, const uint8_t *inside, const uint8_t *outside, uint16_t wanted,
                        bint may_change) noexcept nogil:
    """The client's port if the container has no flow with it (one in TIME_WAIT gives way), another where the client is not seen as itself;
    0 for none."""
    cdef Flow *flow
    cdef uint32_t left = PORT_TRIES, candidate = wanted
    while left:
        flow = flow_find(&sw.nat.conntrack, listener.network, TCP, inside, listener.inside_port, outside, <uint16_t>candidate)
        if flow == NULL:
            return <uint16_t>candidate
        if flow.tcp.state == TIME_WAIT:
            tcp_end(sw, sw.ports[flow.port], flow, False)
            return <uint16_t>candidate
        if not may_change:
            return 0
        candidate = 1024 + (candidate * 31421 + 6927) % 64512
        left -= 1
    return 0
