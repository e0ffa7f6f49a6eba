# SPDX-License-Identifier: Apache-2.0
"""What the dataplane does for control between two batches: change its tables, copy slices of them.

Enters: Commands from the command ring, in order; each is counted in `completed` when done, which is how control knows. What a command
needs memory for (a Port, a Network, a Snapshot) was allocated by control; the dataplane only links it. A network's list of ports, which
grows, is the dataplane's own. A port or network that is taken out is never touched again once its command is counted, so control may
free it.

A snapshot copies at most SNAPSHOT_ROWS table entries per batch. Rows that change meanwhile appear in their old or new state,
and an entry that lives throughout appears exactly once, because entries never move.
"""
from libc.errno cimport ENODEV, ENOMEM, ENOSPC, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset

from vswitch._fastpath cimport (
    SNAPSHOT_ROWS, OP_CAPTURE, OP_CAPTURE_PORT, OP_NEIGHBOUR_REMOVE, OP_NEIGHBOUR_SET,
    OP_FLOW_KILL, OP_FLOW_WATCH, OP_HOST_ADDRESSES, OP_LISTEN, OP_OWN_SUBNETS, OP_UNLISTEN, OP_WAY_OUT,
    AUTOCONF_PREFIXES, OP_NETWORK_ADD, OP_NETWORK_DNS, OP_NETWORK_ISOLATED, OP_NETWORK_MTU, OP_NETWORK_PREFIX, OP_NETWORK_REMOVE, OP_NETWORK_ROUTER,
    OP_PORT_ADD, OP_PORT_REMOVE, OP_SNAPSHOT, OP_STOP, SNAPSHOT_FDB,
    SNAPSHOT_FLOWS, Command, FdbRow, FlowRow, NeighbourRow, Network, Port, Session, Snapshot, give_up,
)
from vswitch.arp._neighbours cimport GATEWAY_PORT, Neighbour, neighbour_find, neighbour_remove, neighbour_set, neighbours_flush
from vswitch.bridge._fdb cimport FDB_STATIC, FdbEntry, fdb_assign, fdb_flush, fdb_key, fdb_resign
from vswitch.guard._guard cimport forget_claims, port_binds, port_unbinds
from vswitch.nat._addresses cimport Prefix
from vswitch.nat._conntrack cimport Flow
from vswitch.nat._listen cimport listen_add, listen_remove
from vswitch.nat._nat cimport Listener, WayOut
from vswitch.nat._report cimport describe
from vswitch.nat._translate cimport nat_forget_port, nat_kill
from vswitch.datapath._ring cimport ring_peek, ring_release, store_release
from vswitch.datapath._waiting cimport epoll_event

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLLRDHUP, EPOLL_CTL_ADD, EPOLL_CTL_DEL
    int epoll_ctl(int poller, int op, int fd, epoll_event *event)


cdef void apply_commands(Switch *sw) noexcept nogil:
    """Carries out what control has asked for; a command that takes long goes on in the next turn, and what follows it waits."""
    cdef uint32_t length
    cdef const uint8_t *record
    while True:
        record = ring_peek(&sw.commands, &length)
        if record == NULL:
            return
        if not apply(sw, <const Command *>record):
            return
        ring_release(&sw.commands, length)
        store_release(&sw.completed, sw.completed + 1)
        sw.notify = 1


cdef bint apply(Switch *sw, const Command *command) noexcept nogil:
    """Whether it is done."""
    if command.op == OP_STOP:
        sw.stop = 1
    elif command.op == OP_NETWORK_ADD:
        sw.networks[command.index] = <Network *>command.pointer
    elif command.op == OP_NETWORK_REMOVE:
        remove_network(sw, command.index)
    elif command.op == OP_NETWORK_MTU:
        sw.networks[command.index].mtu = <uint32_t>command.value
    elif command.op == OP_NETWORK_ISOLATED:
        sw.networks[command.index].isolated = <uint8_t>command.value
    elif command.op == OP_NETWORK_ROUTER:
        sw.networks[command.index].router, sw.networks[command.index].autoconf_count = <uint8_t>command.value, 0
    elif command.op == OP_NETWORK_PREFIX:
        add_prefix(sw.networks[command.index], command.address)
    elif command.op == OP_NETWORK_DNS:
        sw.networks[command.index].dns = <uint8_t>command.value
    elif command.op == OP_PORT_ADD:
        add_port(sw, <Port *>command.pointer)
    elif command.op == OP_PORT_REMOVE:
        return remove_port(sw, command.index)
    elif command.op == OP_NEIGHBOUR_SET:
        set_neighbour(sw, command)
    elif command.op == OP_NEIGHBOUR_REMOVE:
        remove_neighbour(sw, command)
    elif command.op >= OP_WAY_OUT:
        apply_nat(sw, command)
    elif command.op == OP_SNAPSHOT:
        (<Snapshot *>command.pointer).next = sw.snapshots
        sw.snapshots = <Snapshot *>command.pointer
    elif command.op == OP_CAPTURE:
        sw.sessions[command.index] = <Session *>command.pointer
    elif command.op == OP_CAPTURE_PORT:
        if sw.ports[command.index] != NULL:
            sw.ports[command.index].captured_by = <uint8_t>command.value
    return True


