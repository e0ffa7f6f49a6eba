# SPDX-License-Identifier: Apache-2.0
"""`vswitch attach NAME`: containers of Podman and Docker, asked for from programs that stand in for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vswitch.cli.engines import understood
from vswitch.control.api.client import ClientError

IN_EVERY_MOUNTINFO = "/proc"  # stands for a container's id, which engines leave in cgroups and mounts


class Engines:
    """Programs called podman and docker that answer `inspect` from files; whoever is not made is not installed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def install(self, engine: str, containers: dict[str, dict], *, otherwise: str = "") -> None:
        for name, shown in containers.items():
            (self.folder / f"{engine}.{name}").write_text(json.dumps([shown]))
        sorry = otherwise or 'Error: no such object: "$4"'
        program = self.folder / engine
        program.write_text(
            f'#!/bin/sh\n[ "$1 $2 $3" = "inspect --type container" ] || exit 9\n'
            f"cat '{self.folder}/{engine}.'\"$4\" 2>/dev/null && exit 0\necho '{sorry}' >&2; exit 125\n"
        )
        program.chmod(0o755)


@pytest.fixture
def engines(tmp_path, monkeypatch) -> Engines:
    folder = tmp_path / "engines"
    folder.mkdir()
    (folder / "cat").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", str(folder))
    return Engines(folder)


def shown(pid: int, **changes) -> dict:
    return {
        "Id": IN_EVERY_MOUNTINFO,
        "Name": "/web",
        "State": {"Pid": pid, "Status": "running" if pid else "exited"},
        "Config": {"Hostname": "c0ffee123456"},
        "HostConfig": {"NetworkMode": "none"},
        **changes,
    }


def test_a_container_is_found_at_whichever_engine_has_it_and_keeps_its_names(cli, stranger, engines):
    engines.install("podman", {})
    engines.install("docker", {"web": shown(stranger.pid)})
    identity = cli.granted("attach", "web", "--network", "default,ip=172.17.0.9").out.strip()
    (container,) = cli.granted("inspect", identity).json
    assert (container["name"], container["hostname"], container["pid"]) == ("web", "c0ffee123456", stranger.pid)
    assert container["labels"] == {"vswitch.engine": "docker"} and container["networks"][0]["ipv4"] == "172.17.0.9/16"


def test_the_names_that_are_given_go_before_the_engines(cli, stranger, engines):
    engines.install("podman", {"web": shown(stranger.pid)})
    cli.granted("attach", "--podman", "web", "--name", "front", "--hostname", "h", "--label", "vswitch.engine=mine")
    (container,) = cli.granted("inspect", "front").json
    assert (container["hostname"], container["labels"]) == ("h", {"vswitch.engine": "mine"})


def test_a_name_that_both_engines_know_is_not_guessed(cli, stranger, engines):
    for engine in ("podman", "docker"):
        engines.install(engine, {"web": shown(stranger.pid)})
    assert "say --podman or --docker" in cli("attach", "web").refusal
    cli.granted("attach", "--docker", "web")


def test_a_name_that_nobody_knows_is_refused(cli, engines):
    assert "Podman is not installed" in cli("attach", "--podman", "web").refusal
    engines.install("podman", {})
    assert "Podman has no container 'web'" in cli("attach", "--podman", "web").refusal
    assert "no container of Podman or Docker is called 'web'" in cli("attach", "web").refusal
    assert "is no name" in cli("attach", "--podman=--latest").refusal


def test_an_engine_that_does_not_answer_says_why(cli, engines):
    engines.install("podman", {})
    engines.install("docker", {}, otherwise="Cannot connect to the Docker daemon")
    said = cli("attach", "web").refusal
    assert "Cannot connect to the Docker daemon" in said and said.endswith("; Podman has no container of that name")
    assert "Podman" not in cli("attach", "--docker", "web").refusal


