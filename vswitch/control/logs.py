# SPDX-License-Identifier: Apache-2.0
"""What a detached container wrote, as its supervisor keeps it: PATH.1 the older part, PATH the newer.

Supervisors write, the switch only reads, and removes both files with the container. Reading happens in
threads, since a disk may hang.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO

from vswitch.clock import Clock

PIECE_BYTES = 64 * 1024
TAIL_BYTES = 1024 * 1024  # read before lines are counted again
FOLLOW_INTERVAL_S = 0.25  # a person who follows a log doesn't notice less


def log_path(state_dir: str, identity: str) -> str:
    """Where a container's supervisor writes."""
    return os.path.join(state_dir, "logs", f"{identity}.log")


def make_log_folder(state_dir: str) -> None:
    """The folder of all logs, readable by its owner alone."""
    os.makedirs(os.path.join(state_dir, "logs"), mode=0o700, exist_ok=True)


def remove_logs(state_dir: str, identity: str) -> None:
    """Both generations; what is not there or cannot be removed is left."""
    for path in (log_path(state_dir, identity), log_path(state_dir, identity) + ".1"):
        try:
            os.unlink(path)
        except OSError:
            pass


async def read_logs(
    path: str, clock: Clock, goes_on: Callable[[], bool], tail: int | None = None
) -> AsyncIterator[bytes]:
    """The older part, then the newer; then what is added, for as long as `goes_on()`.

    With `tail`, so many last lines of what there is at first.
    """
    if tail is None:
        pieces = _all_of(path, clock, goes_on)
    else:
        pieces = _from_the_end(path, clock, goes_on, tail)
    async for piece in pieces:
        yield piece


async def _from_the_end(
    path: str, clock: Clock, goes_on: Callable[[], bool], lines: int
) -> AsyncIterator[bytes]:
    """What is there is counted from its end, what is added comes as it is."""
    there = await asyncio.to_thread(_bytes_there, path)
    kept, seen = bytearray(), 0
    async for piece in _all_of(path, clock, goes_on):
        early = piece[: max(0, there - seen)]
        seen += len(piece)
        kept += early
        if len(kept) > TAIL_BYTES:
            kept = bytearray(_last_lines(kept, lines))
        if seen < there:
            continue
        if kept:
            yield bytes(_last_lines(kept, lines))
            kept.clear()
        if len(piece) > len(early):
            yield piece[len(early) :]
    if kept:
        yield bytes(_last_lines(kept, lines))


def _bytes_there(path: str) -> int:
    """In both generations, now."""
    total = 0
    for name in (path + ".1", path):
        try:
            total += os.stat(name).st_size
        except OSError:
            pass
    return total


def _last_lines(text: bytes | bytearray, lines: int) -> bytes | bytearray:
    """The last `lines` lines; an end without a newline is a line too."""
    if lines == 0:
        return b""
    end = len(text) - 1 if text.endswith(b"\n") else len(text)
    for _ in range(lines):
        end = text.rfind(b"\n", 0, end)
        if end < 0:
            return text
    return text[end + 1 :]


async def _all_of(path: str, clock: Clock, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    older = await asyncio.to_thread(_open, path + ".1")
    if older is not None:
        with older:
            while piece := await asyncio.to_thread(older.read, PIECE_BYTES):
                yield piece
    current = await asyncio.to_thread(_open, path)
    try:
        while True:
            last_round = not goes_on()  # asked first: what is written before the end is still read
            while current is not None and (piece := await asyncio.to_thread(current.read, PIECE_BYTES)):
                yield piece
            if await asyncio.to_thread(_rotated, current, path):
                if current is not None:
                    current.close()
                current = await asyncio.to_thread(_open, path)
            elif last_round:
                return
            else:
                await clock.sleep(FOLLOW_INTERVAL_S)
    finally:
        if current is not None:
            current.close()


def _open(path: str) -> BinaryIO | None:
    try:
        return open(path, "rb", buffering=0)
    except OSError:
        return None


def _rotated(current: BinaryIO | None, path: str) -> bool:
    """Whether another file is at `path` now."""
    try:
        there = os.stat(path)
        return current is None or not os.path.samestat(os.fstat(current.fileno()), there)
    except OSError:
        return False
