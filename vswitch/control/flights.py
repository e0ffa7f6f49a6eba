# SPDX-License-Identifier: Apache-2.0
"""Questions to upstreams on their way: each has a socket of its own, connected, on a port that the kernel picked.

Connected, so that the kernel takes datagrams from that server and port only; fresh, so that a forger has to guess the
port as well (RFC 5452 §9.2). Nothing here waits: a TCP connection that doesn't come about costs a descriptor until the
engine gives it up. They live in the switch's own namespace, so no container's namespace is kept alive by them.

A server on our own networks (`--dns` with another container's address) can't be reached from there. `Inward` asks it
from within the asker's namespace, by one socket for all his questions, told apart by their ids: on our own networks
nobody sends with another's address. Over UDP alone, so that a truncated answer stays so. Of such a socket ANSWERS
datagrams are read at once, and then none for PAUSE_S: whoever floods it costs the others little more than that.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from vswitch.dns.action import Send
from vswitch.dns.codec import Transport
from vswitch.dns.stream import frame

PORT = 53
LARGEST_BYTES = 65535
ANSWERS, PAUSE_S = 8, 0.001
"""Some 5,000 a second, more than twice what a container's budget lets it ask."""
ANSWER_BYTES = 4096
"""Three times what we say that we take over UDP; the rest of a longer one is not worth copying."""


class Flight:
    """One message to one server, and what has come of the answer."""

    __slots__ = ("buffer", "number", "server", "socket", "to_send", "transport")

    def __init__(self, send: Send, made: socket.socket):
        self.number, self.server, self.transport = send.flight, send.server, send.transport
        self.socket = made
        self.to_send = send.data if send.transport is Transport.UDP else frame(send.data)
        self.buffer = bytearray()


class Inward:
    """One container's questions to servers on its networks. `four` and `six` are sockets in its namespace, ours now."""

    def __init__(self, four: int, six: int, heard: Callable[[bytes, int, str], None]):
        self._heard = heard
        self._sockets = {6: socket.socket(fileno=six), 4: socket.socket(fileno=four)}
        self._open: dict[int, tuple[bytes, str]] = {}
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}
        for one in self._sockets.values():
            self._listen(one)

    def open(self, send: Send) -> bool:
        """Sends it; False if that can't be."""
        if send.transport is not Transport.UDP:
            return False
        try:
            self._sockets[6 if ":" in send.server else 4].sendto(send.data, _address(send.server))
        except OSError:
            return False
        self._open[send.flight] = send.data[:2], send.server
        return True

    def close(self, number: int) -> None:
        """As in Flights."""
        self._open.pop(number, None)

    def close_all(self) -> None:
        """The sockets too."""
        self._open.clear()
        for timer in self._resting.values():
            timer.cancel()
        for one in self._sockets.values():
            asyncio.get_running_loop().remove_reader(one.fileno())
            one.close()

    def _listen(self, one: socket.socket) -> None:
        self._resting.pop(one, None)
        asyncio.get_running_loop().add_reader(one.fileno(), self._readable, one)

    def _readable(self, one: socket.socket) -> None:
        for _ in range(ANSWERS):
            try:
                data, peer = one.recvfrom(ANSWER_BYTES)
            except OSError:
                break
            if peer[1] == PORT:
                for number in [n for n, mark in self._open.items() if mark == (data[:2], peer[0])]:
                    self._heard(data, number, peer[0])
        loop = asyncio.get_running_loop()
        loop.remove_reader(one.fileno())
        self._resting[one] = loop.call_later(PAUSE_S, self._listen, one)


class Flights:
    """All that are under way. `heard(data, flight, server)` and `lost(flight)` are called from the event loop only,
    never from within `open`.
    """

    def __init__(self, heard: Callable[[bytes, int, str], None], lost: Callable[[int], None]):
        self._heard, self._lost = heard, lost
        self._open: dict[int, Flight] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, send: Send) -> bool:
        """Sends it; False if the kernel refuses at once."""
        family = socket.AF_INET6 if ":" in send.server else socket.AF_INET
        kind = socket.SOCK_DGRAM if send.transport is Transport.UDP else socket.SOCK_STREAM
        made = None
        try:
            made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            flight = Flight(send, made)
            code = made.connect_ex(_address(send.server))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, "connect")
            if kind == socket.SOCK_DGRAM:
                made.send(flight.to_send)
        except OSError:
            if made is not None:
                made.close()
            return False
        self._open[send.flight] = flight
        loop = asyncio.get_running_loop()
        if kind == socket.SOCK_DGRAM:
            loop.add_reader(made.fileno(), self._datagram, flight)
        else:
            loop.add_writer(made.fileno(), self._connected, flight)
        return True

    def close(self, number: int) -> None:
        """Nothing of it is wanted any more; nothing if it isn't open."""
        flight = self._open.pop(number, None)
        if flight is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(flight.socket.fileno())
            loop.remove_writer(flight.socket.fileno())
            flight.socket.close()

    def close_all(self) -> None:
        for number in list(self._open):
            self.close(number)

    def _datagram(self, flight: Flight) -> None:
        try:
            data = flight.socket.recv(LARGEST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._lost(flight.number)
            return
        self._heard(data, flight.number, flight.server)

    def _connected(self, flight: Flight) -> None:
        loop = asyncio.get_running_loop()
        try:
            sent = flight.socket.send(flight.to_send)
        except BlockingIOError:
            return
        except OSError:
            self._lost(flight.number)
            return
        flight.to_send = flight.to_send[sent:]
        if not flight.to_send:
            loop.remove_writer(flight.socket.fileno())
            loop.add_reader(flight.socket.fileno(), self._bytes, flight)

    def _bytes(self, flight: Flight) -> None:
        try:
            data = flight.socket.recv(LARGEST_BYTES + 2 - len(flight.buffer))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        flight.buffer += data
        whole = 2 + int.from_bytes(flight.buffer[:2], "big")
        if len(flight.buffer) >= 2 and len(flight.buffer) >= whole:
            self._heard(bytes(flight.buffer[2:whole]), flight.number, flight.server)
        elif not data:
            self._lost(flight.number)


def _address(server: str) -> tuple:
    """What connect() takes; a zone (%eth0) by its interface's number. OSError if there is no such interface."""
    if ":" not in server:
        return server, PORT
    text, _, zone = server.partition("%")
    scope = 0 if not zone else int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    return text, PORT, 0, scope
