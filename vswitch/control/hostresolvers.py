# SPDX-License-Identifier: Apache-2.0
"""The resolvers that the host uses, followed as its resolv.conf changes.

inotify tells of changes in the folder where the file is found, in the one where a symbolic link leads (resolved,
resolvconf and NetworkManager replace either), and of writes to the file itself, which may be a bind mount. Whatever it
says, the file is read again one turn later. Where there is no inotify the file is looked at every SCAN_INTERVAL_S.

All servers count, those on the host's loopback too: it is the switch that asks them, from the host's side.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from vswitch.container.files import ResolvConf, parse_resolv_conf
from vswitch.control.host import RESOLV_CONF

if TYPE_CHECKING:
    from inotify_simple import INotify

log = logging.getLogger(__name__)
SCAN_INTERVAL_S = 5.0
FILE_LIMIT_BYTES = 65536  # a resolv.conf is a few lines


class HostResolvers:
    """`current` is what the file said last."""

    def __init__(self, path: str = RESOLV_CONF):
        self._path = path
        self.current = ResolvConf([], [], [])
        self._changed: Callable[[], None] = lambda: None
        self._inotify: INotify | None = None
        self._watched: dict[str, int] = {}
        self._reading: asyncio.Handle | None = None
        self._scan: asyncio.TimerHandle | None = None

    def follow(self, changed: Callable[[], None]) -> None:
        """Read the file now, and call `changed` whenever it says something else."""
        from inotify_simple import INotify

        self._changed = changed
        try:
            self._inotify = INotify(nonblocking=True)
            asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._stirred)
        except OSError as problem:
            log.warning("%s is looked at every %g s only: inotify: %s", self._path, SCAN_INTERVAL_S, problem.strerror)
        self._watch()
        self.current = self._read()
        if self._inotify is None:
            self._scan_later()

    def close(self) -> None:
        """Follow no more."""
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None
        for handle in (self._reading, self._scan):
            if handle is not None:
                handle.cancel()
        self._reading = self._scan = None
        self._watched.clear()

    def _watch(self) -> None:
        """Look at the places where the file is found now."""
        from inotify_simple import flags

        if self._inotify is None:
            return
        mask = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.CLOSE_WRITE
        real = os.path.realpath(self._path)
        wanted = {os.path.dirname(self._path): mask, os.path.dirname(real): mask, real: flags.CLOSE_WRITE}
        for place in set(self._watched) - set(wanted):
            self._unwatch(place)
        for place, events in wanted.items():
            try:  # again, too: another file may be there by now
                self._watched[place] = self._inotify.add_watch(place, events)
            except OSError as problem:
                log.debug("%s: %s", place, problem.strerror)

    def _unwatch(self, place: str) -> None:
        number = self._watched.pop(place)
        if self._inotify is not None and number not in self._watched.values():
            try:
                self._inotify.rm_watch(number)
            except OSError:
                pass  # it went first

    def _stirred(self) -> None:
        if self._inotify is not None:
            self._inotify.read(timeout=0)
            if self._reading is None:
                self._reading = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._reading = None
        self._watch()
        found = self._read()
        if found != self.current:
            self.current = found
            self._changed()

    def _scan_later(self) -> None:
        self._scan = asyncio.get_running_loop().call_later(SCAN_INTERVAL_S, self._scan_now)

    def _scan_now(self) -> None:
        self._look()
        self._scan_later()

    def _read(self) -> ResolvConf:
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                return parse_resolv_conf(file.read(FILE_LIMIT_BYTES))
        except OSError:
            return ResolvConf([], [], [])
