# SPDX-License-Identifier: Apache-2.0
"""What holds whatever containers and upstreams do: one reply at most, within scope and limits; nothing left over."""

from __future__ import annotations

import dns.exception
import dns.rcode
from hypothesis import given
from hypothesis import strategies as st
from simulated_dns import PUBLIC, Site, query, read, said, texts

from vswitch.dns import answer as answers
from vswitch.dns import forward
from vswitch.dns.action import Arm, Asker, Reply, Send
from vswitch.dns.engine import View

CONTAINERS = ["web", "db", "lone", "shut"]
MAY_SEE = {
    "web": {"172.18.0.1", "172.18.0.2", "172.18.0.3", "10.1.1.1", "fd00:1::2", "web.backend.", "db.backend."},
    "db": {
        "172.18.0.1",
        "172.18.0.2",
        "172.18.0.3",
        "172.19.4.3",
        "172.19.4.4",
        "fd00:1::2",
        "web.backend.",
        "db.backend.",
        "db.other.",
        "Lone.other.",
    },
    "lone": {"172.19.4.3", "172.19.4.4", "db.other.", "Lone.other."},
    "shut": {"172.20.0.2", "shut.vault."},
}
OF_OTHERS = {
    "web": ("other", "vault"), "db": ("vault",), "lone": ("backend", "vault"), "shut": ("backend", "other")
}
"""Networks that a container isn't in: what stands below them is to him a name like any other."""
INTERNAL = [
    "web",
    "db",
    "lone",
    "shut",
    "printer",
    "WEB.Backend",
    "db.other",
    "lone.other",
    "shut.vault",
    "host.vswitch.internal",
    "2.0.18.172.in-addr.arpa",
    "3.4.19.172.in-addr.arpa",
    "4.4.19.172.in-addr.arpa",
    "2.0.20.172.in-addr.arpa",
    "gone.backend",
    "gone",
]
WORLD = ["a.example.com", "b.example.com", "A.Example.Com", "c.example.org"]
OUTSIDE = "192.0.2.1"


@given(
    st.sampled_from(CONTAINERS), st.sampled_from(INTERNAL), st.sampled_from(["A", "AAAA", "PTR", "ANY", "TXT", "MX"])
)
def test_scope_is_never_crossed_and_nothing_internal_leaves(container, name, rtype):
    if name.lower().endswith(OF_OTHERS[container]) and container != "shut":
        name = name.rpartition(".")[0] or name
    answer = Site().resolve(name, rtype, container)
    assert set(texts(answer)) <= MAY_SEE[container]


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"), st.sampled_from(CONTAINERS), st.sampled_from(INTERNAL + WORLD * 4), st.integers(0, 3)
        ),
        st.tuples(
            st.just("answer"),
            st.integers(0, 9),
            st.sampled_from(
                ["right", "right", "nxdomain", "servfail", "formerr", "truncated", "case", "forged", "junk", "late"]
            ),
        ),
        st.tuples(st.just("lose"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.3, 1.0, 5.0])),
        st.tuples(st.just("forget"), st.sampled_from(CONTAINERS)),
    ),
    max_size=40,
)


