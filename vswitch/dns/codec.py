# SPDX-License-Identifier: Apache-2.0
"""The everyday question and its answers in bytes (RFC 1035 §4, RFC 6891, RFC 9619).

Read here: one question, behind it nothing or one OPT record. That is all that stubs send; a message with more
in it (TSIG, records in other sections) goes to rare.py, which takes several times as long, and for which
the engine takes a higher price. More than MAX_STRAY records or MAX_RARE_BYTES are FORMERR unread.

`read` gives a Question, or the bytes of a refusal, or a Drop; it never raises:

    shorter than a header, or an answer itself      Drop (there is nobody to answer, or a loop would start)
    another opcode                                  NOTIMP, header only
    not one question; name, length or OPT garbled;
    bytes left over; OPT or 0 as the type           FORMERR, header only (RFC 6891 §7)
    EDNS version above 0                            BADVERS
    class other than IN, zone transfer, meta types  REFUSED

A name in a question may not be compressed: nothing stands before it that a pointer could mean, so there are no
loops to follow. EDNS options are measured and otherwise ignored, cookies and unknown ones alike (RFC 6891
§6.1.2, RFC 7873 §5.2): we have no state with the asker, and his go no further.

An answer repeats the question section byte for byte (stubs compare its case) and names it by pointer. Over the
asker's limit whole records are left out at the end and TC is set; what fits is sent, since musl before 1.2.4 takes
what came. AA is set where we are the authority, RA always, RD and CD as asked, AD only on a validating
upstream's word and where the asker understands it (RFC 6840 §5.7).

Measured on one core of a 2-core machine (CPython 3.11, timeit): a whole `Engine.ask` for an A, AAAA or PTR among 65,000
names takes 5 to 6 µs.
"""
from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from vswitch.dns import names
from vswitch.dns.drop import Drop

OUR_PAYLOAD = 1232
"""The largest datagram we send or ask for: one packet on every path with IPv6's least MTU (DNS flag day 2020)."""
PLAIN_PAYLOAD = 512
"""The largest to an asker without EDNS (RFC 1035 §2.3.4)."""
STREAM_PAYLOAD = 65535
MAX_OPTIONS_BYTES = 4096
"""EDNS options beyond this are nothing that a stub sends (padding fills to 128 or 468): FORMERR."""
MAX_STRAY, MAX_RARE_BYTES = 8, 1232
"""What rare.py gets to read of a question."""

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE, RCODE = 0x7800, 0x000F
DO = 0x8000
OPT, IN, ANY = 41, 1, 255

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, NOTAUTH, BADVERS = 0, 1, 2, 3, 4, 5, 9, 16
META = frozenset(range(249, 255))
"""TKEY, TSIG, IXFR, AXFR, MAILB, MAILA: transactions and transfers, not questions to a resolver."""

HEADER = struct.Struct("!HHHHHH")
TYPE_CLASS = struct.Struct("!HH")
OPT_FIXED = struct.Struct("!xHHBBHH")   # root, type, payload, extended rcode, version, flags, length
RR_FIXED = struct.Struct("!HHIH")       # type, class, ttl, length
OWNER = b"\xc0\x0c"
"""A pointer to the name in the question."""


class Transport(Enum):
    """How a message came, and so how its answer goes."""

    UDP = "udp"
    TCP = "tcp"


class Question(NamedTuple):
    """One question. `section` is the question section as asked, `key` its name to look up (names.py).

    `limit` is the length of the longest answer that the asker takes, `edns` whether he sent an OPT; `rcode` is what
    refuses the question, 0 for none.
    """

    ident: int
    flags: int
    section: bytes
    key: bytes
    qtype: int
    limit: int
    edns: bool = False
    dnssec: bool = False
    rcode: int = NOERROR


def read(data: bytes, transport: Transport, *, rare_too: bool = True) -> Question | bytes | Drop | None:
    """The question in a message, or the refusal to send, or why there is neither; never raises.

    None, if not `rare_too`: it takes rare.py to tell.
    """
    size = len(data)
    if size < 12:
        return Drop.SHORT
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(data)
    if flags & QR:
        return Drop.RESPONSE
    if flags & OPCODE:
        return bare(ident, flags, NOTIMP)
    end = name_end(data, 12)
    if questions != 1 or not end or size < end + 4:
        return bare(ident, flags, FORMERR)
    qtype, qclass = TYPE_CLASS.unpack_from(data, end)
    section = data[12:end + 4]
    end += 4
    payload, option_flags, version, rcode = 0, 0, 0, NOERROR
    edns = False
    if answers or authorities or additionals > 1 or (additionals and data[end:end + 3] != b"\0\0\x29"):
        if size > MAX_RARE_BYTES or answers + authorities + additionals > MAX_STRAY:
            return bare(ident, flags, FORMERR)
        if not rare_too:
            return None
        from vswitch.dns import rare  # which imports this

        extra = rare.read(data)
        if extra is None:
            return bare(ident, flags, FORMERR)
        edns, payload, option_flags, version, rcode = extra
    elif additionals:
        if not options_fit(data, end):
            return bare(ident, flags, FORMERR)
        _type, payload, _extended, version, option_flags, _length = OPT_FIXED.unpack_from(data, end)
        edns = True
    elif size != end:
        return bare(ident, flags, FORMERR)
    if qtype in (0, OPT):
        return bare(ident, flags, FORMERR)
    if version:
        rcode = BADVERS
    elif not rcode and (qclass != IN or qtype in META):
        rcode = REFUSED
    if transport is Transport.TCP:
        limit = STREAM_PAYLOAD
    else:
        limit = min(max(PLAIN_PAYLOAD, payload), OUR_PAYLOAD)
    return Question(
        ident, flags, section, section[:-4].lower(), qtype, limit, edns, option_flags & DO != 0, rcode
    )


