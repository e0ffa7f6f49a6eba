# SPDX-License-Identifier: Apache-2.0
"""How a TCP connection comes to be: opened by a container, or by a client of a published port; and how it doesn't."""

from __future__ import annotations

import socket
import struct

import frames
import pytest
from memory_switch import GATEWAY
from tcp_peer import ahead, drained, ending, mss_option, reset, scale_option, wrapped
from way_out import GATEWAY4, INSIDE4

BOTH = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
COARSE_S = 1.1  # what lies more than two seconds ahead may come a second late
MALFORMED = [
    b"\x02\x00\x05\xb4",
    b"\x02\x05\x05\xb4",
    b"\x02",
    b"\x01\x01\x01\x03",
    b"\xfe\x01\x00\x00",
    b"\x03\x04\x07\x00",
]


# ---- opened by the container


@BOTH
def test_a_container_connects_and_both_sides_talk(net, v6):
    peer, host = net.connected(v6=v6)
    peer.send("PA", b"question")
    peer.expect("A", ack=peer.snd_nxt)
    assert drained(net, host, 8) == b"question"
    host.send(b"answer")
    segment = peer.expect("A", payload=b"answer")
    assert segment.bits & 8
    peer.send("A")
    peer.hears_nothing()


@BOTH
def test_the_answer_to_a_syn_names_our_mss_and_scale(net, v6):
    peer = net.peer(net.server(v6=v6).getsockname()[1], v6=v6)
    peer.send("S", options=peer.options)
    answer = peer.expect("SA")
    assert answer.options == mss_option(1440 if v6 else 1460) + scale_option(8) and answer.window == 65535


def test_who_offers_no_window_scale_is_offered_none(net):
    peer, host = net.connected(options=mss_option())
    assert peer.scale == 0
    host.send(b"x" * 70_000)
    assert len(peer.read(60_000, acknowledge=False)) == 60_000
    peer.hears_nothing()
    peer.send("A")
    peer.read(10_000)


@pytest.mark.parametrize(("named", "used"), [(None, 536), (0, 64), (1, 64), (700, 700), (65535, 1460)])
def test_segments_are_as_long_as_the_container_wants_within_the_mtu(net, named, used):
    peer, host = net.connected(options=b"" if named is None else mss_option(named), mss=used)
    host.send(b"x" * 5000)
    segment = peer.next()
    assert segment.gso_size == used
    peer.inbox.appendleft(segment)
    peer.read(5000)


@pytest.mark.parametrize("v6", [False, True])
def test_a_connection_follows_an_mtu_that_shrinks_and_a_new_one_an_mtu_that_grows(net, v6):
    peer, host = net.connected(v6=v6, mss=1440)
    host.send(b"x" * 5000)
    assert peer.read(5000) == b"x" * 5000
    net.switch.plane.post_network_mtu(0, 1000)
    net.step()
    peer.mss = 1000 - (60 if v6 else 40)
    host.send(b"y" * 5000)
    segment = peer.next()
    assert segment.gso_size == peer.mss, "of the connection that is there"
    peer.inbox.appendleft(segment)
    assert peer.read(5000) == b"y" * 5000
    other = net.peer(net.server(v6=v6).getsockname()[1], v6=v6)
    assert other.open().options[:4] == mss_option(peer.mss)
    net.switch.plane.post_network_mtu(0, 9000)
    net.step()
    last = net.peer(net.server(v6=v6).getsockname()[1], v6=v6)
    assert last.open().options[:4] == mss_option(9000 - (60 if v6 else 40))


def test_a_container_on_ipv6_that_names_no_mss_gets_1220(net):
    peer, host = net.connected(v6=True, options=b"", mss=1220)
    host.send(b"x" * 5000)
    assert peer.expect("A").gso_size == 1220


@pytest.mark.parametrize("options", MALFORMED, ids=[one.hex() for one in MALFORMED])
def test_malformed_options_count_as_none(net, options):
    peer, host = net.connected(options=options.ljust(4, b"\0"), mss=536)
    assert peer.scale == 0
    host.send(b"x" * 1000)
    assert peer.expect("A").gso_size == 536


def test_a_scale_beyond_14_counts_as_14(net):
    peer, host = net.connected(options=mss_option() + scale_option(200), window=1)
    host.send(b"x" * 40_000)
    assert len(peer.expect("A").payload) == 16384


def test_the_window_of_a_syn_is_not_scaled(net):
    server = net.server()
    peer = net.peer(server.getsockname()[1])
    peer.send("S", options=mss_option() + scale_option(7), window=1000)
    peer.take_syn(peer.expect("SA"))
    peer.send("A", window=1000 >> 7)
    net.accepted(server).send(b"x" * 5000)
    assert len(peer.expect("A").payload) == 1000 >> 7 << 7


def test_a_repeated_syn_is_answered_again_alike(net):
    peer = net.peer(net.server().getsockname()[1])
    peer.send("S", options=peer.options)
    first = peer.expect("SA")
    peer.send("S", seq=peer.iss, options=peer.options)
    again = peer.expect("SA")
    assert (first.seq, first.ack, first.options) == (again.seq, again.ack, again.options)


