# SPDX-License-Identifier: Apache-2.0
"""Networks from coming to going, and what they refuse, in a switch that is wholly in memory."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network, IPv6Network

import pytest
from switchbox import Box, quiet, simulated

from vswitch.config import parse
from vswitch.datapath.plane import Punt
from vswitch.model import AttachmentSpec, NetworkSpec, Refused, SubnetSpec


@simulated
async def test_a_default_network_exists_at_first_start(tmp_path):
    async with Box(tmp_path) as box:
        (view,) = box.switch.networks()
        assert (view.name, view.driver, view.mtu, view.ipv6) == ("default", "bridge", 1500, False)
        assert [(s.subnet, s.gateway) for s in view.subnets] == [("172.17.0.0/16", "172.17.0.1")]
        assert view.created == "2023-11-14T22:13:20.000000Z"


@simulated
async def test_automatic_subnets_avoid_other_networks_and_host_routes(tmp_path):
    box = Box(tmp_path)
    box.host.subnets = [IPv4Network("172.17.4.0/24"), IPv4Network("172.18.0.0/15"), IPv6Network("fd00::/8")]
    async with box:
        assert box.switch.network("default").subnets[0].subnet == "172.20.0.0/16"
        assert (await box.switch.create_network(NetworkSpec(name="blue"))).subnets[
            0
        ].subnet == "172.21.0.0/16"


@simulated
async def test_a_named_subnet_may_overlap_a_host_route_but_no_other_network(tmp_path):
    box = Box(tmp_path)
    box.host.subnets = [IPv4Network("10.0.0.0/8")]
    async with box:
        await box.switch.create_network(NetworkSpec(name="blue", subnets=[SubnetSpec(subnet="10.1.0.0/16")]))
        with pytest.raises(Refused, match=r"overlaps 10.1.0.0/16 of network blue") as refusal:
            await box.switch.create_network(
                NetworkSpec(name="red", subnets=[SubnetSpec(subnet="10.1.2.0/24")])
            )
        assert refusal.value.status == 409


@simulated
async def test_an_ipv6_network_without_a_subnet_gets_a_random_local_one(tmp_path):
    async with Box(tmp_path) as box:
        one = await box.switch.create_network(NetworkSpec(name="one", ipv6=True))
        two = await box.switch.create_network(NetworkSpec(name="two", ipv6=True))
        subnets = [IPv6Network(view.subnets[1].subnet) for view in (one, two)]
        assert all(subnet.prefixlen == 64 and subnet.subnet_of(IPv6Network("fd00::/8")) for subnet in subnets)
        assert subnets[0] != subnets[1]
        assert two.subnets[1].gateway == str(subnets[1][1])


@simulated
async def test_ipv6_subnets_come_from_pools_where_there_are_some(tmp_path):
    async with Box(tmp_path, '[pools]\nipv6 = [{base = "2001:db8::/63", size = 64}]\n') as box:
        made = [await box.switch.create_network(NetworkSpec(name=name, ipv6=True)) for name in "ab"]
        assert [view.subnets[1].subnet for view in made] == ["2001:db8::/64", "2001:db8:0:1::/64"]
        with pytest.raises(Refused, match="no subnet of the address pools is free") as refusal:
            await box.switch.create_network(NetworkSpec(name="c", ipv6=True))
        assert refusal.value.status == 507


@simulated
async def test_several_subnets_are_filled_one_after_the_other(tmp_path):
    async with Box(tmp_path) as box:
        subnets = [SubnetSpec(subnet="10.1.0.0/30"), SubnetSpec(subnet="10.2.0.0/30")]
        await box.switch.create_network(NetworkSpec(name="blue", subnets=subnets))
        views = [(await box.attach(name, AttachmentSpec(network="blue"))).container for name in "ab"]
        assert [view.networks[0].ipv4 for view in views] == ["10.1.0.2/30", "10.2.0.2/30"]
        assert [view.networks[0].gateway for view in views] == ["10.1.0.1", "10.2.0.1"]
        with pytest.raises(Refused, match="no address is free in") as refusal:
            await box.attach("c", AttachmentSpec(network="blue"))
        assert refusal.value.status == 507


@pytest.mark.parametrize(
    ("spec", "status", "words"),
    [
        (NetworkSpec(name="default"), 409, "exists already"),
        (NetworkSpec(name="host"), 400, "meaning of its own"),
        (NetworkSpec(name="a b"), 400, "invalid"),
        (NetworkSpec(name="0" * 63 + "f"), 400, "invalid"),
        (NetworkSpec(name="x", mtu=67), 400, "MTU 67"),
        (NetworkSpec(name="x", mtu=65521), 400, "MTU 65521"),
        (NetworkSpec(name="x", mtu=1279, ipv6=True), 400, "1280"),
        (NetworkSpec(name="x", options={"icc": "perhaps"}), 400, "icc must be true or false"),
        (NetworkSpec(name="x", options={"stp": "true"}), 400, "unknown"),
        (NetworkSpec(name="x", options={"mtu": "big"}), 400, "must be a number"),
        (
            NetworkSpec(name="x", subnets=[SubnetSpec(subnet="10.0.0.1/24")]),
            400,
            "write the subnet, 10.0.0.0/24",
        ),
        (NetworkSpec(name="x", subnets=[SubnetSpec(subnet="ten")]), 400, "no subnet"),
        (NetworkSpec(name="x", subnets=[SubnetSpec(subnet="10.0.0.0")]), 400, "no subnet|within"),
        (NetworkSpec(name="x", subnets=[SubnetSpec(subnet="10.0.0.0/31")]), 400, "no room"),
        (NetworkSpec(name="x", subnets=[SubnetSpec(subnet="127.0.0.0/16")]), 400, "no network can use"),
        (NetworkSpec(name="x", subnets=[SubnetSpec(subnet="0.0.0.0/0")]), 400, "no network can use"),
        (NetworkSpec(name="x", subnets=[SubnetSpec(subnet="fd00::/64")]), 400, "--ipv6"),
        (
            NetworkSpec(name="x", ipv6=True, subnets=[SubnetSpec(subnet="fe80::/64")]),
            400,
            "no network can use",
        ),
        (NetworkSpec(name="x", subnets=[SubnetSpec(subnet="10.0.0.0/24")] * 2), 400, "given too"),
        (NetworkSpec(name="x", subnets=[SubnetSpec(subnet="172.17.3.0/24")]), 409, "of network default"),
        (
            NetworkSpec(name="x", subnets=[SubnetSpec(subnet="10.0.0.0/24", gateway="10.0.1.1")]),
            400,
            "outside",
        ),
        (
            NetworkSpec(name="x", subnets=[SubnetSpec(subnet="10.0.0.0/24", gateway="10.0.0.255")]),
            400,
            "broadcast",
        ),
        (
            NetworkSpec(name="x", subnets=[SubnetSpec(subnet="10.0.0.0/24", gateway="fd00::1")]),
            400,
            "outside",
        ),
        (
            NetworkSpec(name="x", subnets=[SubnetSpec(subnet="10.0.0.0/24", ip_range="10.0.1.0/25")]),
            400,
            "outside",
        ),
        (
            NetworkSpec(
                name="x", subnets=[SubnetSpec(subnet="10.0.0.0/24", aux_addresses={"a": "10.0.0.1"})]
            ),
            400,
            "gateway too",
        ),
        (
            NetworkSpec(name="x", subnets=[SubnetSpec(subnet=f"10.{n}.0.0/24") for n in range(65)]),
            400,
            "too many",
        ),
    ],
)
@simulated
async def test_a_network_that_cannot_be_is_refused_in_one_line_and_leaves_nothing(
    tmp_path, spec, status, words
):
    async with Box(tmp_path) as box:
        before, stored = box.snapshot(), await box.stored()
        with pytest.raises(Refused, match=words) as refusal:
            await box.switch.create_network(spec)
        assert refusal.value.status == status and "\n" not in str(refusal.value)
        assert box.snapshot() == before and await box.stored() == stored


@simulated
async def test_the_gateway_aux_and_range_that_are_asked_for_are_kept(tmp_path):
    async with Box(tmp_path) as box:
        subnet = SubnetSpec(
            subnet="10.9.0.0/24",
            gateway="10.9.0.254",
            ip_range="10.9.0.16/29",
            aux_addresses={"printer": "10.9.0.16"},
        )
        await box.switch.create_network(NetworkSpec(name="blue", subnets=[subnet], options={"mtu": "9000"}))
        views = [(await box.attach(name, AttachmentSpec(network="blue"))).container for name in "abcdefg"]
        assert [view.networks[0].ipv4 for view in views] == [f"10.9.0.{n}/24" for n in range(17, 24)]
        assert views[0].networks[0].gateway == "10.9.0.254" and box.interfaces("a")["eth0"].mtu == 9000
        with pytest.raises(Refused, match=r"no address is free in 10\.9\.0\.16/29 of 10\.9\.0\.0/24"):
            await box.attach("h", AttachmentSpec(network="blue"))
        await box.attach("h", AttachmentSpec(network="blue", ip="10.9.0.99"))
        with pytest.raises(Refused, match="in use by aux address printer"):
            await box.attach("i", AttachmentSpec(network="blue", ip="10.9.0.16"))


@simulated
async def test_a_network_in_use_is_not_removed_and_an_unused_one_leaves_nothing(tmp_path):
    async with Box(tmp_path) as box:
        before, stored = box.snapshot(), await box.stored()
        await box.switch.create_network(NetworkSpec(name="blue"))
        await box.attach("web", AttachmentSpec(network="blue"))
        with pytest.raises(Refused, match="in use by web: remove") as refusal:
            await box.switch.remove_network("blue")
        assert refusal.value.status == 409
        await box.switch.detach("web")
        await box.switch.remove_network("blue")
        assert box.snapshot() | {"interfaces": {}} == before | {"interfaces": {}}
        assert await box.stored() == stored
        with pytest.raises(Refused, match="no such network") as refusal:
            await box.switch.remove_network("blue")
        assert refusal.value.status == 404
        with pytest.raises(Refused, match="here Docker's bridge network is called default"):
            await box.attach("web", AttachmentSpec(network="bridge"))


@simulated
async def test_removing_the_default_network_is_refused_with_the_file_to_change(tmp_path):
    async with Box(tmp_path) as box:
        with pytest.raises(Refused, match=r"enabled = false under \[default_network\] in vswitch.toml and restart"):
            await box.switch.remove_network("default")
    (tmp_path / "without").mkdir()
    async with Box(tmp_path / "without", "[default_network]\nenabled = false") as box:
        with pytest.raises(Refused, match=r"put enabled = true under \[default_network\]"):
            await box.switch.create_network(NetworkSpec(name="default"))


@simulated
async def test_prune_removes_what_nobody_uses(tmp_path):
    async with Box(tmp_path) as box:
        for name in ("a", "b", "c"):
            await box.switch.create_network(NetworkSpec(name=name))
        await box.attach("web", AttachmentSpec(network="b"))
        assert (await box.switch.prune_networks()).networks == ["a", "c"]
        assert [view.name for view in box.switch.networks()] == ["b", "default"]


@simulated
async def test_networks_made_at_the_same_moment_get_different_subnets(tmp_path):
    async with Box(tmp_path) as box:
        made = await asyncio.gather(
            *(box.switch.create_network(NetworkSpec(name=f"n{n}")) for n in range(20))
        )
        assert len({view.subnets[0].subnet for view in made}) == 20
        twice = await asyncio.gather(
            *(box.switch.create_network(NetworkSpec(name="same")) for _ in range(3)), return_exceptions=True
        )
        assert sum(isinstance(answer, Refused) for answer in twice) == 2


@simulated
async def test_nobody_joins_a_network_that_is_just_going(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue"))
        removal = asyncio.ensure_future(box.switch.remove_network("blue"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="no such network"):
            await box.attach("web", AttachmentSpec(network="blue"))
        await removal


@simulated
async def test_a_network_shows_its_containers_and_a_stopped_one_too(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", AttachmentSpec(aliases=["www"]))
        (member,) = box.switch.network("default").containers
        assert (member.name, member.interface, member.ipv4, member.ipv6) == (
            "web",
            "eth0",
            "172.17.0.2/16",
            None,
        )
        assert (member.mac, member.aliases) == ("02:42:ac:11:00:02", ["www"])


@simulated
async def test_without_a_free_subnet_there_is_no_default_network_but_a_switch(tmp_path):
    box = Box(tmp_path)
    box.host.subnets = [IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16")]
    async with box:
        assert box.switch.networks() == []
        with pytest.raises(Refused, match="no subnet of the address pools is free"):
            await box.switch.create_network(NetworkSpec(name="blue"))
        await box.switch.create_network(NetworkSpec(name="red", subnets=[SubnetSpec(subnet="172.17.0.0/16")]))


@simulated
async def test_a_bip_that_cannot_be_had_ends_the_start(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="red", subnets=[SubnetSpec(subnet="10.5.0.0/16")]))
        box.settings = parse(b'[default_network]\nbip = "10.5.0.1/24"\n')
        with pytest.raises(Refused, match=r"overlaps 10\.5\.0\.0/16 of network red"):
            await box.restart()


@simulated
async def test_live_settings_apply_at_once_and_the_others_are_reported(tmp_path):
    async with Box(tmp_path) as box:
        after = parse(b'[switch]\nmax_networks = 1\nlog_packets = "/x"\n[default_network]\nmtu = 1400\n')
        differences = {change.place: change.live for change in box.switch.reload(after)}
        assert differences == {
            "switch.log_packets": False,
            "switch.max_networks": True,
            "default_network.mtu": True,
        }
        await quiet(box)
        assert box.switch.network("default").mtu == 1400 and box.datapath.networks[0]["mtu"] == 1400
        with pytest.raises(Refused, match="1 networks, its limit"):
            await box.switch.create_network(NetworkSpec(name="blue"))


@simulated
async def test_tables_name_containers_and_can_be_filtered(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue"))
        await box.attach("a")
        await box.attach("b", AttachmentSpec(network="blue"))
        assert [(row.network, row.container, row.kind) for row in await box.switch.fdb()] == [
            ("blue", "b", "static"),
            ("default", "a", "static"),
        ]
        rows = [(row.network, row.address, row.container, row.kind) for row in await box.switch.neighbours()]
        assert rows == [
            ("blue", "172.18.0.1", None, "gateway"),
            ("blue", "172.18.0.2", "b", "endpoint"),
            ("default", "172.17.0.1", None, "gateway"),
            ("default", "172.17.0.2", "a", "endpoint"),
        ]
        assert [row.container for row in await box.switch.fdb(container="a")] == ["a"]
        assert [row.address for row in await box.switch.neighbours(network="blue")] == [
            "172.18.0.1",
            "172.18.0.2",
        ]
        assert [row.address for row in await box.switch.neighbours(container="a")] == ["172.17.0.2"]
        with pytest.raises(Refused, match="no such network"):
            await box.switch.fdb(network="red")
        with pytest.raises(Refused, match="no such container"):
            box.switch.stats(container="z")


@simulated
async def test_counters_are_shown_by_port_and_summed(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("a")
        await box.attach("b")
        (a, b) = sorted(box.datapath.ports)
        box.datapath.port_drops = {a: {"mac_spoof": 3}, b: {"mac_spoof": 1, "runt": 9}}
        stats = box.switch.stats()
        assert [port.container for port in stats.ports] == ["a", "b"] and stats.drops == {
            "mac_spoof": 4,
            "runt": 9,
        }
        assert stats.tables["ports"].size == 2 and stats.tables["fdb"].capacity == 65536
        assert stats.totals["rx_frames"] == 0 and stats.resident_memory > 0
        await box.clock.advance(5)
        assert box.switch.stats(container="a").uptime == 5 and box.switch.stats(container="a").drops == {
            "mac_spoof": 3
        }
        assert [(row.container, row.reason, row.count) for row in box.switch.drops()] == [
            ("b", "runt", 9),
            ("a", "mac_spoof", 3),
            ("b", "mac_spoof", 1),
        ]


@simulated
async def test_drops_of_a_container_that_has_left_stay_with_its_network(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("a")
        await box.attach("b")
        (a, b) = sorted(box.datapath.ports)
        box.datapath.port_drops = {a: {"mac_spoof": 3, "runt": 2}, b: {"runt": 1}}
        box.datapath.on_punt(Punt("dhcp", 0, a, b"short", 0))
        await box.switch.detach("a")
        shown = [(row.network, row.container, row.port, row.reason, row.count) for row in box.switch.drops()]
        assert shown == [
            ("default", None, None, "mac_spoof", 3),
            ("default", None, None, "runt", 2),
            ("default", None, None, "dhcp_malformed", 1),
            ("default", "b", b, "runt", 1),
        ]
        assert box.switch.drops()[0].explanation == "its source address is not this endpoint's own"
        assert [row.container for row in box.switch.drops(container="b")] == ["b"]
        assert box.switch.stats().drops == {"mac_spoof": 3, "runt": 3, "dhcp_malformed": 1}


@simulated
async def test_whoever_subscribes_is_told_what_happens(tmp_path):
    async with Box(tmp_path) as box:
        subscription = box.switch.events.subscribe()
        await box.switch.create_network(NetworkSpec(name="blue"))
        await box.attach("web")
        await box.switch.detach("web")
        await box.switch.remove_network("blue")
        told = [await anext(subscription) for _ in range(4)]
        assert [(event.type, event.action, event.name) for event in told] == [
            ("network", "create", "blue"),
            ("container", "attach", "web"),
            ("container", "remove", "web"),
            ("network", "remove", "blue"),
        ]
        subscription.close()
        assert [event async for event in subscription] == []
