# SPDX-License-Identifier: Apache-2.0
"""Router advertisements, DHCPv6 and DHCP by option through the switch: punted frames in, leases in the store,
answers into the port that asked."""

from __future__ import annotations

import asyncio
import random
import struct
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from types import SimpleNamespace

import frames
import pytest
from dhcp_client import ACK, DISCOVER, OFFER, REQUEST, question
from frames import ICMPV6, group_mac, packet, udp
from simulated_dhcp6 import Answer, ia, message, opt
from switchbox import Box, quiet, simulated, until

from vswitch.datapath.plane import Punt
from vswitch.dhcp6.engine import Outcome
from vswitch.model import AttachmentSpec, NetworkSpec, NetworkUpdate, Refused, SubnetSpec

GATEWAY_MAC = bytes.fromhex("0242ac120001")
SERVER = bytes.fromhex("00030001") + GATEWAY_MAC
SIX = SubnetSpec(subnet="fd42::/64")


async def blue(box: Box, **spec) -> str:
    """A dual-stack network with a container `web` on it; its link-local address."""
    await box.switch.create_network(NetworkSpec(**{"name": "blue", "ipv6": True, "subnets": [SIX], **spec}))
    await box.attach("web", AttachmentSpec(network="blue"))
    return "fe80::42:acff:fe12:2"


def ask(box: Box, kind: str, frame: bytes) -> None:
    index = next(iter(box.datapath.ports))
    box.datapath.on_punt(Punt(kind, box.datapath.ports[index].network, index, bytes(frame), 0))


def solicit_router(box: Box, src: str) -> None:
    mac = box.datapath.ports[next(iter(box.datapath.ports))].mac
    text = struct.pack(">BBHI", 133, 0, 0, 0) + (frames.option(1, mac) if src != "::" else b"")
    ask(box, "router", packet(group_mac("ff02::2"), mac, src, "ff02::2", ICMPV6, text, hop_limit=255))


def dhcpv6(box: Box, src: str, payload: bytes, **fields) -> None:
    mac = box.datapath.ports[next(iter(box.datapath.ports))].mac
    where = {"to": group_mac("ff02::1:2"), "dst": "ff02::1:2", **fields}
    ask(box, "dhcpv6", udp(where["to"], mac, src, where["dst"], payload, sport=546, dport=547))


def advertisements(box: Box) -> list[tuple[bytes, int | None]]:
    """(frame, port) of every router advertisement so far."""
    return [
        (f, port) for f, _, port, _ in box.datapath.injected if f[12:14] == b"\x86\xdd" and f[20] == 58 and f[54] == 134
    ]


def replies(box: Box) -> list[bytes]:
    """The frames of every DHCPv6 answer so far."""
    return [f for f, *_ in box.datapath.injected if f[12:14] == b"\x86\xdd" and f[20] == 17]


def said(frame: bytes) -> Answer:
    """What a DHCPv6 answer's frame says."""
    return Answer(Outcome(frame[62:]), SERVER)


@simulated
async def test_a_dual_stack_network_without_a_subnet_gets_unique_local_ones_that_do_not_overlap(tmp_path):
    async with Box(tmp_path) as box:
        subnets = []
        for name in ("a", "b", "c"):
            view = await box.switch.create_network(NetworkSpec(name=name, ipv6=True))
            (six,) = [IPv6Network(s.subnet) for s in view.subnets if ":" in s.subnet]
            assert six.subnet_of(IPv6Network("fd00::/8")) and six.prefixlen == 64
            subnets.append(six)
        assert len(set(subnets)) == 3
        plan = None
        await box.attach("web", AttachmentSpec(network="a"))
        plan = box.interfaces("web")["eth0"]
        assert plan.ipv6 == [f"{subnets[0][2]}/64"] and plan.gateway6 == str(subnets[0][1]) and not plan.accept_ra


@simulated
async def test_a_network_with_ipv6_is_advertised_at_once_and_whoever_asks_is_answered_alone(tmp_path):
    async with Box(tmp_path) as box:
        local = await blue(box)
        ((frame, port),) = await until(lambda: advertisements(box), "the first advertisement")
        assert port is None and frame[22:38] == frames.ip("fe80::42:acff:fe12:1") and frame[59] == 0xC0
        index = next(iter(box.datapath.ports))
        solicit_router(box, local)
        solicit_router(box, local)
        await box.clock.advance(0.6)
        (_, (answer, port)) = advertisements(box)
        assert port == index and answer[38:54] == frames.ip(local) and answer[:6] == box.datapath.ports[index].mac
        await box.clock.advance(3600)
        assert 8 <= len(advertisements(box)) <= 22
        assert all(port is None for _, port in advertisements(box)[2:])


