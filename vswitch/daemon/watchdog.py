# SPDX-License-Identifier: Apache-2.0
"""Feeds the service manager's watchdog, but only while the dataplane answers: one that hangs is worse than
one that restarts.

A restart costs containers nothing (their TAPs are kept), a dataplane that spins or sleeps costs them
everything. The poke travels the dataplane's command ring and comes back through the event loop, so it shows
that both are alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


async def feed(poke: Callable[[], Awaitable[None]], alive: Callable[[], None], interval_s: float) -> None:
    """Call `alive` every `interval_s`, unless `poke` does not return within that time; for ever."""
    loop = asyncio.get_running_loop()
    while True:
        asked_at = loop.time()
        try:
            async with asyncio.timeout(interval_s):
                await poke()
            alive()
        except TimeoutError:
            log.error("the dataplane has not answered for %.1f s: the watchdog is not fed", interval_s)
        await asyncio.sleep(max(0.0, asked_at + interval_s - loop.time()))
