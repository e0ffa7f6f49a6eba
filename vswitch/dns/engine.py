# SPDX-License-Identifier: Apache-2.0
"""The resolver of all networks (RFC 1034 §5.3, RFC 5625 for what a forwarder may do to a message).

Values in: a message, who sent it, the time (monotonic seconds). Values out: a list of actions (action.py). No
sockets, no clock, no log. Control says who there is (`see`, `forget`) and what names there are (`zone`).

The way of a question:

    budget    a token for each question, more for odd ones; who floods is dropped, and costs others only this look
    codec     what is no proper question is refused as its docstring says
    zone      a name the asker can see is answered here whatever the type: with records, else NODATA. Never
              forwarded: an upstream's NXDOMAIN for one type would make a stub forget the name (RFC 8020)
    names     what must not leave: what is below the asker's networks' names, PTR of our subnets, special names, single
              labels
    view      a container of an internal network only: NXDOMAIN. One without upstreams: SERVFAIL
    RD=0      REFUSED: without recursion we know nothing of the world
    cache     what an upstream said and still holds
    forward   everybody else's names; an answer that leads into our own networks is taken for a denial (rebinding).
              Where an upstream is on our own networks, the shell asks it from within the asker's namespace, in which he
              can be whoever he likes: what comes of that is his alone, in the cache and in forward.py

Limits: for each container a bucket of BURST questions that fills by RATE_PER_S; one that is forwarded
costs FORWARD_COST more, one that isn't everyday RARE_COST. Long messages cost more too, for their names, options and
records are looked at one by one: a question beforehand, answers afterwards, as debt. forward.py, cache.py and
stream.py have theirs.
"""
from __future__ import annotations

from ipaddress import ip_address
from random import Random, SystemRandom
from typing import NamedTuple

from vswitch.dns import answer as answers
from vswitch.dns import codec, names
from vswitch.dns.action import Action, Arm, Asker, Dropped, Reply
from vswitch.dns.answer import Answer
from vswitch.dns.cache import Cache
from vswitch.dns.codec import AD, ANY, CD, NOERROR, NXDOMAIN, RD, Question
from vswitch.dns.drop import Drop
from vswitch.dns.forward import Forwarder
from vswitch.dns.names import Place
from vswitch.dns.zone import TTL_S, Scope, Sight, Zone, find, hosts, records

RATE_PER_S, BURST = 10_000.0, 10_000.0
"""Twice the 5,000 questions a second at which answers must still be quick, and 5 to 10 % of a core in here."""
FORWARD_COST = 5.0
"""2,000 forwarded questions a second: each costs us sockets and the upstream work."""
RARE_COST = 50.0
"""200 messages a second that are no everyday questions."""
QUESTION_BYTES, QUESTION_STEP = 80, 16
"""A question longer than that costs a token more for each step: one with 120 labels takes ten times as long."""
ANSWER_STEP = 256
"""So many bytes of an answer that leaves here cost a token."""
UPSTREAM_BYTES, UPSTREAM_STEP = 512, 64
"""An upstream's answer longer than that costs a token for each step: a thousand records take 2 ms."""

LOOPBACK = {names.A: b"\x7f\0\0\1", names.AAAA: bytes(15) + b"\1"}
LOOPBACK_REVERSE = frozenset(names.reverse_key(packed) for packed in LOOPBACK.values())
SMALLEST_RECORD_BYTES = 16
"""An A record with its owner as a pointer: how many records a message holds at most."""


class View(NamedTuple):
    """What control says of a container. `networks` by id, in the order in which it is attached.

    `upstreams`: addresses of servers, in the order to ask them (--dns, else the network's, else the host's); None
    for a container of internal networks only, whose questions go nowhere. `extra`: --add-host, names with addresses
    of 4 or 16 octets. `single_labels` lets names of one label out, for sites whose resolver knows such.
    """

    networks: tuple[str, ...] = ()
    upstreams: tuple[str, ...] | None = ()
    extra: tuple[tuple[str, bytes], ...] = ()
    single_labels: bool = False


