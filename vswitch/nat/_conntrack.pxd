# SPDX-License-Identifier: Apache-2.0
# Connection tracking: every flow that leaves a network through its gateway, or comes in through a published port. The theory stands in
# _conntrack.pyx. Addresses are 16 bytes, IPv4 in its mapped form; transport ports are in host order; "inside" is the container's end of a
# flow, "outside" the other end as the container sees it.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from vswitch.datapath._bucket cimport Bucket

cdef enum:
    NO_FLOW = 0xFFFFFFFF
    FINE_SLOTS = 256        # of FINE_NS each: retransmissions, delayed work
    COARSE_SLOTS = 512      # of COARSE_NS each: idle timeouts; what is due later goes round again
    FINE_NS = 8000000
    COARSE_NS = 1000000000
    TIMERS_PER_TURN = 256   # flows looked at in one turn: the rest waits until the frames had theirs
    MAX_HOLD = 8            # a container may hold this many times what is still free

cdef enum Direction:
    FLOW_OUT = 1            # opened by the container
    FLOW_IN = 2             # opened from outside, through a published port

cdef enum Verdict:
    VERDICT_SOCKET = 1      # handed to a host socket: the rootless way out

cdef struct Tcp:            # what the translator knows of a TCP connection with a container
    uint8_t state           # TcpState in _tcp.pxd
    uint8_t partly          # the host socket's oldest buffer may be partly discarded
    uint16_t marks          # TcpMark in _tcp.pxd
    uint8_t peer_scale      # shift of the windows that the container announces
    uint8_t own_scale       # shift of the windows that we announce
    uint8_t duplicates      # duplicate acknowledgements in a row
    uint8_t backoff         # retransmissions of the same byte so far
    uint16_t mss            # largest segment the container takes
    uint32_t rcv_nxt        # next byte wanted from the container
    uint32_t rcv_edge       # right edge of the window offered; never moves left
    uint32_t acknowledged   # rcv_nxt as last told to the container
    uint32_t irs            # the container's initial sequence number
    uint32_t snd_una        # oldest byte that the container has not acknowledged
    uint32_t snd_nxt        # next byte for the container
    uint32_t snd_max        # highest snd_nxt so far: below it everything is a retransmission
    uint32_t snd_window     # what the container takes beyond snd_una, in bytes
    uint32_t window_seq     # segment that said so (RFC 9293 SND.WL1, SND.WL2)
    uint32_t window_ack
    uint32_t recover        # recovery ends when the container acknowledges this (RFC 6582)
    uint32_t timed_seq      # the segment that is being timed ends here
    uint64_t timed_ns       # when it left; 0 for none
    uint32_t srtt_us        # RFC 6298
    uint32_t rttvar_us
    uint32_t rto_us
    uint32_t consumed       # bytes below this were taken out of the host socket for good
    uint32_t granted        # size of the window last offered, bytes
    uint32_t first_held     # pool chunks that the host socket did not take yet
    uint32_t last_held
    uint32_t held_bytes
    uint32_t first_kept     # pool chunks that the container has not acknowledged, where the socket can't be peeked at
    uint32_t last_kept

cdef struct Flow:
    uint8_t inside[16]
    uint8_t outside[16]
    uint8_t target[16]      # whom the host socket is connected to: `outside`, or the loopback that it stands for
    uint16_t inside_port    # ICMP echo: the identifier
    uint16_t outside_port   # ICMP echo: 0
    uint16_t network        # the zone
    uint16_t port           # the container's switch port
    uint8_t protocol        # IPPROTO_TCP, _UDP, _ICMP, _ICMPV6
    uint8_t ipv6
    uint8_t direction
    uint8_t verdict
    uint8_t used
    uint8_t assured         # seen in both directions: not dropped early
    uint8_t runnable        # is on the run queue
    uint8_t service         # TCP: its host socket is one end of a pair, control has the other
    uint8_t mac[6]          # the container's
    uint32_t generation     # of the entry, so that a late event for an earlier flow is told apart
    int32_t fd              # its own host socket, -1 for none (UDP and ping flows use their mapping's)
    uint32_t number         # its own index in Nat.flows
    uint32_t next_run       # run queue
    uint32_t previous_run
    uint32_t next_mine      # the container's flows
    uint32_t previous_mine
    uint32_t next_loose     # the container's unassured flows, the oldest first
    uint32_t previous_loose
    uint32_t next_due       # timer slot
    uint32_t previous_due
    uint32_t slot           # timer slot it is in, 0 for none
    uint32_t mapping        # UDP and ping: number of its mapping (_udp.pxd)
    uint32_t next_mapped    # the mapping's flows
    uint32_t previous_mapped
    uint64_t due_ns         # when its timer rings; may lie later than its slot says
    uint64_t rings_ns       # when its slot is served
    uint64_t opened_ns
    uint64_t seen_ns        # last packet in either direction
    uint64_t out_bytes      # payload, from the container
    uint64_t in_bytes
    uint64_t out_packets
    uint64_t in_packets
    Tcp tcp

