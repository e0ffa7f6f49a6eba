# SPDX-License-Identifier: Apache-2.0
"""What happens, told to whoever listens: `GET /v1/events`, logs, and whoever waits for something to be so.

Publishing never waits. Each subscriber has a queue of its own with a limit; one that does not keep up loses
the newest events, is told how many (`events` / `lost`) as soon as there is room again, and delays nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from vswitch.clock import Clock, rfc3339
from vswitch.model import Event, Refused

# Attaching 500 containers at once makes some 1,000 events within a second; readers in Python or jq keep up.
QUEUE_LIMIT = 4096
SUBSCRIBER_LIMIT = 256  # each may hold a full queue of some 300 bytes an event: 300 MiB if all of them hang


class Subscription(AsyncIterator[Event]):
    """One listener's queue. Ends when closed by either side."""

    def __init__(self, events: Events, flows: bool):
        self.flows = flows  # whether every connection's beginning and end is wanted too
        self._events = events
        self._queue: deque[Event] = deque()
        self._lost = 0
        self._stirred = asyncio.Event()
        self._closed = False

    async def __anext__(self) -> Event:
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._stirred.clear()
            await self._stirred.wait()
        return self._queue.popleft()

    def close(self) -> None:
        """Nothing more is queued; what is queued can still be read."""
        self._closed = True
        self._stirred.set()
        self._events.left(self)

    async def aclose(self) -> None:
        """`close`, for those who end any iterator in this way."""
        self.close()

    def put(self, event: Event) -> None:
        """Queue an event, or count it as lost."""
        if len(self._queue) >= QUEUE_LIMIT - (1 if self._lost else 0):
            self._lost += 1
            return
        if self._lost:
            self._queue.append(
                Event(time=event.time, type="events", action="lost", attributes={"count": self._lost})
            )
            self._lost = 0
        self._queue.append(event)
        self._stirred.set()


class Events:
    """Where everything is published."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self.subscriptions: set[Subscription] = set()
        self.flows_wanted: Callable[[bool], None] = lambda wanted: None  # the first who wants them, the last who did

    def subscribe(self, *, flows: bool = False) -> Subscription:
        """Everything from now on; `flow` events only if they are asked for. Refused with 507 if too many listen."""
        if len(self.subscriptions) >= SUBSCRIBER_LIMIT:
            raise Refused(f"{SUBSCRIBER_LIMIT} subscribers listen to events already, which is the limit", 507)
        subscription = Subscription(self, flows)
        if flows and not self._for_flows():
            self.flows_wanted(True)
        self.subscriptions.add(subscription)
        return subscription

    def left(self, subscription: Subscription) -> None:
        """Somebody listens no more."""
        if subscription in self.subscriptions:
            self.subscriptions.discard(subscription)
            if subscription.flows and not self._for_flows():
                self.flows_wanted(False)

    def _for_flows(self) -> list[Subscription]:
        return [subscription for subscription in self.subscriptions if subscription.flows]

    def publish(
        self, type: str, action: str, id: str | None = None, name: str | None = None, **attributes: object
    ) -> None:
        """Tell everybody; `type` is a noun, `action` what happened to it."""
        listening = self._for_flows() if type == "flow" else self.subscriptions
        if not listening:
            return
        event = Event(
            time=rfc3339(self._clock.wall_s()),
            type=type,
            action=action,
            id=id,
            name=name,
            attributes=attributes,
        )
        for subscription in listening:
            subscription.put(event)

    def close(self) -> None:
        """End every subscription."""
        for subscription in list(self.subscriptions):
            subscription.close()
