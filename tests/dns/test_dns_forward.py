# SPDX-License-Identifier: Apache-2.0
"""Questions on their way to upstreams: second tries, failures, forgeries, and how many may be under way."""

from __future__ import annotations

from random import Random

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from simulated_dns import PUBLIC, SECOND, Site, drops, query, read, replies, said, sends, texts

from vswitch.dns import forward
from vswitch.dns.action import Arm, Close, Reply, Send
from vswitch.dns.codec import Transport
from vswitch.dns.drop import Drop
from vswitch.dns.engine import View

UDP, TCP = Transport.UDP, Transport.TCP
NAME = "www.example.com"
ADDRESS = "300 A 192.0.2.1"


def asked(site: Site, name: str = NAME, **how) -> Send:
    """A question that goes out, as the one flight that it begins with."""
    (send,) = sends(
        site.ask(
            query(name, **{key: value for key, value in how.items() if key == "ident"}),
            **{key: value for key, value in how.items() if key != "ident"},
        )
    )
    return send


def answer_of(actions):
    (data,) = replies(actions)
    return read(data)


def test_a_question_goes_to_the_first_upstream_and_its_answer_comes_back():
    site = Site()
    (send, arm) = site.ask(query("WWW.example.com", ident=77))
    assert (send.server, send.transport, send.container) == (PUBLIC, UDP, "web") and arm == Arm(site.now + 0.8)
    reply, close = site.hear(send, said(send.data, ADDRESS))
    assert close == Close(send.flight) and isinstance(reply, Reply)
    answer = read(reply.data)
    assert (
        answer.id == 77 and answer.question[0].name.to_text() == "WWW.example.com." and texts(answer) == ["192.0.2.1"]
    )
    assert answer.flags == dns.flags.from_text("QR RD RA")
    assert not site.open and site.engine.pending("web") == 0 and site.wait() == []


def test_ids_and_case_are_drawn_anew_for_each_flight():
    site = Site(seed=3)
    seen = [asked(site, f"a-rather-long-name-{n}.example.com").data for n in range(60)]
    assert len({data[:2] for data in seen}) > 55
    assert len({data[12 : 13 + 19][-1:] + data[12:30] for data in seen}) == 60
    letters = [octet for data in seen for octet in data[13:30] if chr(octet).isalpha()]
    assert 0.4 < sum(chr(octet).isupper() for octet in letters) / len(letters) < 0.6
    other = Site(seed=4)
    assert asked(other, "a-rather-long-name-0.example.com").data[:2] != seen[0][:2]


FORGERIES = {
    "another id": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "another name": lambda data: data[:14] + b"x" + data[15:],
    "another type": lambda data: data[:12] + data[12:].replace(b"\0\0\1\0\1", b"\0\0\x1c\0\1", 1),
    "another class": lambda data: data[:12] + data[12:].replace(b"\0\0\1\0\1", b"\0\0\1\0\3", 1),
    "a question itself": lambda data: data[:2] + bytes([data[2] & 0x7F]) + data[3:],
    "another opcode": lambda data: data[:2] + bytes([data[2] | 0x28]) + data[3:],
    "two questions": lambda data: data[:5] + b"\2" + data[6:],
    "no question, but records": lambda data: data[:5] + b"\0" + data[6:],
    "a header": lambda data: data[:12],
    "half a header": lambda data: data[:7],
    "nothing": lambda data: b"",
}


@pytest.mark.parametrize("case", FORGERIES)
def test_what_is_not_the_answer_to_our_question_is_dropped_and_waited_on(case):
    site = Site()
    send = asked(site)
    right = said(send.data, ADDRESS)
    actions = site.hear(send, FORGERIES[case](right))
    assert drops(actions) == [Drop.FORGED] and len(actions) == 1 and site.open
    assert texts(answer_of(site.hear(send, right))) == ["192.0.2.1"]


