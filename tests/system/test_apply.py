# SPDX-License-Identifier: Apache-2.0
"""`vswitch apply`: a compose file and our own TOML brought about with real namespaces and programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from living_switch import LivingSwitch, eventually

pytestmark = pytest.mark.root

COMPOSE = """
name: shop
x-common: &common
  networks: [default, back]
services:
  web:
    <<: *common
    command: socat TCP-LISTEN:80,fork,reuseaddr SYSTEM:'hostname'
    hostname: www
    ports: ["127.0.0.1:${WEB_PORT:-8080}:80"]
    depends_on: [vtdb]
  vtdb:
    image: postgres        # somebody else makes it
    volumes: ["data:/var"]
    networks: {back: {ipv4_address: 10.9.0.50, aliases: [sql]}}
networks:
  back: {internal: true, ipam: {config: [{subnet: 10.9.0.0/24}]}}
volumes: {data: {}}
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "compose.yaml"
    path.write_text(COMPOSE)
    return path


def apply(switch: LivingSwitch, file: Path, *options: str):
    return switch("apply", str(file), *options)


def on(switch: LivingSwitch, name: str) -> dict[str, dict]:
    return {endpoint["name"]: endpoint for endpoint in switch.json("inspect", name)[0]["networks"]}


def test_a_compose_file_is_shown_brought_about_and_then_nothing_is_left_to_do(switch: LivingSwitch, file: Path):
    shown = apply(switch, file, "--dry-run")
    assert "+ create network shop_back: 10.9.0.0/24" in shown.stdout and "+ run container shop-web-1" in shown.stdout
    assert "services.vtdb.image" in shown.stderr
    assert "waiting for vtdb: no container is called shop-vtdb-1" in shown.stderr
    assert [network["name"] for network in switch.json("network", "ls")] == ["default"]

    apply(switch, file)
    assert on(switch, "shop-web-1").keys() == {"shop_default", "shop_back"}
    fetch = ["socat", "-u", "TCP:127.0.0.1:8080,connect-timeout=2", "-"]
    eventually(lambda: switch.host.run(*fetch, check=False).stdout == "www\n", "the published port answers")

    vtdb = switch.container("vtdb")
    apply(switch, file)
    assert on(switch, "vtdb")["shop_back"]["ipv4"] == "10.9.0.50/24"
    assert set(on(switch, "vtdb")["shop_back"]["aliases"]) == {"vtdb", "sql"}
    vtdb.run("ping", "-c", "1", "-W", "2", on(switch, "shop-web-1")["shop_back"]["ipv4"].split("/")[0])
    for name in ("vtdb", "sql"):
        assert "10.9.0.50" in switch("exec", "shop-web-1", "--", "getent", "hosts", name).stdout
    again = apply(switch, file)
    assert again.stdout == "project shop is as the file says\n"


def test_a_changed_file_changes_what_it_names_and_removes_the_rest_only_when_asked(switch: LivingSwitch, file: Path):
    apply(switch, file)
    pid = switch.json("inspect", "shop-web-1")[0]["pid"]
    file.write_text(COMPOSE.replace("${WEB_PORT:-8080}", "9090"))
    assert apply(switch, file).stdout.splitlines() == ["~ publish container shop-web-1: 127.0.0.1:9090:80/tcp"]
    assert switch.json("inspect", "shop-web-1")[0]["pid"] == pid
    apply(switch, file, "--prune")
    assert [port["host_port"] for port in switch.json("port", "ls")] == [9090]

    file.write_text("name: shop\nservices: {job: {command: sleep 1000}}\n")
    kept = apply(switch, file)
    assert "container shop-web-1, network shop_back; --prune removes them" in kept.stderr
    assert {row["name"] for row in switch.json("ps")} == {"shop-web-1", "shop-job-1"}
    apply(switch, file, "--remove-orphans")
    assert [row["name"] for row in switch.json("ps", "-a")] == ["shop-job-1"]
    assert {network["name"] for network in switch.json("network", "ls")} == {"default", "shop_default"}

    file.write_text("name: shop\nservices: {}\n")
    apply(switch, file, "--prune")
    assert switch.json("ps", "-a") == [] and [n["name"] for n in switch.json("network", "ls")] == ["default"]


