# SPDX-License-Identifier: Apache-2.0
# The dataplane's contents page: every structure that a frame meets, field by field. The theory stands in _fastpath.pyx.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from vswitch.arp._neighbours cimport Neighbours
from vswitch.bridge._fdb cimport Fdb
from vswitch.datapath._bucket cimport Bucket
from vswitch.datapath._drops cimport Drop
from vswitch.datapath._ring cimport Ring, add_relaxed
from vswitch.datapath._waiting cimport Waiting
from vswitch.nat._conntrack cimport Share
from vswitch.nat._nat cimport Nat, WayOut
from vswitch.observe._session cimport Session
from vswitch.wire._vnet cimport VnetHeader

cdef enum:
    MAX_PORTS = 65535       # 0xFFFF stands for the gateway
    MAX_NETWORKS = 4096
    MAX_SESSIONS = 8        # captures at once: one bit each in Port.captured_by
    BURST_FRAMES = 64       # frames read from one port before the next port's turn
    TURN_COST = 786432      # work, in bytes, that one port may cause before the next port's turn
    COPY_COST = 12288       # what a copy costs beside its bytes: a 64-byte frame takes a fifth of a 64 KiB one's time
    FRAME_BYTES = 131072    # the largest frame any port can hand us, with room to spare
    SNAPSHOT_ROWS = 256     # table rows copied per batch while a snapshot is taken
    PUNT_BYTES = 2048       # the longest frame worth the control plane's attention
    PUNT_BURST = 20         # questions that a port may ask at once,
    PUNT_PER_S = 10         # and per second after that
    DNS_BURST = 512         # the same of a container's for names, which are everyday business
    DNS_PER_S = 10000
    DNS_WAITING = 128       # of a container's that wait for control: so many cost others behind them some milliseconds;
    DNS_ROOM = 4096         # and no more than one for each so many bytes that the punt ring has left
    CLAIMS_PER_PORT = 16    # IPv6 addresses that a container may make itself: a stable and seven temporary ones, in two prefixes (RFC 8981)
    AUTOCONF_PREFIXES = 8   # of a network
    HOLDS_IPV4 = 1          # Port.holds
    HOLDS_IPV6 = 2

cdef enum PortKind:
    PORT_TAP = 1            # a character device: read and write, whole frames
    PORT_PACKET = 2         # AF_UNIX SOCK_SEQPACKET: recv and send, whole frames

cdef struct Counters:       # written by the dataplane with relaxed stores, read by anyone
    uint64_t rx_frames      # frames as they crossed: a super-frame counts once
    uint64_t rx_bytes
    uint64_t rx_segments    # frames as a wire would have carried them
    uint64_t rx_wire_bytes
    uint64_t tx_frames
    uint64_t tx_bytes
    uint64_t tx_segments
    uint64_t tx_wire_bytes
    uint64_t answered       # frames that the gateway answered
    uint64_t punted         # frames handed to control
    uint64_t translated     # packets of its that left through a host socket
    uint64_t drops[64]      # by Drop

cdef enum Takes:            # as ports/tap.py's GSO_*
    TAKES_TCP4 = 1
    TAKES_TCP6 = 2
    TAKES_UDP = 4

cdef struct Allowance:      # what one container may ask about names, on whichever of its ports
    uint32_t ports          # that it is for; control's own
    Bucket questions
    Bucket calls            # connections to ask on
    uint64_t mark           # where its last question ends on the punt ring
    uint32_t waiting        # how many it put there since control had read them all

cdef struct Port:
    int32_t fd
    uint16_t index
    uint16_t network
    uint8_t kind            # PortKind
    uint8_t vnet            # frames carry a virtio header
    uint8_t gso             # super-frames it takes: a mask of Takes
    uint8_t guard           # may only speak as `mac`
    uint8_t has_mac         # `mac` is assigned
    uint8_t mac[6]
    uint8_t holds           # bit mask: of which IP versions it is held to the addresses that are bound to it
    uint8_t own4[4]         # its first IPv4 address, 0 for none
    uint8_t own6[16]        # its first IPv6 address, :: for none
    uint8_t claim_count
    uint32_t claims[16]     # entries of the neighbour table: IPv6 addresses that it has made itself
    uint8_t shared          # somebody else may hold its open file and clear O_NONBLOCK
    uint8_t nowait          # it is shared, and RWF_NOWAIT works on it
    uint8_t captured_by     # bit mask of sessions
    uint8_t gone            # why its descriptor is dead (errno), 0 while it lives
    uint8_t told            # control's mark: it knows that the port is gone
    int64_t credit          # work it may still cause in this turn; negative after a costly frame
    Bucket punts            # questions to control
    Allowance *allowance    # those about names
    Share share             # of the flows, descriptors and buffers that translation has
    Counters counters