def test_an_answer_from_another_server_or_to_no_question_is_dropped():
    site = Site()
    send = asked(site)
    right = said(send.data, ADDRESS)
    assert drops(site.hear(send, right, server=SECOND)) == [Drop.FOREIGN]
    assert replies(site.hear(send, right))
    assert drops(site.hear(send, right)) == [Drop.UNSOLICITED]
    assert drops(site.take(site.engine.heard(right, 4711, PUBLIC, site.now))) == [Drop.UNSOLICITED]


def swapped(data: bytes) -> bytes:
    """The question's letters in the other case."""
    end = data.index(b"\0", 12)
    return data[:12] + data[12:end].swapcase() + data[end:]


def test_a_server_that_spoils_case_is_found_out_over_tcp_and_remembered():
    site = Site(upstreams=(PUBLIC,))
    send = asked(site)
    actions = site.hear(send, swapped(said(send.data, ADDRESS)))
    (again,) = sends(actions)
    assert drops(actions) == [Drop.FORGED] and again.transport is TCP and again.server == PUBLIC
    assert texts(answer_of(site.hear(again, swapped(said(again.data, ADDRESS))))) == ["192.0.2.1"]
    later = asked(site, "Other.example.com")
    assert later.transport is UDP and later.data[12:].startswith(b"\x05other\x07example\x03com\0")
    answer = answer_of(site.hear(later, swapped(said(later.data, ADDRESS))))
    assert answer.question[0].name.to_text() == "Other.example.com."


def test_a_forger_who_goes_on_guessing_is_left_behind_on_tcp():
    site = Site()
    send = asked(site)
    wrong = FORGERIES["another id"](said(send.data, ADDRESS))
    for _ in range(forward.WRONG_LIMIT - 1):
        assert len(site.hear(send, wrong)) == 1
    (again,) = sends(site.hear(send, wrong))
    assert again.transport is TCP and again.server == PUBLIC and list(site.open) == [again.flight]
    (other,) = sends(site.hear(again, wrong))
    assert other.server == SECOND and other.transport is UDP


def test_a_silent_server_is_left_open_and_the_next_one_asked():
    site = Site()
    first = asked(site)
    (second,) = sends(site.wait())
    assert (first.server, second.server) == (PUBLIC, SECOND) and len(site.open) == 2
    assert first.data[:2] != second.data[:2]
    assert texts(answer_of(site.hear(first, said(first.data, ADDRESS)))) == ["192.0.2.1"]
    assert site.closed == [first.flight, second.flight]


def test_a_server_that_was_silent_is_asked_last_for_a_while():
    site = Site()
    asked(site)
    (second,) = sends(site.wait())
    site.hear(second, said(second.data, ADDRESS))
    assert asked(site, "b.example.com").server == SECOND
    site.now += forward.SICK_S
    assert asked(site, "c.example.com").server == PUBLIC


def test_whoever_answers_others_meanwhile_is_not_sick():
    site = Site()
    slow = asked(site)
    site.now += 0.5
    other = asked(site, "b.example.com", ident=8)
    site.hear(other, said(other.data, ADDRESS))
    site.now = 1000.8
    (second,) = sends(site.take(site.engine.due(site.now)))
    site.hear(second, said(second.data, ADDRESS))
    assert slow.server == PUBLIC == asked(site, "c.example.com").server


def test_one_server_alone_is_asked_again_and_then_given_up():
    site = Site(upstreams=(PUBLIC,))
    began = site.now
    asked(site)
    times = []
    while site.open:
        actions = site.wait()
        times.append((round(site.now - began, 1), len(sends(actions))))
    assert times == [(0.8, 1), (2.0, 1), (3.5, 1), (4.5, 0)]
    assert answer_of(actions).rcode() == dns.rcode.SERVFAIL and site.engine.pending("web") == 0


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NOTAUTH", "YXDOMAIN"])
def test_a_server_that_refuses_is_followed_by_the_next_at_once(rcode):
    site = Site()
    first = asked(site)
    (second,) = sends(site.hear(first, said(first.data, rcode=dns.rcode.from_text(rcode))))
    assert second.server == SECOND and list(site.open) == [second.flight]
    assert (
        answer_of(site.hear(second, said(second.data, rcode=dns.rcode.from_text(rcode)))).rcode() == dns.rcode.SERVFAIL
    )
    assert not site.open


