# SPDX-License-Identifier: Apache-2.0
"""Published UDP ports: clients of the host's write to the listener's socket, the container sees their own address and port.

A flow of direction FLOW_IN stands for each client; its `mapping` is the listener's number, its `target` the client's
address. The container's answers find it by their tuple and leave through the listener's socket, from the very address of
the host's that the client wrote to (IP_PKTINFO). The listener may be one dual-stack socket.

Whom the container could not answer to by itself (ends_of() in _listen.pyx says who that is) appears as the gateway. Several
of them may then want the same tuple, and so may one client that uses two published ports of the same container port: the
client's own port is tried first, then up to CLIENT_PORTS - 1 others that follow from its address and port, and the one that
is taken is recorded (`Client.port`). A client looks the same as long as its flow lives. A flow that the container had
opened itself to the very address and port of a client gives way: whoever writes to the published port is to be answered
from it.

All of a port's clients share its socket, so the container's TTL, DSCP and DF are not handed on to them.

Floods of forged clients cost the published container's own share of flows, of which the oldest unanswered one gives way to
the next.
"""
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from vswitch._fastpath cimport Port, count_drops
from vswitch.arp._neighbours cimport GATEWAY_PORT, Neighbour, neighbour_find
from vswitch.datapath._drops cimport Drop
from vswitch.nat._conntrack cimport FLOW_IN, FLOW_OUT, flow_find
from vswitch.nat._datagrams cimport address_to
from vswitch.nat._listen cimport ends_of
from vswitch.nat._mappings cimport start_flow
from vswitch.nat._shares cimport claim_flow
from vswitch.nat._sockets cimport is_mapped
from vswitch.nat._udp cimport CLIENT_PORTS, Client, udp_end, udp_of

cdef enum:
    UDP = 17


cdef Flow *flow_of_client(Switch *sw, Listener *listener, const Arrival *arrival, bint may_open) noexcept nogil:
    """The flow of the client arrival.peer, a new one if it has none yet and `may_open`; NULL when it can't have one."""
    cdef uint8_t inside[16]
    cdef uint8_t outside[16]
    cdef uint16_t port, chosen = 0
    cdef Flow *flow
    cdef int i
    if not ends_of(sw, listener, arrival.peer, inside, outside):
        return lost(sw, listener, Drop.NO_ROUTE)
    for i in range(CLIENT_PORTS):
        port = arrival.peer_port if i == 0 else other_port(arrival, i)
        flow = flow_find(&sw.nat.conntrack, listener.network, UDP, inside, listener.inside_port, outside, port)
        if flow != NULL and is_of(sw, flow, listener, arrival):
            return flow
        if may_open and i == 0 and flow != NULL and flow.direction == FLOW_OUT and memcmp(flow.target, arrival.peer, 16) == 0:
            udp_end(sw, sw.ports[flow.port], flow)
            flow = NULL
        if flow == NULL and chosen == 0:
            chosen = port
    if not may_open:
        return NULL
    return open_client(sw, listener, arrival, inside, outside, chosen)


cdef uint16_t other_port(const Arrival *arrival, uint32_t attempt) noexcept nogil:
    """Another port for a client, always the same for the same client and attempt."""
    cdef uint32_t words[4]
    cdef uint32_t hash = arrival.peer_port * <uint32_t>0x9E3779B1 + attempt
    cdef int i
    memcpy(words, arrival.peer, 16)
    for i in range(4):
        hash = (hash ^ words[i]) * <uint32_t>0x85EBCA6B
        hash ^= hash >> 15
    return <uint16_t>(1024 + hash % 64512)


cdef bint is_of(Switch *sw, const Flow *flow, const Listener *listener, const Arrival *arrival) noexcept nogil:
    """Whether a flow is this client's on this listener."""
    return (flow.direction == FLOW_IN and flow.mapping == <uint32_t>(listener - sw.nat.listeners)
            and udp_of(sw).clients[flow.number].port == arrival.peer_port and memcmp(flow.target, arrival.peer, 16) == 0)


cdef Flow *lost(Switch *sw, const Listener *listener, Drop reason) noexcept nogil:
    """A client's datagram that reaches nobody is counted at the container's port."""
    if sw.ports[listener.port] != NULL:
        count_drops(sw, sw.ports[listener.port], reason, 1)
    return NULL


cdef Flow *open_client(Switch *sw, Listener *listener, const Arrival *arrival, const uint8_t *inside, const uint8_t *outside,
                       uint16_t chosen) noexcept nogil:
    """A new client's flow, on the account of the container that has the inside address."""
    cdef const Neighbour *home = neighbour_find(&sw.neighbours, listener.network, inside)
    cdef uint32_t number = <uint32_t>(listener - sw.nat.listeners)
    cdef Client *client
    cdef Port *port
    cdef Flow *flow = NULL
    if home == NULL or home.port == GATEWAY_PORT or sw.ports[home.port] == NULL or sw.ports[home.port].gone:
        return lost(sw, listener, Drop.NO_ROUTE)
    port = sw.ports[home.port]
    if chosen:
        flow = claim_flow(sw, port, UDP, inside, listener.inside_port, outside, chosen)
    if flow == NULL:
        return lost(sw, listener, Drop.NAT_FULL)
    flow.ipv6, flow.mapping = not is_mapped(inside), number
    client = &udp_of(sw).clients[flow.number]
    memset(client, 0, sizeof(Client))
    client.port, client.scope, client.dual = arrival.peer_port, arrival.scope, arrival.dual
    client.has_local, client.interface = arrival.has_local, arrival.interface
    memcpy(client.local, arrival.local, 16)
    start_flow(sw, flow, FLOW_IN, arrival.peer, home.mac, &udp_of(sw).listened[number])
    return flow


cdef void address_client(Switch *sw, const Flow *flow, Destination *to) noexcept nogil:
    """Addresses an answer to a client, from where it wrote to."""
    cdef const Client *client = &udp_of(sw).clients[flow.number]
    address_to(to, flow.target, client.port, client.scope, client.dual)
    to.has_local, to.interface = client.has_local, client.interface
    memcpy(to.local, client.local, 16)
