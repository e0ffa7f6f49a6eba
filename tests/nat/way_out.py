# SPDX-License-Identifier: Apache-2.0
"""A network in memory whose gateway address stands for the host's loopback, with real UDP sockets there."""

from __future__ import annotations

import gc
import os
import socket
import struct

import frames
import reference
from frames import Frame
from memory_switch import GATEWAY, MemoryHost, MemorySwitch

INSIDE4, INSIDE6 = "172.17.0.2", "fd00::2"
GATEWAY4, GATEWAY6 = "172.17.0.1", "fd00::1"
SPORT = 40000


def loopback(v6: bool = False, port: int = 0) -> socket.socket:
    """A UDP socket on the host's loopback."""
    made = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("::1" if v6 else "127.0.0.1", port))
    made.settimeout(2)
    return made


def free_port(v6: bool = False) -> int:
    with loopback(v6) as probe:
        return probe.getsockname()[1]


def descriptors() -> int:
    """How many this process has open, those of switches that nobody holds any more left out. Asked in each of many
    examples, so what lives on is not looked at again."""
    gc.collect()
    gc.freeze()
    return len(os.listdir("/proc/self/fd"))


class WayOut:
    """A MemorySwitch with one network that has a way out, and containers in it."""

    def __init__(self, *, mtu: int = 1500, endpoint_filtering: bool = False, **limits):
        self.switch = MemorySwitch(seed=1, **limits)
        self.switch.network(0, mtu=mtu)
        self.switch.bind(GATEWAY4)
        self.switch.bind(GATEWAY6)
        self.switch.plane.post_own_subnets([(b"\0" * 10 + b"\xff\xff" + frames.ip("172.17.0.0"), 112)])
        assert self.switch.plane.post_way_out(
            0, open=True, host_loopback=True, endpoint_filtering=endpoint_filtering
        )
        self.switch.step()

    def close(self) -> None:
        self.switch.close()
        del self.switch

    def container(self, inside4: str = INSIDE4, inside6: str = INSIDE6, **how) -> MemoryHost:
        host = self.switch.host(assigned=True, **{"vnet": True, "gso": 7, **how})
        self.switch.bind(inside4, host)
        self.switch.bind(inside6, host)
        return host

    def flows(self) -> list[tuple]:
        _, table = self.switch.plane.post_snapshot("flows")
        self.switch.step()
        return table.rows()


def datagram(
    host: MemoryHost, payload: bytes, dport: int, *, v6: bool = False, sport: int = SPORT, **fields
) -> Frame:
    """From the container to the gateway's address."""
    ends = (INSIDE6, GATEWAY6) if v6 else (INSIDE4, GATEWAY4)
    return frames.udp(GATEWAY, host.mac, *ends, payload, sport=sport, dport=dport, **fields)


def super_frame(
    host: MemoryHost, payload: bytes, size: int, dport: int, *, v6: bool = False
) -> tuple[Frame, bytes]:
    """The same as a USO frame with its virtio header."""
    frame = reference.unfinished(datagram(host, payload, dport, v6=v6))
    return frame, frames.offload_header(frame, frames.GSO_UDP_L4, size)


class Heard:
    """One IP packet that reached the container."""

    def __init__(self, header: bytes, frame: bytes):
        self.frame = Frame(frame)
        self.flags, self.gso_type, _, self.gso_size, *_ = struct.unpack("<BBHHHHH", header)
        self.v6 = frame[12:14] == b"\x86\xdd"
        ip = frame[14:]
        self.ip = ip
        self.source, self.to = (
            (socket.inet_ntop(socket.AF_INET6, ip[8:24]), socket.inet_ntop(socket.AF_INET6, ip[24:40]))
            if self.v6
            else (socket.inet_ntoa(ip[12:16]), socket.inet_ntoa(ip[16:20]))
        )
        self.ttl = ip[7] if self.v6 else ip[8]
        self.protocol = ip[6] if self.v6 else ip[9]
        self.l4 = ip[40:] if self.v6 else ip[20:]
        self.sport, self.dport = struct.unpack(">HH", self.l4[:4])
        self.payload = self.l4[8:]

    def __repr__(self) -> str:
        return f"{self.frame!r} flags={self.flags} gso={self.gso_type}/{self.gso_size}"


def heard(host: MemoryHost) -> list[Heard]:
    """What the container received; what isn't left to it is rightly summed."""
    got = [Heard(header, frame) for header, frame in host.received_with_headers()]
    for one in got:
        assert one.frame[:6] == host.mac and one.frame[6:12] == GATEWAY
        if not one.flags:
            assert reference.wrong_checksums(one.frame) == [], one
    return got
