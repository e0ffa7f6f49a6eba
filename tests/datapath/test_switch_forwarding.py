# SPDX-License-Identifier: Apache-2.0
"""Where frames go, which sizes and tags they may have, and that nothing ever crosses from one network to
another."""

from __future__ import annotations

import contextlib
import errno
import socket

import frames
import pytest
from frames import BROADCAST, C_TAG, S_TAG, ethernet, experimental, mac, tagged, vnet
from hypothesis import given
from hypothesis import strategies as st
from memory_switch import GATEWAY, MemorySwitch


@pytest.fixture
def trio(switch):
    return [switch.host() for _ in range(3)]


def everyone_speaks(switch) -> None:
    for host in switch.hosts:
        host.send(experimental(BROADCAST, host.mac))
    switch.step()
    switch.flush()


# ---- destinations


def test_a_broadcast_reaches_everybody_else(switch, trio):
    a, b, c = trio
    frame = experimental(BROADCAST, a.mac)
    assert switch.delivered(a, frame) == {b.index: [frame], c.index: [frame]}


@pytest.mark.parametrize("group", ["01005e000001", "3333ff000001", "01000ccccccc", "0180c2000010", "01005e7fffff"])
def test_a_multicast_reaches_everybody_else(switch, trio, group):
    a, b, c = trio
    frame = experimental(bytes.fromhex(group), a.mac)
    assert switch.delivered(a, frame) == {b.index: [frame], c.index: [frame]}


@pytest.mark.parametrize("last", range(16))
def test_a_reserved_group_stays_on_its_link(switch, trio, last):
    a = trio[0]
    assert switch.delivered(a, experimental(bytes.fromhex("0180c20000") + bytes([last]), a.mac)) == {}
    assert a.drops == {"reserved_group": 1}


def test_an_unknown_address_is_sought_only_where_it_can_live(switch, trio):
    a, b, c = trio
    guarded, open_but_assigned = switch.host(assigned=True), switch.host(assigned=True, guard=False)
    frame = experimental(mac(4711), a.mac)
    assert set(switch.delivered(a, frame)) == {b.index, c.index, open_but_assigned.index}
    assert guarded.counters["tx_frames"] == 0


def test_an_unknown_address_among_guarded_endpoints_is_nobody(switch):
    a, b = switch.host(assigned=True), switch.host(assigned=True)
    assert switch.delivered(a, experimental(mac(4711), a.mac)) == {}
    assert a.drops == {"unknown_unicast": 1} and b.counters["tx_frames"] == 0


def test_a_frame_for_its_own_port_goes_nowhere(switch, trio):
    a = trio[0]
    everyone_speaks(switch)
    assert switch.delivered(a, experimental(a.mac, a.mac)) == {}
    a.send(experimental(BROADCAST, mac(99)))
    switch.step()
    assert switch.delivered(a, experimental(mac(99), a.mac)) == {}
    assert a.drops == {"same_port": 2}


def test_a_broadcast_of_the_only_member_ends_quietly(switch):
    alone = switch.host()
    assert switch.delivered(alone, experimental(BROADCAST, alone.mac)) == {}
    assert alone.drops == {} and alone.counters["rx_frames"] == 1


# ---- what is inside doesn't matter


@given(
    ethertype=st.integers(0, 0xFFFF).filter(lambda kind: kind not in (0x0806, 0x8100, 0x88A8)),
    payload=st.binary(max_size=300),
    tags=st.lists(st.tuples(st.sampled_from([C_TAG, S_TAG]), st.integers(1, 4094)), max_size=2),
)
def test_any_ethertype_and_tags_are_carried_unchanged(ethertype, payload, tags):
    switch = MemorySwitch(mac_capacity=64, neighbour_capacity=64)
    switch.network()
    a, b = switch.host(), switch.host()
    everyone_speaks(switch)
    frame = tagged(ethernet(b.mac, a.mac, ethertype, payload), *tags)
    assert switch.delivered(a, frame) == {b.index: [frame]}
    switch.close()


