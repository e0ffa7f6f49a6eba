# SPDX-License-Identifier: Apache-2.0
"""How TCP connections end: half-closes, ends, resets and silence, from either side, in every state."""

from __future__ import annotations

import socket

import pytest
from tcp_peer import ahead, drained, ending, fill, reset, stuff, wrapped

ESTABLISHED, TIME_WAIT = 4, 5
STATES = ["open", "container closed", "host closed", "both closed, ours not acknowledged"]


def brought_to(net, state: str):
    """A connection in that state."""
    peer, host = net.connected()
    if state != "open" and state != "host closed":
        peer.send("FA")
        peer.expect("A", ack=peer.snd_nxt)
        assert ending(net, host) == b""
    if state != "open" and state != "container closed":
        host.shutdown(socket.SHUT_WR)
        peer.expect("FA")
        if state == "host closed":
            peer.send("A")
    return peer, host


# ---- in order


def test_a_container_that_closes_still_hears_the_host(net):
    peer, host = net.connected()
    peer.send("FPA", b"last words")
    peer.expect("A", ack=peer.snd_nxt)
    assert drained(net, host, 10) == b"last words" and ending(net, host) == b""
    host.send(b"answer")
    assert peer.read(6) == b"answer"
    host.close()
    peer.expect("FA")
    peer.send("A")
    net.nothing_is_left()


def test_a_host_that_closes_still_hears_the_container(net):
    peer, host = net.connected()
    host.send(b"last words")
    host.shutdown(socket.SHUT_WR)
    peer.expect("A", payload=b"last words")
    peer.expect("FA")
    peer.send("A")
    peer.send("PA", b"answer")
    peer.expect("A", ack=peer.snd_nxt)
    assert drained(net, host, 6) == b"answer"
    peer.send("FA")
    peer.expect("A", ack=peer.snd_nxt)
    assert ending(net, host) == b""
    assert net.flows()[0][4] == TIME_WAIT


def test_when_the_container_closes_first_nothing_lingers(net):
    peer, host = brought_to(net, "container closed")
    host.close()
    peer.expect("FA", ack=peer.snd_nxt)
    peer.send("A")
    assert net.totals() == (0, 0)


def test_when_the_host_closes_first_the_flow_lingers_without_a_descriptor_and_then_goes(net):
    peer, _host = brought_to(net, "host closed")
    peer.send("FA")
    peer.expect("A", ack=peer.snd_nxt)
    assert net.totals() == (1, 0)
    net.step(after_s=59)
    assert net.totals() == (1, 0)
    net.step(after_s=3)
    assert net.totals() == (0, 0)


def test_both_sides_may_close_at_once(net):
    peer, host = net.connected()
    host.shutdown(socket.SHUT_WR)
    net.step()
    peer.send("FA", ack=peer.rcv_nxt)
    peer.expect("FA")
    peer.expect("A", ack=peer.snd_nxt)
    peer.send("A")
    assert ending(net, host) == b"" and net.flows()[0][4] == TIME_WAIT


def test_a_repeated_end_is_acknowledged_again(net):
    peer, _host = brought_to(net, "host closed")
    peer.send("FA")
    peer.expect("A", ack=peer.snd_nxt)
    peer.send("FA", seq=peer.snd_nxt - 1)
    peer.expect("A", ack=peer.snd_nxt, seq=peer.rcv_nxt)
    assert net.flows()[0][4] == TIME_WAIT


def test_a_new_syn_takes_over_from_a_connection_that_lingers(net):
    peer, host = net.connected()
    host.shutdown(socket.SHUT_WR)
    peer.expect("FA")
    peer.send("FA")
    peer.expect("A", ack=peer.snd_nxt)
    again = net.peer(peer.dport, sport=peer.sport, iss=peer.snd_nxt + 70_000)
    again.send("S", options=again.options)
    again.take_syn(again.expect("SA"))
    again.send("A")
    assert net.flows()[0][4] == ESTABLISHED and net.totals() == (1, 1)


def test_an_old_syn_does_not_take_over_from_a_connection_that_lingers(net):
    peer, _host = brought_to(net, "host closed")
    peer.send("FA")
    peer.expect("A", ack=peer.snd_nxt)
    peer.send("S", seq=peer.iss - 5)
    peer.expect("A", ack=peer.snd_nxt)
    peer.send("R")
    assert net.totals() == (0, 0)


