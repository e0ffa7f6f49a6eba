# SPDX-License-Identifier: Apache-2.0
"""Changes and events between control and dataplane: order, refusals, full rings, nothing leaked or freed
twice."""

from __future__ import annotations

import errno
import gc
import os
import struct

import pytest
from frames import mac
from memory_switch import GATEWAY, MemorySwitch

from vswitch.datapath._plane import Dataplane


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
    assert plane.post_snapshot("fdb") is None and plane.post_neighbour(0, bytes(4), bytes(6)) is None
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
        switch, (reading, writing) = MemorySwitch(), os.pipe()
        plane = switch.plane
        for index in range(40):
            plane.post_network_add(index, mtu=1500, gateway_mac=GATEWAY, dhcp=False)
            for port in range(100 * index, 100 * index + 10):
                how = {"kind": "packet", "vnet_header": False, "gso": 0, "mac": mac(port % 100)}
                plane.post_port_add(port, reading, index, sibling=port - 1, **how)
            for port in range(10):
                plane.post_port_remove(100 * index + port)
            plane.post_network_remove(index)
        switch.step()
        assert (switch.totals["networks"], switch.totals["ports"], switch.totals["fdb_entries"]) == (0, 0, 0)
        switch.network()
        switch.close()
        os.close(reading)
        os.close(writing)


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
        with pytest.raises(ValueError, match=r"no |taken|has"):
            ask()
    for ask in (
        lambda: plane.post_network_remove(5),
        lambda: plane.post_port_remove(9),
        lambda: plane.network_drops(5),
    ):
        with pytest.raises(KeyError):
            ask()
    assert plane.completed == plane.post_poke() - 1


def test_events_that_found_no_room_are_counted_and_every_port_that_went_is_told_of(switch):
    for index in range(3000):
        switch.plane.post_port_add(1000 + index, -1, 0, kind="packet", vnet_header=False, gso=0)
    switch.step()
    events = switch.plane.events()
    assert switch.totals["events_lost"] > 0
    assert [event[2] for event in events] == list(range(1000, 4000))  # what found no room is told of too, at the end
    assert events == [(1, 0, 1000 + number, errno.EBADF, None) for number in range(len(events))]


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
        cycle = [plane, plane.post_snapshot("fdb")]
        cycle.append(cycle)
        del plane, cycle
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