cdef struct Network:
    uint16_t index
    uint8_t dhcp            # DHCP questions go to control
    uint8_t isolated        # its ports speak with the gateway only (icc=false)
    uint8_t router          # router solicitations and DHCPv6 questions go to control
    uint8_t autoconf_count
    uint8_t autoconf[8][8]  # prefixes (/64) in which containers make themselves addresses
    uint8_t dns             # control answers port 53 of the gateway
    uint8_t gateway_mac[6]
    uint8_t gateway4[4]     # its first IPv4 address
    uint8_t gateway6[16]    # its first global IPv6 address, zero for none
    WayOut way_out          # how packets leave it
    uint32_t mtu            # longest packet, the IP header on; Ethernet header and tags come on top
    uint32_t members        # ports in it
    uint32_t room           # length of `ports`
    uint16_t *ports
    uint64_t drops[64]

cdef struct Frame:          # one frame on its way through
    uint8_t *data           # from the Ethernet header on; VNET_BYTES of room stand before it
    uint32_t length
    uint32_t l3             # where the payload of the last VLAN tag or the Ethernet header starts
    uint16_t ethertype      # behind all VLAN tags
    uint16_t tags
    VnetHeader *vnet        # directly before `data`
    uint32_t segments       # frames it stands for
    uint32_t wire_bytes     # their bytes altogether
    uint8_t *finished       # its bytes with the checksum complete, NULL until somebody needs them
    uint64_t packet_id      # for captures, 0 until it was captured

cdef enum Op:               # what control asks of the dataplane
    OP_POKE = 1             # nothing: an answer is all that is wanted
    OP_STOP
    OP_NETWORK_ADD          # pointer: a Network to take over
    OP_NETWORK_REMOVE       # index
    OP_NETWORK_MTU          # index, value
    OP_NETWORK_ISOLATED     # index, value: whether its ports are kept apart
    OP_NETWORK_ROUTER       # index, value: whether router solicitations and DHCPv6 go to control; forgets the prefixes
    OP_NETWORK_PREFIX       # index, address: a further prefix for autoconfiguration
    OP_NETWORK_DNS          # index, value: whether control answers port 53 of the gateway
    OP_PORT_ADD             # pointer: a Port to take over
    OP_PORT_REMOVE          # index
    OP_NEIGHBOUR_SET        # network, address, mac, index (port)
    OP_NEIGHBOUR_REMOVE     # network, address
    OP_SNAPSHOT             # pointer: a Snapshot to fill
    OP_CAPTURE              # pointer: a Session for slot `index`, NULL to end it
    OP_CAPTURE_PORT         # index (port), value: the mask of sessions that see it
    OP_WAY_OUT              # index (network), pointer: a WayOut to copy
    OP_OWN_SUBNETS          # pointer: Prefixes to use, value: how many; control frees the earlier ones
    OP_HOST_ADDRESSES       # pointer: addresses to use, value: how many; control frees the earlier ones
    OP_LISTEN               # pointer: Listeners to copy, value: how many, index: the first one's number
    OP_UNLISTEN             # index: the first Listener's number, value: how many
    OP_FLOW_KILL            # value: number and generation of a flow
    OP_FLOW_WATCH           # value: whether control wants to hear of every flow

cdef struct Command:
    uint32_t op
    uint16_t index
    uint16_t network
    uint64_t value
    void *pointer
    uint8_t address[16]
    uint8_t mac[6]

cdef packed struct PuntHeader:      # on the punt ring, the frame behind it
    uint64_t time_ns
    uint16_t port
    uint16_t network
    uint32_t kind                   # PUNT_…

cdef enum:
    PUNT_DHCP = 1
    PUNT_ROUTER = 2         # a router solicitation
    PUNT_DHCPV6 = 3
    PUNT_DNS = 4            # a UDP question to port 53 of the gateway, header and checksum sound, the source the port's own
    TO_PORT = 0             # an injected frame goes to one port,
    TO_NETWORK = 1          # or to all of a network but one

cdef packed struct InjectHeader:    # on the inject ring, the frame behind it
    uint16_t network
    uint16_t port           # the receiver, or with TO_NETWORK the one left out
    uint32_t how

