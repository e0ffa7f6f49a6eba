# SPDX-License-Identifier: Apache-2.0
"""Whole transfers over a link that loses, doubles and reorders: every byte arrives once, in order."""

from __future__ import annotations

import random

import pytest
from tcp_peer import reset
from tcp_stack import Link, Transfer, run

SIZES = [0, 1, 1000, 65_536, 150_000, 400_000]
LINKS = {
    "sound": (0, 0, 0),
    "1 % lost": (0.01, 0.01, 0.02),
    "5 % lost": (0.05, 0.02, 0.05),
    "30 % lost": (0.3, 0.1, 0.2),
}


@pytest.mark.parametrize("quality", LINKS.values(), ids=LINKS.keys())
@pytest.mark.parametrize("seed", range(8))
def test_every_byte_of_transfers_both_ways_arrives(net, quality, seed):
    chance = random.Random(seed)
    server = net.server()
    transfers = [
        Transfer(
            net,
            server,
            chance.randbytes(chance.choice(SIZES)),
            chance.randbytes(chance.choice(SIZES)),
            Link(chance, *quality),
        )
        for _ in range(1 if seed == 0 else 2)
    ]
    for one in transfers:  # one after the other, so that each knows its socket
        run(net, [one])
        assert not one.broken and not one.stack.was_reset
        assert (bytes(one.got), bytes(one.stack.got)) == (one.stack.data, one.down)


@pytest.mark.parametrize("side", ["host", "container"])
@pytest.mark.parametrize("seed", range(4))
def test_a_reset_in_the_middle_ends_both_sides_and_what_came_before_is_right(net, side, seed):
    chance = random.Random(seed)
    link = Link(chance, 0.02, 0.02, 0.02)
    one = Transfer(net, net.server(), chance.randbytes(3_000_000), chance.randbytes(3_000_000), link)
    for _ in range(chance.randrange(4, 20)):
        one.host_turn()
        net.step(after_s=0.02)
        one.stack.turn(net.switch.now_ns / 1e9 - 1000)
        net.step()
    if side == "host" and one.host is not None:
        reset(one.host)
    else:
        one.stack.put("R", seq=one.stack.una)
        net.host.leave()
        net.host = net.container()
    assert one.stack.data.startswith(bytes(one.got)) and one.down.startswith(bytes(one.stack.got))
    net.nothing_is_left()
