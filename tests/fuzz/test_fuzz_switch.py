# SPDX-License-Identifier: Apache-2.0
"""Any bytes on any port, sound frames spoilt, changes in between: the switch lives, tells no network about another, and
accounts for every frame.

VSWITCH_FUZZ_SECONDS says how long each test runs, VSWITCH_FUZZ_SEED starts where a failure was found.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import threading
import time

import frames
import pytest
import reference
from frames import GSO_ECN, describe
from memory_switch import GATEWAY, MemoryHost, MemorySwitch
from mutations import Mutator
from vswitch.datapath._drops import NAMES

from vswitch.datapath._plane import Dataplane

SECONDS = float(os.environ.get("VSWITCH_FUZZ_SECONDS", "3"))
SEED = int(os.environ.get("VSWITCH_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 48)
EGRESS = {"tx_full", "tx_link_down", "tx_refused", "tx_error"}
MTU, SHARE, CAPACITY = 1500, 8, 40
STEPS_PER_SWITCH = 400


class Town:
    """A switch with two networks and every kind of port in each; what was last done to it is kept for a
    failure."""

    def __init__(self, seed: int):
        self.chance = random.Random(seed)
        self.mutator = Mutator(self.chance)
        self.switch = MemorySwitch(mac_capacity=CAPACITY, mac_share=SHARE, neighbour_capacity=64, age_s=30, seed=seed)
        self.assigned: set[int] = set()
        self.seed, self.last = seed, "nothing yet"
        for network in (0, 1):
            self.switch.network(network, mtu=MTU)
            self.switch.bind("10.0.0.254", network=network)
            self.switch.bind("fd00::fe", network=network)
        for number in range(8):
            self.join(number % 2)

    @property
    def hosts(self) -> list[MemoryHost]:
        return self.switch.hosts

    def join(self, network: int) -> None:
        """A new host; some guarded, some with offloads of some kinds, with the next of few addresses."""
        chance = self.chance
        assigned = chance.random() < 0.5
        try:
            host = self.switch.host(
                network=network,
                assigned=assigned,
                guard=assigned and chance.random() < 0.8,
                vnet=chance.random() < 0.6,
                gso=chance.randrange(8),
            )
        except ValueError:
            return
        if assigned:
            self.assigned.add(host.index)
        with contextlib.suppress(LookupError):
            self.switch.bind(f"10.0.0.{host.index % 3 + 1}", host)
            self.switch.bind(f"fd00::{host.index % 3 + 1}", host)

    def close(self) -> None:
        self.switch.close()

    def state(self) -> dict[int, dict]:
        return {host.index: host.counters for host in self.hosts}


@contextlib.contextmanager
def told(town: Town):
    """A failure says how to see it again and what the last frame was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"VSWITCH_FUZZ_SEED={town.seed}; last: {town.last}")
        raise


def rounds():
    """Towns with one seed after the other until the time is up."""
    until, seed = time.monotonic() + SECONDS, SEED
    while time.monotonic() < until:
        town = Town(seed)
        yield town
        town.close()
        seed += 1


def ingress_drops(counters: dict) -> int:
    return sum(count for reason, count in counters["drops"].items() if reason not in EGRESS)


def attempts(counters: dict) -> int:
    """Copies that were sent to a port, taken or not."""
    return counters["tx_frames"] + sum(count for reason, count in counters["drops"].items() if reason in EGRESS)


def test_every_frame_is_accounted_for_and_stays_in_its_network():
    for town in rounds():
        with told(town):
            for _ in range(STEPS_PER_SWITCH):
                disturb(town)
                one_frame(town)
            agrees(town)


def one_frame(town: Town) -> None:
    """Sends one frame and holds what became of it against what may become of a frame."""
    sender = town.chance.choice(town.hosts)
    others = [host.mac for host in town.hosts if host is not sender]
    frame = town.mutator.frame(sender.mac, others)
    header = town.mutator.header(frame) if sender.vnet else None
    town.last = f"{sender}: {header and header.hex()} {describe(frame)} {frame[:200].hex()}"
    before = town.state()
    if not frame and not sender.vnet:
        return  # an empty message is no frame
    with contextlib.suppress(BlockingIOError):
        sender.send(frame, header)
    town.switch.step()
    after = town.state()
    grown = {index: attempts(after[index]) - attempts(before[index]) for index in after}
    ended = ingress_drops(after[sender.index]) - ingress_drops(before[sender.index])
    ended += sum(after[sender.index][name] - before[sender.index][name] for name in ("answered", "punted"))
    assert after[sender.index]["rx_frames"] == before[sender.index]["rx_frames"] + 1
    assert ended in (0, 1)
    for host in town.hosts:
        if host is not sender:
            assert after[host.index]["rx_frames"] == before[host.index]["rx_frames"]
            assert grown[host.index] == 0 or (host.network == sender.network and not ended)
            assert ingress_drops(after[host.index]) == ingress_drops(before[host.index])
    assert grown[sender.index] <= ended
    neighbours = [host for host in town.hosts if host.network == sender.network and host is not sender]
    assert ended or any(grown[host.index] for host in neighbours) or (frame[0] & 1 and not neighbours)
    for host in town.hosts:
        check_received(host, sender, frame, header or bytes(12))


