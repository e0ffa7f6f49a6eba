# SPDX-License-Identifier: Apache-2.0
"""Many small things through a way out: datagrams towards the container, connections one after the other, flows held."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.nat.stage import SERVERS, Stage
from benchmarks.process_cost import memory
from benchmarks.sandbox import Failed, Process, Sandbox, last_line
from benchmarks.yardstick import yardstick

PULL_PORT, ECHO_PORT = 7008, 7009
WARM_UP_SHARE, WINDOW_SHARE = 0.1, 0.8  # of a run
PATIENCE_S = 15.0
HOLD_S_PER_FLOW = 0.01


class Connects(NamedTuple):
    """One run of connect_rate; times are those of connect()."""

    done: int
    failed: int
    seconds: float
    p50_us: float
    p99_us: float
    max_us: float

    @property
    def per_second(self) -> float:
        return self.done / self.seconds


def pull(sandbox: Sandbox, stage: Stage, seconds: float, payload_bytes: int) -> float:
    """Datagrams per second that reached the first container, over a mapping it opened. Failed if none did."""
    program = yardstick(sandbox, "udp_pull")
    sending = [SERVERS[0], str(PULL_PORT), f"{seconds:g}", str(payload_bytes)]
    server = sandbox.spawn([program, "serve", *sending], stage.servers)
    window = [f"{seconds * WARM_UP_SHARE:g}", f"{seconds * WINDOW_SHARE:g}"]
    try:
        server.wait_ready("ready")
        said = sandbox.run(
            [program, "ask", SERVERS[0], str(PULL_PORT), *window],
            stage.containers[0].netns,
            timeout_s=seconds + PATIENCE_S,
        )
    finally:
        sandbox.end(server)
    counted = json.loads(said)
    if not counted["received"]:
        raise Failed("no datagram arrived")
    return counted["received"] / counted["seconds"]


@contextlib.contextmanager
def echo_server(sandbox: Sandbox, stage: Stage) -> Iterator[Process]:
    """On every address of the servers' namespace, TCP and UDP."""
    server = sandbox.spawn([yardstick(sandbox, "echo_server"), str(ECHO_PORT)], stage.servers)
    try:
        server.wait_ready("ready")
        yield server
    finally:
        sandbox.end(server)


def connect_rate(sandbox: Sandbox, stage: Stage, seconds: float, *, position: int = 0, pause_ms: int = 0) -> Connects:
    """From a container to all servers in turn; the echo server must run. Failed if none comes about."""
    said = sandbox.run(
        [
            *(yardstick(sandbox, "connect_rate"), SERVERS[0], str(len(SERVERS)), str(ECHO_PORT)),
            *(f"{seconds:g}", str(pause_ms)),
        ],
        stage.containers[position].netns,
        timeout_s=seconds + PATIENCE_S,
    )
    return Connects(**json.loads(said))


def hold(sandbox: Sandbox, stage: Stage, protocol: str, count: int, position: int = 0) -> Process:
    """That many idle flows from a container, until the process is ended. Failed if it are fewer."""
    holder = sandbox.spawn(
        [
            *(yardstick(sandbox, "hold_flows"), protocol, SERVERS[0], str(len(SERVERS))),
            *(str(ECHO_PORT), str(count)),
        ],
        stage.containers[position].netns,
    )
    try:
        holder.wait_ready("held", PATIENCE_S + count * HOLD_S_PER_FLOW)
        held = int(holder.out.read_text().split()[1])
        if held < count:
            said = last_line(holder.errors.read_text())
            raise Failed(f"only {held} of {count} {protocol} flows were opened; {said}")
    except Failed:
        sandbox.end(holder)
        raise
    return holder


def bytes_per_flow(sandbox: Sandbox, stage: Stage, protocol: str, count: int) -> float:
    """Growth of the processes' PSS over the last nine tenths of `count` idle flows, divided by their number."""
    first = count // 10
    with echo_server(sandbox, stage):
        holders = [hold(sandbox, stage, protocol, first)]
        try:
            before = memory(stage.processes()).pss
            holders.append(hold(sandbox, stage, protocol, count - first))
            after = memory(stage.processes()).pss
        finally:
            sandbox.end(*holders)
    return (after - before) / (count - first)
