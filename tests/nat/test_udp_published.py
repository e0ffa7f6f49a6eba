# SPDX-License-Identifier: Apache-2.0
"""Published UDP ports: clients of the host's reach the container, which sees who they are."""

from __future__ import annotations

import socket
import struct

import frames
import pytest
import reference
from memory_switch import GATEWAY
from own_namespace import in_own_namespace, ip
from way_out import GATEWAY4, GATEWAY6, INSIDE4, INSIDE6, WayOut, descriptors, heard

from vswitch.nat.listeners import open_listeners

BOTH = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
CONTAINER_PORT = 5353
HOST4, OTHER4, HOST6 = "192.0.2.1", "192.0.2.2", "2001:db8::1"


class Published:
    """A container with a UDP port published at a host port of the kernel's choice."""

    def __init__(self, host_ip: str | None = None, **limits):
        self.way_out = WayOut(**limits)
        self.host = self.way_out.container()
        self.group = open_listeners(host_ip, 0, 1, "udp", CONTAINER_PORT)
        (self.port,) = self.group.host_ports
        self.plane = self.way_out.switch.plane
        self.plane.post_listen(
            self.group,
            0,
            network=0,
            port=self.host.index,
            address4=frames.ip(INSIDE4),
            address6=frames.ip(INSIDE6),
        )
        self.way_out.switch.step()

    def close(self) -> None:
        self.plane.post_unlisten(0, 1)
        self.way_out.switch.step()
        self.group.close()
        self.plane = None
        self.way_out.close()

    def heard(self) -> list:
        self.way_out.switch.step()
        return heard(self.host)

    def answer(self, to, payload: bytes, **fields) -> None:
        """The container answers what it heard."""
        self.host.send(
            frames.udp(
                GATEWAY, self.host.mac, to.to, to.source, payload, sport=to.dport, dport=to.sport, **fields
            )
        )
        self.way_out.switch.step()


@pytest.fixture
def published():
    made = Published()
    yield made
    made.close()


def client(address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, port))
    made.settimeout(2)
    return made


@BOTH
def test_a_client_on_the_host_appears_as_the_gateway_and_is_answered(published, v6):
    server = ("::1" if v6 else "127.0.0.1", published.port)
    with client(server[0]) as asker:
        asker.sendto(b"question", server)
        (got,) = published.heard()
        assert (got.source, got.to) == ((GATEWAY6, INSIDE6) if v6 else (GATEWAY4, INSIDE4))
        assert (got.sport, got.dport, got.payload) == (asker.getsockname()[1], CONTAINER_PORT, b"question")
        published.answer(got, b"answer")
        data, source = asker.recvfrom(100)
        assert data == b"answer" and source[:2] == server
        asker.connect(server)
        asker.send(b"again")
        (again,) = published.heard()
        assert again.sport == got.sport and len(published.way_out.flows()) == 1


def test_two_clients_with_the_same_port_are_told_apart(published):
    with client() as one, client("127.0.0.2", one.getsockname()[1]) as two:
        for asker in (one, two, one, two):
            asker.sendto(asker.getsockname()[0].encode(), ("127.0.0.1", published.port))
        first, second, third, fourth = published.heard()
        assert (
            first.sport == third.sport == one.getsockname()[1] and second.sport == fourth.sport != first.sport
        )
        published.answer(second, b"two")
        published.answer(first, b"one")
        assert one.recvfrom(10)[0] == b"one" and two.recvfrom(10)[0] == b"two"


