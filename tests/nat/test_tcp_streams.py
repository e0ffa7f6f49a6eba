# SPDX-License-Identifier: Apache-2.0
"""Bytes of established TCP connections: every one arrives, once and in order, whatever becomes of the segments."""

from __future__ import annotations

import socket

import pytest
from patience import eventually
from tcp_peer import ahead, drained, ending, fill, mss_option, stuff, wrapped

DATA = bytes(number * 7 % 251 for number in range(1 << 20))
EDGE_OF_NUMBERS = pytest.mark.parametrize("iss", [0xFFFFFFF0, 0x7FFFFFF0], ids=["wraps", "changes sign"])


# ---- container → host


@EDGE_OF_NUMBERS
def test_a_long_stream_arrives_whole_across_the_end_of_the_numbers(net, iss):
    peer, host = net.connected(iss=iss)
    for at in range(0, 200_000, 20_000):
        peer.send("PA", DATA[at : at + 20_000])
    assert drained(net, host, 200_000) == DATA[:200_000]
    peer.acknowledged(iss + 1 + 200_000)


def test_a_segment_after_a_missing_one_is_dropped_and_the_last_acknowledgement_repeated(net):
    peer, host = net.connected()
    start = peer.snd_nxt
    peer.send("PA", DATA[1000:2000], seq=start + 1000)
    peer.expect("A", ack=start, payload=b"")
    peer.send("PA", DATA[:1000], seq=start)
    peer.expect("A", ack=start + 1000)
    peer.send("PA", DATA[1000:2000], seq=start + 1000)
    peer.expect("A", ack=start + 2000)
    assert drained(net, host, 2000) == DATA[:2000]
    assert net.host.drops == {"nat_out_of_order": 1}


@pytest.mark.parametrize(("first", "last"), [(0, 1000), (0, 1500), (500, 1500), (999, 1001), (500, 1000), (0, 1)])
def test_of_overlapping_segments_each_byte_counts_once(net, first, last):
    peer, host = net.connected()
    start = peer.snd_nxt
    peer.send("PA", DATA[:1000])
    peer.expect("A", ack=start + 1000)
    peer.send("PA", DATA[first:last], seq=start + first)
    peer.expect("A", ack=start + max(1000, last))
    peer.send("PA", DATA[max(1000, last) : 3000], seq=start + max(1000, last))
    peer.expect("A", ack=start + 3000)
    assert drained(net, host, 3000) == DATA[:3000]


def test_a_keepalive_is_answered(net):
    peer, host = net.connected()
    for flags, payload in (("A", b""), ("A", b"\0")):
        peer.send(flags, payload, seq=peer.snd_nxt - 1)
        peer.expect("A", ack=peer.snd_nxt, seq=peer.rcv_nxt, payload=b"")
    with pytest.raises(BlockingIOError):
        host.recv(1)


@pytest.mark.parametrize("distance", [-70_000, 20_000_000, 0x7FFFFFFF, 0x80000000])
def test_payload_outside_the_window_is_answered_but_not_taken(net, distance):
    peer, host = net.connected()
    peer.send("PA", b"elsewhere", seq=peer.snd_nxt + distance)
    peer.expect("A", ack=peer.snd_nxt)
    assert net.host.drops == {"nat_out_of_window": 1}
    peer.send("PA", b"here")
    assert drained(net, host, 4) == b"here"


def test_of_payload_across_the_windows_edge_only_what_lies_inside_counts(net):
    peer, host = net.connected(options=b"\x02\x04\x05\xb4")
    room = ahead(peer.edge, peer.snd_nxt)
    assert room <= 65535
    peer.send("PA", DATA[: room - 100])
    while peer.inbox:
        peer.inbox.popleft()
    left = ahead(peer.edge, peer.snd_nxt)
    start = peer.snd_nxt
    peer.send("PA", DATA[:60_000][: left + 500])
    assert ahead(peer.expect("A").ack, start) <= left
    drained(net, host, room - 100)


@pytest.mark.parametrize("flags", ["", "P", "F", "FP", "U"])
def test_a_segment_without_acknowledgement_counts_for_nothing(net, flags):
    peer, host = net.connected()
    peer.send(flags, b"data", move=False)
    peer.hears_nothing()
    assert net.host.drops == {"nat_out_of_window": 1}
    peer.send("PA", b"more")
    assert drained(net, host, 4) == b"more"


