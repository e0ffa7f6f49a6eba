# SPDX-License-Identifier: Apache-2.0
"""A flow table that takes no more is told of, once per flood."""

from __future__ import annotations

import asyncio
import logging

from hypothesis import given
from hypothesis import strategies as st
from switchbox import Box, simulated

from vswitch.control.fullness import LOOK_INTERVAL_S, QUIET_S, FullTable


@simulated
async def test_a_full_table_is_a_line_in_the_log_and_an_event(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "vswitch.control.fullness")
    async with Box(tmp_path) as box:
        await box.attach("web")
        events = box.switch.events.subscribe()
        (index,) = box.datapath.ports
        box.datapath.port_drops[index] = {"nat_full": 7}
        await box.clock.advance(LOOK_INTERVAL_S)
        event = await asyncio.wait_for(anext(events), 5)
        assert (event.type, event.action, event.attributes["refused"]) == ("flow_table", "full", 7)
        assert "7 packets of new connections refused" in caplog.text and "max_flows" in caplog.text


def test_a_flood_is_told_of_once_and_the_next_one_again():
    table = FullTable()
    assert table.news(0, 0.0) == 0
    assert table.news(5, 10.0) == 5
    assert [table.news(5 + n, 10.0 * n) for n in range(2, 9)] == [0] * 7
    assert table.news(20, 80.0 + QUIET_S) == 7


@given(st.lists(st.integers(0, 100), max_size=50))
def test_nothing_new_is_nothing_to_tell(counts):
    table = FullTable()
    for number, count in enumerate(sorted(counts)):
        told = table.news(count, number * QUIET_S)
        assert told >= 0
        assert table.news(count, number * QUIET_S) == 0
