# SPDX-License-Identifier: Apache-2.0
"""What holds whatever clients do: no address in two hands, nothing lost by a restart, no bytes that raise."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_dhcp import (
    MAC,
    NOW,
    Pool,
    Store,
    bootp,
    decline,
    discover,
    engine,
    inform,
    ip,
    option,
    reboot,
    release,
    renew,
    select,
    yiaddr,
)

from vswitch.dhcp.drop import Drop
from vswitch.dhcp.engine import Engine, Outcome
from vswitch.dhcp.message import Message, MessageType, parse
from vswitch.dhcp.scope import Ingress
from vswitch.dhcp.table import State

POOL_SIZE, CAPS = 7, {"max_leases": 6, "max_leases_per_port": 3}
RANGE = Pool(size=POOL_SIZE + 2).range
ASSIGNED = RANGE[2], RANGE[4]
PORTS = [
    Ingress("web", address=ASSIGNED[0]), Ingress("db", address=ASSIGNED[1], mac=MAC),
    Ingress("vm1"), Ingress("vm2"), Ingress("vm3"),
]


@dataclass
class Client:
    """A client as it sees itself: the address it may use, and until when."""

    port: Ingress
    who: dict
    address: IPv4Address | None = None
    until: float = 0.0


@dataclass
class World:
    """Clients on ports, a server with its store, and the time."""

    clients: list[Client]
    now: float = NOW
    store: Store = field(default_factory=Store)
    pool: Pool = field(default_factory=lambda: Pool(size=POOL_SIZE, assigned=ASSIGNED))
    server: Engine = None

    def __post_init__(self):
        self.server = engine(self.pool, **CAPS)

    def send(self, client: Client, payload: bytes) -> Outcome:
        """The message, the store, then the reply: what a shell does."""
        outcome = self.server.handle(payload, client.port, self.now)
        self.store.apply(outcome.changes)
        return outcome

    def hear(self, client: Client, outcome: Outcome) -> None:
        """The client believes what it is told."""
        if outcome.reply is not None and outcome.reply.kind is MessageType.NAK:
            client.address = None
        if outcome.reply is not None and outcome.reply.kind is MessageType.ACK and int(yiaddr(outcome)):
            granted_s = int.from_bytes(parse(outcome.reply.payload).options[51], "big")
            client.address, client.until = yiaddr(outcome), self.now + granted_s

    def restart(self) -> None:
        """The process is gone; what the store has comes back."""
        self.pool = Pool(size=POOL_SIZE, assigned=ASSIGNED)
        self.server = engine(self.pool, **CAPS)
        self.store.apply(self.server.load(list(self.store.rows.values()), self.now))

    def check(self) -> None:
        using = [client for client in self.clients if client.address is not None and client.until > self.now]
        addresses = [client.address for client in using]
        assert len(set(addresses)) == len(addresses), f"two clients use one address: {using}"
        for client in using:
            assert client.port.address in (None, client.address)
        leases = list(self.server.leases())
        dynamic = [lease for lease in leases if not lease.reserved]
        assert {lease.address for lease in dynamic if lease.held} == self.pool.taken
        assert len(dynamic) <= CAPS["max_leases"]
        for port in PORTS:
            assert sum(lease.port == port.port for lease in dynamic) <= CAPS["max_leases_per_port"]
        firm = {lease.row() for lease in leases if lease.state in (State.BOUND, State.DECLINED)}
        assert firm == {row for row in self.store.rows.values() if row[5] in ("bound", "declined")}
        assert self.server.next_expiry() == min((lease.expires_at for lease in leases), default=None)


def world() -> World:
    mac_of = [b"\2\0\0\0\0" + bytes([n]) for n in range(3)]
    clients = [Client(PORTS[0], {"mac": MAC}), Client(PORTS[1], {"mac": MAC})]
    for port in PORTS[2:]:
        # The same three clients on every port: cloned machines.
        clients += [Client(port, {"mac": mac}) for mac in mac_of]
        clients.append(Client(port, {"mac": mac_of[0], "client_id": b"\xffclone"}))
        clients.append(Client(port, {"mac": mac_of[1], "client_id": b"\xffother"}))
    return World(clients)


def _ask(make: Callable) -> Callable:
    """A step that sends `make(address)` for an address of the step's choice."""
    def step(here: World, client: Client, choice: int, wait_s: float) -> None:
        here.hear(client, here.send(client, make(str(RANGE[choice]), **client.who)))
    return step


def _exchange(here: World, client: Client, choice: int, wait_s: float) -> None:
    offered = here.send(client, discover(wanted=str(RANGE[choice]), **client.who))
    if offered.reply is not None and offered.reply.kind is MessageType.OFFER:
        here.now += wait_s % 50
        here.hear(client, here.send(client, select(str(yiaddr(offered)), **client.who)))


