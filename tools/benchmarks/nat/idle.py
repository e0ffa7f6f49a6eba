# SPDX-License-Identifier: Apache-2.0
"""Thousands of idle TCP flows: what they take from others' throughput, and how often they wake the switch.

Two vswitches run side by side, each with a container that is measured and three that are not; on one of them
those three hold the flows. Wake-ups come from `vswitch stats --json`, read twice with silence between; what
one reading itself costs is measured by two readings in a row and taken off.
"""

from __future__ import annotations

import json
import time

from benchmarks.nat import flows
from benchmarks.nat.subjects.vswitch import Vswitch
from benchmarks.process_cost import memory
from benchmarks.rounds import interleave, say
from benchmarks.samples import Samples
from benchmarks.sandbox import Process, Sandbox
from benchmarks.sections.section import Section, running, shown
from benchmarks.targets import KIB, Verdict, ratio
from benchmarks.traffic import stream

HOLDERS = 3
SILENCE_S = 10.0
SETTLE_S = 3.0  # the last packets' timers, set while it was not idle yet, ring within two seconds
SHARE = 0.95
WAKE_UPS_PER_S = 1.0


def wake_ups(subject: Vswitch) -> int:
    """Of its dataplane, so far."""
    return json.loads(subject.command("stats", "--json"))["wakeups"]


def wake_ups_per_second(subject: Vswitch) -> float:
    """While nothing happens, and nothing has happened lately."""
    time.sleep(SETTLE_S)
    before = wake_ups(subject)
    reading = wake_ups(subject) - before
    time.sleep(SILENCE_S)
    return max(0, wake_ups(subject) - before - 2 * reading) / SILENCE_S


def hold_all(sandbox: Sandbox, subject: Vswitch, count: int) -> list[Process]:
    """The flows, by all containers but the first."""
    share = [count // HOLDERS + (number < count % HOLDERS) for number in range(HOLDERS)]
    return [flows.hold(sandbox, subject, "tcp", part, 1 + number) for number, part in enumerate(share)]


def measure(sandbox: Sandbox, subject: Vswitch, samples: dict[str, Samples], seconds: float) -> None:
    """One turn: out, then in."""
    for direction, reverse in (("out", False), ("in", True)):
        run = stream(sandbox, subject.outward(), seconds, reverse=reverse)
        samples[direction].add(run.gbit_per_s, run.stalled)


def idle_flows(sandbox: Sandbox, seconds: float, rounds: int, count: int) -> Section:
    """The section of --idle-flows."""
    say(f"{count} idle flows")
    empty = Vswitch(sandbox, ports=1 + HOLDERS, key="idle-none")
    full = Vswitch(sandbox, ports=1 + HOLDERS, key="idle-many")
    samples = {one: {"out": Samples(), "in": Samples()} for one in (empty, full)}
    with running(empty, full), flows.echo_server(sandbox, full):
        before = memory(full.processes()).pss
        holders = hold_all(sandbox, full, count)
        per_flow = (memory(full.processes()).pss - before) / count
        per_second = wake_ups_per_second(full)
        turn = ("idle flows held", rounds, lambda one: measure(sandbox, one, samples[one], seconds))
        interleave([empty, full], [turn])
        sandbox.end(*holders)
    section = Section(f"{count} idle TCP flows of three containers, a fourth transfers")
    for direction in ("out", "in"):
        with_flows, without = (samples[one][direction] for one in (full, empty))
        share = ratio(with_flows.median(), without.median())
        section.lines.append(f"TCP {direction}: {shown(with_flows)} Gbit/s, without them {shown(without)}")
        section.verdicts.append(Verdict(f"TCP {direction} of that without", share, SHARE, True))
        section.document[direction] = {"held": with_flows.as_json(), "none": without.as_json()}
    section.document |= {"flows": count, "wake_ups_per_s": per_second, "pss_bytes_per_flow": per_flow}
    section.verdicts += [
        Verdict("wake-ups while idle", per_second, WAKE_UPS_PER_S, False, " /s"),
        Verdict("memory per idle TCP flow", per_flow / KIB, 1, False, " KiB"),
    ]
    return section
