# SPDX-License-Identifier: Apache-2.0
"""Job control: a real shell on a real pty, and containers in it."""
import fcntl
import os
import pty
import select
import shlex
import signal
import struct
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mini_containers import DEADLINE_S, Containers, until

pytestmark = pytest.mark.root

PROMPT = "host> "
INNER_PROMPT = "inner> "
BASH = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
CTRL_C, CTRL_D, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x04", "\x1a", "\x1c"


class Screen:
    """An interactive bash on a pty; reads forward only."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._seen = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.execvpe("bash", BASH, environment | {"PS1": PROMPT})
        self.expect(PROMPT)
        self.line("stty -echo")
        self.expect(PROMPT)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def line(self, command: str) -> None:
        self.type(command + "\n")

    def expect(self, text: str) -> str:
        """Read until the text has come; what came before it."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self._seen:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come, but {self._seen!r}"
            self._seen += os.read(self._fd, 4096).decode()
        before, _, self._seen = self._seen.partition(text)
        return before

    def foreground(self) -> int:
        """The foreground process group."""
        return struct.unpack("i", fcntl.ioctl(self._fd, termios.TIOCGPGRP, bytes(4)))[0]

    def until_in_front(self, program: str) -> None:
        """Wait until the leader of the foreground group executes that program."""
        until(lambda: _program(self.foreground()) == program, f"{program} in front")

    def until_busy(self) -> None:
        """Wait until the shell has put a job of its in front."""
        until(lambda: self.foreground() != self.pid, "a job in front")

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        os.close(self._fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _program(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            return os.path.basename(cmdline.read().split(b"\0")[0].decode())
    except OSError:
        return ""


@pytest.fixture
def screen(containers: Containers) -> Iterator[Screen]:
    screen = Screen(containers.environment())
    yield screen
    screen.close()


def quoted(containers: Containers, *command: str, **options: object) -> str:
    return shlex.join(containers.command(*command, **options))


def shell(containers: Containers, screen: Screen) -> None:
    """Start an interactive bash in a container."""
    env = {"PATH": os.environ["PATH"], "PS1": INNER_PROMPT, "TERM": "dumb"}
    screen.line(quoted(containers, *BASH, env=env))
    screen.expect(INNER_PROMPT)


def test_a_shell_in_a_container_has_job_control(containers: Containers, screen: Screen):
    shell(containers, screen)
    screen.line("sleep 61")
    screen.until_in_front("sleep")
    screen.type(CTRL_Z)
    assert "no job control" not in screen.expect("Stopped")
    screen.expect(INNER_PROMPT)
    screen.line("fg")
    screen.until_in_front("sleep")
    screen.type(CTRL_C)
    screen.expect(INNER_PROMPT)
    screen.line("echo status $?; exit 5")
    screen.expect("status 130")
    screen.expect(PROMPT)
    screen.line("echo status $?")
    screen.expect("status 5")


def test_ctrl_d_ends_the_shell_and_the_terminal_is_the_hosts_again(containers: Containers, screen: Screen):
    shell(containers, screen)
    screen.type(CTRL_D)
    screen.expect(PROMPT)
    screen.line("sleep 62")
    screen.until_in_front("sleep")
    screen.type(CTRL_C)
    screen.expect(PROMPT)


def test_ctrl_z_stops_a_program_and_fg_and_bg_continue_it(containers: Containers, screen: Screen):
    screen.line(quoted(containers, "sleep", "63"))
    screen.until_in_front("sleep")
    screen.type(CTRL_Z)
    screen.expect("Stopped")
    screen.expect(PROMPT)
    screen.line("bg; jobs")
    screen.expect("Running")
    screen.expect(PROMPT)
    screen.line("fg")
    screen.until_busy()
    screen.type(CTRL_Z)
    screen.expect("Stopped")
    screen.expect(PROMPT)
    screen.line("fg")
    screen.until_in_front("sleep")
    screen.type(CTRL_C)
    screen.expect(PROMPT)
    screen.line("echo status $?")
    screen.expect("status 130")


@pytest.mark.parametrize(("key", "status"), [(CTRL_C, 130), (CTRL_BACKSLASH, 131)])
def test_keys_end_a_program_once(containers: Containers, screen: Screen, key: str, status: int):
    screen.line(quoted(containers, "sleep", "64"))
    screen.until_in_front("sleep")
    screen.type(key)
    screen.expect(PROMPT)
    screen.line("echo status $?")
    screen.expect(f"status {status}")


def test_ctrl_c_reaches_a_program_that_catches_it_once(containers: Containers, screen: Screen):
    script = "trap 'echo caught' INT; echo ready; read line; echo said $line"
    screen.line(quoted(containers, "bash", "-c", script))
    screen.expect("ready")
    screen.type(CTRL_C)
    screen.expect("caught")
    screen.line("on")
    assert "caught" not in screen.expect("said on")


def test_a_script_around_the_container_stops_and_ends_with_it(by_root: Containers):
    screen = Screen(by_root.environment())
    screen.line("sh -c " + shlex.quote(quoted(by_root, "sleep", "65") + "; echo not reached"))
    screen.until_in_front("sleep")
    screen.type(CTRL_Z)
    screen.expect("Stopped")
    screen.expect(PROMPT)
    screen.line("fg")
    screen.until_in_front("sleep")
    screen.type(CTRL_C)
    assert "reached\r\n" not in screen.expect(PROMPT)
    screen.close()


def test_a_script_has_the_terminal_back_after_the_container(containers: Containers, screen: Screen):
    screen.line("sh -c " + shlex.quote(quoted(containers, "true") + "; echo next; read x; echo read $x"))
    screen.expect("next")
    screen.line("this")
    screen.expect("read this")
    screen.expect(PROMPT)


def test_a_window_change_reaches_the_program(containers: Containers, screen: Screen):
    flag = containers.path("flag")
    script = f"trap 'stty size' WINCH; echo ready; until [ -e {flag} ]; do sleep 0.01; done"
    screen.line(quoted(containers, "bash", "-c", script))
    screen.expect("ready")
    screen.resize(33, 99)
    screen.expect("33 99")
    Path(flag).touch()
    screen.expect(PROMPT)


def test_in_a_pipeline_the_terminal_is_there_when_it_is_asked_for(containers: Containers, screen: Screen):
    screen.line(quoted(containers, "cat") + " | tr a-z A-Z")
    screen.until_in_front("cat")
    screen.line("hello")
    screen.expect("HELLO")
    screen.type(CTRL_D)
    screen.expect(PROMPT)


def test_ctrl_c_and_ctrl_z_reach_a_program_that_was_redirected(containers: Containers, screen: Screen):
    script = "trap 'exit 44' INT; echo ready >&2; sleep 66; exit 1"  # the trap runs when sleep has ended
    screen.line(quoted(containers, "bash", "-c", script) + " </dev/null >/dev/null")
    screen.expect("ready")
    screen.type(CTRL_Z)
    screen.expect("Stopped")
    screen.expect(PROMPT)
    screen.line("fg")
    screen.until_busy()
    screen.type(CTRL_C)
    screen.expect(PROMPT)
    screen.line("echo status $?")
    screen.expect("status 44")


def test_in_the_background_reading_stops_it_until_fg(containers: Containers, screen: Screen):
    screen.line(quoted(containers, "head", "-n", "1") + " & ")
    screen.expect(PROMPT)

    def stopped() -> bool:
        screen.line("jobs")
        return "Stopped" in screen.expect(PROMPT)

    until(stopped, "the stop")
    screen.line("fg")
    screen.until_in_front("head")
    screen.line("words")
    screen.expect("words")
    screen.expect(PROMPT)


def test_a_terminal_that_goes_away_ends_the_container(containers: Containers):
    screen = Screen(containers.environment())
    info = containers.path("info")
    screen.line(quoted(containers, "sleep", "66", info=info))
    screen.until_in_front("sleep")
    group = screen.foreground()
    screen.close()
    until(lambda: _program(group) == "", "the end of the program")


def test_exec_has_job_control_too(containers: Containers, screen: Screen):
    process = containers.start("sleep", "60")
    env = {"PATH": os.environ["PATH"], "PS1": INNER_PROMPT, "TERM": "dumb"}
    options = {"do": "exec", "target": process.info["pid"], "env": env}
    screen.line(quoted(containers, *BASH, **options))
    screen.expect(INNER_PROMPT)
    screen.line("sleep 67")
    screen.until_in_front("sleep")
    screen.type(CTRL_Z)
    screen.expect("Stopped")
    screen.expect(INNER_PROMPT)
    screen.line("fg")
    screen.until_in_front("sleep")
    screen.type(CTRL_C)
    screen.expect(INNER_PROMPT)
    screen.line("exit 3")
    screen.expect(PROMPT)
    screen.line("echo status $?")
    screen.expect("status 3")
    screen.line(quoted(containers, "sleep", "68", **options))
    screen.until_in_front("sleep")
    screen.type(CTRL_Z)
    screen.expect("Stopped")
    screen.expect(PROMPT)
    screen.line("fg")
    screen.until_in_front("sleep")
    screen.type(CTRL_C)
    screen.expect(PROMPT)
    screen.line("echo status $?")
    screen.expect("status 130")
