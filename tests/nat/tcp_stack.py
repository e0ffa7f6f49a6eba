# SPDX-License-Identifier: Apache-2.0
"""A container's TCP that moves whole streams by itself: go-back-N on the virtual clock, over a link that loses,
doubles and reorders."""

from __future__ import annotations

import contextlib
import random
import select
import socket
from collections.abc import Callable

from tcp_peer import FLAGS, Net, Peer, Segment, ahead, wrapped

PIECE = 30_000
FIRST_RTO_S = 0.3


class Link:
    """What happens to segments on their way, which follows from `chance`; `harm` counts what was lost or swapped."""

    def __init__(self, chance: random.Random, loss: float = 0.0, double: float = 0.0, reorder: float = 0.0):
        self.chance, self.loss, self.double, self.reorder = chance, loss, double, reorder
        self.harm = 0

    def passed(self, burst: list) -> list:
        came = [one for one in burst if self.chance.random() >= self.loss]
        self.harm += len(burst) - len(came)
        came += [one for one in came if self.chance.random() < self.double]
        for at in range(len(came) - 1):
            if self.chance.random() < self.reorder:
                came[at], came[at + 1] = came[at + 1], came[at]
                self.harm += 1
        return came


class Stack(Peer):
    """Sends `data` and then its end, takes what comes until the host's end."""

    def __init__(self, net: Net, dport: int, data: bytes, link: Link, **how):
        super().__init__(net, dport, **how)
        self.data, self.link, self.got = data, link, bytearray()
        self.base = wrapped(self.iss + 1)
        self.una, self.peak = self.base, self.base
        self.established = self.closed = self.was_reset = False
        self.equal, self.rto_s, self.due_s = 0, FIRST_RTO_S, 0.0
        self.acknowledged = 0  # of the host's stream, as far as the switch was told

    @property
    def end(self) -> int:
        """The number after our end."""
        return wrapped(self.base + len(self.data) + 1)

    @property
    def done(self) -> bool:
        return self.was_reset or (self.closed and self.una == self.end)

    def emit(self, flags: str, payload: bytes = b"", *, seq: int, options: bytes = b"") -> None:
        for _ in self.link.passed([None]):
            try:
                self.put(flags, payload, seq=seq, options=options)
                self.acknowledged = len(self.got) + self.closed
            except BlockingIOError:
                self.link.harm += 1

    def turn(self, now_s: float) -> bool:
        """What has come, what there is to send; whether anything moved."""
        came = self.link.passed(list(self.inbox))
        self.inbox.clear()
        for segment in came:
            self.take(segment, now_s)
        moved = bool(came)
        if self.done:
            return moved
        if now_s >= self.due_s:
            self.due_s, self.rto_s = now_s + self.rto_s, min(2 * self.rto_s, 8)
            self.snd_nxt = self.una
            moved = True
        if not self.established:
            if self.due_s - now_s == self.rto_s / 2 or moved:
                self.emit("S", seq=self.iss, options=self.options)
            return moved
        return self.fill(now_s) or moved

    def fill(self, now_s: float) -> bool:
        """Sends as far as the window goes."""
        moved = False
        while (at := ahead(self.snd_nxt, self.base)) <= len(self.data):
            room = min(ahead(self.edge, self.snd_nxt), PIECE)
            part = self.data[at : at + max(room, 0)]
            last = at + len(part) == len(self.data)
            if not part and not last:
                break
            self.emit("FPA" if last else "PA", part, seq=self.snd_nxt)
            self.snd_nxt = wrapped(self.snd_nxt + len(part) + last)
            self.peak = self.snd_nxt if ahead(self.snd_nxt, self.peak) > 0 else self.peak
            moved = True
        return moved

    def take(self, segment: Segment, now_s: float) -> None:
        if segment.bits & FLAGS["R"]:
            self.was_reset = True
            return
        if segment.bits & FLAGS["S"]:
            if not self.established:
                self.take_syn(segment)
                self.edge = wrapped(segment.ack + segment.window)
                self.snd_nxt, self.established = self.base, True
            self.emit("A", seq=self.snd_nxt)
            return
        if not self.established:
            return
        assert ahead(segment.ack, self.peak) <= 0, f"{segment} acknowledges what was never sent"
        if ahead(segment.ack, self.una) > 0:
            self.una, self.equal, self.rto_s, self.due_s = segment.ack, 0, FIRST_RTO_S, now_s + FIRST_RTO_S
            self.snd_nxt = self.una if ahead(self.una, self.snd_nxt) > 0 else self.snd_nxt
        elif not segment.taken and segment.ack == self.una != self.snd_nxt:
            self.equal += 1
            if self.equal == 3:
                self.snd_nxt = self.una
        if not segment.taken:
            if ahead(segment.seq, self.rcv_nxt) < 0:
                self.emit("A", seq=self.snd_nxt)
            return
        skip = ahead(self.rcv_nxt, segment.seq)
        if 0 <= skip < segment.taken and not self.closed:
            self.got += segment.payload[skip:]
            self.closed = bool(segment.bits & FLAGS["F"])
            self.rcv_nxt = wrapped(segment.seq + segment.taken)
        self.emit("A", seq=self.snd_nxt)


class Transfer:
    """One connection, both ways, against a real socket."""

    def __init__(self, net: Net, server: socket.socket, up: bytes, down: bytes, link: Link, **how):
        self.stack = Stack(net, server.getsockname()[1], up, link, **how)
        self.server, self.down = server, down
        self.host: socket.socket | None = None
        self.got, self.sent, self.ended, self.broken = bytearray(), 0, False, False

    def host_turn(self) -> bool:
        """Reads and writes what the kernel lets it; whether anything moved."""
        before = (len(self.got), self.sent, self.ended, self.host)
        with contextlib.suppress(BlockingIOError):
            if self.host is None:
                self.host = self.stack.net.keep(self.server.accept()[0])
                self.host.setblocking(False)
        if self.host is None or self.broken:
            return False
        try:
            self.talk()
        except BlockingIOError:
            pass
        except ConnectionError:
            self.broken = True
        return (len(self.got), self.sent, self.ended, self.host) != before

    def talk(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not self.ended:
                data = self.host.recv(65536)
                self.got += data
                self.ended = not data
        while self.sent < len(self.down):
            self.sent += self.host.send(self.down[self.sent : self.sent + 65536])
        if self.sent == len(self.down):
            self.sent += 1
            self.host.shutdown(socket.SHUT_WR)

    @property
    def done(self) -> bool:
        return self.stack.done and (self.ended or self.broken or self.host is None)


def run(
    net: Net,
    transfers: list[Transfer],
    watch: Callable[[float], None] = lambda now_s: None,
    limit_s: float = 3600,
) -> None:
    """Until all are done. The clock moves only when nothing else does; `watch` is told before."""
    now_s = 0.0
    while not all(one.done for one in transfers):
        assert now_s < limit_s, [
            (one.stack.una, one.stack.end, one.stack.closed, one.ended) for one in transfers if not one.done
        ]
        moved = [one.host_turn() for one in transfers if not one.done]
        net.step()
        moved += [one.stack.turn(now_s) for one in transfers if not one.stack.done]
        net.step()
        if any(moved):
            continue
        watch(now_s)
        hosts = [one.host for one in transfers if one.host is not None and not one.broken]
        select.select(hosts, [], [], 0.001)
        now_s += 0.02
        net.step(after_s=0.02)
    watch(now_s)
