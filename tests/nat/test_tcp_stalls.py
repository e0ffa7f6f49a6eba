# SPDX-License-Identifier: Apache-2.0
"""How long a stream stands still when frames are lost or change places at the port, in virtual seconds."""

from __future__ import annotations

import itertools
import random

import pytest
from tcp_peer import fill
from tcp_stack import FIRST_RTO_S, Link, Transfer, run

UP_BYTES, DOWN_BYTES = 2_000_000, 3_000_000
UNMEASURED_S, MEASURED_S, LONGEST_S = 1.0, 0.2, 60.0  # RFC 6298 section 2; what Linux takes as the least
ROUND_TRIP_MEASURED_BYTES = 400_000  # with so much of its first data acknowledged, a round trip was timed
HICCUP_S = 0.5  # a frame for which the host socket had no room; a millisecond of the kernel's, which is 20 ms here

WINDOWS = pytest.mark.parametrize("window", [1000, 3000], ids=["two frames", "six frames"])
SEEDS = pytest.mark.parametrize("seed", [1, 2, 3])


class Watch:
    """When each way of a transfer moved: what its receiver was given, and what its sender knows to have arrived."""

    def __init__(self, transfer: Transfer):
        self.transfer, self.harm_before, self.harmed = transfer, 0, 0
        self.moves: dict[str, list[tuple[float, int, int]]] = {}

    def __call__(self, now_s: float) -> None:
        one, stack = self.transfer, self.transfer.stack
        if not stack.established:
            return
        for way, moved in (
            ("given up", len(one.got)),
            ("given down", len(stack.got)),
            ("known up", stack.una - stack.base),
            ("known down", stack.acknowledged),
        ):
            moves = self.moves.setdefault(way, [])
            if not moves or moves[-1][1] < moved:
                moves.append((now_s, moved, self.harmed))
        self.harmed += stack.link.harm > self.harm_before
        self.harm_before = stack.link.harm

    def stalls(self, way: str) -> list[tuple[float, int, int]]:
        """(seconds, bytes that had moved before, moments at which frames were harmed) between any two moves."""
        pairs = itertools.pairwise(self.moves[way])
        return [(after[0] - before[0], before[1], after[2] - before[2]) for before, after in pairs]


def transfer(net, seed: int, window: int, harm: float) -> Watch:
    """Moves everything both ways over a link that loses and swaps `harm` of all frames; it arrives."""
    chance = random.Random(seed)
    up, down = chance.randbytes(UP_BYTES), chance.randbytes(DOWN_BYTES)
    one = Transfer(net, net.server(), up, down, Link(chance, harm, 0, harm), window=window)
    watch = Watch(one)
    run(net, [one], watch)
    assert not one.broken and not one.stack.was_reset
    assert bytes(one.got) == up and bytes(one.stack.got) == down
    return watch


@SEEDS
@WINDOWS
def test_with_one_frame_in_a_hundred_lost_no_stall_is_longer_than_three_seconds(net, window: int, seed: int):
    watch = transfer(net, seed, window, 0.01)
    assert watch.transfer.stack.link.harm > 5
    for way in ("given up", "given down"):
        assert max((seconds for seconds, *_ in watch.stalls(way)), default=0) <= 3, watch.stalls(way)


@SEEDS
@WINDOWS
def test_with_one_in_twenty_lost_every_stall_is_what_timeouts_that_double_explain(net, window: int, seed: int):
    """Each moment at which frames were harmed costs one timeout, of which each is twice the one before."""
    watch = transfer(net, seed, window, 0.05)
    for way in ("known up", "known down"):
        for seconds, moved, moments in watch.stalls(way):
            first_s = FIRST_RTO_S if way == "known up" else MEASURED_S
            if way == "known down" and moved < ROUND_TRIP_MEASURED_BYTES:
                first_s = UNMEASURED_S
            allowed_s = sum(min(first_s * 2**number + 0.02, LONGEST_S) for number in range(moments))
            assert seconds <= allowed_s + HICCUP_S, (way, seconds, moved, moments)


def test_a_remainder_in_the_hosts_socket_does_not_keep_its_window_closed(net):
    """A thousand bytes of a buffer that is charged whole (vswitch/nat/_stream.pyx): reading goes on all the same. How
    large the buffers are is the kernel's doing, so several connections try.
    """
    for _ in range(8):
        peer, host = net.connected(window=60_000)
        for _ in range(10):
            fill(net, host, bytes(8_000_000))
            segment = peer.next("more")
            while peer.inbox:
                segment = peer.inbox.popleft()
                net.step()
            for left in (1000, 0):
                peer.send("A", seq=peer.snd_nxt, ack=segment.seq + segment.taken - left)
