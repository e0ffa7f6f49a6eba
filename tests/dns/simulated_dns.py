# SPDX-License-Identifier: Apache-2.0
"""A switch's names, containers that ask, upstreams that answer, all in memory. dnspython makes and reads messages."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from random import Random

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from vswitch.dns.action import Action, Arm, Asker, Close, Dropped, Reply, Send
from vswitch.dns.codec import Transport
from vswitch.dns.engine import Engine, View

PUBLIC, SECOND, HOME = "9.9.9.9", "8.8.4.4", "192.168.1.1"
SOA = "ns.example. admin.example. 1 3600 600 86400 {minimum}"


def packed(address: str) -> bytes:
    return ip_address(address).packed


def query(
    name: str,
    rtype: str = "A",
    *,
    ident: int = 7,
    edns: bool | int = False,
    payload: int = 1232,
    flags: str = "RD",
    dnssec: bool = False,
    options: Iterable = (),
) -> bytes:
    message = dns.message.make_query(
        dns.name.from_text(name),
        rtype,
        id=ident,
        use_edns=edns,
        payload=payload if edns is not False else None,
        want_dnssec=dnssec,
        options=list(options) if edns is not False else None,
    )
    message.flags = dns.flags.from_text(flags)
    return message.to_wire()


def said(asked: bytes, *answers: str, rcode: int = 0, soa: int | None = None, flags: str = "QR RD RA") -> bytes:
    """What an upstream says to `asked`: records like "300 A 192.0.2.1" for the name asked, the SOA's minimum."""
    question = dns.message.from_wire(asked)
    answer = dns.message.make_response(question, recursion_available=True)
    answer.flags = dns.flags.from_text(flags)
    answer.set_rcode(rcode)
    name = question.question[0].name
    for text in answers:
        ttl, rtype, rdata = text.split(" ", 2)
        rrset = dns.rrset.from_text(name, int(ttl), "IN", rtype, rdata)
        answer.find_rrset(answer.answer, rrset.name, rrset.rdclass, rrset.rdtype, create=True).update(rrset)
    if soa is not None:
        answer.authority.append(dns.rrset.from_text(name, 3600, "IN", "SOA", SOA.format(minimum=soa)))
    return answer.to_wire(max_size=65535)


def read(data: bytes) -> dns.message.Message:
    return dns.message.from_wire(data)


def texts(message: dns.message.Message) -> list[str]:
    """The answers' values."""
    return [rdata.to_text() for rrset in message.answer for rdata in rrset]


class Site:
    """An engine, and a clock stepped by hand. `web` and `db` are in net `backend`, `db` in `other` too, `lone` there
    alone, `shut` in an internal network.
    """

    def __init__(self, upstreams: tuple[str, ...] = (PUBLIC, SECOND), seed: int = 1):
        self.now = 1000.0
        self.engine = Engine(Random(seed))
        self.open: dict[int, Send] = {}
        self.armed: float | None = None
        self.closed: list[int] = []
        zone = self.engine.zone
        zone.add_network("n1", "backend", [ip_network("172.18.0.0/16"), ip_network("fd00:1::/64")])
        zone.add_network("n2", "other", [ip_network("172.19.4.0/22")])
        zone.add_network("n3", "vault", [ip_network("172.20.0.0/24")])
        zone.add("n1", "web", ["web", "web.alias"], [packed("172.18.0.2"), packed("fd00:1::2")])
        zone.add("n1", "db", ["db"], [packed("172.18.0.3")])
        zone.add("n2", "db", ["db"], [packed("172.19.4.3")])
        zone.add("n2", "lone", ["Lone"], [packed("172.19.4.4")])
        zone.add("n3", "shut", ["shut"], [packed("172.20.0.2")])
        zone.add("n1", "gateway", ["host.vswitch.internal"], [packed("172.18.0.1")], qualified=False)
        self.engine.see("web", View(("n1",), upstreams, (("printer", packed("10.1.1.1")),)))
        self.engine.see("db", View(("n1", "n2"), upstreams))
        self.engine.see("lone", View(("n2",), upstreams))
        self.engine.see("shut", View(("n3",), None))

    def take(self, actions: list[Action]) -> list[Action]:
        """What a shell does; the actions, for the test to look at."""
        for action in actions:
            match action:
                case Send():
                    assert action.flight not in self.open
                    self.open[action.flight] = action
                case Close(flight):
                    del self.open[flight]
                    self.closed.append(flight)
                case Arm(at):
                    self.armed = at
        return actions

    def ask(
        self, data: bytes, container: str = "web", peer: object = 5353, transport: Transport = Transport.UDP
    ) -> list[Action]:
        return self.take(self.engine.ask(data, Asker(container, peer, transport), self.now))

    def resolve(self, name: str, rtype: str = "A", container: str = "web", **how) -> dns.message.Message:
        """The answer that is given at once, and nothing else done."""
        actions = self.ask(query(name, rtype, **how), container)
        assert [type(action) for action in actions] == [Reply], actions
        return read(actions[0].data)

    def sent(self) -> Send:
        """The one flight under way."""
        (send,) = self.open.values()
        return send

    def hear(self, send: Send, data: bytes, server: str | None = None) -> list[Action]:
        return self.take(self.engine.heard(data, send.flight, server or send.server, self.now))

    def lose(self, send: Send) -> list[Action]:
        return self.take(self.engine.lost(send.flight, self.now))

    def wait(self) -> list[Action]:
        """Until the timer that was armed last."""
        self.now, self.armed = max(self.now, self.armed), None
        return self.take(self.engine.due(self.now))


def replies(actions: list[Action]) -> list[bytes]:
    return [action.data for action in actions if isinstance(action, Reply)]


def sends(actions: list[Action]) -> list[Send]:
    return [action for action in actions if isinstance(action, Send)]


def drops(actions: list[Action]) -> list:
    return [action.reason for action in actions if isinstance(action, Dropped)]
