# SPDX-License-Identifier: Apache-2.0
"""From a forked child to the user's program: session, terminal, folder, capabilities, signals, exec.

An order is a JSON object: command, environment, workdir (or null), capabilities (numbers, or null for
unlimited), session ("new", or "group" where there is a terminal to share), foreground (take the terminal
now), ignored (signals left ignored). Exit codes as everywhere: 127 the program is not found, 126 it is there
and cannot be run. The parent learns of a failed exec by a pipe that a successful one closes.
"""
from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

from vswitch.container import capabilities, signals
from vswitch.container.channel import Channel, close_all_but
from vswitch.model import Refused

NOT_FOUND, NOT_RUNNABLE = 127, 126
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TERMINAL = "/dev/tty"


class CannotRun(Exception):
    """The program did not start; `exit_code` is 126 or 127."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def start(order: dict[str, Any]) -> int:
    """Fork and execute; the pid once the program runs. CannotRun otherwise."""
    ours, theirs = Channel.pair()
    pid = os.fork()
    if pid == 0:
        become(order, theirs)
    theirs.close()
    failure = ours.receive()
    ours.close()
    if failure is None:
        return pid
    os.waitpid(pid, 0)
    raise CannotRun(failure["failed"], failure["message"])


def become(order: dict[str, Any], report: Channel) -> NoReturn:
    """Turn this forked child into the program; what fails is sent to `report` as {failed, message}."""
    failure = CannotRun(NOT_RUNNABLE, "the program cannot be started")
    try:
        _settle(order, report.fd)
        _execute(order["command"], order["environment"])
    except CannotRun as error:
        failure = error
    except BaseException as error:
        failure = CannotRun(NOT_RUNNABLE, f"{order['command'][0]}: {error}")
    finally:
        report.send({"failed": failure.exit_code, "message": str(failure)})
        os._exit(failure.exit_code)


def _settle(order: dict[str, Any], keep_fd: int) -> None:
    """Everything between fork and exec."""
    close_all_but({keep_fd})
    if order["session"] == "new":
        os.setsid()
    else:
        os.setpgid(0, 0)
        if order["foreground"]:
            _take_terminal()
    _change_folder(order["workdir"])
    if order["capabilities"] is not None:
        capabilities.limit(order["capabilities"])
    signals.restore_defaults(order["ignored"])


def _take_terminal() -> None:
    """Make our process group the terminal's foreground; SIGTTOU is still blocked here."""
    fd = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY)
    os.tcsetpgrp(fd, os.getpgrp())
    os.close(fd)


def _change_folder(workdir: str | None) -> None:
    if workdir is None:
        return
    try:
        os.chdir(workdir)
    except OSError as error:
        raise CannotRun(NOT_RUNNABLE, f"working directory {workdir}: {error.strerror}") from error


def _execute(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Become the program, found by the container's own PATH; it returns only by CannotRun."""
    name = command[0]
    for path in _places(name, environment):
        _execute_path(path, command, environment)
    raise CannotRun(NOT_FOUND, _not_found(name))


def refuse_missing(name: str, environment: dict[str, str], folder: str) -> None:
    """Refused if there is no such folder to run a program in, or no such program from there. It may not run even so."""
    if not os.path.isdir(folder):
        raise Refused(f"working directory {folder}: {os.strerror(errno.ENOENT)}")
    if not any(os.path.lexists(os.path.join(folder, path)) for path in _places(name, environment)):
        raise Refused(_not_found(name))


def _places(name: str, environment: dict[str, str]) -> list[str]:
    """Where a program may be."""
    if not name or "/" in name:
        return [name] if name else []
    return [f"{folder or '.'}/{name}" for folder in environment.get("PATH", DEFAULT_PATH).split(":")]


def _not_found(name: str) -> str:
    if not name:
        return "an empty name is no program"
    return f"{name}: {os.strerror(errno.ENOENT) if '/' in name else 'not found in PATH'}"


def _execute_path(path: str, command: list[str], environment: dict[str, str]) -> None:
    """Try one place; returns if nothing is there, or nothing that we may see."""
    try:
        os.execve(path, command, environment)
    except (FileNotFoundError, NotADirectoryError) as error:
        if os.path.lexists(path):  # a script whose interpreter is missing, a dangling link
            raise CannotRun(NOT_FOUND, f"{path} is there, but what it needs to run is not") from error
    except OSError as error:
        if os.path.lexists(path):
            raise CannotRun(NOT_RUNNABLE, f"{path}: {error.strerror}") from error
