# SPDX-License-Identifier: Apache-2.0
# Copies of the dataplane's tables for control.
from libc.stdint cimport uint32_t

from vswitch._fastpath cimport FlowRow, Snapshot

cdef class Table:
    cdef Snapshot *snapshot
    cdef void fill(self, uint32_t kind, uint32_t rows) except *

cdef tuple flow_row(const FlowRow *row)
