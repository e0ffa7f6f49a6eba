# SPDX-License-Identifier: Apache-2.0
"""What the processes that make up a switch cost: CPU seconds so far, resident memory now.

CPU time is read from each process's CPU clock (clock_getcpuclockid(3)): nanoseconds, all threads, those
that ended included. Memory is the sum over the processes: RSS counts a page they share once for each, PSS
once in all.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

CPUCLOCK_SCHED = 2


class Memory(NamedTuple):
    """Bytes."""

    rss: int
    pss: int


def family(pid: int) -> list[int]:
    """A process and its descendants, as far as they are alive."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(after_name[1])
    found = [pid]
    for parent in found:  # grows while it is walked
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return found


def cpu_seconds(pids: list[int]) -> float:
    """CPU time the processes have used since their start; one that is gone counts as nothing."""
    return sum(process_seconds(pid) for pid in pids)


def process_seconds(pid: int) -> float:
    """Of one process; 0 where it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)
    except OSError:
        return 0.0


def memory(pids: list[int]) -> Memory:
    """Resident memory of the processes."""
    rss = pss = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # gone meanwhile
            continue
        for line in lines:
            field, _, value = line.partition(":")
            if field == "Rss":
                rss += int(value.split()[0]) * 1024
            elif field == "Pss":
                pss += int(value.split()[0]) * 1024
    return Memory(rss, pss)
