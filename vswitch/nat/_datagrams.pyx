# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of UDP and echo: how a host socket is opened, told whom to send to, read in batches, and asked what went
wrong.

Nothing here knows flows or containers. Addresses are 16 bytes, IPv4 in its mapped form; a socket of family AF_INET6 takes
and gives them as they are (a published port's is dual-stack), one of AF_INET their last four bytes.

UDP sockets have IP_RECVERR on: an ICMP error about one of their datagrams comes through the error queue with the address of
the router that sent it and what it quoted, instead of as a bare errno. With UDP_GRO a train of datagrams from one sender
comes as one message with their size in a control message; with UDP_SEGMENT one leaves as such.

Echo: a ping socket (SOCK_DGRAM, IPPROTO_ICMP) where net.ipv4.ping_group_range lets us; the kernel chooses the identifier
and hands us the replies to it only. Otherwise a raw socket where privileged: it would see every ICMP message of the host,
so a filter lets only echo replies with the socket's own identifier through.
"""
from libc.errno cimport EACCES, EAGAIN, EINTR, EPERM, EPROTONOSUPPORT, errno
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from vswitch.nat._sockets cimport (
    AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, MSG_DONTWAIT, MSG_NOSIGNAL, SO_BINDTODEVICE, SOCK_CLOEXEC, SOCK_NONBLOCK,
    SOL_SOCKET, bind, in6_addr, in_addr, is_mapped, read_socket_address, setsockopt, sockaddr, sockaddr_in, socket,
)

cdef extern from "<sys/socket.h>" nogil:
    enum: SOCK_DGRAM, SOCK_RAW, MSG_ERRQUEUE
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *part)
    unsigned char *CMSG_DATA(cmsghdr *part)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    ssize_t sendto(int fd, const void *data, size_t length, int flags, const sockaddr *name, unsigned int name_bytes)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout)

cdef extern from "<netinet/in.h>" nogil:
    enum: IPPROTO_IP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6
    enum: IP_TTL, IP_TOS, IP_RECVERR, IP_RECVTTL, IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_WANT, IP_PMTUDISC_DO, IP_PKTINFO
    enum: IPV6_UNICAST_HOPS, IPV6_TCLASS, IPV6_RECVERR, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT, IPV6_MTU_DISCOVER
    enum: IPV6_PKTINFO, IPV6_RECVPKTINFO
    uint16_t htons(uint16_t value)

cdef extern from * nogil:
    """
    #include <time.h>
    #include <netinet/in.h>
    #include <linux/errqueue.h>
    #include <linux/filter.h>
    #ifndef UDP_SEGMENT
    #define UDP_SEGMENT 103
    #endif
    #ifndef UDP_GRO
    #define UDP_GRO 104
    #endif
    """
    enum: UDP_SEGMENT, UDP_GRO, SO_EE_ORIGIN_LOCAL, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_ATTACH_FILTER
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
        uint8_t ee_type
        uint8_t ee_code
        uint32_t ee_info
    const sockaddr *SO_EE_OFFENDER(sock_extended_err *error)
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    struct sock_filter:
        uint16_t code
        uint8_t jt
        uint8_t jf
        uint32_t k
    struct sock_fprog:
        unsigned short len
        sock_filter *filter


# ---- opening


cdef bint can_segment() noexcept nogil:
    """Whether the kernel has UDP_SEGMENT (Linux 4.18)."""
    return udp_has(UDP_SEGMENT, 1400)


cdef bint can_coalesce() noexcept nogil:
    """Whether the kernel has UDP_GRO (Linux 5.0)."""
    return udp_has(UDP_GRO, 1)


cdef bint udp_has(int option, int value) noexcept nogil:
    cdef int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    cdef bint works = fd >= 0 and setsockopt(fd, IPPROTO_UDP, option, &value, sizeof(value)) == 0
    if fd >= 0:
        close(fd)
    return works


cdef int open_udp(const WayOut *way_out, bint ipv6, bint coalesce) noexcept nogil:
    """An unconnected UDP socket; -1 and errno when the kernel says no."""
    cdef int fd = socket(AF_INET6 if ipv6 else AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP)
    cdef int one = 1
    if fd >= 0 and coalesce:
        setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof(one))
    return placed(fd, way_out, ipv6)


cdef int open_echo(const WayOut *way_out, bint ipv6, uint16_t identifier, bint *raw) noexcept nogil:
    """A ping socket, or where those are forbidden a raw one that hears replies to `identifier`; -1 and EPERM when both are."""
    cdef int family = AF_INET6 if ipv6 else AF_INET, protocol = IPPROTO_ICMPV6 if ipv6 else IPPROTO_ICMP
    cdef int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol)
    raw[0] = fd < 0 and (errno == EACCES or errno == EPERM or errno == EPROTONOSUPPORT)
    if raw[0]:
        fd = socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol)
        if fd >= 0 and not hear_only(fd, ipv6, identifier):
            close(fd)
            return -1
    if fd >= 0:
        set_option(fd, ipv6, IP_RECVTTL, IPV6_RECVHOPLIMIT, 1)
    return placed(fd, way_out, ipv6)


cdef bint hear_only(int fd, bint ipv6, uint16_t identifier) noexcept nogil:
    """A filter on a raw socket (classic BPF): echo replies with one identifier. IPv4's see the IP header, IPv6's don't."""
    cdef sock_filter code[7]
    cdef sock_fprog program
    memset(code, 0, sizeof(code))
    code[0].code = 0xB1                             # ldxb 4*([0]&0xf)
    code[1].code = 0x50                             # ldb [x + 0]
    code[2].code, code[2].jf = 0x15, 3              # jeq #0
    code[3].code, code[3].k = 0x48, 4               # ldh [x + 4]
    code[4].code, code[4].k, code[4].jf = 0x15, identifier, 1
    code[5].code, code[5].k = 0x06, 0xFFFFFFFF      # ret all
    code[6].code = 0x06                             # ret nothing
    if ipv6:
        code[0].code, code[0].k = 0x00, 0           # ld #0
        code[1].code = 0x30                         # ldb [0]
        code[2].k = 129
        code[3].code = 0x28                         # ldh [4]
    program.len, program.filter = 7, code
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0


cdef int placed(int fd, const WayOut *way_out, bint ipv6) noexcept nogil:
    """Asks for errors and binds to the network's outgoing address and device; `fd`, or -1 with errno and it is closed."""
    cdef Destination source
    cdef int failed = 0, one = 1
    if fd < 0:
        return -1
    set_option(fd, ipv6, IP_RECVERR, IPV6_RECVERR, 1)
    if ipv6:
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one))
    if way_out.device[0]:
        failed = setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, way_out.device, sizeof(way_out.device))
    if failed == 0 and (way_out.has_source6 if ipv6 else way_out.has_source4):
        memset(&source, 0, sizeof(source))
        source.name.sin6_family = AF_INET6 if ipv6 else AF_INET
        if ipv6:
            memcpy(source.name.sin6_addr.s6_addr, way_out.source6, 16)
        else:
            memcpy(&(<sockaddr_in *>&source.name).sin_addr, way_out.source4, 4)
        failed = bind(fd, <const sockaddr *>&source.name, sizeof(sockaddr_in6) if ipv6 else sizeof(sockaddr_in))
    if failed:
        failed = errno
        close(fd)
        (&errno)[0] = failed
        return -1
    return fd


