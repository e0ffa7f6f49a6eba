# SPDX-License-Identifier: Apache-2.0
"""Questions good and bad, answers within every limit; dnspython is the judge of what is well-formed."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.tsigkeyring
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from simulated_dns import Site, packed, query, read, replies, texts

from vswitch.dns import codec, names
from vswitch.dns.action import Asker, Dropped, Reply
from vswitch.dns.codec import Question, Transport
from vswitch.dns.drop import Drop

UDP, TCP = Transport.UDP, Transport.TCP
WEB = bytes.fromhex("037765620000010001")
OPT = bytes.fromhex("00002904d0000000000000")


def message(section: bytes, *, counts: tuple = (1, 0, 0, 0), flags: int = 0x0100, tail: bytes = b"") -> bytes:
    return struct.pack("!HHHHHH", 0xBEEF, flags, *counts) + section + tail


def opt(rdata: bytes, *, owner: bytes = b"\0", length: int | None = None) -> bytes:
    length = len(rdata) if length is None else length
    return owner + struct.pack("!HHIH", 41, 1232, 0, length) + rdata


LONGEST = b"".join(b"\x3f" + b"a" * 63 for _ in range(3)) + b"\x3d" + b"b" * 61 + b"\0"

GARBLED = {
    "no question": message(b"", counts=(0, 0, 0, 0)),
    "two questions": message(WEB + WEB, counts=(2, 0, 0, 0)),
    "a question announced, none there": message(b""),
    "a name without an end": message(b"\x03web"),
    "a label beyond the end": message(b"\x3fweb\0" + b"\0\1\0\1"),
    "a label of 64 bytes": message(b"\x40" + b"a" * 64 + b"\0\0\1\0\1"),
    "a pointer to itself": message(b"\xc0\x0c\0\1\0\1"),
    "a pointer to a pointer": message(b"\x01a\xc0\x0c\0\1\0\1"),
    "a pointer into the header": message(b"\xc0\x00\0\1\0\1"),
    "a name of 256 bytes": message(b"\x01a" + LONGEST[:-1] + b"\0\0\1\0\1"),
    "a type without a class": message(b"\x03web\0\0\1"),
    "bytes left over": message(WEB + b"\0"),
    "bytes left over behind the OPT": message(WEB, counts=(1, 0, 0, 1), tail=OPT + b"\0"),
    "an additional record announced, none there": message(WEB, counts=(1, 0, 0, 1)),
    "an OPT cut short": message(WEB, counts=(1, 0, 0, 1), tail=OPT[:-1]),
    "an OPT longer than the message": message(WEB, counts=(1, 0, 0, 1), tail=opt(b"", length=4)),
    "an option longer than the OPT": message(WEB, counts=(1, 0, 0, 1), tail=opt(b"\0\x0a\0\x09abcdefgh")),
    "an option without a length": message(WEB, counts=(1, 0, 0, 1), tail=opt(b"\0\x0a\0")),
    "more options than any stub has": message(
        WEB, counts=(1, 0, 0, 1), tail=opt(struct.pack("!HH", 12, 4093) + bytes(4093))
    ),
    "more records than any question has": message(
        WEB, counts=(1, 9, 0, 0), tail=b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\1\2\3\4" * 9
    ),
    "a longer record than any question has": message(
        WEB, counts=(1, 1, 0, 0), tail=b"\xc0\x0c\0\x63\0\1\0\0\0\1" + (1200).to_bytes(2, "big") + bytes(1200)
    ),
    "two OPTs": message(WEB, counts=(1, 0, 0, 2), tail=OPT + OPT),
    "an OPT with a name": message(WEB, counts=(1, 0, 0, 1), tail=opt(b"", owner=b"\x01a\0")),
    "an OPT among the answers": message(WEB, counts=(1, 1, 0, 0), tail=OPT),
    "OPT as the type asked for": message(b"\x03web\0" + b"\0\x29\0\1"),
    "0 as the type asked for": message(b"\x03web\0" + b"\0\0\0\1"),
}


@pytest.mark.parametrize("case", GARBLED)
def test_a_garbled_question_gets_formerr_in_a_bare_header(case):
    assert codec.read(GARBLED[case], UDP).hex() == "beef8181" + "0000" * 4


@pytest.mark.parametrize("opcode", [1, 2, 3, 4, 5, 6, 15])
def test_another_opcode_gets_notimp_whatever_else_the_message_says(opcode):
    for section in (WEB, b"", b"\xc0\x0c"):
        answer = codec.read(message(section, flags=opcode << 11), UDP)
        assert struct.unpack("!HHHHHH", answer) == (0xBEEF, 0x8084 | opcode << 11, 0, 0, 0, 0)


@pytest.mark.parametrize("data", [b"", b"\0", message(b"")[:11]])
def test_less_than_a_header_is_dropped(data):
    assert codec.read(data, UDP) is Drop.SHORT


def test_an_answer_is_never_answered():
    for section in (WEB, b""):
        assert codec.read(message(section, flags=0x8180), UDP) is Drop.RESPONSE


REFUSED = {
    "class CHAOS": (query("version.bind", "TXT")[:-2] + b"\0\3", dns.rcode.REFUSED),
    "class ANY": (query("web")[:-2] + b"\0\xff", dns.rcode.REFUSED),
    "AXFR": (query("web", "AXFR"), dns.rcode.REFUSED),
    "IXFR with its SOA": (
        message(b"\x03web\0\0\xfb\0\1", counts=(1, 0, 1, 0), tail=b"\xc0\x0c\0\6\0\1\0\0\0\0\0\x16" + bytes(22)),
        dns.rcode.REFUSED,
    ),
    "TKEY": (query("web", "TKEY"), dns.rcode.REFUSED),
    "EDNS version 7": (query("web", edns=7), dns.rcode.BADVERS),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_well_formed_but_not_for_us_is_refused_with_its_question(case):
    data, rcode = REFUSED[case]
    (reply,) = replies(Site().ask(data))
    answer = read(reply)
    assert answer.rcode() == rcode and answer.question == read(data).question and not answer.answer
    assert answer.flags & dns.flags.AA == 0 and (answer.edns >= 0) == (case == "EDNS version 7")


def test_a_signed_question_is_refused_since_we_hold_no_keys():
    signed = dns.message.from_wire(query("web"))
    signed.use_tsig(dns.tsigkeyring.from_text({"key.": "c2VjcmV0"}), "key.")
    (reply,) = replies(Site().ask(signed.to_wire()))
    assert read(reply).rcode() == dns.rcode.NOTAUTH


def test_records_that_mean_nothing_in_a_question_are_ignored():
    stray = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\1\2\3\4"
    for counts, tail in (((1, 1, 0, 1), stray + OPT), ((1, 0, 0, 2), stray + OPT), ((1, 0, 0, 2), OPT + stray)):
        question = codec.read(message(WEB, counts=counts, tail=tail), UDP)
        assert isinstance(question, Question) and question.edns and question.limit == 1232 and question.key == WEB[:5]


def test_names_in_records_that_mean_nothing_are_not_followed():
    chain = b"\xc0\x0c" + b"".join((0xC000 | 42 + 2 * n).to_bytes(2, "big") for n in range(400))
    host_identity = b"\0\0\x37\0\1\0\0\0\0" + (6 + len(chain)).to_bytes(2, "big") + b"\1\2\0\1xy" + chain
    question = codec.read(message(WEB, counts=(1, 1, 0, 0), tail=host_identity), UDP)
    assert isinstance(question, Question) and question.key == WEB[:5]
    assert codec.read(message(WEB, counts=(1, 1, 0, 0), tail=host_identity[:-1]), UDP)[3] & 15 == codec.FORMERR
    assert codec.read(message(WEB, counts=(1, 1, 0, 0), tail=host_identity + b"\0"), UDP)[3] & 15 == codec.FORMERR


def test_cookies_padding_subnets_and_unknown_options_are_tolerated_and_not_returned():
    options = [
        dns.edns.GenericOption(code, data)
        for code, data in (
            (10, b"12345678"),
            (10, b"odd"),
            (12, bytes(300)),
            (8, b"\0\1\x18\0\1\2\3"),
            (65001, b"x"),
            (3, b""),
        )
    ]
    site = Site()
    for chosen in (options, options[:1]):
        answer = site.resolve("web", edns=0, options=chosen)
        assert texts(answer) == ["172.18.0.2"] and answer.edns == 0 and not answer.options and answer.payload == 1232


@pytest.mark.parametrize(
    ("edns", "payload", "limit"),
    [(False, 0, 512), (0, 0, 512), (0, 511, 512), (0, 700, 700), (0, 1232, 1232), (0, 4096, 1232), (0, 65535, 1232)],
)
def test_the_askers_limit_counts_within_ours(edns, payload, limit):
    asked = query("many", edns=edns, payload=payload)
    assert codec.read(asked, UDP).limit == limit
    site = Site()
    site.engine.zone.add("n1", "many", ["many"], [bytes([172, 18, 1, n]) for n in range(200)])
    (reply,) = replies(site.ask(asked))
    answer = read(reply)
    assert answer.flags & dns.flags.TC and limit - 16 < len(reply) <= limit
    assert len(set(texts(answer))) == (limit - 12 - 10 - (0 if edns is False else 11)) // 16


def test_over_tcp_everything_goes_until_65535_bytes():
    site = Site()
    site.engine.zone.add("n1", "many", ["many"], [bytes([172, 18, n >> 8, n & 255]) for n in range(4090)])
    (reply,) = replies(site.ask(query("many"), transport=TCP))
    assert len(texts(read(reply))) == 4090 and not read(reply).flags & dns.flags.TC
    site.engine.zone.add("n1", "more", ["many"], [bytes([172, 18, n >> 8, n & 255]) for n in range(5000, 6000)])
    (reply,) = replies(site.ask(query("many"), transport=TCP))
    assert len(reply) <= 65535 and read(reply).flags & dns.flags.TC and len(texts(read(reply))) == 4094


def test_a_denial_of_the_longest_name_fits_an_asker_without_edns():
    site = Site()
    (reply,) = replies(site.ask(message(LONGEST[:-1][:-62] + b"\x3c" + b"b" * 60 + b"\0" + b"\0\1\0\1"), "shut"))
    answer = read(reply)
    assert answer.rcode() == dns.rcode.NXDOMAIN and len(reply) <= 512
    assert answer.authority[0].name == answer.question[0].name.parent()
    (reply,) = replies(site.ask(message(LONGEST + b"\0\1\0\1"), "shut"))
    assert read(reply).question[0].name.to_wire() == LONGEST


labels = st.lists(st.binary(min_size=1, max_size=63), min_size=0, max_size=6).filter(
    lambda parts: sum(len(part) + 1 for part in parts) < 255
)
rtypes = st.sampled_from([1, 28, 12, 16, 15, 33, 65, 2, 6, 43, 255, 10000])


@given(labels, rtypes, st.integers(0, 65535), st.booleans(), st.sampled_from([None, 512, 1232, 4096]), st.booleans())
def test_a_question_reads_as_dnspython_wrote_it(parts, rtype, ident, recursion, payload, dnssec):
    name = dns.name.Name([*parts, b""])
    made = dns.message.make_query(name, rtype, id=ident, use_edns=payload is not None, payload=payload)
    made.flags = dns.flags.RD if recursion else 0
    if payload is not None:
        made.want_dnssec(dnssec)
    question = codec.read(made.to_wire(), UDP)
    assert question.ident == ident and question.qtype == rtype and question.flags == made.flags
    assert question.section[:-4] == name.to_wire() and question.key == name.to_wire().lower()
    assert question.edns == (payload is not None) and question.dnssec == (payload is not None and dnssec)


@given(labels, rtypes, st.integers(0, 65535), st.sampled_from([0, 0x10, 0x20, 0x30]), st.booleans(), st.booleans())
def test_a_question_to_an_upstream_is_what_dnspython_reads(parts, rtype, ident, bits, edns, dnssec):
    name = dns.name.Name([*parts, b""])
    asked = read(codec.ask(ident, name.to_wire(), rtype, flags=bits | 0x8F00, edns=edns, dnssec=dnssec))
    assert asked.id == ident and asked.question[0].name == name and asked.question[0].rdtype == rtype
    assert asked.flags == dns.flags.RD | bits and (asked.edns == 0) == edns
    assert not edns or (bool(asked.ednsflags & dns.flags.DO) == dnssec and asked.payload == 1232)


@given(st.integers(0, 100), st.integers(512, 1300), st.booleans())
def test_an_answer_is_what_dnspython_reads_and_never_too_long(count, limit, edns):
    addresses = [ip_address(0x0A000000 + n) for n in range(count)]
    question = codec.read(query("web", edns=0 if edns else False, payload=limit), UDP)
    records = [codec.record(names.A, 5, address.packed) for address in addresses]
    reply = codec.compose(question, records)
    answer = read(reply)
    assert len(reply) <= question.limit
    shown = [packed(text) for text in texts(answer)]
    assert sorted(shown) == sorted(address.packed for address in addresses[: len(shown)])
    assert bool(answer.flags & dns.flags.TC) == (len(shown) < len(addresses))
    assert len(shown) == len(addresses) or len(reply) + 16 > question.limit


def well_formed(data: bytes) -> bool:
    try:
        dns.message.from_wire(data)
    except dns.message.UnknownTSIGKey:
        return True
    except dns.exception.DNSException:
        return False
    return True


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=80).map(message),
        st.builds(
            lambda data, at, octet: data[: at % len(data)] + bytes([octet]) + data[at % len(data) + 1 :],
            st.sampled_from(
                [query("web.backend", edns=0, options=[dns.edns.GenericOption(10, b"12345678")]), query("a.b.c")]
            ),
            st.integers(0, 100),
            st.integers(0, 255),
        ),
    )
)
@example(message(WEB, counts=(1, 0, 0, 1), tail=OPT))
def test_any_bytes_raise_nothing_and_what_is_taken_dnspython_takes_too(data):
    for transport in Transport:
        question = codec.read(data, transport)
        if isinstance(question, Question):
            assert well_formed(data)
            assert read(codec.refuse(question, question.rcode)).rcode() == question.rcode
        elif isinstance(question, bytes):
            assert (
                len(question) == 12
                and question[2] & 0x80
                and question[3] & 0x0F in (dns.rcode.FORMERR, dns.rcode.NOTIMP)
            )
    for action in Site().ask(data):
        assert not isinstance(action, Dropped) or len(data) < 12 or data[2] & 0x80


def test_each_question_gets_at_most_one_reply_of_its_id():
    site = Site()
    for data in [*GARBLED.values(), *(data for data, _ in REFUSED.values())]:
        (reply,) = site.ask(data)
        assert isinstance(reply, Reply) and reply.asker == Asker("web", 5353) and reply.data[:2] == data[:2]
