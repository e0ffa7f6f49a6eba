# SPDX-License-Identifier: Apache-2.0
"""What leaves this machine and what doesn't, special names, and floods that hurt only whoever floods."""

from __future__ import annotations

import dns.edns
import dns.flags
import dns.rcode
import pytest
from simulated_dns import HOME, PUBLIC, Site, drops, packed, query, read, replies, said, sends, texts

from vswitch.dns import engine as engines
from vswitch.dns.action import Send
from vswitch.dns.drop import Drop
from vswitch.dns.engine import View

REVERSE_V6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa"


def goes_out(site: Site, name: str, rtype: str = "A", container: str = "web") -> bool:
    actions = site.ask(query(name, rtype), container)
    return any(isinstance(action, Send) for action in actions)


@pytest.mark.parametrize(
    ("name", "rtype"),
    [
        ("web", "A"),
        ("web", "TXT"),
        ("web.backend", "HTTPS"),
        ("gone", "A"),
        ("gone", "TXT"),
        ("gone.backend", "A"),
        ("x.gone.backend", "A"),
        ("backend", "NS"),
        ("_http._tcp.web", "SRV"),
        ("_http._tcp.gone", "SRV"),
        ("_http._tcp.web.alias", "SRV"),
        ("_dmarc.printer", "TXT"),
        ("other", "A"),
        ("2.0.18.172.in-addr.arpa", "PTR"),
        ("2.9.18.172.in-addr.arpa", "PTR"),
        ("1.4.19.172.in-addr.arpa", "PTR"),
        ("1.1.168.192.in-addr.arpa", "PTR"),
        ("10.in-addr.arpa", "SOA"),
        (REVERSE_V6, "PTR"),
        ("1.0.0.127.in-addr.arpa", "PTR"),
        ("localhost", "A"),
        ("x.invalid", "A"),
        ("x.onion", "A"),
        ("printer.local", "A"),
        ("shop.test", "A"),
        ("host.docker.internal", "A"),
        ("gateway.vswitch.internal", "A"),
        ("_dns.resolver.arpa", "SVCB"),
    ],
)
def test_nothing_internal_goes_to_a_public_upstream(name, rtype):
    assert not goes_out(Site(), name, rtype)


@pytest.mark.parametrize(
    ("name", "rtype"),
    [
        ("example.com", "A"),
        ("com", "NS"),
        ("com", "DS"),
        (".", "NS"),
        ("metadata.google.internal", "A"),
        ("nas.home.arpa", "A"),
        ("9.9.9.9.in-addr.arpa", "PTR"),
        ("172.in-addr.arpa", "PTR"),
        ("backend.example.com", "A"),
        ("web.alias.com", "A"),
        ("_sip._udp.example.com", "SRV"),
        ("x.web", "A"),
        ("1.8.19.172.x", "PTR"),
    ],
)
def test_what_is_the_worlds_goes_out(name, rtype):
    assert goes_out(Site(), name, rtype)


@pytest.mark.parametrize("name", ["1.1.168.192.in-addr.arpa", "printer.local", "shop.test"])
def test_the_sites_own_names_go_to_upstreams_that_are_all_private(name):
    assert goes_out(Site((HOME,)), name, "PTR") and goes_out(Site(("127.0.0.53", "fd00::53")), name, "PTR")
    assert not goes_out(Site((HOME, PUBLIC)), name, "PTR") and not goes_out(Site(()), name, "PTR")


@pytest.mark.parametrize(
    "name", ["2.9.18.172.in-addr.arpa", "gone.backend", "gone", "x.onion", "1.254.169.in-addr.arpa"]
)
def test_our_own_names_do_not_even_go_there(name):
    assert not goes_out(Site((HOME,)), name, "PTR")


def test_single_labels_go_out_where_the_site_wants_it():
    site = Site((HOME,))
    site.engine.see("web", View(("n1",), (HOME,), single_labels=True))
    assert goes_out(site, "nas") and not goes_out(site, "backend") and not goes_out(site, "db")


@pytest.mark.parametrize("network", ["dev", "io", "corp.example.com", "backend-2"])
def test_below_its_own_networks_names_nothing_goes_out_whatever_they_are_called(network):
    site = Site()
    site.engine.zone.add_network("n4", network)
    site.engine.zone.add("n4", "web", ["web"], [packed("172.21.0.2")])
    site.engine.see("web", View(("n1", "n4"), (PUBLIC,)))
    assert texts(site.resolve(f"web.{network}")) == ["172.21.0.2"]
    for name in (f"go.{network}", f"db.web.{network}", network):
        assert not goes_out(site, name), name


def test_a_network_that_is_not_the_askers_cannot_be_told_from_none():
    site = Site()
    for name in ("lone.other", "gone.other", "gone.nowhere"):
        assert goes_out(site, name), name
    for name in ("other", "nowhere"):
        answer = site.resolve(name)
        assert answer.rcode() == dns.rcode.NXDOMAIN and not answer.answer


