# SPDX-License-Identifier: Apache-2.0
"""One container floods, two others go on: what is left to them of round trips and throughput.

The flooder (tools/yardsticks/flood.c) takes a core and sends as fast as it can; in turn 64-byte frames to
everybody, 64-byte frames to one of the two, ARP requests, DHCP DISCOVERs. Two parties then want the switch,
the flooder and the pair, so the pair's fair share is half of what it gets when nobody floods. The kernel's
bridge stands beside it as what people have today. Echo probes and TCP are measured one after the other: a
pair's own bulk traffic queues too.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from benchmarks.probing import Answers, probe, together
from benchmarks.report import aligned
from benchmarks.rounds import interleave, say
from benchmarks.samples import Samples
from benchmarks.sandbox import Failed, Process, Sandbox
from benchmarks.sections.section import Section, running, shown
from benchmarks.subjects.bridge import Bridge
from benchmarks.subjects.subject import Subject
from benchmarks.subjects.vswitch import Vswitch
from benchmarks.targets import Verdict, ratio
from benchmarks.traffic import stream
from benchmarks.yardstick import yardstick

QUIET = "quiet"
KINDS = (QUIET, "broadcast", "unicast", "arp", "dhcp")
FLOODER, SENDER, RECEIVER = range(3)
P99_MS = 5.0
FAIR_SHARE = 0.5
LEAST_SHARE = FAIR_SHARE / 2


@dataclass
class State:
    """What was measured for one switch under one kind of flood."""

    answers: list[Answers] = field(default_factory=list)
    tcp: Samples = field(default_factory=Samples)
    flood_k_per_s: Samples = field(default_factory=Samples)


def start_flood(sandbox: Sandbox, subject: Subject, kind: str) -> Process:
    """From the first container, against the third where the kind has a victim."""
    source, victim = subject.containers[FLOODER], subject.containers[RECEIVER]
    process = sandbox.spawn(
        [
            yardstick(sandbox, "flood"),
            kind,
            source.interface,
            subject.link(victim)["address"],
            victim.address,
        ],
        source.netns,
    )
    process.wait_ready("ready")
    return process


def end_flood(sandbox: Sandbox, process: Process) -> int:
    """Frames that were sent."""
    sandbox.end(process)
    return json.loads(process.out.read_text().partition("ready\n")[2])["sent"]


def measure_pair(sandbox: Sandbox, subject: Subject, state: State, seconds: float) -> None:
    """Echo probes, then TCP, between the two that don't flood."""
    try:
        state.answers.append(
            probe(sandbox, subject.containers[SENDER], subject.containers[RECEIVER].address, seconds)
        )
        run = stream(sandbox, subject, seconds, sender=SENDER, receiver=RECEIVER)
        state.tcp.add(run.gbit_per_s, run.stalled)
    except Failed as failure:
        say(f"  {subject.name}: {failure}")
        state.tcp.failures.append(str(failure))


def measure(sandbox: Sandbox, subject: Subject, kind: str, state: State, seconds: float) -> None:
    """One turn of one switch."""
    if kind == QUIET:
        measure_pair(sandbox, subject, state, seconds)
        return
    flooding, began_at = start_flood(sandbox, subject, kind), time.monotonic()
    try:
        measure_pair(sandbox, subject, state, seconds)
    finally:
        took_s = time.monotonic() - began_at
        state.flood_k_per_s.add(end_flood(sandbox, flooding) / took_s / 1e3)


def flood(sandbox: Sandbox, seconds: float, rounds: int) -> Section:
    """The section of --flood."""
    subjects = [Vswitch(sandbox, 3, key="flood-vswitch"), Bridge(sandbox, 3, key="flood-bridge")]
    states = {(subject.name, kind): State() for subject in subjects for kind in KINDS}
    with running(*subjects):

        def turn(kind: str):
            return lambda subject: measure(sandbox, subject, kind, states[subject.name, kind], seconds)

        interleave(subjects, [(f"flood: {kind}", rounds, turn(kind)) for kind in KINDS])
    section = Section("One container floods, two others go on")
    rows = [["", "flood", "flood k/s", "echo p50 µs", "p99 µs", "lost", "TCP Gbit/s", "of quiet"]]
    for (name, kind), state in states.items():
        echo = together(state.answers)
        share = ratio(state.tcp.median(), states[name, QUIET].tcp.median())
        section.document.setdefault(name, {})[kind] = {
            "echo": echo,
            "tcp": state.tcp.as_json(),
            "share_of_quiet": share,
            "flood_k_per_s": state.flood_k_per_s.median(),
        }
        rows.append(
            [
                name,
                kind,
                "" if kind == QUIET else shown(state.flood_k_per_s, 0),
                *(
                    (f"{echo['p50_us']:.0f}", f"{echo['p99_us']:.0f}", f"{echo['lost']} of {echo['sent']}")
                    if echo
                    else ("failed",) * 3
                ),
                shown(state.tcp),
                "" if share is None else f"{share:.2f}",
            ]
        )
        if name == Vswitch.name and kind != QUIET:
            section.verdicts += [
                Verdict(f"{kind}: echo p99", echo and echo["p99_us"] / 1e3, P99_MS, False, " ms"),
                Verdict(f"{kind}: TCP of quiet", share, LEAST_SHARE, True),
            ]
    section.lines = aligned(rows)
    section.lines.append(
        f"The pair's fair share is {FAIR_SHARE} of quiet: two want the switch. The target is half of that."
    )
    return section
