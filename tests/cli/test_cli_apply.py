# SPDX-License-Identifier: Apache-2.0
"""`vswitch apply` against a switch in memory: what is shown, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from vswitch.cli import apply

NETWORKS = """
name: shop
networks:
  back: {internal: true, ipam: {config: [{subnet: 10.9.0.0/24}]}, labels: {"evil": "\\e[2J"}}
  front: {driver_opts: {icc: "${ICC:-true}"}}
services:
  web: {image: x, networks: [back, front], volumes: [a]}
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "compose.yaml"
    path.write_text(NETWORKS.replace(', labels: {"evil": "\\e[2J"}', ""))
    return path


def test_a_plan_is_shown_and_as_json_and_nothing_is_done(cli, file):
    shown = cli.granted("apply", "--dry-run", str(file))
    assert shown.out == "+ create network shop_back: 10.9.0.0/24\n+ create network shop_front\n"
    assert "ignored, vswitch does not do it: services.web.image, services.web.volumes\n" in shown.err
    plan = cli.granted("apply", "--dry-run", "--json", str(file)).json
    assert (plan["project"], [action["verb"] for action in plan["actions"]]) == ("shop", ["create", "create"])
    assert [network["name"] for network in cli.granted("network", "ls", "--json").json] == ["default"]


def test_networks_are_made_changed_and_removed_as_the_file_says(cli, file, monkeypatch):
    cli.granted("apply", str(file))
    (back,) = cli.granted("network", "inspect", "shop_back").json
    assert back["internal"] and back["labels"] == {"vswitch.project": "shop", "vswitch.part": "back"}
    assert cli.granted("apply", str(file)).out == "project shop: nothing to do, but waiting for web\n"
    monkeypatch.setenv("ICC", "false")
    assert cli.granted("apply", str(file)).out == "~ update network shop_front: options\n"
    file.write_text("name: shop\nnetworks: {front: {driver_opts: {icc: 'false'}}}\n")
    assert "network shop_back; --prune removes them" in cli.granted("apply", str(file)).err
    assert cli.granted("apply", "--prune", str(file)).out.startswith("- remove network shop_back")


def test_a_project_is_called_after_its_folder_unless_it_is_said_otherwise(cli, file, tmp_path):
    file.write_text("networks: {n: }\n")
    folder = "".join(c for c in tmp_path.name.lower() if c.isalnum() or c in "-_")[:40]
    assert cli.granted("apply", "--dry-run", str(file)).out == f"+ create network {folder}_n\n"
    assert cli.granted("apply", "--dry-run", "-p", "mine", str(file)).out == "+ create network mine_n\n"
    assert "project name 'A B' is invalid" in cli("apply", "-p", "A B", str(file)).refusal


