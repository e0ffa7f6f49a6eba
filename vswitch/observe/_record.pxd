# SPDX-License-Identifier: Apache-2.0
# The dataplane's side of a capture; the theory stands in _record.pyx.
from libc.stdint cimport uint8_t

from vswitch._fastpath cimport Frame, Port, Switch
from vswitch.datapath._drops cimport Drop

cdef void capture(Switch *sw, Port *port, Frame *frame, uint8_t direction, Drop reason) noexcept nogil
