# SPDX-License-Identifier: Apache-2.0
"""Noticing that a process or a named namespace ended, on both event loops."""
import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from vswitch.container.watch import NamespaceWatcher

DEADLINE_S = 10.0
NAME = f"vt-cont-watch-{os.getpid()}"
SLOW = 3600.0  # a scan that never comes: what is noticed, is noticed at once


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request) -> Callable[[Coroutine], None]:
    def run(coroutine: Coroutine) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(coroutine)

    return run


Change = Callable[[Path], Awaitable[None]]


class Calls:
    """A callback that counts, and can be waited for."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._event.set()

    async def arrive(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self._event.wait()


async def turn_over() -> None:
    """Let everything happen that is due already."""
    for _ in range(20):
        await asyncio.sleep(0)


def start(*command: str) -> tuple[subprocess.Popen, int]:
    process = subprocess.Popen(command)
    return process, os.pidfd_open(process.pid)


def inode(path: Path) -> int:
    return path.stat().st_ino


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_processs_end_is_noticed_once(run):
    async def check() -> None:
        watcher, calls = NamespaceWatcher(scan_interval_s=SLOW), Calls()
        process, pidfd = start("sleep", "60")
        watcher.watch_pid(pidfd, calls)
        os.close(pidfd)  # the watcher has its own
        await turn_over()
        assert calls.count == 0
        process.kill()
        await calls.arrive()
        process.wait()
        await turn_over()
        assert calls.count == 1

    run(check())


def test_a_process_that_has_ended_already_is_noticed_but_not_from_within(run):
    async def check() -> None:
        watcher, calls = NamespaceWatcher(scan_interval_s=SLOW), Calls()
        process, pidfd = start("true")
        process.wait()
        watcher.watch_pid(pidfd, calls)
        assert calls.count == 0
        await calls.arrive()
        os.close(pidfd)

    run(check())


def test_two_watches_of_one_pidfd_are_independent(run):
    async def check() -> None:
        watcher, first, second = NamespaceWatcher(scan_interval_s=SLOW), Calls(), Calls()
        process, pidfd = start("sleep", "60")
        forgotten = watcher.watch_pid(pidfd, first)
        watcher.watch_pid(pidfd, second)
        watcher.forget(forgotten)
        process.kill()
        await second.arrive()
        process.wait()
        os.close(pidfd)
        assert first.count == 0

    run(check())


def test_forgetting_is_idempotent_and_leaves_nothing_open(run, tmp_path: Path):
    async def check() -> None:
        watcher, calls = NamespaceWatcher(scan_interval_s=SLOW), Calls()
        (tmp_path / "ns").touch()
        before = open_fds()
        pidfd = os.pidfd_open(os.getpid())
        watches = [
            watcher.watch_pid(pidfd, calls),
            watcher.watch_path(str(tmp_path / "ns"), inode(tmp_path / "ns"), calls),
        ]
        os.close(pidfd)
        for watch in [*watches, *watches, None]:
            watcher.forget(watch)
        await turn_over()
        assert open_fds() == before
        assert watcher._timer is None
        (tmp_path / "ns").unlink()
        await turn_over()
        assert calls.count == 0

    run(check())


def test_close_forgets_everything(run, tmp_path: Path):
    async def check() -> None:
        watcher, calls = NamespaceWatcher(scan_interval_s=SLOW), Calls()
        before = open_fds()
        for name in "abc":
            (tmp_path / name).touch()
            watcher.watch_path(str(tmp_path / name), inode(tmp_path / name), calls)
        pidfd = os.pidfd_open(os.getpid())
        watcher.watch_pid(pidfd, calls)
        os.close(pidfd)
        watcher.close()
        watcher.close()
        assert open_fds() == before

    run(check())


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    path.with_name("other").touch()
    path.with_name("other").rename(path)


def move_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def remove_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


@pytest.mark.parametrize("change", [remove, replace, move_away, remove_folder, move_folder])
def test_a_path_that_changes_is_noticed_at_once(run, tmp_path: Path, change: Callable[[Path], None]):
    async def check() -> None:
        watcher, calls, other = NamespaceWatcher(scan_interval_s=SLOW), Calls(), Calls()
        folder = tmp_path / "netns"
        folder.mkdir()
        (folder / "ns").touch()
        (tmp_path / "bystander").touch()
        watcher.watch_path(str(folder / "ns"), inode(folder / "ns"), calls)
        watcher.watch_path(str(tmp_path / "bystander"), inode(tmp_path / "bystander"), other)
        await turn_over()
        change(folder / "ns")
        await calls.arrive()
        await turn_over()
        assert (calls.count, other.count) == (1, 0)
        watcher.close()

    run(check())


def test_other_names_in_the_folder_are_no_news(run, tmp_path: Path):
    async def check() -> None:
        watcher, calls, last = NamespaceWatcher(scan_interval_s=SLOW), Calls(), Calls()
        for name in ("ns", "last"):
            (tmp_path / name).touch()
        watcher.watch_path(str(tmp_path / "ns"), inode(tmp_path / "ns"), calls)
        watcher.watch_path(str(tmp_path / "last"), inode(tmp_path / "last"), last)
        for number in range(50):
            (tmp_path / f"other{number}").touch()
            (tmp_path / f"other{number}").unlink()
        (tmp_path / "last").unlink()
        await last.arrive()
        assert calls.count == 0
        watcher.close()

    run(check())


def test_a_path_that_is_gone_already_is_noticed_but_not_from_within(run, tmp_path: Path):
    async def check() -> None:
        watcher, calls = NamespaceWatcher(scan_interval_s=SLOW), Calls()
        watcher.watch_path(str(tmp_path / "nowhere" / "ns"), 1, calls)
        assert calls.count == 0
        await calls.arrive()

    run(check())


def test_a_symlink_is_watched_where_it_leads(run, tmp_path: Path):
    async def check() -> None:
        watcher, calls = NamespaceWatcher(scan_interval_s=SLOW), Calls()
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "ns").touch()
        (tmp_path / "link").symlink_to("real/ns")
        watcher.watch_path(str(tmp_path / "link"), inode(tmp_path / "real" / "ns"), calls)
        await turn_over()
        (tmp_path / "real" / "ns").unlink()
        await calls.arrive()

    run(check())


def test_without_inotify_the_scan_notices(run, tmp_path: Path, monkeypatch, caplog):
    import inotify_simple

    def none_left(**_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(inotify_simple, "INotify", none_left)

    async def check() -> None:
        watcher = NamespaceWatcher(scan_interval_s=0.01)
        calls = {name: Calls() for name in "abc"}
        for name in calls:
            (tmp_path / name).touch()
            watcher.watch_path(str(tmp_path / name), inode(tmp_path / name), calls[name])
        await turn_over()
        for name in "ab":  # each is seen by a scan of its own
            (tmp_path / name).unlink()
            await calls[name].arrive()
        assert calls["c"].count == 0
        watcher.close()

    run(check())
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path} is looked at every so often only: inotify: Too many open files"
    ]


def test_there_is_no_timer_while_no_path_is_watched(run, tmp_path: Path):
    async def check() -> None:
        watcher, calls = NamespaceWatcher(scan_interval_s=SLOW), Calls()
        pidfd = os.pidfd_open(os.getpid())
        watcher.watch_pid(pidfd, calls)
        os.close(pidfd)
        assert watcher._timer is None
        (tmp_path / "ns").touch()
        watch = watcher.watch_path(str(tmp_path / "ns"), inode(tmp_path / "ns"), calls)
        assert watcher._timer is not None
        watcher.forget(watch)
        assert watcher._timer is None
        watcher.close()

    run(check())


def test_a_callback_may_watch_again_and_close(run, tmp_path: Path):
    async def check() -> None:
        watcher, calls = NamespaceWatcher(scan_interval_s=SLOW), Calls()
        path = tmp_path / "ns"
        path.touch()

        def again() -> None:
            watcher.watch_path(str(path), 1, calls)

        watcher.watch_path(str(path), inode(path), again)
        await turn_over()
        path.unlink()
        await calls.arrive()
        watcher.close()

    run(check())


async def ip(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", *arguments)
    assert await process.wait() == 0


@pytest.fixture
def netns():
    subprocess.run(["ip", "netns", "add", NAME], check=True)
    yield Path("/run/netns") / NAME
    subprocess.run(["ip", "netns", "del", NAME], stderr=subprocess.DEVNULL)


async def deleted(_: Path) -> None:
    await ip("netns", "del", NAME)


async def made_again(_: Path) -> None:
    await ip("netns", "del", NAME)
    await ip("netns", "add", NAME)


@pytest.mark.root
@pytest.mark.parametrize("change", [deleted, made_again])
def test_a_named_namespace_that_goes_is_noticed_at_once(run, netns: Path, change: Change):
    async def check() -> None:
        watcher, calls = NamespaceWatcher(scan_interval_s=SLOW), Calls()
        watcher.watch_path(str(netns), inode(netns), calls)
        await turn_over()
        assert calls.count == 0
        await change(netns)
        await calls.arrive()
        await turn_over()
        assert calls.count == 1

    run(check())


@pytest.mark.root
def test_an_unmounted_name_is_noticed_by_the_scan(run, netns: Path):
    async def check() -> None:
        watcher, calls = NamespaceWatcher(scan_interval_s=0.01), Calls()
        watcher.watch_path(str(netns), inode(netns), calls)
        await turn_over()
        process = await asyncio.create_subprocess_exec("umount", str(netns))
        assert await process.wait() == 0
        await calls.arrive()

    run(check())
