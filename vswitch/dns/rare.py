# SPDX-License-Identifier: Apache-2.0
"""Messages that are more than a question and its OPT, seldom and therefore slow.

A question with signatures or with records in other sections is walked over, record by record; what they say stays
unread. An answer whose OPT is not its last record is built anew by dnspython, in a tenth to a quarter of a millisecond.
But older versions of it follow thousands of pointers for each of hundreds of names, in whatever record has any, which
takes seconds; so it gets only records that answer.py has checked. What it makes of bad bytes is an exception of its
own; here it becomes None.
"""
from __future__ import annotations

from typing import NamedTuple

from vswitch.dns.answer import ADDITIONAL, checked_name
from vswitch.dns.codec import HEADER, OPT, OPT_FIXED, RR_FIXED, name_end, options_fit

TSIG = 250
NOTAUTH = 9
STREAM_PAYLOAD = 65535


class Extra(NamedTuple):
    """What stands in a question's message besides the question; `rcode` refuses it, 0 for none."""

    edns: bool = False
    payload: int = 0
    option_flags: int = 0
    version: int = 0
    rcode: int = 0


def read(data: bytes) -> Extra | None:
    """What else a question says; None if it doesn't parse. Records that mean nothing in a question are ignored.

    A signed question is refused: we hold no keys (RFC 8945 §5.2.1).
    """
    counts, at = HEADER.unpack_from(data)[3:], name_end(data, 12) + 4
    extra, signed = Extra(), False
    for section, count in enumerate(counts):
        for _ in range(count):
            fixed_at = checked_name(data, at)
            if not fixed_at or fixed_at + RR_FIXED.size > len(data) or signed:
                return None
            rtype, _class, _ttl, length = RR_FIXED.unpack_from(data, fixed_at)
            begin, at = at, fixed_at + RR_FIXED.size + length
            if at > len(data) or (rtype in (OPT, TSIG) and section != ADDITIONAL):
                return None
            if rtype == OPT:
                if extra.edns or data[begin] or not options_fit(data[:at], begin):
                    return None
                _type, payload, _extended, version, option_flags, _length = OPT_FIXED.unpack_from(data, begin)
                extra = Extra(True, payload, option_flags, version)
            signed = rtype == TSIG
    if at != len(data):
        return None
    return extra._replace(rcode=NOTAUTH) if signed else extra


def without_opt(data: bytes) -> bytes | None:
    """An answer built anew without its OPT record; None if it doesn't parse, isn't plain or grows too long."""
    import dns.exception  # takes a while to load, and most switches never need it
    import dns.message

    try:
        message = dns.message.from_wire(data)
        if message.rcode() > 15:
            return None
        message.use_edns(False)
        return message.to_wire(max_size=STREAM_PAYLOAD)
    except (dns.exception.DNSException, ValueError):
        return None
