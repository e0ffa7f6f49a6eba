# SPDX-License-Identifier: Apache-2.0
"""Tables, counters, events, captures, versions: what only looks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from patience import eventually

from vswitch import __version__
from vswitch.cli.output import emit_json
from vswitch.model import FlowView, LeaseView


@pytest.fixture
def two(served):
    """Two containers on two networks, with a drop at the first."""
    served.client.post("/v1/networks", {"name": "blue", "subnets": [{"subnet": "10.1.0.0/24"}]})
    served.attach(name="web")
    served.attach(name="db", networks=[{"network": "blue"}])
    served.datapath.port_drops[min(served.datapath.ports)] = {"runt": 3}
    return served


def rows(done) -> list[list[str]]:
    return [line.split() for line in done.out.splitlines()[1:]]


def test_the_fdb_names_containers(cli, two):
    assert sorted(row[:2] + row[3:6] for row in rows(cli.granted("fdb"))) == [
        ["blue", "02:42:0a:01:00:02", "db", "eth0", "static"],
        ["default", "02:42:ac:11:00:02", "web", "eth0", "static"],
    ]
    assert [row["container"] for row in cli.granted("fdb", "--network", "blue", "--json").json] == ["db"]


def test_neighbours_and_leases_are_listed(cli, two):
    assert ["blue", "10.1.0.2", "02:42:0a:01:00:02", "db", "eth0", "endpoint"] in rows(cli.granted("neigh"))
    assert [row["address"] for row in cli.granted("neigh", "--container", "web", "--json").json] == [
        "172.17.0.2"
    ]
    assert cli.granted("lease").out.split()[:3] == ["NETWORK", "ADDRESS", "MAC"]
    assert cli.granted("lease", "--json").json == []


def example(done) -> str:
    """The template that a command's help shows."""
    (shown,) = re.findall(r"'(\{\{[^']*)'", " ".join(done.out.split()))
    return shown


LISTINGS = [
    ["ps"], ["network", "ls"], ["port", "ls"], ["fdb"], ["neigh"], ["lease"], ["flow", "ls"], ["stats"], ["drops"],
    ["version"], ["inspect", "web"], ["network", "inspect", "blue"],
]  # fmt: skip


@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_the_template_that_help_shows_is_one_for_this_command(cli, two, words):
    two.client.post("/v1/containers/web/ports", {"publish": "8080:80"})
    template = example(cli.granted(*words, "--help"))
    cli.granted(*words, "--format", template)
    field = template.strip("{.}").split(".")[0]
    shown = cli.granted(*words, "--json").json
    for row in shown if isinstance(shown, list) else [shown]:
        assert field in row
    known = {"lease": LeaseView, "flow": FlowView}.get(words[0])
    assert shown or field in known.__struct_fields__


@pytest.mark.parametrize("template", ["x{{.nope", "{{.name}", "{{range .}}", "table {{.name}}"])
def test_a_broken_template_is_refused_before_there_is_a_row(cli, served, template):
    for words in (["ps"], ["port", "ls"], ["flow", "ls"]):
        done = cli(*words, "--format", template)
        assert (done.status, done.out) == (1, "") and done.refusal


def test_help_says_what_json_is_of_events(lonely):
    out = lonely("events", "--help").out
    assert "One JSON document per line." in out and "One JSON document.\n" not in out and "{{.action}}" in out


def test_an_unknown_filter_is_refused(cli, two):
    for command in ("fdb", "neigh", "lease", "stats", "drops"):
        assert cli(command, "--network", "nope").refusal == "no such network: 'nope'"
        assert cli(command, "--container", "nope").refusal == "no such container: 'nope'"


def test_drops_are_shown_by_reason(cli, two):
    (line,) = cli.granted("drops").out.splitlines()[1:]
    assert line.split()[:5] == ["default", "web", "eth0", "runt", "3"]
    assert line.endswith("shorter than an Ethernet header")
    assert cli.granted("drops", "--container", "db", "--json").json == []
    assert [row["explanation"] for row in cli("drops", "--json").json] == ["shorter than an Ethernet header"]


