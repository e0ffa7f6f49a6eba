# SPDX-License-Identifier: Apache-2.0
"""Port 53 of the gateway: which questions control gets, whose, how many; connections by the translator."""

from __future__ import annotations

import errno
import os
import socket

import frames
import pytest
import reference
from memory_switch import GATEWAY
from patience import eventually
from tcp_peer import Net
from way_out import GATEWAY4, GATEWAY6, INSIDE4, INSIDE6, WayOut, datagram, heard

from vswitch._fastpath import limits

PUNT_DNS, PORT_GONE, EVENT_SERVICE = 4, 1, 5
CALL_BURST, CALLS_PER_MS = 128, 1  # of vswitch/nat/_shares.pxd
BOTH = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
QUESTION = b"\0\7\1\0\0\1\0\0\0\0\0\0\3web\0\0\1\0\1"


@pytest.fixture(params=["way out", "internal"])
def way(request):
    made = WayOut()
    if request.param == "internal":
        made.switch.plane.post_way_out(0, open=False)
    made.switch.plane.post_network_dns(0, True)
    made.switch.step()
    yield made
    made.close()


@pytest.fixture
def net():
    made = Net()
    made.switch.plane.post_network_dns(0, True)
    made.switch.step()
    yield made
    made.close()


@BOTH
def test_a_question_to_the_gateway_goes_to_control_alone(way, v6):
    a, b = way.container(), way.container("172.17.0.3", "fd00::3")
    question = datagram(a, QUESTION, 53, v6=v6)
    assert way.switch.delivered(a, question, frames.vnet()) == {}
    (punt,) = way.switch.punts()
    assert (punt.kind, punt.network, punt.port, punt.frame) == (PUNT_DNS, 0, a.index, question)
    assert a.counters["punted"] == 1 and a.drops == {} and b.counters["tx_frames"] == 0 and way.flows() == []


@BOTH
def test_an_unfinished_question_reaches_control_finished(way, v6):
    a = way.container()
    question = reference.unfinished(datagram(a, QUESTION, 53, v6=v6))
    a.send(question, frames.offload_header(question))
    way.switch.step()
    (punt,) = way.switch.punts()
    assert reference.wrong_checksums(punt.frame) == []


@BOTH
def test_where_the_gateway_serves_no_names_nothing_listens_there(way, v6):
    way.switch.plane.post_network_dns(0, False)
    way.switch.plane.post_way_out(0, open=True)
    way.switch.step()
    a = way.container()
    (answer,) = way.switch.delivered(a, datagram(a, QUESTION, 53, v6=v6), frames.vnet())[a.index]
    assert answer[23] == 1 or answer[20] == 58  # ICMP: port unreachable
    assert way.switch.punts() == [] and a.drops == {"no_listener": 1}


def test_without_names_port_53_of_a_gateway_that_stands_for_the_host_is_the_hosts(net):
    net.switch.plane.post_network_dns(0, False)
    net.step()
    net.host.send(datagram(net.host, QUESTION, 53), frames.vnet())
    net.step()
    assert net.switch.punts() == [] and net.host.counters["punted"] == 0


def test_only_the_ports_own_addresses_ask(way):
    a = way.container()
    way.container("172.17.0.3", "fd00::3")
    for source in ("172.17.0.3", "172.17.0.99", "192.0.2.1"):
        a.send(frames.udp(GATEWAY, a.mac, source, GATEWAY4, QUESTION, sport=4000, dport=53), frames.vnet())
    way.switch.step()
    assert way.switch.punts() == [] and a.drops == {"ip_spoof": 3}


