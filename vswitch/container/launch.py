# SPDX-License-Identifier: Apache-2.0
"""`vswitch run`: a container in two steps, with room between them for the switch to attach it.

    with prepare(detached=…, on_exit=report) as prepared:    namespaces exist, PID 1 waits
        … register with the daemon: .origin .netns_fd .userns_fd .pidfd out; id, files and log path back …
        status = prepared.go([...], …)                       without go, the end of the block aborts

Foreground: this process is the supervisor; go returns the program's exit status. Detached: the supervisor is
forked twice in prepare, in a session of its own, child of nobody who waits; go returns 0 once the program
runs; stdin is /dev/null, stdout and stderr go to the log. In both, 126 and 127 come back (after one line on
stderr) if the program cannot be run or found, and what vswitch itself could not do is a Refused, for the
caller to report with exit status 125.

`on_exit(tag, exit_code)` runs in the supervisor exactly once after go, when the container is over; its
failures go to stderr or the log. No thread may exist in the calling process, since it forks. Files are
flushed before.
"""
from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn, Protocol

from vswitch.container import namespaces
from vswitch.container.adopt import adopt, refusal
from vswitch.container.channel import Channel, let_go_of_all_but
from vswitch.container.init import main, shell_code
from vswitch.container.isolate import Shared, isolate
from vswitch.container.log import CAP_BYTES, LogFile, Pump
from vswitch.container.signals import SignalQueue
from vswitch.container.supervise import Contained, supervise
from vswitch.container.terminal import Terminal
from vswitch.model import NamespaceOrigin, Refused

OnExit = Callable[[str, int], None]
FAILED = 125


class FileTexts(Protocol):
    """What vswitch.container.files.Files is; its module is not needed here."""

    resolv_conf: str | None
    hosts: str | None
    hostname: str | None


def prepare(
    *, detached: bool = False, on_exit: OnExit | None = None, shared: Shared | None = None
) -> Prepared:
    """Make a container's namespaces and its waiting PID 1. Refused, with the remedy, if forbidden.

    With `shared`, its network is one that is there already; the descriptors stay the caller's.
    """
    occupy_standard_descriptors()
    sys.stdout and sys.stdout.flush()
    sys.stderr and sys.stderr.flush()
    return (_PreparedDetached if detached else _PreparedHere)(on_exit, shared)


def occupy_standard_descriptors() -> None:
    """Descriptors 0 to 2 are open afterwards; best called first of all, or a socket may be one of them."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        os.set_inheritable(fd, True)
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)


class Prepared:
    """Namespaces that wait for a program. The descriptors are this object's: `go` and `abort` close them."""

    pid: int
    pidfd: int
    netns_fd: int
    userns_fd: int | None
    origin: NamespaceOrigin
    network: str  # "own", "shared" (another container's), "host" (the caller's)

    def _adopt_namespaces(self, pid: int, shared: Shared | None) -> None:
        self.network = "own" if shared is None else "host" if shared.netns_fd is None else "shared"
        found = namespaces.open_pid(pid, to_enter=self.network != "host")
        self.pid, (self.netns_fd, self.userns_fd, self.pidfd) = pid, found
        self.origin = namespaces.origin(found.netns_fd, pid=pid)
        self._open = [fd for fd in found if fd is not None]
        self._over = False

    def go(
        self,
        command: list[str],
        *,
        env: Mapping[str, str],
        files: FileTexts,
        hostname: str,
        workdir: str | None = None,
        capabilities: Collection[int] | None = None,
        tag: str = "",
        log_path: str | None = None,
        log_cap_bytes: int = CAP_BYTES,
    ) -> int:
        """Run the program; `env` is its environment, `capabilities` as from capabilities.wanted."""
        if not command:
            raise Refused("there is no command to run")
        order = {
            "command": list(command),
            "environment": _with_hostname(env, hostname),
            "workdir": workdir,
            "files": {"resolv_conf": files.resolv_conf, "hosts": files.hosts, "hostname": files.hostname},
            "hostname": hostname,
            "network": self.network,
            "capabilities": None if capabilities is None else sorted(capabilities),
            "session": "new", "foreground": False, "ignored": [],
        }  # fmt: skip
        self._over = True
        return self._go(order, {"tag": tag, "log_path": log_path, "log_cap_bytes": log_cap_bytes})

    def _go(self, order: dict[str, Any], keeping: dict[str, Any]) -> int:
        raise NotImplementedError

    def abort(self) -> None:
        """End the waiting container; nothing of it is left afterwards. Idempotent; nothing after go."""
        if not self._over:
            self._over = True
            self._abort()
            self._close()

    def _abort(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def __enter__(self) -> Prepared:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


def _with_hostname(env: Mapping[str, str], hostname: str) -> dict[str, str]:
    """HOSTNAME is the container's, unless `env` says another than the one we inherited."""
    inherited = env.get("HOSTNAME") in (None, os.environ.get("HOSTNAME"))
    return {**env, "HOSTNAME": hostname} if inherited else dict(env)


class _PreparedHere(Prepared):
    """The caller is the supervisor."""

    def __init__(self, on_exit: OnExit | None, shared: Shared | None) -> None:
        self._on_exit = on_exit
        self._terminal = Terminal.find()
        has_terminal = self._terminal is not None
        pid, self._channel = adopt(lambda: isolate(shared), lambda channel: main(channel, has_terminal))
        try:
            self._adopt_namespaces(pid, shared)
        except BaseException:
            _end_waiting(pid, self._channel)
            raise

    def _go(self, order: dict[str, Any], keeping: dict[str, Any]) -> int:
        self._let_go_of_namespaces()
        status = FAILED
        try:
            with SignalQueue() as signals:
                status = self._run(order, signals)
        finally:
            self._close()
            self._channel.close()
            _report(self._on_exit, keeping["tag"], status)
        return status

    def _let_go_of_namespaces(self) -> None:
        """Only the pidfd is still needed; an open namespace would outlive the container."""
        for fd in self._open:
            if fd != self.pidfd:
                os.close(fd)
        self._open = [self.pidfd]

    def _run(self, order: dict[str, Any], signals: SignalQueue) -> int:
        terminal = self._terminal
        if terminal:
            order |= {"session": "group", "foreground": terminal.lend()}
        order["ignored"] = signals.ignored
        self._channel.send(order)
        answer = self._channel.receive()
        if answer and "started" in answer:
            return supervise(Contained(self.pid, self.pidfd, self._channel), signals, terminal)
        status = shell_code(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]))
        if terminal:
            terminal.take_back()
        return _not_started(answer, status)

    def _abort(self) -> None:
        _end_waiting(self.pid, self._channel)

    def _close(self) -> None:
        super()._close()
        if self._terminal:
            self._terminal.close()
            self._terminal = None


