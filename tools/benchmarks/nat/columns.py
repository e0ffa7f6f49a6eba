# SPDX-License-Identifier: Apache-2.0
"""The columns of the NAT tables: which samples each subject collects, and in which measurement."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from benchmarks.columns import guarded
from benchmarks.nat import flows
from benchmarks.nat.stage import PUBLISHED, Stage
from benchmarks.packets import PAYLOAD_BYTES, blast
from benchmarks.report import aligned, cell
from benchmarks.round_trip import round_trip
from benchmarks.samples import Samples
from benchmarks.sandbox import Sandbox
from benchmarks.sections.section import running
from benchmarks.traffic import stream

LARGE_PAYLOAD_BYTES = 1400
KINDS = ("tcp", "port", "udp", "rtt", "connects")
Measure = Callable[["Row"], None]

# key → (head, unit, decimals, what it is)
BULK = {
    "tcp_out_1": ("out ×1", "Gbit/s", 2, "bulk TCP from the container, one stream, as the receiver saw it (iperf3)"),
    "tcp_out_4": ("out ×4", "Gbit/s", 2, "the same with four streams"),
    "tcp_in_1": ("in ×1", "Gbit/s", 2, "bulk TCP to the container over a connection it opened (iperf3 -R)"),
    "tcp_in_4": ("in ×4", "Gbit/s", 2, "the same with four streams"),
    "published": ("port", "Gbit/s", 2, "bulk TCP to the container from a client of its published port, one stream"),
    "cpu_out": ("CPU out", "s/GiB", 3, "CPU seconds of the way out's processes per GiB, one stream out"),
    "cpu_in": ("CPU in", "s/GiB", 3, "the same, one stream in; n/a: the kernel works in others' context"),
}
SMALL = {
    "udp_out_64": ("64 B out", "k/s", 1, "UDP packets of 64 bytes (frame with check sequence) that a server received"),
    "udp_in_64": ("64 B in", "k/s", 1, "the same, received by a container that had asked for them"),
    "udp_out_1400": ("1400 B out", "k/s", 1, "datagrams of 1400 bytes"),
    "udp_in_1400": ("1400 B in", "k/s", 1, "the same inwards"),
    "p50": ("RTT p50", "µs", 1, "TCP round trip of 64 bytes, there and back: median"),
    "p99": ("RTT p99", "µs", 1, "the same: 99th percentile"),
    "connects": (
        "connects",
        "1/s",
        0,
        "connections opened, used for a byte each way, closed, one at a time; 16 addresses in turn, "
        "a fresh instance in fresh namespaces each time",
    ),
    "tcp_flow": ("TCP flow", "B", 0, "growth of the processes' PSS per idle TCP flow"),
    "udp_flow": ("UDP flow", "B", 0, "growth of the processes' PSS per UDP mapping"),
}
COLUMNS = BULK | SMALL


@dataclass
class Row:
    """One subject's results. `trouble` says why it is not in the table."""

    subject: Stage
    samples: dict[str, Samples] = field(default_factory=lambda: {key: Samples() for key in COLUMNS})
    trouble: str | None = None

    def median(self, key: str) -> float | None:
        """Of one column."""
        return self.samples[key].median()

    def failed(self) -> bool:
        """Whether a column has no value at all because its runs failed."""
        return any(samples.failures and not samples.values for samples in self.samples.values())

    def as_json(self) -> dict:
        """For the JSON document."""
        return {
            "name": self.subject.name,
            "version": self.subject.version(),
            "trouble": self.trouble,
            "columns": {key: samples.as_json() for key, samples in self.samples.items()},
        }


def tables(rows: list[Row]) -> list[str]:
    """Bulk TCP, then what is small; one line per subject each."""
    lines = []
    for columns in (BULK, SMALL):
        heads = [["", *(head for head, *_ in columns.values())], ["", *(unit for _, unit, *_ in columns.values())]]
        body = [
            [
                row.subject.name,
                *(
                    cell(row.samples[key], decimals, row.subject.has_processes)
                    for key, (_, _, decimals, _) in columns.items()
                ),
            ]
            for row in rows
        ]
        lines += ["", *aligned([*heads, *body])]
    return lines


