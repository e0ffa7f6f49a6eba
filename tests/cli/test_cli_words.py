# SPDX-License-Identifier: Apache-2.0
"""What people bring along from Docker: its words, its templates, narrow terminals, and switches that just start."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.cli import output
from vswitch.cli.templates import rendered
from vswitch.control.api import client as api_client
from vswitch.control.api.client import ClientError
from vswitch.control.api.starting import is_starting

# ---- mistyped and foreign commands


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("netwrok", "did you mean 'network'?"),
        ("inspct", "did you mean 'inspect'?"),
        ("pull", "there are no images"),
        ("ls", "`vswitch ps` lists containers"),
        ("compose", "`vswitch apply FILE`"),
        ("qqqq", "no such command 'qqqq': see vswitch --help"),
    ],
)
def test_a_command_that_is_none_is_answered_with_what_was_meant(lonely, word, says):
    done = lonely(word)
    assert done.status == 2 and says in done.refusal


# ---- ports, stats, drops of one container


def test_a_container_can_be_named_without_an_option(cli, served):
    served.attach(name="web", ports=["8080:80"])
    served.attach(name="other", ports=["8081:80"])
    for words in (["port", "web"], ["port", "ls", "web"], ["port", "ls", "--container", "web"]):
        assert [row["host_port"] for row in cli.granted(*words, "--json").json] == [8080]
    assert [port["container"] for port in cli.granted("stats", "web", "--json").json["ports"]] == ["web"]
    assert cli.granted("drops", "web", "--json").json == []
    assert "one of them is enough" in cli("stats", "web", "--container", "web").refusal
    assert cli("port", "nobody").refusal == "no such container: 'nobody'"


def test_port_shows_what_leads_to_one_port(cli, served):
    served.attach(name="web", ports=["8080:80", "5300:53/tcp+udp"])
    assert [row["host_port"] for row in cli.granted("port", "web", "80", "--json").json] == [8080]
    assert [row["protocol"] for row in cli.granted("port", "web", "53/udp", "--json").json] == ["udp"]
    assert "port 80/udp is not published" in cli("port", "web", "80/udp").refusal
    assert "'80/sctp' is no port" in cli("port", "web", "80/sctp").refusal


def test_port_rm_says_what_is_published_no_more(cli, served):
    served.attach(name="web", ports=["8080:80", "9000-9001:90-91"])
    assert cli.granted("port", "rm", "web", "80").out == "*:8080->80/tcp\n"
    assert cli.granted("port", "rm", "web", "90-91").out == "*:9000-9001->90-91/tcp\n"


def test_a_port_that_the_container_has_itself_is_said_to_be_its_own(cli, served):
    served.attach(name="web", ports=["8080:80"])
    assert "taken by container web itself" in cli("port", "add", "web", "8080:81").refusal


def test_a_table_that_is_full_is_said_so():
    from vswitch.cli.stats import _nearly_full

    tables = {
        "flows": {"size": 100, "capacity": 100},
        "fdb": {"size": 96, "capacity": 100},
        "ports": {"size": 9, "capacity": 100},
        "none": {"size": 0, "capacity": 0},
    }
    assert _nearly_full(tables) == ["flows: full", "fdb: nearly full"]


# ---- templates

DOCUMENT = {
    "name": "web",
    "pid": 7,
    "exit_code": None,
    "state": "running",
    "networks": [{"ipv4": "10.0.0.2/24", "aliases": ["a"], "name": "b.l"}],
    "labels": {"my.key": "v"},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.name}} {{ .PID }}", "web 7"),
        ("{{.State.Pid}}/{{.State.Status}}/{{.ExitCode}}", "7/running/"),
        ("{{.State.Running}} {{json .state.running}}", "true true"),
        ("{{.networks.0.ipv4}}", "10.0.0.2/24"),
        ("{{.NetworkSettings.IPAddress}}", "10.0.0.2"),
        ("{{json .networks.0.aliases}}", '["a"]'),
        ("{{.networks}}", '[{"ipv4": "10.0.0.2/24", "aliases": ["a"], "name": "b.l"}]'),
        ("{{.NetworkSettings.Networks.b.l.IPAddress}}", "10.0.0.2"),
        ('{"a": {"b": "{{.name}}"}}', '{"a": {"b": "web"}}'),
        (r"a\tb", "a\tb"),
        ("plain", "plain"),
    ],
)
def test_a_template_is_filled_in(template, text):
    assert rendered(template, DOCUMENT) == text


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{.nam}}", "no field nam: there is name, pid"),
        ("{{.networks.3.ipv4}}", "there are only 1"),
        ("{{.pid.x}}", "no field x"),
        ("{{range .networks}}x{{end}}", "is not understood"),
        ("{{.name", "has a {{ without its }}"),
        ("table {{.name}}", "is not understood"),
        ("{{.NetworkSettings.Networks.green.IPAddress}}", "it is on b.l, not on green"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused(template, says):
    with pytest.raises(ClientError) as refusal:
        rendered(template, DOCUMENT)
    assert says in str(refusal.value)


@pytest.mark.parametrize(("state", "text"), [("running", "true"), ("orphaned", "true"), ("exited", "false")])
def test_whether_a_container_runs_is_said_in_dockers_word(state, text):
    assert rendered("{{.State.Running}}", {**DOCUMENT, "state": state}) == text


@given(st.text(alphabet="{}. abpidjson0networks", max_size=30))
def test_any_template_is_filled_in_or_refused(template):
    try:
        rendered(template, DOCUMENT)
    except ClientError as refusal:
        assert str(refusal)


def test_inspect_takes_a_template_and_keeps_the_terminal_safe(cli, served):
    served.attach(name="web", labels={"evil": "\x1b[2J"})
    assert cli.granted("inspect", "-f", "{{.name}}\t{{.labels.evil}}", "web").out == "web\t\\x1b[2J\n"
    assert cli.granted("inspect", "--format", "json", "web").json[0]["name"] == "web"
    assert cli.granted("ps", "--format", "{{.Names}} {{.Status}}").out == "web running\n"
    assert cli.granted("network", "ls", "--format", "{{.name}}").out == "default\n"
    assert cli.granted("ps", "--format", "json").json[0]["name"] == "web"


# ---- tables


def drawn(width: int, headings, rows, spare=()) -> list[str]:
    """What a terminal of that width shows, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    program = "import json,sys; from vswitch.cli.output import emit_table; emit_table(*json.loads(sys.argv[1]))"
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    import json

    command = [sys.executable, "-c", program, json.dumps([headings, rows, spare])]
    subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=environment, check=True)
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    for code in (output.BOLD, output.DIM, output.PLAIN):
        text = text.replace(code, "")
    return text.splitlines()