cdef void hear_clients(int fd, bint coalesce) noexcept nogil:
    """Makes a published port's socket, of whatever family, tell which address a datagram came to, and of errors and trains."""
    cdef int one = 1
    setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one))
    setsockopt(fd, IPPROTO_IP, IP_RECVERR, &one, sizeof(one))
    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one))
    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &one, sizeof(one))
    if coalesce:
        setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof(one))


cdef void set_option(int fd, bint ipv6, int option4, int option6, int value) noexcept nogil:
    """Sets the same thing in either family."""
    setsockopt(fd, IPPROTO_IPV6 if ipv6 else IPPROTO_IP, option6 if ipv6 else option4, &value, sizeof(value))


cdef void set_ttl(int fd, bint ipv6, int ttl) noexcept nogil:
    set_option(fd, ipv6, IP_TTL, IPV6_UNICAST_HOPS, ttl)


cdef void set_tos(int fd, bint ipv6, int tos) noexcept nogil:
    set_option(fd, ipv6, IP_TOS, IPV6_TCLASS, tos)


cdef void set_fragmenting(int fd, bint ipv6, bint allowed) noexcept nogil:
    """Whether the kernel may fragment what is too long for the path; otherwise it refuses it with EMSGSIZE."""
    cdef int may = IP_PMTUDISC_WANT if ipv6 else IP_PMTUDISC_DONT
    set_option(fd, ipv6, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, may if allowed else <int>IP_PMTUDISC_DO)


