# SPDX-License-Identifier: Apache-2.0
"""The dataplane as Python holds it: commands out, rings drained, counters read, the thread entered.

A Dataplane is used by one control thread; `run()` is entered by another and stays there without the GIL until `post_stop()`.
Instead of a thread, `step(now_ns)` runs turns by hand with a given clock, so that tests and replays are deterministic.

Every post_…() returns a ticket, a number that `completed` reaches when the dataplane has carried the command out; None means that
the command ring is full and nothing was asked. A port's or network's memory is freed once its removal was carried out. The descriptors
of ports are never closed here.
"""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.unistd cimport read, write

from vswitch._fastpath cimport (
    AUTOCONF_PREFIXES, EVENT_FLOW_OPENED, EVENT_PORT_GONE, HOLDS_IPV4, HOLDS_IPV6, MAX_NETWORKS, MAX_PORTS, MAX_SESSIONS, OP_CAPTURE,
    OP_CAPTURE_PORT, OP_NEIGHBOUR_REMOVE, OP_NEIGHBOUR_SET, OP_NETWORK_ADD, OP_NETWORK_DNS, OP_NETWORK_ISOLATED, OP_NETWORK_MTU, OP_NETWORK_PREFIX,
    OP_NETWORK_REMOVE, OP_NETWORK_ROUTER, OP_POKE, OP_PORT_ADD, OP_PORT_REMOVE, OP_SNAPSHOT, OP_STOP,
    PORT_PACKET, PORT_TAP, PUNT_BYTES, SNAPSHOT_FDB, SNAPSHOT_FLOWS, SNAPSHOT_NEIGHBOURS, TO_NETWORK, TO_PORT, Allowance, Command,
    Counters, Event, FlowEvent, InjectHeader, Network, Port, PuntHeader, switch_close, switch_open, switch_run, switch_turn,
)
from vswitch.arp._neighbours cimport GATEWAY_PORT
from vswitch.datapath._commands cimport apply_commands
from vswitch.datapath._drops cimport Drop
from vswitch.datapath._outside cimport Outside
from vswitch.datapath._poster cimport blank
from vswitch.datapath._ring cimport (
    load_acquire, load_relaxed, ring_commit, ring_empty, ring_peek, ring_release, ring_reserve, swap32,
)
from vswitch.datapath._table cimport Table, flow_row
from vswitch.nat._dialer cimport dialer_run, dialer_wake

from vswitch.datapath._drops import NAMES

cdef extern from *:
    """
    #include <sys/socket.h>
    #ifndef SO_PASSRIGHTS
    #define SO_PASSRIGHTS 83
    #endif
    """
    enum: SOL_SOCKET, SO_PASSRIGHTS
    int setsockopt(int fd, int level, int option, const void *value, unsigned int length)

NOBODY = GATEWAY_PORT
TIMEOUTS = {            # seconds; RFC 5382 asks for two hours and four minutes of an established connection
    "tcp_opening": 60, "tcp_established": 7440, "tcp_closing": 240, "tcp_time_wait": 60, "udp": 30, "udp_stream": 180, "dns": 15,
    "icmp": 60,
}
MAX_LIMIT = 1 << 24         # of table rows and seconds: far beyond use, and nothing overflows


cdef dict counters_of(const Counters *counters):
    """All counters by name; `drops` holds the reasons that occurred."""
    cdef int reason
    cdef uint64_t count
    cdef dict drops = {}
    for reason in range(1, <int>Drop.DROP_COUNT):
        count = load_relaxed(&counters.drops[reason])
        if count:
            drops[NAMES[reason - 1]] = count
    return {
        "rx_frames": load_relaxed(&counters.rx_frames), "rx_bytes": load_relaxed(&counters.rx_bytes),
        "rx_segments": load_relaxed(&counters.rx_segments), "rx_wire_bytes": load_relaxed(&counters.rx_wire_bytes),
        "tx_frames": load_relaxed(&counters.tx_frames), "tx_bytes": load_relaxed(&counters.tx_bytes),
        "tx_segments": load_relaxed(&counters.tx_segments), "tx_wire_bytes": load_relaxed(&counters.tx_wire_bytes),
        "answered": load_relaxed(&counters.answered), "punted": load_relaxed(&counters.punted),
        "translated": load_relaxed(&counters.translated), "drops": drops,
    }


