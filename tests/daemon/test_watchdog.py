# SPDX-License-Identifier: Apache-2.0
"""The watchdog is fed while the dataplane answers, and only then."""

from __future__ import annotations

import asyncio

from vswitch.daemon import watchdog

INTERVAL_S = 0.01


async def fed_while(poke) -> int:
    """How often the manager was told within some fifty intervals."""
    told = []
    feeding = asyncio.create_task(watchdog.feed(poke, lambda: told.append(1), INTERVAL_S))
    await asyncio.wait([feeding], timeout=50 * INTERVAL_S)
    assert not feeding.done()
    feeding.cancel()
    await asyncio.wait([feeding])
    return len(told)


def test_it_is_fed_while_the_dataplane_answers():
    async def answers() -> None:
        await asyncio.sleep(0)

    assert asyncio.run(fed_while(answers)) > 5


def test_it_starves_when_the_dataplane_hangs(caplog):
    assert asyncio.run(fed_while(lambda: asyncio.Event().wait())) == 0
    assert "has not answered" in caplog.text


def test_it_is_fed_again_when_the_dataplane_comes_back():
    calls = []

    async def hangs_at_first() -> None:
        calls.append(1)
        if len(calls) <= 3:
            await asyncio.Event().wait()

    assert asyncio.run(fed_while(hangs_at_first)) > 5
