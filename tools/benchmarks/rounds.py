# SPDX-License-Identifier: Apache-2.0
"""Round-robin: each measurement goes over all subjects, and each round starts with another one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

Say = Callable[[str], None]


def say(text: str) -> None:
    """Progress, on stderr: the table alone is on stdout."""
    print(text, file=sys.stderr, flush=True)


def rotated(subjects: Sequence[Any], by: int) -> list[Any]:
    """The same subjects, beginning with another one."""
    start = by % len(subjects) if subjects else 0
    return [*subjects[start:], *subjects[:start]]


def interleave(
    subjects: Sequence[Any], measurements: Sequence[tuple[str, int, Callable[[Any], None]]]
) -> None:
    """Measurements are (name, rounds, measure(subject)); one with fewer rounds sits the last ones out."""
    for number in range(max(rounds for _, rounds, _ in measurements)):
        for name, rounds, measure in measurements:
            if number >= rounds:
                continue
            say(f"round {number + 1} of {rounds}: {name}")
            for subject in rotated(subjects, number):
                measure(subject)
