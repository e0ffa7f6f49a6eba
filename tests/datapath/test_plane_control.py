# SPDX-License-Identifier: Apache-2.0
"""Between dataplane and control: questions punted, frames injected, commands, snapshots, captures, and rings that fill up."""
from __future__ import annotations

import errno
import gc
import os
import random
import struct

import dpkt
import frames
import pytest
import reference
from frames import BROADCAST, C_TAG, Frame, dhcp, experimental, ipv4, mac, tagged, udp, who_has
from hypothesis import given
from hypothesis import strategies as st
from memory_switch import GATEWAY, START_NS, MemorySwitch

from vswitch._fastpath import limits
from vswitch.datapath._plane import NOBODY, Dataplane
from vswitch.observe import pcapng
from vswitch.observe._pcapng import Capture, Outcome

BURST, PER_S = limits()["punt_burst"], limits()["punt_per_s"]
PUNT_DHCP = 1


# ---- punts


def test_a_dhcp_question_goes_to_control_alone_with_its_port_and_time(switch):
    a, b = switch.host(), switch.host()
    question = dhcp(a.mac)
    assert switch.delivered(a, question) == {}
    punt, = switch.punts()
    assert vars(punt) == {"kind": PUNT_DHCP, "network": 0, "port": a.index, "frame": question, "time_ns": START_NS}
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
    a.send(ipv4(BROADCAST, a.mac, "0.0.0.0", "255.255.255.255", 17, fits[34:34 + 80], more=True))
    super_frame = reference.unfinished(udp(BROADCAST, a.mac, "0.0.0.0", "255.255.255.255", bytes(400), sport=68, dport=67))
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


# ---- injected frames


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


# ---- commands and events


def test_commands_are_carried_out_in_order_and_their_tickets_count_up(switch):
    first, second = switch.plane.post_poke(), switch.plane.post_poke()
    assert second == first + 1 and switch.plane.completed == first - 1
    switch.step()
    assert switch.plane.completed == second


def test_a_full_command_ring_refuses_and_asks_for_nothing(switch):
    plane, accepted = switch.plane, 0
    while (ticket := plane.post_poke()) is not None:
        accepted, last = accepted + 1, ticket
    assert accepted > 5000
    before = (plane.totals()["networks"], len(os.listdir("/proc/self/fd")))
    fd = os.dup(0)
    assert plane.post_network_add(1, mtu=1500, gateway_mac=GATEWAY, dhcp=False) is None
    assert plane.post_port_add(7, fd, 0, kind="packet", vnet_header=False, gso=0) is None
    assert plane.post_snapshot(True) is None and plane.post_neighbour(0, bytes(4), bytes(6)) is None
    os.close(fd)
    switch.step()
    assert plane.completed == last
    assert (plane.totals()["networks"], len(os.listdir("/proc/self/fd"))) == before
    with pytest.raises(KeyError):
        plane.port_counters(7)
    assert plane.post_network_add(1, mtu=1500, gateway_mac=GATEWAY, dhcp=False) == last + 1


def test_nothing_asked_in_one_breath_is_freed_twice():
    """A network's list of ports is the dataplane's own: it grows after its removal was posted."""
    for _ in range(20):
        switch = MemorySwitch()
        plane, a, _ = switch.plane, *os.pipe()
        for index in range(40):
            plane.post_network_add(index, mtu=1500, gateway_mac=GATEWAY, dhcp=False)
            for port in range(10):
                plane.post_port_add(100 * index + port, a, index, kind="packet", vnet_header=False, gso=0, mac=mac(port))
            for port in range(10):
                plane.post_port_remove(100 * index + port)
            plane.post_network_remove(index)
        switch.step()
        assert (switch.totals["networks"], switch.totals["ports"], switch.totals["fdb_entries"]) == (0, 0, 0)
        switch.network()
        switch.close()
        os.close(a)
        os.close(_)


def test_a_network_with_ports_is_not_removed(switch):
    a = switch.host()
    with pytest.raises(ValueError, match="ports"):
        switch.plane.post_network_remove(0)
    a.leave()
    assert switch.plane.post_network_remove(0)
    switch.step()
    assert switch.totals["networks"] == 0