cdef void apply_nat(Switch *sw, const Command *command) noexcept nogil:
    """Changes to how packets leave networks and come in; tables change hands, the earlier one is control's to free."""
    if command.op == OP_WAY_OUT:
        sw.networks[command.index].way_out = (<WayOut *>command.pointer)[0]
    elif command.op == OP_OWN_SUBNETS:
        sw.nat.own.entries, sw.nat.own.count = <Prefix *>command.pointer, <uint32_t>command.value
    elif command.op == OP_HOST_ADDRESSES:
        sw.nat.host_addresses.entries, sw.nat.host_addresses.count = <Prefix *>command.pointer, <uint32_t>command.value
    elif command.op == OP_LISTEN:
        listen_add(sw, command.index, <const Listener *>command.pointer, <uint32_t>command.value)
    elif command.op == OP_UNLISTEN:
        listen_remove(sw, command.index, <uint32_t>command.value)
    elif command.op == OP_FLOW_KILL:
        nat_kill(sw, <uint32_t>command.value, <uint32_t>(command.value >> 32))
    elif command.op == OP_FLOW_WATCH:
        sw.nat.watched = <uint8_t>command.value


cdef void add_prefix(Network *network, const uint8_t *prefix) noexcept nogil:
    """Containers may make themselves addresses in it; control gives no more than there is room for."""
    if network.autoconf_count < AUTOCONF_PREFIXES:
        memcpy(network.autoconf[network.autoconf_count], prefix, 8)
        network.autoconf_count += 1


cdef void remove_network(Switch *sw, uint16_t index) noexcept nogil:
    """Forgets a network and its bindings, which would be answered for in the next network of this index; the Network itself is control's."""
    cdef Network *network = sw.networks[index]
    neighbours_flush(&sw.neighbours, index)
    free(network.ports)
    network.ports = NULL
    sw.networks[index] = NULL


cdef void add_port(Switch *sw, Port *port) noexcept nogil:
    """Links a port into its network, gives its MAC a static entry and polls its descriptor; where that fails the port is gone at once."""
    cdef epoll_event event
    sw.ports[port.index] = port
    sw.port_count += 1
    sw.nat.conntrack.taken += 1
    if not join(sw.networks[port.network], port.index):
        give_up(sw, port, ENOMEM)
    elif port.has_mac and not fdb_assign(&sw.fdb, fdb_key(port.network, port.mac), port.index):
        give_up(sw, port, ENOSPC)
    else:
        event.events = EPOLLIN | EPOLLRDHUP
        event.data.u64 = port.index
        if epoll_ctl(sw.poller, EPOLL_CTL_ADD, port.fd, &event) < 0:
            give_up(sw, port, errno)


cdef bint join(Network *network, uint16_t index) noexcept nogil:
    """Puts a port on its network's list; False when memory is short."""
    cdef uint16_t *grown
    if network.members == network.room:
        grown = <uint16_t *>realloc(network.ports, sizeof(uint16_t) * (network.room * 2 + 8))
        if grown == NULL:
            return False
        network.ports = grown
        network.room = network.room * 2 + 8
    network.ports[network.members] = index
    network.members += 1
    return True


cdef bint remove_port(Switch *sw, uint16_t index) noexcept nogil:
    """Forgets a port and all that was known of it; its descriptor stays open, it is control's. False while it has flows left to end."""
    cdef Port *port = sw.ports[index]
    cdef Network *network
    cdef uint32_t i, kept = 0
    if port == NULL:
        return True
    if not port.gone:
        epoll_ctl(sw.poller, EPOLL_CTL_DEL, port.fd, NULL)
        port.gone = ENODEV
    if not nat_forget_port(sw, port):
        return False
    network = sw.networks[port.network]
    for i in range(network.members):
        if network.ports[i] != index:
            network.ports[kept] = network.ports[i]
            kept += 1
    network.members = kept
    fdb_flush(&sw.fdb, index)
    forget_claims(sw, port)
    if port.has_mac:
        fdb_resign(&sw.fdb, fdb_key(port.network, port.mac), index)
    sw.ports[index] = NULL
    sw.port_count -= 1
    sw.nat.conntrack.taken -= 1
    return True


