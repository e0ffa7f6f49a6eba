# SPDX-License-Identifier: Apache-2.0
"""`vswitch run --standalone`: a switch of our own, in a folder that is removed with it.

It says READY on a notify socket (sd_notify(3)) in that folder, so nothing is polled; it is sent SIGTERM when
we are done, and by the kernel when we die in any other way. Its log is shown only if it does not start.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vswitch.container._linux import set_parent_death_signal
from vswitch.control.api.client import ClientError

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
DATAGRAM_BYTES = 4096


@contextmanager
def private_switch() -> Iterator[str]:
    """The path of a new switch's socket; the switch lives as long as the block."""
    with tempfile.TemporaryDirectory(prefix="vswitch-") as folder:
        switch = _start(folder)
        try:
            yield f"{folder}/vswitch.sock"
        finally:
            _stop(switch)


def _start(folder: str) -> subprocess.Popen:
    """The switch's process, once it is ready. ClientError with its last words otherwise."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, open(f"{folder}/log", "w+b") as log:
        notified.bind(f"{folder}/notify")
        switch = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "vswitch.daemon.main",
                "--socket",
                f"{folder}/vswitch.sock",
                "--state-dir",
                f"{folder}/state",
                "--log-format",
                "text",
            ],
            env=_environment(f"{folder}/notify"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        try:
            ready = _says_ready(notified, switch)
        except BaseException:
            _stop(switch)
            raise
        if not ready:
            _stop(switch)
            log.seek(0)
            raise ClientError(f"the private switch did not start: {_last_line(log.read())}")
    return switch


def _environment(notify_path: str) -> dict[str, str]:
    """Ours, with the same modules to be found and the place to say READY."""
    modules = os.pathsep.join(entry for entry in sys.path if entry)
    return os.environ | {"PYTHONPATH": modules, "NOTIFY_SOCKET": notify_path}


def _die_with_parent() -> None:
    set_parent_death_signal(signal.SIGTERM)


def _says_ready(notified: socket.socket, switch: subprocess.Popen) -> bool:
    """Whether READY=1 comes before the switch ends or time is up."""
    deadline_at = time.monotonic() + START_TIMEOUT_S
    ended_fd = os.pidfd_open(switch.pid)
    try:
        poller = select.poll()
        poller.register(ended_fd, select.POLLIN)
        poller.register(notified, select.POLLIN)
        while (left_s := deadline_at - time.monotonic()) > 0:
            readable = [fd for fd, _ in poller.poll(left_s * 1000)]
            if notified.fileno() in readable and b"READY=1" in notified.recv(DATAGRAM_BYTES).split(b"\n"):
                return True
            if ended_fd in readable:
                return False
        return False
    finally:
        os.close(ended_fd)


def _stop(switch: subprocess.Popen) -> None:
    switch.terminate()
    try:
        switch.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        switch.kill()
        switch.wait()


def _last_line(log: bytes) -> str:
    lines = log.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("vswitch-run: ") if lines else "it ended without a word"
