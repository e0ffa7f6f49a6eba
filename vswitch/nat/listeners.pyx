# SPDX-License-Identifier: Apache-2.0
"""Host sockets of published ports, opened by the thousand.

Enters: an address, a first port and how many. Leaves: a ListenerGroup whose sockets are bound, and for TCP listen, or a ListenError that names
the port where it failed, and then nothing is left open. One system call after another without the GIL: 10,000 ports take a
tenth of a second, and the event loop could call this from a thread.

Without an address one dual-stack socket per port serves IPv6 and IPv4; a host without IPv6 gets IPv4 sockets. TCP sockets have SO_REUSEADDR, so
that a switch that starts again finds its ports free while old connections linger; UDP sockets don't, since two of them could then
share a port unnoticed.
"""
import os
from ipaddress import ip_address

from libc.errno cimport EAFNOSUPPORT, EADDRNOTAVAIL, errno
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from vswitch.nat._sockets cimport (
    AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, SO_REUSEADDR, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SOMAXCONN, bind,
    getsockname, is_mapped, listen, read_socket_address, setsockopt, sockaddr, sockaddr_in6, socket, socket_address,
)

cdef extern from "<sys/socket.h>" nogil:
    enum: SOCK_DGRAM

cdef enum:
    TCP = 6
    UDP = 17


class ListenError(OSError):
    """A published port cannot be opened; `host_port` says which."""

    def __init__(self, int error, int host_port):
        super().__init__(error, os.strerror(error))
        self.host_port = host_port


cdef class ListenerGroup:
    """The sockets of consecutive host ports, published to consecutive ports of one container."""

    @property
    def host_ports(self) -> list:
        """The host ports, in order."""
        cdef sockaddr_in6 address
        cdef unsigned int size
        cdef uint8_t ignored[16]
        cdef uint32_t i
        ports = []
        for i in range(self.count):
            size = sizeof(address)
            getsockname(self.fds[i], <sockaddr *>&address, &size)
            ports.append(read_socket_address(&address, ignored))
        return ports

    def filenos(self) -> list:
        """The sockets' descriptors, in order."""
        return [self.fds[i] for i in range(self.count)]

    def close(self) -> None:
        """Closes all; the dataplane must have let go of them."""
        self.close_all()

    def __dealloc__(self):
        self.close_all()

    cdef void close_all(self) noexcept:
        cdef uint32_t i
        if self.fds != NULL:
            for i in range(self.count):
                close(self.fds[i])
            free(self.fds)
            self.fds = NULL
            self.count = 0

    cdef Listener *describe(self, uint16_t network, uint16_t port, bytes address4, bytes address6) except NULL:
        """As the dataplane wants them; the caller frees it."""
        cdef Listener *listeners = <Listener *>calloc(self.count + 1, sizeof(Listener))
        cdef uint32_t i
        if listeners == NULL:
            raise MemoryError("no memory for published ports")
        for i in range(self.count):
            listeners[i].fd, listeners[i].network, listeners[i].port = self.fds[i], network, port
            listeners[i].inside_port = <uint16_t>(self.first_container_port + i)
            listeners[i].protocol = TCP if self.protocol == "tcp" else UDP
            if address4 is not None:
                listeners[i].has4 = 1
                listeners[i].inside4[10] = listeners[i].inside4[11] = 0xFF
                memcpy(&listeners[i].inside4[12], <const uint8_t *>address4, 4)
            if address6 is not None:
                listeners[i].has6 = 1
                memcpy(listeners[i].inside6, <const uint8_t *>address6, 16)
        return listeners


def open_listeners(host_ip, int first_host_port, int count, str protocol not None, int first_container_port):
    """Opens `count` sockets from `first_host_port` on (0, with a count of 1, lets the kernel choose) at `host_ip`, None for all addresses.

    Raises ListenError, and then none of them is open."""
    cdef ListenerGroup group = ListenerGroup.__new__(ListenerGroup)
    cdef uint8_t address[16]
    cdef bint dual = host_ip is None, stream = protocol == "tcp"
    cdef int32_t *fds
    cdef int problem, failed = 0
    if protocol not in ("tcp", "udp") or count < 1 or first_host_port + count > 65536 or first_container_port + count > 65536:
        raise ValueError("ports lie between 1 and 65535, protocols are tcp and udp")
    memset(address, 0, 16)
    if not dual:
        packed = ip_address(host_ip).packed
        packed = b"\0" * 10 + b"\xff\xff" + packed if len(packed) == 4 else packed
        memcpy(address, <const uint8_t *><bytes>packed, 16)
    fds = <int32_t *>malloc(count * sizeof(int32_t))
    if fds == NULL:
        raise MemoryError("no memory for published ports")
    with nogil:
        problem = open_all(fds, address, first_host_port, count, stream, dual, &failed)
    if dual and (problem == EAFNOSUPPORT or problem == EADDRNOTAVAIL):
        address[10] = address[11] = 0xFF
        with nogil:
            problem = open_all(fds, address, first_host_port, count, stream, False, &failed)
    if problem:
        free(fds)
        raise ListenError(problem, first_host_port + failed)
    group.fds, group.count, group.protocol, group.first_container_port = fds, count, protocol, first_container_port
    return group


cdef int open_all(int32_t *fds, const uint8_t *address, int first, int count, bint stream, bint dual, int *failed) noexcept nogil:
    """All of them: 0; or the errno of the one numbered `failed`, and nothing is open."""
    cdef int i
    for i in range(count):
        fds[i] = open_one(address, <uint16_t>(first + i), stream, dual)
        if fds[i] < 0:
            failed[0] = i
            for i in range(failed[0]):
                close(fds[i])
            return -fds[failed[0]]
    return 0


cdef int open_one(const uint8_t *address, uint16_t port, bint stream, bint dual) noexcept nogil:
    """One bound socket, or a negative errno."""
    cdef sockaddr_in6 name
    cdef uint32_t size
    cdef int on = 1, off = 0, problem = 0
    cdef int fd = socket(AF_INET if is_mapped(address) else AF_INET6, (SOCK_STREAM if stream else SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        return -errno
    if stream:
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on))
    if not is_mapped(address):
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off if dual else &on, sizeof(on))
    size = socket_address(&name, address, port)
    if bind(fd, <const sockaddr *>&name, size) < 0 or (stream and listen(fd, SOMAXCONN) < 0):
        problem = errno
        close(fd)
        return -problem
    return fd
