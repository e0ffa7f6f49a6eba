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
    identity = cli.granted("network", "create", "-d", "bridge", "blue").out.strip()
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
    (["--subnet", "10.1.0.0/24", "--gateway", "nine"], "--gateway 'nine' can't be: write it like 172.20.0.5"),
    (["--subnet", "10.1.0/24", "--gateway", "10.1.0.1"], "--subnet '10.1.0/24' can't be: write it like 172.20.0.0/16"),
    (["--aux-address", "10.1.0.1"], "--aux-address '10.1.0.1': should be NAME=IP"),
    (["--opt", "icc"], "--opt 'icc': should be KEY=VALUE"),
    (["--mtu", "big"], "'big' is not a valid integer"),
    (["--opt", "mtu=1280", "--mtu", "1400"], "--mtu 1400 and --opt mtu=1280: say one of them"),
    (["--mtu", "1500", "-o", "com.docker.network.driver.mtu=9"], "--opt com.docker.network.driver.mtu=9: say one"),
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


def test_what_is_said_of_a_network_in_use_changes_and_the_rest_stays(cli, served):
    labels = ["--label", "a=b", "--label", "c=d"]
    cli.granted("network", "create", "blue", "--subnet", "10.1.0.0/24", *labels, "-o", "mtu=1400")
    served.attach(name="web", networks=[{"network": "blue"}])
    words = ["--mtu", "9000", "--internal", "--label", "e=f", "--label-rm", "a", "--opt", "icc=false", "--no-names"]
    ranges = ["--ip-range", "10.1.0.128/25", "--aux-address", "nas=10.1.0.9"]
    ranges += ["--subnet", "10.2.0.0/24", "--gateway", "10.2.0.9"]
    resolvers = ["--dns", "192.0.2.1", "--dns", "192.0.2.2", "--dns-search", "lan", "--dns-option", "ndots:1"]
    assert cli.granted("network", "update", "blue", *words, *ranges, *resolvers).out == "blue\n"
    (shown,) = cli.granted("network", "inspect", "blue").json
    assert (shown["mtu"], shown["internal"], shown["labels"]) == (9000, True, {"c": "d", "e": "f"})
    assert shown["options"] == {"icc": "false"}, "--mtu takes the place of the option"
    assert shown["subnets"] == [
        {
            "subnet": "10.1.0.0/24",
            "gateway": "10.1.0.1",
            "ip_range": "10.1.0.128/25",
            "aux_addresses": {"nas": "10.1.0.9"},
        },
        {"subnet": "10.2.0.0/24", "gateway": "10.2.0.9", "ip_range": None, "aux_addresses": {}},
    ]
    assert (shown["dns"], shown["dns_servers"]) == (False, ["192.0.2.1", "192.0.2.2"])
    assert (shown["dns_search"], shown["dns_options"]) == (["lan"], ["ndots:1"])
    cli.granted("network", "update", "blue", "--no-internal", "--dns", "none", "--opt-rm", "icc", "--names")
    (after,) = cli.granted("network", "inspect", "blue").json
    assert after == {**shown, "internal": False, "dns_servers": [], "options": {}, "dns": True}


@pytest.mark.parametrize(("words", "status", "line"), [
    ([], 2, "nothing to change is said"),
    (["--mtu", "1"], 1, "MTU 1 is out of range: 68 to 65520"),
    (["--ip-range", "10.9.0.0/25"], 2, "lies in no --subnet that is given"),
    (["--subnet", "172.17.1.0/24"], 1, "overlaps 172.17.0.0/16 of network default"),
    (["--gateway", "10.1.0.7"], 1, "has gateway 10.1.0.1, which can't be changed"),
    (["--opt", "icc"], 2, "should be KEY=VALUE"),
    (["--opt", "mtu=1280", "--mtu", "1400"], 2, "--mtu 1400 and --opt mtu=1280: say one of them"),
    (["--opt-rm", "icc"], 1, "network blue has no option 'icc': it has mtu"),
    (["--label-rm", "c"], 1, "network blue has no label 'c': it has a"),
    (["--name", "red"], 2, "no such option"),
])  # fmt: skip
def test_a_change_that_cannot_be_is_one_line(cli, words, status, line):
    same_twice = ["--mtu", "1400", "--opt", "mtu=1400"]
    cli.granted("network", "create", "blue", "--subnet", "10.1.0.0/24", "--label", "a=b", *same_twice)
    before = cli.granted("network", "inspect", "blue").json
    done = cli("network", "update", "blue", *words)
    assert done.status == status and line.lower() in done.refusal.lower()
    assert cli.granted("network", "inspect", "blue").json == before


