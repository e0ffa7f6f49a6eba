# SPDX-License-Identifier: Apache-2.0
"""One switch per state folder; a second one is told at once, and one that follows an ending one waits."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from vswitch.daemon.statelock import PATIENCE_S, lock_state
from vswitch.model import Refused


def test_a_second_switch_is_told_at_once_who_has_the_folder(tmp_path):
    async def scenario():
        first = await lock_state(str(tmp_path))
        began = time.monotonic()
        with pytest.raises(Refused, match=rf"in use by another switch \(pid {os.getpid()}\).*--state-dir"):
            await lock_state(str(tmp_path))
        assert time.monotonic() - began < PATIENCE_S / 2
        first.close()
        (await lock_state(str(tmp_path))).close()

    asyncio.run(scenario())


def test_an_ending_one_is_waited_for(tmp_path):
    async def scenario():
        first = await lock_state(str(tmp_path))
        first.ending()
        second = asyncio.ensure_future(lock_state(str(tmp_path)))
        await asyncio.sleep(0)
        assert not second.done()
        first.close()
        (await second).close()

    asyncio.run(scenario())


def test_a_folder_that_cannot_be_locked_is_the_stores_to_refuse(tmp_path):
    async def scenario():
        (await lock_state(str(tmp_path / "is" / "not" / "there"))).close()

    asyncio.run(scenario())