def test_an_unacknowledged_end_is_repeated_with_backoff(net):
    peer, host = net.connected()
    host.shutdown(socket.SHUT_WR)
    end = peer.expect("FA")
    for wait in (1, 2, 4, 8):
        net.step(after_s=wait - 0.1)
        peer.hears_nothing()
        net.step(after_s=1.2)
        peer.expect("FA", seq=end.seq)
    peer.send("A")
    peer.hears_nothing()


def test_an_end_that_waits_behind_lost_data_comes_after_it(net):
    peer, host = net.connected()
    sent = fill(net, host, bytes(100_000))
    host.shutdown(socket.SHUT_WR)
    net.step()
    first, end = peer.inbox[0], peer.inbox[-1]
    assert end.flags == "FA" and ahead(end.seq, first.seq) == sent
    peer.inbox.clear()
    net.step(after_s=1.1)
    peer.rcv_nxt = first.seq
    assert len(peer.read(sent)) == sent
    peer.expect("FA", seq=end.seq)
    peer.send("A")
    peer.hears_nothing()


def test_an_end_that_had_arrived_before_its_timeout_is_not_sent_again_under_another_number(net):
    peer, host = net.connected()
    fill(net, host, bytes(100_000))
    host.shutdown(socket.SHUT_WR)
    net.step()
    end = peer.inbox[-1]
    peer.inbox.clear()
    net.step(after_s=1.1)
    peer.inbox.clear()
    peer.rcv_nxt = wrapped(end.seq + 1)
    peer.send("A")
    peer.hears_nothing()
    net.step(after_s=5)
    peer.hears_nothing()
    peer.send("FA")
    peer.expect("A", ack=peer.snd_nxt)
    assert net.totals() == (1, 0)


def test_payload_after_the_containers_end_is_acknowledged_but_not_taken(net):
    peer, host = brought_to(net, "container closed")
    peer.send("PA", b"too late", move=False)
    peer.expect("A", ack=peer.snd_nxt)
    assert host.recv(10) == b""


def test_an_end_behind_payload_that_was_not_taken_is_not_taken_either(net):
    peer, host = net.connected(receive_bytes=4096)
    taken = stuff(net, peer, bytes(60_000))
    peer.send("FPA", bytes(60_000), move=False)
    assert drained(net, host, len(taken)) == taken
    net.step()
    with pytest.raises(BlockingIOError):
        host.recv(1)
    peer.send("FPA", b"the end")
    assert drained(net, host, 7) == b"the end" and ending(net, host) == b""


# ---- resets


@pytest.mark.parametrize("state", STATES)
def test_a_reset_by_the_container_resets_the_host(net, state):
    peer, host = brought_to(net, state)
    peer.send("R")
    net.nothing_is_left()
    with pytest.raises(ConnectionError):
        host.send(b"x")
        host.send(b"x")


@pytest.mark.parametrize("state", STATES[:3])
def test_a_reset_by_the_host_resets_the_container(net, state):
    peer, host = brought_to(net, state)
    reset(host)
    answer = peer.next()
    assert answer.flags == "RA" and answer.seq == peer.rcv_nxt, answer
    peer.hears_nothing()
    net.nothing_is_left()


def test_a_reset_by_the_host_is_never_shown_as_an_orderly_end(net):
    peer, host = net.connected()
    host.send(b"part of it")
    peer.expect("A", payload=b"part of it")
    reset(host)
    assert peer.next().flags == "RA"


def test_what_the_host_sent_before_its_reset_is_followed_by_the_reset_alone(net):
    peer, host = net.connected(window=1, scale=10)
    host.send(b"x" * 5000)
    peer.expect("A")
    reset(host)
    assert "F" not in peer.next().flags


@pytest.mark.parametrize("distance", [1, 100, 30_000])
def test_a_reset_that_is_not_exactly_the_next_byte_is_challenged(net, distance):
    peer, host = net.connected()
    peer.send("R", seq=peer.snd_nxt + distance)
    peer.expect("A", ack=peer.snd_nxt, seq=peer.rcv_nxt)
    peer.send("PA", b"alive")
    assert drained(net, host, 5) == b"alive"


