# SPDX-License-Identifier: Apache-2.0
# Host sockets for datagrams: opening, sending one message, receiving many, their error queue; the theory stands in _datagrams.pyx.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from vswitch.nat._nat cimport EMIT_ROOM, WayOut
from vswitch.nat._sockets cimport sockaddr_in6

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len

cdef enum:
    INBOX_MESSAGES = 32     # datagrams received at once
    CONTROL_BYTES = 256     # of control messages of each
    LARGEST_DATAGRAM = 65535
    INBOX_SLOT = 65792      # EMIT_ROOM, a UDP header, LARGEST_DATAGRAM; no power of two, so that slots don't share their cache sets
    KEEP = 0xFF             # for an Arrival that told no TTL

cdef struct Inbox:          # what is received at once
    mmsghdr messages[INBOX_MESSAGES]
    iovec parts[INBOX_MESSAGES]
    sockaddr_in6 names[INBOX_MESSAGES]
    uint8_t *controls       # CONTROL_BYTES each
    uint8_t *slots          # INBOX_SLOT each
    uint32_t offset         # where in its slot each datagram starts

cdef struct Arrival:        # one datagram, or an error about one
    uint8_t peer[16]        # its sender; of an error: whom the datagram was for
    uint16_t peer_port
    uint8_t ipv6
    uint8_t dual            # it came to an IPv6 socket, whatever its own family
    uint32_t scope          # interface of a link-local peer
    uint8_t local[16]       # the host's address that it came to
    uint32_t interface      # of a link-local `local`
    uint8_t has_local
    uint8_t ttl
    uint16_t gso_size       # bytes of each of the datagrams that it holds, 0 where it is one
    uint8_t *data
    uint32_t bytes
    uint8_t is_local        # error: our own kernel's,
    uint8_t is_icmp         # or an ICMP error: kind, code, offender
    uint8_t kind
    uint8_t code
    uint8_t has_offender
    uint8_t offender[16]
    int32_t error
    uint32_t info           # the MTU, where the error has one

cdef struct Destination:    # whom a message is for and which of the host's addresses it comes from
    sockaddr_in6 name
    uint32_t name_bytes
    uint8_t has_local
    uint8_t local[16]
    uint32_t interface

cdef bint can_segment() noexcept nogil
cdef bint can_coalesce() noexcept nogil
cdef int open_udp(const WayOut *way_out, bint ipv6, bint coalesce) noexcept nogil
cdef int open_echo(const WayOut *way_out, bint ipv6, uint16_t identifier, bint *raw) noexcept nogil
cdef void hear_clients(int fd, bint coalesce) noexcept nogil
cdef void set_option(int fd, bint ipv6, int option4, int option6, int value) noexcept nogil
cdef void set_ttl(int fd, bint ipv6, int ttl) noexcept nogil
cdef void set_tos(int fd, bint ipv6, int tos) noexcept nogil
cdef void set_fragmenting(int fd, bint ipv6, bint allowed) noexcept nogil
cdef void address_to(Destination *out, const uint8_t *address, uint16_t port, uint32_t scope, bint dual) noexcept nogil
cdef int send_message(int fd, const Destination *to, const uint8_t *data, uint32_t bytes, uint32_t segment) noexcept nogil
cdef bint inbox_open(Inbox *inbox) noexcept nogil
cdef void inbox_close(Inbox *inbox) noexcept nogil
cdef int inbox_receive(Inbox *inbox, int fd, int most, uint32_t offset) noexcept nogil
cdef void inbox_read(Inbox *inbox, int index, Arrival *arrival) noexcept nogil
cdef bint next_error(int fd, uint8_t *data, uint32_t room, Arrival *arrival) noexcept nogil