# ---- sending


cdef void address_to(Destination *out, const uint8_t *address, uint16_t port, uint32_t scope, bint dual) noexcept nogil:
    """Addresses a message; `dual`: the socket is an AF_INET6 one, whatever the address."""
    cdef sockaddr_in *name4 = <sockaddr_in *>&out.name
    memset(out, 0, sizeof(Destination))
    if dual or not is_mapped(address):
        out.name.sin6_family, out.name.sin6_port, out.name.sin6_scope_id = AF_INET6, htons(port), scope
        memcpy(out.name.sin6_addr.s6_addr, address, 16)
        out.name_bytes = sizeof(sockaddr_in6)
    else:
        name4.sin_family, name4.sin_port = AF_INET, htons(port)
        memcpy(&name4.sin_addr, address + 12, 4)
        out.name_bytes = sizeof(sockaddr_in)


cdef int send_message(int fd, const Destination *to, const uint8_t *data, uint32_t bytes, uint32_t segment) noexcept nogil:
    """Sends data[0:bytes] as one datagram, or as many of `segment` bytes each; 0 or errno."""
    cdef uint8_t control[128]
    cdef msghdr message
    cdef iovec part
    cdef ssize_t done
    memset(&message, 0, sizeof(message))
    part.iov_base, part.iov_len = <void *>data, bytes
    message.msg_name, message.msg_namelen = <void *>&to.name, to.name_bytes
    message.msg_iov, message.msg_iovlen = &part, 1
    if segment or to.has_local:
        message.msg_control = control
        message.msg_controllen = write_control(control, to, segment)
    while True:
        if message.msg_controllen:
            done = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            done = sendto(fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL, <const sockaddr *>&to.name, to.name_bytes)
        if done >= 0:
            return 0
        if errno != EINTR:
            return errno


cdef size_t write_control(uint8_t *control, const Destination *to, uint32_t segment) noexcept nogil:
    """Control messages for segment size and source address; returns their length."""
    cdef size_t at = 0
    cdef uint16_t size = <uint16_t>segment
    cdef in_pktinfo source4
    cdef in6_pktinfo source6
    memset(control, 0, 128)
    if segment:
        at += write_part(control, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size))
    if to.has_local and to.name.sin6_family == AF_INET6:
        source6.ipi6_ifindex = to.interface
        memcpy(&source6.ipi6_addr, to.local, 16)
        at += write_part(control + at, IPPROTO_IPV6, IPV6_PKTINFO, &source6, sizeof(source6))
    elif to.has_local:
        memset(&source4, 0, sizeof(source4))
        memcpy(&source4.ipi_spec_dst, to.local + 12, 4)
        at += write_part(control + at, IPPROTO_IP, IP_PKTINFO, &source4, sizeof(source4))
    return at


