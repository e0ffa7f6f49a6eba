# SPDX-License-Identifier: Apache-2.0
"""Somebody at a shell of the host who types `vswitch …`: root, or an ordinary user. Their own switch is running."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from living_switch import BIN, LivingSwitch, Namespace
from rootless_switch import rootless_switch

Command = Callable[..., list[str]]


class Person:
    """`program` makes the command that runs a program as them, `vswitch` that of `vswitch`; `home` is where they are.
    `host` is the network that plays the host's.
    """

    def __init__(self, switch, host: Namespace, home: Path, program: Command, vswitch: Command, environment: dict):
        self.switch, self.host, self.home, self.environment = switch, host, home, environment
        self.program, self.vswitch = program, vswitch

    def start(self, line: str, **options) -> subprocess.Popen:
        """Types a line and doesn't wait."""
        first, *others = shlex.split(line)
        command = self.vswitch(*others) if first == "vswitch" else self.program(first, *others)
        return subprocess.Popen(command, cwd=self.home, env=self.environment, text=True, **options)

    def _done(self, line: str) -> tuple[int, str, str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.start(line, **pipes) as program:
            try:
                output, errors = program.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                program.kill()
                raise
        return program.returncode, output, errors

    def __call__(self, line: str) -> str:
        """Types a line, which succeeds: what it prints."""
        status, output, errors = self._done(line)
        assert status == 0, f"{line}\n→ {status}\n{output}{errors}"
        return output

    def status(self, line: str) -> int:
        """Types a line: its exit status."""
        return self._done(line)[0]

    def refused(self, line: str) -> str:
        """Types a line of `vswitch`, which is refused: the one line that says why."""
        status, output, errors = self._done(line)
        assert status in (1, 125) and output == "" and errors.count("\n") == 1, f"{line}\n→ {status}\n{output}{errors}"
        return errors

    def json(self, line: str):
        """What a listing of `vswitch` prints with --json."""
        return json.loads(self(f"{line} --json"))

    def inside(self, container: str, script: str) -> str:
        """What a script prints in a container; it succeeds."""
        return self(f"vswitch exec {container} -- sh -c {shlex.quote(script)}")


@contextlib.contextmanager
def root_person(scratch: Path, resolv_conf: Path) -> Iterator[Person]:
    """Root."""
    switch = LivingSwitch(scratch)
    switch.resolv_conf = resolv_conf
    environment = {**os.environ, "VSWITCH_SOCKET": switch.socket}

    def program(*words: str) -> list[str]:
        return ["nsenter", f"--net={switch.host.path}", *words]

    def vswitch(*words: str) -> list[str]:
        return program(str(BIN / "vswitch"), *words)

    try:
        switch.start()
        yield Person(switch, switch.host, scratch, program, vswitch, environment)
    finally:
        switch.close()


@contextlib.contextmanager
def user_person(scratch: Path, resolv_conf: Path) -> Iterator[Person]:
    """An ordinary user, who may ping, as systemd lets everybody."""
    host = Namespace(f"vt{os.getpid()}person")
    try:
        host.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
        with rootless_switch(host, resolv_conf) as switch:

            def vswitch(*words: str) -> list[str]:
                return switch.command("vswitch.cli.main", *words)

            yield Person(switch, host, switch.place, switch.as_user, vswitch, switch.environment)
    finally:
        host.remove()
