# SPDX-License-Identifier: Apache-2.0
"""What a run prints: the header about the machine, the table, what is below it, the JSON document."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmarks.columns import COLUMNS, MANY_PORTS, MEMORY, Row
from benchmarks.machine import stolen_since
from benchmarks.samples import Samples

MIB = 2**20


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, all others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]


def header(machine: dict, settings: dict) -> list[str]:
    """The machine, the versions, how it was measured."""
    memory_gib = machine["memory_bytes"] / 2**30
    queues = ", ".join(f"{name} {length}" for name, length in settings.get("queue_lengths", {}).items())
    return [
        f"{machine['date']}: {machine['cores']} cores of {machine['cpu']}, {memory_gib:.0f} GiB, "
        f"Linux {machine['kernel']}",
        f"Python {machine['python']}; {machine['iperf3']}; {machine['gcc']}; "
        f"round trips by {settings['round_trip_tool']}; load before {machine['load_before']:.2f}, "
        f"{machine['stolen']:.1%} of the processors stolen by other machines meanwhile",
        f"{settings['seconds']:g} s a run, medians of {settings['rounds']} rounds "
        f"({settings['packet_rounds']} for packets), subjects in turn within each; "
        f"TCP's congestion control is {settings['congestion_control']}",
        *([f"frames that eth0's queue holds: {queues}"] if queues else []),
    ]


def cell(samples: Samples, decimals: int, processes: bool) -> str:
    """A median, with its stalls and failures where there were any."""
    middle = samples.median()
    if middle is None:
        if samples.failures:
            return "failed"
        return "-" if processes else "n/a"
    notes = [f"{samples.stalls} stalled"] if samples.stalls else []
    notes += [f"{len(samples.failures)} failed"] if samples.failures else []
    runs = len(samples.values) + len(samples.failures)
    return f"{middle:.{decimals}f}" + (f" ({', '.join(notes)} of {runs})" if notes else "")


def memory_cell(value: int | None, processes: bool) -> str:
    """MiB."""
    if value is None:
        return "-" if processes else "n/a"
    return f"{value / MIB:.1f}"


def heads(memory_keys: Sequence[str], ports_many: int | None) -> list[list[str]]:
    """The table's two head lines."""
    first = ["", *(head for head, *_ in COLUMNS.values()), *(MEMORY[key][0] for key in memory_keys)]
    second = ["", *(unit for _, unit, *_ in COLUMNS.values())]
    second += [f"{ports_many} ports" if key in MANY_PORTS else MEMORY[key][1] for key in memory_keys]
    return [first, second]


def table(rows: Sequence[Row], ports_many: int | None) -> list[str]:
    """One line per subject that was measured; '-' not measured, n/a: there is no such thing."""
    memory_keys = [key for key in MEMORY if ports_many or key not in MANY_PORTS]
    lines = heads(memory_keys, ports_many)
    for row in rows:
        has, memory = row.subject.has_processes, row.memory_values()
        cells = [cell(row.samples[key], decimals, has) for key, (_, _, decimals, _) in COLUMNS.items()]
        lines.append([row.subject.name, *cells, *(memory_cell(memory[key], has) for key in memory_keys)])
    return aligned(lines)


def spread_line(row: Row, columns: dict = COLUMNS) -> str:
    """How far the runs of a subject lay apart: the noise that its medians come out of."""
    parts = [
        f"{columns[key][0]} {columns[key][1]} {spread:.0%}"
        for key, samples in row.samples.items()
        if (spread := samples.spread()) is not None
    ]
    return f"Runs of the {row.subject.name} lay apart by: {', '.join(parts)}" if parts else ""


def column_help(columns: dict = COLUMNS, memory: dict = MEMORY) -> str:
    """For --help."""
    explained = [(f"{head} {unit}", words) for head, unit, _, words in columns.values()]
    explained += [(f"{head} {unit}", words) for head, unit, words in memory.values()]
    return "\n".join(
        textwrap.fill(words, 100, initial_indent=f"  {head:<16}", subsequent_indent=" " * 18)
        for head, words in explained
    )


def publish(machine: dict, settings: dict, lines: list[str], results: dict, json_to: str | None) -> None:
    """The text to stdout, or to stderr where the JSON document takes stdout (`--json -`)."""
    machine = {**machine, "stolen": stolen_since(machine["ticks_before"])}
    print("\n".join([*header(machine, settings), *lines]), file=sys.stderr if json_to == "-" else sys.stdout)
    document = json.dumps({"machine": machine, "settings": settings, **results}, indent=1, ensure_ascii=False)
    if json_to == "-":
        print(document)
    elif json_to:
        Path(json_to).write_text(document + "\n")