def test_sockets_that_fail_are_servers_that_fail():
    site = Site()
    first = asked(site)
    (second,) = sends(site.lose(first))
    assert second.server == SECOND
    assert answer_of(site.lose(second)).rcode() == dns.rcode.SERVFAIL
    assert site.take(site.engine.lost(second.flight, site.now)) == []


def test_while_one_server_is_still_being_asked_anothers_failure_ends_nothing():
    site = Site()
    first = asked(site)
    (second,) = sends(site.wait())
    assert replies(site.lose(second)) == [] and list(site.open) == [first.flight]
    assert texts(answer_of(site.hear(first, said(first.data, ADDRESS)))) == ["192.0.2.1"]


def test_nxdomain_is_an_answer():
    site = Site()
    send = asked(site)
    answer = answer_of(site.hear(send, said(send.data, rcode=dns.rcode.NXDOMAIN, soa=5)))
    assert answer.rcode() == dns.rcode.NXDOMAIN and len(answer.authority) == 1


@pytest.mark.parametrize("how", ["FORMERR", "NOTIMP", "bare FORMERR", "BADVERS"])
def test_a_server_that_knows_no_edns_is_asked_without_and_remembered(how):
    site = Site()
    send = asked(site)
    rcode = dns.rcode.from_text(how.split()[-1])
    refusal = said(send.data, rcode=rcode)
    if how.startswith("bare"):
        refusal = refusal[:4] + bytes(8)
    (again,) = sends(site.hear(send, refusal))
    assert again.server == PUBLIC and read(send.data).edns == 0 and read(again.data).edns == -1
    assert texts(answer_of(site.hear(again, said(again.data, ADDRESS)))) == ["192.0.2.1"]
    assert read(asked(site, "b.example.com").data).edns == -1
    (failed,) = sends(site.hear(again := site.sent(), said(again.data, rcode=dns.rcode.FORMERR)))
    assert failed.server == SECOND


def test_a_truncated_answer_is_asked_for_again_over_tcp():
    site = Site()
    send = asked(site)
    (again,) = sends(site.hear(send, said(send.data, ADDRESS, flags="QR TC RD RA")))
    assert (again.server, again.transport) == (PUBLIC, TCP)
    many = [f"300 A 192.0.2.{n}" for n in range(100)]
    answer = answer_of(site.hear(again, said(again.data, *many)))
    assert answer.flags & dns.flags.TC and len(texts(answer)) == 29  # the asker's own limit
    (whole,) = replies(site.ask(query(NAME), transport=TCP))
    assert len(texts(read(whole))) == 100 and not read(whole).flags & dns.flags.TC


def test_where_tcp_fails_the_truncated_answer_is_better_than_none():
    site = Site(upstreams=(PUBLIC,))
    send = asked(site)
    (again,) = sends(site.hear(send, said(send.data, ADDRESS, flags="QR TC RD RA")))
    answer = answer_of(site.lose(again))
    assert answer.flags & dns.flags.TC and texts(answer) == ["192.0.2.1"]
    assert sends(site.ask(query(NAME, ident=9)))  # and is not kept


