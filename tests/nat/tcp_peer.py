# SPDX-License-Identifier: Apache-2.0
"""TCP through a switch in memory: its container's side segment by segment, its host's side on real loopback sockets.

A `Net` is a WayOut with hosts on it; a `Peer` is one connection's end in a container, driven by hand: send("PA", b"…"),
expect("A"). Whatever a Peer hears is held against what always holds: whole checksums, payload within its MSS, a
window whose right edge never moves left.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque

import frames
import reference
from frames import Frame, offload_header
from memory_switch import GATEWAY, MemoryHost
from patience import eventually
from way_out import GATEWAY4, GATEWAY6, INSIDE4, INSIDE6, WayOut, descriptors

from vswitch.nat.listeners import open_listeners

FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16, "U": 32}
MSS, SCALE = 1460, 7
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


def wrapped(number: int) -> int:
    return number & 0xFFFFFFFF


def ahead(a: int, b: int) -> int:
    """How far sequence number a lies after b; negative if before (RFC 9293 section 3.4)."""
    return (a - b + 0x80000000 & 0xFFFFFFFF) - 0x80000000


def bits(flags: str) -> int:
    return sum(FLAGS[letter] for letter in flags)


def mss_option(mss: int = MSS) -> bytes:
    return struct.pack(">BBH", 2, 4, mss)


def scale_option(scale: int = SCALE) -> bytes:
    return struct.pack(">BBBB", 1, 3, 3, scale)


class Segment:
    """A TCP segment, or super-frame, that a container received."""

    def __init__(self, frame: bytes, header: bytes | None = None):
        self.frame = Frame(frame)
        l4, length, _, source, destination = reference.l4_of(frame)
        tcp = frame[l4 : l4 + length]
        self.sport, self.dport, self.seq, self.ack, size, self.bits, self.window = struct.unpack_from(">HHIIBBH", tcp)
        self.source, self.destination = source, destination
        self.options, self.payload = tcp[20 : (size >> 4) * 4], tcp[(size >> 4) * 4 :]
        self.flags = "".join(letter for letter, bit in FLAGS.items() if self.bits & bit)
        self.gso_size = struct.unpack_from("<H", header, 4)[0] if header else 0
        if header and header[0] & 1:
            assert reference.unfinished(frame) == frame, self
        else:
            assert reference.wrong_checksums(frame) == [], self

    @property
    def taken(self) -> int:
        """Sequence numbers it takes."""
        return len(self.payload) + bool(self.bits & FLAGS["S"]) + bool(self.bits & FLAGS["F"])

    def __repr__(self) -> str:
        return f"<{self.flags} seq {self.seq} ack {self.ack} window {self.window}, {len(self.payload)} bytes>"


class Net(WayOut):
    """A network whose gateway stands for the host's loopback, one container, and real servers and clients there."""

    def __init__(self, **how):
        self.descriptors_before = descriptors()
        super().__init__(**how)
        self.host = self.container()
        self.host.port.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.sockets: list = []
        self.peers: dict[tuple, Peer] = {}
        self.other: list[Frame] = []
        self.listening = 0
        self.sports = iter(range(40000, 65000))

    def close(self, *, checked: bool = True) -> None:
        """Takes everything down; nothing may be left of it, which isn't `checked` after a failure."""
        while self.switch.hosts:
            self.switch.hosts[0].leave()
        totals = self.switch.totals
        for made in self.sockets:
            made.close()
        self.peers.clear()
        super().close()
        del self.host
        if checked:
            assert (totals["flows"], totals["descriptors"]) == (0, 0)
            assert descriptors() == self.descriptors_before

    # ---- the host's side

    def keep(self, made):
        self.sockets.append(made)
        return made

    def server(self, *, v6: bool = False, backlog: int = 64, receive_bytes: int = 0) -> socket.socket:
        """A listening socket on the host's loopback."""
        made = self.keep(socket.socket(socket.AF_INET6 if v6 else socket.AF_INET))
        if receive_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.bind(("::1" if v6 else "127.0.0.1", 0))
        made.listen(backlog)
        made.setblocking(False)
        return made

    def accepted(self, server: socket.socket) -> socket.socket:
        """The connection that the switch made to a server."""
        found: list[socket.socket] = []

        def accept() -> bool:
            self.step()
            with contextlib.suppress(BlockingIOError):
                found.append(server.accept()[0])
            return bool(found)

        eventually(accept, "the host is connected to")
        found[0].setblocking(False)
        return self.keep(found[0])

    def publish(
        self,
        container_port: int = 80,
        *,
        inside4: str | None = INSIDE4,
        inside6: str | None = None,
        host_ip: str | None = "127.0.0.1",
        host: MemoryHost | None = None,
    ) -> int:
        """Publishes the container's port; the host port."""
        group = self.keep(open_listeners(host_ip, 0, 1, "tcp", container_port))
        assert self.switch.plane.post_listen(
            group,
            self.listening,
            network=0,
            port=(host or self.host).index,
            address4=frames.ip(inside4) if inside4 else None,
            address6=frames.ip(inside6) if inside6 else None,
        )
        self.listening += 1
        self.step()
        return group.host_ports[0]

    def client(self, host_port: int, *, v6: bool = False) -> socket.socket:
        """A client of a published port; its kernel's handshake is done, the container's is yet to come."""
        made = self.keep(socket.socket(socket.AF_INET6 if v6 else socket.AF_INET))
        made.settimeout(5)
        made.connect(("::1" if v6 else "127.0.0.1", host_port))
        made.setblocking(False)
        return made

    # ---- the container's side

    def peer(self, dport: int, **how) -> Peer:
        return Peer(self, dport, **how)

    def connected(self, **how) -> tuple[Peer, socket.socket]:
        """A connection that the container opened: its end and the host's."""
        receive_bytes = how.pop("receive_bytes", 0)
        server = self.server(v6=how.get("v6", False), receive_bytes=receive_bytes)
        peer = self.peer(server.getsockname()[1], **how)
        peer.open()
        return peer, self.accepted(server)

    def visited(self, **how) -> tuple[Peer, socket.socket]:
        """A connection that a client of a published port opened."""
        client = self.client(self.publish(80))
        peer = self.calling(80, **how)
        peer.take_syn(peer.expect("S"))
        peer.send("SA", options=peer.options)
        peer.expect("A")
        return peer, client

    def calling(self, container_port: int, host: MemoryHost | None = None, **how) -> Peer:
        """A Peer for the client that is asking the container now."""
        known = set(self.peers)
        strangers: list[tuple] = []

        def asked() -> bool:
            self.step()
            strangers[:] = [key for key in self.unclaimed if key not in known and key[2] == container_port]
            return bool(strangers)

        eventually(asked, "the container is asked")
        _, v6, _, dport = strangers[0]
        return Peer(self, dport, sport=container_port, v6=v6, host=host, **how)

    def step(self, *, after_s: float = 0) -> None:
        """Lets time pass and the switch work, and hands its segments to their peers."""
        self.switch.step(after_s=after_s)
        self.sort_out()

    @property
    def unclaimed(self) -> dict[tuple, list[Segment]]:
        return self.__dict__.setdefault("_unclaimed", {})

    def sort_out(self) -> None:
        for host in self.switch.hosts:
            for header, frame in host.received_with_headers() if host.vnet else [(None, f) for f in host.received()]:
                found = reference.l4_of(frame)
                if found is None or found[2] != frames.TCP:
                    self.other.append(Frame(frame))
                    continue
                segment = Segment(frame, header)
                key = (host.index, len(segment.source) == 16, segment.dport, segment.sport)
                if key in self.peers:
                    self.peers[key].hear(segment)
                else:
                    self.unclaimed.setdefault(key, []).append(segment)

    def totals(self) -> tuple[int, int]:
        """(flows, descriptors)"""
        totals = self.switch.totals
        return totals["flows"], totals["descriptors"]

    def gone(self) -> bool:
        self.step()
        return self.totals() == (0, 0)

    def nothing_is_left(self) -> None:
        eventually(self.gone, "flow and descriptor are given back")