cdef enum EventKind:
    EVENT_PORT_GONE = 1     # its descriptor failed for good: errno
    EVENT_NO_PING = 2       # the kernel lets us open neither ping nor raw sockets: errno
    EVENT_FLOW_OPENED = 3   # a FlowEvent follows
    EVENT_FLOW_CLOSED = 4
    EVENT_SERVICE = 5       # a FlowEvent follows; error: control's end of a connection to a service of its own

cdef packed struct Event:
    uint32_t kind
    uint16_t port
    uint16_t network
    int32_t error

cdef packed struct FdbRow:
    uint16_t network
    uint16_t port
    uint8_t mac[6]
    uint8_t kind
    uint8_t spare
    uint32_t age_s

cdef packed struct NeighbourRow:
    uint16_t network
    uint16_t port
    uint8_t address[16]
    uint8_t mac[6]

cdef enum SnapshotKind:
    SNAPSHOT_FDB = 1
    SNAPSHOT_NEIGHBOURS = 2
    SNAPSHOT_FLOWS = 3

cdef packed struct FlowRow:
    uint16_t network
    uint16_t port
    uint8_t protocol
    uint8_t direction
    uint8_t state           # TcpState, 0 for what isn't TCP
    uint8_t assured
    uint8_t inside[16]
    uint8_t outside[16]
    uint8_t target[16]
    uint16_t inside_port
    uint16_t outside_port
    uint32_t number
    uint32_t generation
    uint64_t out_bytes
    uint64_t in_bytes
    uint64_t out_packets
    uint64_t in_packets
    uint64_t age_ns
    uint64_t idle_ns

cdef packed struct FlowEvent:
    Event event
    FlowRow row

cdef struct Snapshot:
    uint32_t kind
    uint32_t capacity       # rows there is room for
    uint32_t count          # rows written
    uint32_t cursor         # where the next slice starts
    uint64_t done           # 1 when complete
    void *rows
    Snapshot *next

cdef struct Switch:
    Port *ports[MAX_PORTS + 1]
    Network *networks[MAX_NETWORKS]
    Session *sessions[MAX_SESSIONS]
    Fdb fdb
    Neighbours neighbours
    Ring commands           # control → dataplane
    Ring inject             # control → dataplane: frames to send
    Ring punt               # dataplane → control: frames to answer
    Ring events             # dataplane → control
    Snapshot *snapshots     # being filled
    Nat nat                 # translation: flows and host sockets
    Waiting waiting
    uint64_t turns          # of the loop so far
    uint64_t completed      # commands carried out so far
    uint64_t now_ns         # CLOCK_MONOTONIC or what step() was given, read once per wake-up
    uint64_t realtime_ns    # what turns it into time since the epoch
    uint64_t age_due_ns     # when MAC entries may have to be forgotten, 0 for never
    uint64_t wakeups
    uint64_t packet_ids
    uint32_t age_s          # how long a silent MAC is remembered
    uint32_t port_count
    int32_t poller          # epoll
    int32_t wake_fd         # eventfd: control has commands or frames for us
    int32_t notify_fd       # eventfd: we have something for control
    uint32_t notify_wanted  # control hasn't been told since it last looked
    uint8_t notify          # this batch has something for control
    uint8_t captured        # bit mask of the sessions that this batch has records for
    uint8_t stepped         # run by hand: the clock is what step() said
    uint8_t stop
    uint8_t *rx             # VNET_BYTES before a frame of FRAME_BYTES
    uint8_t *scratch        # finished copies
    uint8_t *untagged       # copies without tags of VLAN 0
    uint8_t *reply          # answers and segments

cdef inline void count_drops(Switch *sw, Port *port, Drop reason, uint32_t frames) noexcept nogil:
    """The end of `frames`, at the port that sent them or was to have them, and so in its network."""
    add_relaxed(&port.counters.drops[<int>reason], frames)
    add_relaxed(&sw.networks[port.network].drops[<int>reason], frames)

cdef Switch *switch_open(uint32_t mac_capacity, uint32_t mac_share, uint32_t neighbour_capacity, uint32_t flow_capacity, uint32_t descriptors, uint64_t seed) noexcept
cdef void switch_close(Switch *sw) noexcept
cdef int switch_turn(Switch *sw, int timeout_ms) noexcept nogil
cdef void switch_run(Switch *sw) noexcept nogil
cdef void give_up(Switch *sw, Port *port, int error) noexcept nogil
cdef void transmit(Switch *sw, Port *payer, Port *port, Frame *frame) noexcept nogil
