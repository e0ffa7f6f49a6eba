# SPDX-License-Identifier: Apache-2.0
"""What control says about the world outside the networks: ways out, subnets of ours, the host's addresses, published ports, flows to end."""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from vswitch._fastpath cimport (
    OP_FLOW_KILL, OP_FLOW_WATCH, OP_HOST_ADDRESSES, OP_LISTEN, OP_OWN_SUBNETS, OP_UNLISTEN, OP_WAY_OUT, Command, Op,
)
from vswitch.datapath._poster cimport blank
from vswitch.nat._addresses cimport make_prefixes
from vswitch.nat._nat cimport Listener, WayOut
from vswitch.nat.listeners cimport ListenerGroup


@cython.no_gc       # as Dataplane, which it is part of
cdef class Outside(Poster):
    """Commands about translation; every one returns a ticket, or None when the ring is full."""

    def post_way_out(self, uint16_t index, *, bint open, bint host_loopback=False, bint endpoint_filtering=False, bytes source4=None,
                     bytes source6=None, bytes device=b""):
        """How packets leave a network: not at all unless `open`; from `source4`/`source6` or through `device` where given."""
        cdef Command command = blank()
        cdef WayOut *way = <WayOut *>calloc(1, sizeof(WayOut))
        if index not in self.networks or len(device) > 15 or len(source4 or b"1234") != 4 or len(source6 or bytes(16)) != 16:
            free(way)
            raise ValueError("no such network, or no valid address or device")
        if way == NULL:
            raise MemoryError("no memory for a network's way out")
        way.open, way.host_loopback, way.endpoint_filtering = open, host_loopback, endpoint_filtering
        memcpy(way.device, <const char *>device, len(device))
        if source4:
            way.has_source4 = 1
            memcpy(way.source4, <const uint8_t *>source4, 4)
        if source6:
            way.has_source6 = 1
            memcpy(way.source6, <const uint8_t *>source6, 16)
        command.op, command.index, command.pointer = OP_WAY_OUT, index, way
        return self.bequeath(&command, <uintptr_t>way)

    def post_own_subnets(self, list subnets not None):
        """All subnets of all networks, as (address, bits): 16 bytes each, IPv4 mapped."""
        cdef uint32_t count = 0
        cdef uintptr_t table = <uintptr_t>make_prefixes(subnets, &count)
        ticket = self.exchange(OP_OWN_SUBNETS, table, count, self.own)
        if ticket is not None:
            self.own = table
        return ticket

    def post_host_addresses(self, list addresses not None):
        """The host's own addresses, 16 bytes each: whoever connects from one of them appears as the gateway."""
        cdef uint32_t count = 0
        cdef uintptr_t table = <uintptr_t>make_prefixes([(address, 128) for address in addresses], &count)
        ticket = self.exchange(OP_HOST_ADDRESSES, table, count, self.host_addresses)
        if ticket is not None:
            self.host_addresses = table
        return ticket

    cdef object exchange(self, Op op, uintptr_t table, uint32_t count, uintptr_t earlier):
        """Has the dataplane use another table; the earlier one is freed when it does, this one if it never will."""
        cdef Command command = blank()
        command.op, command.pointer, command.value = op, <void *>table, count
        ticket = self.post(&command)
        if ticket is None:
            free(<void *>table)
        else:
            self.graves.append((ticket, earlier))
        return ticket

    def post_listen(self, ListenerGroup group not None, uint16_t first, *, uint16_t network, uint16_t port, bytes address4=None,
                    bytes address6=None):
        """Starts to accept on a group's sockets, as listeners `first` and following, for the container on `port`."""
        cdef Command command = blank()
        cdef Listener *listeners = group.describe(network, port, address4, address6)
        command.op, command.index, command.pointer, command.value = OP_LISTEN, first, listeners, group.count
        return self.bequeath(&command, <uintptr_t>listeners)

    def post_unlisten(self, uint16_t first, uint32_t count):
        """Stops accepting; afterwards the sockets may be closed."""
        cdef Command command = blank()
        command.op, command.index, command.value = OP_UNLISTEN, first, count
        return self.post(&command)

    def post_flow_kill(self, uint32_t number, uint32_t generation):
        """Ends one flow, if it is still that."""
        cdef Command command = blank()
        command.op, command.value = OP_FLOW_KILL, <uint64_t>generation << 32 | number
        return self.post(&command)

    def post_flow_watch(self, bint on):
        """Whether there is to be an event for every flow."""
        cdef Command command = blank()
        command.op, command.value = OP_FLOW_WATCH, on
        return self.post(&command)
