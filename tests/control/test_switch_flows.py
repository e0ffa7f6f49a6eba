# SPDX-License-Identifier: Apache-2.0
"""Flows as a user is shown them: whose they are, which a filter means, and what is told of them."""

from __future__ import annotations

import pytest
from switchbox import Box, quiet, simulated

from vswitch.datapath.plane import FlowRow
from vswitch.model import FlowFilter, NetworkSpec, NetworkUpdate, Refused


def mapped(address: bytes) -> bytes:
    return bytes(10) + b"\xff\xff" + address


OUT = FlowRow(
    network=0,
    port=0,
    protocol="tcp",
    direction="out",
    state="established",
    inside=mapped(bytes([172, 17, 0, 2])),
    inside_port=40000,
    outside=mapped(bytes([192, 0, 2, 1])),
    outside_port=443,
    target=mapped(bytes([192, 0, 2, 1])),
    out_bytes=100,
    in_bytes=2000,
    out_packets=3,
    in_packets=4,
    age_s=60,
    idle_s=5,
    number=17,
    generation=3,
)
IN = OUT._replace(
    direction="in",
    inside_port=80,
    outside=mapped(bytes([198, 51, 100, 9])),
    outside_port=50000,
    target=bytes(16),
    age_s=10,
    number=18,
)
SIX = OUT._replace(
    protocol="icmpv6",
    state="open",
    inside=bytes.fromhex("fd00000000000000000000000000000000000009"[:32]),
    outside=bytes.fromhex("20010db8000000000000000000000001"),
    outside_port=0,
    target=bytes(16),
    age_s=0,
    number=19,
)
GONE = OUT._replace(network=77, number=20)


async def with_flows(box: Box) -> None:
    await box.attach("web")
    box.datapath.flow_rows = [IN, OUT, SIX, GONE]


@simulated
async def test_flows_are_listed_the_oldest_first_with_their_container(tmp_path):
    async with Box(tmp_path) as box:
        await with_flows(box)
        out, came, six = await box.switch.flows(FlowFilter())
        assert (out.id, out.network, out.container, out.target) == ("17.3", "default", "web", None)
        assert (out.inside, out.inside_port, out.outside, out.outside_port) == ("172.17.0.2", 40000, "192.0.2.1", 443)
        assert (out.out_bytes, out.in_bytes, out.out_packets, out.in_packets) == (100, 2000, 3, 4)
        assert (out.age, out.idle) == (60.0, 5.0)
        assert (came.direction, came.outside) == ("in", "198.51.100.9")
        assert six.outside == "2001:db8::1"


@simulated
async def test_a_flow_from_an_address_that_a_container_made_itself_is_the_containers(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        box.datapath.flow_rows = [SIX, SIX._replace(port=9, number=21)]  # nobody is at port 9 any more
        assert {flow.id: flow.container for flow in await box.switch.flows(FlowFilter())} == {
            "19.3": "web",
            "21.3": None,
        }


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ({}, [17, 18, 19]),
        ({"container": "web"}, [17, 18, 19]),
        ({"network": "default", "protocol": "icmpv6"}, [19]),
        ({"id": "18.3"}, [18]),
        ({"id": "18.4"}, []),
        ({"direction": "in"}, [18]),
        ({"state": "ESTABLISHED"}, [17, 18]),
        ({"outside": "192.0.2.0/24"}, [17]),
        ({"outside": "::/0"}, [19]),
        ({"inside": "172.17.0.2"}, [17, 18]),
        ({"src": "172.17.0.2"}, [17]),
        ({"dst": "172.17.0.2"}, [18]),
        ({"dport": 443}, [17]),
        ({"dport": 80}, [18]),
        ({"sport": 50000}, [18]),
        ({"sport": 40000, "dport": 80}, []),
    ],
)
@simulated
async def test_a_filter_means_what_fits_all_of_it(tmp_path, words, numbers):
    async with Box(tmp_path) as box:
        await with_flows(box)
        found = await box.switch.flows(FlowFilter(**words))
        assert [int(flow.id.partition(".")[0]) for flow in found] == numbers
        killed = await box.switch.kill_flows(FlowFilter(**words))
        assert killed.flows == len(numbers)
        assert {row.number for row in box.datapath.flow_rows} == {17, 18, 19, 20} - set(numbers)


@simulated
async def test_stats_say_how_full_the_flow_table_is(tmp_path):
    async with Box(tmp_path) as box:
        await with_flows(box)
        tables = box.switch.stats().tables
        assert (tables["flows"].size, tables["flows"].capacity) == (4, 65536)
        assert tables["flow_sockets"].capacity == 65536


@simulated
async def test_a_filter_that_means_nothing_is_refused(tmp_path):
    async with Box(tmp_path) as box:
        for words, line in (
            ({"outside": "example.org"}, "is no address and no subnet"),
            ({"container": "nope"}, "no such container"),
            ({"state": "open"}, "is no state of a flow: connecting, syn_received, "),
        ):
            with pytest.raises(Refused, match=line):
                await box.switch.flows(FlowFilter(**words))


@simulated
async def test_flow_events_are_only_for_those_who_ask(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        plain = box.switch.events.subscribe()
        assert not box.datapath.flows_watched
        one, two = box.switch.events.subscribe(flows=True), box.switch.events.subscribe(flows=True)
        await quiet(box)
        assert box.datapath.flows_watched
        for kind in ("flow_opened", "flow_closed"):
            box.datapath.on_event(type("Event", (), {"kind": kind, "flow": OUT}))
        box.datapath.on_event(type("Event", (), {"kind": "flow_closed", "flow": GONE}))
        await box.switch.create_network(NetworkSpec(name="blue"))
        opened, closed, created = [await anext(one) for _ in range(3)]
        assert (opened.type, opened.action, opened.id, opened.name) == ("flow", "opened", "17.3", "web")
        assert opened.attributes["outside"] == "192.0.2.1" and "out_bytes" not in opened.attributes
        assert (closed.action, closed.attributes["in_bytes"]) == ("closed", 2000)
        assert created.type == "network" and (await anext(plain)).type == "network"
        one.close()
        one.close()
        await quiet(box)
        assert box.datapath.flows_watched, "there is another who asked"
        two.close()
        await quiet(box)
        assert not box.datapath.flows_watched


@simulated
async def test_a_network_that_becomes_internal_ends_the_flows_it_has_and_no_others(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue"))
        box.datapath.flow_rows = [OUT, OUT._replace(network=1, number=21), IN._replace(network=1, number=22)]
        await box.switch.update_network("blue", NetworkUpdate(labels={"a": "b"}))
        assert len(box.datapath.flow_rows) == 3
        await box.switch.update_network("blue", NetworkUpdate(internal=True))
        assert box.datapath.flow_rows == [OUT] and 1 not in box.datapath.ways_out
