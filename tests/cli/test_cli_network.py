# SPDX-License-Identifier: Apache-2.0
"""`vswitch network …`."""

from __future__ import annotations

import pytest


def test_a_network_is_made_listed_shown_and_removed(cli):
    made = cli.granted(
        "network", "create", "blue", "--subnet", "10.1.0.0/24", "--label", "a=b", "--mtu", "1400"
    )
    identity = made.out.strip()
    assert len(identity) == 64
    listed = cli.granted("network", "ls").out.splitlines()
    assert listed[0].split() == ["NETWORK", "ID", "NAME", "DRIVER", "SUBNETS", "CONTAINERS"]
    assert listed[2].split() == [identity[:12], "blue", "bridge", "10.1.0.0/24", "0"]
    (shown,) = cli.granted("network", "inspect", "blue").json
    assert (shown["id"], shown["mtu"], shown["labels"]) == (identity, 1400, {"a": "b"})
    assert cli.granted("network", "rm", "blue").out == "blue\n"
    assert cli.granted("network", "ls", "-q").out.count("\n") == 1


def test_ids_alone_are_for_scripts(cli):
    identity = cli.granted("network", "create", "blue").out.strip()
    assert identity[:12] in cli.granted("network", "ls", "--quiet").out.splitlines()


def test_a_listing_is_one_json_document(cli):
    assert [network["name"] for network in cli.granted("network", "ls", "--json").json] == ["default"]
    assert cli.granted("network", "inspect", "default", "--json").json[0]["name"] == "default"


def test_gateway_range_and_reserved_addresses_go_to_the_subnet_that_holds_them(cli):
    cli.granted(
        "network",
        "create",
        "both",
        "--ipv6",
        "--subnet",
        "10.1.0.0/24",
        "--subnet",
        "fd00:1::/64",
        "--gateway",
        "fd00:1::99",
        "--gateway",
        "10.1.0.99",
        "--ip-range",
        "10.1.0.128/25",
        "--aux-address",
        "nas=10.1.0.130",
    )
    (network,) = cli.granted("network", "inspect", "both").json
    assert network["subnets"] == [
        {
            "subnet": "10.1.0.0/24",
            "gateway": "10.1.0.99",
            "ip_range": "10.1.0.128/25",
            "aux_addresses": {"nas": "10.1.0.130"},
        },
        {"subnet": "fd00:1::/64", "gateway": "fd00:1::99", "ip_range": None, "aux_addresses": {}},
    ]


@pytest.mark.parametrize(("words", "line"), [
    (["--gateway", "10.9.0.1"], "--gateway 10.9.0.1 lies in no --subnet that is given"),
    (["--subnet", "10.1.0.0/24", "--ip-range", "10.2.0.0/25"], "--ip-range 10.2.0.0/25 lies in no --subnet"),
    (["--subnet", "10.1.0.0/24", *["--gateway", "10.1.0.1"] * 2], "--gateway is given twice"),
    (["--subnet", "10.1.0.0/24", "--gateway", "nine"], "--gateway nine: 'nine' does not appear to be"),
    (["--aux-address", "10.1.0.1"], "--aux-address '10.1.0.1': should be NAME=IP"),
    (["--opt", "icc"], "--opt 'icc': should be KEY=VALUE"),
    (["--mtu", "big"], "'big' is not a valid integer"),
    (["--icc"], "no such option"),
])  # fmt: skip
def test_wrong_usage_is_one_line_and_status_2(cli, words, line):
    done = cli("network", "create", "blue", *words)
    assert done.status == 2
    assert line.lower() in done.refusal.lower()
    assert done.refusal.endswith("see vswitch network create --help")


@pytest.mark.parametrize(("words", "line"), [
    (["default"], "network default exists already"),
    (["blue", "--subnet", "172.17.5.0/24"], "overlaps 172.17.0.0/16 of network default"),
    (["blue", "--subnet", "10.1.0.0"], "10.1.0.0"),
    (["blue", "--opt", "icc=perhaps"], "network option icc must be true or false"),
    (["blue", "--driver", "macvlan"], "bridge"),
    (["-blue"], "no such option"),
    (["blue/green"], "network name 'blue/green' is invalid"),
])  # fmt: skip
def test_a_refusal_is_one_line_and_nothing_is_made(cli, words, line):
    done = cli("network", "create", *words)
    assert done.status in (1, 2)
    assert line.lower() in done.refusal.lower()
    assert [network["name"] for network in cli("network", "ls", "--json").json] == ["default"]


def test_one_name_that_is_refused_does_not_keep_the_others(cli):
    cli.granted("network", "create", "blue")
    done = cli("network", "rm", "nope", "blue")
    assert (done.status, done.out) == (1, "blue\n")
    assert done.refusal == "no such network: 'nope'"
    assert [n["name"] for n in cli("network", "inspect", "default", "nope").json] == ["default"]


def test_a_network_in_use_is_kept(cli, served):
    served.attach(name="web")
    assert cli("network", "rm", "default").status == 1
    assert "CONTAINERS" in cli.granted("network", "ls").out
    assert cli.granted("network", "ls").out.splitlines()[1].split()[-1] == "1"


def test_pruning_removes_what_nobody_is_on_and_says_so(cli, served):
    cli.granted("network", "create", "idle")
    cli.granted("network", "create", "busy")
    served.attach(name="web", networks=[{"network": "busy"}])
    assert cli.granted("network", "prune", "--force").out == "idle\n"
    assert [n["name"] for n in cli("network", "ls", "--json").json] == ["default", "busy"]
