# SPDX-License-Identifier: Apache-2.0
"""An upstream's answer: checked, taken apart, kept as bytes, and made ready for one asker after another.

`read` walks over all records once. Owner names and the names in the everyday types (CNAME, NS, PTR, SOA, MX) must
be sound: labels of 63 bytes, 255 in all, and a few pointers that go backwards only, so that whoever reads the answer
after us meets no loop. An OPT is between the upstream and us (RFC 6891 §6.1.1) and taken off; where it isn't the
last record rare.py builds the message anew, since other records' pointers would move.

An asker's own question section replaces the upstream's: same name, so same length, and every pointer still fits.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from vswitch.dns import names
from vswitch.dns.codec import (
    AD,
    ANY,
    CD,
    HEADER,
    NXDOMAIN,
    OPCODE,
    OPT,
    QR,
    RA,
    RCODE,
    RD,
    RR_FIXED,
    TC,
    Question,
    name_end,
    opt_record,
)

CNAME, MX, TXT = 5, 15, 16
_NAME_AT = {names.NS: 0, CNAME: 0, names.PTR: 0, names.SOA: 0, MX: 2}
_LENGTH = {names.A: 4, names.AAAA: 16}
REBUILT = frozenset({*_NAME_AT, *_LENGTH, TXT})
"""What dnspython gets to build anew: records without names, and those whose names were checked here."""
SERVICE_BINDINGS = frozenset({64, 65})
HINTS = {4: 4, 6: 16}
"""ipv4hint and ipv6hint, and the octets of each address in them."""
MAX_RECORDS = 1024
"""More are no answer that anyone reads, and the time to walk them is ours: 2 ms for so many."""
MAX_POINTERS = 16
"""In one name: servers write one or two. A thousand names at the end of one chain of thousands take seconds."""
MAX_REBUILT_BYTES = 4096
"""The longest answer of these."""
ANSWER, AUTHORITY, ADDITIONAL = 0, 1, 2


class Record(NamedTuple):
    """Where a record ends, which section it is in, where its TTL stands."""

    end: int
    section: int
    ttl_at: int
    ttl: int
    rtype: int


class Answer(NamedTuple):
    """A message without OPT, and what is known of it. `start` is where the records begin, `keep_s` how long it may
    be kept (0: not at all), `extended` the upper bits of its rcode.
    """

    data: bytes
    flags: int
    start: int
    records: tuple[Record, ...]
    keep_s: int
    extended: int = 0

    @property
    def rcode(self) -> int:
        """The whole rcode."""
        return self.extended << 4 | self.flags & RCODE

    @property
    def truncated(self) -> bool:
        """Whether the upstream had more to say."""
        return self.flags & TC != 0


def matches(data: bytes, ident: int, section: bytes, exact: bool) -> bool | None:
    """Whether a message answers the question that we asked; None if all but the letters' case is right.

    Over TCP the case isn't asked for (`exact`): there nobody can answer blindly.
    """
    end = 12 + len(section)
    if len(data) < 12:
        return False
    got, flags, questions, *_ = HEADER.unpack_from(data)
    if got != ident or not flags & QR or flags & OPCODE:
        return False
    if questions == 0 and len(data) == 12 and flags & RCODE:
        return True   # a refusal in a bare header: it answers nothing, and tells who refuses
    if questions != 1 or data[end - 4:end] != section[-4:]:
        return False
    if data[12:end] == section:
        return True
    if data[12:end - 4].lower() != section[:-4].lower():
        return False
    return None if exact else True


def read(data: bytes, section_bytes: int, qtype: int) -> Answer | None:
    """The answer in a message that `matches`; None if it doesn't parse."""
    _, flags, questions, *counts = HEADER.unpack_from(data)
    start = 12 + section_bytes
    if questions == 0:
        return Answer(data, flags, 12, (), 0)
    if sum(counts) > MAX_RECORDS:
        return None
    found: list[Record] = []
    extended, opt = 0, None
    at = start
    for section, count in enumerate(counts):
        for _ in range(count):
            begin = at
            record = _record(data, at, section)
            if record is None:
                return None
            at = record.end
            if record.rtype == OPT:
                if opt is not None or section != ADDITIONAL or data[begin]:
                    return None
                opt, extended = begin, record.ttl >> 24
            else:
                found.append(record)
    if opt is None:
        return _answer(data[:at], flags, start, found, extended, qtype)
    if opt + 11 + (data[opt + 9] << 8 | data[opt + 10]) == at:
        plain = bytearray(data[:opt])
        struct.pack_into("!H", plain, 10, counts[ADDITIONAL] - 1)
        return _answer(bytes(plain), flags, start, found, extended, qtype)
    if len(data) > MAX_REBUILT_BYTES or any(record.rtype not in REBUILT for record in found):
        return None
    from vswitch.dns import rare  # which imports this

    rebuilt = rare.without_opt(data)
    return None if rebuilt is None else read(rebuilt, section_bytes, qtype)


