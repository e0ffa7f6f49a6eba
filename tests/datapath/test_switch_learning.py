# SPDX-License-Identifier: Apache-2.0
"""The MAC table: what is learnt, moved, forgotten, evicted, and what never is."""

from __future__ import annotations

import pytest
from frames import BROADCAST, experimental, mac
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from memory_switch import GATEWAY, MemorySwitch

from vswitch.datapath._plane import Dataplane


def spoken_from(host, *numbers) -> None:
    """One frame from each of the MACs with these numbers."""
    for number in numbers:
        host.send(experimental(BROADCAST, mac(number)))
    host.switch.step()
    host.switch.flush()


def test_a_source_address_is_learnt_and_frames_for_it_go_to_its_port_alone(switch):
    a, b, c = switch.host(), switch.host(), switch.host()
    spoken_from(b, 77)
    frame = experimental(mac(77), a.mac)
    assert switch.delivered(a, frame) == {b.index: [frame]}
    assert switch.macs() == {(0, a.mac): a.index, (0, mac(77)): b.index}
    assert c.counters["tx_frames"] == 1  # the broadcast by which b spoke


def test_an_address_that_moves_is_followed_and_counted(switch):
    a, b, c = switch.host(), switch.host(), switch.host()
    spoken_from(b, 77)
    spoken_from(c, 77)
    frame = experimental(mac(77), a.mac)
    assert switch.delivered(a, frame) == {c.index: [frame]}
    assert switch.totals["fdb_moves"] == 1


def test_a_silent_address_is_forgotten_after_the_ageing_time_and_a_talking_one_is_not():
    switch = MemorySwitch(age_s=60)
    switch.network()
    a, b, c = switch.host(), switch.host(), switch.host()
    spoken_from(b, 77, 78)
    switch.step(after_s=40)
    spoken_from(b, 78)
    switch.step(after_s=25)
    assert (0, mac(77)) not in switch.macs()
    assert switch.macs()[0, mac(78)] == b.index
    frame = experimental(mac(77), a.mac)
    assert switch.delivered(a, frame) == {b.index: [frame], c.index: [frame]}
    switch.step(after_s=61)
    assert switch.macs() == {} and switch.totals["fdb_entries"] == 0
    switch.close()


def test_an_age_in_the_table_is_the_time_since_the_last_frame(switch):
    host = switch.host()
    spoken_from(host, 77)
    switch.step(after_s=12)
    assert switch.table() == [(0, host.index, mac(77), False, 12)]


def test_one_ports_flood_of_addresses_recycles_its_own_and_evicts_nobody_elses():
    switch = MemorySwitch(mac_share=8)
    switch.network()
    quiet, loud = switch.host(), switch.host()
    spoken_from(quiet, 1001, 1002, 1003)
    for start in range(2000, 3000, 50):
        spoken_from(loud, *range(start, start + 50))
    table = switch.macs()
    assert [number for number in (1001, 1002, 1003) if table.get((0, mac(number))) == quiet.index] == [
        1001,
        1002,
        1003,
    ]
    assert sorted(key[1] for key, port in table.items() if port == loud.index) == [
        mac(number) for number in range(2992, 3000)
    ]
    assert switch.totals["fdb_evictions"] == 992
    switch.close()


def test_a_port_at_its_share_keeps_the_addresses_that_spoke_last():
    switch = MemorySwitch(mac_share=3)
    switch.network()
    host = switch.host()
    for number in (1, 2, 3):
        spoken_from(host, number)
        switch.step(after_s=1)
    spoken_from(host, 1)
    spoken_from(host, 4)
    assert {key[1] for key in switch.macs()} == {mac(1), mac(3), mac(4)}
    switch.close()


def test_a_full_table_takes_the_oldest_from_the_port_that_holds_most():
    switch = MemorySwitch(mac_capacity=10, mac_share=8)
    switch.network()
    greedy, modest, newcomer = switch.host(), switch.host(), switch.host()
    spoken_from(greedy, *range(100, 107))
    spoken_from(modest, 200, 201, 202)
    spoken_from(newcomer, 300)
    table = switch.macs()
    assert len(table) == 10 and table[0, mac(300)] == newcomer.index
    assert (0, mac(100)) not in table and all((0, mac(number)) in table for number in (*range(101, 107), 200, 201, 202))
    switch.close()


