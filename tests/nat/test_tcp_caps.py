# SPDX-License-Identifier: Apache-2.0
"""What one container may hold of that which all share: its own oldest gives way to its next, never another container's,
never what is in use; and what no descriptor is left for is refused until there is one."""

from __future__ import annotations

import contextlib
import os
import resource
import socket

import frames
import pytest
from memory_switch import GATEWAY, MemoryHost
from patience import eventually
from tcp_peer import Net, drained, ending, mss_option
from way_out import GATEWAY4, INSIDE4, datagram

MAX_HALF_OPEN, TIMERS_PER_TURN = 2048, 256
CONNECTING, ESTABLISHED, TIME_WAIT = 1, 4, 5
TCP, UDP = 6, 17
NEIGHBOUR4, NEIGHBOUR6 = "172.17.0.3", "fd00::3"
PORT, PROTOCOL, STATE, SPORT = 1, 2, 4, 6  # of a row of flows()


class Crowd(Net):
    """A Net with a neighbour in it, and many SYNs."""

    def __init__(self, **limits):
        super().__init__(**limits)
        self.neighbour = self.container(NEIGHBOUR4, NEIGHBOUR6)

    def close(self, **how) -> None:
        del self.neighbour
        super().close(**how)

    def syn(self, sport: int, dport: int, host: MemoryHost | None = None) -> None:
        """Asks for a connection; nobody will acknowledge the answer."""
        host = host or self.host
        inside = INSIDE4 if host is self.host else NEIGHBOUR4
        host.send(
            frames.tcp(GATEWAY, host.mac, inside, GATEWAY4, flags=2, sport=sport, dport=dport, options=mss_option())
        )
        self.switch.step()
        for one in self.switch.hosts:
            one.raw()

    def of(self, host: MemoryHost, **fields) -> set[int]:
        """The ports that a container has flows from."""
        wanted = {PORT: host.index, **{globals()[name.upper()]: value for name, value in fields.items()}}
        return {row[SPORT] for row in self.flows() if all(row[at] == value for at, value in wanted.items())}

    def black_hole(self) -> int:
        """A port where nobody answers."""
        full = self.server(backlog=0)
        self.keep(socket.create_connection(full.getsockname()))
        return full.getsockname()[1]


@pytest.fixture
def crowd(request):
    """A Crowd with the limits that the test names."""
    made = Crowd(**getattr(request, "param", {}))
    yield made
    made.close()


def limits(**values):
    return pytest.mark.parametrize("crowd", [values], indirect=True, ids=["-".join(values)])


