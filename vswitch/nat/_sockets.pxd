# SPDX-License-Identifier: Apache-2.0
# What translation uses of the kernel's sockets and epoll, as C has it.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<sys/socket.h>" nogil:
    enum: AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, SO_LINGER, SO_OOBINLINE, SO_REUSEADDR, SO_BINDTODEVICE
    enum: MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, SHUT_WR, SOMAXCONN
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    struct linger:
        int l_onoff
        int l_linger
    int socket(int family, int kind, int protocol)
    int socketpair(int family, int kind, int protocol, int *ends)
    int connect(int fd, const sockaddr *address, socklen_t size)
    int bind(int fd, const sockaddr *address, socklen_t size)
    int listen(int fd, int backlog)
    int accept4(int fd, sockaddr *address, socklen_t *size, int flags)
    int shutdown(int fd, int how)
    int getsockname(int fd, sockaddr *address, socklen_t *size)
    int getsockopt(int fd, int level, int option, void *value, socklen_t *size)
    int setsockopt(int fd, int level, int option, const void *value, socklen_t size)
    ssize_t recv(int fd, void *data, size_t length, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)

cdef extern from "<netinet/in.h>" nogil:
    enum: IPPROTO_IP, IPPROTO_TCP, IPPROTO_IPV6, IPV6_V6ONLY, IP_BIND_ADDRESS_NO_PORT
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_NODELAY

cdef extern from * nogil:
    """
    #include <sys/socket.h>
    #ifndef SO_MEMINFO
    #define SO_MEMINFO 55
    #endif
    #ifndef SO_PEEK_OFF
    #define SO_PEEK_OFF 42
    #endif
    """
    enum: SO_MEMINFO, SO_PEEK_OFF

cdef extern from "<sys/ioctl.h>" nogil:
    enum:
        FIONREAD
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET
    enum: EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_ctl(int poller, int op, int fd, epoll_event *event)

cdef enum:
    FLOW_EVENTS = 0x80002007    # EPOLLET | EPOLLRDHUP | EPOLLOUT | EPOLLPRI | EPOLLIN: each change is told once

cdef inline uint64_t poll_key(uint32_t kind, uint32_t generation, uint32_t index) noexcept nogil:
    """What epoll hands back for a descriptor: kind, 24 bits of generation, index."""
    return <uint64_t>kind << 56 | <uint64_t>(generation & 0xFFFFFF) << 32 | index

cdef extern from * nogil:
    """
    #include <string.h>
    #include <netinet/in.h>
    static inline unsigned int vs_socket_address(struct sockaddr_in6 *out, const unsigned char *address, unsigned short port)
    {
        static const unsigned char mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };
        struct sockaddr_in four;
        memset(out, 0, sizeof *out);
        if (memcmp(address, mapped, 12)) {
            out->sin6_family = AF_INET6;
            out->sin6_port = htons(port);
            memcpy(&out->sin6_addr, address, 16);
            return sizeof *out;
        }
        memset(&four, 0, sizeof four);
        four.sin_family = AF_INET;
        four.sin_port = htons(port);
        memcpy(&four.sin_addr, address + 12, 4);
        memcpy(out, &four, sizeof four);
        return sizeof four;
    }
    static inline unsigned short vs_read_socket_address(const struct sockaddr_in6 *in, unsigned char *address)
    {
        struct sockaddr_in four;
        if (in->sin6_family == AF_INET6) {
            memcpy(address, &in->sin6_addr, 16);
            return ntohs(in->sin6_port);
        }
        memcpy(&four, in, sizeof four);
        memset(address, 0, 10);
        memset(address + 10, 0xff, 2);
        memcpy(address + 12, &four.sin_addr, 4);
        return ntohs(four.sin_port);
    }
    """
    # a 16-byte address and a port in host order as the kernel wants them, and back; the sizes and ports are returned
    uint32_t socket_address "vs_socket_address"(sockaddr_in6 *out, const uint8_t *address, uint16_t port)
    uint16_t read_socket_address "vs_read_socket_address"(const sockaddr_in6 *address, uint8_t *out)

cdef inline bint is_mapped(const uint8_t *address) noexcept nogil:
    """Whether 16 bytes hold an IPv4 address in its mapped form."""
    cdef uint64_t zero
    memcpy(&zero, address, 8)
    return zero == 0 and address[8] == 0 and address[9] == 0 and address[10] == 0xFF and address[11] == 0xFF