def _discover(here: World, client: Client, choice: int, wait_s: float) -> None:
    here.hear(client, here.send(client, discover(wanted=str(RANGE[choice]), **client.who)))


def _rapid(here: World, client: Client, choice: int, wait_s: float) -> None:
    here.hear(client, here.send(client, discover(extra=option(80, b""), **client.who)))


def _renew(here: World, client: Client, choice: int, wait_s: float) -> None:
    if client.address is not None:
        wished = option(51, (60 + choice).to_bytes(4, "big")) if choice % 2 else b""
        here.hear(client, here.send(client, renew(str(client.address), extra=wished, **client.who)))


def _give_up(make: Callable) -> Callable:
    def step(here: World, client: Client, choice: int, wait_s: float) -> None:
        address, client.address = client.address or RANGE[choice], None
        here.send(client, make(str(address), **client.who))
    return step


def _inform(here: World, client: Client, choice: int, wait_s: float) -> None:
    assert here.send(client, inform(str(RANGE[choice]), **client.who)).changes == ()


def _wait(here: World, client: Client, choice: int, wait_s: float) -> None:
    here.now += wait_s


def _expire(here: World, client: Client, choice: int, wait_s: float) -> None:
    here.store.apply(here.server.expire(here.now))


def _restart(here: World, client: Client, choice: int, wait_s: float) -> None:
    here.restart()


def _port_gone(here: World, client: Client, choice: int, wait_s: float) -> None:
    here.store.apply(here.server.forget_port(client.port.port))
    for other in here.clients:
        if other.port == client.port:
            other.address = None


STEPS = [
    _exchange, _exchange, _exchange, _discover, _rapid, _renew, _renew, _ask(select), _ask(reboot),
    _ask(renew), _give_up(release), _give_up(decline), _inform, _wait, _expire, _restart, _port_gone,
]
steps = st.tuples(
    st.sampled_from(STEPS), st.integers(0, 16), st.integers(0, len(RANGE) - 1),
    st.sampled_from([1.0, 29.0, 31.0, 600.0, 3599.0, 3601.0, 90_000.0]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=25, max_size=80))
def test_no_address_is_ever_in_two_hands_restarts_included(sequence):
    here = world()
    for step, who, choice, wait_s in sequence:
        step(here, here.clients[who], choice, wait_s)
        here.check()


options = st.lists(
    st.tuples(
        st.sampled_from([0, 12, 50, 51, 52, 53, 54, 55, 57, 61, 80, 81, 82, 255]) | st.integers(0, 255),
        st.binary(max_size=8) | st.binary(max_size=255),
    ),
    max_size=12,
).map(lambda pairs: b"".join(option(code, data) for code, data in pairs))
payloads = (
    st.binary(max_size=700)
    | st.builds(
        lambda kind, area, file, sname, flags, ciaddr, giaddr: bootp(
            option(53, kind) + area, file=file, sname=sname, flags=flags, ciaddr=ciaddr, giaddr=giaddr),
        st.sampled_from([b"\1", b"\2", b"\3", b"\4", b"\7", b"\x08"]) | st.binary(max_size=2), options,
        options.map(lambda area: area[:128]), options.map(lambda area: area[:64]), st.integers(0, 65535),
        st.sampled_from(["0.0.0.0", "172.17.0.2", "255.255.255.255"]),
        st.sampled_from(["0.0.0.0", "172.17.0.3"]),
    )
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(payloads, st.sampled_from(PORTS)), max_size=6))
def test_any_bytes_from_any_port_have_an_outcome_with_a_reason(messages):
    server, store = engine(Pool(assigned=ASSIGNED)), Store()
    for payload, port in messages:
        outcome = server.handle(payload, port, NOW)
        store.apply(outcome.changes)
        silent = outcome.received in (MessageType.RELEASE, MessageType.DECLINE) and outcome.changes
        assert outcome.reply is not None or isinstance(outcome.drop, Drop) or silent
        if outcome.reply is not None:
            answer = parse(outcome.reply.payload)
            assert isinstance(answer, Message) and answer.op == 2
            assert 300 <= len(outcome.reply.payload) <= 1472
            assert answer.options[54] == ip("172.17.0.1").packed


@settings(deadline=None)
@given(st.integers(0, 299), st.integers(0, 255))
def test_any_single_changed_byte_of_a_request_has_an_outcome(at, value):
    payload = bytearray(discover(client_id=b"\1" + MAC, asks=b"\1\3\6\x79", extra=option(57, b"\2\x40")))
    payload[at] = value
    outcome = engine().handle(bytes(payload), Ingress("vm"), NOW)
    assert (outcome.reply is None) == (outcome.drop is not None)
