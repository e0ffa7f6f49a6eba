# SPDX-License-Identifier: Apache-2.0
"""As whom a guarded port may send IP packets: its endpoint's addresses, those it makes itself by neighbour
discovery, and none at all where a host has none yet."""

from __future__ import annotations

import struct

import frames
import pytest
from frames import (
    ALL_NODES,
    BROADCAST,
    C_TAG,
    FRAGMENT,
    ICMPV6,
    UDP,
    advertisement,
    echo,
    ethernet,
    group_mac,
    ipv4,
    ipv6,
    mac,
    packet,
    solicitation,
    tagged,
    tcp,
    udp,
)
from hypothesis import given
from hypothesis import strategies as st
from memory_switch import GATEWAY, MemorySwitch

from vswitch._fastpath import limits

A4, B4, SECOND4, NOBODYS4 = "172.17.0.2", "172.17.0.3", "172.17.0.4", "172.17.0.99"
A6, B6, NOBODYS6, AUTO6 = "fd00::2", "fd00::3", "fd00::99", "fd00:0:0:1::abcd"
LOCAL_A, LOCAL_B, LOCAL_NEW = "fe80::a", "fe80::b", "fe80::1234:5678:9abc:def0"
CLAIMS = limits()["claims_per_port"]


class Yard:
    """Guarded `a` and `b` with their addresses, and `free`, who is not guarded."""

    def __init__(self, switch: MemorySwitch):
        self.switch = switch
        self.a, self.b = switch.host(assigned=True), switch.host(assigned=True)
        self.free = switch.host()
        switch.bind("172.17.0.1")
        switch.bind("fd00::1")
        for host, addresses in ((self.a, (A4, SECOND4, A6, LOCAL_A)), (self.b, (B4, B6, LOCAL_B))):
            for address in addresses:
                switch.bind(address, host)
        switch.plane.post_network_prefix(0, frames.ip(AUTO6)[:8])
        switch.step()

    def dies(self, frame: bytes, reason: str, sender=None) -> None:
        sender = sender or self.a
        before = sender.drops.get(reason, 0)
        assert self.switch.delivered(sender, frame) == {}
        assert sender.drops.get(reason, 0) == before + 1, sender.drops

    def passes(self, frame: bytes, sender=None) -> None:
        sender = sender or self.a
        before = dict(sender.drops)
        self.switch.delivered(sender, frame)
        assert sender.drops == before

    def owner(self, address: str) -> int | None:
        rows = {row[2]: row[1] for row in self.switch.table(fdb=False)}
        return rows.get(frames.ip(address))


@pytest.fixture
def yard(switch):
    return Yard(switch)


def probe(host, target: str) -> bytes:
    """Duplicate address detection (RFC 4862 section 5.4.2)."""
    return solicitation(host.mac, "::", target)


# ---- sources