def test_an_acknowledgement_of_what_was_never_sent_is_challenged(net):
    peer, host = net.connected()
    peer.send("PA", b"data", ack=peer.rcv_nxt + 1, move=False)
    peer.expect("A", ack=peer.snd_nxt, seq=peer.rcv_nxt)
    assert net.host.drops == {"nat_out_of_window": 1}
    host.send(b"x")
    peer.expect("A", payload=b"x")


def test_a_host_that_does_not_read_closes_the_window_and_no_byte_is_lost(net):
    peer, host = net.connected(receive_bytes=4096)
    taken = stuff(net, peer, DATA)
    assert len(taken) > 50_000
    assert drained(net, host, len(taken)) == taken
    net.step()
    peer.inbox.clear()
    assert ahead(peer.edge, peer.snd_nxt) > 1460
    peer.send("PA", b"the end")
    assert drained(net, host, 7) == b"the end"


def test_a_container_that_closes_before_the_host_has_read_loses_nothing(net):
    peer, host = net.connected(receive_bytes=4096)
    taken = stuff(net, peer, DATA)
    peer.send("FA")
    peer.expect("A", ack=peer.snd_nxt)
    assert drained(net, host, len(taken)) == taken
    assert ending(net, host) == b""
    host.send(b"thanks")
    assert peer.read(6) == b"thanks"


# ---- host → container


def test_a_long_stream_from_the_host_comes_in_super_frames_within_the_window(net):
    peer, host = net.connected(window=2000)
    host.setblocking(True)
    sent, got = fill_some(host, 3_000_000), bytearray()
    while len(got) < sent:
        segment = peer.expect("A")
        if segment.payload:
            assert ahead(segment.seq, wrapped(peer.rcv_nxt)) == -len(segment.payload)
            got += segment.payload
            peer.send("A")
    assert bytes(got) == (DATA * 3)[:sent]


def fill_some(host: socket.socket, size: int) -> int:
    """Sends what the kernel takes of DATA, three times over."""
    host.setblocking(False)
    sent = 0
    while sent < size:
        try:
            sent += host.send((DATA * 3)[sent : min(sent + 65536, size)])
        except BlockingIOError:
            break
    return sent


def test_the_window_of_the_container_is_kept_to(net):
    peer, host = net.connected(window=10, scale=7)
    fill_some(host, 100_000)
    assert len(peer.expect("A").payload) == 1280
    peer.hears_nothing()
    peer.send("A", window=20)
    assert len(peer.expect("A").payload) == 2560


def test_the_window_that_comes_with_a_repeated_segment_is_kept_to(net):
    peer, host = net.connected(window=60_000, scale=0)
    fill_some(host, 200_000)
    peer.put("PA", DATA[1000:2000], seq=peer.snd_nxt + 1000)
    first = peer.read(60_000, acknowledge=False)
    peer.inbox.clear()
    peer.send("PA", DATA[:1000], window=0)
    peer.expect("A", ack=peer.snd_nxt, payload=b"")
    peer.hears_nothing()
    peer.send("PA", DATA[1000:2000], window=3000)
    assert len(peer.expect("A", ack=peer.snd_nxt).payload) == 3000 and first == DATA[:60_000]


def test_what_a_container_acknowledges_counts_where_it_has_filled_its_window_and_a_segment_is_missing(net):
    peer, host = net.connected(options=mss_option())
    fill_some(host, 200_000)
    start, edge = peer.snd_nxt, peer.edge
    peer.send("PA", DATA[1460:][: ahead(edge, start) - 1460], seq=start + 1460)
    peer.snd_nxt = edge
    first = peer.expect("A", ack=start)
    peer.send("A", ack=first.seq + 60_000)
    assert any(segment.payload for segment in peer.inbox), peer.inbox


def test_an_acknowledgement_bears_a_number_that_a_container_believes_after_a_timeout(net):
    peer, host = net.connected(window=10)
    fill_some(host, 5_000)
    segment = peer.expect("A")
    peer.send("A", ack=segment.seq, window=0)
    net.step(after_s=1.1)
    peer.inbox.clear()
    peer.send("PA", b"data", window=0, ack=segment.seq)
    peer.expect("A", ack=peer.snd_nxt, seq=wrapped(segment.seq + len(segment.payload)))


