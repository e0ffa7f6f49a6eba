# SPDX-License-Identifier: Apache-2.0
"""The place a run happens in: its own mount namespace, network namespaces, processes, scratch folder.

The bench leaves the machine's mount namespace first and puts an empty tmpfs on /run/netns, so its
namespaces are seen by nobody else and vanish with it even after SIGKILL; every process it starts dies with
it too (PR_SET_PDEATHSIG). On every other way out, SIGINT included, close() ends processes in reverse order
of their start, waits for them, and removes namespaces and scratch files.

Children stay in the bench's session (the scheduler's autogroups are per session: a switch in one of its own
would get another share of the CPU than its neighbour), in process groups of their own, so that Ctrl-C
reaches the bench alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PR_SET_PDEATHSIG = 1
NETNS_FOLDER = Path("/run/netns")
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
END_S = 5.0  # from SIGTERM to SIGKILL

libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A program that didn't do what a measurement needs; the text is its own last line where it said one."""


def checked(result: int, what: str) -> None:
    """Raises OSError for a libc call that returned -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def leave_the_mount_namespace() -> None:
    """From here on, mounts made by this process and its children are theirs alone."""
    NETNS_FOLDER.mkdir(parents=True, exist_ok=True)
    checked(libc.unshare(CLONE_NEWNS), "unshare")
    checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount --make-rprivate /")
    checked(libc.mount(b"none", os.fsencode(NETNS_FOLDER), b"tmpfs", 0, b"mode=755"), "mount /run/netns")


def last_line(text: str) -> str:
    """What a program said last; most say there what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def blame(name: str, said: str) -> Failed:
    """What a program said last, with its name in front once."""
    return Failed(said if said.startswith(f"{name}: ") else f"{name}: {said}")