@pytest.mark.parametrize(
    ("rtype", "value"),
    [
        ("A", "172.18.0.7"),
        ("A", "172.19.7.255"),
        ("AAAA", "fd00:1::7"),
        ("AAAA", "::ffff:172.18.0.7"),
        ("HTTPS", "1 . ipv4hint=192.0.2.1,172.18.0.7"),
        ("SVCB", "1 . alpn=h2 ipv6hint=fd00:1::7"),
    ],
)
def test_the_worlds_names_do_not_lead_into_our_networks(rtype, value):
    site = Site()
    for _ in range(2):  # an answer that was kept would be there the second time
        site.ask(query("evil.example", rtype))
        actions = site.hear(site.sent(), said(site.sent().data, f"300 {rtype} {value}"))
        assert drops(actions) == [Drop.REBINDING]
        (reply,) = map(read, replies(actions))
        assert reply.rcode() == dns.rcode.NOERROR and not reply.answer and not site.open


@pytest.mark.parametrize(
    ("rtype", "value"),
    [("A", "172.19.8.0"), ("A", "127.0.0.2"), ("AAAA", "fd00:2::7"), ("HTTPS", "1 . ipv4hint=192.0.2.1")],
)
def test_other_private_addresses_are_the_sites_business(rtype, value):
    site = Site()
    site.ask(query("nas.example", rtype))
    assert len(texts(read(replies(site.hear(site.sent(), said(site.sent().data, f"300 {rtype} {value}")))[0]))) == 1


def test_a_network_that_is_gone_is_nobodys_address():
    site = Site()
    for network in ("n1", "n2", "n3"):
        site.engine.zone.remove_network(network)
    assert not site.engine.zone.owns(packed("172.18.0.7")) and not site.engine.zone._lengths


