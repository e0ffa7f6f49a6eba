# SPDX-License-Identifier: Apache-2.0
"""The dataplane in its thread behind the asyncio facade: changes are awaited, a busy Python doesn't matter,
idle means idle."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import multiprocessing
import os
import threading
import time

import frames
import pytest
from frames import BROADCAST, dhcp, experimental, mac
from memory_switch import GATEWAY
from real_hosts import wait_until

from vswitch.datapath.plane import CAPTURE_SLOTS, Datapath
from vswitch.observe._pcapng import Capture
from vswitch.ports.memory import memory_pair

DEADLINE_S = 10.0


class Street:
    """A running Datapath with network 0 and two memory hosts on it."""

    def __init__(self, **limits):
        self.datapath = Datapath(**limits)
        self.fds, self.hosts = [], []
        self.punts, self.events = [], []
        self.datapath.on_punt, self.datapath.on_event = self.punts.append, self.events.append

    async def __aenter__(self):
        self.datapath.start()
        await self.datapath.add_network(0, mtu=1500, gateway_mac=GATEWAY, dhcp=True)
        for index in (1, 2):
            await self.join(index)
        return self

    async def join(self, index: int, **how) -> None:
        fd, host = memory_pair()
        host.settimeout(DEADLINE_S)
        self.fds.append(fd)
        self.hosts.append(host)
        await self.datapath.add_port(
            index, fd, how.pop("network", 0), kind="packet", vnet_header=False, gso=0, guard=False, **how
        )

    async def __aexit__(self, *_):
        await self.datapath.stop()
        for fd in self.fds:
            os.close(fd)
        for host in self.hosts:
            host.close()


def exchange(sender, receiver, frame: bytes) -> bytes:
    """Sends on one memory host and receives on another."""
    sender.send(frame)
    return receiver.recv(65536)


async def happens(predicate) -> None:
    """Lets the loop run until it is true; fails at the deadline."""
    give_up_at = time.monotonic() + DEADLINE_S
    while not predicate():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.002)


def in_a_street(test):
    """Runs an async test with a Street."""

    def runs():
        async def run():
            async with Street() as street:
                await asyncio.wait_for(test(street), 30)

        asyncio.run(run())

    runs.__name__, runs.__doc__ = test.__name__, test.__doc__
    return runs


@in_a_street
async def test_frames_flow_between_hosts_while_the_loop_does_nothing(street):
    a, b = street.hosts
    frame = experimental(BROADCAST, mac(1))
    assert exchange(a, b, frame) == frame
    assert exchange(b, a, experimental(mac(1), mac(2))) == experimental(mac(1), mac(2))
    assert {(row.mac, row.port, row.static) for row in await street.datapath.fdb()} == {
        (mac(1), 1, False),
        (mac(2), 2, False),
    }
    assert street.datapath.counters(1)["rx_frames"] == street.datapath.counters(1)["tx_frames"] == 1


@in_a_street
async def test_every_change_is_in_force_when_its_await_returns(street):
    datapath = street.datapath
    await datapath.add_neighbour(0, frames.ip("10.0.0.1"), GATEWAY, None)
    await datapath.add_neighbour(0, frames.ip("fd00::2"), mac(2), 2)
    assert set(await datapath.neighbours()) == {
        (0, None, frames.ip("10.0.0.1"), GATEWAY),
        (0, 2, frames.ip("fd00::2"), mac(2)),
    }
    question = frames.who_has(mac(1), "10.0.0.9", "10.0.0.1")
    assert exchange(street.hosts[0], street.hosts[0], question)[22:28] == GATEWAY
    await datapath.remove_neighbour(0, frames.ip("10.0.0.1"))
    assert exchange(street.hosts[0], street.hosts[1], question) == question
    await datapath.set_network_mtu(0, 9000)
    jumbo = experimental(BROADCAST, mac(1), bytes(8000))
    assert exchange(*street.hosts, jumbo) == jumbo
    await datapath.remove_port(2)
    assert datapath.totals()["ports"] == 1
    await datapath.remove_port(1)
    await datapath.remove_network(0)
    assert datapath.totals()["networks"] == 0 and await datapath.fdb() == []


@in_a_street
async def test_injected_frames_and_punts_cross_between_control_and_hosts(street):
    a, b = street.hosts
    a.send(dhcp(mac(1)))
    await happens(lambda: street.punts)
    (punt,) = street.punts
    assert (punt.kind, punt.network, punt.port, punt.frame) == ("dhcp", 0, 1, dhcp(mac(1)))
    assert abs(punt.time_ns - time.monotonic_ns()) < 10e9
    answer = bytes(experimental(mac(1), GATEWAY))
    assert street.datapath.inject(answer, network=0, port=1) and a.recv(65536) == answer
    assert street.datapath.inject(answer, network=0, except_port=1) and b.recv(65536) == answer
    assert street.datapath.inject(answer, network=0) and a.recv(65536) == b.recv(65536) == answer


@in_a_street
async def test_a_receiver_that_fails_does_not_stop_the_draining(street):
    def fails(punt):
        street.punts.append(punt)
        raise RuntimeError("a bug in control")

    street.datapath.on_punt = fails
    for number in range(5):
        street.hosts[0].send(dhcp(mac(1), xid=number))
    await happens(lambda: len(street.punts) == 5)
    await street.datapath.poke()


@in_a_street
async def test_more_punts_than_are_drained_at_once_all_arrive(street):
    for index in range(10, 20):
        await street.join(index)
    for host in street.hosts[2:]:
        for number in range(15):
            host.send(dhcp(mac(100), xid=number))
    await happens(lambda: len(street.punts) == 150)


@in_a_street
async def test_a_port_whose_peer_went_is_told_to_control(street):
    street.hosts[0].close()
    await happens(lambda: street.events)
    assert street.events == [("port_gone", 0, 1, errno.ENOTCONN, None)]
    await street.datapath.remove_port(1)


@in_a_street
async def test_a_cancelled_change_ends_only_when_the_dataplane_has_carried_it_out(street):
    settle, street.datapath._settle = street.datapath._settle, lambda: None
    change = asyncio.ensure_future(street.datapath.poke())
    await asyncio.sleep(0)
    change.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not change.done()
    street.datapath._settle = settle
    await street.datapath.poke()
    with pytest.raises(asyncio.CancelledError):
        await change


@in_a_street
async def test_more_changes_than_the_command_ring_holds_are_all_carried_out(street):
    await asyncio.gather(*(street.datapath.poke() for _ in range(12_000)))
    completed = street.datapath.plane.completed
    await street.datapath.poke()
    assert street.datapath.plane.completed == completed + 1 > 12_000


@in_a_street
async def test_a_waiter_that_gave_up_does_not_hold_up_the_others(street):
    waiting = [asyncio.ensure_future(street.datapath.poke()) for _ in range(10)]
    await asyncio.sleep(0)
    for task in waiting[::2]:
        task.cancel()
    await asyncio.gather(*waiting[1::2])
    await street.datapath.poke()


@in_a_street
async def test_tables_are_listed_while_traffic_changes_them(street):
    stop = threading.Event()

    def chatter():
        number = 0
        while not stop.is_set():
            exchange(*street.hosts, experimental(BROADCAST, mac(1000 + number % 900)))
            number += 1

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        await happens(lambda: street.datapath.totals()["fdb_entries"] > 800)
        for _ in range(20):
            rows = await street.datapath.fdb()
            assert len(rows) == len({row.mac for row in rows}) >= 800
    finally:
        stop.set()
        thread.join()


@in_a_street
async def test_a_thousand_ports_join_and_leave_while_traffic_flows(street):
    a, b = street.hosts
    received = []
    for index in range(100, 300):
        await street.join(index)
        if index % 2:
            await street.datapath.remove_port(index)
        received.append(exchange(a, b, experimental(BROADCAST, mac(1), b"%d" % index)))
    assert received == [experimental(BROADCAST, mac(1), b"%d" % index) for index in range(100, 300)]
    assert street.datapath.totals()["ports"] == 102


@in_a_street
async def test_captures_have_a_slot_each_and_one_too_many_is_refused(street):
    captures = [Capture(snaplen=64, ring_bytes=4096) for _ in range(CAPTURE_SLOTS + 1)]
    slots = [await street.datapath.start_capture(capture) for capture in captures[:-1]]
    assert slots == list(range(CAPTURE_SLOTS))
    with pytest.raises(LookupError, match="which is the most"):
        await street.datapath.start_capture(captures[-1])
    for slot in slots:
        await street.datapath.watch_port(slot, 1)
    frame = experimental(BROADCAST, mac(1))
    exchange(*street.hosts, frame)
    assert [capture.produced > 0 for capture in captures] == [True] * 8 + [False]
    await street.datapath.stop_capture(3)
    before = [capture.produced for capture in captures]
    exchange(*street.hosts, frame)
    assert [capture.produced > count for capture, count in zip(captures, before, strict=True)] == [True] * 3 + [
        False
    ] + [True] * 4 + [False]
    assert await street.datapath.start_capture(captures[-1]) == 3
    for slot in slots:
        await street.datapath.stop_capture(slot)


def test_stopping_twice_and_never_having_started_are_fine():
    async def run():
        datapath = Datapath()
        await datapath.stop()
        datapath.start()
        await datapath.stop()
        await datapath.stop()

    asyncio.run(run())


def test_stepping_a_running_dataplane_is_refused():
    async def run():
        async with Street() as street:
            await happens(lambda: street.datapath.totals()["wakeups"])
            for again in (lambda: street.datapath.plane.step(1), street.datapath.plane.run):
                with pytest.raises(RuntimeError, match="thread"):
                    again()

    asyncio.run(run())


# ---- idle


def stays(reading, for_s: float) -> bool:
    """Whether a reading stays the same for so long."""
    first, until = reading(), time.monotonic() + for_s
    while time.monotonic() < until:
        if reading() != first:
            return False
        time.sleep(0.01)
    return True


def test_idle_means_no_wake_ups():
    async def run():
        async with Street() as street:
            for index in range(10, 30):
                await street.join(index, mac=mac(index))
            a, b, *_ = street.hosts
            exchange(a, b, experimental(BROADCAST, mac(1)))  # a MAC that will have to be forgotten, much later
            await street.datapath.poke()

            def wakeups() -> int:
                return street.datapath.totals()["wakeups"]

            await happens(lambda: stays(wakeups, 0.02))
            assert stays(wakeups, 0.5)
            before = wakeups()
            exchange(a, b, experimental(BROADCAST, mac(1)))
            await happens(lambda: wakeups() == before + 1)

    asyncio.run(run())


def test_a_dead_port_that_nobody_removes_causes_no_wake_ups():
    async def run():
        async with Street() as street:
            street.hosts[0].shutdown(1)
            await happens(lambda: street.events)
            assert stays(lambda: street.datapath.totals()["wakeups"], 0.3)

    asyncio.run(run())


def test_addresses_are_forgotten_by_the_clock_without_any_traffic():
    async def run():
        async with Street(age_s=1) as street:
            exchange(*street.hosts, experimental(BROADCAST, mac(1)))
            assert len(await street.datapath.fdb()) == 1
            await happens(lambda: street.datapath.totals()["fdb_entries"] == 0)

    asyncio.run(run())


# ---- a busy Python


def ping_pong(a, b, ready, report) -> None:
    """In another process: frames back and forth for a while; reports their number and the longest round
    trip in seconds."""
    there, back = bytes(experimental(mac(2), mac(1))), bytes(experimental(mac(1), mac(2)))
    exchange(a, b, bytes(experimental(BROADCAST, mac(1))))
    exchange(b, a, bytes(experimental(BROADCAST, mac(2))))
    ready.set()
    count, longest, until = 0, 0.0, time.monotonic() + 0.5
    while (started := time.monotonic()) < until:
        exchange(a, b, there)
        exchange(b, a, back)
        count, longest = count + 1, max(longest, time.monotonic() - started)
    report.put((count, longest))


def test_a_python_that_hogs_the_interpreter_does_not_stop_the_switch():
    context = multiprocessing.get_context("fork")

    async def run():
        async with Street() as street:
            ready, report = context.Event(), context.SimpleQueue()
            other = context.Process(target=ping_pong, args=(*street.hosts, ready, report))
            other.start()
            wait_until(ready.is_set)
            hogged_until = time.monotonic() + 0.6
            while time.monotonic() < hogged_until:
                sum(range(10_000_000))  # holds the GIL throughout
            count, longest = report.get()
            other.join(DEADLINE_S)
            return count, longest

    count, longest = asyncio.run(run())
    assert count > 500 and longest < 0.15


# ---- awake and at rest


def pass_to_and_fro(street, times: int) -> None:
    """Little frames, each sent when the one before has come."""
    here, there = street.hosts[:2]
    for _ in range(times):
        exchange(here, there, experimental(mac(2), mac(1)))
        exchange(there, here, experimental(mac(1), mac(2)))


def test_frames_that_come_close_together_find_the_dataplane_awake_and_no_frames_find_it_asleep():
    async def run():
        async with Street(busy_poll_us=1000) as street:
            deadline = time.monotonic() + DEADLINE_S
            while not street.datapath.totals()["busy_polls"]:
                assert time.monotonic() < deadline
                pass_to_and_fro(street, 20)
            assert stays(lambda: street.datapath.totals()["wakeups"], 0.3)

    asyncio.run(run())


def test_without_busy_polling_every_wait_is_asleep():
    async def run():
        async with Street() as street:
            pass_to_and_fro(street, 200)
            assert street.datapath.totals()["busy_polls"] == 0

    asyncio.run(run())


@pytest.mark.parametrize("company", [True, False], ids=["others send too", "nobody else sends"])
def test_a_flood_of_little_frames_lets_the_dataplane_rest_only_where_others_send_too(company):
    async def run():
        async with Street() as street:
            for index in range(10, 40):
                await street.join(index)
            flooder, other = street.hosts[:2]
            flooder.setblocking(False)

            def rested() -> bool:
                for _ in range(50):
                    with contextlib.suppress(BlockingIOError):
                        flooder.send(experimental(BROADCAST, mac(1)))
                if company:
                    other.send(experimental(mac(9), mac(2)))
                return street.datapath.totals()["rests"] > 0

            if company:
                await happens(rested)
            else:
                assert not any(rested() for _ in range(200))

    asyncio.run(run())
