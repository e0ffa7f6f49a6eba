# SPDX-License-Identifier: Apache-2.0
# Flows as control is shown them.
from vswitch._fastpath cimport FlowRow, Switch
from vswitch.nat._conntrack cimport Flow

cdef void describe(const Switch *sw, const Flow *flow, FlowRow *row) noexcept nogil
cdef void report_opened(Switch *sw, const Flow *flow) noexcept nogil
cdef void report_closed(Switch *sw, const Flow *flow) noexcept nogil