class Peer:
    """The container's end of one connection, by hand. `send` says what it is told; `expect` waits for one segment."""

    def __init__(
        self,
        net: Net,
        dport: int,
        *,
        sport: int | None = None,
        v6: bool = False,
        iss: int = 1000,
        mss: int = MSS,
        scale: int = SCALE,
        window: int | None = None,
        options: bytes | None = None,
        host: MemoryHost | None = None,
        to: str | None = None,
    ):
        self.net, self.host, self.v6, self.dport = net, host or net.host, v6, dport
        self.sport = next(net.sports) if sport is None else sport
        self.options = mss_option(mss) + scale_option(scale) if options is None else options
        self.mss = mss
        self.window = (1000 if options is None else 60_000) if window is None else window
        self.iss = self.snd_nxt = wrapped(iss)
        self.rcv_nxt, self.edge, self.scale = 0, None, 0
        self.inside, self.gateway = (INSIDE6, GATEWAY6) if v6 else (INSIDE4, GATEWAY4)
        self.gateway = to or self.gateway
        self.inbox: deque[Segment] = deque()
        key = (self.host.index, v6, self.sport, self.dport)
        net.peers[key] = self
        for segment in net.unclaimed.pop(key, []):
            self.hear(segment)

    def hear(self, segment: Segment) -> None:
        """Holds a segment against what is always so, and keeps it for expect()."""
        assert not segment.gso_size or (segment.gso_size <= self.mss < len(segment.payload)), segment
        assert segment.gso_size or len(segment.payload) <= self.mss, segment
        if segment.bits & FLAGS["A"] and not segment.bits & FLAGS["R"]:
            scale = 0 if segment.bits & FLAGS["S"] else self.scale
            edge = wrapped(segment.ack + (segment.window << scale))
            assert self.edge is None or ahead(edge, self.edge) >= 0, f"the window shrank: {segment}"
            self.edge = edge
        self.inbox.append(segment)

    # ---- by hand

    def put(
        self,
        flags: str,
        payload: bytes = b"",
        *,
        seq: int | None = None,
        ack: int | None = None,
        window: int | None = None,
        options: bytes = b"",
        move: bool = True,
    ) -> None:
        """A segment for the switch's next step; without a `seq` it is the next, and `snd_nxt` moves on."""
        at = self.snd_nxt if seq is None else wrapped(seq)
        header = struct.pack(
            ">HHIIBBHHH",
            self.sport,
            self.dport,
            at,
            (self.rcv_nxt if ack is None else wrapped(ack)) if "A" in flags or ack is not None else 0,
            (5 + len(options) // 4) << 4,
            bits(flags),
            self.window if window is None else window,
            0,
            0,
        )
        l4 = header + options + payload
        frame = frames.packet(GATEWAY, self.host.mac, self.inside, self.gateway, frames.TCP, l4)
        if len(payload) > self.mss and self.host.vnet:
            frame = reference.unfinished(frame)
            self.host.send(frame, offload_header(frame, frames.gso_type_of(frame), self.mss))
        else:
            self.host.send(frame)
        if seq is None and move:
            self.snd_nxt = wrapped(at + len(payload) + ("S" in flags) + ("F" in flags))

    def send(self, flags: str, payload: bytes = b"", **fields) -> None:
        """The same, and the switch's turn."""
        self.put(flags, payload, **fields)
        self.net.step()

    def next(self, what: str = "a segment") -> Segment:
        def some() -> bool:
            if not self.inbox:
                self.net.step()
            return bool(self.inbox)

        eventually(some, f"{what} comes")
        return self.inbox.popleft()

    def expect(self, flags: str, **fields) -> Segment:
        """The next segment, which has these flags (P aside) and fields; what is in order counts as received."""
        segment = self.next(f"{flags} {fields}")
        assert set(segment.flags) - {"P"} == set(flags) - {"P"}, f"{segment}, not {flags}"
        for name, value in fields.items():
            assert getattr(segment, name) == value, f"{segment}: {name} is not {value}"
        if segment.seq == self.rcv_nxt and not segment.bits & FLAGS["R"]:
            self.rcv_nxt = wrapped(segment.seq + segment.taken)
        return segment

    def hears_nothing(self) -> None:
        self.net.step()
        assert not self.inbox, list(self.inbox)

    # ---- the usual

    def open(self) -> Segment:
        """The three-way handshake."""
        self.send("S", options=self.options)
        answer = self.expect("SA", ack=wrapped(self.iss + 1))
        self.take_syn(answer)
        self.send("A")
        return answer

    def take_syn(self, segment: Segment) -> None:
        """What the other side's SYN says."""
        self.rcv_nxt = wrapped(segment.seq + 1)
        self.scale = segment.options[7] if len(segment.options) > 7 else 0

    def read(self, size: int, *, acknowledge: bool = True) -> bytes:
        """The next `size` bytes of the stream, all in order."""
        got = b""
        while len(got) < size:
            segment = self.expect("A")
            if segment.payload:
                assert segment.seq == wrapped(self.rcv_nxt - len(segment.payload)), segment
                got += segment.payload
                if acknowledge:
                    self.put("A")
        self.net.step()
        assert len(got) == size
        return got

    def acknowledged(self, upto: int | None = None) -> None:
        """Waits for the acknowledgement of everything sent."""
        upto = self.snd_nxt if upto is None else wrapped(upto)
        while self.expect("A").ack != upto:
            pass

    def write(self, data: bytes, piece: int = 40_000) -> None:
        """Sends data as the window allows, without listening to anything but acknowledgements."""
        at = 0
        una = self.snd_nxt
        while at < len(data):
            room = ahead(self.edge, self.snd_nxt)
            if room > 0:
                part = data[at : at + min(room, piece)]
                self.send("PA", part)
                at += len(part)
            while self.inbox:
                una = self.inbox.popleft().ack
            if room <= 0:
                self.net.step()
        while una != self.snd_nxt:
            una = self.next("the last acknowledgement").ack


# ---- host sockets


def drained(net: Net, connection: socket.socket, size: int) -> bytes:
    """The next `size` bytes that the host receives."""
    got = bytearray()

    def more() -> bool:
        net.step()
        with contextlib.suppress(BlockingIOError):
            while len(got) < size and (data := connection.recv(size - len(got))):
                got.extend(data)
        return len(got) >= size

    eventually(more, f"{size} bytes arrive at the host")
    return bytes(got)


def ending(net: Net, connection: socket.socket) -> object:
    """How the host's incoming stream goes on: b"" for its end, the error of a reset, or data."""
    found: list = []

    def told() -> bool:
        net.step()
        try:
            found.append(connection.recv(65536))
        except BlockingIOError:
            return False
        except OSError as error:
            found.append(type(error))
        return True

    eventually(told, "the host is told how its stream ends")
    return found[0]


def reset(connection: socket.socket) -> None:
    """Closes with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    connection.close()


def fill(net: Net, connection: socket.socket, data: bytes) -> int:
    """Sends what the host's kernel takes at once."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(data):
            sent += connection.send(data[sent : sent + 65536])
    return sent


def stuff(net: Net, peer: Peer, data: bytes) -> bytes:
    """Sends `data` over and over until nothing more is taken, repeating what was not; what was taken altogether."""
    taken = b""
    while (room := ahead(peer.edge, peer.snd_nxt)) > 0 and len(taken) < 1 << 26:
        start = peer.snd_nxt
        part = (data + data)[len(taken) % len(data) :][: min(room, 60_000)]
        peer.send("PA", part, seq=start)
        while peer.inbox:
            peer.snd_nxt = peer.inbox.popleft().ack
        if peer.snd_nxt == start:
            break
        taken += part[: ahead(peer.snd_nxt, start)]
    return taken