def broken_answers(data: bytes) -> dict[str, bytes]:
    """Made of an answer with one A record and an OPT behind it."""
    head, body = data[:12], data[12:]
    owner = body.index(b"\xc0\x0c", 5) + 12
    before, record, behind = data[:owner], data[owner : owner + 16], data[owner + 16 :]
    plain = before[:10] + b"\0\0" + before[12:]
    text = owner + 12  # where a text would stand: pointers, each to the one before it
    chain = b"\xc0\x0c" + b"".join((0xC000 | text + 2 * n).to_bytes(2, "big") for n in range(15))
    host_identity = b"\xc0\x0c\0\x37\0\1\0\0\0\1\0\x07\1\2\0\1xy\0"
    return {
        "an OPT before a record of names that nobody checked": head[:10] + b"\0\2" + body + host_identity,
        "a pointer to itself": before + bytes([0xC0, owner]) + record[2:] + behind,
        "a pointer forward": before + bytes([0xC0, owner + 4]) + record[2:] + behind,
        "a pointer into the header": before + b"\xc0\x04" + record[2:] + behind,
        "a chain of 17 pointers": plain[:7] + b"\2" + plain[8:]
        + b"\xc0\x0c\0\x10\0\1\0\0\0\1\0" + bytes([len(chain)]) + chain
        + (0xC000 | text + len(chain) - 2).to_bytes(2, "big") + record[2:],
        "a label of 64 bytes": before + b"\x40" + b"a" * 64 + b"\0" + record[2:] + behind,
        "a name of 260 bytes": before + (b"\x3f" + b"a" * 63) * 4 + b"\0" + record[2:] + behind,
        "an address of 3 bytes": before + record[:10] + b"\0\3" + record[12:15] + behind,
        "a text beyond the end": plain + b"\xc0\x0c\0\x10\0\1\0\0\0\1\0\7\3abc",
        "a record less than announced": head[:7] + b"\2" + head[8:] + body,
        "65535 records announced": head[:6] + b"\xff\xff" + head[8:] + body,
        "more records than anyone reads": plain[:6] + (1025).to_bytes(2, "big") + plain[8:] + record * 1025,
        "cut off": data[:-5],
        "an OPT among the answers": head[:6] + b"\0\2\0\0\0\0" + body,
    }


@pytest.mark.parametrize("case", broken_answers(said(query(NAME, edns=0), ADDRESS)))
def test_an_answer_whose_records_do_not_parse_is_a_failure(case):
    site = Site()
    send = asked(site)
    actions = site.hear(send, broken_answers(said(send.data, ADDRESS))[case])
    assert drops(actions) == [Drop.UNREADABLE] and [again.server for again in sends(actions)] == [SECOND]


def test_names_in_records_are_checked_too():
    site = Site()
    send = asked(site)
    good = said(send.data, "300 CNAME other.example.org.")
    actions = site.hear(send, good.replace(b"\x05other", b"\x3fother"))
    assert drops(actions) == [Drop.UNREADABLE]
    again = site.sent()
    assert texts(answer_of(site.hear(again, said(again.data, "300 CNAME other.example.org.")))) == [
        "other.example.org."
    ]


def test_an_opt_in_the_middle_is_taken_out():
    site = Site()
    send = asked(site)
    body = said(send.data, ADDRESS)
    extra = b"\2ns\xc0\x10\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\x35"
    counted = body[:10] + b"\0\2" + body[12:] + extra
    answer = answer_of(site.hear(send, counted))
    assert texts(answer) == ["192.0.2.1"] and answer.edns == -1
    assert [rrset.name.to_text() for rrset in answer.additional] == ["ns.example.com."]


def test_an_opt_in_the_middle_of_a_long_answer_is_a_failure():
    site = Site()
    send = asked(site)
    body = said(send.data, *(f"300 A 192.0.{n}.1" for n in range(255)))
    counted = body[:10] + b"\0\2" + body[12:] + b"\2ns\xc0\x10\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\x35"
    assert drops(site.hear(send, counted)) == [Drop.UNREADABLE]


def test_the_same_question_asked_by_many_is_one_question_outside():
    site = Site()
    send = asked(site, ident=1)
    assert sends(site.ask(query("WWW.EXAMPLE.COM", ident=2), "db", 99)) == []
    assert sends(site.ask(query(NAME, ident=3), "web", 5353)) == []
    got = [action for action in site.hear(send, said(send.data, ADDRESS)) if isinstance(action, Reply)]
    assert [(reply.asker.container, read(reply.data).id) for reply in got] == [("web", 1), ("db", 2), ("web", 3)]
    assert read(got[1].data).question[0].name.to_text() == "WWW.EXAMPLE.COM."


def test_a_question_repeated_while_it_is_pending_is_answered_once():
    site = Site()
    send = asked(site)
    assert drops(site.ask(query(NAME))) == [Drop.REPEATED]
    assert len(replies(site.hear(send, said(send.data, ADDRESS)))) == 1


