# SPDX-License-Identifier: Apache-2.0
"""What a port may claim to be, and the disguises in which it may try: priority tags, extension headers,
unfinished checksums."""

from __future__ import annotations

import struct

import frames
import pytest
from frames import (
    BROADCAST,
    C_TAG,
    ICMPV6,
    IPV6,
    NEEDS_CSUM,
    S_TAG,
    advertisement,
    arp,
    experimental,
    is_at,
    mac,
    option,
    packet,
    solicitation,
    tagged,
    udp,
    vnet,
    who_has,
)
from hypothesis import given
from hypothesis import strategies as st
from memory_switch import GATEWAY, MemorySwitch

VICTIM, OWN, OTHER, GATEWAY_IP = "172.17.0.2", "172.17.0.3", "172.17.0.9", "172.17.0.1"
VICTIM6, OWN6, GATEWAY6 = "fd00::2", "fd00::3", "fd00::1"
PRIORITY = ((C_TAG, 0xE000),)  # VLAN 0, priority 7


class Street:
    """A victim, a guarded attacker and two onlookers, one of whom has offloads; the gateway and all
    addresses are known."""

    def __init__(self, switch, *, guard: bool = True):
        self.switch = switch
        self.victim = switch.host(assigned=True)
        self.attacker = switch.host(assigned=guard, vnet=True)
        self.plain, self.offloading = switch.host(assigned=True), switch.host(assigned=True, vnet=True)
        switch.bind(GATEWAY_IP)
        switch.bind(GATEWAY6)
        for address, host in (
            (VICTIM, self.victim),
            (VICTIM6, self.victim),
            (OWN, self.attacker),
            (OWN6, self.attacker),
        ):
            switch.bind(address, host)

    def dies(self, frame: bytes, reason: str, header: bytes | None = None) -> None:
        """The attacker's frame reaches nobody and is counted under `reason`, exactly once."""
        before = self.attacker.drops.get(reason, 0)
        assert self.switch.delivered(self.attacker, frame, header) == {}
        assert self.attacker.drops.get(reason, 0) == before + 1, self.attacker.drops

    def passes(self, frame: bytes, header: bytes | None = None) -> None:
        assert set(self.switch.delivered(self.attacker, frame, header)) == {
            self.victim.index,
            self.plain.index,
            self.offloading.index,
        }


@pytest.fixture
def street(switch):
    return Street(switch)


@pytest.fixture
def open_street(switch):
    return Street(switch, guard=False)


def test_a_guarded_port_speaks_only_as_its_own_address(street):
    for source in (street.victim.mac, mac(4711)):
        street.dies(experimental(BROADCAST, source), "mac_spoof")
    street.passes(experimental(BROADCAST, street.attacker.mac))


@pytest.mark.parametrize("source", [BROADCAST, b"\x01" + bytes(5), bytes(6), b"\x33\x33" + bytes(4)])
def test_a_group_or_no_address_is_no_source(open_street, source):
    open_street.dies(experimental(BROADCAST, source), "bad_source_mac")


def test_the_gateways_address_is_nobodys(street, open_street):
    for where in (street, open_street):
        where.dies(experimental(BROADCAST, GATEWAY), "gateway_spoof")


# ---- ARP


def test_an_arp_packet_that_claims_anothers_address_dies(street):
    me = street.attacker.mac
    for claimed in (VICTIM, GATEWAY_IP):
        street.dies(is_at(me, claimed, OTHER), "arp_spoof")
        street.dies(who_has(me, claimed, OTHER), "arp_spoof")
        street.dies(is_at(me, claimed, claimed), "arp_spoof")


def test_an_arp_packet_with_anothers_mac_inside_dies(street):
    street.dies(is_at(street.victim.mac, OWN, OTHER, source=street.attacker.mac), "arp_spoof")
    street.dies(is_at(mac(4711), OTHER, OTHER, source=street.attacker.mac), "arp_spoof")


def test_without_the_guard_only_the_gateways_address_is_protected(open_street):
    me = open_street.attacker.mac
    open_street.passes(is_at(me, VICTIM, OTHER))
    open_street.dies(is_at(me, GATEWAY_IP, OTHER), "arp_spoof")
    open_street.dies(who_has(me, GATEWAY_IP, VICTIM), "arp_spoof")


