# SPDX-License-Identifier: Apache-2.0
"""TCP round trips of 64 bytes, one at a time: by sockperf, else by yardsticks/tcp_round_trip.c."""

from __future__ import annotations

import json
import re
import shutil
from typing import NamedTuple

from benchmarks.sandbox import Failed, Sandbox
from benchmarks.subjects.subject import Subject
from benchmarks.traffic import listens
from benchmarks.yardstick import yardstick

PORT = 11111
PAYLOAD_BYTES = 64
PATIENCE_S = 15.0
PERCENTILE = re.compile(r"percentile (50|99)\.000 =\s*([\d.]+)")


class RoundTrip(NamedTuple):
    """Microseconds, there and back."""

    p50_us: float
    p99_us: float


def tool() -> str:
    """What measures here; named in the header."""
    return "sockperf" if shutil.which("sockperf") else "tcp_round_trip.c"


def read_sockperf(text: str) -> RoundTrip:
    """From its list of percentiles; Failed where it printed none."""
    found = dict(PERCENTILE.findall(text))
    if set(found) != {"50", "99"}:
        raise Failed("sockperf measured nothing")
    return RoundTrip(float(found["50"]), float(found["99"]))


def read_own(text: str) -> RoundTrip:
    """From tcp_round_trip's JSON line."""
    line = json.loads(text)
    return RoundTrip(line["p50_us"], line["p99_us"])


def round_trip(sandbox: Sandbox, subject: Subject, seconds: float) -> RoundTrip:
    """One run of that length between the subject's first two containers."""
    target, source = subject.containers[:2]
    address, port, payload = target.address, str(PORT), str(PAYLOAD_BYTES)
    if tool() == "sockperf":
        serve = ["sockperf", "server", "--tcp", "-i", address, "-p", port]
        ask = [
            "sockperf",
            "ping-pong",
            "--tcp",
            "--full-rtt",
            "-m",
            payload,
            "-t",
            str(max(1, round(seconds))),
            "-i",
            address,
            "-p",
            port,
        ]
        read = read_sockperf
    else:
        own = yardstick(sandbox, "tcp_round_trip")
        serve = [own, "server", port]
        ask = [own, "client", address, port, f"{seconds:g}", payload]
        read = read_own
    server = sandbox.spawn(serve, target.netns)
    try:
        server.until(lambda: listens(server, PORT), 5, f"{tool()} didn't listen")
        return read(sandbox.run(ask, source.netns, timeout_s=seconds + PATIENCE_S))
    finally:
        sandbox.end(server)
