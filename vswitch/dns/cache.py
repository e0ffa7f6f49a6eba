# SPDX-License-Identifier: Apache-2.0
"""Answers of upstreams, kept as long as they hold.

An answer belongs to a question as it was put: name, type, the asker's DNSSEC bits, and the upstreams it was put to,
since two networks with different resolvers may live in different worlds; where one of them is on our own networks, to
the asker too (engine.py). Denials are kept like answers (RFC 2308);
failures are not. An answer is served with its TTLs less its age, and not once one of them has run out.

Limits: CAPACITY answers, CAPACITY_BYTES, none above ENTRY_BYTES, no longer than KEEP_S (a denial DENIAL_S). When one
is reached, whoever holds most answers loses the one he has used least lately: a container that asks for
random names throws out its own.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

from vswitch.dns.answer import ANSWER, Answer

CAPACITY = 8192
"""Answers: the working set of a few hundred containers; some 8 MiB with what Python adds."""
CAPACITY_BYTES = 4 << 20
ENTRY_BYTES = 8192
"""Most answers have 50 to 500 bytes. Larger ones are asked for again."""
KEEP_S = 3600
"""As long as resolvers that are asked again quickly keep anything; a changed record is seen within the hour."""
DENIAL_S = 300
"""A name that was just made at the site's DNS is seen after five minutes at the latest."""


class Kept(NamedTuple):
    """One answer, who brought it in, and its times (monotonic seconds)."""

    answer: Answer
    owner: str
    since: float
    until: float


class Cache:
    """All kept answers."""

    def __init__(self, capacity: int = CAPACITY, capacity_bytes: int = CAPACITY_BYTES):
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        self._kept: dict[Hashable, Kept] = {}
        self._of: dict[str, OrderedDict[Hashable, None]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """Length of all kept messages together."""
        return self._bytes

    def get(self, key: Hashable, now: float) -> tuple[Answer, int] | None:
        """An answer that still holds, and its age in whole seconds."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if now >= kept.until:
            self._remove(key)
            return None
        self._of[kept.owner].move_to_end(key)
        return kept.answer, max(0, int(now - kept.since))

    def put(self, key: Hashable, answer: Answer, owner: str, now: float) -> None:
        """Keeps an answer if it may be kept; room is made."""
        denial = not any(record.section == ANSWER for record in answer.records)
        keep_s = min(answer.keep_s, DENIAL_S if denial or answer.rcode else KEEP_S)
        if keep_s <= 0 or len(answer.data) > ENTRY_BYTES:
            return
        if key in self._kept:
            self._remove(key)
        while self._kept and (
            len(self._kept) >= self._capacity or self._bytes + len(answer.data) > self._capacity_bytes
        ):
            largest = max(self._of.values(), key=len)
            self._remove(next(iter(largest)))
        self._kept[key] = Kept(answer, owner, now, now + keep_s)
        self._of.setdefault(owner, OrderedDict())[key] = None
        self._bytes += len(answer.data)

    def _remove(self, key: Hashable) -> None:
        kept = self._kept.pop(key)
        mine = self._of[kept.owner]
        del mine[key]
        if not mine:
            del self._of[kept.owner]
        self._bytes -= len(kept.answer.data)

    def clear(self) -> None:
        """Forgets all: the host's resolvers have changed, and with them perhaps the world."""
        self._kept.clear()
        self._of.clear()
        self._bytes = 0
