# SPDX-License-Identifier: Apache-2.0
"""Opening other people's network namespaces, what a descriptor is. What is wrong is Refused in one line.

A descriptor is believed only after the kernel said what it is (NS_GET_NSTYPE, ioctl_ns(2)): a name under
/run/netns may be an empty file after a crash, and a path comes from a user. To enter a namespace one needs
CAP_SYS_ADMIN in the user namespace that owns it; who cannot have it is told at once whose namespace it is.
`userns_fd` is that owner, where it is not the caller's own: it must be entered first. An open descriptor
keeps its namespace alive: close it as soon as it has been used.
"""
from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import NamedTuple

from vswitch.container import capabilities
from vswitch.model import NamespaceOrigin, Refused

NETNS_FOLDERS = ("/run/netns", "/var/run/netns")
MACHINES_NETNS, OWN_NETNS = "/proc/1/ns/net", "/proc/self/ns/net"
NS_GET_USERNS = 0xB701
NS_GET_PARENT = 0xB702
NS_GET_NSTYPE = 0xB703
NS_GET_OWNER_UID = 0xB704
CLONE_NEWNET = 0x40000000
NESTING_LIMIT = 32  # user namespaces: the kernel's own limit


class PidNamespaces(NamedTuple):
    """A process's network namespace: the caller closes the descriptors. `userns_fd` is None if ours."""

    netns_fd: int
    userns_fd: int | None
    pidfd: int

    def close(self) -> None:
        for fd in self:
            if fd is not None:
                os.close(fd)


def netns_path(name_or_path: str) -> str:
    """The absolute path of a namespace given as `blue` (as in `ip netns`) or as a path."""
    if "/" in name_or_path:
        return os.path.abspath(name_or_path)
    for folder in NETNS_FOLDERS:
        path = f"{folder}/{name_or_path}"
        if os.path.lexists(path):
            return path
    raise Refused(f"no network namespace is named {name_or_path!r}: `ip netns list` shows what there is", 404)


def open_netns(name_or_path: str) -> int:
    """A descriptor of a network namespace that we may enter."""
    path = netns_path(name_or_path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from error
    return _checked(fd, path)


def open_pid(pid: int, *, to_enter: bool = True) -> PidNamespaces:
    """The network namespace of a process, the user namespace to enter first, and a pidfd. Refused where it cannot be
    entered, unless that is not wanted.
    """
    pidfd, netns_fd = _opened(pid, "net")
    if to_enter:
        try:
            _checked(netns_fd, f"process {pid}")
        except Refused:
            os.close(pidfd)
            raise
    return PidNamespaces(netns_fd, owner_userns(netns_fd), pidfd)


def open_process(pid: int) -> tuple[int, int | None]:
    """A pidfd, and the user namespace the process is in, where that is not ours; the caller closes both."""
    pidfd, userns = _opened(pid, "user")
    if not _is_own_userns(userns):
        return pidfd, userns
    os.close(userns)
    return pidfd, None


def in_our_network(pid: int) -> bool:
    """Whether a process is in the network namespace that we are in ourselves."""
    try:
        return os.path.samefile(f"/proc/{pid}/ns/net", OWN_NETNS)
    except OSError:
        return False


def _opened(pid: int, kind: str) -> tuple[int, int]:
    """A process's pidfd and one of its namespaces. Looked at again afterwards: a pid may pass to another process."""
    pidfd = None
    try:
        pidfd = os.pidfd_open(pid)
        namespace = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, OverflowError) as error:
        if pidfd is not None:
            os.close(pidfd)
        raise _cannot_open(f"process {pid}", error) from error
    if pid_ended(pidfd):
        os.close(pidfd)
        os.close(namespace)
        raise Refused(f"process {pid} has ended", 404)
    return pidfd, namespace


def _cannot_open(what: str, error: Exception) -> Refused:
    code = getattr(error, "errno", None)
    if code in (errno.ENOENT, errno.ESRCH):
        return Refused(f"{what} does not exist" if what.startswith("/") else f"no {what} is running", 404)
    if code in (errno.EACCES, errno.EPERM):
        return Refused(f"{what} belongs to somebody else: use its owner's rights, or root", 403)
    reason = os.strerror(code) if code else error
    return Refused(f"{what} cannot be opened as a network namespace: {reason}")