def test_drops_of_the_departed_are_shown_without_a_container(cli, two):
    cli.granted("detach", "web")
    ((network, who, interface, *_),) = rows(cli.granted("drops"))
    assert (network, who, interface) == ("default", "(departed)", "-")
    (row,) = cli.granted("drops", "--json").json
    assert (row["container"], row["interface"], row["port"], row["count"]) == (None, None, None, 3)


def test_stats_have_ports_tables_and_memory(cli, two):
    out = cli.granted("stats").out
    assert "web" in out and "CAPACITY" in out and "32.0 MiB resident, 0 wake-ups" in out
    assert "total: rx 0 frames, 0 B; tx 0 frames, 0 B\n" in out
    assert "dropped: 3 frames (runt 3; `vswitch drops` explains them)\n" in out
    assert "dropped: none\n" in cli.granted("stats", "--network", "blue").out
    stats = cli.granted("stats", "--json").json
    assert {"ports", "totals", "drops", "tables", "wakeups", "resident_memory"} <= stats.keys()
    assert {"rx_frames", "rx_segments", "rx_wire_bytes", "tx_frames", "drops"} <= stats["ports"][0].keys()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 40, "1.0 TiB"), (1 << 75, "32768.0 EiB")],
)
def test_sizes_have_units_that_people_read(count, text):
    from vswitch.cli.stats import size

    assert size(count) == text


def test_versions_of_both_sides(cli, lonely, monkeypatch, served):
    monkeypatch.setenv("VSWITCH_SOCKET", served.path)
    assert cli.granted("version").out.startswith(
        f"client  {__version__} (API 1)\nswitch  {__version__} (API 1), pid {os.getpid()}"
    )
    assert cli.granted("version", "--json").json["switch"]["pid"] == os.getpid()
    assert cli.granted("--version").out == f"vswitch {__version__}\n"


def test_without_a_switch_version_still_shows_ours(lonely):
    done = lonely("version", "--json")
    assert (done.status, done.json) == (1, {"client": {"version": __version__, "api": 1}, "switch": None})
    assert done.refusal.startswith("no switch is running")


