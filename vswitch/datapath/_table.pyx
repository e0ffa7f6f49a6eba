# SPDX-License-Identifier: Apache-2.0
"""Copies of the dataplane's tables: control allocates the room, the dataplane fills it slice by slice, control reads the rows."""
from libc.stdlib cimport calloc, free

from vswitch._fastpath cimport SNAPSHOT_FDB, SNAPSHOT_FLOWS, FdbRow, NeighbourRow
from vswitch.arp._neighbours cimport GATEWAY_PORT
from vswitch.bridge._fdb cimport FDB_STATIC
from vswitch.datapath._ring cimport load_acquire


cdef class Table:
    """A copy of one of the dataplane's tables, filled slice by slice; `rows()` once `done`."""

    cdef void fill(self, uint32_t kind, uint32_t rows) except *:
        """Room for what is there now and a little growth; more rows than that are left out."""
        self.snapshot = <Snapshot *>calloc(1, sizeof(Snapshot))
        if self.snapshot == NULL:
            raise MemoryError("no memory for a snapshot")
        self.snapshot.kind = kind
        self.snapshot.capacity = rows + rows // 8 + 256
        self.snapshot.rows = calloc(self.snapshot.capacity, max(sizeof(FdbRow), sizeof(NeighbourRow), sizeof(FlowRow)))
        if self.snapshot.rows == NULL:
            raise MemoryError("no memory for a snapshot")

    def __dealloc__(self):
        if self.snapshot != NULL:
            free(self.snapshot.rows)
            free(self.snapshot)

    @property
    def done(self) -> bool:
        return load_acquire(&self.snapshot.done) == 1

    def rows(self) -> list:
        """MAC table: (network, port, mac, static, age_s); neighbours: (network, port or None for the gateway, address, mac); flows: the
        fields of plane.FlowRow in their order, numbers for protocol, direction and state."""
        cdef uint32_t i
        cdef const FdbRow *fdb = <const FdbRow *>self.snapshot.rows
        cdef const NeighbourRow *neighbour = <const NeighbourRow *>self.snapshot.rows
        cdef const FlowRow *flow = <const FlowRow *>self.snapshot.rows
        if not self.done:
            raise RuntimeError("the snapshot is still being taken")
        if self.snapshot.kind == SNAPSHOT_FDB:
            return [(fdb[i].network, fdb[i].port, (<const char *>fdb[i].mac)[:6], fdb[i].kind == FDB_STATIC, fdb[i].age_s)
                    for i in range(self.snapshot.count)]
        if self.snapshot.kind == SNAPSHOT_FLOWS:
            return [flow_row(&flow[i]) for i in range(self.snapshot.count)]
        return [neighbour_row(&neighbour[i]) for i in range(self.snapshot.count)]


cdef tuple neighbour_row(const NeighbourRow *row):
    cdef bytes address = (<const char *>row.address)[:16]
    if address[:12] == b"\0" * 10 + b"\xff\xff":
        address = address[12:]
    return row.network, None if row.port == GATEWAY_PORT else row.port, address, (<const char *>row.mac)[:6]


cdef tuple flow_row(const FlowRow *row):
    return (row.network, row.port, row.protocol, row.direction, row.state, (<const char *>row.inside)[:16], row.inside_port,
            (<const char *>row.outside)[:16], row.outside_port, (<const char *>row.target)[:16], row.out_bytes, row.in_bytes,
            row.out_packets, row.in_packets, row.age_ns / 1e9, row.idle_ns / 1e9, row.number, row.generation)
