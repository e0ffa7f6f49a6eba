# SPDX-License-Identifier: Apache-2.0
"""Signals as values: blocked, queued in a signalfd, read one by one by a loop that decides.

The supervisor and PID 1 both pass on what they are sent. A signal that the terminal made (ctrl-C) belongs to
the whole foreground group, one that a process sent belongs to the program alone; the kernel tells them apart
by si_code. A signal that the caller had ignored (SIGHUP under nohup) is not taken: it stays ignored, in the
program too.
"""
from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterable
from typing import NamedTuple

from vswitch.container import _linux

SIGINFO_BYTES = 128
SI_KERNEL = 0x80
NOT_BLOCKABLE = {signal.SIGKILL, signal.SIGSTOP}
FAULTS = {getattr(signal, f"SIG{name}") for name in ("SEGV", "BUS", "FPE", "ILL", "TRAP", "SYS", "ABRT")}
SET_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}  # it ignores these itself; the program gets the default back
ABOUT_OURSELVES = {getattr(signal, f"SIG{name}") for name in ("CHLD", "TTIN", "TTOU", "URG", "XCPU", "PROF")}
TAKEN = frozenset(signal.valid_signals()) - NOT_BLOCKABLE - FAULTS - SET_BY_PYTHON
FORWARDED = TAKEN - ABOUT_OURSELVES


class Arrived(NamedTuple):
    number: int
    from_terminal: bool


class SignalQueue:
    """Blocks TAKEN in this (single) thread and queues it; `close` puts the old mask back. Context manager."""

    def __init__(self) -> None:
        self.ignored = sorted(s for s in FORWARDED if signal.getsignal(s) == signal.SIG_IGN)
        taken = TAKEN.difference(self.ignored)
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, taken)
        self.fd = _linux.signalfd(taken)

    def read(self) -> list[Arrived]:
        """What has arrived; never blocks."""
        try:
            data = os.read(self.fd, 32 * SIGINFO_BYTES)
        except BlockingIOError:
            return []
        infos = struct.iter_unpack(f"Iii{SIGINFO_BYTES - 12}x", data)
        return [Arrived(number, code == SI_KERNEL) for number, _, code in infos]

    def close(self) -> None:
        os.close(self.fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def __enter__(self) -> SignalQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def restore_defaults(ignored: Iterable[int] = ()) -> None:
    """Default dispositions and an empty mask, for a program about to be executed; `ignored` stay ignored."""
    keep = set(ignored)
    for number in signal.valid_signals() - NOT_BLOCKABLE:
        signal.signal(number, signal.SIG_IGN if number in keep else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