def _checked(fd: int, what: str) -> int:
    """`fd`, if it is a network namespace that we may enter; else it is closed and Refused says why."""
    try:
        if not is_netns(fd):
            raise Refused(f"{what} is not a network namespace")
        if not enterable(fd):
            owner = owner_uid(fd)
            whose = f"uid {owner}" if owner is not None else "somebody else"
            raise Refused(f"{what}: the network namespace of {whose}: use its owner's rights, or root", 403)
    except Refused:
        os.close(fd)
        raise
    return fd


def is_netns(fd: int) -> bool:
    """Whether the kernel says that this descriptor is a network namespace."""
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def identify(fd: int) -> tuple[int, int]:
    """(device, inode): equal for two descriptors exactly when they are the same namespace."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def owner_userns(fd: int) -> int | None:
    """A descriptor of the user namespace that owns a namespace; None when it is our own or outside of it."""
    try:
        owner = fcntl.ioctl(fd, NS_GET_USERNS)
    except OSError:
        return None
    if _is_own_userns(owner):
        os.close(owner)
        return None
    return owner


def owner_uid(fd: int) -> int | None:
    """The uid that made the user namespace owning this namespace; None when that lies outside our own."""
    try:
        owner = fcntl.ioctl(fd, NS_GET_USERNS)
    except OSError:
        return None
    try:
        return _made_by(owner)
    finally:
        os.close(owner)


def enterable(fd: int) -> bool:
    """Whether we have CAP_SYS_ADMIN over a namespace, or get it in its owner (user_namespaces(7))."""
    try:
        userns = fcntl.ioctl(fd, NS_GET_USERNS)
    except OSError:
        return False
    privileged = capabilities.held(capabilities.NUMBERS["SYS_ADMIN"])
    for _ in range(NESTING_LIMIT + 1):
        own = _is_own_userns(userns)
        allowed = privileged if own else privileged or _made_by_us_here(userns)
        parent = None if own or allowed else _parent(userns)
        os.close(userns)
        if parent is None:
            return allowed
        userns = parent
    return False


def _made_by_us_here(userns: int) -> bool:
    """Whether our uid made this namespace from within our own user namespace: then it is ours to command."""
    parent = _parent(userns)
    if parent is None:
        return False
    try:
        return _is_own_userns(parent) and _made_by(userns) == os.geteuid()
    finally:
        os.close(parent)


def _parent(userns: int) -> int | None:
    try:
        return fcntl.ioctl(userns, NS_GET_PARENT)
    except OSError:
        return None


def _made_by(userns: int) -> int:
    return struct.unpack("I", fcntl.ioctl(userns, NS_GET_OWNER_UID, bytes(4)))[0]


def _is_own_userns(fd: int) -> bool:
    own = os.stat("/proc/self/ns/user")
    return identify(fd) == (own.st_dev, own.st_ino)


def refuse_own(fd: int, what: str) -> None:
    """Refuse the network namespace we are in ourselves, or the machine's: joining it would rewire the host."""
    for path, whose in ((MACHINES_NETNS, "the machine's own"), (OWN_NETNS, "this command's own")):
        try:
            own = os.stat(path)
        except OSError:
            continue  # the machine's is for root to see, and nobody else could enter it
        if identify(fd) == (own.st_dev, own.st_ino):
            raise Refused(f"{what} is in {whose} network namespace: give it one of its own (unshare --net)", 409)


def origin(netns_fd: int, *, path: str | None = None, pid: int | None = None) -> NamespaceOrigin:
    """Where a namespace was found, so that its end is noticed and it is found again."""
    device, inode = identify(netns_fd)
    started = None if pid is None else pid_started(pid)
    return NamespaceOrigin(path=path, pid=pid, pid_started=started, device=device, inode=inode)


def pid_started(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat, ticks since boot: with the pid it names one process; None if gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def pid_ended(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended; a zombie has."""
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))
