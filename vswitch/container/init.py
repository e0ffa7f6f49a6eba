# SPDX-License-Identifier: Apache-2.0
"""PID 1 of a container: waits for its order, sets up, starts the program, reaps, forwards, ends with it.

    waiting   until the supervisor sends the order; its end, before that or later, is our end
    running   every signal sent to PID 1 goes on to the program; everything that dies is reaped
    over      the program (the first process) ended: PID 1 exits with its status, 128 + signal if one killed
              it, and the kernel kills whatever else is left in the PID namespace (pid_namespaces(7))

It leaves the supervisor's process group (or its session, where there is no terminal), so that the terminal's
signals reach it by the supervisor only, and the program's group counts as not orphaned, which is what lets
ctrl-Z stop it. It holds no descriptor of the user's: stdin, stdout and stderr are given up once the program
has them.
"""
from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

from vswitch.container import _linux, mounts, program
from vswitch.container.channel import Channel, let_go_of_all_but
from vswitch.container.signals import SignalQueue

PROCESS_NAME = "vswitch-init"
SUPERVISOR_GONE = 128 + signal.SIGKILL
SETUP_FAILED = 125
IFREQ = struct.Struct("16sH22x")  # struct ifreq with ifr_flags
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def main(channel: Channel, has_terminal: bool) -> NoReturn:
    """Run as PID 1 of a new PID namespace; never returns. Messages in: the order, then signal and resume."""
    signals = SignalQueue()
    let_go_of_all_but({channel.fd, signals.fd})
    _linux.set_process_name(PROCESS_NAME)
    if has_terminal:
        os.setpgid(0, 0)
    else:
        os.setsid()
    order = channel.receive()
    if order is None:
        os._exit(SUPERVISOR_GONE)
    _set_up(order, channel)
    pid = _start(order, channel)
    _let_go_of_streams()
    channel.send({"started": True})
    _serve(pid, channel, signals)


def _set_up(order: dict[str, Any], channel: Channel) -> None:
    """Mounts and names, from inside."""
    try:
        mounts.make_private()
        mounts.fresh_proc(_warn)
        if order["network"] == "own":
            _raise_loopback()
            mounts.allow_ping()
        mounts.cover_files(order["files"], _warn, host_network=order["network"] == "host")
        if order["network"] != "host":
            mounts.fresh_sys(_warn)
        _linux.sethostname(order["hostname"])
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        channel.send({"refused": f"the container's file system cannot be set up{where}: {error.strerror}"})
        os._exit(SETUP_FAILED)


def _raise_loopback() -> None:
    """lo up, which brings 127.0.0.1 and ::1 along (netdevice(7)); nobody else does it where no network is joined."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        request = bytearray(IFREQ.pack(b"lo", 0))
        fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
        flags = IFREQ.unpack(request)[1] | IFF_UP
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, IFREQ.pack(b"lo", flags))


def _warn(text: str) -> None:
    print(f"vswitch: {text}", file=sys.stderr, flush=True)


def _start(order: dict[str, Any], channel: Channel) -> int:
    try:
        return program.start(order)
    except program.CannotRun as failure:
        channel.send({"failed": failure.exit_code, "message": str(failure)})
        os._exit(failure.exit_code)


def _let_go_of_streams() -> None:
    """stdin, stdout, stderr and the working folder belong to the program alone."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
    os.chdir("/")


def _serve(pid: int, channel: Channel, signals: SignalQueue) -> NoReturn:
    """Wait for signals and messages until the program ends."""
    poller = select.poll()
    for fd in (signals.fd, channel.fd):
        poller.register(fd, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd == channel.fd:
                _obey(channel.receive(), pid)
                continue
            for arrived in signals.read():
                if arrived.number == signal.SIGCHLD:
                    _reap(pid, channel)
                else:
                    _kill(pid, arrived.number)


def _obey(message: dict[str, Any] | None, pid: int) -> None:
    """{signal, group}: to the program or its whole group; {resume}: go on, with the terminal if true."""
    if message is None:
        os._exit(SUPERVISOR_GONE)
    if "signal" in message:
        _kill(-pid if message["group"] else pid, message["signal"])
    elif "resume" in message:
        if message["resume"]:
            _give_terminal(pid)
        _kill(-pid, signal.SIGCONT)


def _give_terminal(group: int) -> None:
    """Make the program's group the terminal's foreground; a terminal that is gone is no failure."""
    try:
        fd = os.open(program.TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.tcsetpgrp(fd, group)
    except OSError:
        pass
    finally:
        os.close(fd)


def _kill(target: int, number: int) -> None:
    """A program that has ended, or forbids it, ends the matter."""
    try:
        os.kill(target, number)
    except OSError:
        pass


def _reap(pid: int, channel: Channel) -> None:
    """Collect everything that ended; the program's own end is ours. A stopped program is reported."""
    while True:
        try:
            who, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return
        if who == 0:
            return
        if who != pid:
            continue
        if os.WIFSTOPPED(status):
            channel.send({"stopped": os.WSTOPSIG(status)})
            continue
        ended = os.waitstatus_to_exitcode(status)
        if ended < 0:
            channel.send({"killed": -ended})
        os._exit(shell_code(ended))


def shell_code(ended: int) -> int:
    """An exit code as shells show it: itself, or 128 + signal for -signal."""
    return ended if ended >= 0 else 128 - ended
