# SPDX-License-Identifier: Apache-2.0
"""Frames for fuzzing: sound ones of every kind that the switch looks into, and ways to spoil them."""

from __future__ import annotations

import random
import struct

import frames
import reference
from frames import ALL_NODES, BROADCAST, C_TAG, S_TAG
from memory_switch import GATEWAY

ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.254", "192.0.2.1", "0.0.0.0", "255.255.255.255"]
ADDRESSES6 = ["fd00::1", "fd00::2", "fd00::3", "fd00::fe", "2001:db8::1", "::", "ff02::1", "fe80::1"]
EXTENSIONS = [0, 43, 44, 51, 60, 135]
EXTREMES = [b"\0", b"\xff", b"\0\0", b"\xff\xff", b"\x7f\xff", b"\x80\0", b"\0\1", b"\0\0\0\0", b"\xff\xff\xff\xff"]


class Mutator:
    """A source of frames; everything it does follows from `chance`."""

    def __init__(self, chance: random.Random):
        self.chance = chance
        self.kinds = [
            self.plain,
            self.arp,
            self.discovery,
            self.advertisement,
            self.echo,
            self.echo6,
            self.tcp,
            self.udp,
            self.dhcp,
            self.fragment,
            self.extended,
        ]

    def frame(self, source: bytes, others: list[bytes]) -> bytes:
        """A frame, mostly from `source`, to one of the others, the gateway, a group or nobody; sound or
        not."""
        chance = self.chance
        if chance.random() < 0.05:
            return chance.randbytes(chance.randint(1, 200))
        to = chance.choice(
            [*others, GATEWAY, GATEWAY, BROADCAST, ALL_NODES, frames.mac(99), bytes.fromhex("0180c2000003")]
        )
        me = source if chance.random() < 0.95 else chance.choice([*others, GATEWAY, bytes(6), BROADCAST])
        made = bytes(chance.choice(self.kinds)(to, me))
        if chance.random() < 0.25:
            tags = [
                (chance.choice([C_TAG, S_TAG]), chance.choice([0, 0xE000, 5, 4095]))
                for _ in range(chance.randint(1, 4))
            ]
            made = bytes(frames.tagged(made, *tags))
        while chance.random() < 0.5:
            made = self.spoiled(made)
        return made

    def header(self, frame: bytes) -> bytes:
        """An offload header for a frame: none, an honest one where there is one, or a lie."""
        chance = self.chance
        if chance.random() < 0.4:
            return bytes(12)
        try:
            gso = chance.random() < 0.6
            made = frames.offload_header(
                frame, frames.gso_type_of(frame) if gso else 0, chance.choice([8, 100, 536, 1400]) if gso else 0
            )
        except (TypeError, KeyError, IndexError):
            made = frames.vnet(
                1, chance.choice([0, 1, 4, 5]), 0, 100, chance.choice([14, 34, 54]), chance.choice([2, 6, 16])
            )
        while chance.random() < 0.4:
            at = chance.randrange(12)
            made = (made[:at] + chance.choice([*EXTREMES, chance.randbytes(2)]) + made[at + 1 :])[:12]
        return made

    def spoiled(self, frame: bytes) -> bytes:
        """One thing about it changed."""
        chance = self.chance
        at = chance.randrange(len(frame)) if frame else 0
        kind = chance.randrange(7)
        if kind == 0:
            return frame[:at]
        if kind == 1:
            return frame + chance.randbytes(chance.choice([1, 2, 7, 60, 3000]))
        if kind == 2:
            return frame[:at] + bytes([frame[at] ^ 1 << chance.randrange(8)]) + frame[at + 1 :] if frame else frame
        if kind == 3:
            value = chance.choice(EXTREMES)
            return frame[:at] + value + frame[at + len(value) :]
        if kind == 4:
            return frame[:at] + chance.randbytes(chance.randint(1, 4)) + frame[at:]
        if kind == 5:
            return frame[:at] + frame[at + chance.randint(1, 8) :]
        value = chance.randbytes(2)  # among the headers, where it hurts
        at = min(at, chance.randint(12, 70))
        return frame[:at] + value + frame[at + 2 :]

    # ---- sound frames

    def data(self) -> bytes:
        return self.chance.randbytes(self.chance.choice([0, 1, 8, 100, 536, 1400, 5000, 30_000]))

    def pair(self) -> tuple[str, str]:
        """Two addresses of one family."""
        of = self.chance.choice([ADDRESSES, ADDRESSES6])
        return self.chance.choice(of), self.chance.choice(of)

    def plain(self, to: bytes, me: bytes) -> bytes:
        return frames.ethernet(
            to, me, self.chance.choice([0x88B5, 0x8847, 60, 0x0800, 0x0806, 0x86DD]), self.data()[:1500]
        )

    def arp(self, to: bytes, me: bytes) -> bytes:
        sha = me if self.chance.random() < 0.8 else GATEWAY
        spa, tpa = self.chance.choice(ADDRESSES), self.chance.choice(ADDRESSES)
        return frames.arp(self.chance.choice([1, 1, 2, 8]), sha=sha, spa=spa, tpa=tpa, to=to, source=me)

    def discovery(self, to: bytes, me: bytes) -> bytes:
        return frames.solicitation(
            me,
            self.chance.choice(ADDRESSES6),
            self.chance.choice(ADDRESSES6),
            to=to,
            dst=self.chance.choice(ADDRESSES6),
        )

    def advertisement(self, to: bytes, me: bytes) -> bytes:
        return frames.advertisement(me, self.chance.choice(ADDRESSES6), self.chance.choice(ADDRESSES6), to=to)

    def echo(self, to: bytes, me: bytes) -> bytes:
        return frames.echo(
            to,
            me,
            self.chance.choice(ADDRESSES),
            self.chance.choice(ADDRESSES),
            self.data(),
            options=bytes(self.chance.choice([0, 4, 40])),
        )

    def echo6(self, to: bytes, me: bytes) -> bytes:
        return frames.echo(to, me, self.chance.choice(ADDRESSES6), self.chance.choice(ADDRESSES6), self.data())

    def tcp(self, to: bytes, me: bytes) -> bytes:
        made = frames.tcp(
            to,
            me,
            *self.pair(),
            self.data(),
            flags=self.chance.randrange(256),
            options=bytes(self.chance.choice([0, 12, 40])),
        )
        return reference.unfinished(made) if self.chance.random() < 0.7 else made

    def udp(self, to: bytes, me: bytes) -> bytes:
        made = frames.udp(to, me, *self.pair(), self.data(), dport=self.chance.choice([53, 67, 68, 4789]))
        return reference.unfinished(made) if self.chance.random() < 0.7 else made

    def dhcp(self, to: bytes, me: bytes) -> bytes:
        return frames.dhcp(me, to=to, dst=self.chance.choice(ADDRESSES), padding=self.chance.choice([0, 300, 1400]))

    def fragment(self, to: bytes, me: bytes) -> bytes:
        src, dst = self.chance.choice(ADDRESSES), self.chance.choice(ADDRESSES)
        return frames.ipv4(
            to,
            me,
            src,
            dst,
            self.chance.choice([1, 6, 17]),
            self.data()[:1400],
            offset=8 * self.chance.randrange(200),
            more=self.chance.random() < 0.5,
        )

    def extended(self, to: bytes, me: bytes) -> bytes:
        """An IPv6 packet behind a chain of extension headers."""
        chance, made = self.chance, self.discovery(to, me) if self.chance.random() < 0.5 else self.tcp6(to, me)
        kinds = [chance.choice(EXTENSIONS) for _ in range(chance.randint(1, 5))]
        chain = b""
        for following in [*kinds[1:], made[20]]:
            length = chance.choice([0, 0, 0, 1, 3])
            chain += bytes([following, length]) + bytes(6 + 8 * length)
        return (
            made[:18]
            + struct.pack(">HB", len(made) - 54 + len(chain) & 0xFFFF, kinds[0])
            + made[21:54]
            + chain
            + made[54:]
        )

    def tcp6(self, to: bytes, me: bytes) -> bytes:
        return reference.unfinished(frames.tcp(to, me, "fd00::1", "fd00::2", self.data()))