def test_a_move_to_a_port_at_its_share_pushes_out_that_ports_oldest():
    switch = MemorySwitch(mac_share=2)
    switch.network()
    a, b = switch.host(), switch.host()
    spoken_from(a, 1)
    spoken_from(b, 2, 3)
    spoken_from(b, 1)
    assert switch.macs() == {(0, mac(3)): b.index, (0, mac(1)): b.index}
    switch.close()


def test_a_table_full_of_static_entries_learns_nothing_and_floods_on():
    switch = MemorySwitch(mac_capacity=2)
    switch.network()
    a, b = switch.host(assigned=True), switch.host(assigned=True)
    free, other = switch.host(), switch.host()
    frame = experimental(BROADCAST, free.mac)
    assert set(switch.delivered(free, frame)) == {a.index, b.index, other.index}
    assert switch.macs() == {(0, a.mac): a.index, (0, b.mac): b.index}
    assert free.drops == {}
    switch.close()


def test_an_endpoint_for_which_the_table_has_no_room_is_reported_gone():
    switch = MemorySwitch(mac_capacity=1)
    switch.network()
    first, second = switch.host(assigned=True), switch.host(assigned=True)
    assert [(network, port) for _, network, port, *_ in switch.plane.events()] == [(0, second.index)]
    second.send(experimental(first.mac, second.mac))
    switch.step()
    assert first.received() == [] and second.counters["rx_frames"] == 0
    second.leave()
    assert switch.macs() == {(0, first.mac): first.index}
    switch.close()


def test_an_assigned_address_is_in_the_table_before_it_ever_spoke_and_does_not_age(switch):
    a, b = switch.host(), switch.host(assigned=True)
    switch.step(after_s=100_000)
    assert switch.table() == [(0, b.index, b.mac, True, 0)]
    frame = experimental(b.mac, a.mac)
    assert switch.delivered(a, frame) == {b.index: [frame]}


def test_an_assigned_address_is_taken_from_whoever_had_learnt_it(switch):
    squatter, asker = switch.host(), switch.host()
    spoken_from(squatter, 77)
    owner = switch.host(mac=mac(77), assigned=True)
    frame = experimental(mac(77), asker.mac)
    assert switch.delivered(asker, frame) == {owner.index: [frame]}


def test_no_other_port_can_take_an_assigned_address(switch):
    owner, thief = switch.host(assigned=True), switch.host()
    assert switch.delivered(thief, experimental(BROADCAST, owner.mac)) == {}
    assert thief.drops == {"mac_spoof": 1}
    assert switch.macs()[0, owner.mac] == owner.index


def test_an_assigned_address_is_static_without_the_guard_too_and_its_port_may_show_others(switch):
    bridge, asker = switch.host(assigned=True, guard=False), switch.host()
    spoken_from(bridge, 77)
    assert switch.macs()[0, mac(77)] == bridge.index
    thief = switch.host()
    assert switch.delivered(thief, experimental(asker.mac, bridge.mac)) == {}
    assert thief.drops == {"mac_spoof": 1}


def test_what_was_learnt_from_a_port_goes_with_it(switch):
    a, b = switch.host(), switch.host()
    spoken_from(b, 77, 78)
    b.leave()
    assert set(switch.macs()) <= {(0, a.mac)}
    frame = experimental(mac(77), a.mac)
    assert switch.delivered(a, frame) == {}
    assert a.drops == {"unknown_unicast": 1}


def test_a_port_that_leaves_after_its_successor_came_leaves_the_successors_entry_alone(switch):
    before = switch.host(mac=mac(77), assigned=True)
    after = switch.host(mac=mac(77), assigned=True)
    before.leave()
    asker = switch.host()
    frame = experimental(mac(77), asker.mac)
    assert switch.delivered(asker, frame) == {after.index: [frame]}


def test_the_same_address_in_two_networks_is_two_entries(switch):
    switch.network(1)
    a, b = switch.host(network=0), switch.host(network=1)
    spoken_from(a, 77)
    spoken_from(b, 77)
    assert switch.macs() == {(0, mac(77)): a.index, (1, mac(77)): b.index}
    assert switch.totals["fdb_moves"] == 0


