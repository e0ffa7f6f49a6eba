# SPDX-License-Identifier: Apache-2.0
"""What the way out does not let through: forged sources, destinations that no socket may reach, wrong sums, and
what is no TCP, UDP or echo."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import frames
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_switch import GATEWAY
from reference import internet_checksum
from way_out import GATEWAY4, GATEWAY6, INSIDE4, INSIDE6, WayOut, descriptors, heard

OUTSIDE4, OUTSIDE6 = "198.51.100.7", "2001:db8::7"
LOOPBACK_OR_WORSE = [
    "0.0.0.0",
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.254",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:198.51.100.7",
    "ff02::1",
    "ff0e::1",
    "fe80::1",
    "febf::1",
]


@pytest.fixture
def out():
    before = descriptors()
    way = WayOut()
    yield way
    way.close()
    assert descriptors() == before


def own(address: str) -> str:
    return INSIDE6 if ":" in address else INSIDE4


def sent(out: WayOut, host, frame) -> dict:
    host.send(frame)
    out.switch.step()
    return host.drops


@pytest.mark.parametrize("make", [frames.udp, frames.tcp])
@pytest.mark.parametrize("address", LOOPBACK_OR_WORSE)
def test_no_socket_is_ever_sent_to(out, address, make):
    host = out.container()
    assert sent(out, host, make(GATEWAY, host.mac, own(address), address)) == {"nat_forbidden": 1}
    assert out.flows() == [] and heard(host) == []


@pytest.mark.parametrize("make", [frames.udp, frames.tcp, frames.echo])
@pytest.mark.parametrize(("forged", "to"), [("172.17.0.99", OUTSIDE4), ("10.0.0.1", OUTSIDE4), ("fd00::99", OUTSIDE6)])
def test_a_forged_source_address_dies_at_once(out, forged, to, make):
    host = out.container()
    assert sent(out, host, make(GATEWAY, host.mac, forged, to)) == {"ip_spoof": 1}
    assert out.flows() == [] and heard(host) == []


def test_an_ipv6_packet_cannot_speak_as_an_ipv4_address(out):
    host = out.container()
    assert sent(out, host, frames.udp(GATEWAY, host.mac, "::ffff:172.17.0.2", OUTSIDE6)) == {"nat_forbidden": 1}


def test_a_neighbours_address_is_no_source_either(out):
    host = out.container()
    other = out.switch.host(assigned=True)
    out.switch.bind("172.17.0.3", other)
    assert sent(out, host, frames.udp(GATEWAY, host.mac, "172.17.0.3", OUTSIDE4)) == {"ip_spoof": 1}


@pytest.mark.parametrize("to", [OUTSIDE4, OUTSIDE6])
def test_a_time_to_live_of_one_ends_at_the_gateway_which_says_so(out, to):
    host = out.container()
    frame = bytearray(frames.udp(GATEWAY, host.mac, own(to), to, b"probe", dport=33434))
    if ":" in to:
        frame[21] = 1
    else:
        frame[22] = 1
        frame[24:26] = b"\0\0"
        frame[24:26] = internet_checksum(bytes(frame[14:34])).to_bytes(2, "big")
    assert sent(out, host, bytes(frame)) == {"ttl_expired": 1}
    (error,) = heard(host)
    assert (error.source, error.protocol, error.l4[0], error.l4[1]) == (
        (GATEWAY6, 58, 3, 0) if ":" in to else (GATEWAY4, 1, 11, 0)
    )
    assert bytes(frame[14:34]) in error.l4


@pytest.mark.parametrize("make", [frames.udp, frames.tcp, frames.echo])
@pytest.mark.parametrize("to", [OUTSIDE4, OUTSIDE6])
def test_a_wrong_checksum_ends_a_packet(out, to, make):
    host = out.container()
    frame = bytearray(make(GATEWAY, host.mac, own(to), to, b"payload!"))
    frame[-1] ^= 0x55
    assert sent(out, host, bytes(frame)) == {"l4_checksum": 1}


def test_an_icmp_message_that_asks_nothing_has_no_way_out(out):
    host = out.container()
    frame = bytearray(frames.echo(GATEWAY, host.mac, INSIDE4, OUTSIDE4))
    frame[34] = 13
    assert sent(out, host, bytes(frame)) == {"nat_unsupported": 1}


def test_another_protocol_is_refused_as_the_gateway_refuses_it(out):
    host = out.container()
    frame = frames.ipv4(GATEWAY, host.mac, INSIDE4, OUTSIDE4, 132, b"\0" * 12)
    assert sent(out, host, frame) == {"no_route": 1}
    assert [error.l4[0] for error in heard(host)] == [3]


@pytest.mark.parametrize("address", ["172.17.0.200", "fd00::200"])
def test_a_subnet_of_ours_is_never_handed_to_the_host(out, address):
    host = out.container()
    out.switch.plane.post_own_subnets(
        [(b"\0" * 10 + b"\xff\xff" + frames.ip("172.17.0.0"), 112), (frames.ip("fd00::"), 64)]
    )
    out.switch.step()
    assert sent(out, host, frames.udp(GATEWAY, host.mac, own(address), address)) == {"no_route": 1}
    assert out.flows() == []


@given(
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(16, 32)), max_size=40),
    st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=20),
)
def test_an_address_is_ours_exactly_if_a_subnet_of_ours_holds_it(subnets, addresses):
    """Subnets of 198.18.0.0/16 in any order, also within each other. A TTL of 1 keeps every packet from leaving."""
    out = WayOut()
    try:
        nets = [ip_network((0xC6120000 + start, bits), strict=False) for start, bits in subnets]
        mapped = bytes(10) + b"\xff\xff"
        out.switch.plane.post_own_subnets([(mapped + net.network_address.packed, 96 + net.prefixlen) for net in nets])
        out.switch.step()
        host = out.container()
        for number in addresses:
            address = ip_address(0xC6120000 + number)
            before = host.drops
            after = sent(out, host, frames.udp(GATEWAY, host.mac, INSIDE4, str(address), ttl=1))
            reason = "no_route" if any(address in net for net in nets) else "ttl_expired"
            assert after == {**before, reason: before.get(reason, 0) + 1}
    finally:
        out.close()


@pytest.mark.parametrize("to", [OUTSIDE4, OUTSIDE6])
def test_an_internal_network_has_no_way_out(out, to):
    host = out.container()
    out.switch.plane.post_way_out(0, open=False)
    out.switch.step()
    for make in (frames.udp, frames.tcp, frames.echo):
        host.send(make(GATEWAY, host.mac, own(to), to))
    out.switch.step()
    assert host.drops == {"no_route": 3} and out.flows() == []
    assert len(heard(host)) == 3