def _record(data: bytes, at: int, section: int) -> Record | None:
    """The record that begins at `at`, None if it isn't sound."""
    fixed_at = checked_name(data, at)
    if not fixed_at or fixed_at + 10 > len(data):
        return None
    rtype, _, ttl, length = RR_FIXED.unpack_from(data, fixed_at)
    rdata_at = fixed_at + 10
    end = rdata_at + length
    if end > len(data) or length != _LENGTH.get(rtype, length):
        return None
    if (skip := _NAME_AT.get(rtype)) is not None:
        named_end = checked_name(data, rdata_at + skip)
        if rtype == names.SOA:
            named_end = named_end and checked_name(data, named_end)
            named_end = named_end and named_end + 20
        if named_end != end:
            return None
    if rtype != OPT and ttl & 0x80000000:
        ttl = 0   # RFC 2181 §8
    return Record(end, section, fixed_at + 4, ttl, rtype)


def checked_name(data: bytes, at: int) -> int:
    """Where a name that begins at `at` ends, 0 if it is malformed: too long, cut off, pointing forward or too often."""
    size, total, end, lowest, pointers = len(data), 1, 0, at, 0
    while at < size:
        length = data[at]
        if not length:
            return end or at + 1
        if length <= names.LABEL_BYTES:
            total += length + 1
            if total > names.NAME_BYTES:
                return 0
            at += length + 1
        elif length >= 0xC0:
            if at + 1 >= size:
                return 0
            end = end or at + 2
            at = (length & 0x3F) << 8 | data[at + 1]
            pointers += 1
            if at >= lowest or at < 12 or pointers > MAX_POINTERS:
                return 0
            lowest = at
        else:
            return 0
    return 0


def _answer(
    data: bytes, flags: int, start: int, records: list[Record], extended: int, qtype: int
) -> Answer:
    answer = Answer(data, flags, start, tuple(records), 0, extended)
    return answer._replace(keep_s=_keep_s(answer, qtype))


def _keep_s(answer: Answer, qtype: int) -> int:
    """How long an answer holds: its least TTL; a denial as long as its SOA says (RFC 2308 §5), else not at all."""
    if answer.truncated or answer.rcode not in (0, NXDOMAIN):
        return 0
    least = min((record.ttl for record in answer.records), default=0)
    in_answer = {record.rtype for record in answer.records if record.section == ANSWER}
    if answer.rcode == 0 and (qtype in in_answer or (qtype == ANY and in_answer)):
        return least
    for record in answer.records:
        if record.section == AUTHORITY and record.rtype == names.SOA:
            minimum = struct.unpack_from("!I", answer.data, record.end - 4)[0]
            return min(least, minimum if minimum < 0x80000000 else 0)
    return 0


def addresses(answer: Answer) -> Iterator[bytes]:
    """Every address that an answer names: A, AAAA, and the hints of SVCB and HTTPS (RFC 9460 §7.3); 4 or 16 octets."""
    data = answer.data
    for record in answer.records:
        if record.rtype in _LENGTH:
            yield data[record.end - _LENGTH[record.rtype]:record.end]
        elif record.rtype in SERVICE_BINDINGS:
            yield from _hints(data[record.ttl_at + 6:record.end])


def _hints(rdata: bytes) -> Iterator[bytes]:
    """The addresses among a service binding's parameters; garbled ones end it."""
    at = name_end(rdata, 2)
    while at and at + 4 <= len(rdata):
        key, length = struct.unpack_from("!HH", rdata, at)
        at += 4
        if (size := HINTS.get(key)) is not None:
            values = rdata[at:at + length]
            yield from (values[i:i + size] for i in range(0, len(values) - size + 1, size))
        at += length


def serve(answer: Answer, question: Question, age_s: int) -> bytes:
    """The answer as an asker gets it: his id, his question byte for byte, TTLs `age_s` less, within his limit."""
    tail = opt_record(question.dnssec) if question.edns else b""
    kept = _kept(answer, question.limit - len(tail))
    data = bytearray(answer.data[:kept[-1].end if kept else answer.start])
    data[12:answer.start] = question.section
    if age_s:
        for record in kept:
            struct.pack_into("!I", data, record.ttl_at, max(0, record.ttl - age_s))
    flags = QR | RA | question.flags & (RD | CD) | answer.flags & RCODE
    if answer.flags & AD and (question.flags & AD or question.dnssec):
        flags |= AD
    # Leaving out additional records is no truncation (RFC 2181 §9)
    left_out = answer.records[len(kept):]
    if answer.truncated or any(record.section != ADDITIONAL for record in left_out):
        flags |= TC
    counts = [sum(record.section == section for record in kept) for section in (ANSWER, AUTHORITY, ADDITIONAL)]
    counts[ADDITIONAL] += 1 if tail else 0
    HEADER.pack_into(data, 0, question.ident, flags, 1, *counts)
    return bytes(data + tail)


def _kept(answer: Answer, limit_bytes: int) -> tuple[Record, ...]:
    """The records, from the first, that end within the limit."""
    for count, record in enumerate(answer.records):
        if record.end > limit_bytes:
            return answer.records[:count]
    return answer.records
