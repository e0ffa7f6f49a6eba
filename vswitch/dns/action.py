# SPDX-License-Identifier: Apache-2.0
"""What the engine wants done, as values; a shell does it in order.

    Reply       to the asker, the way he came; over TCP the shell frames it (stream.frame)
    Send        to an upstream, from a new socket of its own: UDP on a source port that the kernel picks at random,
                connected, so that other senders' datagrams never arrive; TCP framed. What comes back is handed to
                `Engine.heard` with the flight's number, an error or an end to `Engine.lost`
    Close       that flight's socket; nothing from it is wanted any more
    Arm         one timer, for `Engine.due`, at this time and no more at any that was named before
    Dropped     nothing to do but count
"""
from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from vswitch.dns.codec import STREAM_PAYLOAD, Transport
from vswitch.dns.drop import Drop


class Asker(NamedTuple):
    """Whoever asks: his container, and what the shell needs to answer (an address and port, a connection). `room_bytes`
    is the longest answer that the way there carries, where that may be less than any asker takes.
    """

    container: str
    peer: Hashable
    transport: Transport = Transport.UDP
    room_bytes: int = STREAM_PAYLOAD


class Reply(NamedTuple):
    """An answer to a question; there is at most one for each."""

    asker: Asker
    data: bytes


class Send(NamedTuple):
    """A question to an upstream. `container` is on whose behalf, for a shell that asks from its namespace."""

    flight: int
    server: str
    transport: Transport
    data: bytes
    container: str


class Close(NamedTuple):
    """A flight is over."""

    flight: int


class Arm(NamedTuple):
    """Call `due` at this time (monotonic seconds)."""

    at: float


class Dropped(NamedTuple):
    """What arrived was not taken."""

    reason: Drop
    container: str | None = None


Action = Reply | Send | Close | Arm | Dropped
