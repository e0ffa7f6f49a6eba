# SPDX-License-Identifier: Apache-2.0
# TCP segments for containers; the theory stands in _segments.pyx.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow
from vswitch.nat._nat cimport Packet

cdef enum:
    TCP_FIN = 1
    TCP_SYN = 2
    TCP_RST = 4
    TCP_PSH = 8
    TCP_ACK = 16
    OWN_SCALE = 8           # windows in units of 256 bytes, up to 16 MiB (RFC 7323)
    MIN_MSS = 64            # smaller ones are the wish of somebody who wants us to work
    DEFAULT_MSS = 536       # of a container that names none (RFC 9293 section 3.7.1); IPv6: 1220

cdef struct Syn:            # what a SYN's options say
    uint16_t mss
    uint8_t scale
    uint8_t scales          # the option was there

cdef void read_syn(const uint8_t *tcp, uint32_t header_bytes, bint ipv6, Syn *syn) noexcept nogil
cdef void send_data(Switch *sw, Port *port, Flow *flow, uint8_t *l4, uint32_t seq, uint32_t bytes, uint8_t flags) noexcept nogil
cdef void send_control(Switch *sw, Port *port, Flow *flow, uint8_t flags, uint32_t seq) noexcept nogil
cdef void send_syn(Switch *sw, Port *port, Flow *flow, bint acknowledges) noexcept nogil
cdef void send_reset(Switch *sw, Port *port, Flow *flow) noexcept nogil
cdef void refuse_segment(Switch *sw, Port *port, const Packet *packet) noexcept nogil
