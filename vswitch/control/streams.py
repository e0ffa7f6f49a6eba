# SPDX-License-Identifier: Apache-2.0
"""The resolver's TCP clients: dns/stream.py says what may be, here are the sockets.

A client is read as long as its Connection wants bytes, and hears its answers as they come. What its socket doesn't
take waits here; a client for whom more than UNREAD_BYTES wait isn't reading, and is closed. Once a second those whose
time is over are closed; without a client there is no timer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from vswitch.clock import Clock
from vswitch.dns.stream import Connection, Connections, frame

READ_BYTES = 8192
UNREAD_BYTES = 1 << 17
"""Two of the longest answers."""
LOOK_EVERY_S = 1.0


class Stream:
    """One client."""

    __slots__ = ("asking", "connection", "container", "ended", "reading", "socket", "unread")

    def __init__(self, container: str, made: socket.socket):
        self.container, self.socket = container, made
        self.connection: Connection
        self.unread = bytearray()
        self.reading = True
        self.ended = False  # it has closed its sending side
        self.asking = False  # its questions are being put just now


class Streams:
    """All of them. `asked(container, stream, message)` is called for each question."""

    def __init__(self, clock: Clock, asked: Callable[[str, Stream, bytes], None]):
        self._clock, self._asked = clock, asked
        self._connections = Connections()
        self._open: set[Stream] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, container: str, made: socket.socket) -> None:
        """A new client; the socket, which doesn't block, is ours."""
        stream = Stream(container, made)
        stream.connection, victim = self._connections.admit(container, stream, self._clock.monotonic_s())
        if isinstance(victim, Stream):
            self._close(victim)
        self._open.add(stream)
        loop = asyncio.get_running_loop()
        loop.add_reader(made.fileno(), self._readable, stream)
        if self._timer is None:
            self._timer = loop.call_later(LOOK_EVERY_S, self._look)

    def answer(self, stream: Stream, message: bytes) -> None:
        """An answer to one of its questions."""
        if stream in self._open:
            stream.unread += frame(message)
            self._write(stream)
            self.settled(stream)

    def settled(self, stream: Stream) -> None:
        """One of its questions is done with, answered or not."""
        if stream in self._open:
            stream.connection.settled(self._clock.monotonic_s())
            self._ask(stream, b"")

    def refuse(self, stream: Stream) -> None:
        """It asks too much: closed."""
        self._close(stream)

    def leave(self, container: str) -> None:
        """Close all clients of a container."""
        for stream in [stream for stream in self._open if stream.container == container]:
            self._close(stream)

    def close(self) -> None:
        """Close all."""
        for stream in list(self._open):
            self._close(stream)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _readable(self, stream: Stream) -> None:
        try:
            data = stream.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._close(stream)
            return
        if not data:
            stream.ended = True
        self._ask(stream, data)

    def _ask(self, stream: Stream, data: bytes) -> None:
        """Puts the questions that are whole and may be put, those that answers make room for too."""
        if stream.asking:
            return
        stream.asking = True
        messages = stream.connection.feed(data, self._clock.monotonic_s())
        while messages and stream in self._open:
            for message in messages:
                self._asked(stream.container, stream, message)
            messages = stream.connection.next_messages(self._clock.monotonic_s())
        stream.asking = False
        self._go_on(stream)

    def _go_on(self, stream: Stream) -> None:
        """Close it, or read it or not, as its connection is now."""
        if stream not in self._open:
            return
        connection = stream.connection
        over = stream.ended and not connection.owed and not stream.unread
        if connection.broken is not None or over or len(stream.unread) > UNREAD_BYTES:
            self._close(stream)
            return
        wanted = connection.wants_bytes and not stream.unread and not stream.ended
        if wanted != stream.reading:
            stream.reading = wanted
            loop, fd = asyncio.get_running_loop(), stream.socket.fileno()
            if wanted:
                loop.add_reader(fd, self._readable, stream)
            else:
                loop.remove_reader(fd)

    def _write(self, stream: Stream) -> None:
        """What it takes; for the rest we are called again."""
        loop, fd = asyncio.get_running_loop(), stream.socket.fileno()
        try:
            sent = stream.socket.send(stream.unread)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(stream)
            return
        del stream.unread[:sent]
        if stream.unread:
            loop.add_writer(fd, self._writable, stream)

    def _writable(self, stream: Stream) -> None:
        asyncio.get_running_loop().remove_writer(stream.socket.fileno())
        self._write(stream)
        self._go_on(stream)

    def _look(self) -> None:
        """Those whose time is over go."""
        self._timer = None
        now = self._clock.monotonic_s()
        for stream in list(self._open):
            if stream.connection.expire(now):
                self._close(stream)
        if self._open:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def _close(self, stream: Stream) -> None:
        if stream in self._open:
            self._open.discard(stream)
            self._connections.remove(stream.container, stream)
            loop, fd = asyncio.get_running_loop(), stream.socket.fileno()
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            stream.socket.close()
