# SPDX-License-Identifier: Apache-2.0
"""The supervisor's loop with a program that is a fake: what is left in a pipe, and how ends are told."""
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vswitch.container.log import READ_BYTES, LogFile, Pump
from vswitch.container.signals import SignalQueue
from vswitch.container.supervise import supervise


class Ended:
    """A program that has ended already; its pidfd is any readable descriptor."""

    events_fd = None

    def __init__(self, pidfd: int, ended: int) -> None:
        self.pidfd, self._ended = pidfd, ended

    def signal(self, number: int, *, group: bool) -> None: ...
    def resume(self, *, foreground: bool) -> None: ...

    def stops(self) -> list[int]:
        return []

    def reap(self) -> int:
        return self._ended


@pytest.fixture
def ready_fd() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(writing)
    yield reading
    os.close(reading)


@pytest.mark.parametrize(("ended", "status"), [(0, 0), (7, 7), (255, 255), (-9, 137), (-15, 143)])
def test_an_end_is_told_as_shells_do(ready_fd: int, ended: int, status: int):
    with SignalQueue() as signals:
        assert supervise(Ended(ready_fd, ended), signals, None) == status


def test_what_a_large_pipe_still_holds_at_the_end_is_kept(ready_fd: int, tmp_path: Path):
    reading, writing = os.pipe()
    size = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4 * READ_BYTES)
    os.write(writing, b"x" * size)
    with SignalQueue() as signals:
        supervise(Ended(ready_fd, 0), signals, None, Pump(reading, LogFile(str(tmp_path / "log"))))
    assert (tmp_path / "log").stat().st_size == size
    os.close(reading)
    os.close(writing)


def test_somebody_who_never_stops_writing_does_not_keep_us(ready_fd: int):
    class Endless:
        def __init__(self) -> None:
            self.fd = os.open("/dev/zero", os.O_RDONLY)
            self.pumped = 0

        def pump(self) -> bool:
            self.pumped += 1
            return True

    endless = Endless()
    with SignalQueue() as signals:
        assert supervise(Ended(ready_fd, 3), signals, None, endless) == 3
    assert 1 < endless.pumped < 100
    os.close(endless.fd)
