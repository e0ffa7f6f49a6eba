# SPDX-License-Identifier: Apache-2.0
"""Questions on their way to upstreams and back: a state machine without sockets or a clock.

An **exchange** is one question that is out, with everybody who waits for it: the same question asked again, by
whomever, joins it (so that a flood of one name is one question outside, and forging gains nothing by asking often:
RFC 5452 §5). It has **flights**, each one message to one server over a socket of its own.

    asked ──→ a flight to the first server that is well
                 │ silent for WAITS_S: one more flight, to the next server, round and round; all stay open
                 │ refuses (any rcode but NOERROR, NXDOMAIN), doesn't parse, socket fails: that server is out of
                 │   this exchange, the next is asked at once
                 │ refuses our OPT: the same server again without it, and remembered
                 │ TC: the same server over TCP; should that fail, the truncated answer is better than none
                 │ wrong case, or WRONG_LIMIT forgeries: the same server over TCP, where nobody answers blindly
                 └ answers: every waiter has his reply, all flights end; a server that was silent is sick for SICK_S
    all servers out, or GIVE_UP_S over ──→ SERVFAIL to all who wait

GIVE_UP_S is less than the 5 s after which stubs ask again. An answer is taken over UDP only with the flight's id, from
its server, with our question in the very case we put it (RFC 5452 §9, and 0x20): 16 bits of id, some 15 of
port and one for each letter. A server that spoils case is found out over TCP and remembered.

Limits: WAITERS_PER_CONTAINER questions pending for a container, WAITERS altogether, FLIGHTS sockets. Beyond its own
limit a container is refused (SERVFAIL, so that its stub goes on). When all are full, the container with most loses its
oldest to one that has fewer. Without a free socket nothing is asked twice.
"""
from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from vswitch.dns import answer as answers
from vswitch.dns import codec
from vswitch.dns.action import Action, Asker, Close, Dropped, Send
from vswitch.dns.answer import Answer
from vswitch.dns.codec import Question, Transport
from vswitch.dns.drop import Drop

WAITS_S = (0.8, 1.2, 1.5)
"""After how long one more flight is sent: most resolvers answer within 0.8 s even what they must look up."""
SILENT_S = 0.7
"""A server that said nothing for so long, to anyone, while another answered, is sick."""
GIVE_UP_S = 4.5
SICK_S = 30.0
"""How long a silent server is asked last: about as long as a resolver takes to restart."""
SENDS = 12
"""Flights of one exchange: three servers, each with a retry, without EDNS and over TCP."""
WRONG_LIMIT = 8
WAITERS_PER_CONTAINER = 128
"""Far more than programs have open at once, and an eighth of all."""
WAITERS = 1024
"""As many as Docker's resolver."""
FLIGHTS = 1536
"""Sockets: one each and half as many again for second tries."""
SERVERS = 1024
"""Servers of which we remember how they behave; beyond, all is forgotten and learnt anew."""
UPSTREAMS = 8
"""Upstreams of one container that are used; resolv.conf has three, --dns may be given more often."""


class Waiter(NamedTuple):
    """Somebody who waits, and the question as he put it."""

    asker: Asker
    question: Question


class Finished(NamedTuple):
    """An exchange is over for these waiters: its answer (None: SERVFAIL), the key under which it may be kept, and who
    answered.
    """

    key: Hashable
    waiters: tuple[Waiter, ...]
    answer: Answer | None
    container: str
    server: str | None = None


@dataclass(slots=True)
class _Server:
    """What is known of a server."""

    sick_until: float = 0.0
    heard_at: float = -1.0
    plain: bool = False
    spoils_case: bool = False


@dataclass(slots=True, eq=False)
class _Exchange:
    """One question that is out."""

    key: Hashable
    question: Question
    container: str
    servers: list[str]
    give_up_at: float
    apart: str = ""
    next_at: float = 0.0
    rounds: int = 0
    turn: int = 0
    sends: int = 0
    waiters: dict[Hashable, Waiter] = field(default_factory=dict)
    flights: dict[int, _Flight] = field(default_factory=dict)
    partial: Answer | None = None


@dataclass(slots=True, eq=False)
class _Flight:
    """One message to one server."""

    exchange: _Exchange
    server: str
    transport: Transport
    ident: int
    section: bytes
    edns: bool
    sent_at: float
    wrong: int = 0


