# SPDX-License-Identifier: Apache-2.0
"""dnsperf in a namespace: how many questions were answered, and how long each took."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from benchmarks.sandbox import Failed, Process, Sandbox

ANSWERED = re.compile(r"^> (\w+) \S+ \w+ (\d+\.\d+)$", re.MULTILINE)
LOST = re.compile(r"Queries lost:\s+(\d+)")
RATE = re.compile(r"Queries per second:\s+(\d+\.\d+)")
CLIENTS, PATIENCE_S = 4, 1


class Answers(NamedTuple):
    """Of one run; latencies in milliseconds, sorted."""

    per_second: float
    lost: int
    wrong: int
    latencies_ms: list[float]

    def percentile(self, part: float) -> float:
        """The latency below which that part of the answers came."""
        if not self.latencies_ms:
            raise Failed("dnsperf: no question was answered")
        return self.latencies_ms[min(int(len(self.latencies_ms) * part), len(self.latencies_ms) - 1)]


def asking(
    sandbox: Sandbox, netns: str, server: str, names: Path, seconds: float, per_second: int, *, each: bool = True
) -> Process:
    """dnsperf at work; `each`: it tells of every answer."""
    options = ["-c", CLIENTS, "-T", "1", "-t", PATIENCE_S, "-l", f"{seconds:g}", "-Q", per_second]
    argv = ["dnsperf", "-s", server, "-d", names, *map(str, options), *(["-v"] if each else [])]
    return sandbox.spawn(argv, netns)


def answers(process: Process, seconds: float) -> Answers:
    """Waits for its end."""
    return parse(process.wait(seconds + 15))


def parse(said: str) -> Answers:
    """What dnsperf prints; Failed if it is something else."""
    lost, rate = LOST.search(said), RATE.search(said)
    if lost is None or rate is None:
        raise Failed("dnsperf: no summary")
    found = ANSWERED.findall(said)
    latencies = sorted(float(seconds) * 1e3 for code, seconds in found if code == "NOERROR")
    return Answers(float(rate[1]), int(lost[1]), len(found) - len(latencies), latencies)
