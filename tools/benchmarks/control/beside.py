# SPDX-License-Identifier: Apache-2.0
"""Bulk TCP while names are asked for: what the resolver takes from the dataplane.

One container sends to another through vswitch while a third asks vswitch's resolver; in turn with it the raw loop
carries the same stream while dnsmasq answers the same questions. Each thus has its own resolver's load beside it.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.control import dnsperf
from benchmarks.control.crowd import Crowd
from benchmarks.control.names import QPS, Dnsmasq
from benchmarks.report import aligned
from benchmarks.rounds import interleave, say
from benchmarks.samples import Samples
from benchmarks.sandbox import Failed, Sandbox
from benchmarks.sections.section import Section, running, shown
from benchmarks.subjects.loop import Loop
from benchmarks.subjects.subject import Subject
from benchmarks.targets import Verdict, ratio
from benchmarks.traffic import stream

TARGET = 0.95
LEAD_S = 1.0  # dnsperf asks for so much longer than the stream lasts


class Pair(NamedTuple):
    """A switch that carries the stream, and the resolver that is asked meanwhile."""

    name: str
    switch: Subject
    netns: str
    server: str
    tcp: Samples
    answered: Samples


def beside(sandbox: Sandbox, crowd: Crowd, dnsmasq: Dnsmasq, seconds: float, rounds: int) -> Section:
    """The crowd is there, and dnsmasq knows it."""
    loop = Loop(sandbox, key="beside-loop")
    with running(loop):
        loop.use_queue_length(crowd.queue_length())
        own = Pair("vswitch, its resolver", crowd, crowd.containers[2].netns, "127.0.0.11", Samples(), Samples())
        raw = Pair("raw loop, dnsmasq", loop, dnsmasq.home, "127.0.0.1", Samples(), Samples())

        def turn(pair: Pair) -> None:
            asking = dnsperf.asking(
                sandbox, pair.netns, pair.server, dnsmasq.local, seconds + LEAD_S, QPS, each=False
            )
            try:
                run = stream(sandbox, pair.switch, seconds)
                pair.tcp.add(run.gbit_per_s, run.stalled)
                pair.answered.add(dnsperf.answers(asking, seconds + LEAD_S).per_second)
            except Failed as failure:
                say(f"  {pair.name}: {failure}")
                pair.tcp.failures.append(str(failure))
            finally:
                sandbox.end(asking)

        interleave([raw, own], [(f"TCP beside {QPS} names a second", rounds, turn)])
    section = Section(f"Bulk TCP at MTU 1500 while a resolver is asked {QPS} times a second")
    section.lines = aligned(
        [["", "TCP Gbit/s", "answers/s"], *([p.name, shown(p.tcp), shown(p.answered, 0)] for p in (raw, own))]
    )
    section.verdicts = [Verdict("TCP, vswitch / raw loop", ratio(own.tcp.median(), raw.tcp.median()), TARGET, True)]
    section.document = {p.name: {"tcp": p.tcp.as_json(), "answers": p.answered.as_json()} for p in (raw, own)}
    return section