@pytest.mark.parametrize(
    ("name", "rtype", "rcode", "values"),
    [
        ("localhost", "A", "NOERROR", ["127.0.0.1"]),
        ("localhost", "AAAA", "NOERROR", ["::1"]),
        ("a.b.localhost", "A", "NOERROR", ["127.0.0.1"]),
        ("localhost", "MX", "NOERROR", []),
        ("localhost", "ANY", "NOERROR", ["127.0.0.1"]),
        ("1.0.0.127.in-addr.arpa", "PTR", "NOERROR", ["localhost."]),
        ("1.0.0.127.in-addr.arpa", "A", "NOERROR", []),
        ("1." + "0." * 31 + "ip6.arpa", "PTR", "NOERROR", ["localhost."]),
        ("2.0.0.127.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("0.127.in-addr.arpa", "PTR", "NOERROR", []),
        ("168.192.in-addr.arpa", "SOA", "NOERROR", []),
        ("1.1.168.192.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("x.invalid", "A", "NXDOMAIN", []),
        ("use-application-dns.net", "A", "NXDOMAIN", []),
        ("_dns.resolver.arpa", "SVCB", "NOERROR", []),
        ("gone", "A", "NXDOMAIN", []),
        ("gone", "AAAA", "NXDOMAIN", []),
    ],
)
def test_special_names_are_answered_here(name, rtype, rcode, values):
    answer = Site().resolve(name, rtype)
    assert (dns.rcode.to_text(answer.rcode()), texts(answer)) == (rcode, values)
    assert bool(answer.authority) == (not values) and answer.flags & dns.flags.AA


def test_an_internal_networks_container_asks_nobody():
    site = Site()
    assert site.resolve("example.com", container="shut").rcode() == dns.rcode.NXDOMAIN
    assert texts(site.resolve("shut", container="shut")) == ["172.20.0.2"]


def test_without_any_upstream_the_world_fails_and_names_still_work():
    site = Site(())
    assert site.resolve("example.com").rcode() == dns.rcode.SERVFAIL
    assert texts(site.resolve("web")) == ["172.18.0.2"]


def test_whoever_wants_no_recursion_gets_none():
    site = Site()
    assert site.resolve("example.com", flags="").rcode() == dns.rcode.REFUSED
    assert texts(site.resolve("web", flags="")) == ["172.18.0.2"]


def test_a_container_that_nobody_knows_gets_no_answer():
    assert drops(Site().ask(query("web"), "stranger")) == [Drop.STRANGER]


def test_a_flood_is_dropped_and_others_notice_nothing():
    site = Site()
    got = [bool(replies(site.ask(query("web")))) for _ in range(int(engines.BURST) + 50)]
    assert got == [True] * int(engines.BURST) + [False] * 50
    assert drops(site.ask(b"\0" * 12)) == [Drop.RATE]
    assert replies(site.ask(query("db"), "db"))
    site.now += 1 / 64
    assert sum(bool(replies(site.ask(query("web")))) for _ in range(200)) == int(engines.RATE_PER_S / 64)


def test_seeing_a_container_again_does_not_fill_its_budget():
    site = Site()
    for _ in range(int(engines.BURST)):
        site.ask(query("web"))
    site.engine.see("web", View(("n1",), (PUBLIC,)))
    assert drops(site.ask(query("web"))) == [Drop.RATE]


def test_a_clock_that_steps_back_stops_nobody():
    site = Site()
    site.ask(query("web"))
    site.now -= 500
    assert replies(site.ask(query("web")))


def test_forwarded_questions_cost_more():
    site = Site()
    for _ in range(int(engines.BURST) - 3):
        site.ask(query("web"))
    assert read(replies(site.ask(query("example.com")))[0]).rcode() == dns.rcode.SERVFAIL
    assert replies(site.ask(query("web"))) and not site.open


def test_a_container_that_moves_sees_its_new_networks_at_once():
    site = Site()
    assert site.resolve("lone").rcode() == dns.rcode.NXDOMAIN
    site.engine.see("web", View(("n2",), (PUBLIC,)))
    assert texts(site.resolve("lone")) == ["172.19.4.4"] and site.resolve("web").rcode() == dns.rcode.NXDOMAIN


def questions_answered(site: Site, asked: bytes) -> int:
    """Of a flood of the same question, from a full budget."""
    site.now += 1
    return sum(bool(replies(site.ask(asked))) for _ in range(int(engines.BURST) + 1))


def test_a_question_costs_what_its_length_makes_of_it():
    site = Site()
    labels, options = "a." * 120 + "invalid", [dns.edns.GenericOption(65001, b"")] * 100
    assert questions_answered(site, query("x.invalid")) == 10_000
    assert questions_answered(site, query(labels)) < 1_000
    assert questions_answered(site, query("x.invalid", edns=0, options=options)) < 500
    assert replies(site.ask(query("web"), "db"))


def test_a_long_answer_costs_what_its_length_makes_of_it():
    site = Site(upstreams=(PUBLIC,))
    (send,) = sends(site.ask(query("example.com", edns=0)))
    site.hear(send, said(send.data, *(f"300 A 192.0.2.{n}" for n in range(1, 100))))
    site.now += 1
    assert len(texts(site.resolve("example.com", edns=0))) == 74
    assert questions_answered(site, query("example.com", edns=0)) == 2_000


def test_what_a_container_lets_its_upstreams_say_is_paid_for_before_its_next_question():
    site = Site(upstreams=(PUBLIC,))
    for name in ("a.example.com", "b.example.com"):
        (send,) = sends(site.ask(query(name)))
        for _ in range(6):
            site.hear(send, bytes(65_535))
    assert drops(site.ask(query("web"))) == [Drop.RATE] and replies(site.ask(query("web"), "db"))
    site.now += 1
    assert replies(site.ask(query("web")))


def test_questions_that_dnspython_must_read_cost_more():
    site = Site()
    odd = query("web")[:7] + b"\1" + query("web")[8:] + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\1\2\3\4"
    signed = query("web")[:11] + b"\1" + query("web")[12:] + b"\0\0\xfa\0\xff\0\0\0\0\0\0"
    assert replies(site.ask(odd)) and replies(site.ask(signed))
    site.now += 1
    got = [bool(replies(site.ask(odd if n % 2 else signed))) for n in range(300)]
    assert got == [True] * 196 + [False] * 104
    assert replies(site.ask(query("web"), "db"))


def test_what_a_server_on_our_own_networks_says_counts_for_the_asker_alone():
    site = Site(upstreams=("172.18.0.3", PUBLIC))
    first, second = sends(site.ask(query("example.com"))) + sends(site.ask(query("example.com"), "db"))
    assert (first.container, second.container) == ("web", "db")
    assert texts(read(replies(site.hear(first, said(first.data, "300 A 192.0.2.66")))[0])) == ["192.0.2.66"]
    assert texts(site.resolve("example.com")) == ["192.0.2.66"]
    assert texts(read(replies(site.hear(second, said(second.data, "300 A 192.0.2.1")))[0])) == ["192.0.2.1"]
    assert texts(site.resolve("example.com", container="db")) == ["192.0.2.1"]


def test_a_server_on_our_own_networks_that_one_container_finds_silent_is_asked_first_by_the_others():
    site = Site(upstreams=("172.18.0.3", PUBLIC))
    site.ask(query("example.com"))
    site.wait()
    public = next(send for send in site.open.values() if send.server == PUBLIC)
    assert replies(site.hear(public, said(public.data, "300 A 192.0.2.1")))
    assert [send.server for send in sends(site.ask(query("example.org")))] == [PUBLIC]
    assert [send.server for send in sends(site.ask(query("example.net"), "db"))] == ["172.18.0.3"]