def _not_started(answer: dict[str, Any] | None, status: int) -> int:
    """The exit code of a program that could not be run; Refused for a container that could not be set up."""
    if answer and "failed" in answer:
        print(f"vswitch: {answer['message']}", file=sys.stderr, flush=True)
        return answer["failed"]
    if answer is None and status > 128:
        return status  # PID 1 was killed before the program began
    raise refusal(answer)


def _end_waiting(pid: int, channel: Channel) -> None:
    """Kill a PID 1 of ours and wait for its end."""
    channel.close()
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _report(on_exit: OnExit | None, tag: str, status: int) -> None:
    """Tell the caller's callback; a daemon that is gone must not hide the program's own status."""
    try:
        if on_exit:
            on_exit(tag, status)
    except Exception as error:
        print(f"vswitch: exit status {status} could not be reported: {error}", file=sys.stderr, flush=True)


class _PreparedDetached(Prepared):
    """The supervisor is a process of its own; this is the caller's handle on it until the program runs."""

    def __init__(self, on_exit: OnExit | None, shared: Shared | None) -> None:
        self._control, theirs = Channel.pair()
        intermediate = os.fork()
        if intermediate == 0:
            self._control.close()
            _fork_supervisor(theirs, on_exit, shared)
        theirs.close()
        os.waitpid(intermediate, 0)
        answer = self._control.receive()
        if answer is None or "pid" not in answer:
            self._control.close()
            raise refusal(answer)
        try:
            self._adopt_namespaces(answer["pid"], shared)
        except BaseException:
            self._abort()
            raise

    def _go(self, order: dict[str, Any], keeping: dict[str, Any]) -> int:
        self._close()
        self._control.send({"order": order, **keeping})
        answer = self._control.receive()
        self._control.close()
        if answer and "started" in answer:
            return 0
        return _not_started(answer, answer.get("status", 0) if answer else 0)

    def _abort(self) -> None:
        """The supervisor sees the end of orders, ends the container, and then itself."""
        self._control.send({"order": None})
        self._control.receive()
        self._control.close()


def _fork_supervisor(control: Channel, on_exit: OnExit | None, shared: Shared | None) -> NoReturn:
    """In the intermediate: a session without a terminal, a second fork, so that the caller is no parent."""
    try:
        os.setsid()
        if os.fork() == 0:
            _supervise_detached(control, on_exit, shared)
    finally:
        os._exit(0)


def _supervise_detached(control: Channel, on_exit: OnExit | None, shared: Shared | None) -> NoReturn:
    """The life of a detached supervisor."""
    try:
        let_go_of_all_but({control.fd, *(fd for fd in shared or () if fd is not None)})
        pid, channel, pipe = _prepare_detached(control, shared)
        ask = control.receive()
        if ask is None or ask["order"] is None:
            _end_waiting(pid, channel)
        else:
            _run_detached(ask, pid, channel, pipe, control, on_exit)
    except Refused as refused:
        control.send({"refused": str(refused), "status": refused.status})
    except BaseException as error:
        control.send({"refused": f"the supervisor failed: {type(error).__name__}: {error}"})
        print(f"vswitch: the supervisor failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(0)


def _prepare_detached(control: Channel, shared: Shared | None) -> tuple[int, Channel, int]:
    """A waiting PID 1 whose output comes out of a pipe: (pid, channel, the pipe's end for us)."""
    pipe, their_end = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    for fd, source in enumerate((null, their_end, their_end)):
        os.dup2(source, fd)
    os.close(their_end)
    pid, channel = adopt(lambda: isolate(shared), lambda channel: main(channel, False))
    for fd in shared or ():
        if fd is not None:
            os.close(fd)  # it would keep the other's namespace alive
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    os.chdir("/")
    control.send({"pid": pid})
    return pid, channel, pipe


def _run_detached(
    ask: dict[str, Any], pid: int, channel: Channel, pipe: int, control: Channel, on_exit: OnExit | None
) -> None:
    """Start the program, say how that went, keep its output, report its end."""
    log = LogFile(ask["log_path"] or os.devnull, ask["log_cap_bytes"])
    sys.stdout = sys.stderr = log
    with SignalQueue() as signals:
        pidfd = os.pidfd_open(pid)
        channel.send(ask["order"])
        answer = channel.receive()
        control.send(answer or {"refused": "the container ended before its program began"})
        control.close()
        output = Pump(pipe, log)
        status = supervise(Contained(pid, pidfd, channel), signals, None, output)
    _report(on_exit, ask["tag"], status)
