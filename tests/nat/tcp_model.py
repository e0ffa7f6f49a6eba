# SPDX-License-Identifier: Apache-2.0
"""One TCP connection as it must be: both streams of bytes, who has closed what, how each segment has to be answered.

A `Line` drives a Peer (the container's end, any segment in any order) and a real socket (the host's end), and holds all
that either hears against RFC 9293 section 3.10.7.4. Everything counts in offsets of the two streams; the end of a
stream counts as one more byte. `taken`, `una` and `peak` are what the translator calls rcv_nxt, snd_una and snd_max.
"""

from __future__ import annotations

import random
import socket

from patience import eventually
from tcp_peer import FLAGS, Net, Peer, Segment, ahead, reset

TABLE = random.Random(3).randbytes(1 << 24)
LONGEST = 1 << 22  # of a stream: more than a host that doesn't read takes
FAR = 1 << 25  # beyond any window
LONGEST_FRAME = 60_000
SMALL_WINDOW = 20_000  # a host socket has at least this room
GIVE_UP_S, CLOSED_S, IDLE_S = 60, 239, 7439


def stream(number: int, at: int, size: int) -> bytes:
    """Bytes of a connection's stream: every connection and direction has its own."""
    start = number * 65_537 + at
    assert at >= 0 and start + size <= len(TABLE)
    return TABLE[start : start + size]


