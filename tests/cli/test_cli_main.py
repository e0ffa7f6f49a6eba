# SPDX-License-Identifier: Apache-2.0
"""The program as a whole.

Exit statuses, one-line errors, quiet endings, what is imported, what reaches the terminal.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import click
import pytest

from vswitch.cli import main as cli_main
from vswitch.cli.main import PLACES, program
from vswitch.cli.output import emit_table, printable
from vswitch.container import namespaces

VSWITCH = [sys.executable, "-m", "vswitch.cli.main"]
HEAVY = {"aiohttp", "rich", "pyroute2", "uvloop", "asyncio", "http.client", "email", "ssl", "pytun", "dpkt"}
FOR_NAMESPACES_ONLY = {"msgspec", "vswitch.model", "vswitch.ports"}
SHOW_IMPORTS = """
import json, sys
from vswitch.cli.main import status_of
status = status_of(sys.argv[1:])
print("\\n" + json.dumps([status, sorted(sys.modules)]))
"""


def imported(*arguments: str) -> tuple[int, set[str]]:
    """The exit status of a command, and which modules its process had imported at the end."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_IMPORTS, *arguments], capture_output=True, text=True, check=True
    )
    status, modules = json.loads(done.stdout.splitlines()[-1])
    return status, set(modules)


@pytest.mark.parametrize("words", [
    ["ps"], ["ps", "--json"], ["network", "ls"], ["fdb"], ["stats", "--json"], ["version"], ["rm", "x"],
    ["inspect", "x"], ["network", "create", "blue", "--subnet", "10.1.0.0/24"],
])  # fmt: skip
def test_looking_around_imports_nothing_heavy(cli, words):
    _, modules = imported(*words)
    assert not modules & (HEAVY | FOR_NAMESPACES_ONLY)


def test_attaching_imports_only_what_namespaces_need(cli):
    status, modules = imported("attach", "--netns", "no-such-namespace")
    assert status == 1
    assert "vswitch.container.namespaces" in modules
    assert not modules & HEAVY


@pytest.mark.root
def test_a_whole_attachment_imports_nothing_heavy(cli, stranger):
    status, modules = imported("attach", "--pid", str(stranger.pid))
    assert status == 0
    assert not modules & HEAVY


@pytest.mark.parametrize("name", PLACES)
def test_every_command_explains_itself(lonely, name):
    done = lonely(name, "--help")
    assert done.status == 0
    assert done.out.startswith(f"Usage: vswitch {name} ")
    assert done.err == ""


def test_help_lists_every_command_with_what_it_does(lonely):
    out = lonely("--help").out
    for name in PLACES:
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {name} ")]
        assert len(line.split()) > 2, line


@pytest.mark.parametrize("group", [[], ["network"]])
def test_no_summary_in_help_is_cut_off(lonely, group):
    assert "..." not in lonely(*group, "--help").out.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["help"], ""),
        (["help", "run"], "run "),
        (["--help", "run"], "run "),
        (["help", "run", "--help"], "run "),
        (["help", "run", "sh"], "run "),
        (["help", "network"], "network "),
        (["--help", "network", "rm"], "network rm "),
    ],
)
def test_help_may_come_before_the_command(lonely, words, command):
    done = lonely(*words)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"Usage: vswitch {command}[OPTIONS]")


def options_of(command: click.Command) -> list[click.Parameter]:
    inner = command.commands.values() if isinstance(command, click.Group) else []
    own = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return [*own, *(option for part in inner for option in options_of(part))]


@pytest.mark.parametrize("name", PLACES)
def test_every_option_has_its_line_of_help(name):
    command = program.get_command(click.Context(program), name)
    for option in options_of(command):
        assert option.help, f"{name} {option.opts}"
        assert "--socket" in str([o.opts for o in options_of(command)])


def test_the_socket_may_be_named_before_or_after_the_command(lonely, served):
    assert lonely("--socket", served.path, "ps").status == 0
    assert lonely("ps", "--socket", served.path).status == 0
    assert lonely("--socket", "/nowhere", "network", "ls", "--socket", served.path).status == 0


@pytest.mark.parametrize(
    "words", [["ps"], ["network", "ls"], ["stats"], ["events"], ["logs", "x"], ["network", "rm", "a", "b"]]
)
def test_where_no_switch_runs_every_command_says_so_in_one_line(lonely, words):
    done = lonely(*words)
    assert done.status == 1
    assert done.refusal.startswith("no switch is running at ")
    assert "`vswitch-run`" in done.refusal