def test_no_sliver_of_a_segment_is_sent_while_something_is_under_way(net):
    peer, host = net.connected(window=4000, scale=0)
    fill_some(host, 100_000)
    first = peer.expect("A")
    assert len(first.payload) == 4000
    peer.send("A", ack=first.seq + 1460, window=3000)
    peer.hears_nothing()
    peer.send("A", window=4000)
    assert len(peer.expect("A").payload) == 4000


def test_a_closed_window_is_asked_about_until_it_opens(net):
    peer, host = net.connected(window=1, scale=10)
    fill_some(host, 5000)
    peer.expect("A")
    peer.send("A", window=0)
    peer.hears_nothing()
    for _ in range(6):
        net.step(after_s=61)
        probe = peer.expect("A", payload=b"", seq=wrapped(peer.rcv_nxt - 1))
        peer.send("A", window=0)
    assert probe.ack == peer.snd_nxt
    peer.send("A", window=60)
    assert len(peer.expect("A").payload) == 5000 - 1024


def test_a_window_that_opens_late_is_found_by_asking(net):
    peer, host = net.connected(window=1, scale=10)
    fill_some(host, 5000)
    peer.expect("A")
    peer.send("A", window=0)
    net.step(after_s=1.1)
    peer.expect("A", payload=b"")
    peer.send("A", window=3)
    assert len(peer.expect("A").payload) == 3072


def test_who_never_answers_about_his_closed_window_is_given_up(net):
    peer, host = net.connected(window=1, scale=10)
    fill_some(host, 5000)
    peer.expect("A")
    peer.send("A", window=0)
    for _ in range(12):
        net.step(after_s=61)
    assert peer.inbox[-1].flags == "RA" and ending(net, host) is ConnectionResetError
    net.nothing_is_left()


def test_unacknowledged_data_is_sent_again_with_backoff_and_then_given_up(net):
    peer, host = net.connected()
    host.send(b"anybody there?")
    first = peer.expect("A", payload=b"anybody there?")
    wait = 1.0
    for _ in range(12):
        net.step(after_s=wait * 0.9)
        peer.hears_nothing()
        net.step(after_s=wait * 0.1 + 1.1)
        peer.expect("A", payload=b"anybody there?", seq=first.seq)
        wait = min(2 * wait, 60)
    net.step(after_s=62)
    peer.expect("RA")
    assert ending(net, host) is ConnectionResetError
    net.nothing_is_left()


def test_who_closed_his_window_upon_data_is_asked_as_long_as_he_answers(net):
    peer, host = net.connected()
    host.send(b"patience")
    first = peer.expect("A", payload=b"patience")
    for _ in range(20):
        net.step(after_s=61)
        assert first.payload.startswith(peer.expect("A", seq=first.seq).payload)
        peer.send("A", ack=first.seq, window=0)
    peer.send("A", ack=first.seq, window=5000)
    peer.rcv_nxt = first.seq
    peer.inbox.clear()
    net.step(after_s=1.1)
    assert peer.read(8) == b"patience"
    peer.send("A")
    assert net.totals() == (1, 1)


def test_the_time_until_data_is_sent_again_follows_the_round_trip(net):
    peer, host = net.connected()
    for _ in range(10):
        host.send(b"x")
        peer.expect("A", payload=b"x")
        net.step(after_s=0.02)
        peer.send("A")
    host.send(b"y")
    peer.expect("A", payload=b"y")
    net.step(after_s=0.19)
    peer.hears_nothing()
    net.step(after_s=0.05)
    peer.expect("A", payload=b"y")


def test_three_equal_acknowledgements_bring_what_is_missing_at_once(net):
    peer, host = net.connected(mss=1000)
    fill_some(host, 3000)
    first = peer.next()
    assert len(first.payload) == 3000
    for _ in range(2):
        peer.send("A", ack=first.seq + 1000)
        peer.hears_nothing()
    peer.send("A", ack=first.seq + 1000)
    peer.send("A", ack=first.seq + 1000)
    again = peer.expect("A")
    assert again.seq in (first.seq, wrapped(first.seq + 1000)) and first.payload.endswith(again.payload)
    peer.send("A", ack=first.seq + 1000)
    peer.hears_nothing()
    peer.send("A", ack=first.seq + 3000)
    host.send(b"more")
    peer.expect("A", payload=b"more")


