# SPDX-License-Identifier: Apache-2.0
"""How the daemon learns that a namespace ended: the kernel never says, our own descriptors keep it alive.

    by pid    a pidfd becomes readable when the process ends, whoever its parent is: exact, immediate
    by path   inotify on the folder tells of names that come and go; the watched one is then looked at. Lost,
              or no longer the same namespace (another inode): gone. An umount without an unlink, or a path in
              /proc, makes no event, so every SCAN_INTERVAL_S all paths are looked at as well

Looking is stat() of the path: that keeps nothing alive. A watch calls back once, from the event loop and
never from within watch_*, and has then forgotten itself; forgetting twice is nothing. Without watched paths
there is neither an inotify descriptor nor a timer; pids cost no wake-up at all. Works on asyncio's own loop
and on uvloop, which must not be given one descriptor twice: pidfds are duplicated.

Limits: one inotify instance in all; where the system has none left (fs.inotify.max_user_instances, 128 by
default) or no watch for one more folder, paths are found gone by the scan alone, and a warning says so once
per folder.
"""
from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inotify_simple import INotify

log = logging.getLogger(__name__)
SCAN_INTERVAL_S = 30.0  # a leaked namespace costs little memory, a scan of 500 paths some milliseconds

Callback = Callable[[], None]
Changed = Callable[[set[str], set[str]], None]  # (folders, names in them)


class Watch:
    """One thing that is watched; a handle for `forget`."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.active = True


class PidWatch(Watch):
    def __init__(self, pidfd: int, callback: Callback) -> None:
        super().__init__(callback)
        self.pidfd = os.dup(pidfd)


class PathWatch(Watch):
    """`folder` and `name` are where the path really leads, symlinks followed."""

    def __init__(self, path: str, inode: int, callback: Callback) -> None:
        super().__init__(callback)
        self.path, self.inode = path, inode
        self.folder, self.name = os.path.split(os.path.realpath(path))

    def gone(self) -> bool:
        """Whether the path no longer leads to the namespace."""
        try:
            return os.stat(self.path).st_ino != self.inode
        except OSError:
            return True


class NamespaceWatcher:
    """Watches of one daemon, on the running event loop."""

    def __init__(self, *, scan_interval_s: float = SCAN_INTERVAL_S) -> None:
        self._loop = asyncio.get_running_loop()
        self._scan_interval_s = scan_interval_s
        self._pids: set[PidWatch] = set()
        self._paths: set[PathWatch] = set()
        self._folders = _Folders(self._loop, self._look_in)
        self._timer: asyncio.TimerHandle | None = None

    def watch_pid(self, pidfd: int, callback: Callback) -> Watch:
        """Call back when the process of `pidfd` ends; the descriptor stays the caller's."""
        watch = PidWatch(pidfd, callback)
        self._pids.add(watch)
        self._loop.add_reader(watch.pidfd, self._ended, watch)
        return watch

    def watch_path(self, path: str, inode: int, callback: Callback) -> Watch:
        """Call back when `path` no longer is the namespace with this inode."""
        watch = PathWatch(path, inode, callback)
        self._paths.add(watch)
        self._folders.add(watch.folder)
        self._loop.call_soon(self._look_at, watch)  # it may have gone before anyone watched
        if self._timer is None:
            self._timer = self._loop.call_later(self._scan_interval_s, self._scan)
        return watch

    def forget(self, watch: Watch | None) -> None:
        """Stop watching; idempotent, also for a watch that has called back."""
        if watch is None or not watch.active:
            return
        watch.active = False
        if isinstance(watch, PidWatch):
            self._pids.discard(watch)
            self._loop.remove_reader(watch.pidfd)
            os.close(watch.pidfd)
        elif isinstance(watch, PathWatch):
            self._paths.discard(watch)
            self._folders.remove(watch.folder)
        self._rest()

    def close(self) -> None:
        """Forget everything."""
        for watch in [*self._pids, *self._paths]:
            self.forget(watch)

    def _rest(self) -> None:
        """No timer without a path."""
        if not self._paths and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _scan(self) -> None:
        self._timer = self._loop.call_later(self._scan_interval_s, self._scan)
        for watch in list(self._paths):
            self._look_at(watch)

    def _look_in(self, folders: set[str], names: set[str]) -> None:
        """Names changed in these folders; an empty name: anything may have."""
        for watch in list(self._paths):
            if watch.folder in folders and ("" in names or watch.name in names):
                self._look_at(watch)

    def _look_at(self, watch: PathWatch) -> None:
        if watch.active and watch.gone():
            self._ended(watch)

    def _ended(self, watch: Watch) -> None:
        if watch.active:
            self.forget(watch)
            watch.callback()


class _Folders:
    """inotify on the folders of watched paths, counted: several namespaces share /run/netns.

    A folder reached by two paths (a bind mount) has one watch descriptor, hence the sets.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, changed: Changed) -> None:
        self._loop, self._changed = loop, changed
        self._inotify: INotify | None = None
        self._uses: dict[str, int] = {}
        self._watched: dict[int, set[str]] = {}

    def add(self, folder: str) -> None:
        self._uses[folder] = self._uses.get(folder, 0) + 1
        if any(folder in folders for folders in self._watched.values()):
            return
        try:
            self._watched.setdefault(self._add_watch(folder), set()).add(folder)
        except OSError as error:
            if self._uses[folder] == 1:
                log.warning("%s is looked at every so often only: inotify: %s", folder, error.strerror)

    def _add_watch(self, folder: str) -> int:
        from inotify_simple import INotify, flags

        mask = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO
        mask |= flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT | flags.ONLYDIR
        if self._inotify is None:
            self._inotify = INotify(nonblocking=True)
            self._loop.add_reader(self._inotify.fileno(), self._read)
        return self._inotify.add_watch(folder, mask)

    def remove(self, folder: str) -> None:
        """One use less; the last one of all closes inotify."""
        self._uses[folder] -= 1
        if self._uses[folder]:
            return
        del self._uses[folder]
        for wd, folders in list(self._watched.items()):
            folders.discard(folder)
            if not folders:
                self._drop(wd)
        if not self._uses:
            self._close()

    def _drop(self, wd: int) -> None:
        del self._watched[wd]
        try:
            if self._inotify is not None:
                self._inotify.rm_watch(wd)
        except OSError:
            pass  # the folder went first

    def _close(self) -> None:
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def _read(self) -> None:
        """Tell which names changed in which folders; after an overflow, any may have."""
        from inotify_simple import flags

        if self._inotify is None:
            return
        folders: set[str] = set()
        names: set[str] = set()
        for event in self._inotify.read(timeout=0):
            overflow = event.mask & flags.Q_OVERFLOW
            folders |= set(self._uses) if overflow else self._watched.get(event.wd, set())
            names.add(event.name)
            if event.mask & flags.IGNORED:
                self._watched.pop(event.wd, None)
        self._changed(folders, names)
