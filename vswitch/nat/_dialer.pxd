# SPDX-License-Identifier: Apache-2.0
# The thread that connects and closes host sockets; the theory stands in _dialer.pyx.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow

cdef enum RequestKind:
    DIAL = 1
    RESET = 2               # close with a reset to the peer

cdef struct Request:        # dataplane → dialer
    uint32_t kind
    uint32_t number         # of the flow
    uint32_t generation
    int32_t fd              # to reset
    uint16_t port           # whose queue
    uint16_t l4_port        # to connect to, host order
    uint8_t address[16]
    uint8_t source[16]      # all zeroes for any
    char device[16]

cdef struct Result:         # dialer → dataplane
    uint32_t number
    uint32_t generation
    int32_t fd              # -1 where there is none
    int32_t error           # errno; EINPROGRESS: the poller will say

cdef bint dialer_open(Switch *sw) noexcept nogil
cdef void dialer_close(Switch *sw) noexcept nogil
cdef void dial(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void hang_up(Switch *sw, int32_t fd, bint hard) noexcept nogil
cdef void dialer_wake(Switch *sw) noexcept nogil
cdef void take_results(Switch *sw) noexcept nogil
cdef void dialer_run(Switch *sw) noexcept nogil
