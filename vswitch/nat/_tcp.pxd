# SPDX-License-Identifier: Apache-2.0
# The TCP translator's states and marks; the theory stands in _tcp.pyx.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vswitch._fastpath cimport Port, Switch
from vswitch.nat._conntrack cimport Flow
from vswitch.nat._nat cimport Packet

cdef enum TcpState:
    CONNECTING = 1          # the container's SYN came, the host socket connects; the container has heard nothing yet
    SYN_RECEIVED = 2        # our SYN-ACK is under way
    SYN_SENT = 3            # a client connected to a published port, our SYN is under way
    ESTABLISHED = 4         # until both directions are closed; which are closed, the marks say
    TIME_WAIT = 5           # both directions closed, the host socket gone; answers a repeated FIN, may be reused by a new SYN

cdef enum TcpMark:
    FIN_IN = 1              # the container's FIN came and everything before it
    SHUT = 2                # the host socket was told
    FIN_OUT = 4             # the host's end of stream was sent to the container
    FIN_ACKED = 8           # and acknowledged
    PEEKED = 16             # the host socket's data stays in it until acknowledged (SO_PEEK_OFF)
    AIM = 32                # the socket's peek offset isn't snd_nxt
    DRAINED = 64            # nothing more to read from the host socket until it says so
    HUNG_UP = 128           # the host's stream has an end: don't take a short read for 'nothing more'
    FULL = 256              # the host socket has little room; it says when that changes
    ACK_NOW = 512           # the container is owed an acknowledgement
    TOUCHED = 1024          # is on this burst's list
    RECOVERING = 2048       # a loss was noticed and not all of what was under way then is acknowledged
    PROBING = 4096          # the container's window is closed: its timer asks
    HALF_OPEN = 8192        # counted in its container's half_open
    FIRST_CLOSER = 16384    # our FIN went before the container's came: TIME_WAIT is ours
    RETRANSMITS = 32768     # its timer is for what the container has not acknowledged

cdef enum:
    NO_CHUNK = 0xFFFFFFFF
    MAX_RTO_US = 60000000   # RFC 6298 section 2.5
    MAX_HALF_OPEN = 2048    # of one container: beyond that its oldest gives way to its next

cdef int tcp_out(Switch *sw, Port *port, const Packet *packet) noexcept nogil
