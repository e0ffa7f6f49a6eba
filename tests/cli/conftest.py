# SPDX-License-Identifier: Apache-2.0
"""The command line in this process, against a whole switch in memory behind its real API."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))

from served import Served, serve

from vswitch.cli.main import status_of


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def refusal(self) -> str:
        """The one line on stderr, without the program's name."""
        assert self.err.startswith("vswitch: ") and self.err.count("\n") == 1, self.err
        return self.err.removeprefix("vswitch: ").rstrip("\n")


class CommandLine:
    """`vswitch ARGUMENTS` by calling: `cli("ps", "-a")`."""

    def __init__(self, capfd: pytest.CaptureFixture[str]):
        self._capfd = capfd

    def __call__(self, *arguments: str) -> Done:
        status = status_of(list(arguments))
        out, err = self._capfd.readouterr()
        return Done(status, out, err)

    def granted(self, *arguments: str) -> Done:
        done = self(*arguments)
        assert done.status == 0, done
        return done


@pytest.fixture
def served(tmp_path) -> Iterator[Served]:
    """A switch of the test's own, in memory."""
    with serve(str(tmp_path)) as running:
        yield running


@pytest.fixture
def cli(served, monkeypatch, capfd) -> CommandLine:
    """The command line, where VSWITCH_SOCKET leads to `served`."""
    monkeypatch.setenv("VSWITCH_SOCKET", served.path)
    return CommandLine(capfd)


@pytest.fixture
def lonely(tmp_path, monkeypatch, capfd) -> CommandLine:
    """The command line where no switch runs."""
    monkeypatch.setenv("VSWITCH_SOCKET", str(tmp_path / "nobody.sock"))
    return CommandLine(capfd)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen]:
    """A process in a network namespace of its own."""
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()