def test_nonsense_is_refused_before_it_reaches_the_dataplane(switch):
    plane, host = switch.plane, switch.host()
    port = {"kind": "packet", "vnet_header": False, "gso": 0}
    for ask in (
        lambda: plane.post_network_add(0, mtu=1500, gateway_mac=GATEWAY, dhcp=False),
        lambda: plane.post_network_add(4096, mtu=1500, gateway_mac=GATEWAY, dhcp=False),
        lambda: plane.post_network_add(1, mtu=1500, gateway_mac=b"short", dhcp=False),
        lambda: plane.post_port_add(host.index, 0, 0, **port),
        lambda: plane.post_port_add(65535, 0, 0, **port),
        lambda: plane.post_port_add(9, 0, 5, **port),
        lambda: plane.post_port_add(9, 0, 0, **{**port, "kind": "tun"}),
        lambda: plane.post_port_add(9, 0, 0, mac=b"1234567", **port),
        lambda: plane.post_neighbour(5, bytes(4), bytes(6)),
        lambda: plane.post_neighbour(0, bytes(5), bytes(6)),
        lambda: plane.post_neighbour(0, bytes(4), bytes(7)),
        lambda: plane.post_network_mtu(5, 1500),
        lambda: plane.post_capture(8, 0),
    ):
        with pytest.raises(ValueError, match="no |taken|has"):
            ask()
    for ask in (lambda: plane.post_network_remove(5), lambda: plane.post_port_remove(9), lambda: plane.network_drops(5)):
        with pytest.raises(KeyError):
            ask()
    assert plane.completed == plane.post_poke() - 1


def test_events_that_found_no_room_are_counted(switch):
    for index in range(3000):
        switch.plane.post_port_add(1000 + index, -1, 0, kind="packet", vnet_header=False, gso=0)
    switch.step()
    events = switch.plane.events()
    assert len(events) + switch.totals["events_lost"] == 3000 and len(events) > 2000
    assert events == [(1, 0, 1000 + number, errno.EBADF) for number in range(len(events))]


def test_control_is_told_once_until_it_looks(switch):
    fd = switch.plane.notify_fd
    switch.plane.listen()
    for _ in range(3):
        switch.plane.post_poke()
        switch.step()
    assert os.read(fd, 8) == struct.pack("=Q", 1)
    switch.plane.post_poke()
    switch.step()
    with pytest.raises(BlockingIOError):
        os.read(fd, 8)
    switch.plane.listen()
    switch.plane.post_poke()
    switch.step()
    assert os.read(fd, 8) == struct.pack("=Q", 1)


def test_a_dataplane_gives_its_descriptors_and_memory_back_even_when_it_dies_in_a_cycle():
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        plane = Dataplane(mac_capacity=4, neighbour_capacity=4)
        plane.post_network_add(0, mtu=1500, gateway_mac=GATEWAY, dhcp=False)
        plane.post_port_add(1, -1, 0, kind="packet", vnet_header=False, gso=0)
        plane.step(1)
        plane.post_port_remove(1)
        cycle = [plane, plane.post_snapshot(True)]
        cycle.append(cycle)
        del plane, cycle
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


# ---- snapshots


def filled(per_port: int = 1000, ports: int = 5) -> tuple[MemorySwitch, list]:
    """A switch whose ports have shown `per_port` addresses each."""
    switch = MemorySwitch(mac_share=4096)
    switch.network()
    hosts = [switch.host() for _ in range(ports)]
    for number, host in enumerate(hosts):
        for start in range(0, per_port, 100):
            for at in range(start, start + 100):
                host.send(experimental(host.mac, mac(100_000 * (number + 1) + at)))
            switch.step()
    return switch, hosts


def test_a_big_table_is_copied_whole_in_slices(switch):
    switch, hosts = filled()
    rows = switch.table()
    assert len(rows) == len({row[:3] for row in rows}) == 5000
    assert {(row[1], row[2]) for row in rows} == {(host.index, mac(100_000 * (number + 1) + at))
                                                 for number, host in enumerate(hosts) for at in range(1000)}
    switch.close()


def test_no_more_than_a_slice_is_copied_between_two_batches():
    switch, _ = filled(500, 4)
    wakeups = switch.totals["wakeups"]
    assert len(switch.table()) == 2000
    assert switch.totals["wakeups"] - wakeups >= 2000 // limits()["snapshot_rows"]
    switch.close()