def test_what_is_no_whole_datagram_does_not_reach_control(way):
    a = way.container()
    wrong = bytearray(datagram(a, QUESTION, 53))
    wrong[-1] ^= 1
    a.send(bytes(wrong), frames.vnet())
    way.switch.step()
    assert way.switch.punts() == []
    pieces = bytearray(datagram(a, QUESTION + bytes(40), 53))
    header, payload = bytes(pieces[:34]), bytes(pieces[34:])
    for offset, part in ((0, payload[:40]), (40, payload[40:])):
        ip = bytearray(header)
        ip[16:18] = (20 + len(part)).to_bytes(2, "big")
        ip[20:22] = ((0x2000 if offset == 0 else 0) | offset // 8).to_bytes(2, "big")
        ip[24:26] = b"\0\0"
        ip[24:26] = reference.internet_checksum(bytes(ip[14:34])).to_bytes(2, "big")
        a.send(bytes(ip) + part, frames.vnet())
    way.switch.step()
    assert way.switch.punts() == [] and a.drops.get("punt_oversized") == 1


def test_a_flood_is_dropped_at_its_port_and_takes_neither_others_questions_nor_its_own_dhcp(way):
    a, b = way.container(), way.container("172.17.0.3", "fd00::3")
    burst, punted = limits()["dns_burst"], 0
    for _ in range(burst + 30):
        a.send(datagram(a, QUESTION, 53), frames.vnet())
        way.switch.step()
        punted += len(way.switch.punts())
    assert a.drops == {"punt_rate": 30} and punted == burst
    b.send(frames.udp(GATEWAY, b.mac, "172.17.0.3", GATEWAY4, QUESTION, sport=4000, dport=53), frames.vnet())
    a.send(frames.dhcp(a.mac), frames.vnet())
    way.switch.step()
    assert sorted(punt.kind for punt in way.switch.punts()) == [1, PUNT_DNS]
    way.switch.step(after_s=0.001)
    for _ in range(20):
        a.send(datagram(a, QUESTION, 53), frames.vnet())
    way.switch.step()
    assert len(way.switch.punts()) == limits()["dns_per_s"] // 1000


def test_what_control_has_not_read_yet_is_bounded_for_each_port(way):
    a, b = way.container(), way.container("172.17.0.3", "fd00::3")
    waiting = limits()["dns_waiting"]
    for _ in range(waiting + 30):
        a.send(datagram(a, QUESTION, 53), frames.vnet())
        way.switch.step()
    b.send(frames.udp(GATEWAY, b.mac, "172.17.0.3", GATEWAY4, QUESTION, sport=4000, dport=53), frames.vnet())
    way.switch.step()
    assert a.drops == {"punt_rate": 30}
    assert [punt.port for punt in way.switch.punts()] == [a.index] * waiting + [b.index]
    a.send(datagram(a, QUESTION, 53), frames.vnet())
    way.switch.step()
    assert len(way.switch.punts()) == 1


def test_what_a_container_asks_counts_on_all_its_ports_together(way):
    first = way.container()
    second = way.container("172.17.0.9", "fd00::9", sibling=first.index)
    b = way.container("172.17.0.3", "fd00::3")
    waiting = limits()["dns_waiting"]

    def ask(host, source: str, times: int) -> None:
        for _ in range(times):
            question = frames.udp(GATEWAY, host.mac, source, GATEWAY4, QUESTION, sport=4000, dport=53)
            host.send(question, frames.vnet())
            way.switch.step()

    ask(first, INSIDE4, waiting)
    ask(second, "172.17.0.9", 1)
    ask(b, "172.17.0.3", 1)
    assert second.drops == {"punt_rate": 1} and first.drops == b.drops == {}
    first.leave()
    assert len(way.switch.punts()) == waiting + 1
    ask(second, "172.17.0.9", waiting)
    assert len(way.switch.punts()) == waiting and second.drops == {"punt_rate": 1}


def test_many_ports_with_long_questions_leave_room_for_others_while_control_reads_nothing(way):
    crowd = [way.container(f"172.17.1.{n}", f"fd00::1:{n}") for n in range(12)]
    b = way.container("172.17.0.3", "fd00::3")

    def ask(host, source: str) -> None:
        long = QUESTION.ljust(1400, b"\0")
        host.send(frames.udp(GATEWAY, host.mac, source, GATEWAY4, long, sport=4000, dport=53), frames.vnet())
        way.switch.step()

    for n, host in enumerate(crowd):
        for _ in range(limits()["dns_waiting"]):
            ask(host, f"172.17.1.{n}")
    ask(b, "172.17.0.3")
    b.send(frames.dhcp(b.mac), frames.vnet())
    way.switch.step()
    assert b.drops == {} and b.counters["punted"] == 2 and way.switch.totals["punts_lost"] == 0
    assert {punt.port for punt in way.switch.punts()} == {host.index for host in (*crowd, b)}


# ---- connections


def taken_up(net) -> tuple[socket.socket, tuple]:
    """Control's end of the one connection that was reported."""
    ((kind, network, port, fd, flow),) = net.switch.plane.events()
    assert (kind, network, port) == (EVENT_SERVICE, 0, net.host.index)
    return net.keep(socket.socket(fileno=fd)), flow


@BOTH
def test_a_connection_to_the_gateway_is_controls(net, v6):
    peer = net.peer(53, v6=v6)
    peer.send("S", options=peer.options)
    assert net.switch.plane.events() == []  # not before the handshake is done
    peer.take_syn(peer.expect("SA"))
    peer.send("A")
    control, flow = taken_up(net)
    assert flow[6] == peer.sport
    peer.send("PA", b"question")
    peer.expect("A", ack=peer.snd_nxt)
    assert control.recv(100) == b"question"
    control.send(b"answer")
    peer.expect("A", payload=b"answer")
    peer.send("FA")
    peer.next()
    assert control.recv(100) == b""
    control.close()
    eventually(lambda: net.step() or peer.inbox, "the end")
    peer.expect("FA")
    peer.send("A")


@BOTH
def test_large_answers_come_whole_through_a_small_window(net, v6):
    peer = net.peer(53, v6=v6)
    peer.open()
    control, _ = taken_up(net)
    control.setblocking(False)
    for _ in range(8):  # more altogether than the pair of sockets holds
        assert control.send(bytes(range(256)) * 250) == 64_000
        assert peer.read(64_000) == bytes(range(256)) * 250


def test_a_container_that_resets_and_control_that_closes_leave_nothing(net):
    peer = net.peer(53)
    peer.open()
    control, _ = taken_up(net)
    peer.send("R")
    net.step()
    assert control.recv(10) == b"" and net.gone()
    other = net.peer(53, sport=40001)
    other.open()
    control, _ = taken_up(net)
    other.send("PA", b"unread")
    other.next()
    control.close()
    net.step()
    assert "R" in other.next().flags


@BOTH
def test_who_connects_ever_anew_has_to_wait_and_others_do_not(way, v6):
    a, b = way.container(), way.container("172.17.0.3", "fd00::3")

    def connect(host, inside4: str, inside6: str, first: int, count: int) -> None:
        ends = (inside6, GATEWAY6) if v6 else (inside4, GATEWAY4)
        for sport in range(first, first + count):
            host.send(frames.tcp(GATEWAY, host.mac, *ends, flags=2, sport=sport, dport=53), frames.vnet())
            way.switch.step()

    connect(a, INSIDE4, INSIDE6, 41000, CALL_BURST + 30)
    assert a.drops == {"punt_rate": 30} and len(heard(a)) == CALL_BURST
    connect(b, "172.17.0.3", "fd00::3", 41000, 1)
    assert len(heard(b)) == 1 and b.drops == {}
    way.switch.step(after_s=0.001)
    connect(a, INSIDE4, INSIDE6, 42000, 20)
    assert len(heard(a)) == CALLS_PER_MS


def news_that_nobody_reads(net) -> None:
    """As many as the event ring holds."""
    net.switch.plane.post_flow_watch(True)
    net.step()
    for sport in range(41000, 41600):
        net.host.send(datagram(net.host, b"x", 9, sport=sport), frames.vnet())
        net.step()
    net.switch.plane.post_flow_watch(False)
    net.step()


def test_ports_that_go_while_there_is_no_room_to_say_so_are_told_of_once_afterwards(net):
    hosts = [net.switch.host() for _ in range(20)]  # more than fit in behind the last of the news
    news_that_nobody_reads(net)
    for host in hosts:
        host.socket.close()
    net.step()
    plane = net.switch.plane
    told = [event for event in plane.events() + plane.events() if event[0] == PORT_GONE]
    assert sorted(told) == [(PORT_GONE, 0, host.index, errno.ENOTCONN, None) for host in hosts]


def test_where_there_is_no_room_to_tell_control_the_connection_is_reset(net):
    news_that_nobody_reads(net)
    before = len(os.listdir("/proc/self/fd"))
    peer = net.peer(53)
    peer.send("S", options=peer.options)
    peer.take_syn(peer.expect("SA"))
    peer.send("A")
    assert "R" in peer.next().flags and len(os.listdir("/proc/self/fd")) <= before


def test_other_ports_of_the_gateway_are_what_they_were(net):
    peer, host = net.connected()
    peer.send("PA", b"x")
    assert host.recv(1) == b"x"
    assert net.switch.punts() == []