@pytest.mark.parametrize(
    "limits",
    [
        {"mac_capacity": 0},
        {"mac_share": 0},
        {"neighbour_capacity": 0},
        {"age_s": 0},
        {"mac_capacity": 1 << 31},
        {"neighbour_capacity": 1 << 31},
        {"age_s": 1 << 31},
    ],
)
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(ValueError, match="at least 1"):
        Dataplane(**limits)


class MacTable(RuleBasedStateMachine):
    """The table against a dictionary: per port an ordered list of what it showed, capacity and share as in
    _fdb.pyx."""

    CAPACITY, SHARE, AGE_S = 12, 4, 30

    @initialize(seed=st.integers(0, 2**64 - 1))
    def start(self, seed):
        self.switch = MemorySwitch(mac_capacity=self.CAPACITY, mac_share=self.SHARE, age_s=self.AGE_S, seed=seed)
        self.switch.network()
        self.hosts = []
        self.seen: dict[int, dict[int, int]] = {}  # port → MAC number → second, oldest first
        self.static: dict[int, int] = {}  # MAC number → port

    @rule(assigned=st.booleans())
    @precondition(lambda self: len(self.hosts) < 6)
    def join(self, assigned):
        host = self.switch.host(assigned=assigned, guard=False)
        self.hosts.append(host)
        self.seen[host.index] = {}
        if assigned:
            if self.size() == self.CAPACITY:
                self.evict_from_fullest(host.index)
            self.static[int.from_bytes(host.mac[2:], "big")] = host.index

    @rule(which=st.integers(0, 5), number=st.integers(1000, 1020))
    @precondition(lambda self: self.hosts)
    def speak(self, which, number):
        host = self.hosts[which % len(self.hosts)]
        host.send(experimental(BROADCAST, mac(number)))
        self.switch.step()
        self.switch.flush()
        mine = self.seen[host.index]
        owner = next((port for port, numbers in self.seen.items() if number in numbers), None)
        if owner == host.index:
            self.refresh(mine, number)
            return
        if owner is not None:
            del self.seen[owner][number]
            if len(mine) == self.SHARE:
                mine.pop(next(iter(mine)))
        elif len(mine) == self.SHARE:
            mine.pop(next(iter(mine)))
        elif self.size() == self.CAPACITY:
            self.evict_from_fullest(host.index)
        mine[number] = self.second()

    def refresh(self, mine, number):
        if mine[number] != self.second():
            del mine[number]
            mine[number] = self.second()

    def evict_from_fullest(self, port):
        fullest = port
        for other in sorted(self.seen):
            if len(self.seen[other]) > len(self.seen[fullest]):
                fullest = other
        self.seen[fullest].pop(next(iter(self.seen[fullest])))

    @rule(which=st.integers(0, 5))
    @precondition(lambda self: self.hosts)
    def leave(self, which):
        host = self.hosts.pop(which % len(self.hosts))
        host.leave()
        del self.seen[host.index]
        self.static = {number: port for number, port in self.static.items() if port != host.index}

    @rule(seconds=st.sampled_from([1, 10, 31]))
    def wait(self, seconds):
        self.switch.step(after_s=seconds)
        for port, numbers in self.seen.items():
            self.seen[port] = {number: at for number, at in numbers.items() if self.second() - at < self.AGE_S}

    def second(self):
        return self.switch.now_ns // 1_000_000_000

    def size(self):
        return len(self.static) + sum(map(len, self.seen.values()))

    @invariant()
    def agrees(self):
        if not hasattr(self, "switch"):
            return
        expected = {(0, mac(number)): port for port, numbers in self.seen.items() for number in numbers}
        expected |= {(0, mac(number)): port for number, port in self.static.items()}
        assert self.switch.macs() == expected
        assert self.switch.totals["fdb_entries"] == len(expected) <= self.CAPACITY

    def teardown(self):
        if hasattr(self, "switch"):
            self.switch.close()


TestMacTable = MacTable.TestCase
TestMacTable.settings = __import__("hypothesis").settings(max_examples=40, stateful_step_count=40)


def test_the_gateways_address_is_nobodys_to_learn(switch):
    host = switch.host()
    assert switch.delivered(host, experimental(BROADCAST, GATEWAY)) == {}
    assert host.drops == {"gateway_spoof": 1} and switch.macs() == {}
