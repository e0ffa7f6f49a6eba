# SPDX-License-Identifier: Apache-2.0
"""What a daemon and its service manager tell each other (sd_notify(3), sd_listen_fds(3),
sd_watchdog_enabled(3)), without a library.

To the manager: datagrams of KEY=VALUE lines on $NOTIFY_SOCKET. A descriptor that goes along with FDSTORE=1 is
kept by the manager while we are restarted or dead; that is how a container's interface outlives a kill -9.
From the manager: stored descriptors come back as 3, 4, … with their names in $LISTEN_FDNAMES, in any order,
so only the name counts.

Without a manager ($NOTIFY_SOCKET unset) everything here does nothing. A manager that hangs is waited for half
a second per message and then ignored: the switch is more important than its status line.
"""

from __future__ import annotations

import array
import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import NamedTuple

log = logging.getLogger(__name__)

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
MANAGER_PATIENCE_S = 0.5
NAME_LIMIT = 255  # of an FDNAME, ASCII, no ':' and no control characters


class Inherited(NamedTuple):
    """A descriptor that the manager kept for us."""

    name: str
    fd: int


class Notifier:
    """The way to the manager. `address` is $NOTIFY_SOCKET: a path, or '@name' for an abstract one.

    None for no manager.
    """

    def __init__(self, address: str | None):
        self._socket: socket.socket | None = None
        if address and address[0] in "/@":
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(MANAGER_PATIENCE_S)
        self._address = "\0" + address[1:] if address and address[0] == "@" else address

    @property
    def managed(self) -> bool:
        return self._socket is not None

    def ready(self, status: str) -> None:
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Both lines in one datagram: Type=notify-reload wants them so."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def store(self, name: str, fd: int) -> None:
        """Have the manager keep a duplicate of `fd` under `name`.

        It drops the copy itself when a TAP's namespace dies.
        """
        self._send("FDSTORE=1", f"FDNAME={name[:NAME_LIMIT]}", fd=fd)

    def forget(self, name: str) -> None:
        """Have the manager close what it keeps under `name`.

        Otherwise its duplicate keeps interface and namespace alive.
        """
        self._send("FDSTOREREMOVE=1", f"FDNAME={name[:NAME_LIMIT]}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str, fd: int | None = None) -> None:
        if self._socket is None:
            return
        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        message = "\n".join(line.replace("\n", " ") for line in lines).encode()
        try:
            self._socket.sendmsg([message], rights, 0, self._address)
        except OSError as problem:
            log.warning("the service manager does not take %s: %s", lines[0], problem.strerror or problem)


def take_notifier(environ: MutableMapping[str, str]) -> Notifier:
    """The Notifier of this process.

    The variable is taken away, so that no program we start speaks in our name.
    """
    return Notifier(environ.pop("NOTIFY_SOCKET", None))


def take_watchdog_interval_s(environ: MutableMapping[str, str], pid: int) -> float | None:
    """How often WATCHDOG=1 must come, in seconds (half of what kills us).

    None where nobody watches this process.
    """
    interval_us, watched = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not interval_us.isdecimal() or int(interval_us) == 0 or watched not in ("", str(pid)):
        return None
    return int(interval_us) / 2e6


def take_descriptors(environ: MutableMapping[str, str], pid: int) -> list[Inherited]:
    """The descriptors the manager kept, closed on exec from now on; the variables are taken away."""
    for_pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    environ.pop("LISTEN_PIDFDID", None)
    if for_pid != str(pid) or not count.isdecimal():
        return []
    inherited = []
    for index in range(int(count)):
        fd = FIRST_DESCRIPTOR + index
        try:
            os.set_inheritable(fd, False)
        except OSError:
            log.warning("the service manager announced descriptor %d, but it is not open", fd)
            continue
        inherited.append(Inherited(names[index] if index < len(names) else "unknown", fd))
    return inherited
