# SPDX-License-Identifier: Apache-2.0
"""One run of `tools/bench switch`: which switches, in which order they are measured, what is said about them.

All of the table's switches run side by side, each with two containers; those whose turn it isn't are idle.
Then they stop, and memory with many ports and the sections follow, each with switches of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.columns import COLUMNS, Row, measurements
from benchmarks.process_cost import memory
from benchmarks.report import spread_line, table
from benchmarks.rounds import interleave, say
from benchmarks.sandbox import Failed, Sandbox
from benchmarks.sections.capture import capture
from benchmarks.sections.flood import flood
from benchmarks.sections.hog import hog
from benchmarks.sections.many import many, measure_others
from benchmarks.sections.section import Section
from benchmarks.subjects.bridge import Bridge
from benchmarks.subjects.loop import Loop, Twin
from benchmarks.subjects.openvswitch import OpenVSwitch
from benchmarks.subjects.subject import Subject
from benchmarks.subjects.vde import Vde
from benchmarks.subjects.vswitch import Vswitch
from benchmarks.targets import Verdict, verdicts

SUBJECTS: tuple[type[Subject], ...] = (Loop, Bridge, Vswitch, OpenVSwitch, Vde)
SECTIONS: dict[str, Callable[[Sandbox, float, int], Section]] = {
    "hog": hog,
    "flood": flood,
    "capture": capture,
}


def choose(sandbox: Sandbox, keys: list[str], twin: bool, less: list[str]) -> list[Subject]:
    """Nothing is started yet. `less`: one more vswitch for each, without those features."""
    subjects: list[Subject] = [kind(sandbox) for kind in SUBJECTS if kind.key in keys]
    if twin:
        subjects.append(Twin(sandbox))
    for number, features in enumerate(less):
        environment = {"VSWITCH_DISABLE": features}
        subjects.append(
            Vswitch(sandbox, key=f"less{number}", name=f"vswitch -{features}", environment=environment)
        )
    return subjects


def start(row: Row) -> None:
    """Running, or the reason why not in `trouble`."""
    row.trouble = row.subject.absent()
    if row.trouble is None:
        try:
            row.subject.start()
            if row.subject.has_processes:
                row.few = memory(row.subject.processes())
        except Failed as failure:
            row.trouble = f"doesn't start: {failure}"
    if row.trouble:
        say(f"{row.subject.name}: {row.trouble}")


class SwitchRun:
    """What was measured so far; `settings` gets what was found out on the way."""

    def __init__(self, sandbox: Sandbox, settings: dict, keys: list[str], twin: bool, less: list[str]):
        self.sandbox, self.settings = sandbox, settings
        self.rows = [Row(subject) for subject in choose(sandbox, keys, twin, less)]
        self.sections: dict[str, Section | str] = {}
        self.with_table = False

    def row_of(self, name: str) -> Row | None:
        """A subject's row; None if it wasn't chosen or isn't there."""
        return next((row for row in self.rows if row.subject.name == name and not row.trouble), None)

    def measured(self) -> list[Row]:
        """The rows of the table."""
        return [row for row in self.rows if not row.trouble]

    def measure_table(self) -> None:
        """Every column but the memory with many ports; afterwards no subject runs any more."""
        self.with_table = True
        for row in self.rows:
            start(row)
        self.level_queues()
        rounds = measurements(self.sandbox, self.settings["seconds"], self.settings["rounds"])
        interleave(self.measured(), rounds)
        for row in self.measured():
            row.subject.stop()

    def level_queues(self) -> None:
        """Raw loops get the ring length that vswitch gives its TAPs; all lengths are noted."""
        switch = self.row_of(Vswitch.name)
        for row in self.measured():
            if switch and isinstance(row.subject, Loop):
                row.subject.use_queue_length(switch.subject.queue_length())
        self.settings["queue_lengths"] = {
            row.subject.name: row.subject.queue_length()
            for row in self.measured()
            if row.subject.has_processes
        }

    def measure_sections(self, wanted: list[str]) -> None:
        """Memory with many ports, then the sections that were asked for."""
        ports = self.settings["ports_many"]
        if ports:
            if self.with_table:
                measure_others(self.sandbox, self.rows, ports)
            own = self.row_of(Vswitch.name)
            if own:
                self.measure_section("many", partial(many, self.sandbox, own, ports))
        for name in wanted:
            length = self.settings["seconds"], self.settings["rounds"]
            self.measure_section(name, partial(SECTIONS[name], self.sandbox, *length))

    def measure_section(self, name: str, make: Callable[[], Section]) -> None:
        """The section, or the reason why there is none."""
        try:
            self.sections[name] = Vswitch.absent() or make()
        except Failed as failure:
            self.sections[name] = str(failure)
            say(f"{name}: {failure}")

    def complete(self) -> bool:
        """Whether all that concerns vswitch could be measured."""
        troubled = [
            row for row in self.rows if isinstance(row.subject, Vswitch) and (row.trouble or row.failed())
        ]
        return not troubled and not any(isinstance(section, str) for section in self.sections.values())

    def verdicts(self) -> list[Verdict]:
        """vswitch against its targets."""
        own = self.row_of(Vswitch.name)
        return verdicts(own, self.row_of(Loop.name)) if own and self.with_table else []

    def text(self) -> list[str]:
        """Everything below the header."""
        shown = [row for row in self.measured() if self.with_table or isinstance(row.subject, Vswitch)]
        lines = [f"{row.subject.name}: {row.subject.version()}" for row in shown if row.subject.version()]
        lines += [f"{row.subject.name}: {row.trouble}" for row in self.rows if row.trouble]
        if self.with_table:
            lines += ["", *table(self.measured(), self.settings["ports_many"]), *self.remarks()]
        if self.verdicts():
            lines += [
                "",
                "vswitch / raw loop, and what it must reach",
                *(one.line() for one in self.verdicts()),
            ]
        for name, section in self.sections.items():
            lines += (
                section.text() if isinstance(section, Section) else ["", f"{name}: not measured: {section}"]
            )
        return lines

    def remarks(self) -> list[str]:
        """Right below the table: noise, and why runs failed."""
        loop = self.row_of(Loop.name)
        lines = [spread_line(loop)] if loop else []
        for row in self.measured():
            for key, samples in row.samples.items():
                if samples.failures:
                    lines.append(
                        f"{row.subject.name}, {COLUMNS[key][0]} {COLUMNS[key][1]}: {samples.failures[0]}"
                    )
        return ["", *filter(None, lines)] if any(lines) else []

    def as_json(self) -> dict:
        """For the JSON document."""
        return {
            "subjects": [row.as_json() for row in self.rows],
            "targets": [verdict.as_json() for verdict in self.verdicts()],
            "sections": {
                name: section.as_json() if isinstance(section, Section) else {"not_measured": section}
                for name, section in self.sections.items()
            },
        }
