# SPDX-License-Identifier: Apache-2.0
"""`vswitch logs --tail N`: the last lines of what a supervisor left in two files, then what comes."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vswitch.clock import SteppedClock
from vswitch.control.logs import FOLLOW_INTERVAL_S, read_logs

TEXTS = st.lists(st.sampled_from([b"a", b"\n", b"two\n", b"\n\n", b"\xff"]), max_size=8).map(b"".join)


def last_lines(text: bytes, count: int) -> bytes:
    return b"".join(text.splitlines(keepends=True)[-count:]) if count else b""


@given(TEXTS, TEXTS, st.integers(0, 6))
def test_the_tail_is_the_last_lines_of_both_files(older, newer, count):
    async def scenario(folder: str) -> bytes:
        path = Path(folder) / "log"
        path.with_name("log.1").write_bytes(older)
        path.write_bytes(newer)
        return b"".join([piece async for piece in read_logs(str(path), SteppedClock(), lambda: False, count)])

    with tempfile.TemporaryDirectory() as folder:
        assert asyncio.run(scenario(folder)) == last_lines(older + newer, count)


def test_what_is_written_later_follows_whole(tmp_path):
    async def scenario() -> list[bytes]:
        path, clock = tmp_path / "log", SteppedClock()
        path.write_bytes(b"one\ntwo\nthree\n")
        running = [True]
        reading = read_logs(str(path), clock, lambda: running[0], 1)
        pieces = [await anext(reading)]
        path.write_bytes(path.read_bytes() + b"four\nfive\n")
        coming = asyncio.ensure_future(anext(reading))
        while not coming.done():
            await clock.advance(FOLLOW_INTERVAL_S)
        running[0] = False
        pieces.append(await coming)
        rest = asyncio.ensure_future(anext(reading, b""))
        while not rest.done():
            await clock.advance(FOLLOW_INTERVAL_S)
        return [*pieces, await rest]

    assert asyncio.run(asyncio.wait_for(scenario(), 10)) == [b"three\n", b"four\nfive\n", b""]
