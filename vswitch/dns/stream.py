# SPDX-License-Identifier: Apache-2.0
"""DNS over TCP: bytes of a connection ↔ messages (RFC 1035 §4.2.2, RFC 7766), and how long who may stay.

A Connection cuts what arrives into messages, however it was split. Several questions may be under way on it, and
are answered in the order in which answers come (RFC 7766 §7). It says when it is to be closed:

- WHOLE_S after a message's first byte it must be whole, however busily the client drips;
- IDLE_S without a question begun or an answer owed it ends (§6.2.3);
- a message announced shorter than a header or longer than MAX_QUESTION_BYTES ends it at once.

With UNDER_WAY answers owed nothing more is read off (`wants_bytes`), so that TCP's window holds the client back;
what has been handed in is kept, and `next_messages` gives it when answers have gone. A client that closed its
sending side still gets what it asked for. Time owed to us is not held against the client: the clock of a message
starts anew when we read on.

Connections holds the caps: PER_CONTAINER and in all CONNECTIONS. A container at its cap loses its connection that
has been idle longest, else its oldest; when all are taken, the container with most does.
"""
from __future__ import annotations

from collections.abc import Hashable

from vswitch.dns.drop import Drop

HEADER_BYTES = 12
MAX_QUESTION_BYTES = 4608
"""A question with the longest name and all the EDNS options that the codec takes."""
WHOLE_S = 3.0
"""A question is one segment. Three seconds are two retransmissions of it."""
IDLE_S = 10.0
"""Stubs reuse a connection within moments or not at all."""
UNDER_WAY = 32
PER_CONTAINER = 32
CONNECTIONS = 512


def frame(message: bytes) -> bytes:
    """A message with its length before it; ValueError above 65,535 bytes."""
    if len(message) > 0xFFFF:
        raise ValueError(f"a message of {len(message)} bytes has no length over TCP")
    return len(message).to_bytes(2, "big") + message


class Connection:
    """One client's connection; `broken` says why it must be closed, None while it may stay."""

    __slots__ = ("_begun_at", "_buffer", "_owed", "_rested_at", "broken")

    def __init__(self, now: float):
        self._buffer = bytearray()
        self._begun_at: float | None = None
        self._rested_at = now
        self._owed = 0
        self.broken: Drop | None = None

    @property
    def owed(self) -> int:
        """Answers that are still to come."""
        return self._owed

    @property
    def wants_bytes(self) -> bool:
        """Whether to read from the socket."""
        return self.broken is None and self._owed < UNDER_WAY

    @property
    def rested_at(self) -> float | None:
        """Since when there has been nothing to do; None while there is."""
        return self._rested_at if not self._owed and self._begun_at is None else None

    def feed(self, data: bytes, now: float) -> list[bytes]:
        """The messages that are whole now, each of them owed an answer (or a `settled`)."""
        if self.broken is not None:
            return []
        self._buffer += data
        return self.next_messages(now)

    def next_messages(self, now: float) -> list[bytes]:
        """Messages that have been kept back, as far as the limit allows by now."""
        messages: list[bytes] = []
        buffer, at = self._buffer, 0
        while self.broken is None and len(buffer) - at >= 2 and self._owed < UNDER_WAY:
            length = buffer[at] << 8 | buffer[at + 1]
            if length < HEADER_BYTES:
                self.broken = Drop.EMPTY
            elif length > MAX_QUESTION_BYTES:
                self.broken = Drop.OVERSIZED
            elif len(buffer) - at < 2 + length:
                break
            else:
                messages.append(bytes(buffer[at + 2:at + 2 + length]))
                at += 2 + length
                self._owed += 1
        del buffer[:at]
        if not buffer or self._owed >= UNDER_WAY:
            self._begun_at = None
        elif at or self._begun_at is None:
            self._begun_at = now
        self._rested_at = now
        return messages

    def settled(self, now: float) -> None:
        """A question has been answered, or dropped for good. Ask `next_messages` afterwards."""
        self._owed -= 1
        self._rested_at = now

    def close_at(self) -> float | None:
        """When `expire` would end it; None while we owe answers and have nothing begun."""
        if self._begun_at is not None:
            return self._begun_at + WHOLE_S
        return None if self._owed else self._rested_at + IDLE_S

    def expire(self, now: float) -> bool:
        """Whether its time is over; `broken` says how."""
        at = self.close_at()
        if self.broken is None and at is not None and now >= at:
            self.broken = Drop.SLOW if self._begun_at is not None else Drop.IDLE
        return self.broken is not None


class Connections:
    """Who has how many connections; keys are the shell's."""

    def __init__(self, per_container: int = PER_CONTAINER, most: int = CONNECTIONS):
        self._per_container, self._most = per_container, most
        self._of: dict[str, dict[Hashable, Connection]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def admit(self, container: str, key: Hashable, now: float) -> tuple[Connection, Hashable | None]:
        """A new connection, and the key of the one that must be closed for it, if any."""
        victim = None
        if len(self._of.get(container, ())) >= self._per_container:
            victim = self._give_way(container)
        elif self._count >= self._most:
            victim = self._give_way(max(self._of, key=lambda name: len(self._of[name])))
        connection = Connection(now)
        self._of.setdefault(container, {})[key] = connection
        self._count += 1
        return connection, victim

    def _give_way(self, container: str) -> Hashable:
        """The container's connection that is missed least; it is out of the table and broken."""
        mine = self._of[container]
        resting = {key: held.rested_at for key, held in mine.items() if held.rested_at is not None}
        key = min(resting, key=resting.__getitem__) if resting else next(iter(mine))
        mine[key].broken = Drop.CROWDED
        self.remove(container, key)
        return key

    def remove(self, container: str, key: Hashable) -> None:
        """A connection is closed; nothing if it isn't known."""
        mine = self._of.get(container, {})
        if mine.pop(key, None) is not None:
            self._count -= 1
            if not mine:
                del self._of[container]
