# SPDX-License-Identifier: Apache-2.0
"""One container wears out the way out, two others go on: what is left to them.

The flooder (yardsticks/nat_flood.c) takes a core and sends SYNs to addresses where nobody answers, datagrams
that each want a new mapping, or 64-byte frames over one flow. Of the two others one opens connections at a
steady pace (its connect times), and then the other one transfers in bulk: flooder and bulk then share the
way out, so the fair share is half of what bulk gets when nobody floods. The kernel stands beside vswitch as
what people have today.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from benchmarks.nat import flows
from benchmarks.nat.stage import BLACK_HOLE, BLACK_HOLES, Stage
from benchmarks.nat.subjects.kernel import Kernel
from benchmarks.nat.subjects.vswitch import Vswitch
from benchmarks.report import aligned
from benchmarks.rounds import interleave, say
from benchmarks.samples import Samples
from benchmarks.sandbox import Failed, Process, Sandbox
from benchmarks.sections.flood import FAIR_SHARE, LEAST_SHARE, QUIET, end_flood
from benchmarks.sections.section import Section, running, shown
from benchmarks.targets import Verdict, ratio
from benchmarks.traffic import stream
from benchmarks.yardstick import yardstick

KINDS = (QUIET, "syn", "new-udp", "small")
FLOODER, CONNECTOR, SENDER = range(3)
PAUSE_MS = 2
MOST_P99_TIMES = 3.0


@dataclass
class State:
    """What was measured for one way out under one kind of flood."""

    p50_us: Samples = field(default_factory=Samples)
    p99_us: Samples = field(default_factory=Samples)
    failed: int = 0
    tcp: Samples = field(default_factory=Samples)
    flood_k_per_s: Samples = field(default_factory=Samples)


def start_flood(sandbox: Sandbox, subject: Stage, kind: str) -> Process:
    """From the first container."""
    process = sandbox.spawn(
        [yardstick(sandbox, "nat_flood"), kind, BLACK_HOLE, str(BLACK_HOLES)], subject.containers[FLOODER].netns
    )
    process.wait_ready("ready")
    return process


def measure_others(sandbox: Sandbox, subject: Stage, state: State, seconds: float) -> None:
    """Connect times of one, then throughput of the other. A failure is noted for both that it concerns."""
    try:
        with flows.echo_server(sandbox, subject):
            run = flows.connect_rate(sandbox, subject, seconds, position=CONNECTOR, pause_ms=PAUSE_MS)
        state.p50_us.add(run.p50_us)
        state.p99_us.add(run.p99_us)
        state.failed += run.failed
    except Failed as failure:
        say(f"  {subject.name}: {failure}")
        state.p99_us.failures.append(str(failure))
    try:
        bulk = stream(sandbox, subject.outward(SENDER), seconds)
        state.tcp.add(bulk.gbit_per_s, bulk.stalled)
    except Failed as failure:
        say(f"  {subject.name}: {failure}")
        state.tcp.failures.append(str(failure))


def measure(sandbox: Sandbox, subject: Stage, kind: str, state: State, seconds: float) -> None:
    """One turn of one way out."""
    if kind == QUIET:
        measure_others(sandbox, subject, state, seconds)
        return
    flooding, began_at = start_flood(sandbox, subject, kind), time.monotonic()
    try:
        measure_others(sandbox, subject, state, seconds)
    finally:
        took_s = time.monotonic() - began_at
        state.flood_k_per_s.add(end_flood(sandbox, flooding) / took_s / 1e3)


def flood(sandbox: Sandbox, seconds: float, rounds: int) -> Section:
    """The section of --flood."""
    subjects: list[Stage] = [Vswitch(sandbox, ports=3, key="flood-vswitch")]
    if Kernel.absent() is None:
        subjects.append(Kernel(sandbox, ports=3, key="flood-kernel"))
    states = {(subject.name, kind): State() for subject in subjects for kind in KINDS}
    with running(*subjects):

        def turn(kind: str):
            return lambda subject: measure(sandbox, subject, kind, states[subject.name, kind], seconds)

        interleave(subjects, [(f"flood: {kind}", rounds, turn(kind)) for kind in KINDS])
    return conclude(states)


def conclude(states: dict[tuple[str, str], State]) -> Section:
    """The table, and vswitch's verdicts."""
    section = Section("One container floods, two others go on")
    rows = [["", "flood", "flood k/s", "connect p50 µs", "p99 µs", "of quiet", "failed", "TCP Gbit/s", "of quiet"]]
    for (name, kind), state in states.items():
        quiet = states[name, QUIET]
        times = ratio(state.p99_us.median(), quiet.p99_us.median())
        share = ratio(state.tcp.median(), quiet.tcp.median())
        section.document.setdefault(name, {})[kind] = {
            "connect_p50_us": state.p50_us.as_json(),
            "connect_p99_us": state.p99_us.as_json(),
            "connects_failed": state.failed,
            "p99_of_quiet": times,
            "tcp": state.tcp.as_json(),
            "share_of_quiet": share,
            "flood_k_per_s": state.flood_k_per_s.median(),
        }
        flooding = kind != QUIET
        rows.append(
            [
                *(name, kind, shown(state.flood_k_per_s, 0) if flooding else ""),
                *(shown(state.p50_us, 0), shown(state.p99_us, 0), f"{times:.2f}" if flooding and times else ""),
                *(str(state.failed), shown(state.tcp), f"{share:.2f}" if flooding and share else ""),
            ]
        )
        if flooding and name == Vswitch.name:
            section.verdicts += [
                Verdict(f"{kind}: connect p99 of quiet", times, MOST_P99_TIMES, False),
                Verdict(f"{kind}: TCP of quiet", share, LEAST_SHARE, True),
            ]
    section.lines = aligned(rows)
    section.lines.append(f"The fair share is {FAIR_SHARE} of quiet: two want the way out. The target is half of that.")
    return section
