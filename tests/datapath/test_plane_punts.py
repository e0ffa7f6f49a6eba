# SPDX-License-Identifier: Apache-2.0
"""Questions that the dataplane hands to control: which ones, whose, how many."""

from __future__ import annotations

import dpkt
import frames
import pytest
import reference
from frames import BROADCAST, C_TAG, dhcp, experimental, ipv4, tagged, udp
from memory_switch import GATEWAY, START_NS

from vswitch._fastpath import limits

BURST, PER_S = limits()["punt_burst"], limits()["punt_per_s"]
PUNT_DHCP = 1


def test_a_dhcp_question_goes_to_control_alone_with_its_port_and_time(switch):
    a, b = switch.host(), switch.host()
    question = dhcp(a.mac)
    assert switch.delivered(a, question) == {}
    (punt,) = switch.punts()
    assert vars(punt) == {
        "kind": PUNT_DHCP,
        "network": 0,
        "port": a.index,
        "frame": question,
        "time_ns": START_NS,
    }
    assert a.counters["punted"] == 1 and a.drops == {} and b.counters["tx_frames"] == 0


def test_a_renewing_clients_question_to_the_gateway_goes_to_control(switch):
    a, b = switch.host(), switch.host()
    switch.delivered(a, dhcp(a.mac, to=GATEWAY, src="172.17.0.2", dst="172.17.0.1"))
    assert len(switch.punts()) == 1
    other = dhcp(a.mac, to=b.mac, src="172.17.0.2", dst="172.17.0.3")
    switch.delivered(b, experimental(BROADCAST, b.mac))
    assert switch.delivered(a, other) == {b.index: [other]} and switch.punts() == []


def test_a_priority_tagged_question_reaches_control_without_its_tag(switch):
    a, _ = switch.host(), switch.host()
    assert switch.delivered(a, tagged(dhcp(a.mac), (C_TAG, 0xE000))) == {}
    assert [punt.frame for punt in switch.punts()] == [dhcp(a.mac)]


def test_where_the_gateway_serves_no_dhcp_questions_are_carried(switch):
    switch.network(1, dhcp=False)
    a, b = switch.host(network=1), switch.host(network=1)
    question = dhcp(a.mac)
    assert switch.delivered(a, question) == {b.index: [question]} and switch.punts() == []


def test_a_question_with_an_unfinished_checksum_reaches_control_finished(switch):
    a = switch.host(vnet=True, gso=7)
    question = reference.unfinished(dhcp(a.mac))
    a.send(question, frames.offload_header(question))
    switch.step()
    assert [punt.frame for punt in switch.punts()] == [reference.finished(question)]


def test_too_long_and_fragmented_questions_die(switch):
    a, b = switch.host(vnet=True), switch.host()
    switch.plane.post_network_mtu(0, 9000)
    longest = limits()["punt_bytes"]
    fits = dhcp(a.mac, padding=longest - len(dhcp(a.mac)))
    a.send(fits)
    a.send(dhcp(a.mac, padding=longest + 1 - len(dhcp(a.mac))))
    a.send(ipv4(BROADCAST, a.mac, "0.0.0.0", "255.255.255.255", 17, fits[34 : 34 + 80], more=True))
    super_frame = reference.unfinished(
        udp(BROADCAST, a.mac, "0.0.0.0", "255.255.255.255", bytes(400), sport=68, dport=67)
    )
    a.send(super_frame, frames.offload_header(super_frame, frames.GSO_UDP_L4, 300))
    switch.step()
    assert [punt.frame for punt in switch.punts()] == [fits]
    assert a.drops == {"punt_oversized": 3} and b.received() == []


def test_later_fragments_are_nobodys_question(switch):
    a, b = switch.host(), switch.host()
    fragment = ipv4(BROADCAST, a.mac, "0.0.0.0", "255.255.255.255", 17, dhcp(a.mac)[34:], offset=64)
    assert switch.delivered(a, fragment) == {b.index: [fragment]} and switch.punts() == []


def test_a_port_may_ask_so_many_questions_at_once_and_so_many_a_second(switch):
    a, b = switch.host(), switch.host()
    for number in range(BURST + 5):
        a.send(dhcp(a.mac, xid=number))
    b.send(dhcp(b.mac))
    switch.step()
    assert [punt.port for punt in switch.punts()].count(a.index) == BURST
    assert a.drops == {"punt_rate": 5} and b.counters["punted"] == 1
    for number in range(2 * PER_S):
        a.send(dhcp(a.mac, xid=number))
    switch.step(after_s=1)
    assert len(switch.punts()) == PER_S
    for number in range(2 * BURST):
        a.send(dhcp(a.mac, xid=number))
    switch.step(after_s=1_000_000)
    assert len(switch.punts()) == BURST


def test_a_question_every_few_milliseconds_earns_its_share_too(switch):
    a = switch.host()
    for _ in range(1000):
        a.send(dhcp(a.mac))
        switch.step(after_s=0.01)
    assert len(switch.punts()) == pytest.approx(BURST + 10 * PER_S, abs=1)


def test_a_full_punt_ring_loses_the_newest_and_recovers(switch):
    a = switch.host()
    question = dhcp(a.mac, padding=1000)
    sent = 0
    while "punt_full" not in a.drops:
        for _ in range(BURST):
            a.send(question)
        sent += BURST
        switch.step(after_s=BURST / PER_S)
    assert switch.totals["punts_lost"] == a.drops["punt_full"] == sent - a.counters["punted"]
    assert len(switch.punts()) == a.counters["punted"] > (1 << 20) * 0.9 / len(question)
    a.send(question)
    switch.step(after_s=1)
    assert [punt.frame for punt in switch.punts()] == [question]


def test_punts_are_taken_in_order_and_at_most_so_many_at_once(switch):
    a = switch.host()
    for number in range(10):
        a.send(dhcp(a.mac, xid=number))
    switch.step()
    taken = [switch.plane.punts(3) for _ in range(5)]
    assert [len(some) for some in taken] == [3, 3, 3, 1, 0]
    assert [dpkt.dhcp.DHCP(frame[42:]).xid for some in taken for *_, frame, _ in some] == list(range(10))
