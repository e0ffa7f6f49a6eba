# SPDX-License-Identifier: Apache-2.0
"""One switch per state folder: a lock on DIR/lock (flock(2)), which the kernel releases whatever becomes of us.

A second switch is told at once who has the folder, unless that one is ending: then it is waited for. The store's own
lock would say it only after its patience with a predecessor that is just letting go.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time

from vswitch.model import Refused

NAME = "lock"
PATIENCE_S = 6.0  # a switch with a thousand containers ends in one or two
POLL_S = 0.05
ENDING = "ending"


class StateLock:
    """The lock, held until `close` or our end."""

    def __init__(self, fd: int | None):
        self._fd = fd
        self._write(str(os.getpid()))

    def ending(self) -> None:
        """From here on a successor waits for us."""
        self._write(f"{os.getpid()} {ENDING}")

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, text: str) -> None:
        if self._fd is not None:
            try:
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, text.encode(), 0)
            except OSError:
                pass  # a full disk: the lock holds all the same, only who has it is not told


async def lock_state(folder: str) -> StateLock:
    """Own a state folder. Refused if another switch does, and is not about to give it up."""
    try:
        fd = os.open(f"{folder}/{NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return StateLock(None)  # the store says better what is wrong with the folder
    deadline_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return StateLock(fd)
        except BlockingIOError:
            holder, _, state = os.pread(fd, 64, 0).decode(errors="replace").partition(" ")
        except OSError:
            return StateLock(fd)  # a file system without locks
        if state != ENDING or time.monotonic() > deadline_at:
            os.close(fd)
            whose = f" (pid {holder})" if holder.isdecimal() else ""
            raise Refused(
                f"{folder} is in use by another switch{whose}: stop that one, or give this one its own --state-dir", 409
            )
        await asyncio.sleep(POLL_S)
