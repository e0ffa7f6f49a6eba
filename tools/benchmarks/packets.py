# SPDX-License-Identifier: Apache-2.0
"""64-byte UDP packets from one container to another as fast as one core sends them; the receiver counts.

64 bytes are the whole frame with its check sequence, so 18 bytes of payload. CPU per packet is the switch's
time over the whole run divided by the packets that its port handed to the receiving namespace in that time:
what the receiver's socket then loses is not the switch's doing. The sender takes a core for itself: with
two cores the switch and the receiver share the other one, which is what a small machine does to them.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from benchmarks.process_cost import cpu_seconds
from benchmarks.sandbox import Failed, Sandbox
from benchmarks.subjects.subject import Container, Subject
from benchmarks.yardstick import yardstick

PORT = 7007
PAYLOAD_BYTES = 18
WARM_UP_SHARE, WINDOW_SHARE = 0.1, 0.8  # of the run
PATIENCE_S = 10.0


class Packets(NamedTuple):
    """One run. `cpu_us_per_packet` is None for a switch without a process."""

    per_second: float
    cpu_us_per_packet: float | None


def delivered(sandbox: Sandbox, container: Container) -> int:
    """Frames the container's interface has received so far."""
    shown = sandbox.run(["ip", "-s", "-json", "link", "show", "dev", container.interface], container.netns)
    return json.loads(shown)[0]["stats64"]["rx"]["packets"]


def blast(sandbox: Sandbox, subject: Subject, seconds: float, payload_bytes: int = PAYLOAD_BYTES) -> Packets:
    """One run of that length. Failed if nothing arrives."""
    target, source = subject.containers[:2]
    sink = sandbox.spawn(
        [
            yardstick(sandbox, "udp_sink"),
            str(PORT),
            f"{seconds * WARM_UP_SHARE:g}",
            f"{seconds * WINDOW_SHARE:g}",
        ],
        target.netns,
    )
    try:
        sink.wait_ready("ready")
        before_s, before = cpu_seconds(subject.processes()), delivered(sandbox, target)
        sandbox.run(
            [yardstick(sandbox, "udp_blast"), target.address, str(PORT), f"{seconds:g}", str(payload_bytes)],
            source.netns,
            timeout_s=seconds + PATIENCE_S,
        )
        counted = json.loads(sink.wait(PATIENCE_S).partition("ready\n")[2])
        spent_s, handed_over = (
            cpu_seconds(subject.processes()) - before_s,
            delivered(sandbox, target) - before,
        )
    finally:
        sandbox.end(sink)
    if not counted["received"]:
        raise Failed("no packet arrived")
    per_packet_us = spent_s * 1e6 / handed_over if handed_over and subject.processes() else None
    return Packets(counted["received"] / counted["seconds"], per_packet_us)
