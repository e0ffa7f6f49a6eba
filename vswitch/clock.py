# SPDX-License-Identifier: Apache-2.0
"""Time, handed in: whoever needs it gets a `Clock`, and tests hand in one that they step by hand.

Two readings, never mixed: `wall_s` (Unix time) for what is stored and shown, since it outlives the process;
`monotonic_s` for measuring how long something took. Engines get neither: their shell reads the clock once and
passes a number down.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from datetime import UTC, datetime
from itertools import count
from typing import Protocol

SETTLE_TURNS = 20  # of the event loop, before a stepped clock moves on: enough for a few awaits in a row


class Clock(Protocol):
    def wall_s(self) -> float:
        """Unix time, in seconds."""

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start that no one can set back."""

    async def sleep(self, duration_s: float) -> None:
        """Return after `duration_s` of monotonic time."""


class SystemClock:
    """The machine's own."""

    def wall_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


class SteppedClock:
    """Stands still until `advance`; sleepers wake in the order of their times, each seeing its own time."""

    def __init__(self, wall_s: float = 1_700_000_000.0):
        self._started_at = wall_s
        self._elapsed_s = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def wall_s(self) -> float:
        return self._started_at + self._elapsed_s

    def monotonic_s(self) -> float:
        return self._elapsed_s

    async def sleep(self, duration_s: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed_s + max(duration_s, 0.0), next(self._order), woken))
        await woken

    async def advance(self, duration_s: float) -> None:
        """Let `duration_s` pass; what each sleeper does next happens before the clock moves on."""
        until = self._elapsed_s + duration_s
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            due_at, _, woken = heapq.heappop(self._sleepers)
            self._elapsed_s = max(self._elapsed_s, due_at)
            if not woken.done():
                woken.set_result(None)
                await settle()
        self._elapsed_s = until


async def settle(turns: int = SETTLE_TURNS) -> None:
    """Give every task that can run the chance to."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def happens_within(clock: Clock, duration_s: float, event: asyncio.Event) -> bool:
    """Whether `event` is set before `duration_s` have passed on `clock`."""
    happened = asyncio.ensure_future(event.wait())
    elapsed = asyncio.ensure_future(clock.sleep(duration_s))
    try:
        await asyncio.wait((happened, elapsed), return_when=asyncio.FIRST_COMPLETED)
        return event.is_set()
    finally:
        happened.cancel()
        elapsed.cancel()


def rfc3339(wall_s: float) -> str:
    """`2023-11-14T22:13:20.250000Z` for a Unix time (RFC 3339 §5.6)."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
