# SPDX-License-Identifier: Apache-2.0
"""`vswitch apply` against a switch in memory: what is shown, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    assert cli.granted("apply", str(file)).out == "project shop is as the file says\n"
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
    cli.granted("network", "create", "taken", "--subnet", "10.9.0.0/24")
    last = cli("apply", str(file)).err.splitlines()[-1]
    assert last.startswith("vswitch: create network shop_back: subnet 10.9.0.0/24 overlaps")