@pytest.mark.parametrize(
    "src", [B4, NOBODYS4, "172.17.0.1", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255"]
)
def test_an_ipv4_packet_from_anybody_else_dies(yard, src):
    me, to = yard.a.mac, yard.b.mac
    for frame in (
        udp(to, me, src, B4),
        tcp(to, me, src, B4),
        echo(to, me, src, B4),
        ipv4(to, me, src, B4, 47, b"gre."),
    ):
        yard.dies(frame, "ip_spoof")
    yard.dies(udp(BROADCAST, me, src, "255.255.255.255"), "ip_spoof")
    yard.dies(tagged(udp(to, me, src, B4), (C_TAG, 0)), "ip_spoof")


@pytest.mark.parametrize(
    "src", [B6, NOBODYS6, "fd00::1", LOCAL_B, LOCAL_NEW, AUTO6, "::1", "::", "ff02::1", "2001:db8::1"]
)
def test_an_ipv6_packet_from_anybody_else_dies(yard, src):
    me, to = yard.a.mac, yard.b.mac
    for frame in (udp(to, me, src, B6), tcp(to, me, src, B6), echo(to, me, src, B6)):
        yard.dies(frame, "ip_spoof")
    yard.dies(tagged(udp(to, me, src, B6), (C_TAG, 0xE000)), "ip_spoof")
    yard.dies(ipv6(to, me, src, B6, 60, b"\x11\0\1\4\0\0\0\0" + bytes(8)), "ip_spoof")
    yard.dies(ipv6(to, me, src, B6, FRAGMENT, b"\x11\0\0\x08" + bytes(12)), "ip_spoof")


@pytest.mark.parametrize("kind", [133, 134, 135, 136, 137])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_neighbour_discovery_that_is_too_short_to_be_any_is_a_packet_like_others(yard, kind, length):
    message = bytes([kind, 0, 0, 0, 0, 0, 0])[:length]
    yard.dies(ipv6(ALL_NODES, yard.a.mac, B6, "ff02::1", ICMPV6, message, hop_limit=255), "ip_spoof")
    yard.passes(ipv6(ALL_NODES, yard.a.mac, A6, "ff02::1", ICMPV6, message, hop_limit=255))


def test_ones_own_addresses_all_pass(yard):
    me, to = yard.a.mac, yard.b.mac
    for src in (A4, SECOND4):
        yard.passes(udp(to, me, src, B4))
    for src in (A6, LOCAL_A):
        yard.passes(udp(to, me, src, B6))
        yard.passes(tcp(to, me, src, B6))


def test_packets_behind_a_real_vlan_tag_are_of_another_network(yard):
    yard.passes(tagged(udp(yard.b.mac, yard.a.mac, "10.99.0.1", B4), (C_TAG, 7)))


def test_a_port_without_the_guard_sends_as_it_likes(yard):
    yard.passes(udp(yard.b.mac, yard.free.mac, NOBODYS4, B4), yard.free)
    yard.passes(udp(yard.b.mac, yard.free.mac, NOBODYS6, B6), yard.free)


def test_an_address_that_was_taken_away_is_ones_own_no_more(yard):
    me, to = yard.a.mac, yard.b.mac
    for address, source in ((A4, A4), (A6, A6)):
        yard.switch.unbind(address)
        yard.dies(udp(to, me, source, B4 if ":" not in source else B6), "ip_spoof")
    yard.dies(udp(to, me, "0.0.0.0", B4), "ip_spoof")
    yard.dies(udp(to, me, "::", B6), "ip_spoof")
    yard.passes(udp(to, me, SECOND4, B4))


def test_a_port_is_held_to_its_addresses_from_its_first_frame_on(switch):
    switch.network(1)
    one = switch.host(network=1)
    host = switch.host(network=1, assigned=True, addresses=("10.0.0.2", "fd01::2"))
    for src, dst in (("10.0.0.9", "10.0.0.3"), ("fd01::9", "fd01::3"), ("fe80::9", "fd01::3")):
        switch.delivered(host, udp(one.mac, host.mac, src, dst))
    assert host.drops == {"ip_spoof": 3}
    switch.delivered(host, udp(one.mac, host.mac, "10.0.0.2", "10.0.0.3"))
    switch.delivered(host, udp(one.mac, host.mac, "fd01::2", "fd01::3"))
    assert host.drops == {"ip_spoof": 3} and len(one.received()) == 0


# ---- hosts that have no address yet


def test_a_host_without_an_address_may_ask_for_one_and_join_groups(yard):
    me = yard.a.mac
    yard.passes(frames.dhcp(me))
    yard.passes(ipv4(group_of4("224.0.0.22"), me, "0.0.0.0", "224.0.0.22", 2, bytes(16), options=b"\x94\4\0\0"))
    yard.passes(probe(yard.a, LOCAL_NEW))
    rs = packet(group_mac("ff02::2"), me, "::", "ff02::2", ICMPV6, struct.pack(">BBHI", 133, 0, 0, 0), hop_limit=255)
    yard.passes(rs)
    for kind in (131, 132, 143):
        message = struct.pack(">BBHHH", kind, 0, 0, 0, 0) + bytes(16)
        hop = b"\x3a\0\5\2\0\0\1\0"
        yard.passes(ipv6(group_mac("ff02::16"), me, "::", "ff02::16", 0, hop + message, hop_limit=1))
        yard.passes(ipv6(group_mac("ff02::16"), me, LOCAL_A, "ff02::16", 0, hop + message, hop_limit=1))


def group_of4(group: str) -> bytes:
    return b"\x01\0\x5e" + bytes([frames.ip(group)[1] & 0x7F]) + frames.ip(group)[2:]


def test_without_an_address_nothing_else_may_be_sent(yard):
    me = yard.a.mac
    yard.dies(udp(BROADCAST, me, "0.0.0.0", "255.255.255.255", sport=68, dport=4000), "ip_spoof")
    yard.dies(tcp(yard.b.mac, me, "0.0.0.0", B4, dport=67), "ip_spoof")
    yard.dies(
        ipv4(BROADCAST, me, "0.0.0.0", "255.255.255.255", UDP, bytes(4) + b"\0\x43" + bytes(34), offset=8), "ip_spoof"
    )
    yard.dies(echo(ALL_NODES, me, "::", "ff02::1"), "ip_spoof")
    yard.dies(frames.dhcp(me, src=NOBODYS4), "ip_spoof")
    yard.dies(ipv4(group_of4("224.0.0.22"), me, NOBODYS4, "224.0.0.22", 2, bytes(16)), "ip_spoof")


# ---- servers


@pytest.mark.parametrize("ports", [(547, 546), (547, 4000), (4000, 546)])
def test_an_endpoint_is_no_dhcpv6_server(yard, ports):
    sport, dport = ports
    reply = udp(yard.b.mac, yard.a.mac, LOCAL_A, LOCAL_B, b"\7\0\0\1", sport=sport, dport=dport)
    yard.dies(reply, "rogue_dhcpv6")
    yard.dies(tagged(reply, (C_TAG, 0)), "rogue_dhcpv6")
    hidden = ipv6(yard.b.mac, yard.a.mac, LOCAL_A, LOCAL_B, 60, b"\x11\0\1\4\0\0\0\0" + reply[54:])
    yard.dies(hidden, "rogue_dhcpv6")
    first = ipv6(yard.b.mac, yard.a.mac, LOCAL_A, LOCAL_B, FRAGMENT, b"\x11\0\0\1\0\0\0\1" + reply[54:])
    yard.dies(first, "rogue_dhcpv6")
    yard.passes(ethernet(yard.b.mac, yard.free.mac, 0x86DD, reply[14:]), yard.free)


def test_a_first_fragment_without_all_headers_dies(yard):
    def fragment(inner: bytes, next_header: int = 17, offset: int = 0) -> bytes:
        head = bytes([next_header, 0]) + struct.pack(">HI", offset | 1, 7)
        return ipv6(yard.b.mac, yard.a.mac, A6, B6, FRAGMENT, head + inner)

    for inner, header in (
        (b"", 17),
        (bytes(4), 17),
        (b"\x11\0\1\4\0\0\0\0", 60),
        (b"\x11\2" + bytes(6), 60),
        (bytes(7), 58),
    ):
        yard.dies(fragment(inner, header), "header_chain")
        yard.passes(fragment(inner, header, offset=8))
    yard.passes(fragment(bytes(8)))


# ---- addresses that a container makes itself


@pytest.mark.parametrize("address", [AUTO6, "fd00:0:0:1:42:acff:fe11:2", LOCAL_NEW])
def test_an_address_is_claimed_by_duplicate_address_detection_first_come_first_served(yard, address):
    yard.dies(udp(yard.b.mac, yard.a.mac, address, B6), "ip_spoof")
    yard.passes(probe(yard.a, address))
    assert yard.owner(address) == yard.a.index
    yard.passes(udp(yard.b.mac, yard.a.mac, address, B6))
    yard.dies(udp(yard.a.mac, yard.b.mac, address, A6), "ip_spoof", yard.b)
    yard.dies(advertisement(yard.b.mac, LOCAL_B, address), "nd_spoof", yard.b)
    (answer,) = yard.switch.exchange(yard.b, probe(yard.b, address))
    assert answer[38:54] == frames.ip("ff02::1") and answer[62:78] == frames.ip(address), answer
    assert yard.owner(address) == yard.a.index


@pytest.mark.parametrize("address", [NOBODYS6, "2001:db8::1", "fe80:0:0:1::1", "fd00:0:0:1::", "fe80::", "fec0::1"])
def test_other_addresses_cannot_be_claimed(yard, address):
    yard.dies(probe(yard.a, address), "nd_spoof")
    yard.dies(solicitation(yard.a.mac, address, B6), "nd_spoof")
    yard.dies(advertisement(yard.a.mac, A6, address), "nd_spoof")
    assert yard.owner(address) is None


def test_a_claim_that_was_lost_is_made_again_by_any_neighbour_discovery(yard):
    asked = solicitation(yard.a.mac, AUTO6, B6)
    (answer,) = yard.switch.exchange(yard.a, asked)
    assert answer[62:78] == frames.ip(B6) and yard.owner(AUTO6) == yard.a.index
    yard.passes(advertisement(yard.b.mac, LOCAL_B, LOCAL_NEW), yard.b)
    assert yard.owner(LOCAL_NEW) == yard.b.index


def test_the_stalest_claim_gives_way_to_one_too_many_and_the_endpoints_own_addresses_never_do(yard):
    made = [f"fd00:0:0:1::{number:x}" for number in range(1, CLAIMS + 1)]
    for address in made:
        yard.switch.step(after_s=1)
        yard.passes(probe(yard.a, address))
    yard.switch.step(after_s=1)
    yard.switch.exchange(yard.a, solicitation(yard.a.mac, made[0], B6))  # mentioned again
    yard.passes(probe(yard.a, AUTO6))
    assert [yard.owner(address) for address in (made[0], made[1], made[2], AUTO6, A6, LOCAL_A)] == [
        yard.a.index,
        None,
        *[yard.a.index] * 4,
    ]
    yard.passes(probe(yard.b, made[1]), yard.b)
    assert yard.owner(made[1]) == yard.b.index


def test_claims_go_with_their_port_and_give_way_to_what_control_assigns(yard):
    for address in (AUTO6, LOCAL_NEW):
        yard.passes(probe(yard.a, address))
    yard.switch.bind(AUTO6, yard.b)
    yard.dies(udp(yard.b.mac, yard.a.mac, AUTO6, B6), "ip_spoof")
    yard.passes(udp(yard.a.mac, yard.b.mac, AUTO6, A6), yard.b)
    yard.a.leave()
    assert yard.owner(AUTO6) == yard.b.index and yard.owner(LOCAL_NEW) is None
    for address in [f"fd00:0:0:1::{number:x}" for number in range(1, 3 * CLAIMS)]:
        yard.passes(probe(yard.b, address), yard.b)
    assert yard.owner(AUTO6) == yard.b.index


def test_an_objection_from_a_port_without_the_guard_ends_a_claim(yard):
    yard.passes(probe(yard.a, AUTO6))
    yard.switch.delivered(yard.free, advertisement(yard.free.mac, AUTO6, AUTO6))
    assert yard.owner(AUTO6) is None
    yard.switch.delivered(yard.free, advertisement(yard.free.mac, A6, A6))
    assert yard.owner(A6) == yard.a.index


def test_claims_leave_room_for_what_control_binds():
    switch = MemorySwitch(neighbour_capacity=32)
    switch.network()
    yard = Yard(switch)
    for number in range(1, CLAIMS + 1):
        for host in (yard.a, yard.b):
            switch.delivered(host, probe(host, f"fe80::{host.index}:{number}"))
    assert len(switch.table(fdb=False)) == 24
    assert yard.b.drops.get("claims_full", 0) + yard.a.drops.get("claims_full", 0) == 2 * CLAIMS - (24 - 9)
    switch.bind("172.17.0.77", yard.a)
    switch.close()


def test_without_a_prefix_for_it_only_link_local_addresses_are_claimed(yard):
    yard.switch.plane.post_network_router(0, True)
    yard.switch.step()
    yard.dies(probe(yard.a, AUTO6), "nd_spoof")
    yard.passes(probe(yard.a, LOCAL_NEW))


# ---- questions to control


def test_router_solicitations_and_dhcpv6_cross_to_control_and_end_there(yard):
    solicit = udp(group_mac("ff02::1:2"), yard.a.mac, LOCAL_A, "ff02::1:2", b"\1\0\0\1", sport=546, dport=547)
    rs = packet(
        group_mac("ff02::2"), yard.a.mac, LOCAL_A, "ff02::2", ICMPV6, struct.pack(">BBHI", 133, 0, 0, 0), hop_limit=255
    )  # fmt: skip
    assert set(yard.switch.delivered(yard.a, rs)) == {yard.b.index, yard.free.index}
    yard.switch.plane.post_network_router(0, True)
    yard.switch.step()
    assert yard.switch.delivered(yard.a, rs) == {} == yard.switch.delivered(yard.a, solicit)
    to_gateway = ethernet(GATEWAY, yard.a.mac, 0x86DD, solicit[14:])
    assert yard.switch.delivered(yard.a, to_gateway) == {}
    assert [(punt.kind, punt.port) for punt in yard.switch.punts()] == [
        (2, yard.a.index),
        (3, yard.a.index),
        (3, yard.a.index),
    ]
    for _ in range(30):
        yard.a.send(solicit)
    yard.switch.step()
    assert yard.a.drops["punt_rate"] > 0
    yard.dies(packet(solicit[:6], yard.a.mac, LOCAL_B, "ff02::1:2", UDP, solicit[54:]), "ip_spoof")


# ---- any packet

NAMES4 = [A4, SECOND4, B4, NOBODYS4, "172.17.0.1", "0.0.0.0", "255.255.255.255"]
NAMES6 = [A6, B6, LOCAL_A, LOCAL_B, LOCAL_NEW, AUTO6, NOBODYS6, "fd00::1", "::", "ff02::1"]
EXTENSION = st.sampled_from([b"", b"\x3c", b"\0", b"\x2c"])  # destination options, hop by hop, fragment


def wrapped(kind: bytes, next_header: int, payload: bytes) -> tuple[int, bytes]:
    """A payload behind an extension header."""
    if not kind:
        return next_header, payload
    return kind[0], bytes([next_header, 0]) + (b"\0\1\0\0\0\7" if kind == b"\x2c" else b"\1\4\0\0\0\0") + payload


packets4 = st.builds(
    lambda src, protocol, body, offset: ipv4(BROADCAST, mac(1), src, B4, protocol, body, offset=offset),
    st.sampled_from(NAMES4),
    st.sampled_from([1, 2, 6, 17, 47]),
    st.sampled_from([b"", b"\0\x44\0\x43" + bytes(8), b"\0\x43\0\x44" + bytes(8)]) | st.binary(max_size=40),
    st.sampled_from([0, 0, 8]),
)
packets6 = st.builds(
    lambda src, kind, protocol, body: ipv6(
        ALL_NODES, mac(1), src, "ff02::1", *wrapped(kind, protocol, body), hop_limit=255
    ),
    st.sampled_from(NAMES6),
    EXTENSION,
    st.sampled_from([6, 17, 58]),
    st.sampled_from([b"\x02\x23\x02\x22" + bytes(8), b"\x86" + bytes(15), b"\x80" + bytes(8), b"\x8f" + bytes(12)])
    | st.binary(max_size=40),
)
nd = st.builds(
    lambda src, target, ask: (solicitation if ask else advertisement)(mac(1), src, target),
    st.sampled_from(NAMES6),
    st.sampled_from(NAMES6),
    st.booleans(),
)
tags = st.sampled_from([(), ((C_TAG, 0),), ((C_TAG, 0xE000), (0x88A8, 0))])


@given(st.lists(st.tuples(packets4 | packets6 | nd, tags), max_size=12))
def test_whatever_a_guarded_port_sends_nobody_hears_anothers_address_or_a_server(sequence):
    switch = MemorySwitch(mac_capacity=64, neighbour_capacity=64)
    switch.network()
    yard = Yard(switch)
    assert yard.a.mac == mac(1)
    for frame, around in sequence:
        heard = switch.delivered(yard.a, tagged(frame, *around))
        own = {row[2] for row in switch.table(fdb=False) if row[1] == yard.a.index}
        for got in (got for port, frames_ in heard.items() if port != yard.a.index for got in frames_):
            while got[12:14] in (b"\x81\0", b"\x88\xa8"):
                got = got[:12] + got[16:]
            if got[12:14] == b"\x08\0":
                assert got[26:30] in own or got[26:30] == bytes(4), got
                assert got[23] != 17 or got[36:38] != b"\0\x44" or len(got) < 42 or got[20:22] != b"\0\0", got
            else:
                assert got[22:38] in own or got[22:38] == bytes(16), got
                assert got[20] != 58 or got[54:55] not in (b"\x86", b"\x89") or len(got) < 62, got
                assert got[20] != 58 or got[54:55] != b"\x88" or got[62:78] in own, got
                assert got[20] != 17 or b"\x02\x22" not in (got[56:58],), got
    switch.close()