def test_an_env_file_beside_it_gives_variables_and_the_environment_goes_before_it(cli, file, tmp_path, monkeypatch):
    file.write_text("name: p\nnetworks: {n: {name: '${NAME}${UNSET}'}}\n")
    (tmp_path / ".env").write_text("NAME=one\n")
    shown = cli.granted("apply", "--dry-run", str(file))
    assert shown.out == "+ create network one\n" and "variable UNSET (it is not set)" in shown.err
    monkeypatch.setenv("NAME", "two")
    assert cli.granted("apply", "--dry-run", str(file)).out == "+ create network two\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.yaml", b"networks: {a: {internal: maybe}}", ":1:26: networks.a.internal: should be true or false"),
        ("c.yaml", b"networks: [", ":1:12: no YAML"),
        ("c.yaml", b"\xff", ": no UTF-8 text (byte 0)"),
        ("c.yaml", b"x" * 300_000, ": larger than 256 KiB"),
        ("c.toml", b"networks = 7", ": networks: should be a mapping, not a number"),
        ("c.toml", b"a = 1\na = 2", ": no TOML"),
        ("c.txt", b"", ": should be a compose file"),
    ],
)
def test_a_file_that_is_wrong_is_one_line_with_its_name_and_place(cli, tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    done = cli("apply", str(path))
    assert done.status == 1 and done.refusal.startswith(f"{path}{says}")


def test_a_file_that_is_not_there_and_one_without_end_are_refused(cli, tmp_path):
    assert "No such file" in cli("apply", str(tmp_path / "none.yaml")).refusal
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    assert "larger than 256 KiB" in cli("apply", str(tmp_path / "zero.yaml")).refusal


def test_a_switch_that_refuses_a_step_is_quoted_with_the_step(cli, file):
    file.write_text("name: shop\nnetworks: {back: {driver_opts: {mtu: 9}}}\n")
    assert cli("apply", str(file)).refusal.startswith("create network shop_back: MTU 9")


# ---- what is found before anything is done

SHOP = """
project = "shop"
[networks.d]
subnets = ["10.9.0.0/24"]
[containers.a]
networks = ["d"]
command = ["sleep", "9"]
"""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ('ports = ["9001:80", "9001:81"]',
         "containers.a.ports: host port 9001/tcp is taken by container shop-a itself"),
        ('ports = ["9001:80"]\n[containers.b]\nports = ["127.0.0.1:9000-9002:80-82/tcp+udp"]',
         "containers.b.ports: host port 9001/tcp is taken by container shop-a"),
        ('hostname = "a b"', "containers.a: hostname 'a b' is invalid"),
        ('dns = ["here"]', "containers.a: --dns 'here' is no address"),
        ('extra_hosts = ["h"]', "containers.a: 'h' is not an extra host"),
        ('cap_add = ["ALMOST"]', "containers.a: 'ALMOST' is not a capability"),
        ('workdir = "/nowhere"', "containers.a: working directory /nowhere: No such file or directory"),
        ('[containers."A b"]', "containers.A b: container name 'shop-A b' is invalid"),
        ('[containers.b]\ncommand = ["nosuchprogram"]', "containers.b: nosuchprogram: not found in PATH"),
        ('[containers.b]\ncommand = ["./sleep"]', "containers.b: ./sleep: No such file or directory"),
        ('[containers.b.networks.d]\nip = "1.2.3.4"',
         "containers.b.networks.d: address 1.2.3.4 is outside network shop_d (10.9.0.0/24)"),
        ('[containers.b.networks.d]\nip = "10.9.0.1"',
         "containers.b.networks.d: address 10.9.0.1 is in use by the gateway"),
        ('[containers.b.networks.d]\nip6 = "fd00::5"', "containers.b.networks.d: network shop_d has no IPv6 subnet"),
        ('[containers.b.networks.d]\nip = "10.9.0.9"\n[containers.c.networks.d]\nip = "10.9.0.9"',
         "containers.c.networks.d: address 10.9.0.9 is in use by shop-b"),
        ('[containers.b.networks.d]\nmac_address = "01:00:00:00:00:01"', "containers.b.networks.d: MAC address"),
        ('[containers.b.networks.d]\naliases = ["a b"]', "containers.b.networks.d: alias name 'a b' is invalid"),
        ('[containers.b]\nnetwork_mode = "none"\ncommand = ["sleep", "9"]\nports = ["80"]',
         "containers.b: no published port with --network none"),
        ('[containers.b]\nnetworks = ["i"]\nports = ["80"]\n[networks.i]\ninternal = true',
         "containers.b: network shop_i is internal, so nothing can be published"),
        ('[networks."n n"]', "networks.n n: network name 'shop_n n' is invalid"),
        ('[networks.e]\nname = "host"', "networks.e: network name host has a meaning"),
        ('[networks.e]\nsubnets = ["10.9.0.1/24"]', "networks.e: subnet 10.9.0.1/24 is an address within"),
        ('[networks.e]\nsubnets = ["10.9.0.0/16"]',
         "networks.e: subnet 10.9.0.0/16 overlaps 10.9.0.0/24 of network shop_d"),
        ('[networks.e.options]\nhost_loopback = "so so"', "networks.e: network option host_loopback"),
    ],
)  # fmt: skip
def test_what_the_switch_would_refuse_is_said_with_the_key_before_anything_is_done(cli, tmp_path, words, says):
    path = tmp_path / "shop.toml"
    path.write_text(SHOP + words)
    done = cli("apply", str(path))
    assert done.status == 1 and done.refusal.startswith(f"{path}: {says}")
    assert [network["name"] for network in cli.granted("network", "ls", "--json").json] == ["default"]


def test_of_two_that_apply_one_file_at_once_the_second_is_told_to_do_it_again(cli, file, monkeypatch):
    carry_out = apply._carry_out

    def overtaken(*arguments):
        monkeypatch.setattr(apply, "_carry_out", carry_out)
        cli.granted("apply", str(file))
        carry_out(*arguments)

    monkeypatch.setattr(apply, "_carry_out", overtaken)
    assert cli("apply", str(file)).refusal == (
        "create network shop_back: changed meanwhile by somebody else: run vswitch apply again"
    )


def test_somebody_elses_network_of_that_name_is_named_even_if_it_came_meanwhile(cli, file, monkeypatch):
    carry_out = apply._carry_out

    def overtaken(*arguments):
        cli.granted("network", "create", "shop_back")
        carry_out(*arguments)

    monkeypatch.setattr(apply, "_carry_out", overtaken)
    assert "network shop_back exists already" in cli("apply", str(file)).refusal


def test_a_network_that_somebody_else_is_on_is_said_to_stay(cli, stranger, tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('project = "p"\n[networks.n]\n[networks.m]\n')
    cli.granted("apply", str(path))
    cli.granted("attach", "--pid", str(stranger.pid), "--name", "foreign", "--network", "p_n")
    path.write_text('project = "p"\n[networks.m]\n')
    for _ in range(2):
        err = cli.granted("apply", "--prune", str(path)).err
        assert err == "vswitch: not in the file any more, but not removed: network p_n (in use by foreign)\n"


@pytest.mark.parametrize(("name", "content"), [("c.toml", 'project = "shop"'), ("c.yaml", "name: shop")])
def test_a_file_that_describes_nothing_is_refused_with_the_words_that_empty_a_project(cli, tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    words = cli("apply", "--prune", str(path)).refusal.partition(": write ")[2].partition(" if ")[0]
    path.write_text(f"{content}\n{words}\n")
    assert cli.granted("apply", "--prune", str(path)).out == "project shop is as the file says\n"