def test_ones_own_address_may_be_claimed_and_nobodys_may_not(street):
    street.passes(is_at(street.attacker.mac, OWN, OTHER))
    street.dies(is_at(street.attacker.mac, OTHER, OTHER), "arp_spoof")
    street.dies(who_has(street.attacker.mac, OTHER, VICTIM), "arp_spoof")


def test_an_open_port_may_claim_what_is_nobodys(open_street):
    open_street.passes(is_at(open_street.attacker.mac, OTHER, OTHER))


@pytest.mark.parametrize("at, value", [(14, b"\0\6"), (16, b"\x86\xdd"), (18, b"\5"), (19, b"\x10"), (22, b"\1")])
def test_a_malformed_arp_packet_dies(street, at, value):
    good = is_at(street.attacker.mac, OWN, OTHER)
    street.dies(good[:at] + value + good[at + len(value) :], "arp_malformed")


def test_a_short_arp_packet_dies(street):
    good = who_has(street.attacker.mac, OWN, OTHER)
    for length in (14, 15, 41):
        street.dies(good[:length], "arp_malformed")


# ---- neighbour discovery


def test_neighbour_discovery_that_claims_anothers_address_dies(street):
    me = street.attacker.mac
    for claimed in (VICTIM6, GATEWAY6):
        street.dies(advertisement(me, OWN6, claimed), "nd_spoof")
        street.dies(advertisement(me, claimed, OWN6), "nd_spoof")
        street.dies(solicitation(me, claimed, "fd00::99"), "nd_spoof")


def test_neighbour_discovery_with_anothers_mac_inside_dies(street):
    me = street.attacker.mac
    street.dies(advertisement(me, OWN6, OWN6, options=option(2, street.victim.mac)), "nd_spoof")
    street.dies(solicitation(me, OWN6, "fd00::99", options=option(1, street.victim.mac)), "nd_spoof")
    street.passes(advertisement(me, OWN6, OWN6))
    street.passes(solicitation(me, OWN6, "fd00::99"))


def test_without_the_guard_neighbour_discovery_protects_only_the_gateways_address(open_street):
    me = open_street.attacker.mac
    open_street.passes(advertisement(me, VICTIM6, VICTIM6))
    open_street.dies(advertisement(me, OWN6, GATEWAY6), "nd_spoof")


def router_advertisement(source: bytes, kind: int = 134, next_headers: bytes = b"") -> bytes:
    """A router advertisement, or with kind 137 a redirect; or a solicitation's worth of bytes of any kind."""
    return packet(
        frames.ALL_NODES,
        source,
        "fe80::1",
        "ff02::1",
        ICMPV6,
        struct.pack(">BBH", kind, 0, 0) + bytes(36),
        hop_limit=255,
    )


@pytest.mark.parametrize("kind, reason", [(134, "rogue_ra"), (137, "nd_spoof")])
def test_an_endpoint_is_no_router(street, kind, reason):
    street.dies(router_advertisement(street.attacker.mac, kind), reason)


def router_solicitation(source: bytes, src: str, options: bytes) -> bytes:
    message = struct.pack(">BBHI", 133, 0, 0, 0) + options
    return packet(frames.group_mac("ff02::2"), source, src, "ff02::2", ICMPV6, message, hop_limit=255)


def test_a_router_solicitation_that_claims_anothers_address_or_mac_dies(street):
    """A router enters its sender into its neighbour cache (RFC 4861 section 6.2.6)."""
    me = street.attacker.mac
    street.dies(router_solicitation(me, VICTIM6, option(1, me)), "nd_spoof")
    street.dies(router_solicitation(me, OWN6, option(1, street.victim.mac)), "nd_spoof")
    street.dies(router_solicitation(me, OWN6, option(14, bytes(6)) + option(1, street.victim.mac)), "nd_spoof")
    for src, options in ((OWN6, option(1, me)), ("::", b""), (OWN6, b"\1"), (OWN6, b"\1\0"), (OWN6, b"\1\xff" + me)):
        street.passes(router_solicitation(me, src, options))
    street.passes(router_solicitation(me, OWN6, option(1, me))[:61])


