# SPDX-License-Identifier: Apache-2.0
"""Making a socket ours: exactly one switch per path, whatever became of the one before.

A lock on SOCKET.lock (flock(2), held until the process ends, released by the kernel even after kill -9)
decides who owns the path; whoever holds it may clear away the socket that a dead switch left behind. The lock
file is never removed: removing it would let two switches lock two different files of that name. The socket
gets its owner, group and mode between bind() and listen(), so that nobody connects under other rights than
those asked for.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import socket
import stat
import struct

from vswitch.control.api.places import socket_path_problem
from vswitch.model import Refused

BACKLOG = 512  # so that a script that attaches hundreds of containers at once is queued, not refused


class Listener:
    """The listening socket and the lock that makes it ours. Make it after every fork.

    A child would hold the lock too.
    """

    def __init__(self, path: str, lock_fd: int, listening: socket.socket):
        self.path = path
        self.socket = listening
        self._lock_fd = lock_fd

    def close(self) -> None:
        """Give the path up.

        The socket goes first, then the lock, so that the next owner's socket is never removed.
        """
        self.socket.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        os.close(self._lock_fd)


def listen(path: str, group: str | None = None) -> Listener:
    """Own `path` and listen there, for this user alone (0600) or for `group` too (0660).

    Refused where that cannot be.
    """
    if problem := socket_path_problem(path):
        raise Refused(problem)
    group_id = _group_id(group)
    lock_fd = _lock(path)
    try:
        _clear_stale(path)
        return Listener(path, lock_fd, _bind(path, group_id))
    except BaseException:
        os.close(lock_fd)
        raise


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise Refused(
            f"no group {group}: --socket-group takes a name or number of a group of this machine"
        ) from None


def _lock(path: str) -> int:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, mode=0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
        lock_fd = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as problem:
        remedy = "choose a place you may write to with --socket"
        raise Refused(f"cannot make the socket {path}: {problem.strerror}: {remedy}") from None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(lock_fd)
        if problem.errno not in (errno.EAGAIN, errno.EACCES):
            raise Refused(f"cannot lock {path}.lock: {problem.strerror}", 500) from None
        raise Refused(
            f"another switch{_with_pid(path)} serves {path}: stop it, or choose another place with --socket",
            409,
        ) from None
    return lock_fd


def _with_pid(path: str) -> str:
    """` (pid N)` of whoever listens at `path`, as far as it answers."""
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    ) as probe:
        try:
            probe.connect(path)
            return f" (pid {peer(probe)[0]})"
        except OSError:
            return ""


def peer(connected: socket.socket) -> tuple[int, int, int]:
    """pid, uid, gid of the other end, as they were when it connected or listened (SO_PEERCRED, unix(7))."""
    return struct.unpack("iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


def _clear_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Refused(f"{path} is there and is no socket: remove it, or choose another place with --socket")
    if with_pid := _with_pid(path):
        raise Refused(
            f"another program{with_pid} listens at {path}: stop it, or choose another place with --socket",
            409,
        )
    os.unlink(path)


def _bind(path: str, group_id: int | None) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listening.bind(path)
    except OSError as problem:
        listening.close()
        raise Refused(f"cannot listen at {path}: {problem.strerror}", 500) from None
    try:
        _open_to(path, group_id)
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        os.unlink(path)
        raise
    return listening


def _open_to(path: str, group_id: int | None) -> None:
    os.chmod(path, 0o600)
    if group_id is None:
        return
    try:
        os.chown(path, -1, group_id)
    except PermissionError:
        raise Refused(f"cannot give {path} to group {group_id}: you must be a member of it", 403) from None
    os.chmod(path, 0o660)