@pytest.mark.parametrize(
    ("mode", "flags", "prefix_flags", "autonomous"),
    [("slaac", 0, 0xC0, True), ("dhcpv6-stateless", 0x40, 0xC0, True), ("dhcpv6-stateful", 0xC0, 0x80, False)],
)
def test_the_mode_of_a_network_says_how_hosts_get_addresses(tmp_path, mode, flags, prefix_flags, autonomous):
    @simulated
    async def body():
        async with Box(tmp_path) as box:
            await blue(box, options={"ipv6_ra_mode": mode})
            ((frame, _),) = await until(lambda: advertisements(box), "an advertisement")
            assert (frame[59], frame[54 + 16 + 8 + 8 + 3]) == (flags, prefix_flags)
            index = box.datapath.ports[next(iter(box.datapath.ports))].network
            assert box.datapath.networks[index]["router"] == (True, (frames.ip("fd42::")[:8],) if autonomous else ())
            assert box.interfaces("web")["eth0"].accept_ra is autonomous

    body()


@simulated
async def test_a_network_can_be_left_without_a_router_and_one_without_ipv6_has_none(tmp_path):
    async with Box(tmp_path) as box:
        local = await blue(box, options={"ipv6_ra_mode": "off"})
        await box.attach("plain")
        solicit_router(box, local)
        dhcpv6(box, local, message(1, ia()))
        await box.clock.advance(1000)
        assert advertisements(box) == [] == replies(box)
        assert all("router" not in network for network in box.datapath.networks.values())
        drops = {row.reason for row in box.switch.drops()}
        assert drops == {"rs_not_solicitation", "dhcpv6_no_subnet"}


@simulated
async def test_an_internal_network_is_advertised_as_no_way_out(tmp_path):
    async with Box(tmp_path) as box:
        await blue(box, internal=True)
        ((frame, _),) = await until(lambda: advertisements(box), "an advertisement")
        assert frame[60:62] == b"\0\0"


@simulated
async def test_dhcpv6_gives_the_address_that_the_endpoint_has_and_the_lease_outlives_a_restart(tmp_path):
    async with Box(tmp_path) as box:
        local = await blue(box, options={"dhcp_dns_server": "fd42::53,192.0.2.53", "dhcp_lease_time": "2h"})
        dhcpv6(box, local, message(1, ia(), opt(6, b"\0\x17")))
        (advertise,) = replies(box)
        assert said(advertise).associations[0][2] == {"fd42::2": (7200, 7200)}
        assert said(advertise).options[23] == frames.ip("fd42::53")
        assert advertise[38:54] == frames.ip(local) and advertise[54:58] == struct.pack(">HH", 547, 546)
        dhcpv6(box, local, message(3, ia("fd42::2"), server=SERVER))
        await until(lambda: len(replies(box)) == 2, "the reply")
        (lease,) = box.switch.leases()
        assert (lease.address, lease.container, lease.state, lease.client_id) == (
            "fd42::2", "web", "bound", "00:03:00:01:02:42:ac:11:00:02",
        )  # fmt: skip
        await box.restart()
        assert box.switch.leases() == [lease]
        await box.clock.advance(7201)
        await until(lambda: box.switch.leases() == [], "the lease's end")
        async with asyncio.timeout(10):
            while (await box.stored())["leases"]:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@simulated
async def test_a_dhcpv6_lease_is_stored_before_its_reply_leaves_and_nothing_is_answered_if_it_cannot_be(tmp_path):
    async with Box(tmp_path) as box:
        local = await blue(box)
        write = box.store.write

        async def failing(changes):
            raise Refused("the disk is full", 507)

        async def watched(changes):
            assert replies(box) == []
            await write(changes)

        box.store.write = failing
        dhcpv6(box, local, message(3, ia(), server=SERVER))
        await quiet(box)
        assert replies(box) == []
        box.store.write = watched
        dhcpv6(box, local, message(3, ia(), server=SERVER))
        await until(lambda: len(replies(box)) == 1, "the reply")
        assert (await box.stored())["leases"].keys() == {f"{box.switch.network('blue').id}/fd42::2"}
        box.store.write = write
        await box.switch.detach("web")
        assert box.switch.leases() == [] and (await box.stored())["leases"] == {}