def test_a_partial_acknowledgement_brings_the_next_missing_part(net):
    peer, host = net.connected(window=1500)
    fill_some(host, 150_000)
    net.step()
    first = peer.inbox[0].seq
    peer.inbox.clear()
    for _ in range(4):
        peer.send("A", ack=first)
    (again,) = [segment for segment in peer.inbox if segment.seq == first]
    peer.inbox.clear()
    second = wrapped(first + len(again.payload))
    peer.send("A", ack=second)
    assert any(
        ahead(segment.seq, second) <= 0 < ahead(segment.seq + len(segment.payload), second) for segment in peer.inbox
    )


def test_old_acknowledgements_change_nothing(net):
    peer, host = net.connected()
    host.send(b"one")
    peer.read(3)
    host.send(b"two")
    peer.expect("A", payload=b"two")
    for _ in range(5):
        peer.send("A", ack=peer.rcv_nxt - 6)
    peer.hears_nothing()


def test_after_a_timeout_all_that_was_lost_comes_again(net):
    peer, host = net.connected()
    sent = fill_some(host, 200_000)
    net.step()
    first = peer.inbox[0].seq
    peer.inbox.clear()
    net.step(after_s=1.1)
    assert [segment.seq for segment in peer.inbox] == [first]
    peer.rcv_nxt = first
    assert peer.read(sent) == DATA[:sent]


def test_what_comes_after_a_timeout_is_not_sent_twice_if_it_had_arrived(net):
    peer, host = net.connected()
    sent = fill_some(host, 200_000)
    net.step()
    data = b"".join(segment.payload for segment in peer.inbox)
    first = peer.inbox[0].seq
    peer.inbox.clear()
    net.step(after_s=1.1)
    peer.expect("A", seq=first)
    peer.send("A", ack=first + len(data))
    rest = b""
    while len(data) + len(rest) < sent:
        segment = peer.next()
        assert segment.seq == wrapped(first + len(data) + len(rest))
        rest += segment.payload
        peer.send("A", ack=segment.seq + len(segment.payload))
    assert data + rest == DATA[:sent]


def test_urgent_data_is_data_at_its_place_in_the_stream(net):
    for peer, host in (net.connected(), net.visited()):
        host.send(b"before")
        net.step()
        host.send(b"urgent!", socket.MSG_OOB)
        net.step()
        host.send(b"after")
        assert peer.read(18, acknowledge=False) == b"beforeurgent!after"
        host.send(b"more")
        assert peer.read(4) == b"more"
        host.send(b"!", socket.MSG_OOB)
        host.send(b"the end")
        assert peer.read(8) == b"!the end"


def test_an_urgent_byte_before_the_end_does_not_cost_the_host_what_it_has_not_read_yet(net):
    peer, host = net.connected(receive_bytes=4096)
    sent = stuff(net, peer, DATA)
    host.send(b"a")
    net.step()
    host.send(b"b", socket.MSG_OOB)
    host.shutdown(socket.SHUT_WR)
    eventually(lambda: net.step() or any("F" in segment.flags for segment in peer.inbox), "the host's end comes")
    peer.send("FA", ack=peer.inbox[-1].seq + peer.inbox[-1].taken)
    net.step()
    assert drained(net, host, len(sent)) == sent


def test_both_directions_at_once(net):
    peer, host = net.connected()
    from_host = fill(net, host, DATA)
    got = bytearray()
    sent, arrived = 0, bytearray()
    while len(got) < from_host or len(arrived) < 300_000:
        if sent < 300_000 and ahead(peer.edge, peer.snd_nxt) > 10_000:
            peer.send("PA", DATA[sent : sent + 10_000])
            sent += 10_000
        else:
            peer.send("A")
        while peer.inbox:
            got += peer.expect("A").payload
        if sent > len(arrived):
            arrived += drained(net, host, sent - len(arrived))
    assert bytes(got) == DATA[:from_host] and bytes(arrived) == DATA[:300_000]


def test_bytes_and_packets_of_a_flow_are_counted(net):
    peer, host = net.connected()
    peer.send("PA", b"12345")
    peer.expect("A")
    host.send(b"123")
    peer.expect("A")
    peer.send("A")
    (row,) = net.flows()
    assert row[10:12] == (5, 3)
    host.shutdown(socket.SHUT_WR)
    peer.expect("FA")
    peer.send("A")
    assert net.flows()[0][10:12] == (5, 3)
