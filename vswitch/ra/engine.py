# SPDX-License-Identifier: Apache-2.0
"""When a network's router advertises itself, and to whom (RFC 4861 §6.2.4 to §6.2.6; read them before changing this).

Values in: solicitations by port, the time (monotonic seconds), numbers of chance. Values out: frames, each for one
port or for all.

    unasked   to all nodes, after a random time between MIN_INTERVAL_S and MAX_INTERVAL_S; the first INITIAL after
    a start or a
              change of settings come at most INITIAL_INTERVAL_S apart
    asked     to the port that asked and no other, within MAX_DELAY_S of the first question; more questions from
    the port until then
              share the answer. So whoever floods with questions hears the answers alone.

A host that has no address yet is answered at the address of all nodes, in a frame that only its port gets.
"""

from __future__ import annotations

from random import Random
from typing import Generic, NamedTuple, TypeVar

from vswitch.ra.message import MAX_INTERVAL_S, MIN_INTERVAL_S, Router, Solicitation

MAX_DELAY_S = 0.5  # MAX_RA_DELAY_TIME
INITIAL = 3  # MAX_INITIAL_RTR_ADVERTISEMENTS
INITIAL_INTERVAL_S = 16.0  # MAX_INITIAL_RTR_ADVERT_INTERVAL

P = TypeVar("P")


class Sending(NamedTuple, Generic[P]):
    """A frame to send into a port, or with None to the whole network."""

    port: P | None
    frame: bytes


class Advertiser(Generic[P]):
    """One network's router."""

    def __init__(self, router: Router, random: Random, now: float):
        self._random = random
        self._asked: dict[P, tuple[float, Solicitation]] = {}
        self.reconfigure(router, now)

    def reconfigure(self, router: Router, now: float) -> None:
        """New settings, which all nodes hear of at once."""
        self.router = router
        self._initial = INITIAL
        self._unasked_at = now

    def solicited(self, asked: Solicitation, port: P, now: float) -> None:
        """A host behind `port` asks; never raises."""
        if port not in self._asked:
            self._asked[port] = now + self._random.uniform(0, MAX_DELAY_S), asked

    def forget_port(self, port: P) -> None:
        """It has gone."""
        self._asked.pop(port, None)

    def next_at(self) -> float:
        """When `due` has something to send; ask after every other call."""
        return min([self._unasked_at, *(at for at, _ in self._asked.values())])

    def due(self, now: float) -> list[Sending[P]]:
        """What is to be sent by now."""
        sendings: list[Sending[P]] = []
        for port, (at, asked) in list(self._asked.items()):
            if at <= now:
                del self._asked[port]
                sendings.append(Sending(port, self.router.advertisement(asked)))
        if self._unasked_at <= now:
            sendings.append(Sending(None, self.router.advertisement()))
            self._unasked_at = now + self._interval_s()
        return sendings

    def _interval_s(self) -> float:
        wait_s = self._random.uniform(MIN_INTERVAL_S, MAX_INTERVAL_S)
        self._initial = max(self._initial - 1, 0)
        return min(wait_s, INITIAL_INTERVAL_S) if self._initial else wait_s