cdef void refuse_descriptors(const Port *port) noexcept:
    """Forbids a packet port's peer to send descriptors along (since Linux 6.16): whoever receives them closes them, and closing a
    socket that lingers takes as long as the peer likes."""
    cdef int no = 0
    if port.kind == PORT_PACKET:
        setsockopt(port.fd, SOL_SOCKET, SO_PASSRIGHTS, &no, sizeof(no))


cdef int note_own(Port *port, bytes address) except -1:
    """An address that is bound to a port before it is there; from one on the port is held to its addresses of both IP versions."""
    if len(address) not in (4, 16):
        raise ValueError("an address has 4 or 16 bytes")
    port.holds = HOLDS_IPV4 | HOLDS_IPV6
    if len(address) == 4 and port.own4[0] == 0:
        memcpy(port.own4, <const uint8_t *>address, 4)
    elif len(address) == 16 and port.own6[0] == 0:
        memcpy(port.own6, <const uint8_t *>address, 16)
    return 0


@cython.no_gc       # it is in no cycle, and the collector must not empty its lists before __dealloc__, which needs them
cdef class Dataplane(Outside):
    cdef bint running
    cdef uint64_t events_lost       # when events() looked last

    def __cinit__(self, *, uint32_t mac_capacity=65536, uint32_t mac_share=1024, uint32_t neighbour_capacity=131072, uint64_t seed=0,
                  uint32_t age_s=300, uint32_t max_flows=65536, uint32_t max_descriptors=1024, uint32_t busy_poll_us=0,
                  dict nat_timeouts=None, disabled=()):
        """A switch with empty tables; `seed` makes its hashes unpredictable, `age_s` is how long a silent MAC is remembered,
        `busy_poll_us` for how long at most it stays awake before it sleeps,
        `nat_timeouts` are seconds by the names of nat._conntrack's Timeouts, `disabled` kernel features not to use: peek_off, udp_gso,
        udp_gro."""
        for limit in (mac_capacity, mac_share, neighbour_capacity, age_s, max_flows, max_descriptors):
            if not 1 <= limit <= MAX_LIMIT:
                raise ValueError(f"capacities and ages are at least 1 and at most {MAX_LIMIT}")
        self.sw = switch_open(mac_capacity, mac_share, neighbour_capacity, max_flows, max_descriptors, seed)
        if self.sw == NULL:
            raise MemoryError("no memory or descriptors for a dataplane")
        self.sw.age_s = age_s
        self.sw.waiting.limit_ns = busy_poll_us * <uint64_t>1000
        self.sw.nat.conntrack.timeouts = {**TIMEOUTS, **(nat_timeouts or {})}
        if "peek_off" in disabled:
            self.sw.nat.peek4 = self.sw.nat.peek6 = 0
        if "udp_gso" in disabled:
            self.sw.nat.gso = 0
        if "udp_gro" in disabled:
            self.sw.nat.gro = 0

    def __dealloc__(self):
        if self.sw != NULL:
            apply_commands(self.sw)
            for address in self.ports.values():
                free(self.disallow(<Port *><uintptr_t>address))
            for _, address in self.graves:
                free(<void *><uintptr_t>address)
            switch_close(self.sw)

    # ---- running

    def run(self) -> None:
        """The dataplane thread: returns after post_stop(). dial() should run in another; until it does, connections are made here."""
        if self.running:
            raise RuntimeError("the dataplane runs in a thread already")
        self.running = True
        try:
            with nogil:
                switch_run(self.sw)
        finally:
            self.running = False

    def dial(self) -> None:
        """The dialer's thread, which makes and closes host sockets: start it before run(); it returns after post_stop()."""
        self.sw.nat.dial_inline = 0
        with nogil:
            dialer_run(self.sw)

    def wake_dialer(self) -> None:
        """So that it sees that the switch has stopped."""
        dialer_wake(self.sw)

    def step(self, uint64_t now_ns, uint64_t epoch_ns=0) -> int:
        """Turns by hand at `now_ns` until nothing is ready; returns how many port turns it took. `epoch_ns` is added for capture stamps."""
        cdef int total = 0, served = 1
        if self.running:
            raise RuntimeError("the dataplane runs in a thread of its own")
        self.sw.stepped, self.sw.now_ns, self.sw.realtime_ns = 1, now_ns, epoch_ns
        with nogil:
            while served or self.sw.snapshots != NULL or not ring_empty(&self.sw.inject) or not ring_empty(&self.sw.commands):
                served = switch_turn(self.sw, 0)
                total += served
        self.sw.stepped = 0
        return total

    @property
    def notify_fd(self) -> int:
        """An eventfd: readable when commands were completed, or punts, events or snapshots are waiting."""
        return self.sw.notify_fd

    def listen(self) -> None:
        """Asks to be notified again; call it before draining."""
        cdef uint64_t count
        read(self.sw.notify_fd, &count, 8)
        swap32(&self.sw.notify_wanted, 1)

    @property
    def completed(self) -> int:
        """How many commands the dataplane has carried out."""
        return load_acquire(&self.sw.completed)

    # ---- commands

    def post_poke(self):
        """Asks for nothing but an answer."""
        cdef Command command = blank()
        command.op = OP_POKE
        return self.post(&command)

    def post_stop(self):
        """Ends run()."""
        cdef Command command = blank()
        command.op = OP_STOP
        return self.post(&command)

    def post_network_add(self, uint16_t index, *, uint32_t mtu, bytes gateway_mac not None, bint dhcp):
        """A new broadcast domain; `dhcp` sends its DHCP questions to control."""
        cdef Command command = blank()
        cdef Network *network
        if index >= MAX_NETWORKS or index in self.networks or len(gateway_mac) != 6 or not 68 <= mtu <= 65535:
            raise ValueError("index taken or out of range, or no valid MAC or MTU")
        network = <Network *>calloc(1, sizeof(Network))
        if network == NULL:
            raise MemoryError("no memory for a network")
        network.index, network.dhcp, network.mtu = index, dhcp, mtu
        memcpy(network.gateway_mac, <const uint8_t *>gateway_mac, 6)
        command.op, command.index, command.pointer = OP_NETWORK_ADD, index, network
        ticket = self.post(&command)
        if ticket is None:
            free(network)
        else:
            self.networks[index] = <uintptr_t>network
        return ticket

    def post_network_remove(self, uint16_t index):
        """Forgets a network that has no ports left, and its neighbours."""
        cdef Command command = blank()
        cdef uintptr_t network = self.networks[index]
        for port in self.ports.values():
            if (<Port *><uintptr_t>port).network == index:
                raise ValueError("the network still has ports")
        command.op, command.index = OP_NETWORK_REMOVE, index
        ticket = self.post(&command)
        if ticket is not None:
            del self.networks[index]
            self.graves.append((ticket, network))
        return ticket

    def post_network_mtu(self, uint16_t index, uint32_t mtu):
        """Changes the longest packet that a network carries (bytes, IP header on)."""
        if not 68 <= mtu <= 65535:
            raise ValueError("no valid MTU")
        return self.tell_network(OP_NETWORK_MTU, index, mtu)

    cdef tell_network(self, int op, uint16_t index, uint32_t value):
        cdef Command command = blank()
        if index not in self.networks:
            raise ValueError("no such network")
        command.op, command.index, command.value = op, index, value
        return self.post(&command)

    def post_network_isolated(self, uint16_t index, bint isolated):
        """Whether a network's ports speak with its gateway only."""
        return self.tell_network(OP_NETWORK_ISOLATED, index, isolated)

    def post_network_router(self, uint16_t index, bint on):
        """Whether router solicitations and DHCPv6 questions go to control; prefixes for autoconfiguration are forgotten."""
        return self.tell_network(OP_NETWORK_ROUTER, index, on)

    def post_network_prefix(self, uint16_t index, bytes prefix not None):
        """A further /64 (its 8 bytes) in which containers may make themselves addresses; AUTOCONF_PREFIXES at most."""
        cdef Command command = blank()
        if index not in self.networks or len(prefix) != 8:
            raise ValueError("no such network, or not the 8 bytes of a /64")
        command.op, command.index = OP_NETWORK_PREFIX, index
        memcpy(command.address, <const uint8_t *>prefix, 8)
        return self.post(&command)

    def post_network_dns(self, uint16_t index, bint served):
        """Whether control answers port 53 of a network's gateway: UDP by punts, TCP by EVENT_SERVICE."""
        return self.tell_network(OP_NETWORK_DNS, index, served)

    def post_port_add(self, uint16_t index, int fd, uint16_t network, *, str kind, bint vnet_header, uint8_t gso, bytes mac=None,
                      bint guard=True, addresses=(), bint shared=True, sibling=None):
        """A descriptor becomes a port; `gso` is the mask of super-frames it takes (1 TCPv4, 2 TCPv6, 4 UDP), `mac` its assigned address.

        `addresses` (4 or 16 bytes) are those that are bound to it already: the guard holds it to them from its first frame on. `shared` False says that nobody else holds the descriptor's open file, and that it is non-blocking.
        `sibling` is another port of the same container: what may be asked on one of them may not be asked on the other once more.
        """
        cdef Command command = blank()
        cdef Port *port
        if index >= MAX_PORTS or index in self.ports or network not in self.networks:
            raise ValueError("port index taken or out of range, or no such network")
        if kind not in ("tap", "packet") or (mac is not None and len(mac) != 6):
            raise ValueError("kind is 'tap' or 'packet', a MAC has 6 bytes")
        port = <Port *>calloc(1, sizeof(Port))
        if port == NULL or not self.allow(port, sibling):
            free(port)
            raise MemoryError("no memory for a port")
        port.fd, port.index, port.network, port.vnet, port.gso, port.guard = fd, index, network, vnet_header, gso, guard
        for address in addresses:
            note_own(port, address)
        port.kind = PORT_TAP if kind == "tap" else PORT_PACKET
        port.shared = port.nowait = shared and port.kind == PORT_TAP
        if mac is not None:
            port.has_mac = 1
            memcpy(port.mac, <const uint8_t *>mac, 6)
        command.op, command.index, command.pointer = OP_PORT_ADD, index, port
        ticket = self.post(&command)
        if ticket is None:
            free(self.disallow(port))
            free(port)
        else:
            self.ports[index] = <uintptr_t>port
            refuse_descriptors(port)
        return ticket

    def post_port_remove(self, uint16_t index):
        """Takes a port out; once the ticket is completed its descriptor may be closed."""
        cdef Command command = blank()
        cdef uintptr_t port = self.ports[index]
        command.op, command.index = OP_PORT_REMOVE, index
        ticket = self.post(&command)
        if ticket is not None:
            del self.ports[index]
            self.graves += [(ticket, <uintptr_t>self.disallow(<Port *>port)), (ticket, port)]
        return ticket

    cdef bint allow(self, Port *port, sibling):
        """Gives a port its allowance; False when memory is short."""
        if sibling in self.ports:
            port.allowance = (<Port *><uintptr_t>self.ports[sibling]).allowance
        else:
            port.allowance = <Allowance *>calloc(1, sizeof(Allowance))
        if port.allowance != NULL:
            port.allowance.ports += 1
        return port.allowance != NULL

    cdef Allowance *disallow(self, Port *port):
        """Takes it back; returns what nobody has any more, or NULL."""
        port.allowance.ports -= 1
        return NULL if port.allowance.ports else port.allowance

    def post_neighbour(self, uint16_t network, bytes address not None, bytes mac, uint16_t port=GATEWAY_PORT):
        """Binds an IP address (4 or 16 bytes) to a MAC and port, NOBODY for the gateway's own; with `mac` None forgets the binding."""
        cdef Command command = blank()
        if network not in self.networks or len(address) not in (4, 16) or (mac is not None and len(mac) != 6):
            raise ValueError("no such network, or no valid address or MAC")
        if mac is not None and self.sw.neighbours.used + self.posted - load_acquire(&self.sw.completed) >= self.sw.neighbours.capacity:
            raise LookupError(f"the neighbour table is full: {self.sw.neighbours.capacity} addresses are the most there can be")
        command.op = OP_NEIGHBOUR_REMOVE if mac is None else OP_NEIGHBOUR_SET
        command.network, command.index = network, port
        if len(address) == 4:
            address = b"\0" * 10 + b"\xff\xff" + address
        memcpy(command.address, <const uint8_t *>address, 16)
        if mac is not None:
            memcpy(command.mac, <const uint8_t *>mac, 6)
        return self.post(&command)

    def post_capture(self, uint16_t slot, uintptr_t session):
        """Gives capture `slot` its session (an address that lives until the slot was cleared), 0 to clear it."""
        cdef Command command = blank()
        if slot >= MAX_SESSIONS:
            raise ValueError("no such capture slot")
        command.op, command.index, command.pointer = OP_CAPTURE, slot, <void *>session
        return self.post(&command)

    def post_capture_port(self, uint16_t index, uint8_t mask):
        """Which capture slots (bit mask) see a port's frames."""
        cdef Command command = blank()
        command.op, command.index, command.value = OP_CAPTURE_PORT, index, mask
        return self.post(&command)

    def post_snapshot(self, str what not None):
        """Asks for a copy of a table, 'fdb', 'neighbours' or 'flows': (ticket, Table), or None when the ring is full."""
        cdef Command command = blank()
        cdef Table table = Table.__new__(Table)
        if what == "fdb":
            table.fill(SNAPSHOT_FDB, self.sw.fdb.used)
        elif what == "flows":
            table.fill(SNAPSHOT_FLOWS, self.sw.nat.conntrack.used)
        else:
            table.fill(SNAPSHOT_NEIGHBOURS, self.sw.neighbours.used)
        command.op, command.pointer = OP_SNAPSHOT, table.snapshot
        ticket = self.post(&command)
        if ticket is None:
            return None
        self.tables.append(table)
        return ticket, table

    # ---- frames

    def inject(self, bytes frame not None, uint16_t network, *, uint16_t port=GATEWAY_PORT, bint flood=False) -> bool:
        """Sends a complete frame to `port`, or with `flood` to all of `network` but `port`; False when the ring is full."""
        cdef uint8_t *record
        cdef InjectHeader *header
        cdef uint64_t one = 1
        if not 14 <= len(frame) <= PUNT_BYTES:
            raise ValueError("an injected frame has 14 to 2048 bytes")
        record = ring_reserve(&self.sw.inject, sizeof(InjectHeader) + <uint32_t>len(frame))
        if record == NULL:
            return False
        header = <InjectHeader *>record
        header.network, header.port, header.how = network, port, TO_NETWORK if flood else TO_PORT
        memcpy(record + sizeof(InjectHeader), <const uint8_t *>frame, len(frame))
        ring_commit(&self.sw.inject, sizeof(InjectHeader) + <uint32_t>len(frame))
        write(self.sw.wake_fd, &one, 8)
        return True

    def punts(self, int most=64) -> list:
        """Frames for control, oldest first: (kind, network, port, frame, time_ns)."""
        cdef uint32_t length
        cdef const uint8_t *record
        cdef const PuntHeader *header
        cdef list found = []
        while len(found) < most:
            record = ring_peek(&self.sw.punt, &length)
            if record == NULL:
                break
            header = <const PuntHeader *>record
            found.append((header.kind, header.network, header.port,
                          (<const char *>record)[sizeof(PuntHeader):length], header.time_ns))
            ring_release(&self.sw.punt, length)
        return found

    def events(self) -> list:
        """What happened of itself: (kind, network, port, errno, flow); `flow` as in Table.rows() where it is about one, else None.
        EVENT_SERVICE has a descriptor in the place of errno, which is the caller's. Where the ring was full meanwhile, ports that are gone
        and could not say so are told of too."""
        cdef uint32_t length
        cdef const Event *event
        cdef list found = []
        cdef uint64_t lost = load_relaxed(&self.sw.events.dropped)
        while True:
            event = <const Event *>ring_peek(&self.sw.events, &length)
            if event == NULL:
                break
            flow = None
            if event.kind >= EVENT_FLOW_OPENED:
                flow = flow_row(&(<const FlowEvent *>event).row)
            if event.kind != EVENT_PORT_GONE:
                found.append((event.kind, event.network, event.port, event.error, flow))
            elif event.port in self.ports:
                self.tell_gone(<Port *><uintptr_t>self.ports[event.port], found)
            ring_release(&self.sw.events, length)
        if lost != self.events_lost:
            self.events_lost = lost
            for port in self.ports.values():
                if (<Port *><uintptr_t>port).gone:
                    self.tell_gone(<Port *><uintptr_t>port, found)
        return found

    cdef tell_gone(self, Port *port, list found):
        """Once for each port."""
        if not port.told:
            port.told = 1
            found.append((EVENT_PORT_GONE, port.network, port.index, port.gone, None))

    # ---- counters

    def port_counters(self, uint16_t index) -> dict:
        """The counters of one port."""
        return counters_of(&(<Port *><uintptr_t>self.ports[index]).counters)

    def network_drops(self, uint16_t index) -> dict:
        """Drops of one network by reason, those at ports that have gone included."""
        cdef Network *network = <Network *><uintptr_t>self.networks[index]
        cdef int reason
        return {NAMES[reason - 1]: load_relaxed(&network.drops[reason])
                for reason in range(1, <int>Drop.DROP_COUNT) if load_relaxed(&network.drops[reason])}

    def totals(self) -> dict:
        """Wake-ups, waits that ended awake, rests beside a flood; table sizes and capacities, ring losses."""
        return {
            "wakeups": load_relaxed(&self.sw.wakeups),
            "busy_polls": load_relaxed(&self.sw.waiting.busy_polls), "rests": load_relaxed(&self.sw.waiting.rests),
            "ports": self.sw.port_count, "port_capacity": MAX_PORTS,
            "networks": len(self.networks), "network_capacity": MAX_NETWORKS,
            "fdb_entries": self.sw.fdb.used, "fdb_capacity": self.sw.fdb.capacity, "fdb_port_share": self.sw.fdb.share,
            "fdb_moves": load_relaxed(&self.sw.fdb.moves), "fdb_evictions": load_relaxed(&self.sw.fdb.evictions),
            "neighbours": self.sw.neighbours.used, "neighbour_capacity": self.sw.neighbours.capacity,
            "punts_lost": load_relaxed(&self.sw.punt.dropped), "events_lost": load_relaxed(&self.sw.events.dropped),
            "flows": self.sw.nat.conntrack.used, "flow_capacity": self.sw.nat.conntrack.capacity,
            "descriptors": self.sw.nat.conntrack.descriptors, "descriptor_capacity": self.sw.nat.conntrack.descriptor_limit,
        }