def test_a_router_behind_an_open_port_may_advertise(open_street):
    open_street.passes(router_advertisement(open_street.attacker.mac))


BROKEN_ND = {
    "hop limit": lambda me: solicitation(me, OWN6, "fd00::99", hop_limit=254),
    "code": lambda me: solicitation(me, OWN6, "fd00::99", code=1),
    "multicast target": lambda me: solicitation(me, OWN6, "ff02::1", dst="ff02::1"),
    "probe with a source option": lambda me: solicitation(me, "::", "fd00::99", options=option(1, me)),
    "probe to a unicast address": lambda me: solicitation(me, "::", "fd00::99", dst="fd00::99"),
    "solicited advertisement to a group": lambda me: advertisement(me, OWN6, OWN6, flags=0x40),
    "option of length 0": lambda me: solicitation(me, OWN6, "fd00::99", options=b"\1\0" + me),
    "option past the end": lambda me: solicitation(me, OWN6, "fd00::99", options=b"\1\2" + me),
    "half an option": lambda me: solicitation(me, OWN6, "fd00::99", options=b"\1"),
    "wrong checksum": lambda me: bytes(solicitation(me, OWN6, "fd00::99"))[:-1] + b"\xff",
    "cut short": lambda me: bytes(solicitation(me, OWN6, "fd00::99"))[:-8],
    "length beyond the frame": lambda me: patched(solicitation(me, OWN6, "fd00::99"), 18, b"\xff\xff"),
    "length of nothing": lambda me: patched(solicitation(me, OWN6, "fd00::99"), 18, b"\0\0"),
}


def patched(frame: bytes, at: int, value: bytes) -> bytes:
    return bytes(frame[:at] + value + frame[at + len(value) :])


@pytest.mark.parametrize("what", BROKEN_ND)
def test_neighbour_discovery_that_is_not_valid_dies(street, what):
    street.dies(BROKEN_ND[what](street.attacker.mac), "nd_malformed")


# ---- disguises


def claims(street) -> dict[str, tuple[bytes, str]]:
    """Frames that a guarded port must not get across, with the reason for which they die."""
    me = street.attacker.mac
    return {
        "arp": (is_at(me, VICTIM, OTHER), "arp_spoof"),
        "na": (advertisement(me, OWN6, VICTIM6), "nd_spoof"),
        "ra": (router_advertisement(me), "rogue_ra"),
        "dhcp": (udp(BROADCAST, me, OWN, "255.255.255.255", b"offer", sport=67, dport=68), "rogue_dhcp"),
    }


@pytest.mark.parametrize("tags", [PRIORITY, ((S_TAG, 0),), PRIORITY * 2, PRIORITY * 3, ((S_TAG, 0), *PRIORITY * 6)])
@pytest.mark.parametrize("claim", ["arp", "na", "ra", "dhcp"])
def test_a_priority_tag_is_no_disguise_because_hosts_ignore_it(street, claim, tags):
    frame, reason = claims(street)[claim]
    street.dies(tagged(frame, *tags), reason)


def test_behind_a_real_vlan_tag_is_another_network_that_nobody_guards(street):
    for tags in (((C_TAG, 5),), ((S_TAG, 5), (C_TAG, 0)), (*PRIORITY, (C_TAG, 5))):
        street.passes(tagged(claims(street)["arp"][0], *tags))


def extended(frame: bytes, *headers: tuple[int, bytes]) -> bytes:
    """`frame` with IPv6 extension headers (kind, bytes after the next-header field) before its ICMPv6
    message."""
    chain, following = b"", [kind for kind, _ in headers[1:]] + [frame[20]]
    for (_, rest), next_header in zip(headers, following, strict=True):
        chain += bytes([next_header]) + rest
    size = struct.pack(">H", len(frame) - 54 + len(chain))
    return bytes(frame[:18] + size + bytes([headers[0][0]]) + frame[21:54] + chain + frame[54:])