@pytest.mark.parametrize(
    "tags",
    [
        ((C_TAG, 5),),
        ((S_TAG, 7), (C_TAG, 5)),
        ((C_TAG, 5), (C_TAG, 6)),
        ((C_TAG, 0xE005),),
        ((C_TAG, 0),),
        ((S_TAG, 1), (C_TAG, 2), (C_TAG, 3)),
        ((C_TAG, 0),) * 4,
    ],
)
def test_tagged_frames_are_carried_with_their_tags(switch, trio, tags):
    a, b, c = trio
    everyone_speaks(switch)
    for inner in (
        experimental(b.mac, a.mac),
        frames.udp(b.mac, a.mac, "10.0.0.1", "10.0.0.2"),
        frames.who_has(a.mac, "10.0.0.1", "10.0.0.2"),
    ):
        frame = tagged(inner, *tags)
        expected = {b.index: [frame]} if inner[:6] == b.mac else {b.index: [frame], c.index: [frame]}
        assert switch.delivered(a, frame) == expected


def test_frames_with_a_length_instead_of_an_ethertype_are_carried(switch, trio):
    a, b, _ = trio
    everyone_speaks(switch)
    frame = ethernet(b.mac, a.mac, 38, b"\xaa\xaa\x03" + bytes(35))
    assert switch.delivered(a, frame) == {b.index: [frame]}


def test_the_gateway_takes_no_frame_of_a_vlan(switch, trio):
    a = trio[0]
    for tags in (((C_TAG, 5),), ((C_TAG, 0), (C_TAG, 5)), ((S_TAG, 5), (C_TAG, 0))):
        assert switch.delivered(a, tagged(experimental(GATEWAY, a.mac), *tags)) == {}
    assert a.drops == {"vlan_to_gateway": 3}


# ---- sizes


def test_frames_shorter_than_their_headers_are_runts(switch, trio):
    a = trio[0]
    whole = tagged(experimental(BROADCAST, a.mac), (S_TAG, 1), (C_TAG, 2))
    for length in (1, 6, 12, 13, 14, 15, 17, 18, 21):
        a.send(whole[:length])
    switch.step()
    assert a.drops == {"runt": 9} and a.counters["rx_frames"] == 9


def test_a_frame_of_nothing_but_headers_is_carried(switch, trio):
    a, b, c = trio
    for frame in (ethernet(BROADCAST, a.mac, 0x88B5), tagged(ethernet(BROADCAST, a.mac, 0x88B5), (C_TAG, 5))):
        assert set(switch.delivered(a, frame)) == {b.index, c.index}


@pytest.mark.parametrize("length", range(12))
def test_less_than_an_offload_header_is_a_runt(switch, length):
    host = switch.host(vnet=True)
    host.socket.send(bytes(length) or b"\0")
    switch.step()
    assert host.drops == {"runt": 1}


@pytest.mark.parametrize("mtu", [68, 1500, 9000, 65520, 65535])
@pytest.mark.parametrize("tags", [(), ((C_TAG, 5),), ((S_TAG, 5), (C_TAG, 6))])
def test_a_frame_may_be_as_long_as_the_mtu_and_its_tags(mtu, tags):
    switch = MemorySwitch(mac_capacity=64, neighbour_capacity=64)
    switch.network(mtu=mtu)
    a, b = switch.host(), switch.host(vnet=True)
    longest = tagged(experimental(BROADCAST, a.mac, bytes(mtu)), *tags)
    assert switch.delivered(a, longest) == {b.index: [longest]}
    too_long = tagged(experimental(BROADCAST, a.mac, bytes(mtu + 9)), *tags)
    assert switch.delivered(a, too_long) == {}
    assert a.drops == {"oversized": 1}
    switch.close()


def test_frames_longer_than_any_buffer_are_oversized_and_counted_whole(switch):
    a, b = switch.host(), switch.host(vnet=True)
    for host in (a, b):
        host.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    a.send(experimental(BROADCAST, a.mac, bytes(150_000)))
    b.send(experimental(BROADCAST, b.mac, bytes(131072 - 13)))
    switch.step()
    for host, length in ((a, 150_014), (b, 131073)):
        assert host.drops == {"oversized": 1} and host.counters["rx_bytes"] == length
    assert a.received() == b.received() == []