def test_our_own_language_runs_starts_and_attaches(switch: LivingSwitch, tmp_path):
    namespace = switch.namespace()
    file = tmp_path / "shop.toml"
    file.write_text(
        'project = "shop"\n[containers.job]\ncommand = ["sleep", "1000"]\nnetwork_mode = "none"\n'
        f'[containers.box]\nnetns = "{namespace.name}"\nhostname = "boxed"\n'
    )
    apply(switch, file)
    assert "eth0" in namespace.run("ip", "-br", "link").stdout
    assert switch.json("inspect", "shop-box")[0]["hostname"] == "boxed"
    assert "as the file says" in apply(switch, file).stdout
    switch("stop", "-t", "0", "shop-job")
    assert apply(switch, file).stdout == "~ start container shop-job\n"
    file.write_text(file.read_text().replace("1000", "2000"))
    assert json.loads(apply(switch, file, "--json").stdout)["actions"][0]["why"] == "command differ"
    assert switch.json("inspect", "shop-job")[0]["command"] == ["sleep", "2000"]


def test_a_step_that_is_refused_is_named_and_the_next_apply_goes_on(switch: LivingSwitch, file: Path):
    with switch.host.serving(8080, "socat", "TCP-LISTEN:8080,bind=127.0.0.1,fork", "-"):
        refused = switch("apply", str(file), check=False)
        assert refused.returncode == 1 and "run container shop-web-1: " in refused.stderr and "8080" in refused.stderr
        assert {network["name"] for network in switch.json("network", "ls")} == {"default", "shop_default", "shop_back"}
        assert switch.json("ps", "-a") == []
    apply(switch, file)
    assert [row["name"] for row in switch.json("ps")] == ["shop-web-1"]


def test_what_can_be_known_is_refused_before_the_container_that_is_to_be_made_anew_is_gone(
    switch: LivingSwitch, tmp_path
):
    file = tmp_path / "shop.yaml"
    network = "networks: {d: {ipam: {config: [{subnet: 10.9.0.0/24}]}}}\n"

    def shop(command: str, address: str, more: str = "") -> None:
        a = f"a: {{command: {command}, networks: {{d: {{ipv4_address: {address}}}}}, {more}}}"
        file.write_text(f"name: shop\n{network}services: {{{a}}}\n")

    shop("sleep 1000", "10.9.0.9")
    apply(switch, file)
    pid = switch.json("inspect", "shop-a-1")[0]["pid"]
    switch("run", "-d", "--name", "guest", "-p", "9001:80", "--", "sleep", "1000")
    for wish, says in (
        (("sleep 2000", "1.2.3.4"), "services.a.networks.d: address 1.2.3.4 is outside network shop_d (10.9.0.0/24)"),
        (("nosuchprogram", "10.9.0.9"), "services.a: nosuchprogram: not found in PATH"),
        (("sleep 2000", "10.9.0.9", 'ports: ["9001:80"]'), "host port 9001/tcp is taken by container guest"),
    ):
        shop(*wish)
        for options in (["--dry-run"], []):
            refused = switch("apply", str(file), *options, check=False)
            assert refused.returncode == 1 and says in refused.stderr and refused.stdout == ""
    assert switch.json("inspect", "shop-a-1")[0]["pid"] == pid
    shop("sleep 2000", "10.9.0.9", 'ports: ["9002:80"]')
    assert apply(switch, file).stdout.count("container shop-a-1") == 2
    assert on(switch, "shop-a-1")["shop_d"]["ipv4"] == "10.9.0.9/24"