class Line:
    """One connection and its model; `shift` is the container's window scale."""

    def __init__(self, net: Net, peer: Peer, host: socket.socket, number: int, *, shift: int, window: int, tight: bool):
        self.net, self.peer, self.host, self.number = net, peer, host, number
        self.up0, self.down0 = peer.snd_nxt, peer.rcv_nxt
        # container → host
        self.taken = self.may_take = self.offered = self.read = 0
        self.end_at: int | None = None
        self.said_end = False
        self.read_end = False
        self.tight = tight  # the host socket has little room: offers may be taken in part
        # host → container
        self.given = self.peak = self.heard = self.una = 0
        self.given_end = False
        self.lossy = False  # the container misses what comes
        # the container's window, as RFC 9293 has the translator follow it
        self.shift, self.window = shift, 60_000
        self.wnd = self.edge_ever = window
        self.wl1 = self.wl2 = 0
        self.equal = self.recover = 0  # equal acknowledgements in a row; what was sent when the third of them came
        # what has come of it
        self.over = ""  # the translator has no such connection any more, and why
        self.host_gone = ""
        self.poisoned = False  # closed with bytes unread, or sent to after that: a reset may come of it
        self.spoke_ns = net.switch.now_ns
        self.answers: list[tuple[Segment, bool]] = []
        self.past: list[tuple] = []  # sound segments, to be said again late
        self.told_room = self.room_to

    def __repr__(self) -> str:
        hidden = ("net", "peer", "host", "past", "answers")
        return f"<line {({name: value for name, value in vars(self).items() if name not in hidden})}>"

    @property
    def room_to(self) -> int:
        """Right edge of the window that the container knows."""
        return ahead(self.peer.edge, self.up0)

    @property
    def ended_up(self) -> bool:
        return self.end_at is not None and self.taken == self.end_at + 1

    @property
    def said_to(self) -> int:
        """The number after all that the container has sent."""
        return self.end_at + 1 if self.said_end else self.offered

    @property
    def last_down(self) -> int:
        return self.given + self.given_end

    @property
    def quiet_s(self) -> float:
        return (self.net.switch.now_ns - self.spoke_ns) / 1e9

    # ---- what the container hears

    def listen(self) -> None:
        """Holds all that has come against the model."""
        while self.peer.inbox:
            segment = self.peer.inbox.popleft()
            if self.over:
                assert segment.bits & FLAGS["R"] or self.over == "closed", (segment, self)
            elif segment.bits & FLAGS["R"]:
                self.hear_reset(segment)
            else:
                self.hear(segment)
        if self.ended_up and self.given_end and self.una == self.given + 1 and not self.over:
            self.over = "closed"

    def hear_reset(self, segment: Segment) -> None:
        """A reset needs a reason, and stands where the container believes it."""
        assert ahead(segment.seq, self.down0) == self.peak, (segment, self)
        assert ahead(segment.ack, self.up0) >= self.taken
        if self.una < self.peak or self.last_down > self.peak:
            patience_s = GIVE_UP_S
        else:
            patience_s = CLOSED_S if self.ended_up and self.given_end else IDLE_S
        assert self.host_gone or self.quiet_s >= patience_s, f"reset for nothing: {self}"
        self.over = "reset"

    def hear(self, segment: Segment) -> None:
        at, ack = ahead(segment.seq, self.down0), ahead(segment.ack, self.up0)
        fin = bool(segment.bits & FLAGS["F"])
        end = at + segment.taken
        assert not segment.bits & FLAGS["S"], (segment, self)
        assert self.taken <= ack <= self.may_take, (segment, self)
        news = bool(segment.taken) or ack > self.taken or self.room_to > self.told_room
        self.taken, self.told_room = ack, self.room_to
        if segment.payload:
            assert at >= 0 and at + len(segment.payload) <= self.given, (segment, self)
            assert segment.payload == stream(self.number + 32, at, len(segment.payload)), (segment, self)
        assert not fin or (self.given_end and end == self.given + 1), (segment, self)
        assert segment.taken or at in (self.peak, self.una - 1), f"the container may not believe {segment}: {self}"
        if end > self.peak:
            assert at <= self.peak, f"a hole before {segment}: {self}"
            assert end <= max(self.una + self.wnd, self.una + 1), f"beyond the window: {segment}, {self}"
            assert end <= max(self.edge_ever, self.una + 1), f"beyond any window: {segment}, {self}"
            self.peak = end
        if not self.lossy and at <= self.heard < end:
            self.heard = end
        self.answers.append((segment, news))

    # ---- what the container says

    def verdict(self, flags: str, at: int, size: int, ack: int) -> tuple[str, bool]:
        """How it must be answered ("silence", "ack", "gone", "unclear"); whether what it brings counts."""
        length = size + ("F" in flags)
        last = at + max(length, 1) - 1
        room = max(self.room_to - self.taken, 0)
        inside = at == self.taken or 0 <= at - self.taken < room + (not length)
        inside = inside or (length and 0 <= last - self.taken < room)
        if not inside and (0 <= at - self.taken < FAR or 0 <= last - self.taken < FAR):
            return "unclear", False
        if "R" in flags:
            return ("gone" if at == self.taken else "ack" if inside else "silence"), False
        if not inside or "S" in flags:
            return "ack", False
        if "A" not in flags:
            return "silence", False
        if ack > self.peak:
            return "ack", False
        return ("ack" if length or at > self.taken else "silence"), True

    def foresee(self, at: int, size: int, fin: bool, ack: int, window: int) -> None:
        """What follows from a segment that counts."""
        if ack == self.una < self.peak and not size and not fin and window == self.wnd:
            self.equal += 1
            if self.equal == 3:
                self.recover = self.peak
        self.edge_ever = max(self.edge_ever, ack + window)
        if ack > self.una or at > self.wl1 or (at == self.wl1 and ack >= self.wl2):
            self.wnd, self.wl1, self.wl2 = window, at, ack
        if ack > self.una:
            self.una, self.equal = ack, 0
        if at <= self.may_take and (self.end_at is None or self.may_take <= self.end_at):
            self.may_take = max(self.may_take, at + size)
            self.may_take += fin and self.may_take == self.end_at

    def put(self, flags: str, at: int, payload: bytes = b"", ack: int | None = None, window: int | None = None) -> str:
        """A segment for the next step; how it must be answered."""
        ack = self.una if ack is None else ack
        raw = min((self.window if window is None else window) >> self.shift, 65535)
        verdict, counts = self.verdict(flags, at, len(payload), ack)
        if counts:
            self.foresee(at, len(payload), "F" in flags, ack, raw << self.shift)
        self.said_end |= counts and "F" in flags
        if self.host_gone and (payload or "F" in flags):
            self.poisoned = True
        self.peer.put(flags, payload, seq=self.up0 + at, ack=self.down0 + ack if "A" in flags else None, window=raw)
        self.spoke_ns = self.net.switch.now_ns
        return verdict

    def speak(self, flags: str, at: int, payload: bytes = b"", *, ack: int | None = None, window: int | None = None):
        """One segment, and what comes of it."""
        self.step()
        if self.over:
            return
        taken, room_to, sure = self.taken, self.room_to, self.surely_taken
        ack = self.una if ack is None else ack
        self.past.append((flags, at, payload, ack, self.window if window is None else window))
        verdict = self.put(flags, at, payload, ack, window)
        self.step()
        if self.tight and payload and at <= taken == self.taken and verdict == "ack":
            return  # the host's socket and the pool had no room for it: the container will say it again
        self.follow(verdict)
        if sure and self.may_take <= room_to and not self.over:
            assert self.taken == self.may_take, f"{taken} → {self.taken}, not {self.may_take}: {self}"
        self.may_take = self.taken

    @property
    def surely_taken(self) -> bool:
        """Whether what is within the window has to be taken as a whole."""
        return not self.tight and not self.host_gone and self.taken - self.read < SMALL_WINDOW

    def follow(self, verdict: str) -> None:
        """Holds the answers against the verdict on what was said."""
        if verdict == "gone":
            assert not self.answers or self.host_gone, (self.answers, self)
            self.over = "reset by the container"
        if self.over or self.host_gone:
            return
        if verdict == "ack":
            assert self.answers, f"no answer: {self}"
        elif verdict == "silence":
            assert all(news for _, news in self.answers), (self.answers, self)

    def step(self, after_s: float = 0) -> None:
        self.answers.clear()
        self.net.step(after_s=after_s)
        self.listen()

    # ---- the usual

    def upstream(self, at: int, size: int) -> bytes:
        """What the container has to say from `at` on, within what it can ever say."""
        stop = LONGEST if self.end_at is None else self.end_at
        return stream(self.number, at, max(0, min(size, stop - at, LONGEST_FRAME)))

    def offer(self, at: int, size: int, **how) -> None:
        """Sound payload, as much of it as the window takes."""
        payload = self.upstream(at, max(0, min(size, self.room_to - at)))
        if payload:
            self.offered = max(self.offered, at + len(payload))
            self.speak("PA", at, payload, **how)
        else:
            self.acknowledge(**how)

    def stuff(self) -> None:
        """All that the host takes without reading it."""
        taken = -1
        while not self.over and self.end_at is None and self.taken > taken and self.room_to > self.taken:
            taken = self.taken
            self.offer(taken, LONGEST_FRAME)

    def acknowledge(self, **how) -> None:
        """An acknowledgement alone, whose number is behind all that was ever sent."""
        self.speak("A", self.said_to, **how)

    def close(self) -> None:
        """The end of what the container has to say, which stands fast from now on."""
        if self.end_at is None:
            self.end_at = max(self.offered, self.taken)
        self.speak("FA", self.end_at)

    # ---- the host's end

    def host_reads(self, size: int) -> bool:
        """Takes up to `size` bytes; whether there was anything."""
        if self.host_gone or self.read_end:
            return False
        try:
            data = self.host.recv(size)
        except BlockingIOError:
            return False
        except ConnectionError:
            self.step()
            assert self.over, f"the host was reset for nothing: {self}"
            self.read_end = True
            return False
        if data:
            assert self.read + len(data) <= self.taken, self
            assert data == stream(self.number, self.read, len(data)), f"{len(data)} wrong bytes at {self.read}: {self}"
            self.read += len(data)
            return True
        assert self.over.startswith("reset") or (self.ended_up and self.read == self.end_at), f"ended early: {self}"
        self.read_end = True
        return True

    def host_sends(self, size: int, flags: int = 0) -> None:
        if self.host_gone or self.given_end:
            return
        try:
            self.given += self.host.send(stream(self.number + 32, self.given, min(size, LONGEST - self.given)), flags)
        except BlockingIOError:
            return
        except ConnectionError:
            self.step()
            assert self.over, f"the host was reset for nothing: {self}"

    def host_ends(self) -> None:
        if not self.host_gone and not self.over and not self.given_end:
            try:
                self.host.shutdown(socket.SHUT_WR)
                self.given_end = True
            except OSError:
                self.step()
                assert self.over, f"the host was reset for nothing: {self}"

    def host_closes(self) -> None:
        if not self.host_gone and not self.over:
            self.host_gone, self.given_end = "closed", True
            self.poisoned = self.taken > self.read
            self.host.close()

    def host_resets(self) -> None:
        if not self.host_gone and not self.over:
            self.host_gone = "reset"
            reset(self.host)

    # ---- the end of the test

    def settle(self) -> None:
        """A container and a host that mean well: all that was sent arrives, and both sides close."""
        self.lossy = False
        if self.host_gone != "closed" or self.poisoned:
            self.finish_up()
        if not self.over and not self.poisoned and self.host_gone != "reset":
            self.host_ends()
            settled(self.all_heard, ("the container hears the end", self))
        if not self.over:
            self.close()
        settled(self.ended, ("both ends are closed", self))
        if not self.host_gone and self.quiet_s < CLOSED_S:
            settled(self.host_hears_the_end, ("the host hears the end", self))
            assert self.over != "closed" or self.read == self.end_at

    def finish_up(self) -> None:
        """The container says again what was not taken; the host reads it."""
        goal = self.offered
        if self.end_at is not None:  # which may lie beyond all that was said so far
            self.offered, goal = self.end_at, self.end_at + 1

        def done() -> bool:
            self.host_read_all()
            if not self.over and self.taken < goal:
                self.said_again()
            return bool(self.over or self.host_gone) or self.taken == goal

        settled(done, ("the host hears all", self))

    def said_again(self) -> None:
        """The first bytes that were not taken, with the end if it is among them; acknowledges all that was heard."""
        payload = self.upstream(self.taken, min(self.offered - self.taken, self.room_to - self.taken, 30_000))
        if self.end_at is not None and self.taken + len(payload) == self.end_at:
            self.speak("FPA", self.taken, payload, ack=self.heard, window=60_000)
        elif payload:
            self.speak("PA", self.taken, payload, ack=self.heard, window=60_000)
        else:
            self.acknowledge(ack=self.heard, window=60_000)

    def host_read_all(self) -> bool:
        while self.host_reads(65536):
            pass
        return self.read_end

    def host_hears_the_end(self) -> bool:
        self.step()
        return self.host_read_all()

    def ended(self) -> bool:
        if not self.over:
            self.said_again()
        if not self.over:
            self.step(after_s=0.25)
        return bool(self.over)

    def all_heard(self) -> bool:
        if self.over or self.heard == self.last_down:
            return True
        self.acknowledge(ack=self.heard, window=60_000)
        if not self.over and self.heard < self.last_down:
            self.step(after_s=0.25)
        return bool(self.over) or self.heard == self.last_down


def settled(probe, what: object) -> None:
    """Asks a few times at once, then with patience."""
    if not any(probe() for _ in range(50)):
        eventually(probe, what)