def test_a_changed_mtu_holds_at_once(switch, trio):
    a, b, c = trio
    frame = experimental(BROADCAST, a.mac, bytes(4000))
    assert switch.delivered(a, frame) == {}
    switch.plane.post_network_mtu(0, 9000)
    switch.step()
    assert switch.delivered(a, frame) == {b.index: [frame], c.index: [frame]}
    switch.plane.post_network_mtu(0, 1500)
    switch.step()
    assert switch.delivered(a, frame) == {}
    assert a.drops == {"oversized": 2}


@pytest.mark.parametrize("mtu", [0, 67, 65536, 4_000_000_000])
def test_an_mtu_that_makes_no_sense_is_refused(switch, mtu):
    with pytest.raises(ValueError, match="MTU"):
        switch.plane.post_network_mtu(0, mtu)
    with pytest.raises(ValueError, match="MTU"):
        switch.plane.post_network_add(1, mtu=mtu, gateway_mac=GATEWAY, dhcp=False)


# ---- several networks


@pytest.fixture
def two_networks(switch):
    """Two hosts with the same MACs and addresses in each of two networks that have the same gateway."""
    switch.network(1)
    switch.bind("10.0.0.254", network=0)
    switch.bind("10.0.0.254", network=1)
    hosts = [switch.host(network=network, mac=mac(number)) for network in (0, 1) for number in (501, 502)]
    for host, number in zip(hosts, (1, 2, 1, 2), strict=True):
        switch.bind(f"10.0.0.{number}", host)
    return hosts


def test_the_same_addresses_in_two_networks_never_meet(switch, two_networks):
    a0, b0, a1, b1 = two_networks
    everyone_speaks(switch)
    frame = experimental(mac(502), mac(501))
    assert switch.delivered(a0, frame) == {b0.index: [frame]}
    assert switch.delivered(a1, frame) == {b1.index: [frame]}
    for group in (BROADCAST, frames.ALL_NODES):
        frame = experimental(group, mac(501))
        assert switch.delivered(a0, frame) == {b0.index: [frame]}


def test_an_address_that_lives_in_another_network_only_is_unknown(switch, two_networks):
    a0, b0, _, b1 = two_networks
    switch.delivered(b1, experimental(BROADCAST, mac(77)))
    frame = experimental(mac(77), a0.mac)
    assert switch.delivered(a0, frame) == {b0.index: [frame]}


def test_a_question_is_answered_from_ones_own_networks_bindings(switch, two_networks):
    a0, *_ = two_networks
    switch.unbind("10.0.0.2", network=0)
    assert switch.exchange(a0, frames.who_has(a0.mac, "10.0.0.1", "10.0.0.2")) == []