def check_received(host: MemoryHost, sender: MemoryHost, frame: bytes, header: bytes) -> None:
    """What may come out of a port: the frame in a form that it can take, or the gateway's answer to its
    sender."""
    if not host.vnet:
        got = [(bytes(12), one) for one in host.received()]
    else:
        got = host.received_with_headers()
    if host is sender:
        for outer, answer in got:
            assert outer == bytes(12) and answer[:6] in (frame[6:12], frames.ALL_NODES) and answer[6:12] != sender.mac
            assert 34 <= len(answer) <= len(frame) + 48 and reference.wrong_checksums(answer) == []
        return
    for outer, one in got:
        if outer != bytes(12):
            check_offload_header(outer, one)
            assert one == frame and struct.unpack_from("<BB", header)[1] == outer[1]
        elif not header[0] & 1:
            assert one == frame
        elif header[1] == 0:
            assert len(one) == len(frame) and sum(x != y for x, y in zip(one, frame, strict=True)) <= 2
        else:
            check_segment(one, frame, header)


def check_offload_header(header: bytes, frame: bytes) -> None:
    """It says what a kernel believes."""
    flags, gso_type, hdr_len, _, start, offset, _ = struct.unpack("<BBHHHHH", header)
    assert flags == 1 and hdr_len <= len(frame) and 34 <= start <= start + offset + 2 <= len(frame)
    assert gso_type & ~GSO_ECN in (0, 1, 4, 5)


def check_segment(one: bytes, frame: bytes, header: bytes) -> None:
    """One frame of those that a super-frame stands for; behind extension headers the reference doesn't
    see."""
    size = struct.unpack_from("<H", header, 4)[0]
    l4 = reference.l4_of(frame)
    if l4 is not None and l4[2] in (6, 17):
        assert one in reference.segments(frame, size)
    assert len(one) <= MTU + 22 and one[:12] == frame[:12]


def disturb(town: Town) -> None:
    """Now and then something else happens: time, control, hosts that come and go."""
    chance, switch = town.chance, town.switch
    kind = chance.randrange(60)
    if kind == 0:
        switch.step(after_s=chance.choice([0.1, 5, 40]))
    elif kind == 1:
        host = chance.choice(town.hosts)
        if len(town.hosts) > 4:
            town.assigned.discard(host.index)
            host.leave()
    elif kind == 2 and len(town.hosts) < 14:
        town.join(chance.randrange(2))
    elif kind == 3:
        with contextlib.suppress(LookupError):
            switch.bind(chance.choice(["10.0.0.1", "10.0.0.2", "fd00::1"]), chance.choice(town.hosts))
    elif kind == 4:
        switch.unbind(chance.choice(["10.0.0.1", "10.0.0.3", "fd00::2"]), network=chance.randrange(2))
    elif kind == 5:
        agrees(town)
    elif kind == 6:
        inject(town)
    elif kind == 7:
        switch.punts()


def inject(town: Town) -> None:
    network, frame = town.chance.randrange(2), town.chance.randbytes(town.chance.choice([14, 60, 2048]))
    town.switch.inject(frame, network, port=town.chance.choice(town.hosts).index, flood=town.chance.random() < 0.5)
    town.switch.step()
    for host in town.hosts:
        assert host.received() in ([], [frame]) and (host.network == network or host.received() == [])


def agrees(town: Town) -> None:
    """The MAC table holds only what it may."""
    rows, ports = town.switch.table(), {host.index: host for host in town.hosts}
    assert len(rows) == len({row[:1] + row[2:3] for row in rows}) == town.switch.totals["fdb_entries"] <= CAPACITY
    dynamic: dict[int, int] = {}
    for network, port, mac, static, age_s in rows:
        assert ports[port].network == network and not mac[0] & 1 and mac not in (GATEWAY, bytes(6)) and age_s <= 31
        assert static == (port in town.assigned and mac == ports[port].mac)
        dynamic[port] = dynamic.get(port, 0) + (not static)
    assert max(dynamic.values(), default=0) <= SHARE
    for row in town.switch.table(fdb=False):
        assert row[0] in (0, 1) and len(row[2]) in (4, 16)


def test_bursts_from_all_ports_at_once_are_all_counted():
    for town in rounds():
        with told(town):
            for _ in range(20):
                one_burst(town)
            assert network_drops(town) == port_drops(town)
            agrees(town)


