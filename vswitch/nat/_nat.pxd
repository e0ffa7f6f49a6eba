# SPDX-License-Identifier: Apache-2.0
# The contents page of translation: what the dataplane's Switch holds for it (`Switch.nat`), and one packet on its way out or in.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from vswitch.datapath._ring cimport Ring
from vswitch.nat._addresses cimport Prefixes
from vswitch.nat._conntrack cimport Conntrack
from vswitch.nat._reassembly cimport Reassemblies

cdef enum:
    EMIT_ROOM = 128         # bytes before an outgoing L4 header for the virtio, Ethernet and IP headers
    EMIT_BYTES = 131072     # of Nat.tx from EMIT_ROOM on
    MAX_LISTENERS = 65536
    NO_PORT = 0xFFFF

cdef enum PollKind:         # the upper 8 bits of epoll's 64; 24 bits of generation and 32 of index follow
    POLL_PORT = 0           # index: switch port
    POLL_WAKE = 1           # the eventfd through which control and the dialer wake us
    POLL_FLOW = 2           # index: flow number (a TCP connection)
    POLL_MAPPING = 3        # index: mapping number (UDP, ping)
    POLL_LISTENER = 4       # index: listener number (a published port)

cdef struct Packet:         # an IP packet of a container's that is for the world beyond its network; everything here was checked
    const uint8_t *ip       # its IP header; the bytes behind `total` are not its own
    uint32_t ip_bytes       # of the IP header, extension headers included
    uint32_t total          # of the packet
    const uint8_t *l4       # its L4 header: complete, and of a size that its protocol allows
    uint32_t l4_bytes       # of L4 header and payload
    uint16_t sport          # TCP and UDP, host order; echo: the identifier
    uint16_t dport          # TCP and UDP; echo: 0
    uint8_t ipv6
    uint8_t protocol
    uint8_t ttl             # as it came in; more than 1
    uint8_t tos
    uint8_t dont_fragment   # IPv4's DF; always 1 for IPv6
    uint8_t inside[16]      # source, IPv4 mapped
    uint8_t outside[16]     # destination
    uint8_t target[16]      # whom the socket is to reach: `outside`, or the loopback address that it stands for
    uint8_t mac[6]          # the container's
    uint16_t gso_size       # UDP super-frame: payload bytes of each datagram; 0 otherwise
    uint8_t local           # `outside` is the gateway's own address
    uint8_t service         # and control serves the port

cdef struct Outgoing:       # an IP packet for a container; EMIT_ROOM bytes of room lie before its L4 header
    uint8_t *l4
    uint32_t l4_bytes       # L4 header and payload
    uint8_t protocol
    uint8_t ipv6
    uint8_t ttl
    uint8_t tos
    const uint8_t *source   # 16 bytes
    const uint8_t *destination
    const uint8_t *mac      # the container's
    uint16_t gso_size       # payload bytes of each segment or datagram; 0 for an ordinary packet
    bint complete           # the L4 checksum stands already (ICMP)

cdef struct WayOut:         # how a network reaches the world; lies in its Network
    uint8_t open            # 0: --internal, no way out
    uint8_t host_loopback   # the gateway's addresses stand for the host's loopback
    uint8_t endpoint_filtering  # UDP: anybody may answer on a mapping (RFC 4787 endpoint-independent filtering)
    uint8_t has_source4     # outgoing IPv4 comes from source4
    uint8_t has_source6
    uint8_t source4[4]
    uint8_t source6[16]
    char device[16]         # SO_BINDTODEVICE, empty for none

cdef struct Listener:       # one published host port
    int32_t fd
    uint16_t port           # the container's switch port, NO_PORT for a free entry
    uint16_t network
    uint16_t inside_port    # the container's
    uint16_t generation
    uint8_t protocol
    uint8_t has4            # which of the container's addresses there are
    uint8_t has6
    uint8_t stalled         # out of the poller: accept failed for want of descriptors
    uint8_t inside4[16]
    uint8_t inside6[16]
    uint8_t long_trains     # UDP: as in Mapping

cdef struct Nat:
    Conntrack conntrack
    uint8_t *tx             # EMIT_ROOM + EMIT_BYTES
    Prefixes own            # subnets of all networks: never handed to connect() or sendto()
    Prefixes host_addresses # whoever connects from them appears as the gateway
    Listener *listeners
    uint32_t listener_count # entries in use or once used
    uint32_t stalled        # listeners that wait for descriptors
    uint64_t stalled_at_ns
    Reassemblies reassemblies
    void *udp               # Udp in _udp.pxd
    void *tcp               # TcpPool in _stream.pxd
    Ring requests           # dataplane → dialer
    Ring results            # dialer → dataplane
    int32_t dial_fd         # eventfd: the dialer has requests
    uint8_t dial_wanted     # this batch has requests
    uint8_t dial_inline     # no dialer thread: connect() and close() are done on the spot (step, tests)
    uint8_t peek4           # SO_PEEK_OFF works on TCP over IPv4,
    uint8_t peek6           # over IPv6
    uint8_t gso             # UDP_SEGMENT works
    uint8_t gro             # UDP_GRO works
    uint8_t watched         # control wants to hear of every flow
    uint16_t identification # of the next IPv4 packet that may be fragmented
    uint64_t random         # state of a generator for initial sequence numbers
