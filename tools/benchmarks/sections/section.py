# SPDX-License-Identifier: Apache-2.0
"""What every section returns, and how its switches are started and stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.samples import Samples
from benchmarks.subjects.subject import Subject
from benchmarks.targets import Verdict


@dataclass
class Section:
    """Lines to print, verdicts below them, and everything measured as plain values."""

    title: str
    lines: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    document: dict = field(default_factory=dict)

    def text(self) -> list[str]:
        """As it is printed."""
        return [
            "",
            self.title,
            *(f"  {line}" for line in self.lines),
            *(verdict.line() for verdict in self.verdicts),
        ]

    def as_json(self) -> dict:
        """For the JSON document."""
        return {**self.document, "targets": [verdict.as_json() for verdict in self.verdicts]}


@contextlib.contextmanager
def running(*subjects: Subject) -> Iterator[None]:
    """Started here, stopped at the end, whatever happens in between."""
    try:
        for subject in subjects:
            subject.start()
        yield
    finally:
        for subject in subjects:
            subject.stop()


def shown(samples: Samples, decimals: int = 2) -> str:
    """A median as a cell."""
    middle = samples.median()
    return (
        "failed"
        if middle is None
        else f"{middle:.{decimals}f}" + (f" ({samples.stalls} stalled)" if samples.stalls else "")
    )
