# SPDX-License-Identifier: Apache-2.0
"""The runs of one column for one subject: their median, and how many of them stalled or failed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Samples:
    """Values in the order they were measured. A stalled run has a value, a failed one a reason."""

    values: list[float] = field(default_factory=list)
    stalls: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, value: float, stalled: bool = False) -> None:
        """One run."""
        self.values.append(value)
        self.stalls += stalled

    def median(self) -> float | None:
        """None where no run gave a value."""
        return statistics.median(self.values) if self.values else None

    def spread(self) -> float | None:
        """(largest - smallest) / median; None for fewer than two runs."""
        middle = self.median()
        if middle is None or not middle or len(self.values) < 2:
            return None
        return (max(self.values) - min(self.values)) / middle

    def as_json(self) -> dict:
        """For the JSON document."""
        return {
            "median": self.median(),
            "runs": self.values,
            "stalls": self.stalls,
            "failures": self.failures,
        }