class _Seen:
    """A container as the engine holds it: its view, made ready for look-ups, and its budget."""

    __slots__ = ("filled_at", "own", "servers", "sight", "site", "tokens", "view")

    def __init__(self, view: View, own: Scope, sight: Sight):
        self.view, self.own, self.sight = view, own, sight
        upstreams = view.upstreams or ()
        self.servers = tuple(ip_address(server.partition("%")[0]).packed for server in upstreams)
        # Only if all are private: which of them a question reaches is chance
        self.site = bool(upstreams) and all(names.private(server) for server in upstreams)
        self.tokens, self.filled_at = BURST, float("-inf")

    def pay(self, tokens: float, now: float) -> bool:
        """Whether the container may have this now."""
        if now > self.filled_at:
            self.tokens = min(BURST, self.tokens + (now - self.filled_at) * RATE_PER_S)
            self.filled_at = now
        if self.tokens < tokens:
            return False
        self.tokens -= tokens
        return True

    def owe(self, tokens: float) -> None:
        """What an answer cost: it is paid for before there is another. Nobody owes more than a second's worth."""
        self.tokens = max(-BURST, self.tokens - tokens)


class Engine:
    """Names, askers, what is kept and what is under way. `random` is SystemRandom but in tests."""

    def __init__(self, random: Random | None = None):
        self.zone = Zone()
        self.cache = Cache()
        self._forwarder = Forwarder(random or SystemRandom())
        self._seen: dict[str, _Seen] = {}
        self._armed: float | None = None

    def see(self, container: str, view: View) -> None:
        """A container as it is from now on; its networks must be in the zone by now.

        ValueError, and nothing changed, if an extra name or an upstream's address is none.
        """
        own = hosts(view.extra)
        fresh = _Seen(view, own, self.zone.sight(own, view.networks))
        if (known := self._seen.get(container)) is not None:
            fresh.tokens, fresh.filled_at = known.tokens, known.filled_at
        self._seen[container] = fresh

    def forget(self, container: str) -> list[Action]:
        """A container is gone; what it asked is asked no more."""
        self._seen.pop(container, None)
        self._forwarder.forget(container)
        return self._outcome([], 0.0)

    def ask(self, data: bytes, asker: Asker, now: float) -> list[Action]:
        """A message from a container; never raises. At most one Reply for it, now or later."""
        seen = self._seen.get(asker.container)
        if seen is None:
            return [Dropped(Drop.STRANGER, asker.container)]
        if not seen.pay(1.0 + max(0, len(data) - QUESTION_BYTES) // QUESTION_STEP, now):
            return [Dropped(Drop.RATE, asker.container)]
        question = codec.read(data, asker.transport, rare_too=False)
        if question is None:
            if not seen.pay(RARE_COST, now):
                return [Dropped(Drop.RATE, asker.container)]
            question = codec.read(data, asker.transport)
        if isinstance(question, bytes):
            return [Reply(asker, question)]
        if isinstance(question, Drop):
            return [Dropped(question, asker.container)]
        if question.limit > asker.room_bytes:
            question = question._replace(limit=asker.room_bytes)
        if question.rcode:
            return [Reply(asker, codec.refuse(question, question.rcode))]
        entries = find(seen.sight, question.key)
        reply = _known(question, entries) if entries else self._ours(question, seen)
        if reply is not None:
            seen.owe(len(reply) // ANSWER_STEP)
            return [Reply(asker, reply)]
        return self._elsewhere(question, asker, seen, now)

    def _ours(self, question: Question, seen: _Seen) -> bytes | None:
        """The answer about a name that nobody has and that is nobody else's business; None: ask elsewhere."""
        key = question.key
        if self.zone.in_subnets(key) or seen.sight.keeps(key):
            return _denied(question, seen.sight)
        host = names.without_services(key)
        if host is not key and (names.single(host) or find(seen.sight, host)):
            return _denied(question, seen.sight)
        match names.place(key, question.qtype):
            case Place.LOOPBACK:
                return _loopback(question)
            case Place.DENIED:
                return _denied(question, seen.sight)
            case Place.EMPTY:
                return _empty(question)
            case Place.SITE if not seen.site:
                return _denied(question, seen.sight)
            case Place.SINGLE if not seen.view.single_labels:
                return _denied(question, seen.sight)
        return None

    def _elsewhere(self, question: Question, asker: Asker, seen: _Seen, now: float) -> list[Action]:
        """A question about the world."""
        upstreams = seen.view.upstreams
        if upstreams is None:
            return [Reply(asker, _denied(question, seen.sight))]
        if not question.flags & RD:
            return [Reply(asker, codec.refuse(question, codec.REFUSED))]
        apart = asker.container if any(map(self.zone.owns, seen.servers)) else ""
        key = (
            question.key, question.qtype, question.dnssec, question.flags & (AD | CD), upstreams, apart
        )
        if (kept := self.cache.get(key, now)) is not None:
            reply = answers.serve(kept[0], question, kept[1])
            seen.owe(len(reply) // ANSWER_STEP)
            return [Reply(asker, reply)]
        if not seen.pay(FORWARD_COST, now) or not self._forwarder.ask(key, asker, question, upstreams, now, apart):
            return self._outcome([Reply(asker, codec.refuse(question, codec.SERVFAIL))], now)
        return self._outcome([], now)

    def heard(self, data: bytes, flight: int, server: str, now: float) -> list[Action]:
        """Bytes from an upstream over a flight's socket (over TCP: one message); never raises."""
        if len(data) > UPSTREAM_BYTES and (seen := self._seen.get(self._forwarder.asker_of(flight))) is not None:
            seen.owe((len(data) - UPSTREAM_BYTES) // UPSTREAM_STEP)
        self._forwarder.heard(data, flight, server, now)
        return self._outcome([], now)

    def lost(self, flight: int, now: float) -> list[Action]:
        """A flight's socket failed or ended: refused, unreachable, reset, closed."""
        self._forwarder.lost(flight, now)
        return self._outcome([], now)

    def due(self, now: float) -> list[Action]:
        """The time of the last Arm has come."""
        self._armed = None
        self._forwarder.due(now)
        return self._outcome([], now)

    def pending(self, container: str) -> int:
        """Questions of a container that are under way."""
        return self._forwarder.pending(container)

    def _rebinds(self, answer: Answer, server: str | None) -> bool:
        """Whether an answer leads into our own networks, and does not come from there either."""
        if server is not None and self.zone.owns(ip_address(server.partition("%")[0]).packed):
            return False
        return any(map(self.zone.owns, answers.addresses(answer)))

    def _outcome(self, actions: list[Action], now: float) -> list[Action]:
        """What the forwarder left to do, replies first, then the timer if it must be set anew."""
        forwarder = self._forwarder
        for done in forwarder.finished:
            rebinds = done.answer is not None and self._rebinds(done.answer, done.server)
            if rebinds:
                actions.append(Dropped(Drop.REBINDING, done.container))
            elif done.answer is not None and done.key is not None:
                self.cache.put(done.key, done.answer, done.container, now)
            for waiter in done.waiters:
                if done.answer is None:
                    data = codec.refuse(waiter.question, codec.SERVFAIL)
                elif rebinds:
                    data = _empty(waiter.question)
                else:
                    data = answers.serve(done.answer, waiter.question, 0)
                actions.append(Reply(waiter.asker, data))
        actions += forwarder.actions
        forwarder.finished.clear()
        forwarder.actions.clear()
        at = forwarder.next_at()
        if at is not None and (self._armed is None or at != self._armed):
            self._armed = at
            actions.append(Arm(at))
        return actions


def _known(question: Question, entries: list) -> bytes:
    """The answer about a name that is there: its records of the type asked for, else NODATA."""
    most = question.limit // SMALLEST_RECORD_BYTES + 1
    qtype = question.qtype
    if qtype == ANY:   # RFC 8482 §4.1: some of what there is
        qtype = next((rtype for rtype in (names.A, names.AAAA, names.PTR) if any(rtype in e for e in entries)), ANY)
    found = records(entries, qtype, most)
    return codec.compose(question, found) if found else _empty(question)


def _denied(question: Question, sight: Sight) -> bytes:
    """NXDOMAIN on our own authority; NODATA for what has names below it: a part of an address, or of a name."""
    key = question.key
    if key in LOOPBACK_REVERSE:
        if question.qtype in (names.PTR, ANY):
            return codec.compose(question, [codec.record(names.PTR, TTL_S, names.wire("localhost"))])
        return _empty(question)
    partial = key.endswith((names.V4_REVERSE, names.V6_REVERSE)) and not names.whole_reverse(key)
    return _empty(question, NOERROR if partial or sight.below(key) else NXDOMAIN)


def _empty(question: Question, rcode: int = NOERROR) -> bytes:
    """No records, on our own authority."""
    authority = codec.negative_authority(question.key, TTL_S)
    return codec.compose(question, (), rcode=rcode, authority=authority)


def _loopback(question: Question) -> bytes:
    """localhost and what is below it (RFC 6761 §6.3)."""
    qtype = names.A if question.qtype == ANY else question.qtype
    if qtype not in LOOPBACK:
        return _empty(question)
    return codec.compose(question, [codec.record(qtype, TTL_S, LOOPBACK[qtype])])

