# SPDX-License-Identifier: Apache-2.0
"""What is done inside a container's network namespace, by a worker of the attach helper (worker.py).

Entering. A network namespace belongs to a user namespace, and setns() wants CAP_SYS_ADMIN there. Root has it
everywhere below; an unprivileged switch has it only after it joined that user namespace, which it may if it
made it (same uid). Hence: try the network namespace alone, on EPERM join the user namespace first. Uid and
gid are left as they are: the capabilities that come with joining are all that TUNSETIFF, rtnetlink and the
sysctls under /proc/sys/net ask for, whereas becoming uid 0 of a namespace that maps it to a subordinate uid
would lose the right to open /dev/net/tun. (CLONE_NEWUSER needs a single-threaded process.)

/dev/net/tun is opened after entering, because a TAP belongs to the namespace in which the node was opened.
The mount namespace stays the switch's own, so the container needs no such node.
"""
from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from errno import EADDRINUSE, EINVAL, EPERM
from typing import NamedTuple

from msgspec.structs import replace

from vswitch.container import namespaces
from vswitch.container._linux import CLONE_NEWNET, CLONE_NEWUSER, setns
from vswitch.model import NamespaceOrigin, Refused
from vswitch.ports import interface
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.tap import IFF_PERSIST, Tap, identify_tap, open_tap

IP_FREEBIND = 15  # ip(7)
RESOLVER = ("127.0.0.11", 53)  # where Docker's is, so that what people have written down goes on working
UNBLOCKED = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
BACKLOG = 64  # connections to the resolver that the kernel completes for us while we are busy
NAME_ATTEMPTS = 16  # someone else took the free name meanwhile; so often in a row never happens


class NamespaceGone(Refused):
    """The network namespace has ended, or what is found in its place is another one."""


class InterfaceGone(Refused):
    """The namespace is there, the interface is not."""


class NotPermitted(Refused):
    """The namespace is there, and this process has no right to enter it."""


def attach(netns_fd: int, userns_fd: int | None, plan: InterfacePlan) -> Tap:
    """Make a TAP there, configured as planned; on failure nothing stays. Its fd is the caller's. Refused."""
    uid = os.geteuid()
    enter(netns_fd, userns_fd)
    tap = _new_tap(plan.name, uid)
    try:
        interface.configure(replace(plan, name=tap.name))
    except BaseException:
        os.close(tap.fd)
        raise
    return tap


def attach_at(origin: NamespaceOrigin, plan: InterfacePlan) -> Tap:
    """`attach` where only the origin is known. NamespaceGone, NotPermitted, Refused."""
    with _opened(origin) as netns_fd:
        return attach(netns_fd, None, plan)


def configure_at(origin: NamespaceOrigin, plan: InterfacePlan) -> None:
    """Make interface `plan.name` there as planned, while others hold its descriptor.

    NamespaceGone, InterfaceGone, NotPermitted, Refused.
    """
    with _opened(origin) as netns_fd:
        enter(netns_fd, None)
    name = plan.name or ""
    if name not in (present for _, present in socket.if_nameindex()):
        raise _interface_gone(name)
    interface.configure(plan)


def reattach(origin: NamespaceOrigin, plan: InterfacePlan) -> Tap:
    """Take the persistent TAP `plan.name` there, settings renewed. Refused as in AttachHelper.reattach."""
    uid = os.geteuid()
    with _opened(origin) as netns_fd:
        enter(netns_fd, None)
    name = plan.name or ""
    if name not in (present for _, present in socket.if_nameindex()):
        raise _interface_gone(name)
    tap = open_tap(name, persist=False, exclusive=False, uid=uid)
    try:
        if not identify_tap(tap.fd)[1] & IFF_PERSIST:
            raise _interface_gone(name)  # went between the two lines above, and TUNSETIFF made a new one
        interface.configure(plan)
    except BaseException:
        os.close(tap.fd)
        raise
    return tap


def remove(netns_fd: int, userns_fd: int | None, name: str, mac: str | None = None) -> None:
    """Delete TAP `name` there, or where there is no name the one with this MAC, held by a descriptor or not.

    None there is fine. Refused.
    """
    enter(netns_fd, userns_fd)
    interface.unconfigure(name, mac)


def remove_at(origin: NamespaceOrigin, name: str, mac: str | None = None) -> None:
    """`remove` where only the origin is known; a namespace that is gone has taken the interface with it."""
    with contextlib.suppress(NamespaceGone), _opened(origin) as netns_fd:
        remove(netns_fd, None, name, mac)