MACS = st.sampled_from([mac(501), mac(502), mac(503), mac(504), GATEWAY, BROADCAST, frames.ALL_NODES, bytes(6)])
BODIES = st.one_of(
    st.binary(max_size=120),
    st.builds(
        lambda op, spa, tpa: frames.arp(op, sha=mac(501), spa=spa, tpa=tpa)[14:],
        st.integers(0, 3),
        *[st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.254", "0.0.0.0"])] * 2,
    ),
    st.builds(
        lambda dst: frames.udp(BROADCAST, BROADCAST, "10.0.0.1", dst)[14:],
        st.sampled_from(["10.0.0.2", "10.0.0.254", "8.8.8.8"]),
    ),
    st.builds(lambda dst: frames.dhcp(mac(501), dst=dst)[14:], st.sampled_from(["10.0.0.254", "255.255.255.255"])),
)
SENT = st.tuples(
    st.integers(0, 5),
    MACS,
    MACS,
    st.sampled_from([0x0800, 0x0806, 0x86DD, 0x8100, 0x88B5]),
    BODIES,
    st.one_of(
        st.just(bytes(12)),
        st.builds(
            vnet,
            st.integers(0, 7),
            st.sampled_from([0, 1, 4, 5]),
            st.integers(0, 80),
            st.integers(0, 2000),
            st.integers(0, 80),
            st.integers(0, 40),
        ),
    ),
)


@given(sent=st.lists(SENT, max_size=25))
def test_nothing_ever_crosses_between_networks(sent):
    switch = MemorySwitch(mac_capacity=64, neighbour_capacity=64)
    for network in (0, 1, 2):
        switch.network(network)
        switch.bind("10.0.0.254", network=network)
    hosts = [
        switch.host(network=number % 2, mac=mac(501 + number // 2), assigned=number < 2, vnet=number in (2, 3))
        for number in range(6)
    ]
    for number, host in enumerate(hosts):
        switch.bind(f"10.0.0.{1 + number // 2}", host)
    for number, to, source, ethertype, body, header in sent:
        host = hosts[number]
        marked = ethernet(to, source, ethertype, body) + b"network %d" % host.network
        host.send(marked, header if host.vnet else None)
        switch.step()
        for other in hosts:
            got = other.received()
            assert other.network == host.network or got == [], (host, other, got)
            assert all(b"network %d" % (1 - host.network) not in frame for frame in got)
        assert {punt.network for punt in switch.punts()} <= {host.network}
        assert {network for network, *_ in switch.table()} <= {0, 1}
    assert all(network == port % 2 ^ 1 for (network, _), port in switch.macs().items())  # ports count from 1
    assert switch.plane.network_drops(2) == {}
    switch.close()


# ---- ports come and go


def test_ports_are_added_and_removed_while_frames_wait(switch, trio):
    a, b, c = trio
    for number in range(50):
        a.send(experimental(BROADCAST, a.mac, b"%d" % number))
    switch.plane.post_port_remove(b.index)
    switch.hosts.remove(b)
    d = switch.host()
    assert [len(host.received()) for host in (b, c, d)] == [0, 50, 50]
    b.close()


def test_an_index_is_free_again_once_its_port_has_gone(switch, trio):
    a, b, _ = trio
    b.leave()
    again = switch.host(index=b.index)
    assert again.counters["rx_frames"] == 0
    frame = experimental(BROADCAST, a.mac)
    assert switch.delivered(a, frame)[again.index] == [frame]


def test_a_thousand_ports_come_and_go_in_any_order(switch):
    watcher = switch.host()
    for _ in range(3):
        hosts = [switch.host() for _ in range(60)]
        assert len(switch.delivered(watcher, experimental(BROADCAST, watcher.mac))) == 60
        for host in hosts[::2] + hosts[1::2]:
            host.leave()
        assert switch.totals["ports"] == 1
    assert switch.delivered(watcher, experimental(BROADCAST, watcher.mac)) == {}


def test_a_peer_that_closes_is_reported_once_with_what_it_had_sent_before(switch, trio):
    a, b, c = trio
    for number in range(100):
        a.send(experimental(BROADCAST, a.mac, b"%d" % number))
    a.socket.close()
    switch.step()
    assert [len(host.received()) for host in (b, c)] == [100, 100]
    assert switch.plane.events() == [(1, 0, a.index, errno.ENOTCONN, None)]
    wakeups = switch.totals["wakeups"]
    assert switch.step() == 0 and switch.totals["wakeups"] == wakeups + 1
    frame = experimental(BROADCAST, b.mac)
    assert switch.delivered(b, frame) == {c.index: [frame]}
    assert switch.plane.events() == []


def test_a_peer_that_shuts_its_sending_side_is_gone_and_costs_nothing(switch, trio):
    a, b, c = trio
    a.send(experimental(BROADCAST, a.mac))
    a.socket.shutdown(socket.SHUT_WR)
    switch.step()
    assert len(b.received()) == len(c.received()) == 1
    assert [(port, network) for _, network, port, *_ in switch.plane.events()] == [(a.index, 0)]
    assert switch.step() == 0


def test_a_peer_that_shuts_its_receiving_side_is_gone_at_the_next_frame_for_it(switch, trio):
    a, b, c = trio
    b.socket.shutdown(socket.SHUT_RD)
    frame = experimental(BROADCAST, a.mac)
    assert switch.delivered(a, frame) == {c.index: [frame]}
    assert switch.plane.events() == [(1, 0, b.index, errno.EPIPE, None)]
    assert b.drops == {"tx_error": 1}


def passrights_can_be_refused() -> bool:
    """SO_PASSRIGHTS, since Linux 6.16."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, 83, 0)
        return True
    return False


@pytest.mark.skipif(not passrights_can_be_refused(), reason="before Linux 6.16 a socket takes what it is sent")
def test_a_peer_cannot_make_the_switch_close_its_descriptors(switch, trio):
    """Closing a socket that lingers takes as long as its owner has chosen."""
    a, b, _ = trio
    with socket.socket() as lingering, pytest.raises(PermissionError):
        socket.send_fds(a.socket, [experimental(BROADCAST, a.mac)], [lingering.fileno()])
    switch.step()
    assert b.received() == []


def test_an_empty_message_is_no_frame_and_no_end(switch, trio):
    a, b, c = trio
    frame = experimental(BROADCAST, a.mac)
    for message in (b"", b"", frame, b"", frame):
        a.socket.send(message)
    switch.step()
    assert b.received() == c.received() == [frame, frame]
    assert switch.plane.events() == []


@pytest.mark.parametrize("fd", [-1, 999_999])
def test_a_descriptor_that_cannot_be_polled_is_reported_gone(switch, fd):
    index = next(switch.indexes)
    switch.plane.post_port_add(index, fd, 0, kind="packet", vnet_header=False, gso=0, guard=False)
    switch.step()
    assert switch.plane.events() == [(1, 0, index, errno.EBADF, None)]
    switch.plane.post_port_remove(index)
    switch.step()
    assert switch.totals["ports"] == 0


def test_the_same_descriptor_twice_is_reported_gone_and_the_first_port_lives(switch, trio):
    a, b, _ = trio
    index = next(switch.indexes)
    switch.plane.post_port_add(index, a.port.fileno(), 0, kind="packet", vnet_header=False, gso=0, guard=False)
    switch.step()
    assert switch.plane.events() == [(1, 0, index, errno.EEXIST, None)]
    switch.plane.post_port_remove(index)
    switch.step()
    frame = experimental(BROADCAST, a.mac)
    assert switch.delivered(a, frame)[b.index] == [frame]


def test_descriptors_of_ports_are_never_closed_by_the_switch(switch, trio):
    for host in trio:
        switch.plane.post_port_remove(host.index)
    switch.step()
    assert all(host.port.getpeername() is not None for host in trio)
    for host in list(switch.hosts):
        switch.hosts.remove(host)
        host.close()


def test_a_receiver_that_does_not_read_loses_frames_and_nobody_else_does(switch, trio):
    a, b, c = trio
    got = 0
    for number in range(600):
        a.send(experimental(BROADCAST, a.mac, b"%d" % number))
        switch.step()
        got += len(c.received())
    assert got == 600
    assert b.counters["tx_frames"] + b.drops["tx_full"] == 600 and set(b.drops) == {"tx_full"}
    assert a.drops == c.drops == {}
    assert len(b.received()) == b.counters["tx_frames"]


def test_a_frame_that_a_receivers_socket_can_never_take_is_an_error_at_the_receiver():
    switch = MemorySwitch()
    switch.network(mtu=65520)
    a, b = switch.host(), switch.host()
    b.port.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    assert switch.delivered(a, experimental(BROADCAST, a.mac, bytes(60_000))) == {}
    assert b.drops == {"tx_error": 1} and switch.plane.events() == []
    switch.close()


# ---- counters


def test_counters_say_what_crossed(switch, trio):
    a, b, c = trio
    everyone_speaks(switch)
    frame = experimental(b.mac, a.mac, bytes(100))
    before = {host.index: host.counters for host in trio}
    for _ in range(3):
        switch.delivered(a, frame)
    grown = {
        host.index: {name: count - before[host.index][name] for name, count in host.counters.items() if name != "drops"}
        for host in trio
    }
    sent = {"frames": 3, "bytes": 342, "segments": 3, "wire_bytes": 342}
    nothing = dict.fromkeys(grown[a.index], 0)
    assert grown[a.index] == nothing | {f"rx_{name}": count for name, count in sent.items()}
    assert grown[b.index] == nothing | {f"tx_{name}": count for name, count in sent.items()}
    assert grown[c.index] == nothing


def test_drops_are_counted_at_the_port_and_at_its_network(switch, trio):
    switch.network(1)
    a, b, _ = trio
    other = switch.host(network=1)
    for host in (a, a, b, other):
        host.send(b"short")
    switch.step()
    assert (a.drops, b.drops, other.drops) == ({"runt": 2}, {"runt": 1}, {"runt": 1})
    assert switch.plane.network_drops(0) == {"runt": 3} and switch.plane.network_drops(1) == {"runt": 1}
    a.leave()
    assert switch.plane.network_drops(0) == {"runt": 3}