def test_a_container_that_does_not_run_or_has_the_hosts_network_is_refused(cli, stranger, engines):
    hosts = shown(stranger.pid, HostConfig={"NetworkMode": "host"})
    engines.install("podman", {"still": shown(0), "hosts": hosts})
    assert "is exited: `podman start web` first" in cli("attach", "still").refusal
    assert "make it with --network none" in cli("attach", "hosts").refusal


def test_a_pid_of_another_machine_is_not_believed(cli, stranger, engines):
    engines.install("docker", {"web": shown(stranger.pid, Id="f" * 64)})
    assert f"process {stranger.pid} is not Docker's container web" in cli("attach", "web").refusal
    assert cli.granted("ps", "-a", "--json").json == []


def test_one_place_is_said_and_no_more(cli, engines):
    for words in ([], ["web", "--pid", "7"], ["--podman", "a", "--docker", "b"]):
        assert cli("attach", *words).status == 2


def test_apply_attaches_what_an_engine_has_made_without_a_network(cli, stranger, engines, tmp_path):
    file = tmp_path / "compose.yaml"
    file.write_text("name: shop\nservices: {db: {image: x, networks: {back: {ipv4_address: 10.9.0.5}}}}\n"
                    "networks: {back: {ipam: {config: [{subnet: 10.9.0.0/24}]}}}\n")  # fmt: skip
    on_a_bridge = shown(stranger.pid, HostConfig={"NetworkMode": "bridge"})
    engines.install("docker", {"shop-db-1": on_a_bridge})
    assert "waiting for db: no container is called shop-db-1" in cli.granted("apply", str(file)).err
    engines.install("docker", {"shop-db-1": shown(0)})
    assert "waiting for db: Docker's container web is exited: `docker start web` first" in (
        cli.granted("apply", str(file)).err
    )
    engines.install("docker", {"shop-db-1": shown(stranger.pid)})
    assert cli.granted("apply", str(file)).out == "+ attach container shop-db-1: on shop_back\n"
    (container,) = cli.granted("inspect", "shop-db-1").json
    assert (container["pid"], container["networks"][0]["ipv4"]) == (stranger.pid, "10.9.0.5/24")
    assert container["labels"] == {"vswitch.engine": "docker", "vswitch.part": "db", "vswitch.project": "shop"}
    assert cli.granted("apply", str(file)).out == "project shop is as the file says\n"
    file.write_text(file.read_text().replace("{image: x,", "{image: x, hostname: base, ports: ['5432:5432'],"))
    assert cli.granted("apply", str(file)).out.splitlines() == [
        "- detach container shop-db-1: hostname differ",
        "+ attach container shop-db-1: on shop_back, ports 5432:5432",
    ]
    assert cli.granted("apply", str(file)).out == "project shop is as the file says\n"


ANYTHING = st.recursive(
    st.none() | st.integers(-2, 9) | st.booleans() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
STATE = st.fixed_dictionaries({}, optional={"Pid": ANYTHING, "Status": ANYTHING})
OTHERS = st.fixed_dictionaries({}, optional={"Hostname": ANYTHING, "NetworkMode": ANYTHING})
SHOWN = st.fixed_dictionaries(
    {"Id": ANYTHING, "Name": ANYTHING, "State": STATE | ANYTHING, "Config": OTHERS | ANYTHING, "HostConfig": OTHERS}
)


@example(json.dumps([{"Id": "i", "Name": "n", "State": {"Pid": 7}, "Config": {}, "HostConfig": None}]))
@example(json.dumps([{"Id": "i", "Name": "n", "State": {"Pid": 7}, "Config": {"Hostname": 7}, "HostConfig": {}}]))
@given(st.text() | (st.lists(SHOWN, max_size=2) | ANYTHING).map(json.dumps))
def test_whatever_an_engine_says_is_understood_or_refused(answer):
    try:
        container = understood("podman", "web", answer)
    except ClientError as refusal:
        assert "\n" not in str(refusal).strip()
    else:
        assert container.pid > 0 and isinstance(container.hostname, str | None)