cdef struct Share:          # what one container holds of that which all share; lies in its Port
    uint32_t flows
    uint32_t descriptors
    uint32_t half_open      # TCP flows that are not established yet
    uint32_t first          # its flows
    uint32_t oldest         # its unassured flows
    uint32_t newest
    uint32_t chunks         # of the pool
    uint32_t pumped         # work done for what comes in from the host in this turn of the dataplane
    uint64_t pumped_turn
    Bucket complaints       # ICMP errors that it is sent
    uint64_t dialer_until_ns    # a connect() of its was slow: until then the dialer makes them

cdef struct Timeouts:       # seconds
    uint32_t tcp_opening
    uint32_t tcp_established
    uint32_t tcp_closing
    uint32_t tcp_time_wait
    uint32_t udp
    uint32_t udp_stream     # seen in both directions
    uint32_t dns            # UDP to port 53
    uint32_t icmp

cdef struct Conntrack:
    Flow *flows
    uint32_t *slots         # flow number + 1, 0 for empty
    uint32_t slot_mask
    uint32_t capacity
    uint32_t used
    uint32_t untouched
    uint32_t spare          # number + 1 of an entry given back, 0 for none
    uint64_t seed
    uint32_t wheel[FINE_SLOTS + COARSE_SLOTS + 1]   # first flow of each timer slot; slot 0 is none
    uint64_t fine_at        # ticks of FINE_NS that have been served
    uint64_t coarse_at
    uint32_t fine_used      # flows in fine slots
    uint32_t coarse_used
    uint32_t descriptors    # host sockets of all flows and mappings
    uint32_t descriptor_limit
    uint32_t taken          # of the limit, by ports and listeners
    uint32_t first_run      # flows with work left over
    uint32_t last_run
    Timeouts timeouts

cdef bint conntrack_open(Conntrack *table, uint32_t capacity, uint32_t descriptor_limit, uint64_t seed) noexcept nogil
cdef void conntrack_close(Conntrack *table) noexcept nogil
cdef Flow *flow_find(const Conntrack *table, uint16_t network, uint8_t protocol, const uint8_t *inside, uint16_t inside_port, const uint8_t *outside, uint16_t outside_port) noexcept nogil
cdef bint may_hold(uint32_t held, uint32_t used, uint32_t limit) noexcept nogil
cdef bint may_open(const Conntrack *table, const Share *share) noexcept nogil
cdef Flow *flow_add(Conntrack *table, Share *share, uint16_t network, uint8_t protocol, const uint8_t *inside, uint16_t inside_port, const uint8_t *outside, uint16_t outside_port) noexcept nogil
cdef void flow_remove(Conntrack *table, Share *share, Flow *flow) noexcept nogil
cdef void flow_assure(Conntrack *table, Share *share, Flow *flow) noexcept nogil
cdef void flow_loosen(Conntrack *table, Share *share, Flow *flow) noexcept nogil
cdef void flow_touch(Conntrack *table, Share *share, Flow *flow) noexcept nogil
cdef void flow_due(Conntrack *table, Flow *flow, uint64_t due_ns, uint64_t now_ns) noexcept nogil
cdef void flow_undue(Conntrack *table, Flow *flow) noexcept nogil
cdef Flow *flow_next_due(Conntrack *table, uint64_t now_ns, uint32_t *left) noexcept nogil
cdef int64_t conntrack_patience_ns(const Conntrack *table, uint64_t now_ns) noexcept nogil
cdef void flow_run(Conntrack *table, Flow *flow) noexcept nogil
cdef Flow *flow_next_run(Conntrack *table) noexcept nogil
