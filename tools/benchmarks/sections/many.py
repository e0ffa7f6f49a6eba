# SPDX-License-Identifier: Apache-2.0
"""Many ports: how long `vswitch attach` takes for all of them, what memory each costs, whether any two reach
each other.

Every switch that can have many is started afresh, read with two ports, grown, read again. Only vswitch's
ports are attached namespaces; Open vSwitch's and VDE's TAPs stay in the namespace that plays the host,
their memory is the same.
"""

from __future__ import annotations

import os
import random

from benchmarks.columns import Row
from benchmarks.probing import Answers, probe
from benchmarks.process_cost import memory
from benchmarks.rounds import say
from benchmarks.sandbox import Failed, Sandbox
from benchmarks.sections.section import Section, running
from benchmarks.subjects.subject import Subject
from benchmarks.subjects.vswitch import Vswitch
from benchmarks.targets import BYTES_PER_PORT, KIB, Verdict

SAMPLE_PAIRS = 20
SECONDS_PER_PORT = 60 / 500
PROBE_S = 0.05


def grow(row: Row, subject: Subject, ports: int) -> None:
    """Fills the row's memory before and after."""
    row.few = memory(subject.processes())
    subject.grow(ports)
    row.many, row.ports_many = memory(subject.processes()), ports


def sample_pings(sandbox: Sandbox, subject: Subject) -> list[Answers]:
    """Between the first and the last, and between pairs drawn by a fixed seed."""
    draw, last = random.Random(500), len(subject.containers) - 1
    pairs = [(0, last), (last, 0), *(tuple(draw.sample(range(last + 1), 2)) for _ in range(SAMPLE_PAIRS - 2))]
    return [
        probe(sandbox, subject.containers[source], subject.containers[target].address, PROBE_S)
        for source, target in pairs
    ]


def measure_others(sandbox: Sandbox, rows: list[Row], ports: int) -> None:
    """Memory columns of the switches beside vswitch."""
    for row in rows:
        if not row.subject.can_grow or row.trouble or isinstance(row.subject, Vswitch):
            continue
        say(f"{ports} ports: {row.subject.name}")
        fresh = type(row.subject)(sandbox, key=f"many-{row.subject.key}")
        try:
            with running(fresh):
                grow(row, fresh, ports)
        except Failed as failure:
            say(f"  {row.subject.name}: {failure}")


def many(sandbox: Sandbox, row: Row, ports: int) -> Section:
    """The section of --many; fills vswitch's memory columns too."""
    say(f"{ports} ports: vswitch")
    fresh = Vswitch(sandbox, key="many-vswitch")
    with running(fresh):
        grow(row, fresh, ports)
        answers = sample_pings(sandbox, fresh)
    reached = sum(answer.lost == 0 for answer in answers)
    jobs, per_port, took_s = os.cpu_count() or 1, row.bytes_per_port() or 0.0, fresh.attach_s
    section = Section(f"{ports} containers on one network of one vswitch")
    section.lines = [
        f"attached by `vswitch attach`, {jobs} at a time: {took_s:.1f} s, "
        f"{took_s / (ports - 2) * 1e3:.0f} ms each",
        f"resident memory per port: {per_port / KIB:.1f} KiB",
        f"pings between sampled pairs answered: {reached} of {len(answers)}",
    ]
    section.document = {
        "ports": ports,
        "jobs": jobs,
        "attach_s": took_s,
        "pss_bytes_per_port": per_port,
        "sampled_pairs": len(answers),
        "pairs_reached": reached,
        "worst_first_answer_us": max(answer.max_us for answer in answers),
    }
    section.verdicts = [
        Verdict(f"attaching {ports}", took_s, SECONDS_PER_PORT * ports, False, " s"),
        Verdict("resident memory per port", per_port / KIB, BYTES_PER_PORT / KIB, False, " KiB"),
        Verdict("sampled pairs that don't reach", len(answers) - reached, 0, False),
    ]
    return section