def until(found: Callable[[], Any], within_s: float, what: str) -> Any:
    """Polls until `found` returns something true, and returns that; Failed with `what` after that time."""
    deadline_at = time.monotonic() + within_s
    while not (result := found()):
        if time.monotonic() > deadline_at:
            raise Failed(f"{what} within {within_s:g} s")
        time.sleep(0.01)
    return result


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that end the run wait until this is done: nothing is started that nobody knows of."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Process:
    """A program that runs beside the bench. What it says is in `out` and `errors` (files)."""

    def __init__(self, popen: subprocess.Popen, name: str, out: Path, errors: Path):
        self.popen, self.name, self.out, self.errors = popen, name, out, errors
        self.pid = popen.pid

    def running(self) -> bool:
        """False once it has ended (it is reaped then)."""
        return self.popen.poll() is None

    def wait(self, within_s: float) -> str:
        """What it printed until it ended by itself; Failed if it doesn't, or if it ended badly."""
        try:
            status = self.popen.wait(within_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise Failed(f"{self.name}: no end within {within_s:g} s") from None
        if status != 0:
            raise blame(self.name, last_line(self.errors.read_text()) or f"exit status {status}")
        return self.out.read_text()

    def wait_ready(self, word: str, within_s: float = 5.0) -> None:
        """Until it has printed `word`."""
        self.until(lambda: word in self.out.read_text(), within_s, f"{self.name} didn't say {word}")

    def until(self, found: Callable[[], bool], within_s: float, what: str) -> None:
        """Polls `found`, but gives up at once when the program has ended."""
        until(lambda: found() or not self.running(), within_s, what)
        if not self.running() and not found():
            raise Failed(f"{self.name} ended: {last_line(self.errors.read_text()) or 'without a word'}")

    def ask_to_end(self, number: int = signal.SIGTERM) -> None:
        """A signal, and SIGCONT in case it was stopped."""
        if self.running():
            self.popen.send_signal(number)
            self.popen.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Gone when this returns."""
        self.ask_to_end()
        try:
            self.popen.wait(END_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


class Sandbox:
    """Context manager; one per run. `congestion_control`: of TCP between namespaces; None: the machine's own."""

    def __init__(self, congestion_control: str | None = None) -> None:
        self.congestion_control = congestion_control
        self.prefix = f"vsb{os.getpid()}"
        self.namespaces: list[str] = []
        self.processes: list[Process] = []
        self.started = 0

    def __enter__(self) -> Sandbox:
        leave_the_mount_namespace()
        self.scratch = Path(tempfile.mkdtemp(prefix="vswitch-bench-"))
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def folder(self, name: str) -> Path:
        """A folder of that name for one subject's files."""
        made = self.scratch / name
        made.mkdir()
        return made

    def add_namespaces(self, *roles: str) -> list[str]:
        """New network namespaces, loopback up; returns their full names."""
        names = [f"{self.prefix}-{role}" for role in roles]
        self.ip_batch([f"netns add {name}" for name in names])
        self.namespaces += names
        for name in names:
            self.run(["ip", "link", "set", "lo", "up"], name)
        return names

    def remove_namespaces(self, names: list[str]) -> None:
        """Their devices go with them."""
        present = [name for name in names if (NETNS_FOLDER / name).exists()]
        self.ip_batch([f"netns del {name}" for name in present])
        self.namespaces = [name for name in self.namespaces if name not in names]

    def pace(self, namespaces: list[str]) -> None:
        """From now on their TCP over IPv4 has the run's congestion control. It is written into their routes
        (RTAX_CC_ALGO), because what a namespace's own setting may name is up to the machine's.
        """
        for name in namespaces if self.congestion_control else []:
            routes = self.run(["ip", "-4", "route", "show", "table", "all"], name).splitlines()
            self.ip_batch([f"route replace {route} congctl {self.congestion_control}" for route in routes], name)

    def ip_batch(self, lines: list[str], netns: str | None = None) -> None:
        """Many `ip` commands for the price of one start."""
        self.run(["ip", "-batch", "-"], netns, stdin="\n".join(lines) + "\n", timeout_s=60)

    def run(
        self,
        argv: list[str | Path],
        netns: str | None = None,
        *,
        stdin: str = "",
        timeout_s: float = 30.0,
        environment: dict[str, str] | None = None,
    ) -> str:
        """A program to its end; returns what it printed. Failed if it ends badly or not in time."""
        with self._door(netns) as door:
            try:
                done = subprocess.run(
                    argv,
                    input=stdin,
                    capture_output=True,
                    text=True,
                    timeout=timeout_s,
                    check=False,
                    preexec_fn=door.go_through,
                    process_group=0,
                    env={**os.environ, **(environment or {})},
                )
            except subprocess.TimeoutExpired:
                raise Failed(f"{Path(argv[0]).name}: no end within {timeout_s:g} s") from None
        if done.returncode != 0:
            said = last_line(done.stderr) or last_line(done.stdout) or f"exit status {done.returncode}"
            raise blame(Path(argv[0]).name, said)
        return done.stdout

    def spawn(
        self,
        argv: list[str | Path],
        netns: str | None = None,
        *,
        keep_stdin: bool = False,
        environment: dict[str, str] | None = None,
    ) -> Process:
        """A program beside the bench; `keep_stdin`: its standard input stays open, and silent."""
        self.started += 1
        name = Path(argv[0]).name
        out, errors = (self.scratch / f"{self.started:04}-{name}.{kind}" for kind in ("out", "err"))
        streams = {"stdin": subprocess.PIPE if keep_stdin else subprocess.DEVNULL}
        with self._door(netns) as door, open(out, "wb") as to_out, open(errors, "wb") as to_errors:
            streams |= {"stdout": to_out, "stderr": to_errors}
            with uninterrupted():
                popen = subprocess.Popen(
                    argv,
                    **streams,
                    preexec_fn=door.go_through,
                    process_group=0,
                    env={**os.environ, **(environment or {})},
                )
                process = Process(popen, name, out, errors)
                self.processes.append(process)
        return process

    def end(self, *processes: Process) -> None:
        """Ends them together and forgets them."""
        for process in processes:
            process.ask_to_end()
        for process in processes:
            process.end()
            if process.popen.stdin:
                process.popen.stdin.close()
        self.processes = [process for process in self.processes if process not in processes]

    def close(self) -> None:
        """Everything goes; a second Ctrl-C doesn't interrupt this."""
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        self.end(*reversed(self.processes))
        try:
            self.remove_namespaces(list(self.namespaces))
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _door(self, netns: str | None) -> Door:
        return Door(None if netns is None else NETNS_FOLDER / netns)


class Door:
    """Between fork and exec: into the network namespace, and dying with the bench."""

    def __init__(self, netns_file: Path | None):
        self.netns_file = netns_file
        self.descriptor: int | None = None

    def __enter__(self) -> Door:
        if self.netns_file is not None:
            self.descriptor = os.open(self.netns_file, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)

    def go_through(self) -> None:
        """Runs in the child."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        if self.descriptor is not None:
            checked(libc.setns(self.descriptor, CLONE_NEWNET), "setns")