@simulated
async def test_a_message_to_the_gateways_own_address_is_told_to_use_the_group(tmp_path):
    async with Box(tmp_path) as box:
        local = await blue(box)
        dhcpv6(box, local, message(5, ia("fd42::2"), server=SERVER), to=GATEWAY_MAC, dst="fd42::1")
        assert said(replies(box)[0]).status == 5


@simulated
async def test_any_bytes_at_all_are_survived(tmp_path):
    async with Box(tmp_path) as box:
        local = await blue(box)
        mac = box.datapath.ports[next(iter(box.datapath.ports))].mac
        chance = random.Random(1)
        text = struct.pack(">BBHI", 133, 0, 0, 0)
        whole = {
            "router": packet(group_mac("ff02::2"), mac, local, "ff02::2", ICMPV6, text, hop_limit=255),
            "dhcpv6": udp(group_mac("ff02::1:2"), mac, local, "ff02::1:2", message(1, ia()), sport=546, dport=547),
        }
        for number in range(1500):
            kind = "router" if number % 2 else "dhcpv6"
            frame = bytearray(whole[kind][: chance.randrange(len(whole[kind])) if chance.random() < 0.3 else None])
            for _ in range(chance.randrange(4)):
                if frame:
                    frame[chance.randrange(len(frame))] = chance.randrange(256)
            ask(box, kind, bytes(frame))
        await quiet(box)


# ---- DHCPv4 by option


def leased(box: Box, mac: bytes, wanted: bytes | None = None):
    """The answers to DISCOVER, and with `wanted` to REQUEST, as dpkt reads them."""
    import dpkt

    before = len(box.datapath.injected)
    ids = {} if wanted is None else {"wanted": wanted, "server": bytes([172, 18, 0, 1])}
    ask(box, "dhcp", question(DISCOVER if wanted is None else REQUEST, mac, **ids))

    async def heard():
        await until(lambda: len(box.datapath.injected) > before, "an answer")
        found = dpkt.dhcp.DHCP(dpkt.ethernet.Ethernet(box.datapath.injected[-1][0]).data.data.data)
        return dict(found.opts), found.yiaddr.to_bytes(4, "big")

    return heard()


@simulated
async def test_a_networks_options_are_what_its_dhcp_clients_are_told(tmp_path):
    async with Box(tmp_path) as box:
        options = {
            "dhcp_lease_time": "30m",
            "dhcp_dns_server": "192.0.2.53,192.0.2.54",
            "dhcp_ntp_server": "192.0.2.123",
            "dhcp_domain_name": "lab.internal",
            "dhcp_domain_search": "lab.internal,internal",
            "dhcp_static_route": "10.9.0.0/16=172.18.0.7",
        }
        await box.switch.create_network(NetworkSpec(name="blue", options=options))
        await box.attach("web", AttachmentSpec(network="blue"), hostname="web.lab")
        mac = box.datapath.ports[next(iter(box.datapath.ports))].mac
        frame = bytearray(question(DISCOVER, mac))
        at = frame.index(bytes([55, 4, 1, 3, 6, 26]))
        wishes = bytes([55, 9, 3, 6, 12, 15, 26, 42, 119, 121, 58])
        body = bytes(frame[42:at]) + wishes + bytes(frame[at + 6 :])
        ask(box, "dhcp", udp(b"\xff" * 6, mac, "0.0.0.0", "255.255.255.255", body, sport=68, dport=67))
        import dpkt

        found = dict(dpkt.dhcp.DHCP(dpkt.ethernet.Ethernet(box.datapath.injected[-1][0]).data.data.data).opts)
        assert (
            found[53] == bytes([OFFER]) and found[1] == bytes([255, 255, 0, 0]) and found[3] == bytes([172, 18, 0, 1])
        )
        assert found[6] == bytes([192, 0, 2, 53, 192, 0, 2, 54]) and found[42] == bytes([192, 0, 2, 123])
        assert (found[12], found[15], found[26]) == (b"web.lab", b"lab.internal", (1500).to_bytes(2, "big"))
        assert found[119] == b"\3lab\x08internal\0\xc0\4"
        assert found[121] == bytes([16, 10, 9, 172, 18, 0, 7, 0, 172, 18, 0, 1])
        times = [int.from_bytes(found[code], "big") for code in (51, 58, 59)]
        assert times == [1800, 900, 1575] and found[54] == bytes([172, 18, 0, 1])


