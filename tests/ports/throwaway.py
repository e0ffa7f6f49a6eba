# SPDX-License-Identifier: Apache-2.0
"""Throw-away network namespaces, and functions run in them or as another user, in processes of their own."""
from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import pickle
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from patience import eventually

from vswitch.container import namespaces
from vswitch.container._linux import CLONE_NEWNET, CLONE_NEWUSER, setns
from vswitch.model import NamespaceOrigin

DEADLINE_S = 10.0
STRANGER = 54321  # a uid that nobody has
PR_SET_DUMPABLE = 4


class Failed(AssertionError):
    """What went wrong in the other process."""


def elsewhere(function: Callable, *arguments, before: Callable[[], None] | None = None):
    """`function(*arguments)` in a forked process; its result or exception comes back."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            if before is not None:
                before()
            outcome = (True, function(*arguments))
            status = 0
        except BaseException as error:
            outcome = (False, (error, traceback.format_exc()))
        try:
            data = pickle.dumps(outcome)
        except Exception:
            data = pickle.dumps((False, (None, repr(outcome))))
        with open(writing, "wb") as pipe:
            pipe.write(data)
        os._exit(status)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    assert data, "the process died without a word"
    succeeded, outcome = pickle.loads(data)
    if succeeded:
        return outcome
    error, trace = outcome
    if isinstance(error, Exception):
        raise error from Failed(trace)
    raise Failed(trace)


def as_stranger(function: Callable, *arguments):
    """`elsewhere`, as an unprivileged user."""

    def become() -> None:
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as after an exec: /proc/self is its own

    return elsewhere(function, *arguments, before=become)


class Namespace:
    """A network namespace with one sleeping process in it."""

    def __init__(self, *flags: str):
        self._process = subprocess.Popen(["unshare", "--net", *flags, "sleep", "infinity"])
        self.pid = self._process.pid
        eventually(lambda: Path(f"/proc/{self.pid}/comm").read_text() == "sleep\n", "the namespace was made")
        self.fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        self.userns_fd = namespaces.owner_userns(self.fd)

    def origin(self) -> NamespaceOrigin:
        return namespaces.origin(self.fd, pid=self.pid)

    def enter(self) -> None:
        if self.userns_fd is not None:
            setns(self.userns_fd, CLONE_NEWUSER)
        setns(self.fd, CLONE_NEWNET)

    def inside(self, function: Callable, *arguments):
        """`function(*arguments)`, run in it."""
        return elsewhere(function, *arguments, before=self.enter)

    def ip(self, *arguments: str) -> list[dict]:
        """`ip -j …` in it."""
        return self.inside(ip, *arguments)

    def interfaces(self) -> list[str]:
        return [link["ifname"] for link in self.ip("link")]

    def end_process(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        self.end_process()
        for fd in (self.fd, self.userns_fd):
            if fd is not None:
                os.close(fd)
        self.fd, self.userns_fd = -1, None


def ip(*arguments: str) -> list[dict]:
    """`ip -j …` as values."""
    done = subprocess.run(["ip", "-j", *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


@contextlib.contextmanager
def namespace(*flags: str) -> Iterator[Namespace]:
    """A Namespace, closed afterwards."""
    made = Namespace(*flags)
    try:
        yield made
    finally:
        made.close()


def open_descriptors(pid: int | str = "self") -> list[str]:
    """What a process has open."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return sorted(found)


@contextlib.contextmanager
def tun_node(mode: int) -> Iterator[None]:
    """/dev/net/tun with other permission bits, put back afterwards; one test at a time."""
    with open("/dev/net/tun", "rb") as node:
        fcntl.flock(node, fcntl.LOCK_EX)
        before = os.fstat(node.fileno()).st_mode & 0o7777
        os.fchmod(node.fileno(), mode)
        try:
            yield
        finally:
            os.fchmod(node.fileno(), before)
