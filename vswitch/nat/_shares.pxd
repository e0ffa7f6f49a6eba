# SPDX-License-Identifier: Apache-2.0
# What a container may have of that which all share; the theory stands in _shares.pyx.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vswitch._fastpath cimport Port, Switch
from vswitch.datapath._bucket cimport take
from vswitch.datapath._waiting cimport FRAME_WORK
from vswitch.nat._conntrack cimport Flow

cdef enum:
    PUMP_BYTES = 524288     # read from host sockets for one container per turn of the dataplane
    PUMP_COST = 4096        # what a read counts beside its bytes
    CALL_BURST = 128        # connections to control that a container may open at once,
    CALLS_PER_S = 1000      # and per second after that: each is some 40 us of Python's time

cdef inline bint may_pump(Switch *sw, Port *port) noexcept nogil:
    """Whether more may be read for the container in this turn."""
    if port.share.pumped_turn != sw.turns:
        port.share.pumped_turn = sw.turns
        port.share.pumped = 0
    return port.share.pumped < PUMP_BYTES

cdef inline bint may_call(Switch *sw, Port *port) noexcept nogil:
    """Whether it may open another connection to control, which has to look at each, as it has at each question over UDP."""
    return take(&port.allowance.calls, sw.now_ns, CALL_BURST, CALLS_PER_S)

cdef inline void pumped(Switch *sw, Port *port, uint32_t bytes) noexcept nogil:
    """So many bytes were read for it."""
    port.share.pumped += PUMP_COST + bytes
    sw.waiting.work += FRAME_WORK + bytes

cdef Flow *claim_flow(Switch *sw, Port *port, uint8_t protocol, const uint8_t *inside, uint16_t inside_port, const uint8_t *outside, uint16_t outside_port) noexcept nogil
cdef bint claim_descriptor(Switch *sw, Port *port, const Flow *spared) noexcept nogil
cdef void return_descriptor(Switch *sw, Port *port) noexcept nogil
cdef bint claim_half_open(Switch *sw, Port *port) noexcept nogil
cdef void return_half_open(Port *port) noexcept nogil