def test_the_answer_to_a_syn_is_repeated_with_backoff_and_then_given_up(net):
    server = net.server()
    peer = net.peer(server.getsockname()[1])
    peer.send("S", options=peer.options)
    first, host = peer.expect("SA"), net.accepted(server)
    for wait in (1, 2, 4, 8, 16, 32):
        net.step(after_s=wait - 0.1)
        peer.hears_nothing()
        net.step(after_s=COARSE_S)
        peer.expect("SA", seq=first.seq)
    net.step(after_s=65)
    peer.expect("RA")
    assert ending(net, host) is ConnectionResetError
    net.nothing_is_left()


def test_a_wrong_acknowledgement_of_our_syn_is_refused_and_the_right_one_still_counts(net):
    server = net.server()
    peer = net.peer(server.getsockname()[1])
    peer.send("S", options=peer.options)
    peer.take_syn(peer.expect("SA"))
    peer.send("A", ack=peer.rcv_nxt + 1)
    peer.expect("R", seq=wrapped(peer.rcv_nxt + 1))
    peer.send("A", ack=peer.rcv_nxt - 1)
    peer.expect("R", seq=wrapped(peer.rcv_nxt - 1))
    peer.send("PA", b"hello")
    peer.expect("A", ack=peer.snd_nxt)
    assert drained(net, net.accepted(server), 5) == b"hello"


def test_payload_may_come_with_the_last_part_of_the_handshake(net):
    server = net.server()
    peer = net.peer(server.getsockname()[1])
    peer.send("S", options=peer.options)
    peer.take_syn(peer.expect("SA"))
    peer.send("FPA", b"all at once")
    peer.expect("A", ack=peer.snd_nxt)
    host = net.accepted(server)
    assert drained(net, host, 11) == b"all at once" and ending(net, host) == b""


def test_what_the_host_said_before_the_handshake_was_done_follows_it(net):
    server = net.server()
    peer = net.peer(server.getsockname()[1])
    peer.send("S", options=peer.options)
    peer.take_syn(peer.expect("SA"))
    host = net.accepted(server)
    host.send(b"220 ready")
    host.shutdown(socket.SHUT_WR)
    peer.hears_nothing()
    peer.send("A")
    peer.expect("A", payload=b"220 ready")
    peer.expect("FA")


def test_nobody_listening_is_a_reset(net):
    peer = net.peer(closed_port())
    peer.send("S", options=peer.options)
    peer.expect("RA", ack=wrapped(peer.iss + 1))
    net.nothing_is_left()


def test_a_source_address_that_the_host_lacks_is_told_as_unreachable(net):
    assert net.switch.plane.post_way_out(0, open=True, host_loopback=True, source4=frames.ip("203.0.113.77"))
    net.step()
    peer = net.peer(net.server().getsockname()[1])
    peer.send("S", options=peer.options)
    (error,) = net.other
    message = error[34:]
    assert error[26:30] == frames.ip(GATEWAY4) and message[:2] == b"\x03\x00"
    quoted = message[8:]
    assert (quoted[12:16], quoted[16:20]) == (frames.ip(INSIDE4), frames.ip(GATEWAY4))
    assert quoted[20:28] == struct.pack(">HHI", peer.sport, peer.dport, peer.iss)
    peer.hears_nothing()
    net.nothing_is_left()


def test_a_container_that_gives_up_while_we_answer_leaves_nothing(net):
    server = net.server()
    peer = net.peer(server.getsockname()[1])
    peer.send("S", options=peer.options)
    peer.take_syn(peer.expect("SA"))
    host = net.accepted(server)
    peer.send("R")
    assert ending(net, host) is ConnectionResetError
    net.nothing_is_left()


def test_a_host_that_resets_while_we_answer_resets_the_container(net):
    server = net.server()
    peer = net.peer(server.getsockname()[1])
    peer.send("S", options=peer.options)
    peer.take_syn(peer.expect("SA"))
    reset(net.accepted(server))
    peer.expect("RA", seq=peer.rcv_nxt)
    net.nothing_is_left()


# ---- opened by a client of a published port


def test_a_client_of_a_published_port_talks_with_the_container(net):
    peer, client = net.visited()
    client.send(b"GET /")
    assert peer.read(5) == b"GET /"
    peer.send("PA", b"200 OK")
    assert drained(net, client, 6) == b"200 OK"


def test_a_client_from_loopback_appears_as_the_gateway_on_its_own_port(net):
    client = net.client(net.publish(80))
    peer = net.calling(80)
    syn = peer.expect("S", ack=0, window=65535)
    assert syn.source == frames.ip(GATEWAY4) and syn.sport == client.getsockname()[1]
    assert syn.options == mss_option() + scale_option(8)


def test_a_container_that_refuses_resets_the_client(net):
    client = net.client(net.publish(80))
    peer = net.calling(80)
    syn = peer.expect("S")
    peer.send("RA", seq=0, ack=syn.seq + 1)
    assert ending(net, client) is ConnectionResetError
    net.nothing_is_left()


