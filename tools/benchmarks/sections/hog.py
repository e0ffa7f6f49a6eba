# SPDX-License-Identifier: Apache-2.0
"""A Python loop that never lets go of the GIL, inside the vswitch process: what the dataplane notices of it.

VSWITCH_TEST_HOG=1 makes vswitch-run start such a thread. A busy core costs any switch something, so the raw
loop is measured beside an equal hog that is a process of its own. The gateway's answers (echo, ARP) come
from the dataplane: they are probed without a hog, beside one, and with it inside. Whoever isn't measured is
stopped by a signal meanwhile, hogs included.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks.probing import Answers, probe, together
from benchmarks.process_cost import cpu_seconds
from benchmarks.report import aligned
from benchmarks.rounds import interleave, say
from benchmarks.samples import Samples
from benchmarks.sandbox import Failed, Process, Sandbox
from benchmarks.sections.section import Section, running, shown
from benchmarks.subjects.loop import Loop
from benchmarks.subjects.vswitch import Vswitch
from benchmarks.targets import Verdict, ratio
from benchmarks.traffic import stream

TARGET = 0.90
BUSY = "while True: pass"
LEAST_SHARE_OF_A_CORE = 0.3  # below that there was no hog


@contextlib.contextmanager
def awake(process: Process) -> Iterator[None]:
    """Runs within, stopped before and after."""
    process.popen.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        process.popen.send_signal(signal.SIGSTOP)


def require_a_hog(switch: Vswitch) -> None:
    """Failed if the switch is idle: then nothing would be shown by the figures."""
    pids, began_at = switch.processes(), time.monotonic()
    before_s = cpu_seconds(pids)
    time.sleep(0.5)
    if cpu_seconds(pids) - before_s < LEAST_SHARE_OF_A_CORE * (time.monotonic() - began_at):
        raise Failed("VSWITCH_TEST_HOG=1 made no busy thread in vswitch-run")


class Hog:
    """The measurement: three switches, one hog process."""

    def __init__(self, sandbox: Sandbox, seconds: float):
        self.sandbox, self.seconds = sandbox, seconds
        self.loop = Loop(sandbox, key="hog-loop")
        self.quiet = Vswitch(sandbox, key="hog-beside")
        self.hogged = Vswitch(sandbox, key="hog-inside", environment={"VSWITCH_TEST_HOG": "1"})
        self.tcp = {
            "raw loop beside a hog": Samples(),
            "vswitch beside a hog": Samples(),
            "vswitch with it inside": Samples(),
        }
        self.answers: dict[str, dict[str, list[Answers]]] = {
            state: {"icmp": [], "arp": []} for state in ("no hog", "hog beside", "hog inside")
        }

    def measure(self, rounds: int) -> None:
        """Everything, in turn."""
        with running(self.loop, self.quiet, self.hogged):
            self.loop.use_queue_length(self.hogged.queue_length())
            require_a_hog(self.hogged)
            self.hogged.pause()
            self.beside = self.sandbox.spawn([sys.executable, "-c", BUSY])
            self.beside.popen.send_signal(signal.SIGSTOP)
            interleave(
                list(self.states()),
                [("GIL hog: TCP", rounds, self.run_tcp), ("GIL hog: gateway", rounds, self.run_probes)],
            )
            self.sandbox.end(self.beside)

    def states(
        self,
    ) -> Iterator[tuple[str, str, Loop | Vswitch, Callable[[], contextlib.AbstractContextManager]]]:
        """(TCP row, gateway row, switch, what is awake meanwhile); an empty name: not measured there."""

        def beside() -> contextlib.AbstractContextManager:
            return awake(self.beside)

        yield "raw loop beside a hog", "", self.loop, beside
        yield "vswitch beside a hog", "hog beside", self.quiet, beside
        yield "vswitch with it inside", "hog inside", self.hogged, lambda: awake(self.hogged.switch)
        yield "", "no hog", self.quiet, contextlib.nullcontext

    def run_tcp(self, state: tuple) -> None:
        row, _, switch, meanwhile = state
        if not row:
            return
        with meanwhile():
            try:
                run = stream(self.sandbox, switch, self.seconds)
                self.tcp[row].add(run.gbit_per_s, run.stalled)
            except Failed as failure:
                say(f"  {row}: {failure}")
                self.tcp[row].failures.append(str(failure))

    def run_probes(self, state: tuple) -> None:
        _, row, switch, meanwhile = state
        if not row:
            return
        with meanwhile():
            for how in ("icmp", "arp"):
                self.answers[row][how].append(
                    probe(self.sandbox, switch.containers[0], switch.gateway(), self.seconds, how)
                )


def hog(sandbox: Sandbox, seconds: float, rounds: int) -> Section:
    """The section of --hog."""
    measured = Hog(sandbox, seconds)
    measured.measure(rounds)
    section = Section("A Python loop hogs the GIL of the vswitch process")
    section.lines = aligned(
        [["", "TCP Gbit/s"], *([row, shown(samples)] for row, samples in measured.tcp.items())]
    )
    rows = [["gateway answers", "", "p50 µs", "p99 µs", "max µs", "lost"]]
    section.document = {
        "tcp": {row: samples.as_json() for row, samples in measured.tcp.items()},
        "gateway": {},
    }
    for state, ways in measured.answers.items():
        for how, runs in ways.items():
            all_runs = together(runs)
            section.document["gateway"].setdefault(state, {})[how] = all_runs
            rows.append(
                [
                    state,
                    how,
                    *(f"{all_runs[key]:.0f}" for key in ("p50_us", "p99_us", "max_us")),
                    f"{all_runs['lost']} of {all_runs['sent']}",
                ]
            )
    section.lines += aligned(rows)
    value = ratio(
        measured.tcp["vswitch with it inside"].median(), measured.tcp["raw loop beside a hog"].median()
    )
    lost = sum(run.lost for runs in measured.answers["hog inside"].values() for run in runs)
    section.verdicts = [
        Verdict("TCP, vswitch / raw loop", value, TARGET, True),
        Verdict("gateway probes lost", lost, 0, False),
    ]
    return section