def open_resolver(netns_fd: int, userns_fd: int | None, *, ask: bool) -> tuple[int, ...]:
    """Sockets bound to RESOLVER there, UDP and listening TCP; the caller's. Refused, where somebody has that port. To
    `ask` from there come two unbound UDP sockets, IPv4 and IPv6.

    IP_FREEBIND, since loopback may still be down. SO_REUSEADDR lets a name server in the container have UDP port 53 of
    all its other addresses, if it says so too.
    """
    enter(netns_fd, userns_fd)
    with contextlib.ExitStack() as on_failure:
        made = [on_failure.enter_context(_bound(kind)) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
        for family in (socket.AF_INET, socket.AF_INET6) if ask else ():
            made.append(on_failure.enter_context(socket.socket(family, socket.SOCK_DGRAM | UNBLOCKED)))
        on_failure.pop_all()
    return tuple(one.detach() for one in made)


def _bound(kind: int) -> socket.socket:
    """One of the resolver's two."""
    made = socket.socket(socket.AF_INET, kind | UNBLOCKED)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        made.bind(RESOLVER)
        if kind == socket.SOCK_STREAM:
            made.listen(BACKLOG)
    except OSError as error:
        made.close()
        what = f"{'UDP' if kind == socket.SOCK_DGRAM else 'TCP'} port {RESOLVER[1]} of {RESOLVER[0]}"
        if error.errno == EADDRINUSE:
            raise Refused(f"{what} is taken there by another program", 409) from None
        raise Refused(f"{what} cannot be opened there: {error.strerror}") from None
    return made


def reopen_resolver(origin: NamespaceOrigin, *, ask: bool) -> tuple[int, ...]:
    """`open_resolver` where only the origin is known."""
    with _opened(origin) as netns_fd:
        return open_resolver(netns_fd, None, ask=ask)


@contextlib.contextmanager
def _opened(origin: NamespaceOrigin) -> Iterator[int]:
    """`reopen`, closed afterwards."""
    fd = reopen(origin)
    try:
        yield fd
    finally:
        os.close(fd)


def reopen(origin: NamespaceOrigin) -> int:
    """A descriptor of the very namespace that `origin` describes. NamespaceGone, NotPermitted."""
    path = _origin_path(origin)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError:
        uid = os.geteuid()
        raise _not_permitted(f"uid {uid} may not open {path}; run vswitch-run as its owner or root") from None
    except OSError as error:
        raise _namespace_gone(f"{path}: {error.strerror}") from None
    if namespaces.identify(fd) != (origin.device, origin.inode):
        os.close(fd)
        raise _namespace_gone(f"{path} is another namespace now")
    return fd


def enter(netns_fd: int, userns_fd: int | None) -> None:
    """Join the network namespace, if need be by its user namespace. NotPermitted, Refused."""
    try:
        setns(netns_fd, CLONE_NEWNET)
        return
    except OSError as error:
        if error.errno != EPERM:
            raise _not_a_namespace(error) from None
    owner_fd = namespaces.owner_userns(netns_fd) if userns_fd is None else os.dup(userns_fd)
    if owner_fd is None:
        raise _not_permitted(_owner_remedy(netns_fd))
    try:
        setns(owner_fd, CLONE_NEWUSER)
        setns(netns_fd, CLONE_NEWNET)
    except OSError as error:
        if error.errno not in (EPERM, EINVAL):
            raise _not_a_namespace(error) from None
        raise _not_permitted(_owner_remedy(netns_fd)) from None
    finally:
        os.close(owner_fd)


class Home(NamedTuple):
    """Where a worker came from: the network namespace to go back to, the user namespace to stay in."""

    netns_fd: int
    userns: tuple[int, int]


def here() -> Home:
    """The namespaces that this process is in."""
    return Home(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), _own_userns())


def return_to(home: Home) -> bool:
    """Go back from wherever `enter` went; False if there is no way, as from within another user namespace."""
    try:
        setns(home.netns_fd, CLONE_NEWNET)
    except OSError:
        return False
    return _own_userns() == home.userns


def _own_userns() -> tuple[int, int]:
    status = os.stat("/proc/self/ns/user")
    return status.st_dev, status.st_ino


def _new_tap(name: str | None, uid: int) -> Tap:
    """A TAP of that name, or of the first free ethN; `uid` is who we were before we entered."""
    for _ in range(NAME_ATTEMPTS):
        try:
            return open_tap(name or interface.free_name(), persist=False, uid=uid)
        except Refused as refusal:
            if name or refusal.status != 409:
                raise
    raise Refused(f"every free interface name was taken by someone else, {NAME_ATTEMPTS} times in a row", 409)


def _origin_path(origin: NamespaceOrigin) -> str:
    """Where the namespace was found, once it is sure that the process there is still the same."""
    if origin.pid is not None:
        if origin.pid_started is not None and namespaces.pid_started(origin.pid) != origin.pid_started:
            raise _namespace_gone(f"process {origin.pid} has ended")
        return f"/proc/{origin.pid}/ns/net"
    if origin.path is None:
        raise _namespace_gone("neither its path nor a process in it is known")
    try:
        return namespaces.netns_path(origin.path)
    except Refused as refusal:
        raise _namespace_gone(str(refusal)) from None


def _namespace_gone(reason: str) -> NamespaceGone:
    return NamespaceGone(f"the network namespace is gone: {reason}; `vswitch rm` forgets the container", 404)


def _interface_gone(name: str) -> InterfaceGone:
    return InterfaceGone(f"interface {name} is gone: detach the container and attach it again", 404)


def _not_permitted(reason: str) -> NotPermitted:
    return NotPermitted(f"may not enter the network namespace: {reason}", 403)


def _not_a_namespace(error: OSError) -> Refused:
    return Refused(f"the descriptor is no network namespace that can be joined ({error.strerror})")


def _owner_remedy(netns_fd: int) -> str:
    """Whose namespace it is and who could enter it."""
    uid = namespaces.owner_uid(netns_fd)
    if uid is None:
        return "it is out of this user's reach; run vswitch-run as root or as the user whose container it is"
    return f"it belongs to uid {uid}; run vswitch-run as that user or as root"
