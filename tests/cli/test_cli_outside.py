# SPDX-License-Identifier: Apache-2.0
"""`vswitch port`, `vswitch flow` and the PORTS of `vswitch ps`."""

from __future__ import annotations

import json
import threading

import pytest
from patience import eventually

from vswitch.cli.port import compact
from vswitch.control.api.client import ClientError
from vswitch.datapath.plane import FlowRow

FLOW = FlowRow(
    network=0,
    port=0,
    protocol="tcp",
    direction="out",
    state="established",
    inside=bytes(10) + b"\xff\xff" + bytes([172, 17, 0, 2]),
    inside_port=40000,
    outside=bytes.fromhex("20010db8000000000000000000000001"),
    outside_port=443,
    target=bytes(16),
    out_bytes=100,
    in_bytes=2000,
    out_packets=3,
    in_packets=4,
    age_s=60,
    idle_s=5,
    number=17,
    generation=3,
)


@pytest.fixture
def web(served):
    """A container that publishes a port, a range, and one at an address."""
    served.attach(name="web", ports=["8080:80", "9000-9010:90-100/udp", "[::1]:8081:81"])
    served.datapath.flow_rows = [FLOW, FLOW._replace(number=18, outside_port=80)]
    return served


def lines(done) -> list[list[str]]:
    return [line.split() for line in done.out.splitlines()]


def test_ports_are_listed_with_ranges_as_one(cli, web):
    assert lines(cli.granted("port", "ls"))[1:] == [
        ["web", "default", "*:8080", "80/tcp"],
        ["web", "default", "*:9000-9010", "90-100/udp"],
        ["web", "default", "[::1]:8081", "81/tcp"],
    ]
    assert len(cli.granted("port", "ls", "--container", "web", "--json").json) == 13
    assert cli("port", "ls", "--network", "nope").refusal == "no such network: 'nope'"
    assert "*:8080->80/tcp, *:9000-9010->90-100/udp, [::1]:8081->81/tcp" in cli.granted("ps").out


def test_json_has_every_port_of_a_range(cli, web):
    (container,) = cli.granted("ps", "--json").json
    assert len(container["ports"]) == 13
    assert container["ports"][0] == {"host_ip": None, "host_port": 8080, "container_port": 80, "protocol": "tcp"}


def test_a_port_is_added_and_removed(cli, web):
    assert cli.granted("port", "add", "web", "7000:70/tcp+udp").out.split() == ["*:7000->70/tcp", "*:7000->70/udp"]
    assert cli.granted("port", "rm", "web", "7000:70/tcp+udp").out.split() == ["*:7000->70/tcp", "*:7000->70/udp"]
    assert "7000" not in cli.granted("port", "ls").out


def test_what_cannot_be_published_is_one_line(cli, web):
    assert "is taken by container web" in cli("port", "add", "web", "8080:81").refusal
    assert "'x' is no port" in cli("port", "add", "web", "x").refusal
    assert "does not publish 81" in cli("port", "rm", "web", "81/udp").refusal
    assert cli("port", "add", "nope", "80").refusal == "no such container: 'nope'"


def test_compact_joins_only_what_follows_in_both_halves():
    def port(host: int, container: int, protocol: str = "tcp", host_ip: str | None = None) -> dict:
        return {"host_ip": host_ip, "host_port": host, "container_port": container, "protocol": protocol}

    assert compact([port(1, 1), port(2, 3), port(3, 4), port(4, 5, "udp"), port(4, 5, host_ip="127.0.0.1")]) == [
        "*:1->1/tcp",
        "*:2-3->3-4/tcp",
        "*:4->5/udp",
        "127.0.0.1:4->5/tcp",
    ]
    assert compact([]) == []


def test_flows_are_listed_and_filtered(cli, web):
    rows = lines(cli.granted("flow", "ls"))
    assert rows[1][:8] == (
        ["17.3", "default", "web", "tcp", "out", "established", "172.17.0.2:40000", "[2001:db8::1]:443"]
    )
    assert rows[1][8:] == ["100", "2000", "60", "s", "5", "s"]
    assert [flow["id"] for flow in cli.granted("flow", "ls", "dport=80", "--json").json] == ["18.3"]
    assert cli.granted("flow", "ls", "--container", "web", "protocol=udp", "--json").json == []


def test_flows_are_killed_by_filter(cli, web):
    assert cli.granted("flow", "kill", "container=web", "dport=443").out == "1\n"
    assert [row.number for row in web.datapath.flow_rows] == [18]
    assert cli.granted("flow", "kill", "--all").out == "1\n"
    assert web.datapath.flow_rows == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["kill"], "say which flows"),
        (["kill", "--all", "dport=1"], "--all leaves nothing to choose"),
        (["kill", "port=1"], "should be WORD=VALUE; the words are container"),
        (["kill", "dport"], "should be WORD=VALUE"),
        (["kill", "dport=http"], "a port is a number"),
        (["ls", "protocol=sctp"], "protocol is one of tcp, udp, icmp, icmpv6"),
        (["kill", "direction=up"], "direction is one of out, in"),
        (["ls", "--network", "a", "network=b"], "network is given twice"),
    ],
)
def test_a_filter_that_says_nothing_is_wrong_usage(cli, words, line):
    done = cli("flow", *words)
    assert done.status == 2 and line in done.refusal


def test_a_filter_that_cannot_be_is_refused_by_the_switch(cli, web):
    assert "is no address" in cli("flow", "kill", "outside=example.org").refusal
    assert "is no state of a flow" in cli("flow", "ls", "state=open").refusal


def test_the_api_kills_nothing_without_a_filter(served):
    with pytest.raises(ClientError, match="no filter means every flow"):
        served.client.post("/v1/flows/kill", {})


def test_flow_events_come_when_asked_for(web):
    stream = web.client.lines("GET", "/v1/events", flows="true")
    seen: list[dict] = []
    reader = threading.Thread(target=lambda: seen.append(next(stream)), daemon=True)
    reader.start()
    eventually(lambda: web.datapath.flows_watched, "the stream to be open")
    event = type("Event", (), {"kind": "flow_opened", "flow": FLOW})
    web.loop.call_soon_threadsafe(web.datapath.on_event, event)
    eventually(lambda: seen, "the event")
    assert seen[0]["type"] == "flow" and seen[0]["attributes"]["outside_port"] == 443, json.dumps(seen)
