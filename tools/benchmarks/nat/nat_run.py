# SPDX-License-Identifier: Apache-2.0
"""One run of `tools/bench nat`: which ways out, in which order they are measured, what is said about them.

All of the tables' subjects run side by side, each on a stage of its own; those whose turn it isn't are idle.
Connections and memory are measured with fresh instances. Then all stop, and the sections follow, each with
instances of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.nat.columns import COLUMNS, Row, measurements, tables
from benchmarks.nat.stage import Stage
from benchmarks.nat.subjects.kernel import Kernel
from benchmarks.nat.subjects.loop import Loop
from benchmarks.nat.subjects.pasta import LargePasta, Pasta
from benchmarks.nat.subjects.slirp4netns import LargeSlirp4netns, Slirp4netns
from benchmarks.nat.subjects.vswitch import Vswitch
from benchmarks.nat.targets import verdicts, verdicts_without_peek_off
from benchmarks.report import spread_line
from benchmarks.rounds import interleave, say
from benchmarks.sandbox import Failed, Sandbox
from benchmarks.sections.section import Section
from benchmarks.targets import Verdict

SUBJECTS: tuple[type[Stage], ...] = (Loop, Vswitch, Pasta, LargePasta, Slirp4netns, LargeSlirp4netns, Kernel)
PEEK_OFF = "peek_off"


def choose(sandbox: Sandbox, keys: list[str], less: list[str], beyond: bool) -> list[Row]:
    """Nothing is started yet. `less`: one more vswitch for each, without those features."""
    subjects = [kind(sandbox, beyond=beyond) for kind in SUBJECTS if kind.key in keys]
    for number, features in enumerate(less):
        environment = {"VSWITCH_DISABLE": features}
        subjects.append(
            Vswitch(sandbox, beyond=beyond, key=f"less{number}", name=f"vswitch -{features}", environment=environment)
        )
    return [Row(subject) for subject in subjects]


def start(row: Row) -> None:
    """Running, or the reason why not in `trouble`."""
    row.trouble = row.subject.absent()
    if row.trouble is None:
        try:
            row.subject.start()
        except Failed as failure:
            row.trouble = f"doesn't start: {failure}"
            row.subject.stop()
    if row.trouble:
        say(f"{row.subject.name}: {row.trouble}")


class NatRun:
    """What was measured so far; `settings` gets what was found out on the way."""

    def __init__(self, sandbox: Sandbox, settings: dict, keys: list[str], less: list[str]):
        self.sandbox, self.settings = sandbox, settings
        self.rows = choose(sandbox, keys, less, settings.get("beyond", False))
        self.sections: dict[str, Section | str] = {}
        self.with_tables = False

    def row_of(self, name: str) -> Row | None:
        """A subject's row; None if it wasn't chosen or isn't there."""
        return next((row for row in self.measured() if row.subject.name == name), None)

    def measured(self) -> list[Row]:
        """The rows of the tables."""
        return [row for row in self.rows if not row.trouble]

    def measure_tables(self) -> None:
        """Every column; afterwards no subject runs any more."""
        self.with_tables = True
        for row in self.rows:
            start(row)
        self.level_queues()
        settings = self.settings
        wanted = settings["seconds"], settings["rounds"], settings["held_flows"], settings["kinds"]
        rounds = measurements(self.sandbox, *wanted)
        if self.measured():
            interleave(self.measured(), rounds)
        for row in self.measured():
            row.subject.stop()

    def level_queues(self) -> None:
        """The raw loop gets the ring length that vswitch gives its TAPs; all lengths are noted."""
        own, loop = self.row_of(Vswitch.name), self.row_of(Loop.name)
        if own and loop:
            loop.subject.use_queue_length(own.subject.queue_length())
        self.settings["queue_lengths"] = {row.subject.name: row.subject.queue_length() for row in (own, loop) if row}

    def measure_section(self, name: str, make: Callable[[], Section]) -> None:
        """The section, or the reason why there is none."""
        try:
            self.sections[name] = Vswitch.absent() or make()
        except Failed as failure:
            self.sections[name] = str(failure)
            say(f"{name}: {failure}")

    def complete(self) -> bool:
        """Whether all that concerns vswitch could be measured."""
        own = [row for row in self.rows if isinstance(row.subject, Vswitch)]
        return not any(row.trouble or row.failed() for row in own) and not any(
            isinstance(section, str) for section in self.sections.values()
        )

    def verdicts(self) -> dict[str, list[Verdict]]:
        """Each vswitch that has targets → how it stands."""
        if not self.with_tables:
            return {}
        loop, found = self.row_of(Loop.name), {}
        for row in self.measured():
            if row.subject.name == Vswitch.name:
                found[row.subject.name] = verdicts(row, self.measured(), loop)
            elif isinstance(row.subject, Vswitch) and PEEK_OFF in row.subject.environment["VSWITCH_DISABLE"]:
                found[row.subject.name] = verdicts_without_peek_off(row, loop)
        return found

    def text(self) -> list[str]:
        """Everything below the header."""
        lines = [f"{row.subject.name}: {version}" for row in self.measured() if (version := row.subject.version())]
        lines += [f"{row.subject.name}: {row.trouble}" for row in self.rows if row.trouble]
        if self.with_tables:
            where = "in a namespace beyond the host" if self.settings["beyond"] else "on addresses of the host's own"
            lines.append(f"servers listen {where}; clients of the published port come from beyond it")
            lines += [*tables(self.measured()), *self.remarks()]
        for name, judged in self.verdicts().items():
            lines += ["", f"{name}, and what it must reach", *(one.line() for one in judged)]
        for name, section in self.sections.items():
            lines += section.text() if isinstance(section, Section) else ["", f"{name}: not measured: {section}"]
        return lines

    def remarks(self) -> list[str]:
        """Right below the tables: noise, and why runs failed."""
        loop = self.row_of(Loop.name)
        lines = [spread_line(loop, COLUMNS)] if loop else []
        lines += [
            f"{row.subject.name}, {COLUMNS[key][0]} {COLUMNS[key][1]}: {samples.failures[0]}"
            for row in self.measured()
            for key, samples in row.samples.items()
            if samples.failures
        ]
        return ["", *filter(None, lines)] if any(lines) else []

    def as_json(self) -> dict:
        """For the JSON document."""
        return {
            "subjects": [row.as_json() for row in self.rows],
            "targets": {name: [one.as_json() for one in judged] for name, judged in self.verdicts().items()},
            "sections": {
                name: section.as_json() if isinstance(section, Section) else {"not_measured": section}
                for name, section in self.sections.items()
            },
        }