def started(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "vswitch.cli.main", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("style", [[], ["--json"]])
def test_events_are_told_until_ctrl_c(cli, served, style):
    with started("events", *style) as watching:
        eventually(lambda: served.switch.events.subscriptions, "it listens")
        served.client.post("/v1/networks", {"name": "blue", "subnets": [{"subnet": "10.1.0.0/24"}]})
        line = watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert (watching.wait(10), watching.stderr.read()) == (130, "")
    if style:
        assert json.loads(line)["name"] == "blue"
    else:
        assert line.split()[1:3] == ["network", "create"] and "blue" in line


def test_an_event_is_shown_as_a_template_says(cli, served):
    with started("events", "--format", "{{.Action}} {{.name}}") as watching:
        eventually(lambda: served.switch.events.subscriptions, "it listens")
        served.client.post("/v1/networks", {"name": "blue", "subnets": [{"subnet": "10.1.0.0/24"}]})
        line = watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert (line, watching.wait(10), watching.stderr.read()) == ("create blue\n", 130, "")


def test_flows_are_among_the_events_when_asked_for(cli, served):
    with started("events", "--flows") as watching:
        eventually(lambda: served.datapath.flows_watched, "it listens")
        watching.send_signal(signal.SIGINT)
        assert (watching.wait(10), watching.stderr.read()) == (130, "")


def test_events_end_with_the_switch(cli, served):
    with started("events") as watching:
        eventually(lambda: served.switch.events.subscriptions, "it listens")
        served.wait_for(served.server.close())
        assert watching.wait(10) in (0, 1)
        assert watching.stderr.read().count("\n") <= 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_capture_is_whole_after_ctrl_c(cli, served, tmp_path, how):
    served.attach(name="web")
    path = tmp_path / "out.pcapng"
    with started("capture", "-w", str(path), "--container", "web", "--snaplen", "64") as capturing:
        assert capturing.stderr.readline() == "capturing until ctrl-C\n"
        assert served.datapath.watched
        capturing.send_signal(how)
        assert (capturing.wait(10), capturing.stderr.read()) == (0, "0 records\n")
    content = path.read_bytes()
    assert content[:4] == b"\x0a\x0d\x0d\x0a"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not served.datapath.captures


def test_a_capture_that_is_ended_counts_what_came_last(cli, served, tmp_path):
    path = tmp_path / "last.pcapng"
    with started("capture", "-w", str(path)) as capturing:
        assert capturing.stderr.readline() == "capturing until ctrl-C\n"
        (capture,) = served.datapath.captures.values()
        for _ in range(3):
            capture.offer(b"x" * 60, port=1, direction=1, time_ns=1)
        capturing.send_signal(signal.SIGINT)
        assert (capturing.wait(10), capturing.stderr.read()) == (0, "3 records\n")


def test_a_capture_into_a_pipe_ends_with_its_reader(cli, served):
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-m", "vswitch.cli.main", "capture", "-w", "-"], stdout=writing,
                          stderr=subprocess.PIPE) as capturing:  # fmt: skip
        os.close(writing)
        assert os.read(reading, 4) == b"\x0a\x0d\x0d\x0a"
        os.close(reading)
        for capture in list(served.datapath.captures.values()):  # unless it has noticed by itself already
            capture.offer(b"x" * 60, port=1, direction=1, time_ns=1)
        assert capturing.wait(10) == 0
    eventually(lambda: not served.datapath.captures, "the capture is out of the dataplane")


def test_a_capture_that_cannot_be_written_is_refused(cli, tmp_path):
    done = cli("capture", "-w", str(tmp_path / "no" / "where"))
    assert (done.status, "No such file or directory" in done.refusal) == (1, True)
    assert cli("capture", "-w", str(tmp_path / "x"), "--network", "nope").refusal == "no such network: 'nope'"


def test_a_capture_overwrites_a_file_and_leaves_its_mode(cli, tmp_path):
    path = tmp_path / "old.pcapng"
    path.write_bytes(b"x" * 10_000)
    path.chmod(0o640)
    with started("capture", "-w", str(path)) as capturing:
        assert capturing.stderr.readline() == "capturing until ctrl-C\n"
        capturing.send_signal(signal.SIGINT)
        assert capturing.wait(10) == 0
    assert path.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a" and path.stat().st_size < 10_000
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("words", [["--network", "nope"], ["--container", "nope"], ["--socket", "/nowhere"]])
def test_a_refused_capture_leaves_the_file_as_it_was(cli, tmp_path, words):
    path = tmp_path / "old.pcapng"
    path.write_bytes(b"precious")
    assert cli("capture", "-w", str(path), *words).status == 1
    assert path.read_bytes() == b"precious"


def test_logs_follow_is_a_stream_of_bytes(cli, served, monkeypatch):
    async def pieces(reference):
        yield b"one\xff"
        yield b"two\n"

    monkeypatch.setattr(served.switch, "logs", lambda reference, follow, tail: pieces(reference))
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-m", "vswitch.cli.main", "logs", "web"], stdout=writing) as logs:
        os.close(writing)
        assert logs.wait(10) == 0
    assert os.read(reading, 100) == b"one\xfftwo\n"
    os.close(reading)


def test_a_long_document_is_one_line_for_programs_and_a_short_one_is_laid_out(capsys):
    emit_json([{"name": "web"}])
    assert capsys.readouterr().out == '[\n  {\n    "name": "web"\n  }\n]\n'
    many = [{"name": f"c{n}", "aliases": []} for n in range(4000)]
    emit_json(many)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and json.loads(said) == many