cdef void set_neighbour(Switch *sw, const Command *command) noexcept nogil:
    """Adds a binding; the first IPv4 one of the gateway is the address in whose name it sends errors."""
    cdef Network *network = sw.networks[command.network]
    cdef const Neighbour *before = neighbour_find(&sw.neighbours, command.network, command.address)
    if before != NULL:
        port_unbinds(sw, before)
    if neighbour_set(&sw.neighbours, command.network, command.address, command.mac, command.index) and sw.ports[command.index] != NULL:
        port_binds(sw.ports[command.index], command.address)
    if command.index == GATEWAY_PORT and command.address[10] == 0xFF and network.gateway4[0] == 0:
        memcpy(network.gateway4, &command.address[12], 4)
    if command.index == GATEWAY_PORT and command.address[0] and command.address[0] != 0xFE and network.gateway6[0] == 0:
        memcpy(network.gateway6, command.address, 16)


cdef void remove_neighbour(Switch *sw, const Command *command) noexcept nogil:
    """Forgets a binding; errors are sent in another name from then on if it was the gateway's."""
    cdef Network *network = sw.networks[command.network]
    cdef const Neighbour *before = neighbour_find(&sw.neighbours, command.network, command.address)
    if before != NULL:
        port_unbinds(sw, before)
    neighbour_remove(&sw.neighbours, command.network, command.address)
    if command.address[10] == 0xFF and memcmp(network.gateway4, &command.address[12], 4) == 0:
        memset(network.gateway4, 0, 4)
    elif memcmp(network.gateway6, command.address, 16) == 0:
        memset(network.gateway6, 0, 16)


cdef void fill_snapshots(Switch *sw) noexcept nogil:
    """Copies the next slice for the snapshot that is being taken."""
    cdef Snapshot *snapshot = sw.snapshots
    cdef uint32_t end, total
    if snapshot == NULL:
        return
    total = (sw.fdb.untouched if snapshot.kind == SNAPSHOT_FDB else sw.nat.conntrack.untouched if snapshot.kind == SNAPSHOT_FLOWS
             else sw.neighbours.untouched)
    end = snapshot.cursor + SNAPSHOT_ROWS if total - snapshot.cursor > SNAPSHOT_ROWS else total
    while snapshot.cursor < end and snapshot.count < snapshot.capacity:
        if snapshot.kind == SNAPSHOT_FDB:
            copy_fdb_row(sw, snapshot)
        elif snapshot.kind == SNAPSHOT_FLOWS:
            copy_flow_row(sw, snapshot)
        else:
            copy_neighbour_row(sw, snapshot)
        snapshot.cursor += 1
    if snapshot.cursor >= total or snapshot.count == snapshot.capacity:
        sw.snapshots = snapshot.next
        store_release(&snapshot.done, 1)
        sw.notify = 1


cdef void copy_fdb_row(Switch *sw, Snapshot *snapshot) noexcept nogil:
    cdef const FdbEntry *entry = &sw.fdb.entries[snapshot.cursor]
    cdef FdbRow *row = <FdbRow *>snapshot.rows + snapshot.count
    cdef int i
    if not entry.used:
        return
    row.network = <uint16_t>(entry.key >> 48)
    row.port = entry.port
    for i in range(6):
        row.mac[i] = <uint8_t>(entry.key >> (40 - 8 * i))
    row.kind = entry.kind
    row.age_s = 0 if entry.kind == FDB_STATIC else <uint32_t>(sw.now_ns // 1000000000) - entry.seen_s
    snapshot.count += 1


cdef void copy_neighbour_row(Switch *sw, Snapshot *snapshot) noexcept nogil:
    cdef const Neighbour *entry = &sw.neighbours.entries[snapshot.cursor]
    cdef NeighbourRow *row = <NeighbourRow *>snapshot.rows + snapshot.count
    if not entry.used:
        return
    row.network = entry.network
    row.port = entry.port
    memcpy(row.address, entry.address, 16)
    memcpy(row.mac, entry.mac, 6)
    snapshot.count += 1


cdef void copy_flow_row(Switch *sw, Snapshot *snapshot) noexcept nogil:
    cdef const Flow *flow = &sw.nat.conntrack.flows[snapshot.cursor]
    if flow.used:
        describe(sw, flow, <FlowRow *>snapshot.rows + snapshot.count)
        snapshot.count += 1