cdef size_t write_part(uint8_t *control, int level, int kind, const void *value, size_t length) noexcept nogil:
    cdef cmsghdr *part = <cmsghdr *>control
    part.cmsg_len, part.cmsg_level, part.cmsg_type = CMSG_LEN(length), level, kind
    memcpy(CMSG_DATA(part), value, length)
    return CMSG_SPACE(length)


# ---- receiving


cdef bint inbox_open(Inbox *inbox) noexcept nogil:
    """Room for a batch; pages are touched only as far as datagrams fill them."""
    inbox.controls = <uint8_t *>calloc(INBOX_MESSAGES, CONTROL_BYTES)
    inbox.slots = <uint8_t *>malloc(INBOX_MESSAGES * INBOX_SLOT)
    return inbox.controls != NULL and inbox.slots != NULL


cdef void inbox_close(Inbox *inbox) noexcept nogil:
    free(inbox.controls)
    free(inbox.slots)


cdef int inbox_receive(Inbox *inbox, int fd, int most, uint32_t offset) noexcept nogil:
    """Up to `most` datagrams, each `offset` bytes into its slot; how many, or -1 and errno."""
    cdef int i
    cdef msghdr *header
    inbox.offset = offset
    for i in range(most):
        header = &inbox.messages[i].msg_hdr
        inbox.parts[i].iov_base = inbox.slots + i * INBOX_SLOT + offset
        inbox.parts[i].iov_len = LARGEST_DATAGRAM
        header.msg_name, header.msg_namelen = &inbox.names[i], sizeof(sockaddr_in6)
        header.msg_iov, header.msg_iovlen = &inbox.parts[i], 1
        header.msg_control, header.msg_controllen = inbox.controls + i * CONTROL_BYTES, CONTROL_BYTES
        header.msg_flags = 0
    return recvmmsg(fd, inbox.messages, most, MSG_DONTWAIT, NULL)


cdef void inbox_read(Inbox *inbox, int index, Arrival *arrival) noexcept nogil:
    """One of the datagrams received."""
    cdef msghdr *header = &inbox.messages[index].msg_hdr
    memset(arrival, 0, sizeof(Arrival))
    arrival.ttl = KEEP
    arrival.data = inbox.slots + index * INBOX_SLOT + inbox.offset
    arrival.bytes = inbox.messages[index].msg_len
    read_name(&inbox.names[index], arrival)
    read_control(header, arrival)


cdef void read_name(const sockaddr_in6 *name, Arrival *arrival) noexcept nogil:
    """Whom it came from."""
    arrival.dual = name.sin6_family == AF_INET6
    arrival.peer_port = read_socket_address(name, arrival.peer)
    arrival.scope = name.sin6_scope_id if arrival.dual else 0
    arrival.ipv6 = not is_mapped(arrival.peer)


cdef void read_control(msghdr *header, Arrival *arrival) noexcept nogil:
    """What the kernel tells beside the bytes."""
    cdef cmsghdr *part = CMSG_FIRSTHDR(header)
    cdef void *data
    cdef int number
    while part != NULL:
        data = CMSG_DATA(part)
        if part.cmsg_level == IPPROTO_UDP and part.cmsg_type == UDP_GRO and part.cmsg_len >= CMSG_LEN(sizeof(int)):
            memcpy(&number, data, sizeof(number))
            arrival.gso_size = <uint16_t>number
        elif part.cmsg_level == IPPROTO_IP:
            read_control4(part, data, arrival)
        elif part.cmsg_level == IPPROTO_IPV6:
            read_control6(part, data, arrival)
        part = CMSG_NXTHDR(header, part)