class Watched(Site):
    """A site that counts questions and replies, and holds the engine to its word about timers."""

    def __init__(self):
        super().__init__()
        self.owed: dict[tuple, int] = {}
        self.gone: set[str] = set()
        self.past: list[Send] = []

    def take(self, actions):
        for action in actions:
            if isinstance(action, Send):
                self.past.append(action)
            if isinstance(action, Reply):
                answer = read(action.data)
                mark = action.asker, answer.id, answer.question[0].to_text()
                self.owed[mark] -= 1
                assert self.owed[mark] >= 0, f"answered twice: {mark}"
                assert action.asker.container not in self.gone and len(action.data) <= 512
                assert set(texts(answer)) <= MAY_SEE[action.asker.container] | {OUTSIDE}
            if isinstance(action, Arm):
                assert action.at >= self.now
        super().take(actions)
        for container in CONTAINERS:
            assert self.engine.pending(container) <= forward.WAITERS_PER_CONTAINER
        assert self.engine._forwarder.flights == len(self.open)
        assert not self.open or self.armed is not None
        return actions

    def put(self, container: str, name: str, ident: int) -> None:
        if container in self.gone:
            return
        data = query(name, ident=ident)
        question = read(data).question[0].to_text()
        mark = Asker(container, 5353), ident, question
        if self.owed.get(mark, 0) == 0:  # else it is a repetition: one answer is owed for both
            self.owed[mark] = 1
        self.ask(data, container)

    def answer(self, which: int, how: str) -> None:
        flights = self.past if how == "late" else list(self.open.values())
        if not flights:
            return
        send = flights[which % len(flights)]
        data = {
            "nxdomain": lambda: said(send.data, rcode=dns.rcode.NXDOMAIN, soa=1),
            "servfail": lambda: said(send.data, rcode=dns.rcode.SERVFAIL),
            "formerr": lambda: said(send.data, rcode=dns.rcode.FORMERR),
            "truncated": lambda: said(send.data, flags="QR TC RD RA"),
            "junk": lambda: said(send.data, f"1 A {OUTSIDE}")[:-15],
        }.get(how, lambda: said(send.data, f"1 A {OUTSIDE}"))()
        if how == "case":
            data = data[:12] + data[12:16].swapcase() + data[16:]
        if how == "forged":
            data = bytes([data[0] ^ 0x55]) + data[1:]
        self.hear(send, data)


@given(steps)
def test_nothing_is_answered_twice_and_nothing_is_left_over(happenings):
    site = Watched()
    for kind, *what in happenings:
        if kind == "ask":
            site.put(*what)
        elif kind == "answer":
            site.answer(*what)
        elif kind == "lose" and site.open:
            site.lose(list(site.open.values())[what[0] % len(site.open)])
        elif kind == "wait":
            site.now += what[0]
            if site.armed is not None and site.armed <= site.now:
                site.wait()
        elif kind == "forget":
            site.gone.add(what[0])
            site.take(site.engine.forget(what[0]))
    deadline = site.now + forward.GIVE_UP_S
    while site.open:
        site.wait()
        assert site.now <= deadline
    owed = {mark for mark, count in site.owed.items() if count and mark[0].container not in site.gone}
    assert not owed, f"never answered: {owed}"
    assert len(site.engine._forwarder) == 0 and not site.engine._forwarder._pending


@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_any_bytes_from_an_upstream_raise_nothing_and_reach_no_asker_unread(data, header, question):
    site = Site()
    (send, _) = site.ask(query("a.example.com"))
    right = said(send.data, f"300 A {OUTSIDE}")
    start = (right[:12] if header else b"") + (send.data[12 : 12 + 19] if header and question else b"")
    for action in site.hear(send, start + data):
        if isinstance(action, Reply):
            assert read(action.data).id == 7


SOUND = said(query("a.example.com", edns=0), f"300 A {OUTSIDE}", "300 CNAME b.a.example.com.", soa=7)


def test_what_we_take_of_a_spoilt_answer_dnspython_takes_too():
    spoilt = [SOUND[:end] for end in range(31, len(SOUND))]
    for at in range(31, len(SOUND)):
        for octet in {0, 1, 12, 0x3F, 0x40, 0x80, 0xC0, 0xFF, SOUND[at] + 1 & 0xFF, SOUND[at] - 1 & 0xFF}:
            spoilt.append(SOUND[:at] + bytes([octet]) + SOUND[at + 1 :])
    taken = 0
    for data in spoilt:
        found = answers.read(data, 19, 1)
        if found is not None and not {record.rtype for record in found.records} - {1, 2, 5, 6, 12, 15, 28}:
            read(found.data)  # raises if it is not sound
            taken += 1
    assert 0 < taken < len(spoilt)


@given(st.lists(st.sampled_from(["one", "two", "three"]), max_size=30))
def test_views_that_change_while_questions_are_out_disturb_nobody(names):
    site = Site()
    for n, name in enumerate(names):
        site.engine.see("web", View(("n1", "n2")[: n % 3], (PUBLIC,) if n % 2 else None))
        site.ask(query(f"{name}.example.com", ident=n))
    while site.open:
        site.wait()
    assert site.engine.pending("web") == 0
