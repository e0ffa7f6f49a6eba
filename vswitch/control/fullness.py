# SPDX-License-Identifier: Apache-2.0
"""Says once when connections are refused for want of room in the flow table: a line in the log, and an event.

The dataplane only counts such packets (drop reason nat_full), thousands in a second if need be; here the count is
looked at every LOOK_INTERVAL_S. It is said again only after it had been quiet for QUIET_S, so that a flood of an hour
is one line. `FullTable` is pure: counts and times in, whether to speak out.
"""

from __future__ import annotations

import asyncio
import logging

from vswitch.control.edges import Parts

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 10.0
QUIET_S = 300.0
REASON = "nat_full"
REMEDY = "`vswitch flow ls` shows whose they are, [nat] max_flows in vswitch.toml is the limit"


class FullTable:
    """When to speak."""

    def __init__(self) -> None:
        self._seen = 0
        self._last_at = -QUIET_S

    def news(self, refused: int, now_s: float) -> int:
        """How many were refused since the last look, if that is to be told now; else 0."""
        fresh, self._seen = max(0, refused - self._seen), refused
        if fresh == 0:
            return 0
        spoken, self._last_at = now_s - self._last_at < QUIET_S, now_s
        return 0 if spoken else fresh


class Fullness:
    """Looks and tells, for as long as the switch runs."""

    def __init__(self, parts: Parts):
        self._parts = parts
        self._table = FullTable()
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        self._task = asyncio.ensure_future(self._watch())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            await self._parts.clock.sleep(LOOK_INTERVAL_S)
            self.look()

    def look(self) -> None:
        """Tell what is new."""
        parts = self._parts
        by_network = {
            n.name: parts.datapath.network_drops(n.index).get(REASON, 0) for n in parts.inventory.ready_networks()
        }
        refused = self._table.news(sum(by_network.values()), parts.clock.monotonic_s())
        if refused == 0:
            return
        totals = parts.datapath.totals()
        size, capacity = totals.get("flows", 0), totals.get("flow_capacity", 0)
        worst = max(by_network, key=by_network.__getitem__)
        what = "the flow table is full" if size >= capacity else "a container's share of the flow table is full"
        log.warning("%s (%d of %d): %d packets of new connections refused; %s", what, size, capacity, refused, REMEDY)
        parts.events.publish("flow_table", "full", flows=size, capacity=capacity, refused=refused, network=worst)