HEADINGS = ("CONTAINER ID", "COMMAND", "ADDRESSES", "NAME")
ROWS = [["0123456789ab", '"python3 -m http.server 80"', ["10.5.0.2", "fd00::2", "172.17.0.2"], "web"]]


def test_a_narrow_terminal_goes_without_what_matters_least_and_folds_no_heading_or_id():
    wide = drawn(120, HEADINGS, ROWS, ["COMMAND"])
    assert wide[0].split() == ["CONTAINER", "ID", "COMMAND", "ADDRESSES", "NAME"] and len(wide) == 2
    narrow = drawn(60, HEADINGS, ROWS, ["COMMAND", "CONTAINER ID"])
    assert narrow == [
        "CONTAINER ID   ADDRESSES                       NAME",
        "0123456789ab   10.5.0.2, fd00::2, 172.17.0.2   web",
    ]
    tiny = drawn(36, HEADINGS, ROWS, ["COMMAND", "CONTAINER ID"])
    assert tiny == ["ADDRESSES                       NAME", "10.5.0.2, fd00::2, 172.17.0.2   web"]
    folded = drawn(40, HEADINGS, ROWS, ["COMMAND"])
    assert folded[0] == "CONTAINER ID   ADDRESSES            NAME"
    assert folded[1].startswith("0123456789ab   10.5.0.2, fd00::2,") and folded[2].strip() == "172.17.0.2"


def test_where_nothing_fits_headings_and_short_ids_stay_whole():
    shown = drawn(20, ("CONTAINER ID", "ADDRESSES"), [["0123456789ab", "10.5.0.2, 10.6.0.2"]])
    assert shown == ["CONTAINER ID   ADDRESSES", "0123456789ab   10.5.0.2,", "               10.6.0.2"]


def test_elsewhere_nothing_is_left_out(capsys):
    output.emit_table(HEADINGS, [["0123456789ab", "c" * 300, "a" * 300, "web"]], ["COMMAND"])
    assert "c" * 300 in capsys.readouterr().out


# ---- a switch that is just starting


def test_a_switch_that_is_starting_is_waited_for(cli, served, monkeypatch):
    moved = served.path + ".later"
    os.rename(served.path, moved)
    monkeypatch.setattr(api_client.Client, "_is_starting", lambda self: True)
    timer = threading.Timer(0.3, os.rename, (moved, served.path))
    timer.start()
    try:
        assert cli.granted("ps").status == 0
    finally:
        timer.join()


def test_without_one_the_refusal_comes_at_once(lonely):
    began = time.monotonic()
    assert "no switch is running" in lonely("ps").refusal
    assert time.monotonic() - began < api_client.START_PATIENCE_S / 2


def test_a_starting_switch_is_known_by_its_process(tmp_path):
    """A process with that command line, and not one with another's socket or of another name."""
    path = str(tmp_path / "s.sock")
    program = "import sys; print(flush=True); sys.stdin.read()"
    for arguments, expected in (
        (["vswitch-run", "--socket", path], True),
        (["vswitch-run", f"--socket={path}"], True),
        (["vswitch-run", "--socket", path + "2"], False),
        (["another", "--socket", path], False),
    ):
        with subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            found = is_starting(path)
            process.stdin.close()
        assert found is expected, arguments
    assert not is_starting(path)
