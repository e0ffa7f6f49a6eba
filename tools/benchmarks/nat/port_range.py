# SPDX-License-Identifier: Apache-2.0
"""How long it takes to publish ten thousand ports: `vswitch port add` of the range less one of a single port."""

from __future__ import annotations

import time

from benchmarks.nat.subjects.vswitch import Vswitch
from benchmarks.rounds import say
from benchmarks.samples import Samples
from benchmarks.sandbox import Sandbox
from benchmarks.sections.section import Section, running
from benchmarks.targets import Verdict

FIRST, LAST = 20000, 29999
SINGLE, RANGE = "30000:30000", f"{FIRST}-{LAST}:{FIRST}-{LAST}"
MOST_S = 0.5


def publish_s(subject: Vswitch, what: str) -> float:
    """Publishes for the first container and takes back; seconds of publishing, the command's own start included."""
    container = subject.containers[0].netns
    began_at = time.monotonic()
    subject.command("port", "add", container, what)
    took_s = time.monotonic() - began_at
    subject.command("port", "rm", container, what)
    return took_s


def port_range(sandbox: Sandbox, _seconds: float, rounds: int) -> Section:
    """The section of --range."""
    say(f"publishing {RANGE}")
    subject = Vswitch(sandbox, key="range-vswitch")
    single, ranged = Samples(), Samples()
    with running(subject):
        for _ in range(rounds):
            single.add(publish_s(subject, SINGLE))
            ranged.add(publish_s(subject, RANGE))
    took_s = ranged.median() - single.median()
    section = Section(f"{LAST - FIRST + 1} ports published at once ({RANGE})")
    section.lines = [
        f"vswitch port add: the range {ranged.median():.2f} s, one port {single.median():.2f} s",
    ]
    section.verdicts = [Verdict("publishing the range", took_s, MOST_S, False, " s")]
    section.document = {"range_s": ranged.as_json(), "single_s": single.as_json(), "difference_s": took_s}
    return section