def measure_tcp(sandbox: Sandbox, seconds: float, direction: str, streams: int) -> Measure:
    """Fills tcp_DIRECTION_STREAMS, with one stream cpu_DIRECTION too."""
    keys = [f"tcp_{direction}_{streams}", *([f"cpu_{direction}"] if streams == 1 else [])]

    def measure(row: Row) -> None:
        run = stream(sandbox, row.subject.outward(), seconds, streams, reverse=direction == "in")
        row.samples[keys[0]].add(run.gbit_per_s, run.stalled)
        if streams == 1 and run.cpu_s_per_gib is not None:
            row.samples[keys[1]].add(run.cpu_s_per_gib)

    return lambda row: guarded(row, keys, lambda: measure(row))


def measure_published(sandbox: Sandbox, seconds: float) -> Measure:
    """Fills published."""

    def measure(row: Row) -> None:
        run = stream(sandbox, row.subject.inward(), seconds, l4_port=PUBLISHED)
        row.samples["published"].add(run.gbit_per_s, run.stalled)

    return lambda row: guarded(row, ("published",), lambda: measure(row))


def measure_udp(sandbox: Sandbox, seconds: float, direction: str, payload_bytes: int) -> Measure:
    """Fills udp_DIRECTION_64 or udp_DIRECTION_1400."""
    key = f"udp_{direction}_{64 if payload_bytes == PAYLOAD_BYTES else payload_bytes}"

    def measure(row: Row) -> None:
        if direction == "in":
            per_second = flows.pull(sandbox, row.subject, seconds, payload_bytes)
        else:
            per_second = blast(sandbox, row.subject.outward(), seconds, payload_bytes).per_second
        row.samples[key].add(per_second / 1e3)

    return lambda row: guarded(row, (key,), lambda: measure(row))


def measure_round_trip(sandbox: Sandbox, seconds: float) -> Measure:
    """Fills p50 and p99."""

    def measure(row: Row) -> None:
        run = round_trip(sandbox, row.subject.outward(), seconds)
        row.samples["p50"].add(run.p50_us)
        row.samples["p99"].add(run.p99_us)

    return lambda row: guarded(row, ("p50", "p99"), lambda: measure(row))


def measure_connects(sandbox: Sandbox, seconds: float) -> Measure:
    """Fills connects, from an instance of its own."""

    def measure(row: Row) -> None:
        fresh = row.subject.fresh()
        with running(fresh), flows.echo_server(sandbox, fresh):
            row.samples["connects"].add(flows.connect_rate(sandbox, fresh, seconds).per_second)

    return lambda row: guarded(row, ("connects",), lambda: measure(row))


def measure_memory(sandbox: Sandbox, protocol: str, count: int) -> Measure:
    """Fills tcp_flow or udp_flow, from an instance of its own; nothing for what has no process."""
    key = f"{protocol}_flow"

    def measure(row: Row) -> None:
        fresh = row.subject.fresh()
        with running(fresh):
            row.samples[key].add(flows.bytes_per_flow(sandbox, fresh, protocol, count))

    return lambda row: guarded(row, (key,), lambda: measure(row)) if row.subject.has_processes else None


def measurements(
    sandbox: Sandbox, seconds: float, rounds: int, held: int, kinds: Collection[str] = KINDS
) -> list[tuple[str, int, Measure]]:
    """Those of the chosen kinds, in the order of a round. Memory is read once: it is no matter of speed."""
    every = [
        *(
            ("tcp", f"TCP {direction}, {streams} stream{'s' if streams > 1 else ''}",
             measure_tcp(sandbox, seconds, direction, streams))
            for direction in ("out", "in")
            for streams in (1, 4)
        ),
        ("port", "published port", measure_published(sandbox, seconds)),
        *(
            ("udp", f"UDP {direction}, {payload} bytes", measure_udp(sandbox, seconds, direction, payload))
            for payload in (PAYLOAD_BYTES, LARGE_PAYLOAD_BYTES)
            for direction in ("out", "in")
        ),
        ("rtt", "round trips", measure_round_trip(sandbox, seconds)),
        ("connects", "connections", measure_connects(sandbox, seconds)),
    ]  # fmt: skip
    once = [
        (f"memory of {held} {protocol} flows", 1, measure_memory(sandbox, protocol, held))
        for protocol in (("tcp", "udp") if held else ())
    ]
    return [*((name, rounds, measure) for kind, name, measure in every if kind in kinds), *once]