def test_rows_that_live_throughout_appear_once_though_the_table_changes_meanwhile():
    switch, (first, second, *_) = filled()
    _, table = switch.plane.post_snapshot(True)
    for at in range(150):
        first.send(experimental(BROADCAST, mac(200_000 + 7 * at)))      # they move from `second`
        second.send(experimental(BROADCAST, mac(900_000 + at)))         # these are new
    switch.step()
    rows = {}
    for _, port, address, _, _ in table.rows():
        assert address not in rows
        rows[address] = port
    moved = {mac(200_000 + 7 * at) for at in range(150)}
    for number, host in enumerate(switch.hosts):
        for address in {mac(100_000 * (number + 1) + at) for at in range(1000)} - moved:
            assert rows[address] == host.index
    assert all(rows[address] in (first.index, second.index) for address in moved)
    switch.close()


def test_several_snapshots_at_once_are_all_finished():
    switch, _ = filled(300, 2)
    tables = [switch.plane.post_snapshot(fdb)[1] for fdb in (True, False, True)]
    assert [table.done for table in tables] == [False] * 3
    with pytest.raises(RuntimeError, match="still"):
        tables[0].rows()
    switch.step()
    assert [len(table.rows()) for table in tables] == [600, 0, 600]
    switch.close()


def test_a_snapshot_that_nobody_waits_for_does_no_harm():
    switch, _ = filled(300, 2)
    switch.plane.post_snapshot(True)
    gc.collect()
    switch.step()
    assert len(switch.table()) == 600
    switch.close()


# ---- captures


