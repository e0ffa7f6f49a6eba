# SPDX-License-Identifier: Apache-2.0
"""The loop of whoever waits for a program: signals in, signals on; stops; output to keep; the end.

Two kinds of program have the same face. `Contained` is behind PID 1 of a container and is told by messages;
`Direct` is our own (adopted) child, as for `vswitch exec`.
"""
from __future__ import annotations

import os
import select
import signal
from typing import Protocol

from vswitch.container.channel import Channel
from vswitch.container.init import shell_code
from vswitch.container.signals import FORWARDED, Arrived, SignalQueue
from vswitch.container.terminal import ASKED_FOR_IT, Terminal

LAST_READS = 32  # more than a pipe holds; somebody outside who holds its other end can't keep us for ever


class Output(Protocol):
    """A stream to be emptied; `pump` reads what is there and returns False at its end."""

    fd: int

    def pump(self) -> bool: ...


class Program(Protocol):
    pidfd: int
    events_fd: int | None

    def signal(self, number: int, *, group: bool) -> None: ...
    def resume(self, *, foreground: bool) -> None: ...
    def stops(self) -> list[int]: ...

    def reap(self) -> int:
        """Its exit code, or -signal."""
        ...


class Contained:
    """The program of a container whose PID 1 is our child `pid` and reads our messages."""

    def __init__(self, pid: int, pidfd: int, channel: Channel) -> None:
        self._pid, self.pidfd, self._channel = pid, pidfd, channel
        self._killed_by: int | None = None
        self.events_fd: int | None = channel.fd

    def signal(self, number: int, *, group: bool) -> None:
        self._channel.send({"signal": number, "group": group})

    def resume(self, *, foreground: bool) -> None:
        self._channel.send({"resume": foreground})

    def stops(self) -> list[int]:
        """Signals the program was stopped by; at the channel's end there will be no more."""
        stopped = []
        while self.events_fd is not None and _readable(self.events_fd):
            message = self._channel.receive()
            if message is None:
                self.events_fd = None
            elif "stopped" in message:
                stopped.append(message["stopped"])
            else:
                self._killed_by = message.get("killed")
        return stopped

    def reap(self) -> int:
        """PID 1 shows the program's end as a shell does; what killed it is in its last message."""
        ended = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self.stops()
        return ended if self._killed_by is None or ended < 0 else -self._killed_by


class Direct:
    """A program that is our own child and leads a process group."""

    events_fd: int | None = None

    def __init__(self, pid: int, pidfd: int, terminal: Terminal | None) -> None:
        self._pid, self.pidfd, self._terminal = pid, pidfd, terminal

    def signal(self, number: int, *, group: bool) -> None:
        try:
            os.kill(-self._pid if group else self._pid, number)
        except OSError:
            pass  # it has ended, or changed its uid

    def resume(self, *, foreground: bool) -> None:
        if foreground and self._terminal:
            self._terminal.give(self._pid)
        self.signal(signal.SIGCONT, group=True)

    def stops(self) -> list[int]:
        """As for Contained; a program that has ended is left to `reap`."""
        try:
            stopped = os.waitid(os.P_PID, self._pid, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return []
        return [stopped.si_status] if stopped else []

    def reap(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def supervise(
    program: Program, signals: SignalQueue, terminal: Terminal | None, output: Output | None = None
) -> int:
    """Serve a running program until it ends; its exit status, 128 + signal if one killed it."""
    poller = select.poll()
    for fd in (signals.fd, program.pidfd, program.events_fd, output.fd if output else None):
        if fd is not None:
            poller.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if output and output.fd in ready and not output.pump():
            poller.unregister(output.fd)
        if signals.fd in ready:
            for arrived in signals.read():
                _pass_on(arrived, program, terminal)
        events_fd = program.events_fd
        for number in program.stops():
            _stopped(number, program, terminal)
        if program.events_fd is None and events_fd is not None:
            poller.unregister(events_fd)
        if program.pidfd in ready:
            return _end(program, signals, terminal, output)


def _pass_on(arrived: Arrived, program: Program, terminal: Terminal | None) -> None:
    if arrived.number == signal.SIGCONT:
        program.resume(foreground=terminal is not None and terminal.lend())
    elif arrived.number in FORWARDED:
        program.signal(arrived.number, group=arrived.from_terminal)


def _stopped(number: int, program: Program, terminal: Terminal | None) -> None:
    """The program stopped: give it the terminal if it waits for that, else stop too."""
    if terminal is None:
        return  # nobody watches us to see it
    if terminal.asked(number):
        program.resume(foreground=terminal.lend())
        return
    terminal.stop_ourselves(number)
    if number not in ASKED_FOR_IT:  # those would only stop again; the SIGCONT of `fg` is a signal of its own
        program.resume(foreground=terminal.lend())


def _end(program: Program, signals: SignalQueue, terminal: Terminal | None, output: Output | None) -> int:
    ended = program.reap()
    if output:
        _drain(output)
    if terminal:
        terminal.take_back(-ended)
        signals.read()  # our own share of what take_back passed on
    return shell_code(ended)


def _drain(output: Output) -> None:
    for _ in range(LAST_READS):
        if not (_readable(output.fd) and output.pump()):
            return


def _readable(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))
