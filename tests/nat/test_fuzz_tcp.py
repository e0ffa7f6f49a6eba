# SPDX-License-Identifier: Apache-2.0
"""Any segment in any state of live connections: nothing crashes, nothing hangs, and with time nothing is left of it.

VSWITCH_FUZZ_SECONDS says how long each test runs, VSWITCH_FUZZ_SEED starts where a failure was found.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import socket
import struct
import time

import frames
import pytest
import reference
from memory_switch import GATEWAY
from patience import eventually
from tcp_peer import FLAGS, Net, Segment, bits, mss_option, reset, scale_option, wrapped
from way_out import GATEWAY4, GATEWAY6, INSIDE4, INSIDE6

SECONDS = float(os.environ.get("VSWITCH_FUZZ_SECONDS", "3"))
SEED = int(os.environ.get("VSWITCH_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 48)
ACTIONS_PER_NET = 400
MOST_TURNS = 3000  # of ports and sockets, for one action
MTU = 1500
FRAME_BYTES = 14 + MTU
TOGETHER, APART = 0.0, [0.01, 0.3, 1.2, 5, 61, 300]
NEAR = [0, 0, 0, 0, 1, -1, 2, 100, -100, 1460, 65_535, 65_536, -65_536, 1 << 24, 1 << 31, (1 << 31) - 1]
SIZES = [0, 0, 0, 1, 7, 536, 1460, 9000, 40_000, 60_000]
COMMON = ["A", "A", "PA", "PA", "FA", "FPA", "S", "SA", "R", "RA"]
DATA = bytes(range(256)) * 256


class End:
    """What a container knows of one of its connections."""

    def __init__(self, seq: int):
        self.seq, self.ack = seq, 0


class Crowd:
    """A container with connections in every state, and the hosts that they lead to; all follows from `seed`."""

    def __init__(self, seed: int, disabled: tuple[str, ...]):
        self.chance = random.Random(seed)
        self.net = Net(disabled=disabled, max_flows=40, max_descriptors=36)
        self.ends: dict[tuple[bool, int, int], End] = {}
        self.servers = [self.net.server(v6=v6, receive_bytes=size) for v6 in (False, True) for size in (0, 4096)]
        self.full = self.net.server(backlog=0)
        self.net.keep(socket.create_connection(self.full.getsockname()))
        self.published = [
            (self.net.publish(80), False),
            (self.net.publish(80, inside4=None, inside6=INSIDE6, host_ip="::1"), True),
        ]
        self.hosts: list[socket.socket] = []
        self.actions = [
            *[self.open, self.disturb, self.disturb, self.disturb, self.disturb, self.go_on, self.go_on],
            *[self.visit, self.host_does, self.host_does, self.ruin],
        ]

    # ---- the container

    def act(self) -> None:
        """One thing happens, and the switch has its turns."""
        self.chance.choice(self.actions)()
        pause = TOGETHER if self.chance.random() < 0.9 else self.chance.choice(APART)
        turns = self.net.switch.step(after_s=pause)
        assert turns < MOST_TURNS
        self.listen()

    def listen(self) -> None:
        """Takes what has come; mostly answers as a container would."""
        for header, frame in self.net.host.received_with_headers():
            found = reference.l4_of(frame)
            assert found is not None
            if found[2] != frames.TCP:
                continue
            segment = Segment(frame, header)
            assert len(frame) <= FRAME_BYTES or 64 <= segment.gso_size <= MTU - 40, segment
            end = self.ends.setdefault((len(segment.source) == 16, segment.dport, segment.sport), End(5000))
            if segment.bits & FLAGS["R"]:
                continue
            if not segment.bits & FLAGS["S"]:
                end.seq = segment.ack if self.chance.random() < 0.8 else end.seq
            if self.chance.random() < 0.8:
                end.ack = wrapped(segment.seq + segment.taken)
                self.answer((len(segment.source) == 16, segment.dport, segment.sport), segment)

    def answer(self, key: tuple[bool, int, int], segment: Segment) -> None:
        end = self.ends[key]
        if segment.bits & FLAGS["S"] and not segment.bits & FLAGS["A"]:
            self.say(key, "SA", options=mss_option(1400) + scale_option(7))
            end.seq = wrapped(end.seq + 1)
        elif segment.taken:
            end.seq = segment.ack if segment.bits & FLAGS["S"] else end.seq
            self.say(key, "A", window=self.chance.choice([0, 1, 500, 500, 500]))

    def some(self) -> tuple[bool, int, int]:
        """A connection that was, or is."""
        if not self.ends or self.chance.random() < 0.02:
            return self.chance.random() < 0.5, self.chance.randrange(65536), self.chance.randrange(65536)
        return self.chance.choice(list(self.ends)[-12:])

    def say(self, key, flags, payload=b"", *, seq=0, ack=0, window=500, options=b"", offset=None, sound=True):
        """A segment, numbered relative to what is next; `sound` gives it the offload header that it needs."""
        end, (v6, sport, dport) = self.ends.setdefault(key, End(1000)), key
        flags = flags if isinstance(flags, int) else bits(flags)
        size = 5 + len(options) // 4 if offset is None else offset
        l4 = struct.pack(
            ">HHIIBBHHH", sport, dport, wrapped(end.seq + seq), wrapped(end.ack + ack), size << 4, flags, window, 0, 0
        )
        ends = (INSIDE6, GATEWAY6) if v6 else (INSIDE4, GATEWAY4)
        build = frames.ipv6 if v6 else frames.ipv4
        frame = build(GATEWAY, self.net.host.mac, *ends, frames.TCP, l4 + options + payload)
        if sound:
            frame, header = self.offloaded(frame)
        else:
            frame, header = self.spoiled(frame)
        with contextlib.suppress(BlockingIOError):
            self.net.host.send(bytes(frame), header)

    def offloaded(self, frame: bytes) -> tuple[bytes, bytes]:
        """As a container's kernel leaves it: too long frames, and some others, unfinished."""
        if len(frame) <= FRAME_BYTES and self.chance.random() < 0.7:
            return reference.finished(frame), bytes(12)
        frame = reference.unfinished(frame)
        if len(frame) <= FRAME_BYTES:
            return frame, frames.offload_header(frame)
        return frame, frames.offload_header(frame, frames.gso_type_of(frame), self.chance.choice([100, 536, 1400]))

    def spoiled(self, frame: bytes) -> tuple[bytes, bytes]:
        """Something is wrong with frame or header."""
        chance = self.chance
        l4 = 54 if frame[12:14] == b"\x86\xdd" else 34
        with contextlib.suppress(Exception):  # of the reference: of such a frame it can't make anything
            frame = chance.choice([reference.finished, reference.unfinished])(frame)
        header = frames.vnet(
            chance.choice([0, 1, 1, 1, 2, 255]),
            chance.choice([0, 1, 4, 4, 5, 0x81]),
            chance.choice([0, l4, l4 + 20, 65535]),
            chance.choice([0, 1, 8, 100, 1400, 65535]),
            chance.choice([l4, l4, l4, 0, 14, 65535]),
            chance.choice([16, 16, 16, 6, 0, 65535]),
        )
        while chance.random() < 0.5:
            at = chance.randrange(14, min(len(frame), l4 + 40))
            value = chance.choice([0, 255, frame[at] ^ 1 << chance.randrange(8)])
            frame = frame[:at] + bytes([value]) + frame[at + 1 :]
        if chance.random() < 0.3:
            frame = frame[: chance.randrange(14, len(frame))]
        return bytes(frame), header if chance.random() < 0.6 else bytes(12)

    def options(self) -> bytes:
        chance = self.chance
        scaled = mss_option(1400) + scale_option(chance.randrange(256))
        made = chance.choice([b"", mss_option(chance.randrange(65536)), scaled, chance.randbytes(40)])
        return made[: chance.choice([0, 4, 8, 40])].ljust(len(made) + 3 & ~3, b"\1")[:40]

    def open(self) -> None:
        """A new connection, to somebody or nobody."""
        server = self.chance.choice([*self.servers, self.full])
        v6 = server.family == socket.AF_INET6
        dport = server.getsockname()[1] if self.chance.random() < 0.95 else 9
        key = (v6, self.chance.randrange(1024, 65536), dport)
        self.ends[key] = End(self.chance.choice([1000, 0xFFFFFFF0, 0x7FFFFFF0]))
        self.say(key, "S", options=self.options() if self.chance.random() < 0.3 else mss_option(1400) + scale_option(7))

    def go_on(self) -> None:
        """What an honest container would say."""
        key, size = self.some(), self.chance.choice(SIZES)
        self.say(key, self.chance.choice(["A", "PA", "PA", "FPA"]), DATA[:size])

    def disturb(self) -> None:
        """What no honest container would say, in a sound frame."""
        chance = self.chance
        self.say(
            self.some(),
            chance.choice(COMMON) if chance.random() < 0.8 else chance.randrange(256),
            DATA[: chance.choice(SIZES)],
            seq=chance.choice([*NEAR, chance.randrange(1 << 32)]),
            ack=chance.choice([*NEAR, chance.randrange(1 << 32)]),
            window=chance.choice([0, 1, 500, 65535, chance.randrange(65536)]),
            options=self.options() if chance.random() < 0.3 else b"",
        )

    def ruin(self) -> None:
        """A frame that isn't even sound."""
        chance = self.chance
        offset = chance.randrange(16) if chance.random() < 0.5 else None
        flags, payload = chance.choice(COMMON), DATA[: chance.choice(SIZES)]
        self.say(self.some(), flags, payload, options=self.options(), offset=offset, sound=False)

    # ---- hosts

    def visit(self) -> None:
        """A client comes to a published port."""
        port, v6 = self.chance.choice(self.published)
        made = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
        made.setblocking(False)
        made.connect_ex(("::1" if v6 else "127.0.0.1", port))
        self.hosts.append(made)

    def host_does(self) -> None:
        """Something at the host's end of a connection."""
        chance = self.chance
        for server in self.servers:
            with contextlib.suppress(BlockingIOError):
                self.hosts.append(server.accept()[0])
                self.hosts[-1].setblocking(False)
        if len(self.hosts) > 30 or (self.hosts and chance.random() < 0.1):
            left = self.hosts.pop(chance.randrange(len(self.hosts)))
            reset(left) if chance.random() < 0.5 else left.close()
        for host in chance.sample(self.hosts, min(3, len(self.hosts))):
            with contextlib.suppress(OSError):
                what = chance.randrange(8)
                if what < 4:
                    host.send(DATA[: chance.choice(SIZES)])
                elif what < 6:
                    host.recv(chance.choice([1, 1000, 1 << 20]))
                elif what == 6:
                    host.send(b"!", socket.MSG_OOB)
                else:
                    host.shutdown(chance.choice([socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR]))

    # ---- the end

    def close(self) -> None:
        """Nobody says anything any more: with time every flow goes."""
        for _ in range(30):
            assert self.net.switch.step(after_s=8000) < MOST_TURNS
            self.net.host.raw()
        eventually(lambda: self.net.switch.step(after_s=8000) >= 0 and self.net.totals() == (0, 0), "no flow is left")
        for host in self.hosts:
            host.close()
        self.net.close()


@pytest.mark.parametrize("disabled", [(), ("peek_off",)], ids=["peeked", "kept"])
def test_any_segments_leave_nothing_behind(disabled):
    until = time.monotonic() + SECONDS
    seed = SEED
    while time.monotonic() < until:
        faulthandler.dump_traceback_later(120, exit=True)
        crowd = Crowd(seed, disabled)
        try:
            for _ in range(ACTIONS_PER_NET):
                crowd.act()
            crowd.close()
        except BaseException as failure:
            failure.add_note(f"VSWITCH_FUZZ_SEED={seed}")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
        seed += 1
