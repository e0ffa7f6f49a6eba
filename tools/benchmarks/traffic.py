# SPDX-License-Identifier: Apache-2.0
"""Bulk TCP from one container to another, by iperf3, as the receiver saw it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from benchmarks.process_cost import cpu_seconds
from benchmarks.sandbox import Failed, Process, Sandbox, last_line
from benchmarks.subjects.subject import Subject

PORT = 5201
INTERVAL_S = 0.2
STALL_S = 1.0
PATIENCE_S = 15.0  # beyond a run's own length: what hangs longer has stalled for good
LISTENING = "0A"  # the state as /proc/net/tcp writes it


class Stream(NamedTuple):
    """One run. `cpu_s_per_gib` is None for a switch without a process."""

    gbit_per_s: float
    cpu_s_per_gib: float | None
    stalled: bool


def listens(process: Process, l4_port: int) -> bool:
    """Whether the process's network namespace has a listener there; False where the process has ended."""
    try:
        rows = "".join(Path(f"/proc/{process.pid}/net/{table}").read_text() for table in ("tcp", "tcp6"))
    except OSError:
        return False
    return any(
        row.split()[1].endswith(f":{l4_port:04X}") and row.split()[3] == LISTENING
        for row in rows.splitlines()
        if ":" in row
    )


def longest_silence_s(report: dict) -> float:
    """The longest time without a byte, added up over neighbouring intervals of an iperf3 report."""
    longest = now = 0.0
    for interval in report.get("intervals", []):
        total = interval["sum"]
        now = now + total["seconds"] if total["bytes"] == 0 else 0.0
        longest = max(longest, now)
    return longest


def stream(
    sandbox: Sandbox,
    subject: Subject,
    seconds: float,
    streams: int = 1,
    *,
    sender: int = 1,
    receiver: int = 0,
    reverse: bool = False,
    l4_port: int = PORT,
) -> Stream:
    """iperf3 for that long between two containers (their positions). Failed if it doesn't get through.

    `reverse`: the sender still opens the connections, but the data goes the other way.
    """
    source, target = subject.containers[sender], subject.containers[receiver]
    server = sandbox.spawn(["iperf3", "-s", "-1", "-p", str(l4_port)], target.netns)
    try:
        server.until(lambda: listens(server, l4_port), 5, "iperf3 didn't listen")
        before_s = cpu_seconds(subject.processes())
        report = run_client(sandbox, source.netns, target.address, seconds, streams, reverse, l4_port)
        spent_s = cpu_seconds(subject.processes()) - before_s
    finally:
        sandbox.end(server)
    received = report["end"]["sum_received"]
    seen = report if reverse else report.get("server_output_json") or report
    per_gib = spent_s / (received["bytes"] / 2**30) if subject.processes() and received["bytes"] else None
    return Stream(received["bits_per_second"] / 1e9, per_gib, longest_silence_s(seen) >= STALL_S)


def run_client(
    sandbox: Sandbox,
    netns: str,
    address: str,
    seconds: float,
    streams: int,
    reverse: bool = False,
    l4_port: int = PORT,
) -> dict:
    """iperf3's JSON report, the server's intervals included."""
    argv = [
        "iperf3",
        "-c",
        address,
        "-p",
        str(l4_port),
        "-t",
        f"{seconds:g}",
        "-P",
        str(streams),
        "-i",
        str(INTERVAL_S),
        "--connect-timeout",
        "3000",
        "--get-server-output",
        "--json",
        *(["-R"] if reverse else []),
    ]
    client = sandbox.spawn(argv, netns)
    try:
        client.wait(seconds + PATIENCE_S)
    except Failed as failure:
        said = client.out.read_text()
        error = json.loads(said).get("error") if said.strip().startswith("{") else last_line(said)
        raise Failed(f"iperf3: {error}" if error else str(failure)) from None
    finally:
        sandbox.end(client)
    report = json.loads(client.out.read_text())
    if "error" in report:
        raise Failed(f"iperf3: {report['error']}")
    return report
