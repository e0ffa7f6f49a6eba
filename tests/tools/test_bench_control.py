# SPDX-License-Identifier: Apache-2.0
"""tools/bench control: how it reads dnsperf, and that a smoke run fills its tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from benchmarks.control import dnsperf  # noqa: E402
from benchmarks.sandbox import Failed  # noqa: E402

SAID = """\
DNS Performance Testing Tool
> NOERROR c1 A 0.000300
> NXDOMAIN c2 A 0.000100
> NOERROR c3 A 0.000100
> NOERROR c4 A 0.000200
Statistics:
  Queries sent:         5
  Queries lost:         1 (20.00%)
  Queries per second:   1234.500000
"""


def test_answers_are_read_with_their_latencies_and_wrong_and_lost_ones_counted():
    run = dnsperf.parse(SAID)
    assert (run.per_second, run.lost, run.wrong) == (1234.5, 1, 1)
    assert run.latencies_ms == pytest.approx([0.1, 0.2, 0.3])
    assert run.percentile(0.5) == pytest.approx(0.2) and run.percentile(0.99) == pytest.approx(0.3)


@pytest.mark.parametrize("said", ["", "Queries lost: 1", "Queries per second: 7.0"])
def test_what_is_no_summary_is_a_failed_run(said):
    with pytest.raises(Failed, match="no summary"):
        dnsperf.parse(said)


def test_a_run_without_an_answer_has_no_latency():
    run = dnsperf.parse("Queries lost: 5 (100%)\nQueries per second: 0.000000")
    with pytest.raises(Failed, match="no question was answered"):
        run.percentile(0.5)


@pytest.mark.root
@pytest.mark.slow
def test_a_smoke_run_measures_everything_and_leaves_nothing_behind(tmp_path):
    document = tmp_path / "bench.json"
    command = [sys.executable, ROOT / "tools" / "bench", "control", "--quick", "--json", document]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(document.read_text())
    assert set(found["names"]) == {
        "vswitch, 127.0.0.11", "vswitch, gateway", "dnsmasq, loopback", "dnsmasq, veth", "upstream itself", "targets"
    }
    assert all(place["p50"]["runs"] for name, place in found["names"].items() if "," in name)
    assert all(found["beside"][pair]["tcp"]["runs"] for pair in ("raw loop, dnsmasq", "vswitch, its resolver"))
    assert len(found["lives"]["attach_s"]) == len(found["lives"]["detach_s"]) == 30
    assert not list(Path("/run/netns").glob("vsb*"))