def test_a_container_at_its_limit_is_refused_and_others_are_not():
    site = Site()
    for n in range(forward.WAITERS_PER_CONTAINER):
        asked(site, f"n{n}.example.com", ident=n)
    (reply,) = replies(site.ask(query(NAME)))
    assert read(reply).rcode() == dns.rcode.SERVFAIL and site.engine.pending("web") == forward.WAITERS_PER_CONTAINER
    assert asked(site, container="db")


def test_when_all_are_full_the_container_with_most_loses_its_oldest_question():
    site = Site()
    for n in range(9):
        site.engine.see(f"c{n}", View(("n1",), (PUBLIC,)))
    for n in range(forward.WAITERS):
        asked(site, f"n{n}.example.com", container=f"c{n // 128}", ident=n)
    actions = site.ask(query(NAME), "c8")
    (lost,) = [action for action in actions if isinstance(action, Reply)]
    assert lost.asker.container == "c0" and read(lost.data).id == 0 and read(lost.data).rcode() == dns.rcode.SERVFAIL
    assert len(sends(actions)) == 1 and len(site.open) == forward.WAITERS == len(site.engine._forwarder)
    assert site.engine.pending("c8") == 1 and site.engine.pending("c0") == 127


def test_whoever_has_most_himself_is_refused_when_all_are_full(monkeypatch):
    monkeypatch.setattr(forward, "WAITERS", 4)
    site = Site()
    for n in range(3):
        asked(site, f"n{n}.example.com", ident=n)
    asked(site, container="db")
    refused = answer_of(site.ask(query("x.example.com", ident=99)))
    assert refused.rcode() == dns.rcode.SERVFAIL and refused.id == 99 and site.engine.pending("web") == 3
    assert sends(site.ask(query("y.example.com"), "lone"))


def test_a_timer_that_comes_early_is_armed_again():
    site = Site()
    asked(site)
    at = site.armed
    site.now += 0.1
    assert site.take(site.engine.due(site.now)) == [Arm(at)]


def test_without_free_sockets_nothing_is_asked_twice(monkeypatch):
    monkeypatch.setattr(forward, "FLIGHTS", 2)
    site = Site()
    asked(site)
    asked(site, "b.example.com", ident=8)
    assert read(replies(site.ask(query("c.example.com")))[0]).rcode() == dns.rcode.SERVFAIL
    while site.open:
        actions = site.wait()
        assert sends(actions) == []
    assert len(replies(actions)) == 2


def test_a_container_that_goes_takes_its_questions_with_it():
    site = Site()
    alone, shared = asked(site), asked(site, "b.example.com", ident=8)
    site.ask(query("b.example.com"), "db")
    assert site.take(site.engine.forget("web"))[0] == Close(alone.flight)
    assert list(site.open) == [shared.flight] and site.engine.pending("web") == 0
    (reply,) = [a for a in site.hear(shared, said(shared.data, ADDRESS)) if isinstance(a, Reply)]
    assert reply.asker.container == "db"
    assert drops(site.ask(query("web"))) == [Drop.STRANGER]


def test_a_question_that_goes_on_for_others_goes_on_in_their_name():
    site = Site()
    assert asked(site).container == "web"
    site.ask(query(NAME), "db")
    site.take(site.engine.forget("web"))
    assert [send.container for send in sends(site.wait())] == ["db"]


def test_no_exchange_sends_without_end():
    site = Site(upstreams=tuple(f"9.9.9.{n}" for n in range(20)))
    count, todo = 0, sends(site.ask(query(NAME)))
    while todo:
        count += 1
        send = todo.pop()
        todo += sends(site.hear(send, said(send.data, rcode=dns.rcode.FORMERR)))
    assert count == forward.SENDS and not site.open


def test_servers_that_are_remembered_have_a_limit(monkeypatch):
    monkeypatch.setattr(forward, "SERVERS", 4)
    forwarder = forward.Forwarder(Random(1))
    for n in range(50):
        forwarder._server(str(n))
        assert len(forwarder._servers) <= 4
