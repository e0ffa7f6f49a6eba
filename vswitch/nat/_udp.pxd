# SPDX-License-Identifier: Apache-2.0
# UDP and echo: container datagrams onto host sockets, one per container address and port; the theory stands in _udp.pyx.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow
from vswitch.nat._datagrams cimport Arrival, Destination, Inbox
from vswitch.nat._nat cimport Listener, Packet

cdef enum:
    MAX_MAPPINGS = 65536    # a host socket each; their wire identifiers must differ
    FILTER_WALK = 256       # the mapping's newest flows that are asked whether the container knows an address
    CLIENT_PORTS = 8        # tried for a client whose own port is taken at the address it appears under
    MAX_SEGMENTS = 64       # of one message: what every kernel with UDP_SEGMENT takes
    BATCH_BYTES = 65000     # payload of one message of several datagrams
    ERRORS_AT_ONCE = 16     # taken off one socket's queue before others have their turn
    ERROR_BYTES = 1500      # of the datagram that an error quotes

cdef struct Mapping:        # a container's address and UDP port, or echo identifier, and the host socket it has
    int32_t fd
    uint32_t generation     # of the entry, so that a late event is told apart
    uint16_t network
    uint16_t port           # the container's switch port
    uint16_t inside_port    # echo: the container's identifier
    uint16_t wire_id        # echo over a raw socket: the identifier that the world sees
    uint8_t used
    uint8_t protocol
    uint8_t ipv6
    uint8_t raw             # echo over a raw socket
    uint8_t ttl             # as the socket was last told; 0 for not yet
    uint8_t tos
    uint8_t whole           # it was told not to fragment
    uint8_t aliased         # some flow's target is the host's loopback, which the container knows as `alias`
    uint8_t long_trains     # the last batch held long messages: fewer at once, so that each is still cached when it leaves
    uint8_t inside[16]
    uint8_t alias[16]
    uint32_t first          # its flows, the newest first
    uint32_t recent         # the flow that received last
    uint32_t next           # in its bucket, or of the spare ones: number + 1, 0 for none

cdef struct Client:         # the far end of a published port's flow, by flow number
    uint8_t local[16]       # the host's address that it wrote to
    uint32_t interface      # of a link-local `local`
    uint32_t scope          # of a link-local client
    uint16_t port           # its own, where the container sees another
    uint8_t dual            # the listener's socket is an AF_INET6 one
    uint8_t has_local

cdef struct Sending:        # how a datagram is to leave
    uint8_t ttl
    uint8_t tos
    uint8_t whole           # not to be fragmented

cdef struct Batch:          # datagrams of one flow and size that will leave as one message
    uint32_t flow           # NO_FLOW for none
    uint32_t size           # payload of each but the last
    uint32_t bytes
    uint32_t count
    Sending how
    uint8_t *payload        # BATCH_BYTES

cdef struct Train:          # datagrams of one flow that came one by one and go on as one super-frame
    uint32_t flow           # of the `count`
    uint32_t count
    Arrival whole           # the first, in its own place; from the second on all of them, behind each other in `payload`
    uint32_t size           # payload of each but the last
    uint8_t *room           # EMIT_ROOM, a UDP header, BATCH_BYTES

cdef struct Udp:
    Mapping *mappings
    uint32_t *buckets       # number + 1 of a mapping, 0 for none
    uint32_t bucket_mask
    uint32_t capacity
    uint32_t untouched
    uint32_t spare          # number + 1 of a mapping given back
    uint32_t *listened      # by listener number: its flows
    Client *clients
    Batch batch
    Train train
    Inbox inbox
    uint8_t *quote          # 8 bytes and ERROR_BYTES: what an error quotes
    uint8_t *message        # LARGEST_DATAGRAM: an echo that a raw socket is to send
    uint8_t told_no_ping

cdef inline Udp *udp_of(Switch *sw) noexcept nogil:
    return <Udp *>sw.nat.udp

cdef bint udp_open(Switch *sw) noexcept nogil
cdef void udp_close(Switch *sw) noexcept nogil
cdef int udp_out(Switch *sw, Port *port, const Packet *packet) noexcept nogil
cdef void udp_flush(Switch *sw) noexcept nogil
cdef void udp_ready(Switch *sw, uint32_t mapping, uint32_t generation, uint32_t events) noexcept nogil
cdef void udp_published(Switch *sw, Listener *listener, uint32_t events) noexcept nogil
cdef void udp_due(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void udp_end(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void udp_listen(Switch *sw, uint32_t listener) noexcept nogil
cdef void udp_unpublished(Switch *sw, uint32_t listener) noexcept nogil
cdef int send_out(Switch *sw, Port *port, Flow *flow, const Sending *how, const uint8_t *payload, uint32_t bytes, uint32_t size) noexcept nogil