@BOTH
def test_trains_and_large_datagrams_pass_both_ways(published, v6):
    data = bytes(number % 251 for number in range(70_000))
    server = ("::1" if v6 else "127.0.0.1", published.port)
    with client(server[0]) as asker:
        asker.sendmsg([data[:9000]], [(socket.IPPROTO_UDP, 103, struct.pack("H", 1000))], 0, server)
        (got,) = published.heard()
        assert (got.gso_size, got.payload) == (1000, data[:9000])
        ends = (INSIDE6, GATEWAY6) if v6 else (INSIDE4, GATEWAY4)
        frame = frames.udp(
            GATEWAY, published.host.mac, *ends, data[:9000], sport=CONTAINER_PORT, dport=got.sport
        )
        frame = reference.unfinished(frame)
        published.host.send(frame, frames.offload_header(frame, frames.GSO_UDP_L4, 1000))
        published.way_out.switch.step()
        assert [asker.recvfrom(2000)[0] for _ in range(9)] == [
            data[at : at + 1000] for at in range(0, 9000, 1000)
        ]
        asker.sendto(data[:60_000], server)
        assert len(published.heard()) > 40


def test_a_client_that_went_away_is_unreachable(published):
    asker = client()
    asker.sendto(b"q", ("127.0.0.1", published.port))
    (got,) = published.heard()
    asker.close()
    published.answer(got, b"too late")
    (error,) = heard(published.host) or published.heard()
    assert error.l4[:2] == b"\3\3" and error.source == GATEWAY4
    assert error.l4[28:32] == struct.pack(">HH", CONTAINER_PORT, got.sport)


def test_clients_do_not_outlive_the_published_port(published):
    with client() as asker:
        asker.sendto(b"q", ("127.0.0.1", published.port))
        (got,) = published.heard()
        published.plane.post_unlisten(0, 1)
        published.way_out.switch.step()
        assert published.way_out.flows() == []
        before = descriptors()
        published.answer(got, b"x")
        assert descriptors() in (before, before + 1)


def test_silent_clients_are_forgotten(published):
    with client() as asker:
        asker.sendto(b"q", ("127.0.0.1", published.port))
        (got,) = published.heard()
        published.way_out.switch.step(after_s=31)
        assert published.way_out.flows() == []
        asker.sendto(b"q", ("127.0.0.1", published.port))
        (got,) = published.heard()
        published.answer(got, b"a")
        published.way_out.switch.step(after_s=170)
        assert len(published.way_out.flows()) == 1
        published.way_out.switch.step(after_s=12)
        assert published.way_out.flows() == []


def test_a_flood_of_clients_costs_the_container_its_oldest_unanswered_one():
    published = Published(max_flows=90)
    try:
        with client() as loyal:
            loyal.sendto(b"q", ("127.0.0.1", published.port))
            (got,) = published.heard()
            published.answer(got, b"a")
            for _ in range(200):
                with client() as fickle:
                    fickle.sendto(b"q", ("127.0.0.1", published.port))
                    published.way_out.switch.step()
            assert len(published.way_out.flows()) <= 90
            published.host.raw()
            published.answer(got, b"still here")
            assert loyal.recvfrom(10)[0] == b"a" and loyal.recvfrom(20)[0] == b"still here"
    finally:
        published.close()


@pytest.mark.root
@BOTH
@in_own_namespace
def test_the_container_sees_real_clients_and_answers_from_where_they_wrote_to(v6):
    addresses = [HOST6, "2001:db8::2"] if v6 else [HOST4, OTHER4]
    for address in addresses:
        ip(f"addr add {address}/{128 if v6 else 32} dev lo {'nodad' if v6 else ''}")
    published = Published()
    try:
        with client(addresses[1]) as asker:
            for address in addresses:
                asker.sendto(b"q", (address, published.port))
                (got,) = published.heard()
                assert (got.source, got.sport) == (addresses[1], asker.getsockname()[1])
                published.answer(got, b"a")
                assert asker.recvfrom(10)[1][:2] == (addresses[0], published.port)
            mapped = b"" if v6 else bytes(10) + b"\xff\xff"
            published.plane.post_host_addresses([mapped + frames.ip(one) for one in addresses])
            published.way_out.switch.step()
        with client(addresses[1]) as asker:
            asker.sendto(b"q", (addresses[0], published.port))
            (got,) = published.heard()
            assert got.source == (GATEWAY6 if v6 else GATEWAY4)
    finally:
        published.close()