@pytest.mark.parametrize(("words", "line"), [
    (["dance"], "no such command 'dance'"),
    (["ps", "--colour"], "no such option"),
    (["inspect"], "missing argument 'CONTAINER...'"),
    (["run"], "missing argument"),
    (["exec", "web"], "missing argument '[--] COMMAND...'"),
    (["exec", "web", "--"], "missing argument '[--] COMMAND...'"),
    (["run", "--standalone", "-d", "true"], "--standalone ends with this command"),
    (["run", "--network", "a,b", "true"], "--network a,b: 'b' should be KEY=VALUE"),
    (["flow", "kill"], "say which flows"),
    *((["stop", "-t", text, "web"], f"'{text}' is no number of seconds from 0 to 3600") for text in ("nan", "x", "-1")),
    (["run", "-dit", "true"], "a detached container has no stdin: leave out -i"),
    (["run", "-dt", "true"], "a detached container has no terminal: leave out -t"),
    (["run", "-d", "--rm", "true"], "keeps its name and log until `vswitch rm`: leave out --rm"),
    (["run", "-v", "/a:/b", "true"], "nothing can be mounted (/a:/b): a container sees the host's files"),
    (["run", "--mount", "type=tmpfs", "true"], "nothing can be mounted (type=tmpfs)"),
    (["run", "-u", "1000", "true"], "there is no --user: a program is uid 0 inside: begin the command with `setpriv"),
    (["run", "-P", "true"], "there is no --publish-all: there are no images to say which ports"),
    (["run", "--restart=always", "true"], "there is no --restart: `vswitch start`"),
    (["attach", "--pid", "foo"], "'foo' is no number of a process: give its number, as podman inspect"),
    (["attach", "--pid", "0"], "0 is no process: that is what engines say of a container that does not run"),
    (["help", "nope"], "no such command 'nope'"),
    (["stop", "-t", "-1", "x"], "-1"),
    (["capture", "--snaplen", "1"], "1 is not in the range"),
    (["capture", "-w"], "option '-w' requires an argument: see vswitch capture --help"),
    (["run", "-h"], "option '-h' requires an argument: see vswitch run --help"),
    (["network", "create", "--mtu"], "option '--mtu' requires an argument: see vswitch network create --help"),
    (["ps", "-q", "--json"], "--quiet shows ids only"),
    (["network", "ls", "-q", "--format", "{{.name}}"], "--quiet shows ids only"),
])  # fmt: skip
def test_wrong_usage_is_one_line_and_status_2(lonely, words, line):
    done = lonely(*words)
    assert done.status == 2
    assert line.lower() in done.refusal.lower()
    assert " --help" in done.refusal


@pytest.mark.parametrize(
    "words", [["run", "true"], ["exec", "web", "true"], ["run", "-d", "--", "sleep", "1"]]
)
def test_what_vswitch_could_not_do_for_a_program_is_status_125(lonely, words):
    done = lonely(*words)
    assert done.status == 125
    assert "no switch is running" in done.refusal


@pytest.mark.parametrize("image", ["no-such-image", "no-such-image:22.04", "ghcr.io/no/such-image:1@sha256:00"])
def test_an_image_instead_of_a_program_is_answered_with_what_a_container_runs(lonely, image):
    done = lonely("run", image, "sh")
    assert done.status == 127
    assert done.refusal == (
        f"{image}: not found, and there are no images: "
        "a container runs programs of this machine, as in `vswitch run -- sh`"
    )


def test_a_program_with_the_looks_of_an_image_is_run(lonely, tmp_path, monkeypatch):
    (tmp_path / "alpine:3").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "alpine").touch(mode=0o755)
    for words in (["-e", f"PATH={tmp_path}", "alpine:3"], ["lib/alpine"], ["./nothing"], ["/nothing"]):
        assert "no switch is running" in lonely("run", *words).refusal


@pytest.mark.parametrize(
    "habit",
    [["-it"], ["-i"], ["--rm"], ["-it", "--rm"], ["--interactive", "--tty"], ["-h", "a"], ["--network-alias", "a"]],
)
def test_what_happens_anyway_may_be_asked_for_as_of_docker(lonely, habit):
    done = lonely("run", *habit, "true")
    assert (done.status, done.refusal.startswith("no switch is running")) == (125, True)


