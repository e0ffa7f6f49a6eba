# SPDX-License-Identifier: Apache-2.0
"""tools/bench: what it concludes from what it measured, and that it cleans up after itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from benchmarks import machine, probing, report, round_trip, rounds, targets, traffic, yardstick  # noqa: E402
from benchmarks.process_cost import cpu_seconds, family, memory  # noqa: E402
from benchmarks.samples import Samples  # noqa: E402


def iperf_report(*bytes_per_interval: int, seconds: float = 0.2) -> dict:
    return {"intervals": [{"sum": {"seconds": seconds, "bytes": count}} for count in bytes_per_interval]}


def test_who_is_not_root_is_refused_in_one_line():
    with pytest.raises(
        machine.Refused, match=r"^tools/bench switch: needs root.*sudo tools/bench switch[^\n]*$"
    ):
        machine.require_root("tools/bench switch", effective_uid=1000)


def test_a_missing_program_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None if name == "gcc" else name)
    with pytest.raises(machine.Refused, match="gcc not found: apt-get install gcc libc6-dev"):
        machine.require_programs("ip", "gcc")


def test_an_unknown_congestion_control_is_refused_with_the_known_ones(monkeypatch, tmp_path):
    for name, text in (("TCP_AVAILABLE", "reno bbr\n"), ("TCP_DEFAULT", "bbr\n")):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(machine, name, tmp_path / name)
    assert machine.congestion_control("reno") == "reno"
    assert machine.congestion_control() == "bbr"
    with pytest.raises(machine.Refused, match=r"no .* cubic here; there are reno, bbr\. .*modprobe tcp_cubic$"):
        machine.congestion_control("cubic")


@pytest.mark.parametrize("source", sorted(yardstick.SOURCES.glob("*.c")), ids=lambda path: path.stem)
def test_a_yardstick_compiles_without_a_warning(source, tmp_path):
    done = subprocess.run(
        ["gcc", *yardstick.FLAGS, "-Werror", "-o", tmp_path / "program", source],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_silent_intervals_that_follow_each_other_add_up():
    assert traffic.longest_silence_s(iperf_report(9, 0, 0, 9, 0, 0, 0)) == pytest.approx(0.6)


def test_a_run_that_never_pauses_has_no_silence():
    assert traffic.longest_silence_s(iperf_report(9, 9)) == 0


def test_each_round_measures_all_and_begins_with_another_subject():
    seen = []
    rounds.interleave(["a", "b", "c"], [("x", 2, lambda one: seen.append("x" + one)), ("y", 1, seen.append)])
    assert seen == ["xa", "xb", "xc", "a", "b", "c", "xb", "xc", "xa"]


@pytest.mark.parametrize(
    ("value", "more_is_better", "met"),
    [(0.93, True, True), (0.91, True, False), (0.93, False, False), (0.92, False, True), (None, True, None)],
)
def test_a_target_is_met_on_its_own_side_only(value, more_is_better, met):
    assert targets.Verdict("x", value, 0.92, more_is_better).met is met


def test_a_missing_or_empty_median_gives_no_ratio():
    assert targets.ratio(None, 1.0) is None
    assert targets.ratio(1.0, 0.0) is None
    assert targets.ratio(1.0, 2.0) == 0.5


def test_a_cell_names_stalls_and_failures_beside_the_median():
    samples = Samples()
    for value in (3.0, 1.0, 2.0):
        samples.add(value, stalled=value == 1.0)
    samples.failures.append("no packet arrived")
    assert report.cell(samples, 1, True) == "2.0 (1 stalled, 1 failed of 4)"
    assert report.cell(Samples(failures=["no packet arrived"]), 1, True) == "failed"
    assert report.cell(Samples(), 1, False) == "n/a"


def test_percentiles_are_read_from_sockperf():
    said = "sockperf: ---> percentile 99.900 = 9.0\nsockperf: ---> percentile 99.000 =  867.858\n"
    assert round_trip.read_sockperf(said + "sockperf: ---> percentile 50.000 =    9.775\n") == (
        9.775,
        867.858,
    )
    with pytest.raises(Exception, match="measured nothing"):
        round_trip.read_sockperf(said)


def test_probes_of_several_runs_add_up_and_the_worst_stays_visible():
    runs = [
        probing.Answers(10, 0, 1, 5, 9),
        probing.Answers(10, 2, 3, 7, 100),
        probing.Answers(10, 0, 2, 6, 8),
    ]
    assert probing.together(runs) == {"sent": 30, "lost": 2, "p50_us": 2, "p99_us": 6, "max_us": 100}


def test_cost_counts_a_child_too_and_forgives_one_that_is_gone():
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    parent = subprocess.Popen([sys.executable, "-c", busy], process_group=0)
    try:
        deadline_at = time.monotonic() + 10
        while len(pids := family(parent.pid)) < 2 or cpu_seconds(pids[1:]) < 0.05:
            assert time.monotonic() < deadline_at
        assert memory(pids).rss > memory(pids[:1]).rss > memory(pids[:1]).pss > 0
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
    assert cpu_seconds([parent.pid]) == 0
    assert memory([parent.pid]) == (0, 0)


def bench(tmp_path: Path, *options: str) -> subprocess.Popen:
    argv = [sys.executable, ROOT / "tools" / "bench", "switch", "--quick", *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, env={**os.environ, "TMPDIR": str(tmp_path)}, **streams)


@pytest.mark.root
def test_a_smoke_run_fills_every_column_of_the_loop_and_leaves_nothing_behind(tmp_path):
    run = bench(tmp_path, "--only", "loop", "--json", "-")
    document, text = run.communicate(timeout=90)
    assert run.returncode == 0, text
    loop = json.loads(document)["subjects"][0]
    assert {key: bool(column["median"]) for key, column in loop["columns"].items()} == dict.fromkeys(
        ("tcp_1", "tcp_4", "cpu_per_gib", "packets", "cpu_per_packet", "p50", "p99"), True
    ), text
    assert loop["memory"]["rss_few"] > 0
    assert "raw loop" in text
    assert list(tmp_path.iterdir()) == []


def alive(pid: int) -> bool:
    """False for a zombie too: whoever reaps orphans may take its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.root
def test_an_interrupted_run_ends_all_it_started(tmp_path):
    run = bench(tmp_path, "--only", "loop")
    assert run.stderr.readline().startswith("round 1")
    started = family(run.pid)[1:]
    assert started
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=30)
    assert run.returncode == 130, said
    assert said.endswith("interrupted; everything that was started is cleaned up\n")
    assert [pid for pid in started if alive(pid)] == []
    assert list(tmp_path.iterdir()) == []


def congestion_controls(pid: int) -> set[str]:
    """Of all established TCP sockets in the process's network namespace; none where it has ended."""
    done = subprocess.run(["nsenter", "-t", str(pid), "-n", "ss", "-tinOH"], capture_output=True, text=True)
    return set(re.findall(r"\b(reno|cubic|bbr)\b", done.stdout))


@pytest.mark.root
def test_all_of_a_runs_tcp_has_the_congestion_control_that_was_chosen(tmp_path):
    """Reno is what every kernel has, and hardly a default."""
    run = bench(tmp_path, "--only", "loop", "--congestion-control", "reno")
    deadline_at = time.monotonic() + 10
    seen = set()
    while not seen:
        assert time.monotonic() < deadline_at, "no TCP in the run's namespaces"
        seen = set().union(*(congestion_controls(pid) for pid in family(run.pid)[1:]))
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)
    assert seen == {"reno"}