def one_burst(town: Town) -> None:
    """Frames from everybody, then one step: each was received, and died, was answered or went on, at most
    once."""
    town.last = "a burst"
    before, sent = town.state(), dict.fromkeys(town.state(), 0)
    for _ in range(200):
        host = town.chance.choice(town.hosts)
        frame = town.mutator.frame(host.mac, [other.mac for other in town.hosts])[:3000]
        with contextlib.suppress(BlockingIOError):
            if frame or host.vnet:
                host.send(frame, town.mutator.header(frame) if host.vnet else None)
                sent[host.index] += 1
    town.switch.step(after_s=town.chance.choice([0, 0.01, 3]))
    for index, after in town.state().items():
        assert after["rx_frames"] == before[index]["rx_frames"] + sent[index]
        assert ingress_drops(after) + after["answered"] + after["punted"] <= after["rx_frames"]
    town.switch.flush()


def port_drops(town: Town) -> dict[str, int]:
    """Drops of all ports by reason."""
    return sums(counters["drops"] for counters in town.state().values())


def network_drops(town: Town) -> dict[str, int]:
    return sums(town.switch.plane.network_drops(network) for network in (0, 1))


def sums(counts) -> dict[str, int]:
    counts = list(counts)
    return {reason: total for reason in NAMES if (total := sum(one.get(reason, 0) for one in counts))}


@pytest.mark.parametrize("threads", [2])
def test_a_running_switch_survives_control_and_frames_at_the_same_time(threads):
    """Frames from several threads, while control adds, removes, binds, lists and injects; only life is
    asserted."""
    chance, until = random.Random(SEED), time.monotonic() + SECONDS
    plane = Dataplane(mac_capacity=CAPACITY, mac_share=SHARE, neighbour_capacity=64, age_s=1)
    runner = threading.Thread(target=plane.run)
    runner.start()
    switch = Threaded(plane)
    senders = [threading.Thread(target=chatter, args=(switch, random.Random(SEED + n), until)) for n in range(threads)]
    for network in (0, 1):
        switch.done(plane.post_network_add(network, mtu=MTU, gateway_mac=GATEWAY, dhcp=True))
    for sender in senders:
        sender.start()
    while time.monotonic() < until:
        switch.change(chance)
    for sender in senders:
        sender.join()
    for index in list(switch.hosts):
        switch.leave(index)
    assert plane.totals()["ports"] == 0
    plane.post_stop()
    runner.join(10)
    assert not runner.is_alive()


class Threaded:
    """A running plane's control side."""

    def __init__(self, plane: Dataplane):
        self.plane, self.hosts = plane, {}

    def done(self, answer) -> None:
        ticket = answer[0] if isinstance(answer, tuple) else answer
        until = time.monotonic() + 30
        while self.plane.completed < ticket:
            assert time.monotonic() < until
            time.sleep(0)

    def leave(self, index: int) -> None:
        self.done(self.plane.post_port_remove(index))
        self.hosts.pop(index).close()

    def change(self, chance: random.Random) -> None:
        plane, index = self.plane, chance.randrange(1, 12)
        if index in self.hosts:
            if chance.random() < 0.2:
                self.leave(index)
        else:
            host = MemoryHost(None, index, index % 2, frames.mac(index), chance.random() < 0.5)
            self.hosts[index] = host
            self.done(
                plane.post_port_add(
                    index,
                    host.port.fileno(),
                    index % 2,
                    kind=chance.choice(["packet", "tap"]),
                    vnet_header=host.vnet,
                    gso=chance.randrange(8),
                    mac=host.mac if chance.random() < 0.5 else None,
                    guard=chance.random() < 0.5,
                    sibling=chance.choice([None, *self.hosts]),
                )
            )
        with contextlib.suppress(LookupError):
            self.done(
                plane.post_neighbour(
                    index % 2, frames.ip(f"10.0.0.{index}"), chance.choice([None, frames.mac(index)]), index
                )
            )
        self.done(plane.post_snapshot(chance.choice(["fdb", "neighbours", "flows"])))
        plane.inject(chance.randbytes(100), index % 2, port=index, flood=chance.random() < 0.5)
        plane.punts()
        plane.events()
        plane.totals()


def chatter(switch: Threaded, chance: random.Random, until: float) -> None:
    """Sends and reads on whatever hosts there are."""
    mutator = Mutator(chance)
    while time.monotonic() < until:
        for host in list(switch.hosts.values()):
            frame = mutator.frame(host.mac, [frames.mac(n) for n in range(1, 12)])
            with contextlib.suppress(OSError):
                host.send(frame, mutator.header(frame) if host.vnet else None)
                host.raw()