class Forwarder:
    """All exchanges. Calls leave what is to be done in `actions` and `finished`; the engine takes it from there."""

    def __init__(self, random: Random):
        self.actions: list[Action] = []
        self.finished: list[Finished] = []
        self._random = random
        self._exchanges: dict[Hashable, _Exchange] = {}
        self._flights: dict[int, _Flight] = {}
        self._servers: dict[tuple[str, str], _Server] = {}
        self._pending: dict[str, dict[Hashable, _Exchange]] = {}
        self._waiting = 0
        self._number = 0
        # (time, serial number, exchange); one whose exchange has another next_at by now is stale
        self._agenda: list[tuple[float, int, _Exchange]] = []

    def __len__(self) -> int:
        return self._waiting

    @property
    def flights(self) -> int:
        """Sockets that are open."""
        return len(self._flights)

    def pending(self, container: str) -> int:
        """Questions of a container that wait."""
        return len(self._pending.get(container, ()))

    def asker_of(self, number: int) -> str:
        """The container on whose behalf a flight is under way; none has the name "" that stands for nobody."""
        flight = self._flights.get(number)
        return "" if flight is None else flight.exchange.container

    def ask(
        self, key: Hashable, asker: Asker, question: Question, servers: Sequence[str], now: float, apart: str = ""
    ) -> bool:
        """A question goes out, or joins one that is out; False if there is no room for it. `apart` is whose eyes the
        servers are seen with, where that is not everybody's: what is learnt of them is his alone.
        """
        if not servers:
            return False
        mark = asker, question.ident, question.section
        mine = self._pending.get(asker.container, {})
        if mark in mine:
            self.actions.append(Dropped(Drop.REPEATED, asker.container))
            return True
        if len(mine) >= WAITERS_PER_CONTAINER or (self._waiting >= WAITERS and not self._make_room(len(mine))):
            return False
        exchange = self._exchanges.get(key)
        fresh = exchange is None
        if exchange is None:
            if len(self._flights) >= FLIGHTS:
                return False
            exchange = _Exchange(
                key, question, asker.container, self._order(servers, now, apart), now + GIVE_UP_S, apart
            )
            self._exchanges[key] = exchange
        exchange.waiters[mark] = Waiter(asker, question)
        self._pending.setdefault(asker.container, {})[mark] = exchange
        self._waiting += 1
        if fresh:
            self._send_next(exchange, now)
        return True

    def _make_room(self, mine: int) -> bool:
        """Refuses the oldest question of whoever has most, if he has more than the asker has."""
        largest = max(self._pending.values(), key=len)
        if len(largest) <= mine + 1:
            return False
        mark, exchange = next(iter(largest.items()))
        self.finished.append(Finished(None, (self._release(exchange, mark),), None, exchange.container))
        return True

    def _release(self, exchange: _Exchange, mark: Hashable) -> Waiter:
        """One waiter waits no longer; an exchange without waiters ends."""
        waiter = exchange.waiters.pop(mark)
        mine = self._pending[waiter.asker.container]
        del mine[mark]
        if not mine:
            del self._pending[waiter.asker.container]
        self._waiting -= 1
        if exchange.waiters:
            exchange.container = next(iter(exchange.waiters.values())).asker.container
        else:
            self._end(exchange)
        return waiter

    def _end(self, exchange: _Exchange) -> None:
        """An exchange is no more; its sockets are closed."""
        self._exchanges.pop(exchange.key, None)
        for number in list(exchange.flights):
            self._close(number)
        exchange.next_at = 0.0

    def _close(self, number: int) -> _Flight:
        flight = self._flights.pop(number)
        del flight.exchange.flights[number]
        self.actions.append(Close(number))
        return flight

    def _order(self, servers: Sequence[str], now: float, apart: str) -> list[str]:
        """The servers to ask, those that were silent lately at the end."""
        unique = list(dict.fromkeys(servers))[:UPSTREAMS]
        return sorted(unique, key=lambda server: self._server(server, apart).sick_until > now)

    def _server(self, server: str, apart: str = "") -> _Server:
        if (server, apart) not in self._servers and len(self._servers) >= SERVERS:
            self._servers.clear()
        return self._servers.setdefault((server, apart), _Server())

    def _send_next(self, exchange: _Exchange, now: float) -> None:
        """The next server is asked, and the time set at which one more will be."""
        if exchange.servers:
            exchange.turn %= len(exchange.servers)
            server = exchange.servers[exchange.turn]
            exchange.turn += 1
            self._launch(exchange, server, Transport.UDP, now)
        wait_s = WAITS_S[exchange.rounds] if exchange.rounds < len(WAITS_S) else GIVE_UP_S
        self._schedule(exchange, min(now + wait_s, exchange.give_up_at))

    def _launch(self, exchange: _Exchange, server: str, transport: Transport, now: float) -> bool:
        """One flight, unless there are too many."""
        if exchange.sends >= SENDS or (exchange.sends and len(self._flights) >= FLIGHTS):
            return False
        known, question = self._server(server, exchange.apart), exchange.question
        exchange.sends += 1
        self._number += 1
        ident = self._random.getrandbits(16)
        name = question.key if known.spoils_case else self._mixed(question.key)
        edns = not known.plain
        data = codec.ask(
            ident, name, question.qtype, flags=question.flags, edns=edns, dnssec=question.dnssec and edns
        )
        section = data[12:12 + len(question.section)]
        flight = _Flight(exchange, server, transport, ident, section, edns, now)
        self._flights[self._number] = exchange.flights[self._number] = flight
        self.actions.append(Send(self._number, server, transport, data, exchange.container))
        return True

    def _mixed(self, key: bytes) -> bytes:
        """A name with each letter's case by chance: bits that a forger has to guess."""
        coins = self._random.getrandbits(len(key))
        return bytes([
            octet - 32 if 97 <= octet <= 122 and coins >> at & 1 else octet for at, octet in enumerate(key)
        ])

    def _schedule(self, exchange: _Exchange, at: float) -> None:
        exchange.next_at = at
        self._number += 1
        heapq.heappush(self._agenda, (at, self._number, exchange))

    def next_at(self) -> float | None:
        """When `due` has something to do."""
        while self._agenda:
            at, _, exchange = self._agenda[0]
            if exchange.next_at == at:
                return at
            heapq.heappop(self._agenda)
        return None

    def due(self, now: float) -> None:
        """Whoever was silent for long enough: one more flight, or the end."""
        while (at := self.next_at()) is not None and at <= now:
            exchange = heapq.heappop(self._agenda)[2]
            if now >= exchange.give_up_at:
                self._finish(exchange, None, now)
            else:
                exchange.rounds += 1
                self._send_next(exchange, now)

    def heard(self, data: bytes, number: int, server: str, now: float) -> None:
        """Bytes came over a flight's socket."""
        flight = self._flights.get(number)
        if flight is None:
            self.actions.append(Dropped(Drop.UNSOLICITED))
            return
        if server != flight.server:
            self.actions.append(Dropped(Drop.FOREIGN, flight.exchange.container))
            return
        known = self._server(server, flight.exchange.apart)
        exact = flight.transport is Transport.UDP and not known.spoils_case
        verdict = answers.matches(data, flight.ident, flight.section, exact)
        if verdict:
            known.heard_at = now
            self._answered(number, flight, data, now)
            return
        self.actions.append(Dropped(Drop.FORGED, flight.exchange.container))
        flight.wrong += 1
        if flight.transport is Transport.TCP:
            self.lost(number, now)
        elif verdict is None or flight.wrong >= WRONG_LIMIT:
            self._again(number, Transport.TCP, now)

    def _answered(self, number: int, flight: _Flight, data: bytes, now: float) -> None:
        """The server that was asked says something about what it was asked."""
        known = self._server(flight.server, flight.exchange.apart)
        if flight.transport is Transport.TCP and len(data) > 12 and data[12:12 + len(flight.section)] != flight.section:
            known.spoils_case = True
        found = answers.read(data, len(flight.section), flight.exchange.question.qtype)
        if found is None:
            self.actions.append(Dropped(Drop.UNREADABLE, flight.exchange.container))
            self.lost(number, now)
        elif flight.edns and found.rcode in (codec.FORMERR, codec.NOTIMP, codec.BADVERS):
            known.plain = True
            self._again(number, flight.transport, now)
        elif found.rcode not in (codec.NOERROR, codec.NXDOMAIN):
            self.lost(number, now)
        elif found.truncated and flight.transport is Transport.UDP:
            flight.exchange.partial = flight.exchange.partial or found
            self._again(number, Transport.TCP, now)
        else:
            self._finish(flight.exchange, found, now, flight.server)

    def _again(self, number: int, transport: Transport, now: float) -> None:
        """The same server once more, another way."""
        flight = self._close(number)
        if not self._launch(flight.exchange, flight.server, transport, now):
            self._go_on(flight.exchange, now)

    def lost(self, number: int, now: float) -> None:
        """A flight failed: its server is asked no more in this exchange, the next one at once."""
        if number not in self._flights:
            return
        flight = self._close(number)
        exchange = flight.exchange
        if flight.server in exchange.servers:
            exchange.turn -= exchange.servers.index(flight.server) < exchange.turn
            exchange.servers.remove(flight.server)
        self._go_on(exchange, now)

    def _go_on(self, exchange: _Exchange, now: float) -> None:
        """After a failure: a server that isn't being asked yet, or the end if nothing is out any more."""
        asked = {flight.server for flight in exchange.flights.values()}
        if any(server not in asked for server in exchange.servers):
            count = len(exchange.servers)
            while exchange.servers[exchange.turn % count] in asked:
                exchange.turn = (exchange.turn + 1) % count
            self._send_next(exchange, now)
        if not exchange.flights:
            self._finish(exchange, None, now)

    def _finish(self, exchange: _Exchange, answer: Answer | None, now: float, server: str | None = None) -> None:
        """Everybody who waits gets the answer; whoever was silent all the time is sick."""
        for flight in exchange.flights.values():
            known = self._server(flight.server, exchange.apart)
            if known.heard_at < flight.sent_at and now - flight.sent_at >= SILENT_S:
                known.sick_until = now + SICK_S
        waiters = tuple(exchange.waiters.values())
        key = exchange.key
        self.finished.append(Finished(key, waiters, answer or exchange.partial, exchange.container, server))
        for mark in list(exchange.waiters):
            self._release(exchange, mark)

    def forget(self, container: str) -> None:
        """A container is gone: nobody waits for its questions."""
        for mark, exchange in list(self._pending.get(container, {}).items()):
            self._release(exchange, mark)