@simulated
async def test_stations_behind_an_open_endpoint_get_reservations_or_what_is_free(tmp_path):
    async with Box(tmp_path) as box:
        guest, stranger = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
        options = {"dhcp_host": "02:00:00:00:00:01=172.18.0.99"}
        await box.switch.create_network(NetworkSpec(name="blue", options=options))
        await box.attach("vm", AttachmentSpec(network="blue", source_guard=False))
        for mac, address in ((guest, [172, 18, 0, 99]), (stranger, [172, 18, 0, 3])):
            found, yiaddr = await leased(box, mac)
            assert (found[53], yiaddr) == (bytes([OFFER]), bytes(address))
            found, yiaddr = await leased(box, mac, bytes(address))
            assert (found[53], yiaddr) == (bytes([ACK]), bytes(address))
        assert {(lease.address, lease.container) for lease in box.switch.leases()} == {
            ("172.18.0.99", "vm"), ("172.18.0.3", "vm"),
        }  # fmt: skip
        with pytest.raises(Refused, match="in use by the DHCP reservation of 02:00:00:00:00:01"):
            await box.attach("web", AttachmentSpec(network="blue", ip="172.18.0.99"))
        await box.restart()
        assert len(box.switch.leases()) == 2
        await box.switch.detach("vm")
        assert (await box.stored())["leases"] == {}


