# SPDX-License-Identifier: Apache-2.0
"""Messages that are more than a question and its OPT: dnspython reads and builds them.

Slow (a tenth to a quarter of a millisecond) and seldom: a question with signatures or with records in other
sections, an answer whose OPT is not its last record. What dnspython makes of bad bytes is an exception of its
own; here it becomes None.
"""
from __future__ import annotations

from typing import NamedTuple

import dns.exception
import dns.message
import dns.rcode

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
    try:
        message = dns.message.from_wire(data)
    except dns.message.UnknownTSIGKey:
        return Extra(rcode=NOTAUTH)
    except (dns.exception.DNSException, ValueError):
        return None
    if message.edns < 0:
        return Extra()
    return Extra(True, message.payload, message.ednsflags & 0xFFFF, message.edns)


def without_opt(data: bytes) -> bytes | None:
    """An answer built anew without its OPT record; None if it doesn't parse, isn't plain or grows too long."""
    try:
        message = dns.message.from_wire(data)
        if message.rcode() > 15:
            return None
        message.use_edns(False)
        return message.to_wire(max_size=STREAM_PAYLOAD)
    except (dns.exception.DNSException, ValueError):
        return None
