# SPDX-License-Identifier: Apache-2.0
"""New namespaces for a container, and what to say where the system forbids them.

With CAP_SYS_ADMIN: network, mount, UTS and PID namespaces. Without: a user namespace first, in which the
caller's own uid and gid are 0 and nothing else exists (user_namespaces(7): such a map needs no privilege once
setgroups is denied). Four settings of a machine can forbid that, each with its own remedy; `why_forbidden` is
pure, so that tests see all of them.

A network namespace may also be shared: the caller's own (`--network host`), or another container's. Entering that one
takes privilege over it, which a user has in the user namespace that owns it: then that one is shared too.
"""
from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from vswitch.container import _linux, capabilities
from vswitch.model import Refused

MAX_USER_NAMESPACES = "/proc/sys/user/max_user_namespaces"
UNPRIVILEGED_CLONE = "/proc/sys/kernel/unprivileged_userns_clone"
APPARMOR_RESTRICTS = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
TUN_DEVICE = "/dev/net/tun"


class Shared(NamedTuple):
    """A network namespace that is there already: another's, with the user namespace that owns it where that is not
    ours; or, without a descriptor, the caller's own.
    """

    netns_fd: int | None = None
    userns_fd: int | None = None


def isolate(shared: Shared | None = None) -> None:
    """Leave the caller's namespaces; the next child is PID 1 of the new ones. Refused with the remedy."""
    kinds = _linux.CLONE_NEWNS | _linux.CLONE_NEWUTS | _linux.CLONE_NEWPID
    if shared is None:
        kinds |= _linux.CLONE_NEWNET
    elif shared.netns_fd is not None:
        return _join(shared, kinds)
    if not capabilities.held(capabilities.NUMBERS["SYS_ADMIN"]):
        _new_user_namespace()
    _leave(kinds)


def _leave(kinds: int) -> None:
    try:
        _linux.unshare(kinds)
    except OSError as error:
        raise Refused(why_forbidden(error.errno, _read), 403) from error


def _join(shared: Shared, kinds: int) -> None:
    """Be in another's network, and in namespaces of our own otherwise."""
    try:
        if shared.userns_fd is not None and not capabilities.held(capabilities.NUMBERS["SYS_ADMIN"]):
            _linux.setns(shared.userns_fd, _linux.CLONE_NEWUSER)
            become_its_root()
        _linux.setns(shared.netns_fd, _linux.CLONE_NEWNET)
    except OSError as error:
        raise Refused(f"the other container's network cannot be entered: {error.strerror}", 403) from error
    _leave(kinds)


def become_its_root() -> None:
    """Be uid 0 of the user namespace just entered, unless we are somebody there already or it has none."""
    try:
        if os.getegid() != 0:
            os.setresgid(0, 0, 0)
        if os.geteuid() != 0:
            os.setresuid(0, 0, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _new_user_namespace() -> None:
    """Become root of a user namespace that knows nobody but us."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        _linux.unshare(_linux.CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    except OSError as error:
        raise Refused(why_forbidden(error.errno, _read), 403) from error


def why_forbidden(code: int | None, read: Callable[[str], str]) -> str:
    """One line for the errno of a refused unshare or uid_map; `read` gives a setting's text, if any."""
    if read(APPARMOR_RESTRICTS) == "1" and code in (errno.EPERM, errno.EACCES):
        return (
            "AppArmor forbids user namespaces to ordinary users: "
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (or run this as root)"
        )
    if read(MAX_USER_NAMESPACES) == "0":
        return (
            "user namespaces are switched off (user.max_user_namespaces = 0): "
            "sudo sysctl -w user.max_user_namespaces=15000 (or run this as root)"
        )
    if read(UNPRIVILEGED_CLONE) == "0":
        return (
            "user namespaces are switched off for ordinary users (kernel.unprivileged_userns_clone = 0): "
            "sudo sysctl -w kernel.unprivileged_userns_clone=1 (or run this as root)"
        )
    if code in (errno.ENOSPC, errno.EUSERS):
        return "too many namespaces exist: end some containers, or raise /proc/sys/user/max_*_namespaces"
    if code in (errno.EPERM, errno.EACCES):
        return "a seccomp filter, chroot or container around us forbids namespaces: run this outside of it"
    if code in (errno.EINVAL, errno.ENOSYS):
        return "this kernel lacks user, network, mount, UTS or PID namespaces: containers need them"
    return f"the namespaces of a container cannot be made: {os.strerror(code or 0)}"


def check_tun(path: str = TUN_DEVICE) -> None:
    """Refused, with the remedy, where TAP devices cannot be opened by us."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise Refused(why_no_tun(error.errno, path), 403) from error


def why_no_tun(code: int | None, path: str = TUN_DEVICE) -> str:
    """One line for the errno of opening the TUN device."""
    if code == errno.EACCES:
        return f"{path} is closed to uid {os.geteuid()}: sudo chmod 0666 {path} (or run this as root)"
    if code in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return f"there is no {path}: sudo modprobe tun (in a container: start it with --device {path})"
    if code == errno.EPERM:
        return f"a device policy forbids {path}: start the surrounding container with --device {path}"
    return f"{path} cannot be opened: {os.strerror(code or 0)}"


def _read(path: str) -> str:
    try:
        with open(path) as setting:
            return setting.read().strip()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