@simulated
async def test_behind_a_guarded_endpoint_only_its_own_station_is_served(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        ask(box, "dhcp", question(DISCOVER, bytes.fromhex("020000000001")))
        await quiet(box)
        assert [row.reason for row in box.switch.drops()] == ["dhcp_chaddr"]


@simulated
async def test_dhcp_can_be_left_out(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue", options={"dhcp": "false"}))
        await box.attach("web", AttachmentSpec(network="blue"))
        port = box.datapath.ports[next(iter(box.datapath.ports))]
        assert box.datapath.networks[port.network]["dhcp"] is False


REFUSED = {
    "ipv6_ra_mode": ("stateful", "must be dhcpv6-stateful, dhcpv6-stateless, slaac or off"),
    "dhcp": ("maybe", "must be true or false"),
    "dhcp_lease_time": ("59", "at least 60s"),
    "dhcp_dns_server": ("127.0.0.1", "'127.0.0.1' is no address of a server"),
    "dhcp_ntp_server": ("pool.ntp.org", "is no address of a server"),
    "dhcp_domain_name": ("a..b", "labels have 1 to 63 bytes"),
    "dhcp_domain_search": (",".join("x" * 60 + str(n) for n in range(6)), "too long together"),
    "dhcp_static_route": ("10.0.0.0/8=192.0.2.1", "192.0.2.1 (to 10.0.0.0/8) is in no subnet of the network"),
    "dhcp_host": ("02:00:00:00:00:01=10.0.0.9", "10.0.0.9 (for 02:00:00:00:00:01) is in no subnet of the network"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_cannot_be_so_is_refused_in_one_line(tmp_path, option):
    value, line = REFUSED[option]

    @simulated
    async def body():
        async with Box(tmp_path) as box:
            before = box.snapshot()
            with pytest.raises(Refused) as refusal:
                await box.switch.create_network(NetworkSpec(name="blue", ipv6=True, options={option: value}))
            assert line in str(refusal.value) and "\n" not in str(refusal.value) and option in str(refusal.value)
            assert box.snapshot() == before

    body()


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"options": {"ipv6_ra_mode": "slaac"}}, "is about IPv6: ask for --ipv6 too"),
        (
            {"options": {"ipv6_ra_mode": "slaac"}, "ipv6": True, "subnets": [SubnetSpec(subnet="fd42::/80")]},
            "needs a /64",
        ),
        ({"options": {"dhcp_host": "02:00:00:00:00:01=172.18.0.1"}}, "is the gateway's"),
        ({"options": {"dhcp_host": "02:00:00:00:00:01=172.18.255.255"}}, "broadcast"),
        ({"options": {"dhcp_host": "02:00:00:00:00:01=172.18.0.2,02:00:00:00:00:01=172.18.0.3"}}, "is there already"),
        ({"options": {"dhcp_static_route": "fd00::/8=fd00::1"}}, "IPv4 routes only"),
        ({"options": {"dhcp_dns_server": ",".join(["192.0.2.1"] * 9)}}, "takes 1 to 8 values"),
        ({"options": {"dhcp_lease_time": "1y"}}, "45m, 12h or infinite"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(tmp_path, spec, line):
    @simulated
    async def body():
        async with Box(tmp_path) as box:
            with pytest.raises(Refused) as refusal:
                await box.switch.create_network(NetworkSpec(name="blue", **spec))
            assert line in str(refusal.value)

    body()


def test_addresses_of_resolvers_that_no_container_reaches_are_not_told():
    from vswitch.control.difference import Resolving
    from vswitch.control.hostconfig import HostConfig, usable_resolvers

    listed = ["127.0.0.53", "192.0.2.53", "::1", "fe80::1", "fe80::1%eth0", "2001:db8::53"]
    network = SimpleNamespace(hosts=HostConfig(), shape=SimpleNamespace(resolving=Resolving(names=False)))
    assert [str(a) for a in usable_resolvers(4, network, listed)] == ["192.0.2.53"]
    assert usable_resolvers(6, network, listed) == (IPv6Address("2001:db8::53"),)
    network.shape.resolving = Resolving(names=False, servers=("192.0.2.7",))
    assert [str(a) for a in usable_resolvers(4, network, listed)] == ["192.0.2.7"]


def test_where_names_resolve_hosts_are_told_of_the_gateway():
    from vswitch.control.difference import Resolving
    from vswitch.control.hostconfig import HostConfig, usable_resolvers

    gateways = {4: [IPv4Address("172.17.0.1")], 6: [IPv6Address("fd00::1")]}
    shape = SimpleNamespace(resolving=Resolving(servers=("192.0.2.7",)))
    network = SimpleNamespace(hosts=HostConfig(), shape=shape, gateways=gateways.__getitem__)
    assert usable_resolvers(4, network, ["192.0.2.53"]) == (IPv4Address("172.17.0.1"),)
    assert usable_resolvers(6, network, []) == (IPv6Address("fd00::1"),)


# ---- a network that changes


@simulated
async def test_what_hosts_are_told_follows_a_change_of_the_network(tmp_path):
    async with Box(tmp_path) as box:
        local = await blue(box)
        await until(lambda: advertisements(box), "an advertisement")
        index = box.datapath.ports[next(iter(box.datapath.ports))].network
        changes = {"ipv6_ra_mode": "slaac", "dhcp_dns_server": "fd42::53", "dhcp_host": "02:00:00:00:00:01=172.18.0.99"}
        await box.switch.update_network("blue", NetworkUpdate(options=changes))
        assert box.datapath.networks[index]["router"] == (True, (frames.ip("fd42::")[:8],))
        assert box.interfaces("web")["eth0"].accept_ra
        heard = await until(lambda: advertisements(box)[1:], "another advertisement")
        assert heard[0][0][59] == 0 and frames.ip("fd42::53") in heard[0][0]
        dhcpv6(box, local, message(11, opt(6, b"\0\x17")))
        assert said(replies(box)[0]).options[23] == frames.ip("fd42::53")
        with pytest.raises(Refused, match="in use by the DHCP reservation"):
            await box.attach("db", AttachmentSpec(network="blue", ip="172.18.0.99"))
        await box.switch.update_network("blue", NetworkUpdate(options={"ipv6_ra_mode": "off", "dhcp_host": None}))
        assert box.datapath.networks[index]["router"] == (False, ())
        await box.attach("db", AttachmentSpec(network="blue", ip="172.18.0.99"))
        before = len(advertisements(box))
        await box.clock.advance(2000)
        assert len(advertisements(box)) == before


@simulated
async def test_a_change_that_cannot_be_leaves_reservations_as_they_were(tmp_path):
    async with Box(tmp_path) as box:
        await blue(box, options={"dhcp_host": "02:00:00:00:00:01=172.18.0.99"})
        before = box.snapshot()
        for options, line in (
            ({"dhcp_host": "02:00:00:00:00:02=172.18.0.50,02:00:00:00:00:01=172.18.0.2"}, "in use by web"),
            ({"dhcp": "false"}, "can't be changed"),
            ({"ipv6_ra_mode": "x"}, "must be"),
        ):
            with pytest.raises(Refused, match=line):
                await box.switch.update_network("blue", NetworkUpdate(options=options))
            assert box.snapshot() == before


@simulated
async def test_a_network_that_gets_ipv6_is_advertised_from_then_on(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue"))
        await box.attach("web", AttachmentSpec(network="blue"))
        assert advertisements(box) == []
        await box.switch.update_network("blue", NetworkUpdate(ipv6=True, subnets=[SIX]))
        ((frame, _),) = await until(lambda: advertisements(box), "an advertisement")
        assert frames.ip("fd42::") in frame
        await box.attach("db", AttachmentSpec(network="blue"))
        index = max(box.datapath.ports)
        assert box.datapath.networks[box.datapath.ports[index].network]["router"] == (True, ())
