# SPDX-License-Identifier: Apache-2.0
"""tools/bench nat: what it concludes from what it measured, and that a smoke run fills its tables."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from benchmarks import yardstick  # noqa: E402
from benchmarks.commands import nat  # noqa: E402
from benchmarks.nat import flood, idle, nat_run, targets  # noqa: E402
from benchmarks.nat.columns import COLUMNS, Row, measurements, tables  # noqa: E402
from benchmarks.nat.flows import Connects  # noqa: E402
from benchmarks.nat.subjects.kernel import Kernel  # noqa: E402
from benchmarks.nat.subjects.loop import Loop  # noqa: E402
from benchmarks.nat.subjects.pasta import LargePasta, Pasta  # noqa: E402
from benchmarks.nat.subjects.slirp4netns import Slirp4netns  # noqa: E402
from benchmarks.nat.subjects.vswitch import Vswitch  # noqa: E402


def row(kind: type, **medians: float) -> Row:
    made = Row(kind(None))
    for key, value in medians.items():
        made.samples[key].add(value)
    return made


def verdict(judged: list, words: str):
    return next(one for one in judged if one.words == words)


@pytest.mark.parametrize("source", sorted(yardstick.SOURCES.glob("*.c")), ids=lambda path: path.stem)
def test_a_yardstick_compiles_without_a_warning(source, tmp_path):
    argv = ["gcc", *yardstick.FLAGS, "-Werror", "-o", tmp_path / "program", source]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bulk_is_judged_against_the_loop_and_the_best_peer_of_an_mtu_and_of_any_stream_count():
    own, loop = row(Vswitch, tcp_out_1=8.5, tcp_out_4=7.0), row(Loop, tcp_out_1=10.0)
    rows = [
        own,
        loop,
        row(Pasta, tcp_out_1=1.0),
        row(Slirp4netns, tcp_out_1=0.5),
        row(LargePasta, tcp_out_1=5.0, tcp_out_4=10.0),
    ]
    judged = targets.verdicts(own, rows, loop)
    assert verdict(judged, "TCP out ×1 / loop").value == 0.85
    assert verdict(judged, "TCP out ×1 / loop").met
    assert verdict(judged, "TCP out ×1 / peers at MTU 1500").value == 8.5
    assert verdict(judged, "TCP out ×1 / peers at any MTU").value == 0.85
    assert not verdict(judged, "TCP out ×1 / peers at any MTU").met
    assert verdict(judged, "TCP out ×4 / loop").met is None


def test_the_quickest_peer_is_the_one_with_the_shortest_round_trip():
    own = row(Vswitch, p50=40.0, connects=9000)
    judged = targets.verdicts(own, [own, row(Pasta, p50=50.0, connects=5000), row(Slirp4netns, p50=80.0)], None)
    assert verdict(judged, "RTT p50 / peers").value == 0.8
    assert verdict(judged, "RTT p50 / peers").met
    assert verdict(judged, "connects / peers").value == 1.8


def test_packets_are_compared_with_pasta_alone():
    own = row(Vswitch, udp_out_64=200.0)
    judged = targets.verdicts(own, [own, row(Pasta, udp_out_64=100.0), row(Slirp4netns, udp_out_64=999.0)], None)
    assert verdict(judged, "UDP 64 B out / pasta").value == 2.0


def test_a_peer_that_did_not_start_is_nobody_to_compare_with():
    absent = row(Pasta, tcp_in_1=1.0)
    absent.trouble = "not installed"
    own = row(Vswitch, tcp_in_1=8.0)
    assert verdict(targets.verdicts(own, [own, absent], None), "TCP in ×1 / peers at MTU 1500").value is None


def test_memory_of_a_flow_is_judged_in_kibibytes():
    own = row(Vswitch, tcp_flow=512.0)
    judged = targets.verdicts(own, [own], None)
    assert verdict(judged, "memory per idle TCP flow").value == 0.5
    assert verdict(judged, "memory per idle TCP flow").met


def test_a_vswitch_without_peek_off_has_a_bound_of_its_own():
    run = nat_run.NatRun(None, {}, ["loop"], ["peek_off", "uso"])
    run.with_tables = True
    for one in run.rows:
        one.samples["published"].add(7.0 if isinstance(one.subject, Vswitch) else 10.0)
    judged = run.verdicts()
    assert list(judged) == ["vswitch -peek_off"]
    assert verdict(judged["vswitch -peek_off"], "port / loop").met


def test_tables_say_where_there_is_no_process_and_what_was_not_measured():
    bulk, small = "\n".join(tables([row(Kernel, tcp_out_1=20.0), row(Loop)])).split("\n\n")
    kernel, loop = bulk.splitlines()[-2:]
    assert kernel.split() == ["kernel", "masquerade", "20.00", *["n/a"] * 6]
    assert loop.split() == ["raw", "NAT", "loop", *["-"] * 7]
    assert len(small.splitlines()[0].split()) > 9


def test_every_column_belongs_to_a_measurement_that_all_rounds_make_and_memory_to_one(monkeypatch):
    listed = measurements(None, 1.0, 5, 100)
    assert [rounds for name, rounds, _ in listed if name.startswith("memory")] == [1, 1]
    assert {rounds for name, rounds, _ in listed if not name.startswith("memory")} == {5}
    assert not any(name.startswith("memory") for name, _, _ in measurements(None, 1.0, 5, 0))


def test_failed_connections_count_for_nothing_in_the_rate():
    assert Connects(100, 50, 2.0, 1, 2, 3).per_second == 50


def test_a_fresh_instance_keeps_its_settings_and_gets_a_name_of_its_own():
    environment = {"VSWITCH_DISABLE": "peek_off"}
    first = Vswitch(None, beyond=True, key="less0", name="vswitch -peek_off", environment=environment)
    one, other = first.fresh(), first.fresh(3)
    assert (one.environment, one.name, one.beyond) == (environment, first.name, True)
    assert len({first.key, one.key, other.key}) == 3
    assert (one.ports, other.ports) == (1, 3)


def test_idle_flows_are_spread_over_their_containers_without_loss(monkeypatch):
    held = []
    monkeypatch.setattr(idle.flows, "hold", lambda *arguments: held.append(arguments[3:]))
    idle.hold_all(None, None, 1000)
    assert held == [(334, 1), (333, 2), (333, 3)]


def test_a_flood_is_judged_by_what_is_left_of_quiet():
    states = {("vswitch", kind): flood.State() for kind in flood.KINDS}
    for kind, p99_us, gbit in (("quiet", 100, 10.0), ("syn", 250, 3.0), ("new-udp", 400, 2.0)):
        states["vswitch", kind].p99_us.add(p99_us)
        states["vswitch", kind].tcp.add(gbit)
    judged = flood.conclude(states).verdicts
    assert verdict(judged, "syn: connect p99 of quiet").met
    assert verdict(judged, "syn: TCP of quiet").met
    assert not verdict(judged, "new-udp: connect p99 of quiet").met
    assert not verdict(judged, "new-udp: TCP of quiet").met
    assert verdict(judged, "small: TCP of quiet").met is None


@pytest.mark.parametrize("text", ["9", "18001"])
def test_a_number_of_flows_beyond_the_descriptors_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="between 10 and 18000"):
        nat.flow_count(text)


def test_an_unknown_subject_is_refused_with_the_known_ones():
    with pytest.raises(argparse.ArgumentTypeError, match="no slirp here; there are loop, vswitch"):
        nat.choice_of(["loop", "vswitch"])("loop,slirp")


@pytest.mark.root
def test_a_smoke_run_fills_every_column_of_the_nat_loop_and_leaves_nothing_behind(tmp_path):
    argv = [sys.executable, ROOT / "tools" / "bench", "nat", "--quick", "--only", "loop", "--json", "-"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    run = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    loop = json.loads(run.stdout)["subjects"][0]
    empty = [key for key, column in loop["columns"].items() if column["median"] is None]
    assert empty == [] and len(loop["columns"]) == len(COLUMNS), run.stderr
    assert "raw NAT loop" in run.stderr
    assert list(tmp_path.iterdir()) == []