def test_a_refusal_that_does_not_name_our_syn_counts_for_nothing(net):
    net.client(net.publish(80))
    peer = net.calling(80)
    syn = peer.expect("S")
    peer.send("R", seq=0)
    peer.send("RA", seq=0, ack=syn.seq)
    peer.hears_nothing()
    assert net.host.drops == {"nat_out_of_window": 2}
    peer.send("A", seq=5, ack=syn.seq + 7)
    peer.expect("R", seq=wrapped(syn.seq + 7))
    peer.take_syn(syn)
    peer.send("SA", options=peer.options)
    peer.expect("A", ack=peer.snd_nxt)


def test_a_silent_container_is_asked_again_and_then_the_client_is_reset(net):
    client = net.client(net.publish(80))
    peer = net.calling(80)
    first = peer.expect("S")
    for wait in (1, 2, 4, 8, 16, 32):
        net.step(after_s=wait + COARSE_S)
        peer.expect("S", seq=first.seq)
    net.step(after_s=65)
    assert ending(net, client) is ConnectionResetError
    net.nothing_is_left()


def test_both_sides_may_open_at_once(net):
    client = net.client(net.publish(80))
    peer = net.calling(80)
    syn = peer.expect("S")
    peer.send("S", options=peer.options)
    peer.expect("SA", ack=peer.snd_nxt, seq=syn.seq)
    peer.take_syn(syn)
    peer.send("SA", seq=peer.iss, options=peer.options)
    peer.inbox.clear()
    client.send(b"hello")
    assert peer.read(5) == b"hello"
    peer.send("PA", b"you too")
    assert drained(net, client, 7) == b"you too"


def test_a_client_that_resets_before_the_container_answers_resets_the_container(net):
    client = net.client(net.publish(80))
    peer = net.calling(80)
    peer.take_syn(peer.expect("S"))
    reset(client)
    assert "R" in peer.next().flags
    net.nothing_is_left()


# ---- what belongs to no connection


@pytest.mark.parametrize("flags", ["A", "PA", "FA", "F", "SA", "SFA", "SF", "", "FPU"])
def test_a_segment_of_no_connection_is_refused(net, flags):
    peer = net.peer(80)
    peer.send(flags, b"data", ack=777 if "A" in flags else None)
    answer = peer.next()
    if "A" in flags:
        assert (answer.flags, answer.seq) == ("R", 777)
    else:
        taken = 4 + ("S" in flags) + ("F" in flags)
        assert (set(answer.flags), answer.seq, answer.ack) == ({"R", "A"}, 0, peer.iss + taken)
    assert net.totals() == (0, 0) and net.host.drops == {"nat_no_flow": 1}


@pytest.mark.parametrize("flags", ["R", "RA", "SR", "FPUR", "SFRA"])
def test_a_reset_of_no_connection_is_not_answered(net, flags):
    peer = net.peer(80)
    peer.send(flags)
    peer.hears_nothing()
    assert net.totals() == (0, 0)


def test_a_forged_source_address_opens_nothing(net):
    other = net.container("172.17.0.3", "fd00::3")
    server = net.server()
    for source in ("172.17.0.3", "10.1.2.3", "172.17.0.77"):
        net.host.send(
            frames.tcp(
                GATEWAY, net.host.mac, source, GATEWAY4, flags=2, dport=server.getsockname()[1], options=mss_option()
            )
        )
        net.step()
    assert net.host.drops == {"ip_spoof": 3} and net.totals() == (0, 0) and other.received() == []


def test_another_containers_connection_is_out_of_reach(net):
    other = net.container("172.17.0.3", "fd00::3")
    peer, host = net.connected()
    other.send(
        frames.tcp(
            GATEWAY, other.mac, INSIDE4, GATEWAY4, b"evil", flags=0x18, seq=peer.snd_nxt, ack=peer.rcv_nxt,
            sport=peer.sport, dport=peer.dport,
        )
    )  # fmt: skip
    net.step()
    assert other.drops == {"ip_spoof": 1}
    peer.send("PA", b"good")
    assert drained(net, host, 4) == b"good"


def test_a_wrong_checksum_counts_for_nothing(net):
    peer, _ = net.connected()
    frame = bytearray(
        frames.tcp(
            GATEWAY, net.host.mac, INSIDE4, GATEWAY4, b"data", flags=0x18, seq=peer.snd_nxt, ack=peer.rcv_nxt,
            sport=peer.sport, dport=peer.dport,
        )
    )  # fmt: skip
    frame[-1] ^= 1
    net.host.send(bytes(frame))
    net.step()
    peer.hears_nothing()
    assert net.host.drops == {"l4_checksum": 1}


def test_initial_sequence_numbers_differ(net):
    server = net.server()
    numbers = set()
    for _ in range(20):
        peer = net.peer(server.getsockname()[1])
        peer.send("S", options=peer.options)
        numbers.add(peer.expect("SA").seq)
    assert len(numbers) == 20 and max(ahead(a, b) for a in numbers for b in numbers) > 1 << 20


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
