# SPDX-License-Identifier: Apache-2.0
"""Many datagram flows at once: whose give way, what a leaving container takes along, and what a frame may cost."""

from __future__ import annotations

import socket

import frames
import pytest
import reference
from frames import GSO_UDP_L4, tagged
from memory_switch import GATEWAY
from own_namespace import in_own_namespace, ip
from way_out import GATEWAY4, INSIDE4, WayOut, datagram, heard, loopback

from vswitch._fastpath import limits
from vswitch.nat.listeners import open_listeners

DATA = bytes(number % 251 for number in range(60_000))
ENDS_PER_TURN, SOCKET_COST = 256, 65536
TURN = limits()["turn_cost_bytes"]


@pytest.fixture
def way_out():
    made = WayOut(max_flows=64)
    yield made
    made.close()


def test_what_comes_unasked_gives_way_to_what_the_container_wants(way_out):
    container = way_out.container()
    with loopback() as server, loopback() as other:
        container.send(datagram(container, b"q", server.getsockname()[1]))
        container.switch.step()
        client = server.recvfrom(10)[1]
        server.sendto(b"asked for", client)
        for _ in range(80):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(b"unasked", client)
        container.switch.step()
        assert len(way_out.flows()) > 40
        container.send(datagram(container, b"wanted", other.getsockname()[1], sport=4000))
        container.switch.step()
        assert other.recvfrom(10)[0] == b"wanted"


def test_who_leaves_with_many_flows_leaves_none_behind_and_others_have_their_turns_meanwhile():
    way_out = WayOut()
    container = way_out.container()
    for dport in range(10_000, 11_000):
        container.send(datagram(container, b"x", dport))
        if dport % 50 == 0:
            container.switch.step()
    container.switch.step()
    before = way_out.switch.totals
    assert before["flows"] == 1000
    container.leave()
    assert way_out.switch.totals["wakeups"] - before["wakeups"] >= 1000 // ENDS_PER_TURN
    assert (way_out.switch.totals["flows"], way_out.switch.totals["descriptors"]) == (0, 0)
    way_out.close()


def test_who_sends_from_ever_new_ports_delays_a_neighbour_by_a_dozen_sockets(way_out):
    flooder, neighbour = way_out.container(), way_out.container("172.17.0.3", "fd00::3")
    with loopback() as server:
        port = server.getsockname()[1]
        for sport in range(30_000, 30_060):
            flooder.send(datagram(flooder, b"flood", port, sport=sport))
        neighbour.send(frames.udp(GATEWAY, neighbour.mac, "172.17.0.3", GATEWAY4, b"me", sport=4000, dport=port))
        way_out.switch.step()
        heard_there = [server.recvfrom(10)[0] for _ in range(61)]
    assert heard_there.index(b"me") <= TURN // SOCKET_COST + 1


def test_a_super_frame_with_a_priority_tag_leaves_as_its_datagrams(way_out):
    container = way_out.container()
    with loopback() as server:
        plain = reference.unfinished(datagram(container, DATA[:2500], server.getsockname()[1]))
        frame = tagged(plain, (0x8100, 0))
        container.send(frame, frames.offload_header(frame, GSO_UDP_L4, 1000))
        container.switch.step()
        got = [server.recvfrom(3000)[0] for _ in range(3)]
        assert got == [DATA[:1000], DATA[1000:2000], DATA[2000:2500]]


def test_a_train_that_the_host_refuses_is_not_tried_datagram_by_datagram(way_out):
    container = way_out.container()
    frame = reference.unfinished(
        frames.udp(GATEWAY, container.mac, INSIDE4, "198.51.100.7", DATA, sport=4000, dport=9)
    )
    refused_on_its_way(container, frame)
    assert sum(container.drops.values()) == 1, container.drops


@in_own_namespace
def refused_on_its_way(container, frame: bytes) -> None:
    """Sends a super-frame from where there is no route."""
    container.send(frame, frames.offload_header(frame, GSO_UDP_L4, 1000))
    container.switch.step()
    assert len(heard(container)) == 1


@in_own_namespace
def test_a_client_with_an_address_of_a_container_network_appears_as_the_gateway():
    ip("addr add 172.17.0.9/32 dev lo")
    way_out = WayOut()
    container = way_out.container()
    group = open_listeners("127.0.0.1", 0, 1, "udp", 53)
    way_out.switch.plane.post_listen(
        group, 0, network=0, port=container.index, address4=frames.ip(INSIDE4), address6=None
    )
    way_out.switch.step()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as neighbour:
        neighbour.bind(("172.17.0.9", 0))
        neighbour.sendto(b"who am I?", ("127.0.0.1", group.host_ports[0]))
        way_out.switch.step()
        (got,) = heard(container)
    assert (got.source, got.payload) == (GATEWAY4, b"who am I?")
    way_out.switch.plane.post_unlisten(0, 1)
    way_out.switch.step()
    group.close()
    way_out.close()
