# SPDX-License-Identifier: Apache-2.0
"""What a full packet log costs: TCP through vswitch with `vswitch capture -w FILE` and without, in turn."""

from __future__ import annotations

import signal
from pathlib import Path

from benchmarks.probing import probe
from benchmarks.report import aligned
from benchmarks.rounds import interleave, say
from benchmarks.samples import Samples
from benchmarks.sandbox import Failed, Process, Sandbox, last_line, until
from benchmarks.sections.section import Section, running, shown
from benchmarks.subjects.vswitch import Vswitch
from benchmarks.targets import Verdict, ratio
from benchmarks.traffic import stream

SNAPLEN_BYTES = 128
TARGET = 0.75
OFF, ON = "without capture", "with capture"


def start_capture(sandbox: Sandbox, switch: Vswitch, to: Path) -> Process:
    """Running, and known to write: a short ping is in the file."""
    process = switch.spawn_command("capture", "-w", str(to), "--snaplen", str(SNAPLEN_BYTES))
    process.until(to.exists, 10, "vswitch capture made no file")
    empty = to.stat().st_size

    def written() -> bool:
        probe(sandbox, switch.containers[1], switch.containers[0].address, 0.05)
        return to.stat().st_size > empty

    process.until(written, 10, "vswitch capture wrote nothing")
    return process


def end_capture(sandbox: Sandbox, process: Process, to: Path) -> tuple[int, str]:
    """As Ctrl-C does; returns the file's size and what the client said last."""
    process.ask_to_end(signal.SIGINT)
    try:
        until(lambda: not process.running(), 10, "vswitch capture didn't end")
    finally:
        sandbox.end(process)
    size, said = to.stat().st_size, last_line(process.errors.read_text() or process.out.read_text())
    to.unlink()
    return size, said


def capture(sandbox: Sandbox, seconds: float, rounds: int) -> Section:
    """The section of --capture."""
    switch, tcp = Vswitch(sandbox, key="capture"), {OFF: Samples(), ON: Samples()}
    sizes, said = Samples(), []

    def turn(state: str) -> None:
        to = sandbox.scratch / "capture.pcapng"
        log = start_capture(sandbox, switch, to) if state == ON else None
        try:
            run = stream(sandbox, switch, seconds)
            tcp[state].add(run.gbit_per_s, run.stalled)
        except Failed as failure:
            say(f"  {state}: {failure}")
            tcp[state].failures.append(str(failure))
        finally:
            if log is not None:
                size, words = end_capture(sandbox, log, to)
                sizes.add(size)
                said.append(words)

    with running(switch):
        interleave([OFF, ON], [("capture", rounds, turn)])
    section = Section(f"Full packet log to a file, snaplen {SNAPLEN_BYTES}")
    section.lines = aligned(
        [["", "TCP Gbit/s"], *([state, shown(samples)] for state, samples in tcp.items())]
    )
    mib = (sizes.median() or 0) / 2**20
    section.lines.append(f"a run's file: {mib:.1f} MiB; the client said last: {said[-1] or 'nothing'}")
    section.document = {
        "tcp": {state: samples.as_json() for state, samples in tcp.items()},
        "file_bytes": sizes.as_json(),
        "last_words": said,
    }
    section.verdicts = [
        Verdict("TCP, with / without", ratio(tcp[ON].median(), tcp[OFF].median()), TARGET, True)
    ]
    return section
