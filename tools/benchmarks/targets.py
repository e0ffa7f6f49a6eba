# SPDX-License-Identifier: Apache-2.0
"""What vswitch must reach, as ratios to the raw loop of the same run or as plain limits."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.columns import Row

KIB = 1024
RATIOS = {  # column → (words, target, whether more is better)
    "tcp_1": ("TCP, one stream", 0.92, True),
    "tcp_4": ("TCP, four streams", 0.92, True),
    "cpu_per_gib": ("CPU per GiB", 1.10, False),
    "p50": ("round trip p50", 1.10, False),
    "packets": ("64-byte packets", 0.85, True),
    "cpu_per_packet": ("CPU per packet", 1.15, False),
}
BYTES_PER_PORT = 64 * KIB


class Verdict(NamedTuple):
    """One line below the table. `met` is None where there is nothing to judge."""

    words: str
    value: float | None
    target: float
    more_is_better: bool
    unit: str = ""

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.target if self.more_is_better else self.value <= self.target

    def line(self) -> str:
        """As it is printed."""
        value = "not measured" if self.value is None else f"{self.value:.2f}{self.unit}"
        bound = "at least" if self.more_is_better else "at most"
        judged = {None: "", True: "met", False: "MISSED"}[self.met]
        return f"  {self.words:<34} {value:>14}   {bound} {self.target:g}{self.unit}   {judged}".rstrip()

    def as_json(self) -> dict:
        """For the JSON document."""
        return {
            "what": self.words,
            "value": self.value,
            "target": self.target,
            "more_is_better": self.more_is_better,
            "unit": self.unit.strip() or None,
            "met": self.met,
        }


def ratio(over: float | None, under: float | None) -> float | None:
    """None where either is missing or nothing."""
    return over / under if over is not None and under else None


def verdicts(subject: Row, yardstick: Row | None) -> list[Verdict]:
    """Ratios of medians, so that they can be computed again from the table; and the memory of a port."""
    lines = [
        Verdict(words, ratio(subject.median(key), yardstick.median(key) if yardstick else None), target, more)
        for key, (words, target, more) in RATIOS.items()
    ]
    per_port = subject.bytes_per_port()
    lines.append(
        Verdict(
            "resident memory per port",
            None if per_port is None else per_port / KIB,
            BYTES_PER_PORT / KIB,
            False,
            " KiB",
        )
    )
    return lines
