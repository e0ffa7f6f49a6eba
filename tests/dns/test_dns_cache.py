# SPDX-License-Identifier: Apache-2.0
"""What upstreams said is kept as long as they allow, within limits, and served as if they had just said it."""

from __future__ import annotations

import dns.rcode
import pytest
from simulated_dns import PUBLIC, Site, query, read, replies, said, texts

from vswitch.dns import answer as answers
from vswitch.dns import cache as caches
from vswitch.dns.action import Send
from vswitch.dns.cache import Cache
from vswitch.dns.engine import View


def told(site: Site, name: str, *records: str, rtype: str = "A", container: str = "web", **how) -> None:
    """The upstream was asked and has answered."""
    (send, *_) = [action for action in site.ask(query(name, rtype), container) if isinstance(action, Send)]
    site.hear(send, said(send.data, *records, **how))


def forwarded(site: Site, name: str, rtype: str = "A", container: str = "web", **how) -> bool:
    """Whether the question goes out (and is then left unanswered)."""
    return any(isinstance(action, Send) for action in site.ask(query(name, rtype, **how), container))


def test_an_answer_is_served_again_with_the_ttl_that_is_left():
    site = Site()
    told(site, "example.com", "300 A 192.0.2.1", "60 A 192.0.2.2", "90 AAAA 2001:db8::1")
    site.now += 40.9
    answer = site.resolve("EXample.com", container="db", ident=999)
    assert answer.id == 999 and answer.question[0].name.to_text() == "EXample.com."
    assert [rrset.ttl for rrset in answer.answer] == [20, 50]  # dnspython made one TTL of an RRset's two
    site.now += 19
    assert [rrset.ttl for rrset in site.resolve("example.com").answer] == [1, 31]
    site.now += 0.2
    assert forwarded(site, "example.com")


@pytest.mark.parametrize(
    ("how", "holds_s"),
    [
        ({"rcode": dns.rcode.NXDOMAIN, "soa": 20}, 20),
        ({"soa": 20}, 20),
        ({"rcode": dns.rcode.NXDOMAIN, "soa": 86400}, caches.DENIAL_S),
        ({"rcode": dns.rcode.NXDOMAIN}, 0),
        ({}, 0),
        ({"soa": 0}, 0),
        ({"soa": 0x90000000}, 0),
    ],
)
def test_a_denial_holds_as_long_as_its_soa_says(how, holds_s):
    site = Site()
    told(site, "no.example.com", **how)
    site.now += holds_s - 0.1
    if holds_s:
        answer = site.resolve("no.example.com")
        assert answer.rcode() == how.get("rcode", 0) and not texts(answer)
    site.now += 0.1
    assert forwarded(site, "no.example.com")


def test_a_cname_that_leads_nowhere_is_a_denial():
    site = Site()
    told(site, "alias.example.com", "600 CNAME gone.example.com.", soa=30)
    site.now += 29
    assert texts(site.resolve("alias.example.com")) == ["gone.example.com."]
    site.now += 2
    assert forwarded(site, "alias.example.com")


@pytest.mark.parametrize(
    ("records", "holds_s"), [(("0 A 192.0.2.1",), 0), (("86400 A 192.0.2.1",), 3600), (("2147483649 A 192.0.2.1",), 0)]
)
def test_no_ttl_and_odd_ttls_and_long_ttls_are_kept_within_bounds(records, holds_s):
    site = Site()
    (send,) = [action for action in site.ask(query("a.example.com")) if isinstance(action, Send)]
    ttl, address = records[0].split(" A ")
    body = said(send.data, f"7 A {address}").replace(b"\0\0\0\7\0\4", int(ttl).to_bytes(4, "big") + b"\0\4")
    site.hear(send, body)
    site.now += max(0, holds_s - 0.1)
    assert forwarded(site, "a.example.com") is (holds_s == 0)
    site.now += 0.2
    assert holds_s == 0 or forwarded(site, "a.example.com")


def test_questions_put_otherwise_or_to_others_are_other_questions():
    site = Site()
    told(site, "example.com", "300 A 192.0.2.1")
    site.engine.see("lone", View(("n2",), ("1.1.1.1",)))
    assert not forwarded(site, "example.com")
    assert forwarded(site, "example.com", "AAAA")
    assert forwarded(site, "example.com", edns=0, dnssec=True)
    assert forwarded(site, "example.com", flags="RD CD", ident=8)
    assert forwarded(site, "example.com", container="lone")


def test_failures_are_not_kept():
    site = Site(upstreams=(PUBLIC,))
    told(site, "example.com", "300 A 192.0.2.1", rcode=dns.rcode.SERVFAIL)
    assert forwarded(site, "example.com")


def kept(name: str, size: int = 0, ttl: int = 300) -> answers.Answer:
    asked = query(name)
    padding = [f"{ttl} TXT {'x' * 250}"] * (size // 250)
    found = answers.read(said(asked, f"{ttl} A 192.0.2.1", *padding[:1]), len(asked) - 12, 1)
    return found._replace(data=found.data + bytes(max(0, size - len(found.data))))


def test_the_container_with_most_answers_loses_the_one_it_used_least_lately():
    cache = Cache(capacity=4)
    cache.put("quiet", kept("quiet.example"), "quiet", 0.0)
    for name in ("a", "b", "c"):
        cache.put(name, kept(f"{name}.example"), "loud", 0.0)
    assert cache.get("a", 1.0)
    for name in ("d", "e"):
        cache.put(name, kept(f"{name}.example"), "loud", 1.0)
    assert [name for name in ("quiet", "a", "b", "c", "d", "e") if cache.get(name, 2.0)] == ["quiet", "a", "d", "e"]
    assert len(cache) == 4


def test_bytes_have_a_limit_too():
    cache = Cache(capacity_bytes=10_000)
    for n in range(20):
        cache.put(n, kept(f"n{n}.example", 2000), "web", 0.0)
        assert cache.size_bytes <= 10_000
    assert len(cache) == 5
    cache.put("large", kept("large.example", caches.ENTRY_BYTES + 1), "web", 0.0)
    assert cache.get("large", 0.0) is None
    cache.put(19, kept("n19.example", 1000), "web", 0.0)
    assert cache.size_bytes == 9000 and len(cache) == 5
    cache.clear()
    assert cache.size_bytes == len(cache) == 0


def test_what_has_run_out_is_gone():
    cache = Cache()
    cache.put("x", kept("x.example", ttl=10), "web", 5.0)
    assert cache.get("x", 14.9)[1] == 9
    assert cache.get("x", 15.0) is None and len(cache) == 0 and cache.size_bytes == 0


def test_a_clock_that_steps_back_makes_no_ttl_longer():
    site = Site()
    told(site, "example.com", "300 A 192.0.2.1")
    site.now -= 100
    assert site.resolve("example.com").answer[0].ttl == 300


def test_an_answer_that_lost_its_additional_records_to_the_limit_is_not_truncated():
    asked = query("example.com", edns=0)
    whole = read(said(asked, "300 A 192.0.2.1"))
    for n in range(40):
        whole.additional.append(read(said(query(f"n{n}.example.org"), "300 A 192.0.2.9")).answer[0])
    site = Site()
    (send,) = [action for action in site.ask(query("example.com")) if isinstance(action, Send)]
    whole.question, whole.id = read(send.data).question, read(send.data).id
    (reply,) = replies(site.hear(send, whole.to_wire(max_size=65535)))
    answer = read(reply)
    assert len(reply) <= 512 and texts(answer) == ["192.0.2.1"]
    assert not answer.flags & 0x0200 and 0 < sum(len(rrset) for rrset in answer.additional) < 40
