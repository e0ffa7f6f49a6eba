# SPDX-License-Identifier: Apache-2.0
"""`vswitch ps`, `inspect`, `stop`, `rm`, `attach`, `detach`: containers as a person sees them."""

from __future__ import annotations

import pytest


def test_a_container_is_shown_as_docker_would(cli, served):
    identity = served.attach(name="web")["id"]
    heading, row = cli.granted("ps").out.splitlines()
    assert heading.split("   ")[0] == "CONTAINER ID"
    assert [word for word in heading.split() if word != "ID"] == [
        "CONTAINER",
        "COMMAND",
        "CREATED",
        "STATUS",
        "NETWORKS",
        "ADDRESSES",
        "PORTS",
        "NAME",
    ]
    assert row.startswith(identity[:12])
    assert row.split()[-5:] == ["running", "default", "172.17.0.2", "-", "web"]
    assert cli.granted("ps", "-q").out == f"{identity[:12]}\n"


def test_json_has_what_interface_promises(cli, served):
    served.attach(name="web", networks=[{"network": "default", "aliases": ["www"]}])
    (container,) = cli.granted("ps", "--json").json
    assert {"name", "id", "netns", "pid", "state", "networks", "ports"} <= container.keys()
    assert {"name", "interface", "mac", "ipv4", "ipv6"} <= container["networks"][0].keys()
    (network,) = cli.granted("network", "inspect", "default", "--json").json
    assert {
        "name",
        "id",
        "driver",
        "internal",
        "ipv6",
        "mtu",
        "subnets",
        "options",
        "labels",
        "containers",
    } <= network.keys()
    assert {"name", "id", "interface", "mac", "ipv4", "ipv6", "aliases"} <= network["containers"][0].keys()


def test_containers_are_found_by_name_and_by_the_beginning_of_their_id(cli, served):
    identity = served.attach(name="web")["id"]
    for reference in ("web", identity, identity[:6]):
        assert cli.granted("inspect", reference).json[0]["name"] == "web"
    done = cli("inspect", "nope", "web")
    assert (done.status, done.refusal) == (1, "no such container: 'nope'")
    assert len(done.json) == 1


def test_a_long_command_is_cut_and_a_stopped_one_shows_its_status():
    from vswitch.cli.container import _row

    container = {
        "id": "a" * 64,
        "name": "x",
        "command": ["sh", "-c", "sleep 1000; echo and so on"],
        "created": "2020-01-02T03:04:05Z",
        "state": "exited",
        "exit_code": 3,
        "pid": None,
        "netns": None,
        "networks": [],
        "network_mode": "bridge",
        "ports": [],
    }
    identity, command, created, status, networks, addresses, ports, name = _row(container)
    assert (identity, status, name, networks, addresses, ports) == ("a" * 12, "exited (3)", "x", [], [], [])
    assert command == '"sh -c sleep 1000; echo …"'
    assert created.endswith("weeks ago")


def test_an_orphaned_container_comes_with_its_remedy(cli, served, monkeypatch):
    served.attach(name="web")
    (view,) = cli("ps", "--json").json
    monkeypatch.setattr(
        served.switch, "containers", lambda everything: [view | {"state": "orphaned", "remedy": "do this"}]
    )
    done = cli.granted("ps")
    assert done.refusal == "web is orphaned: do this"


def test_an_attached_container_is_removed_only_by_force_or_detached(cli, served):
    served.attach(name="a")
    served.attach(name="b")
    done = cli("rm", "a")
    assert (done.status, done.out) == (1, "")
    assert "`vswitch detach a` first" in done.refusal
    assert cli.granted("rm", "--force", "a").out == "a\n"
    assert cli.granted("detach", "b").out == "b\n"
    assert cli.granted("ps", "-a", "--json").json == []


def test_what_was_attached_cannot_be_stopped_started_or_read(cli, served):
    served.attach(name="a")
    assert "use `vswitch detach a`" in cli("stop", "a").refusal
    assert "attach its namespace again" in cli("start", "a").refusal
    assert "has no log" in cli("logs", "a").refusal


@pytest.mark.root
def test_a_process_namespace_is_attached_and_detached(cli, stranger):
    done = cli.granted(
        "attach",
        "--pid",
        str(stranger.pid),
        "--name",
        "p",
        "--ip",
        "172.17.0.9",
        "--alias",
        "q",
        "--label",
        "k=v",
    )
    (container,) = cli.granted("inspect", "p").json
    assert done.out.strip() == container["id"]
    assert (container["pid"], container["networks"][0]["ipv4"]) == (stranger.pid, "172.17.0.9/16")
    assert (container["networks"][0]["aliases"], container["labels"]) == (["q"], {"k": "v"})
    again = cli("attach", "--pid", str(stranger.pid))
    assert (again.status, "attached already, as p" in again.refusal) == (1, True)
    cli.granted("detach", "p")


@pytest.mark.root
def test_a_namespace_is_attached_by_its_path(cli, stranger):
    cli.granted("attach", "--netns", f"/proc/{stranger.pid}/ns/net", "--name", "p")
    assert cli.granted("inspect", "p").json[0]["netns"] == f"/proc/{stranger.pid}/ns/net"


@pytest.mark.parametrize(("words", "status", "line"), [
    ([], 2, "say which namespace"),
    (["--netns", "a", "--pid", "1"], 2, "say which namespace"),
    (["--pid", "0"], 2, "0 is no process"),
    (["--pid", "1"], 1, "process 1 has the machine's own network"),
    (["--netns", "no-such-namespace"], 1, "no network namespace is named 'no-such-namespace'"),
    (["--netns", "/nowhere/at/all"], 1, "/nowhere/at/all does not exist"),
    (["--netns", "/dev/null"], 1, "/dev/null is not a network namespace"),
    (["--pid", "4194304"], 1, "no process 4194304 is running"),
    (["--netns", "/proc/self/ns/net"], 1, "own network namespace: give it one of its own"),
])  # fmt: skip
def test_a_namespace_that_cannot_be_is_refused_in_one_line(cli, words, status, line):
    done = cli("attach", *words)
    assert done.status == status
    assert line in done.refusal


@pytest.mark.root
def test_a_refused_attachment_leaves_nothing(cli, stranger):
    done = cli("attach", "--pid", str(stranger.pid), "--network", "nope")
    assert (done.status, done.refusal) == (1, "no such network: 'nope'")
    assert cli.granted("ps", "-a", "--json").json == []


@pytest.mark.root
def test_where_no_switch_runs_attach_says_how_to_start_one(lonely, stranger):
    done = lonely("attach", "--pid", str(stranger.pid))
    assert done.status == 1
    assert "no switch is running at" in done.refusal
    assert "start one with `vswitch-run`" in done.refusal
