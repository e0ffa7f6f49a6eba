# SPDX-License-Identifier: Apache-2.0
"""A network's way out and the host's addresses, in a switch that is wholly in memory."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from switchbox import Box, quiet, simulated

from vswitch.control.wayout import READERS, WayOut, way_out
from vswitch.model import AttachmentSpec, NetworkSpec, Refused, SubnetSpec

PLAIN = {
    "open": True,
    "host_loopback": False,
    "endpoint_filtering": False,
    "source4": None,
    "source6": None,
    "device": None,
}
HOST_NAMES = "".join(f"172.18.0.1\thost.{whose}.internal\n" for whose in ("vswitch", "docker", "containers"))


def packed(address: str) -> bytes:
    return ip_address(address).packed


@simulated
async def test_a_network_has_a_way_out_unless_it_is_internal(tmp_path):
    async with Box(tmp_path) as box:
        assert box.datapath.ways_out == {0: PLAIN}
        await box.switch.create_network(NetworkSpec(name="blue", internal=True))
        assert box.datapath.ways_out == {0: PLAIN}


@simulated
async def test_what_docker_says_of_its_bridge_is_taken_and_means_nothing_here(tmp_path):
    async with Box(tmp_path) as box:
        habits = {f"com.docker.network.{name}": "br0" for name in ("bridge.name", "container_iface_prefix")}
        icc = {"com.docker.network.bridge.enable_icc": "false"}
        view = await box.switch.create_network(NetworkSpec(name="blue", internal=True, options={**habits, **icc}))
        assert view.options == {**habits, **icc} and box.datapath.networks[1]["isolated"]
        with pytest.raises(Refused, match="icc is given twice"):
            await box.switch.create_network(NetworkSpec(name="red", options={**icc, "icc": "true"}))
        await box.restart()
        names = box.switch._parts.inventory.networks_by_index()
        assert [names[i].name for i, there in box.datapath.networks.items() if there["isolated"]] == ["blue"]


@simulated
async def test_options_reach_the_dataplane_and_survive_a_restart(tmp_path):
    async with Box(tmp_path) as box:
        options = {
            "host_loopback": "true",
            "udp_filtering": "endpoint-independent",
            "com.docker.network.host_ipv4": "192.0.2.7",
            "host_ipv6": "2001:db8::7",
            "host_interface": "eth0",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.driver.mtu": "1400",
        }
        view = await box.switch.create_network(NetworkSpec(name="blue", options=options))
        assert view.options == options and view.mtu == 1400
        expected = {
            "open": True,
            "host_loopback": True,
            "endpoint_filtering": True,
            "source4": packed("192.0.2.7"),
            "source6": packed("2001:db8::7"),
            "device": "eth0",
        }
        assert box.datapath.ways_out[1] == expected
        box.addresses.become("127.0.0.1")
        await box.restart()
        index = box.switch._parts.inventory.network("blue").index
        assert box.datapath.ways_out[index] == expected, "an address may come later than we do"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stp": "false"}, "'stp' is unknown; there are dhcp, dhcp_dns_server,"),
        ({"ip_masq": "false"}, "ip_masq=false cannot be had"),
        ({"ip_masq": "no"}, "ip_masq must be true or false, not 'no'"),
        ({"host_ipv4": "::1"}, "must be an IPv4 address"),
        ({"host_ipv4": "127.0.0.1"}, "nothing outside answers to 127.0.0.1"),
        ({"host_ipv4": "192.0.2.8"}, "the host has no address 192.0.2.8"),
        ({"host_ipv6": "fe80::1%eth0"}, "must be an IPv6 address"),
        ({"host_interface": "eth9"}, "the host has no interface eth9: there are lo, eth0"),
        ({"host_interface": "a/b"}, "must be an interface of the host"),
        ({"host_binding_ipv4": "203.0.113.1"}, "the host has no address 203.0.113.1"),
        ({"udp_filtering": "none"}, "must be address-dependent or endpoint-independent"),
        ({"host_loopback": "maybe"}, "must be true or false"),
        ({"mtu": "1400", "com.docker.network.driver.mtu": "1400"}, "mtu is given twice"),
    ],
)
@simulated
async def test_an_option_that_cannot_be_is_refused_and_nothing_is_left(tmp_path, options, words):
    async with Box(tmp_path) as box:
        before = box.snapshot()
        with pytest.raises(Refused) as refusal:
            await box.switch.create_network(NetworkSpec(name="blue", options=options))
        assert words in str(refusal.value) and box.snapshot() == before


@simulated
async def test_an_internal_network_takes_no_option_about_the_way_out(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="a", internal=True, options={"mtu": "1400"}))
        with pytest.raises(Refused, match="host_loopback is about the way out, and --internal has none"):
            await box.switch.create_network(
                NetworkSpec(name="b", internal=True, options={"host_loopback": "true"})
            )


@given(st.dictionaries(st.sampled_from([*READERS, "mtu", "com.docker.network.host_ipv4"]) | st.text(), st.text()))
def test_any_options_are_a_way_out_or_a_refusal(options):
    try:
        assert isinstance(way_out(options, internal=False), WayOut)
    except Refused as refusal:
        assert "\n" not in str(refusal)


@simulated
async def test_the_dataplane_knows_every_networks_subnets(tmp_path):
    async with Box(tmp_path) as box:

        def known() -> list[tuple]:
            return [(index, str(ip_network((address, bits)))) for index, address, bits in box.datapath.own_subnets]

        assert known() == [(0, "172.17.0.0/16")]
        blue = NetworkSpec(
            name="blue", ipv6=True, subnets=[SubnetSpec(subnet="10.1.0.0/24"), SubnetSpec(subnet="fd01::/64")]
        )
        await box.switch.create_network(blue)
        both = [(0, "172.17.0.0/16"), (1, "10.1.0.0/24"), (1, "fd01::/64")]
        assert known() == both
        await box.restart()
        assert sorted(subnet for _, subnet in known()) == sorted(subnet for _, subnet in both)
        await box.switch.remove_network("blue")
        assert [subnet for _, subnet in known()] == ["172.17.0.0/16"]


@simulated
async def test_the_hosts_addresses_are_followed(tmp_path):
    async with Box(tmp_path) as box:
        assert box.datapath.host_addresses == [packed(a) for a in ("127.0.0.1", "192.0.2.7", "2001:db8::7")]
        box.addresses.become("192.0.2.9")
        await quiet(box)
        assert box.datapath.host_addresses == [packed("192.0.2.9")]


@simulated
async def test_the_host_has_names_only_where_its_loopback_is_reachable(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="open", options={"host_loopback": "true"}))
        closed = (await box.attach("a")).files.hosts
        assert "host.vswitch.internal" not in closed
        opened = (await box.attach("b", AttachmentSpec(network="open"))).files.hosts
        assert HOST_NAMES in opened
        given = await box.attach(
            "c", AttachmentSpec(network="open"), extra_hosts=["host.docker.internal:192.0.2.1"]
        )
        assert "172.18.0.1\thost.docker.internal" not in given.files.hosts


@simulated
async def test_the_default_network_takes_its_options_from_the_settings(tmp_path):
    async with Box(tmp_path, '[default_network]\noptions = {host_loopback = "true"}\n') as box:
        assert box.datapath.ways_out[0]["host_loopback"] is True


@simulated
async def test_pings_without_the_right_to_are_logged_once(tmp_path, caplog):
    async with Box(tmp_path) as box:
        event = type("Event", (), {"kind": "no_ping", "network": 0, "port": 0, "errno": 0})
        for _ in range(3):
            box.datapath.on_event(event)
        lines = [record for record in caplog.records if "net.ipv4.ping_group_range" in record.getMessage()]
        assert len(lines) == 1
