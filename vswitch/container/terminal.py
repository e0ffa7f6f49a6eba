# SPDX-License-Identifier: Apache-2.0
"""The supervisor's side of job control, so that a program in a container behaves in a terminal as any other.

The program has a process group of its own in our session. Three process groups can be the terminal's
foreground:

    the program's   ctrl-C, ctrl-Z and window changes reach it directly; the terminal is `lent`
    ours            the program is redirected, maybe in a pipeline, and gets the terminal when it first asks
                    (stopped by SIGTTIN or SIGTTOU); until then we pass on the terminal's signals
    the shell's     we are stopped or in the background; who continues us makes us the foreground or does not

When the program is stopped, we stop our own group the same way, because that is what the shell watches: `fg`
continues us, and we continue the program. When the terminal killed it (ctrl-C), the rest of our group is told
too, as it would have been without a container: that is what ends a script around us. A terminal that is no
controlling terminal of ours is just a file here.
"""
from __future__ import annotations

import os
import signal

from vswitch.container.program import TERMINAL

MADE_BY_KEYS = (signal.SIGINT, signal.SIGQUIT)
ASKED_FOR_IT = (signal.SIGTTIN, signal.SIGTTOU)


class Terminal:
    """Our controlling terminal; SIGTTIN and SIGTTOU are blocked while methods are called."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.lent = False
        self._wanted = os.isatty(0) and os.isatty(1)

    @classmethod
    def find(cls) -> Terminal | None:
        """The controlling terminal; None where there is none."""
        try:
            return cls(os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        except OSError:
            return None

    def is_ours(self) -> bool:
        """Whether our own group is the foreground."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return False

    def lend(self) -> bool:
        """Whether the program is to become the foreground now: it wants to, and that is ours to give."""
        if self.lent or not self._wanted or not self.is_ours():
            return False
        self.lent = True
        return True

    def give(self, group: int) -> None:
        """Make a process group of our session the foreground; a terminal that is gone is no failure."""
        try:
            os.tcsetpgrp(self._fd, group)
        except OSError:
            pass

    def asked(self, number: int) -> bool:
        """Whether a program stopped by this signal asked for the terminal while it was ours to give."""
        if number in ASKED_FOR_IT and self.is_ours():
            self._wanted = True
            return True
        return False

    def take_back(self, killed_by: int = 0) -> None:
        """Undo a loan at the end, if it still stands; ctrl-C and ctrl-\\ are passed on to our own group."""
        if self.lent:
            self.lent = False
            self.give(os.getpgrp())
            if killed_by in MADE_BY_KEYS:
                os.kill(0, killed_by)

    def stop_ourselves(self, number: int) -> None:
        """Stop our whole process group as the program was stopped; returns when we are continued."""
        self.lent = False
        before = signal.pthread_sigmask(signal.SIG_UNBLOCK, {number} - {signal.SIGSTOP})
        os.kill(os.getpid() if number == signal.SIGSTOP else 0, number)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        os.close(self._fd)
