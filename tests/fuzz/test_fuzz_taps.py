# SPDX-License-Identifier: Apache-2.0
"""A container's root at an AF_PACKET socket with offload headers: what its kernel lets through reaches the switch, and
from there other kernels. The switch lives, the others talk on, and no kernel refuses what the switch passed on (root).
"""

from __future__ import annotations

import contextlib
import random
import time

import frames
import pytest
from mutations import Mutator
from real_hosts import RealSwitch
from test_fuzz_switch import SECONDS, SEED

pytestmark = pytest.mark.root

SOL_PACKET, PACKET_VNET_HDR = 263, 15
SHORT_HEADER = 10  # bytes that an AF_PACKET socket wants before a frame


def test_whatever_a_containers_kernel_lets_out_is_harmless(real_switch):
    real_switch.network()
    for gateway in ("10.0.0.254", "fd00::fe"):
        real_switch.bind(gateway)
    a, b, c = (real_switch.host(f"10.0.0.{number}/24", f"fd00::{number}/64") for number in (1, 2, 3))
    socket = a.packet_socket()
    socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    chance = random.Random(SEED)
    mutator, sent, until = Mutator(chance), 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        frame = mutator.frame(a.mac, [b.mac, c.mac])
        with contextlib.suppress(OSError):
            sent += socket.send(somehow(chance, mutator.header(frame)) + frame) > 0
    assert sent > 100
    still_well(real_switch, a, b, c)


def somehow(chance: random.Random, header: bytes) -> bytes:
    """An offload header of the older, shorter kind, its first bytes sometimes likely ones."""
    if chance.random() < 0.3:
        header = bytes([chance.randrange(4), chance.choice([0, 1, 3, 4, 5, 0x81, 0x84])]) + header[2:]
    return header[:SHORT_HEADER]


def still_well(switch: RealSwitch, a, b, c) -> None:
    """No port died, no kernel refused a frame, and the other two talk."""
    note = f"VSWITCH_FUZZ_SEED={SEED}"
    assert switch.plane.events() == [], note
    for host in (b, c):
        assert not {"tx_refused", "tx_error", "tx_link_down"} & set(host.counters["drops"]), note
    assert a.counters["rx_frames"] > 100
    done = b.run("ping", "-n", "-q", "-c", "3", "-i", "0.01", "-W", "3", "10.0.0.3")
    assert " 3 received" in done.stdout, note
    listener = c.packet_socket()
    frame = bytes(frames.experimental(c.mac, b.mac, b"still here" + bytes(40)))
    b.packet_socket().send(frame)
    while listener.recv(1 << 17) != frame:
        pass