cdef void read_control4(const cmsghdr *part, void *data, Arrival *arrival) noexcept nogil:
    cdef int number
    if part.cmsg_type == IP_TTL and part.cmsg_len >= CMSG_LEN(sizeof(int)):
        memcpy(&number, data, sizeof(number))
        arrival.ttl = <uint8_t>number
    elif part.cmsg_type == IP_PKTINFO and part.cmsg_len >= CMSG_LEN(sizeof(in_pktinfo)):
        arrival.has_local = 1
        arrival.local[10], arrival.local[11] = 0xFF, 0xFF
        memcpy(arrival.local + 12, &(<in_pktinfo *>data).ipi_spec_dst, 4)
    elif part.cmsg_type == IP_RECVERR and part.cmsg_len >= CMSG_LEN(sizeof(sock_extended_err)):
        read_error(part, <sock_extended_err *>data, arrival)


cdef void read_control6(const cmsghdr *part, void *data, Arrival *arrival) noexcept nogil:
    cdef int number
    if part.cmsg_type == IPV6_HOPLIMIT and part.cmsg_len >= CMSG_LEN(sizeof(int)):
        memcpy(&number, data, sizeof(number))
        arrival.ttl = <uint8_t>number
    elif part.cmsg_type == IPV6_PKTINFO and part.cmsg_len >= CMSG_LEN(sizeof(in6_pktinfo)):
        arrival.has_local = 1
        memcpy(arrival.local, &(<in6_pktinfo *>data).ipi6_addr, 16)
        if arrival.local[0] == 0xFE and arrival.local[1] & 0xC0 == 0x80:
            arrival.interface = (<in6_pktinfo *>data).ipi6_ifindex
    elif part.cmsg_type == IPV6_RECVERR and part.cmsg_len >= CMSG_LEN(sizeof(sock_extended_err)):
        read_error(part, <sock_extended_err *>data, arrival)


# ---- errors


cdef bint next_error(int fd, uint8_t *data, uint32_t room, Arrival *arrival) noexcept nogil:
    """Takes one error off the socket's queue, with what it quotes of the datagram in data[0:room]; False when there is none."""
    cdef uint8_t control[CONTROL_BYTES]
    cdef sockaddr_in6 name
    cdef msghdr message
    cdef iovec part
    cdef ssize_t got
    memset(&message, 0, sizeof(message))
    memset(&name, 0, sizeof(name))
    memset(arrival, 0, sizeof(Arrival))
    part.iov_base, part.iov_len = data, room
    message.msg_name, message.msg_namelen = &name, sizeof(name)
    message.msg_iov, message.msg_iovlen = &part, 1
    message.msg_control, message.msg_controllen = control, CONTROL_BYTES
    got = recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT)
    if got < 0:
        return False
    arrival.data, arrival.bytes = data, <uint32_t>got
    read_name(&name, arrival)
    read_control(&message, arrival)
    return True


cdef void read_error(const cmsghdr *part, sock_extended_err *error, Arrival *arrival) noexcept nogil:
    """An error and who sent it; the kernel puts a socket address of either family behind the error."""
    cdef const sockaddr_in6 *offender = <const sockaddr_in6 *>SO_EE_OFFENDER(error)
    arrival.error, arrival.info = <int32_t>error.ee_errno, error.ee_info
    arrival.kind, arrival.code = error.ee_type, error.ee_code
    arrival.is_local = error.ee_origin == SO_EE_ORIGIN_LOCAL
    arrival.is_icmp = error.ee_origin == SO_EE_ORIGIN_ICMP or error.ee_origin == SO_EE_ORIGIN_ICMP6
    if part.cmsg_len >= CMSG_LEN(sizeof(sock_extended_err) + sizeof(sockaddr_in)):
        if part.cmsg_len >= CMSG_LEN(sizeof(sock_extended_err) + sizeof(sockaddr_in6)) or error.ee_origin == SO_EE_ORIGIN_ICMP:
            arrival.has_offender = offender.sin6_family == AF_INET or offender.sin6_family == AF_INET6
            read_socket_address(offender, arrival.offender)