def name_end(data: bytes, at: int) -> int:
    """Where an uncompressed name that begins at `at` ends; 0 if it is none."""
    start, size = at, len(data)
    while at < size:
        length = data[at]
        at += 1
        if not length:
            return at if at - start <= names.NAME_BYTES else 0
        if length > names.LABEL_BYTES:
            return 0
        at += length
    return 0


def options_fit(data: bytes, at: int) -> bool:
    """Whether an OPT record begins at `at` and ends, option by option, where the message ends."""
    start = at + OPT_FIXED.size
    if len(data) < start or start + (data[start - 2] << 8 | data[start - 1]) != len(data):
        return False
    if len(data) - start > MAX_OPTIONS_BYTES:
        return False
    while start < len(data):
        if start + 4 > len(data):
            return False
        start += 4 + (data[start + 2] << 8 | data[start + 3])
    return start == len(data)


def bare(ident: int, flags: int, rcode: int) -> bytes:
    """A refusal of a message that can't be understood: the header alone, opcode and RD as asked."""
    return HEADER.pack(ident, QR | flags & (OPCODE | RD | CD) | RA | rcode, 0, 0, 0, 0)


def opt_record(dnssec: bool = False, extended_rcode: int = 0) -> bytes:
    """Our OPT: the payload we take, no options."""
    return OPT_FIXED.pack(OPT, OUR_PAYLOAD, extended_rcode, 0, DO if dnssec else 0, 0)


_OPT, _OPT_DO = opt_record(), opt_record(dnssec=True)


def refuse(question: Question, rcode: int) -> bytes:
    """An answer without records that says why; for BADVERS the OPT carries the upper bits."""
    return compose(question, (), rcode=rcode, authority_bit=0)


def compose(
    question: Question, records: Sequence[bytes], *, rcode: int = NOERROR, authority: bytes = b"",
    authority_bit: int = AA,
) -> bytes:
    """An answer of our own: whole records, each beginning with OWNER, as many as the asker's limit takes.

    `authority` is one record for the authority section (negative answers).
    """
    tail = b""
    if question.edns:
        tail = _OPT_DO if question.dnssec else _OPT
        if rcode > RCODE:
            tail = opt_record(question.dnssec, rcode >> 4)
    flags = QR | RA | authority_bit | question.flags & (RD | CD) | rcode & RCODE
    body = b"".join(records)
    room = question.limit - 12 - len(question.section) - len(tail)
    if len(body) + len(authority) > room:
        flags |= TC
        authority = b""
        records = fitting(records, room)
        body = b"".join(records)
    counts = HEADER.pack(question.ident, flags, 1, len(records), 1 if authority else 0, 1 if tail else 0)
    return b"".join((counts, question.section, body, authority, tail))


def fitting(records: Sequence[bytes], room_bytes: int) -> Sequence[bytes]:
    """The first records that go into `room_bytes` together."""
    for count, record in enumerate(records):
        room_bytes -= len(record)
        if room_bytes < 0:
            return records[:count]
    return records


def record(rtype: int, ttl: int, rdata: bytes) -> bytes:
    """A record whose owner is the name in the question."""
    return OWNER + RR_FIXED.pack(rtype, IN, ttl, len(rdata)) + rdata


def negative_authority(key: bytes, ttl: int) -> bytes:
    """The SOA that lets a stub remember for `ttl` seconds that there is nothing (RFC 2308 §3).

    Its owner is the parent of the name asked for: an owner that must exist, even if that name does not.
    """
    parent = 12 + 1 + key[0] if key[0] else 12
    rdata = b"\0\0" + struct.pack("!IIIII", 1, 3600, 600, 86400, ttl)
    return struct.pack("!H", 0xC000 | parent) + RR_FIXED.pack(names.SOA, IN, ttl, len(rdata)) + rdata


def ask(ident: int, name: bytes, qtype: int, *, flags: int, edns: bool, dnssec: bool) -> bytes:
    """A question to an upstream; of `flags` AD and CD are taken over, the asker's options are not."""
    header = HEADER.pack(ident, RD | flags & (AD | CD), 1, 0, 0, 1 if edns else 0)
    tail = (_OPT_DO if dnssec else _OPT) if edns else b""
    return b"".join((header, name, TYPE_CLASS.pack(qtype, IN), tail))
