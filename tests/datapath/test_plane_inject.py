# SPDX-License-Identifier: Apache-2.0
"""Frames that control sends: where they go, and a ring that goes round and fills up."""

from __future__ import annotations

import random
import struct

import pytest
from frames import BROADCAST, experimental
from hypothesis import given
from hypothesis import strategies as st
from memory_switch import GATEWAY, MemorySwitch

from vswitch.datapath._plane import NOBODY


def test_an_injected_frame_goes_to_its_port_or_to_the_network_but_one(switch):
    a, b, c = (switch.host() for _ in range(3))
    frame = experimental(BROADCAST, GATEWAY)
    assert switch.inject(frame, 0, port=b.index)
    switch.step()
    assert [host.received() for host in (a, b, c)] == [[], [frame], []]
    switch.inject(frame, 0, port=b.index, flood=True)
    switch.step()
    assert [host.received() for host in (a, b, c)] == [[frame], [], [frame]]
    switch.inject(frame, 0, flood=True)
    switch.step()
    assert [host.received() for host in (a, b, c)] == [[frame]] * 3


def test_an_injected_frame_never_reaches_another_network(switch):
    switch.network(1)
    a, b = switch.host(network=0), switch.host(network=1)
    frame = experimental(BROADCAST, GATEWAY)
    for network in (0, 2, 4096, 65535):
        switch.inject(frame, network, port=b.index)
        switch.inject(frame, network, port=a.index, flood=True)
    switch.inject(frame, 1, port=a.index)
    switch.inject(frame, 1, port=NOBODY)
    switch.step()
    assert a.received() == b.received() == []


def test_an_injected_frame_gets_an_empty_offload_header_where_one_is_due(switch):
    a = switch.host(vnet=True, gso=7)
    frame = experimental(a.mac, GATEWAY)
    switch.inject(frame, 0, port=a.index)
    switch.step()
    assert a.received_with_headers() == [(bytes(12), frame)]


@pytest.mark.parametrize("length", [0, 13, 2049, 1 << 20])
def test_a_frame_of_impossible_length_is_not_injected(switch, length):
    with pytest.raises(ValueError, match="14 to 2048"):
        switch.inject(bytes(length), 0, flood=True)


def test_a_full_inject_ring_refuses_and_what_it_took_is_sent_by_one_step(switch):
    a = switch.host(vnet=True)
    taken = 0
    while switch.inject(struct.pack(">I", taken) + bytes(2044), 0, port=a.index):
        taken += 1
    assert taken > (1 << 20) * 0.9 / 2064
    switch.step()
    assert a.counters["tx_frames"] + a.drops.get("tx_full", 0) == taken
    got = a.received()
    assert [struct.unpack(">I", frame[:4])[0] for frame in got] == list(range(len(got))) and len(got) > 20
    assert switch.inject(bytes(2048), 0, port=a.index)
    switch.step()
    assert a.received() == [bytes(2048)]


def test_frames_stay_whole_and_in_order_as_the_ring_goes_round():
    """Six times around the inject ring, with lengths that end it everywhere."""
    switch, chance = MemorySwitch(), random.Random(5)
    switch.network()
    a, waiting = switch.host(), []
    for number in range(6000):
        frame = chance.randbytes(chance.choice([14, 15, 60, 1024, 2047, 2048]))
        assert switch.inject(frame, 0, port=a.index)
        waiting.append(frame)
        if number % chance.randint(1, 30) == 0 or len(waiting) > 60:
            switch.step()
            assert a.received() == waiting
            waiting = []
    switch.close()


@given(st.lists(st.one_of(st.integers(14, 2048), st.just(0)), max_size=60), st.integers(0, 2**32))
def test_the_inject_ring_is_a_queue(lengths, seed):
    switch, chance = MemorySwitch(mac_capacity=4, neighbour_capacity=4), random.Random(seed)
    switch.network()
    a, expected = switch.host(), []
    for length in lengths:
        if length:
            expected.append(chance.randbytes(length))
            assert switch.inject(expected[-1], 0, port=a.index)
        else:
            switch.step()
            assert a.received() == expected
            expected = []
    switch.step()
    assert a.received() == expected
    switch.close()