PADDING = b"\0\1\4\0\0\0\0"
EXTENSIONS = {
    "hop by hop": [(0, PADDING)],
    "destination": [(60, PADDING)],
    "routing": [(43, b"\0\0\0" + bytes(4))],
    "first fragment": [(44, bytes(7))],
    "authentication": [(51, b"\2" + bytes(14))],
    "long": [(60, b"\2\1\x14" + bytes(20))],
    "several": [(0, PADDING), (60, PADDING), (43, b"\0\0\0" + bytes(4)), (60, PADDING)],
}


@pytest.mark.parametrize("headers", EXTENSIONS)
@pytest.mark.parametrize("claim", ["na", "ra"])
def test_an_extension_header_is_no_disguise_because_hosts_skip_it(street, claim, headers):
    frame, _ = claims(street)[claim]
    street.dies(extended(frame, *EXTENSIONS[headers]), "nd_malformed")
    street.dies(tagged(extended(frame, *EXTENSIONS[headers]), *PRIORITY), "nd_malformed")


def test_group_membership_reports_have_an_extension_header_and_pass(street):
    report = packet(
        b"\x33\x33\0\0\0\x16",
        street.attacker.mac,
        "::",
        "ff02::16",
        ICMPV6,
        struct.pack(">BBHHH", 143, 0, 0, 0, 0),
    )
    street.passes(extended(report, (0, b"\0\5\2\0\0\1\0")))


@pytest.mark.parametrize("length", [54, 55, 61, 62, 63, 70])
def test_extension_headers_that_are_cut_off_are_no_reason_to_look_further(street, length):
    street.passes(extended(claims(street)["na"][0], (60, PADDING), (60, b"\xff" + bytes(6)))[:length])


def test_later_fragments_are_only_carried(street):
    street.passes(extended(claims(street)["na"][0], (44, b"\0\0\x08" + bytes(4))))


def chosen_sum(frame: bytes, start: int, field: int, wanted: bytes) -> bytes:
    """`frame` with two bytes at the end such that a checksum over frame[start:] stored at `field` writes
    `wanted` there."""
    import reference

    body = frame + bytes(len(frame) - start & 1) + b"\0\0"
    missing = (int.from_bytes(wanted, "big") ^ 0xFFFF) - reference.internet_sum(body[start:])
    return body[:-2] + struct.pack(">H", missing % 0xFFFF)


def test_an_unfinished_checksum_cannot_hide_a_claim_in_arp(street):
    """Finishing would turn the claimed address into an innocent one for the guard's eyes; a kernel would
    read it unfinished."""
    frame = chosen_sum(is_at(street.attacker.mac, VICTIM, OTHER), 14, 30, b"\x99\x99")
    street.dies(frame, "bad_vnet_header", vnet(NEEDS_CSUM, csum_start=14, csum_offset=16))


def test_an_unfinished_checksum_cannot_hide_a_claim_in_neighbour_discovery(street):
    frame = advertisement(street.attacker.mac, OWN6, VICTIM6)
    for start, offset in ((54, 0), (54, 22), (62, 0), (76, 0), (14, 24), (54, 4)):
        street.dies(frame, "bad_vnet_header", vnet(NEEDS_CSUM, csum_start=start, csum_offset=offset))


def test_an_unfinished_checksum_cannot_make_a_dhcp_servers_port(street):
    frame = udp(BROADCAST, street.attacker.mac, OWN, "255.255.255.255", b"offer", sport=1000, dport=1000)
    for start, offset in ((34, 0), (34, 2), (14, 20), (14, 22), (36, 0), (41, 0)):
        street.dies(frame, "bad_vnet_header", vnet(NEEDS_CSUM, csum_start=start, csum_offset=offset))


def test_an_unfinished_checksum_cannot_write_into_extension_headers(street):
    """Finished, the second header's next-header field could read ICMPv6 and its neighbour discovery be
    taken."""
    frame = extended(claims(street)["na"][0], (60, PADDING), (60, PADDING), (60, PADDING))
    frame = frame[:62] + b"\x3b" + frame[63:]  # no next header: as it stands, no neighbour discovery
    for start, offset in ((62, 0), (54, 8), (63, 0), (69, 0)):
        street.dies(frame, "bad_vnet_header", vnet(NEEDS_CSUM, csum_start=start, csum_offset=offset))