@contextlib.contextmanager
def no_descriptor_left():
    """This process can't open anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                spare.append(os.dup(spare[0]))
        yield
    finally:
        for fd in spare:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- half-open connections


@limits(max_flows=8000, max_descriptors=8000)
def test_of_too_many_half_open_connections_the_oldest_gives_way(crowd):
    server = crowd.server(backlog=4096)
    peer, host = crowd.connected()
    hole, dport = crowd.black_hole(), server.getsockname()[1]
    crowd.syn(9, hole, crowd.neighbour)
    for number in range(MAX_HALF_OPEN + 20):
        crowd.syn(10_000 + number, hole if number % 2 else dport)
    mine = crowd.of(crowd.host, protocol=TCP)
    assert mine == {peer.sport, *range(10_020, 10_020 + MAX_HALF_OPEN)}
    assert crowd.of(crowd.neighbour) == {9} and crowd.host.drops == {}
    peer.send("PA", b"still here")
    assert drained(crowd, host, 10) == b"still here"


@limits(max_flows=8000, max_descriptors=8000)
def test_a_dead_target_does_not_stall_connections_to_others(crowd):
    hole = crowd.black_hole()
    for number in range(MAX_HALF_OPEN):
        crowd.syn(10_000 + number, hole)
    for _ in range(5):
        peer, host = crowd.connected()
        peer.send("PA", b"hello")
        assert drained(crowd, host, 5) == b"hello"
    assert len(crowd.of(crowd.host, state=CONNECTING)) == MAX_HALF_OPEN - 1
    for _ in range(3 + MAX_HALF_OPEN // TIMERS_PER_TURN):
        crowd.switch.step(after_s=61)
    assert len(crowd.of(crowd.host)) == 5


# ---- the table of flows


@limits(max_flows=90)
def test_more_connections_than_the_table_takes_cost_a_container_its_own_oldest_unassured_one(crowd):
    dport = crowd.server(backlog=512).getsockname()[1]
    peer, host = crowd.connected()
    crowd.syn(9, dport, crowd.neighbour)
    for number in range(200):
        crowd.syn(10_000 + number, dport)
    mine = crowd.of(crowd.host)
    newest = range(10_200 - len(mine) + 1, 10_200)
    assert mine == {peer.sport, *newest} and 70 <= len(mine) <= 80
    assert crowd.of(crowd.neighbour) == {9} and crowd.host.drops == {}
    peer.send("PA", b"still here")
    assert drained(crowd, host, 10) == b"still here"


@limits(max_flows=18)
def test_who_has_only_connections_in_use_is_refused_another_until_one_ends(crowd):
    lines = [crowd.connected() for _ in range(16)]
    peer = crowd.peer(crowd.server().getsockname()[1])
    peer.send("S", options=peer.options)
    peer.expect("RA", ack=peer.snd_nxt)
    assert crowd.host.drops == {"nat_full": 1}
    for line, host in lines:
        line.send("PA", b"alive")
        assert drained(crowd, host, 5) == b"alive"
    crowd.syn(9, crowd.server().getsockname()[1], crowd.neighbour)
    assert crowd.of(crowd.neighbour) == {9}
    lines[0][0].send("R")
    crowd.connected()


@limits(max_flows=18)
def test_a_client_of_a_container_with_all_it_may_have_is_reset(crowd):
    port = crowd.publish(80)
    lines = [crowd.connected() for _ in range(16)]
    client = crowd.client(port)
    assert ending(crowd, client) is ConnectionResetError and crowd.host.drops == {"nat_full": 1}
    assert crowd.switch.plane.network_drops(0) == {"nat_full": 1}
    lines[0][0].send("R")
    crowd.client(port)
    assert crowd.calling(80).expect("S")


# ---- descriptors


def lingering(crowd: Crowd) -> int:
    """A connection in TIME_WAIT; its port."""
    peer, host = crowd.connected()
    host.shutdown(socket.SHUT_WR)
    peer.expect("FA")
    peer.send("FA")
    peer.expect("A", ack=peer.snd_nxt)
    return peer.sport


@limits(max_descriptors=24)
def test_flows_without_a_descriptor_do_not_keep_a_container_from_getting_one(crowd):
    """The oldest unassured flows linger, and have none to give."""
    old = {lingering(crowd) for _ in range(6)}
    assert crowd.of(crowd.host, state=TIME_WAIT) == old
    server = crowd.server(backlog=64).getsockname()[1]
    for sport in range(10_000, 10_060):
        crowd.syn(sport, server)
    mine = crowd.of(crowd.host)
    assert old.isdisjoint(mine) and max(mine) == 10_059 and crowd.host.drops == {}
    assert mine == set(range(10_060 - len(mine), 10_060)) and crowd.totals()[1] == len(mine)


@limits(max_descriptors=24)
def test_datagrams_give_way_to_connections_and_connections_to_datagrams(crowd):
    dport = crowd.server(backlog=64).getsockname()[1]
    peer, host = crowd.connected()
    for start, make in ((20_000, "udp"), (30_000, "tcp"), (40_000, "udp")):
        for sport in range(start, start + 40):
            if make == "tcp":
                crowd.syn(sport, dport)
            else:
                crowd.host.send(datagram(crowd.host, b"x", 9, sport=sport))
                crowd.switch.step()
        crowd.host.raw()
        mine = crowd.of(crowd.host) - {peer.sport}
        assert 10 <= len(mine) <= 24 and mine == set(range(start + 40 - len(mine), start + 40))
    assert crowd.host.drops == {}
    peer.send("PA", b"still here")
    assert drained(crowd, host, 10) == b"still here"


@limits(max_descriptors=24)
def test_a_neighbour_gets_descriptors_whatever_a_greedy_container_holds(crowd):
    dport = crowd.server(backlog=128).getsockname()[1]
    for sport in range(10_000, 10_060):
        crowd.syn(sport, dport)
    before = crowd.of(crowd.host)
    crowd.syn(9, dport, crowd.neighbour)
    assert crowd.of(crowd.neighbour) == {9} and crowd.of(crowd.host) == before


def test_without_descriptors_a_connection_is_refused_old_ones_are_unharmed_and_it_recovers(net):
    peer, host = net.connected()
    server = net.server()
    late = net.peer(server.getsockname()[1])
    with no_descriptor_left():
        late.send("S", options=late.options)
        refusal = late.inbox.popleft()
        peer.send("PA", b"alive")
    assert refusal.flags == "RA" and refusal.ack == late.snd_nxt and net.host.drops == {"nat_descriptors": 1}
    assert drained(net, host, 5) == b"alive"
    host.send(b"me too")
    assert peer.expect("A", payload=b"").ack == peer.snd_nxt and peer.read(6) == b"me too"
    again = net.peer(server.getsockname()[1])
    again.open()
    assert net.totals() == (2, 2) and net.accepted(server)


def test_without_descriptors_clients_of_a_published_port_wait_until_there_are_some(net):
    port = net.publish(80)
    with socket.socket() as client:
        client.setblocking(False)
        with no_descriptor_left():
            client.connect_ex(("127.0.0.1", port))
            turns = [net.switch.step(after_s=0.001) for _ in range(20)]
            assert sum(turns) <= 2 and net.totals() == (0, 0)
        eventually(lambda: net.step(after_s=0.3) or net.totals() == (1, 1), "the client is let in")
        assert net.calling(80).expect("S").sport == client.getsockname()[1]