def test_a_container_joins_and_leaves_by_command(cli, served):
    cli.granted("network", "create", "blue", "--subnet", "10.1.0.0/24")
    served.attach(name="web")
    words = ["--ip", "10.1.0.9", "--mac-address", "02:00:00:00:00:09", "--alias", "db", "--alias", "sql"]
    assert cli.granted("network", "connect", "blue", "web", "--gw-priority", "7", *words).out == ""
    joined = cli.granted("inspect", "web").json[0]["networks"][1]
    assert (joined["ipv4"], joined["mac"], joined["aliases"]) == ("10.1.0.9/24", "02:00:00:00:00:09", ["db", "sql"])
    assert (joined["gw_priority"], joined["default_route"]) == (7, [4])
    assert "is on network blue already" in cli("network", "connect", "blue", "web").refusal
    assert cli("network", "rm", "blue").refusal == "network blue is in use by web: remove it first"
    cli.granted("network", "disconnect", "--force", "blue", "web")
    assert len(cli.granted("inspect", "web").json[0]["networks"]) == 1
    assert "is not on network blue" in cli("network", "disconnect", "blue", "web").refusal
    assert cli("network", "connect", "nowhere", "web").refusal == "no such network: 'nowhere'"
    assert cli("network", "connect", "blue", "nobody").refusal == "no such container: 'nobody'"
    assert cli("network", "connect", "blue").status == 2


def test_warnings_stand_beside_the_listings(cli, served):
    served.attach(name="web")

    async def join_a_vpn() -> None:
        served.routes.become("172.16.0.0/12")

    served.wait_for(join_a_vpn())
    for words in (("network", "ls"), ("ps",)):
        done = cli.granted(*words)
        assert "network default: subnet 172.17.0.0/16 overlaps the host's route to 172.16.0.0/12" in done.refusal
    assert len(cli.granted("network", "inspect", "default").json[0]["warnings"]) == 1


def test_a_network_in_the_way_of_the_host_is_said_when_it_is_made_or_changed(cli, served):
    async def join_a_vpn() -> None:
        served.routes.become("198.51.100.0/23")

    served.wait_for(join_a_vpn())
    done = cli.granted("network", "create", "blue", "--subnet", "198.51.100.0/24")
    said = "network blue: subnet 198.51.100.0/24 overlaps the host's route to 198.51.100.0/23"
    assert len(done.out) == 65 and done.refusal.startswith(said)
    assert cli.granted("network", "create", "red", "--subnet", "10.9.0.0/24").err == ""
    done = cli.granted("network", "update", "red", "--subnet", "198.51.101.0/24")
    assert done.refusal.startswith("network red: subnet 198.51.101.0/24 overlaps")


@pytest.mark.parametrize(("words", "then"), [
    (["--mtu", "1300"], "send vswitch-run SIGHUP (systemctl reload vswitch)"),
    (["--ip-range", "172.17.9.0/24"], "send vswitch-run SIGHUP (systemctl reload vswitch)"),
    (["--ipv6"], "restart vswitch-run"),
    (["--subnet", "10.9.0.0/24"], "restart vswitch-run"),
])  # fmt: skip
def test_how_the_default_network_is_changed_is_said_with_what_applies_it(cli, words, then):
    done = cli("network", "update", "default", *words)
    assert "belongs to the switch's settings: change it under [default_network] in" in done.refusal
    assert done.refusal.endswith(f" and {then}")