@pytest.fixture
def captured(switch, tmp_path):
    """A function that gives what a capture of some hosts has seen: (host name, frame, direction, drop), and starts anew."""
    fd = os.open(tmp_path / "x.pcapng", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    capture = Capture(snaplen=262144, reasons={})
    capture.open_section(fd, pcapng.section_header(hardware="h", system="s", application="a"))
    switch.plane.post_capture(0, capture.address)

    def seen() -> list[tuple[int, int, Frame]]:
        while capture.pump() is Outcome.INTERFACE:
            capture.declare(capture.port, pcapng.interface_description(f"p{capture.port}/eth0", snaplen=262144))
        capture.flush()
        raw = os.pread(fd, 1 << 24, 0)
        os.ftruncate(fd, 0)
        return packets_of(raw, seen.ports)

    seen.ports = []
    yield seen
    switch.plane.post_capture(0, 0)
    switch.step()
    os.close(fd)


def packets_of(raw: bytes, ports: list[int]) -> list[tuple[int, int, Frame]]:
    """(port, direction, frame) of every packet block; `ports` remembers the interfaces from call to call."""
    found, at = [], 0
    while at < len(raw):
        kind, total = struct.unpack_from("<II", raw, at)
        block = raw[at:at + total]
        if kind == 1:
            ports.append(int(block[block.index(b"p") + 1:].split(b"/")[0]))
        if kind == 6:
            interface, _, _, captured = struct.unpack_from("<IIII", block, 8)
            options = block[28 + (captured + 3) // 4 * 4:]
            found.append((ports[interface], struct.unpack_from("<HHI", options)[2] & 3, Frame(block[28:28 + captured])))
        at += total
    return found


INTO, OUT_OF = 1, 2


def watch(switch, *hosts) -> None:
    for host in hosts:
        switch.plane.post_capture_port(host.index, 1)
    switch.step()


def test_a_capture_sees_every_crossing_of_a_frame_once(switch, captured):
    a, b, c = (switch.host() for _ in range(3))
    watch(switch, a, b, c)
    flooded = experimental(BROADCAST, a.mac)
    a.send(flooded)
    switch.step()
    assert captured() == [(a.index, INTO, flooded), (b.index, OUT_OF, flooded), (c.index, OUT_OF, flooded)]
    unicast = experimental(a.mac, b.mac)
    b.send(unicast)
    switch.step()
    assert captured() == [(b.index, INTO, unicast), (a.index, OUT_OF, unicast)]


def test_a_capture_sees_dropped_answered_punted_and_injected_frames(switch, captured):
    a, b = switch.host(assigned=True), switch.host()
    switch.bind("172.17.0.1")
    watch(switch, a)
    spoofed, question = experimental(BROADCAST, b.mac), who_has(a.mac, "172.17.0.2", "172.17.0.1")
    asked, injected = dhcp(a.mac), experimental(a.mac, GATEWAY)
    for frame in (b"short", spoofed, question, asked, experimental(mac(4711), a.mac)):
        a.send(frame)
    switch.inject(injected, 0, port=a.index)
    switch.step()
    answer = frames.is_at(GATEWAY, "172.17.0.1", "172.17.0.2", tha=a.mac, to=a.mac)
    assert captured() == [
        (a.index, OUT_OF, injected), (a.index, INTO, b"short"), (a.index, INTO, spoofed), (a.index, INTO, question),
        (a.index, OUT_OF, answer), (a.index, INTO, asked), (a.index, INTO, experimental(mac(4711), a.mac)),
    ]


def test_a_capture_sees_segments_where_a_frame_leaves_in_segments_and_checksums_are_finished(switch, captured):
    a, b = switch.host(vnet=True, gso=7), switch.host()
    watch(switch, a, b)
    frame = reference.unfinished(frames.tcp(BROADCAST, a.mac, "10.0.0.1", "10.0.0.2", bytes(3000)))
    a.send(frame, frames.offload_header(frame, frames.GSO_TCPV4, 1400))
    switch.step()
    assert captured() == [(a.index, INTO, reference.finished(frame)),
                          *((b.index, OUT_OF, one) for one in reference.segments(frame, 1400))]


def test_a_lying_offload_header_does_not_confuse_a_capture(switch, captured):
    a = switch.host(vnet=True)
    watch(switch, a)
    frame = experimental(BROADCAST, a.mac)
    for header in (frames.vnet(1, 1, 1, 1, 65535, 65535), frames.vnet(1, 0, 0, 0, 0, 0), frames.vnet(255, 255, 65535, 0, 12, 1)):
        a.send(frame, header)
        a.send(frame[:13], header)
    switch.step()
    assert captured() == [(a.index, INTO, frame), (a.index, INTO, frame[:13])] * 3


def test_ports_that_are_not_watched_are_not_captured(switch, captured):
    a, b = switch.host(), switch.host()
    watch(switch, b)
    a.send(experimental(BROADCAST, a.mac))
    switch.plane.post_capture_port(9999, 1)
    switch.step()
    assert [port for port, *_ in captured()] == [b.index]
    switch.plane.post_capture_port(b.index, 0)
    a.send(experimental(BROADCAST, a.mac))
    switch.step()
    assert captured() == []


# ---- fairness


TURN, COPY = limits()["turn_cost_bytes"], limits()["copy_cost_bytes"]


def order_of_arrival(switch, receiver, quiet) -> list[int]:
    """At which places among the receiver's frames the quiet port's stand."""
    return [at for at, frame in enumerate(receiver.received()) if frame[6:12] == quiet.mac]


def test_a_quiet_ports_frame_waits_for_one_turn_of_a_flooding_port_at_most(switch):
    flooders, quiet, receiver = [switch.host() for _ in range(4)], switch.host(), switch.host()
    switch.delivered(receiver, experimental(BROADCAST, receiver.mac))
    for _ in range(50):
        for flooder in flooders:
            flooder.send(experimental(receiver.mac, flooder.mac))
    quiet.send(experimental(receiver.mac, quiet.mac))
    switch.step()
    turn = TURN // (2 * COPY) + 1
    at, = order_of_arrival(switch, receiver, quiet)
    assert at <= len(flooders) * turn < 200


def test_copies_made_by_flooding_shorten_the_turn(switch):
    flooder, quiet, receivers = switch.host(), switch.host(), [switch.host() for _ in range(30)]
    for _ in range(100):
        flooder.send(experimental(BROADCAST, flooder.mac, bytes(500)))
    quiet.send(experimental(BROADCAST, quiet.mac))
    switch.step()
    at, = order_of_arrival(switch, receivers[0], quiet)
    assert at <= TURN // (31 * (COPY + 514)) + 1 < 5


def test_a_port_that_overdrew_its_turn_sits_out_until_the_debt_is_paid():
    switch = MemorySwitch(mac_capacity=64, neighbour_capacity=4)
    switch.network()
    flooder, quiet, receiver = switch.host(vnet=True), switch.host(), switch.host()
    super_frame = reference.unfinished(frames.tcp(BROADCAST, flooder.mac, "10.0.0.1", "10.0.0.2", bytes(64 * 150)))
    others = [switch.host() for _ in range(10)]
    for _ in range(2):
        flooder.send(super_frame, frames.offload_header(super_frame, frames.GSO_TCPV4, 64))
    for _ in range(100):
        quiet.send(experimental(receiver.mac, quiet.mac))
    switch.step()
    at = order_of_arrival(switch, receiver, quiet)
    assert len(at) == 100 and at[-1] < 150 + 100
    assert sum(len(host.received()) for host in others) >= 10 * 150
    switch.close()