def test_an_honest_unfinished_checksum_of_neighbour_discovery_is_finished_before_it_is_judged(street):
    import reference

    frame = reference.unfinished(advertisement(street.attacker.mac, OWN6, VICTIM6))
    street.dies(frame, "nd_spoof", frames.offload_header(frame))
    honest = reference.unfinished(advertisement(street.attacker.mac, OWN6, OWN6))
    street.passes(honest, frames.offload_header(honest))


# ---- DHCP


@pytest.mark.parametrize("sport", [67, 68, 4000])
def test_an_endpoint_is_no_dhcp_server_whatever_port_it_sends_from(street, sport):
    street.dies(
        udp(street.victim.mac, street.attacker.mac, OWN, VICTIM, b"offer", sport=sport, dport=68),
        "rogue_dhcp",
    )


def test_a_dhcp_servers_first_fragment_dies_too(street):
    datagram = struct.pack(">HHHH", 67, 68, 308, 0) + bytes(40)
    street.dies(
        frames.ipv4(BROADCAST, street.attacker.mac, OWN, "255.255.255.255", 17, datagram, more=True),
        "rogue_dhcp",
    )


def test_a_dhcp_server_behind_an_open_port_may_answer(open_street):
    open_street.passes(udp(BROADCAST, open_street.attacker.mac, OWN, "255.255.255.255", b"offer", sport=67, dport=68))


# ---- any bytes


ADDRESSES = st.sampled_from([frames.ip(address) for address in (VICTIM, OWN, OTHER, GATEWAY_IP)])
MACS = st.sampled_from([mac(1), mac(2), GATEWAY, mac(4711)])
ARP_BODIES = st.builds(
    lambda op, sha, spa, tha, tpa: b"\0\1\x08\0\6\4\0" + op + sha + spa + tha + tpa,
    st.sampled_from([b"\1", b"\2", b"\x08"]),
    MACS,
    ADDRESSES,
    MACS,
    ADDRESSES,
)
TAGS = st.lists(st.sampled_from([(C_TAG, 0), (S_TAG, 0xF000), (C_TAG, 5)]), max_size=4)
HEADERS = st.one_of(
    st.just(bytes(12)),
    st.builds(vnet, st.integers(0, 3), csum_start=st.integers(0, 60), csum_offset=st.integers(0, 40)),
)


def without_priority_tags(frame: bytes) -> bytes:
    """As Linux reads it."""
    while len(frame) >= 18 and frame[12:14] in (b"\x81\0", b"\x88\xa8") and frame[14] & 15 == frame[15] == 0:
        frame = frame[:12] + frame[16:]
    return frame


@given(
    body=st.one_of(ARP_BODIES, st.binary(max_size=60)),
    ethertype=st.sampled_from([0x0806, 0x0800, 0x86DD]),
    tags=TAGS,
    header=HEADERS,
)
def test_whatever_a_guarded_port_sends_nobody_reads_anothers_address_in_arp(body, ethertype, tags, header):
    switch = MemorySwitch(mac_capacity=64, neighbour_capacity=64)
    switch.network()
    street = Street(switch)
    frame = tagged(frames.ethernet(BROADCAST, street.attacker.mac, ethertype, body), *tags)
    for port, got in switch.delivered(street.attacker, frame, header).items():
        for seen in map(without_priority_tags, got if port != street.attacker.index else []):
            if seen[12:14] == b"\x08\x06" and len(seen) >= 42:
                assert seen[28:32] not in map(frames.ip, (VICTIM, GATEWAY_IP)) and seen[22:28] == street.attacker.mac
    switch.close()


def test_arp_opcodes_that_no_host_answers_are_carried(street):
    street.passes(arp(8, sha=street.attacker.mac, spa=OWN, tpa=OTHER))


def test_ipv6_without_neighbour_discovery_is_carried(open_street):
    open_street.passes(frames.ethernet(BROADCAST, open_street.attacker.mac, IPV6, b"\x60" + bytes(45)))
