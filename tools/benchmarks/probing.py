# SPDX-License-Identifier: Apache-2.0
"""Echo and ARP probes at a steady pace (tools/yardsticks/probe.c): percentiles, and how many were lost."""

from __future__ import annotations

import json
import statistics
from typing import NamedTuple

from benchmarks.sandbox import Sandbox
from benchmarks.subjects.subject import Container
from benchmarks.yardstick import yardstick

INTERVAL_MS = 5.0


class Answers(NamedTuple):
    """Of one run; times in microseconds. A probe without an answer counts as one second."""

    sent: int
    lost: int
    p50_us: float
    p99_us: float
    max_us: float


def probe(sandbox: Sandbox, source: Container, address: str, seconds: float, how: str = "icmp") -> Answers:
    """Asks `address` for that long from the container; `how` is icmp or arp."""
    count = max(1, round(seconds * 1000 / INTERVAL_MS))
    # ARP waits a second for each answer that never comes: 64 of those are enough to say so
    patience_s = seconds + (count if count < 64 else 64) + 5
    said = sandbox.run(
        [yardstick(sandbox, "probe"), how, source.interface, address, str(count), f"{INTERVAL_MS:g}"],
        source.netns,
        timeout_s=patience_s,
    )
    return Answers(**json.loads(said))


def together(runs: list[Answers]) -> dict | None:
    """Several runs as one row: sums, medians of the percentiles, the worst of all."""
    if not runs:
        return None
    return {
        "sent": sum(run.sent for run in runs),
        "lost": sum(run.lost for run in runs),
        "p50_us": statistics.median(run.p50_us for run in runs),
        "p99_us": statistics.median(run.p99_us for run in runs),
        "max_us": max(run.max_us for run in runs),
    }
