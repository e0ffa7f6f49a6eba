# SPDX-License-Identifier: Apache-2.0
"""A network whose containers are kept apart (icc=false): each reaches the gateway and nobody else, at any layer."""

from __future__ import annotations

import frames
import pytest
from frames import BROADCAST
from memory_switch import GATEWAY, MemorySwitch

from vswitch.datapath._plane import NOBODY

A4, B4, GATEWAY4 = "172.17.0.2", "172.17.0.3", "172.17.0.1"
A6, B6, GATEWAY6 = "fd00::2", "fd00::3", "fd00::1"
ALL_NODES_MAC = bytes.fromhex("333300000001")


@pytest.fixture
def apart(switch: MemorySwitch):
    """The switch with a, b (guarded) and c (open), kept apart."""
    a, b, c = switch.host(assigned=True), switch.host(assigned=True), switch.host()
    for address, host in ((GATEWAY4, None), (GATEWAY6, None), (A4, a), (A6, a), (B4, b), (B6, b)):
        switch.bind(address, host)
    switch.plane.post_network_isolated(0, True)
    return switch, a, b, c


def to_others(a, b) -> dict[str, bytes]:
    """Frames of every kind that others would get, were they not kept apart."""
    return {
        "unicast of no IP": frames.experimental(b.mac, a.mac),
        "unicast IPv4": frames.echo(b.mac, a.mac, A4, B4),
        "unicast IPv6": frames.echo(b.mac, a.mac, A6, B6),
        "an unknown MAC": frames.experimental(frames.mac(99), a.mac),
        "broadcast of no IP": frames.experimental(BROADCAST, a.mac),
        "broadcast IPv4": frames.udp(BROADCAST, a.mac, A4, "255.255.255.255"),
        "multicast": frames.udp(bytes.fromhex("01005e0000fb"), a.mac, A4, "224.0.0.251"),
        "multicast to all nodes": frames.experimental(ALL_NODES_MAC, a.mac),
        "a VLAN": frames.tagged(frames.experimental(b.mac, a.mac), (0x8100, 7)),
        "an ARP question for another": frames.who_has(a.mac, A4, B4),
        "an ARP question for nobody": frames.who_has(a.mac, A4, "172.17.0.77"),
        "a gratuitous ARP": frames.who_has(a.mac, A4, A4),
        "an ARP answer": frames.is_at(a.mac, A4, B4, tha=b.mac),
        "a solicitation for another": frames.solicitation(a.mac, A6, B6),
        "a solicitation for nobody": frames.solicitation(a.mac, A6, "fd00::77"),
        "an advertisement": frames.advertisement(a.mac, A6, A6),
    }


@pytest.mark.parametrize("what", sorted(to_others(*[type("H", (), {"mac": frames.mac(n)}) for n in (1, 2)])))
def test_nothing_gets_through_to_another_container(apart, what):
    switch, a, b, c = apart
    a.send(to_others(a, b)[what])
    switch.step()
    assert b.received() == [] and c.received() == [], what
    assert a.received() == [], f"{what}: nobody answers in another's name"
    reason = "arp_own_address" if what == "a gratuitous ARP" else "isolated"
    assert a.drops == {reason: 1}


def test_the_gateway_answers_as_ever(apart):
    switch, a, _, _ = apart
    for question in (
        frames.who_has(a.mac, A4, GATEWAY4),
        frames.solicitation(a.mac, A6, GATEWAY6),
        frames.echo(GATEWAY, a.mac, A4, GATEWAY4),
        frames.echo(GATEWAY, a.mac, A6, GATEWAY6),
    ):
        a.send(question)
        switch.step()
        assert len(a.received()) == 1
    assert a.drops == {}


def test_another_containers_address_is_not_reached_through_the_gateway_either(apart):
    switch, a, b, _ = apart
    for packet in (frames.echo(GATEWAY, a.mac, A4, B4), frames.echo(GATEWAY, a.mac, A6, B6)):
        a.send(packet)
        switch.step()
        assert b.received() == []
    assert a.drops == {"no_route": 2}


def test_what_control_says_to_everybody_reaches_everybody(apart):
    switch, a, b, c = apart
    switch.inject(frames.experimental(BROADCAST, GATEWAY), 0, port=NOBODY, flood=True)
    switch.step()
    assert [len(host.received()) for host in (a, b, c)] == [1, 1, 1]


def test_it_ends_as_it_began_and_other_networks_are_not_touched(apart):
    switch, a, b, _ = apart
    switch.network(1)
    d, e = switch.host(network=1, assigned=True), switch.host(network=1, assigned=True)
    assert len(switch.delivered(d, frames.experimental(e.mac, d.mac))[e.index]) == 1
    switch.plane.post_network_isolated(0, False)
    assert len(switch.delivered(a, frames.experimental(b.mac, a.mac))[b.index]) == 1
    with pytest.raises(ValueError, match="no such network"):
        switch.plane.post_network_isolated(7, True)
