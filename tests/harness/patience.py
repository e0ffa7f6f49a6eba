# SPDX-License-Identifier: Apache-2.0
"""Waiting in tests: ask until it is so, or fail at a deadline. Nothing sleeps for a guessed time."""
from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 10.0
PAUSE_S = 0.005


def eventually(probe: Callable[[], object], what: object, deadline_s: float = DEADLINE_S):
    """The first true value of `probe`, or a failure that says what never came, as `what` is by then."""
    give_up_at = time.monotonic() + deadline_s
    while not (value := probe()):
        assert time.monotonic() < give_up_at, f"never happened: {what}"
        time.sleep(PAUSE_S)
    return value
