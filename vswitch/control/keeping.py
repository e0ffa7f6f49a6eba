# SPDX-License-Identifier: Apache-2.0
"""What the shells around the DHCP engines share: a lease is stored before its answer leaves, and ends when its
time is over.

    commit:   store the changes → send → tell the events         COMMITS_LIMIT may wait for the disk
    timer:    one task; asks the engines what has ended, stores that

and the counters of questions that died.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence

from vswitch.clock import happens_within
from vswitch.control.edges import Parts
from vswitch.control.inventory import Port
from vswitch.control.store import Change
from vswitch.model import Refused

log = logging.getLogger(__name__)

# Answers that may wait for the disk. A client asks again after 1 to 4 s; more than this many take longer.
COMMITS_LIMIT = 4096


class Questions:
    """How many of containers' questions to the control plane died, and of what."""

    def __init__(self) -> None:
        self.drops: dict[str, Counter[str]] = {}  # by endpoint id; an endpoint's go with it
        self.network_drops: dict[str, Counter[str]] = {}  # by network id, those of departed endpoints included

    def count(self, port: Port, reason: str) -> None:
        """One more."""
        self.drops.setdefault(port.endpoint.id, Counter())[str(reason)] += 1
        self.network_drops.setdefault(port.network.record.id, Counter())[str(reason)] += 1


class Keeping:
    """Commits and the timer of one kind of leases; `end(now)` returns what is to be stored of leases that have ended,
    `next_expiry()` says when the next one does."""

    def __init__(self, parts: Parts, end: Callable[[float], list[Change]], next_expiry: Callable[[], float | None]):
        self._parts = parts
        self._end, self._next_expiry = end, next_expiry
        self._commits: set[asyncio.Task] = set()
        self._timer: asyncio.Task | None = None
        self._due_at = math.inf
        self._stirred = asyncio.Event()

    def commit(self, port: Port, changes: Sequence[Change], then: Callable[[], None]) -> bool:
        """Store, and then do what is to be done; False where too many wait already."""
        if len(self._commits) >= COMMITS_LIMIT:
            return False
        commit = asyncio.ensure_future(self._store(port, changes, then))
        self._commits.add(commit)
        commit.add_done_callback(self._commits.discard)
        return True

    async def _store(self, port: Port, changes: Sequence[Change], then: Callable[[], None]) -> None:
        try:
            await self._parts.store.write(changes)
        except Refused as refusal:
            log.warning("a DHCP client of %s is not answered: %s", port.container.name, refusal)
            return
        then()

    # ---- time

    def start(self) -> None:
        """End leases when their time is over, from now on."""
        self._timer = asyncio.ensure_future(self._expire())

    async def stop(self) -> None:
        """Answer what has been asked, then no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._commits:
            await asyncio.wait(self._commits)

    async def _expire(self) -> None:
        while True:
            self._stirred.clear()
            now = self._parts.clock.wall_s()
            if self._due_at > now:
                await self._sleep(self._due_at - now)
                continue
            changes = self._end(now)
            self.rearm()
            if not changes:
                await asyncio.sleep(0)
                continue
            try:
                await self._parts.store.write(changes)
            except Refused as refusal:
                log.warning("ended leases stay in the store until the next start: %s", refusal)

    async def _sleep(self, duration_s: float) -> None:
        if duration_s == math.inf:
            await self._stirred.wait()
        else:
            await happens_within(self._parts.clock, duration_s, self._stirred)

    def rearm(self) -> None:
        """Look at every engine for what ends next."""
        self._due_at = math.inf
        self.hasten(self._next_expiry())

    def hasten(self, at: float | None) -> None:
        """Something ends at this time: wake the timer if that is earlier than what it waits for.

        What ends later than it did costs one wake-up in which nothing is due.
        """
        if at is not None and at < self._due_at:
            self._due_at = at
            self._stirred.set()
