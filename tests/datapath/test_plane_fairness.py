# SPDX-License-Identifier: Apache-2.0
"""Turns: how long a quiet port's frame waits beside a flooding one."""

from __future__ import annotations

import frames
import reference
from frames import BROADCAST, experimental
from memory_switch import MemorySwitch

from vswitch._fastpath import limits

TURN, COPY = limits()["turn_cost_bytes"], limits()["copy_cost_bytes"]


def order_of_arrival(switch, receiver, quiet) -> list[int]:
    """At which places among the receiver's frames the quiet port's stand."""
    return [at for at, frame in enumerate(receiver.received()) if frame[6:12] == quiet.mac]


def test_a_quiet_ports_frame_waits_for_one_turn_of_a_flooding_port_at_most(switch):
    flooders, quiet, receiver = [switch.host() for _ in range(4)], switch.host(), switch.host()
    switch.delivered(receiver, experimental(BROADCAST, receiver.mac))
    for _ in range(50):
        for flooder in flooders:
            flooder.send(experimental(receiver.mac, flooder.mac))
    quiet.send(experimental(receiver.mac, quiet.mac))
    switch.step()
    turn = TURN // (2 * COPY) + 1
    (at,) = order_of_arrival(switch, receiver, quiet)
    assert at <= len(flooders) * turn < 200


def test_copies_made_by_flooding_shorten_the_turn(switch):
    flooder, quiet, receivers = switch.host(), switch.host(), [switch.host() for _ in range(30)]
    for _ in range(100):
        flooder.send(experimental(BROADCAST, flooder.mac, bytes(500)))
    quiet.send(experimental(BROADCAST, quiet.mac))
    switch.step()
    (at,) = order_of_arrival(switch, receivers[0], quiet)
    assert at <= TURN // (31 * (COPY + 514)) + 1 < 5


def test_a_port_that_overdrew_its_turn_sits_out_until_the_debt_is_paid():
    switch = MemorySwitch(mac_capacity=64, neighbour_capacity=4)
    switch.network()
    flooder, quiet, receiver = switch.host(vnet=True), switch.host(), switch.host()
    super_frame = reference.unfinished(frames.tcp(BROADCAST, flooder.mac, "10.0.0.1", "10.0.0.2", bytes(64 * 150)))
    others = [switch.host() for _ in range(10)]
    for _ in range(2):
        flooder.send(super_frame, frames.offload_header(super_frame, frames.GSO_TCPV4, 64))
    for _ in range(100):
        quiet.send(experimental(receiver.mac, quiet.mac))
    switch.step()
    at = order_of_arrival(switch, receiver, quiet)
    assert len(at) == 100 and at[-1] < 150 + 100
    assert sum(len(host.received()) for host in others) >= 10 * 150
    switch.close()