@pytest.mark.parametrize(("command", "words"), [("run", ["-i", "-t", "--rm"]), ("exec", ["-i", "-t"])])
def test_what_is_taken_as_of_docker_is_listed_and_what_is_refused_is_not(lonely, command, words):
    lines = [line.strip() for line in lonely(command, "--help").out.splitlines()]
    assert all(any(line.startswith(word) for line in lines) for word in words)
    assert not [line for line in lines if line.startswith(("-v", "-u", "--privileged"))]


def test_net_is_network(lonely):
    assert "--network a,b: 'b' should be" in lonely("run", "--net", "a,b", "true").refusal
    assert "--network a,b: 'b' should be" in lonely("attach", "--pid", "1", "--net", "a,b").refusal


@pytest.mark.root
def test_the_machines_own_network_is_never_attached(cli, stranger, monkeypatch):
    monkeypatch.setattr(namespaces, "MACHINES_NETNS", f"/proc/{stranger.pid}/ns/net")
    done = cli("attach", "--pid", str(stranger.pid))
    assert done.status == 1
    assert f"process {stranger.pid} is in the machine's own network namespace: give it one" in done.refusal
    done = cli("attach", "--netns", "/proc/self/ns/net")
    assert (done.status, "own network namespace: give it one of its own" in done.refusal) == (1, True)


@pytest.mark.root
def test_a_capability_that_does_not_exist_is_refused_before_anything_is_made(cli):
    done = cli("run", "--cap-add", "FLY", "true")
    assert (done.status, "'FLY' is not a capability" in done.refusal) == (125, True)
    assert cli.granted("ps", "-a", "--json").json == []


def test_a_program_cannot_be_run_in_what_is_not_running(cli, served, monkeypatch):
    served.attach(name="web")
    (view,) = cli("ps", "--json").json
    monkeypatch.setattr(served.switch, "container", lambda reference: view | {"state": "exited"})
    done = cli("exec", "web", "true")
    assert (done.status, done.refusal) == (125, "container web is not running (exited): `vswitch start web` first")


def test_a_reader_that_leaves_ends_us_quietly(cli):
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        [*VSWITCH, "network", "inspect", "default"], stdout=writing, stderr=subprocess.PIPE
    ) as process:
        os.close(writing)
        assert (process.wait(20), process.stderr.read()) == (128 + signal.SIGPIPE, b"")


def finished(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*VSWITCH, *arguments], capture_output=True, text=True, check=False)


def test_closed_standard_descriptors_are_no_trouble(cli):
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *VSWITCH, "ps"], check=False)
    assert done.returncode == 0


def test_what_was_printed_before_a_refusal_is_not_lost(cli):
    done = finished("network", "rm", "nope", "default")
    assert (done.returncode, done.stderr.count("\n")) == (1, 2)
    cli.granted("network", "create", "blue")
    done = finished("network", "rm", "blue", "nope")
    assert (done.returncode, done.stdout) == (1, "blue\n")


def test_a_full_disk_is_one_line(cli):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*VSWITCH, "network", "ls"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "vswitch: No space left on device\n")


def test_ctrl_c_is_quiet(lonely, monkeypatch):
    def interrupt(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_main, "_invoke", interrupt)
    assert lonely("ps") == (130, "", "")


def test_ctrl_c_is_quiet_while_modules_are_loaded_too(tmp_path):
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    done = subprocess.run([sys.executable, "-m", "vswitch.cli", "ps"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_what_others_chose_never_steers_the_terminal(capsys):
    emit_table(("NAME",), [["evil\x1b[2J\nname\u202e"]])
    assert capsys.readouterr().out == "NAME\nevil\\x1b[2J\\nname\\u202e\n"
    assert printable("plain ü 猫") == "plain ü 猫"


def test_columns_are_aligned_numbers_to_the_right(capsys):
    emit_table(("NAME", "COUNT", "MORE"), [["a", 5, None], ["long", 1234, ["x", "y"]]])
    assert capsys.readouterr().out == "NAME   COUNT   MORE\na          5   -\nlong    1234   x, y\n"
    emit_table(("NAME", "COUNT"), [])
    assert capsys.readouterr().out == "NAME   COUNT\n"


def test_on_a_terminal_the_table_is_drawn_and_folded(cli, served):
    served.attach(name="a" * 60)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*VSWITCH, "ps"], stdout=theirs, env=os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        assert process.wait(20) == 0
    drawn = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\x1b[1m" in drawn  # bold headings
    assert max(len(line) for line in drawn.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()) <= 80


def test_shells_can_complete_commands():
    environment = os.environ | {
        "_VSWITCH_COMPLETE": "bash_complete",
        "COMP_WORDS": "vswitch net",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(VSWITCH, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "plain,network\n"