@pytest.mark.parametrize("distance", [-1, -1000, 50_000_000, 0x7FFFFFFF])
def test_a_reset_outside_the_window_counts_for_nothing(net, distance):
    peer, _host = net.connected()
    peer.send("R", seq=peer.snd_nxt + distance)
    peer.hears_nothing()
    assert net.host.drops == {"nat_out_of_window": 1} and net.totals() == (1, 1)


@pytest.mark.parametrize("flags", ["S", "SA", "SF"])
def test_a_syn_inside_the_window_is_challenged(net, flags):
    peer, _host = net.connected()
    peer.send(flags, seq=peer.snd_nxt, move=False)
    peer.expect("A", ack=peer.snd_nxt, seq=peer.rcv_nxt)
    assert net.totals() == (1, 1)


def test_sending_to_a_host_that_has_gone_is_a_reset(net):
    peer, host = net.connected()
    host.close()
    peer.expect("FA")
    peer.send("A")
    peer.send("PA", b"are you there?")
    while peer.next().flags != "RA":
        pass
    net.nothing_is_left()


def test_what_is_sent_after_the_host_was_found_gone_dies_and_is_counted(net):
    peer, host = net.connected()
    host.close()
    peer.expect("FA")
    peer.put("PA", b"the first to find out")
    peer.put("PA", b"too late")
    net.step()
    assert peer.host.drops == {"nat_host_gone": 1}
    while peer.next().flags != "RA":
        pass
    net.nothing_is_left()


# ---- by somebody else


def test_an_idle_connection_is_reset_on_both_sides(net):
    peer, host = net.connected()
    net.step(after_s=7439)
    peer.hears_nothing()
    net.step(after_s=3)
    peer.expect("RA", seq=peer.rcv_nxt)
    assert ending(net, host) is ConnectionResetError
    net.nothing_is_left()


def test_a_half_closed_connection_may_be_silent_as_long_as_an_open_one(net):
    peer, _host = brought_to(net, "host closed")
    net.step(after_s=7439)
    peer.hears_nothing()
    net.step(after_s=3)
    peer.expect("RA")
    net.nothing_is_left()


def test_a_host_that_never_reads_a_closed_connections_last_bytes_has_four_minutes(net):
    peer, host = net.connected(receive_bytes=4096)
    stuff(net, peer, bytes(60_000))
    peer.send("FA")
    host.shutdown(socket.SHUT_WR)
    while "F" not in peer.next().flags:
        pass
    peer.rcv_nxt = wrapped(peer.rcv_nxt + 1)
    peer.send("A")
    net.step(after_s=239)
    peer.hears_nothing()
    net.step(after_s=3)
    peer.expect("RA")
    net.nothing_is_left()


def test_a_keepalive_keeps_an_idle_connection(net):
    peer, _host = net.connected()
    for _ in range(3):
        net.step(after_s=7000)
        peer.send("A", seq=peer.snd_nxt - 1)
        peer.expect("A")
    assert net.totals() == (1, 1)


def test_a_killed_flow_is_reset_on_both_sides(net):
    peer, host = net.connected()
    row = net.flows()[0]
    assert net.switch.plane.post_flow_kill(row[16], row[17] + 1)
    net.step()
    assert net.totals() == (1, 1)
    assert net.switch.plane.post_flow_kill(row[16], row[17])
    peer.expect("RA", seq=peer.rcv_nxt)
    assert ending(net, host) is ConnectionResetError
    net.nothing_is_left()


def test_the_reset_of_a_connection_that_was_sending_again_is_one_that_the_container_believes(net):
    peer, host = net.connected()
    sent = fill(net, host, bytes(100_000))
    net.step()
    received = wrapped(peer.inbox[0].seq + sent)
    assert wrapped(peer.inbox[-1].seq + len(peer.inbox[-1].payload)) == received
    peer.inbox.clear()
    net.step(after_s=1.1)
    peer.inbox.clear()
    row = net.flows()[0]
    net.switch.plane.post_flow_kill(row[16], row[17])
    assert peer.next().seq == received


def test_when_the_port_goes_its_peers_are_reset(net):
    _peer, host = net.connected()
    _, client = net.visited()
    net.host.leave()
    net.host = net.container()
    assert ending(net, host) is ConnectionResetError
    assert ending(net, client) is ConnectionResetError
    net.nothing_is_left()
