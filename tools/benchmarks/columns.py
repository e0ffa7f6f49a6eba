# SPDX-License-Identifier: Apache-2.0
"""The columns of the switch table: which samples each subject collects, and in which measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.packets import blast
from benchmarks.process_cost import Memory
from benchmarks.round_trip import round_trip
from benchmarks.rounds import say
from benchmarks.samples import Samples
from benchmarks.sandbox import Failed, Sandbox
from benchmarks.subjects.subject import Subject
from benchmarks.traffic import stream

LEAST_PACKET_ROUNDS = 9  # two identical loops differ by 6 % from run to run
FULL_ROUNDS = 5

# key → (head, unit, decimals, what it is)
COLUMNS = {
    "tcp_1": ("TCP ×1", "Gbit/s", 2, "bulk TCP, one stream, MTU 1500, as the receiver counted it (iperf3)"),
    "tcp_4": ("TCP ×4", "Gbit/s", 2, "the same with four streams"),
    "cpu_per_gib": (
        "CPU",
        "s/GiB",
        3,
        "CPU seconds of the switch's processes per GiB received, one stream; the kernel bridge "
        "has no process: its work is done in the senders' and receivers' context, so n/a",
    ),
    "packets": (
        "64-byte",
        "k/s",
        1,
        "UDP packets of 64 bytes (frame with check sequence) per second that reached the receiver's socket",
    ),
    "cpu_per_packet": (
        "CPU",
        "µs/pkt",
        2,
        "CPU time of the switch's processes in that run per packet it handed to the receiver",
    ),
    "p50": ("RTT p50", "µs", 1, "TCP round trip of 64 bytes, one at a time: median"),
    "p99": ("RTT p99", "µs", 1, "the same: 99th percentile"),
}
MEMORY = {
    "rss_few": (
        "RSS",
        "2 ports",
        "resident memory, MiB, of the switch's processes with 2 ports (those of a fresh instance)",
    ),
    "pss_few": ("PSS", "2 ports", "the same, pages shared between processes counted once"),
    "rss_many": ("RSS", "N ports", "resident memory with 500 ports, or as many as --many says"),
    "pss_many": ("PSS", "N ports", "the same, shared pages counted once"),
}
MANY_PORTS = ("rss_many", "pss_many")


@dataclass
class Row:
    """One subject's results. `trouble` says why it is not in the table, or what ended it early."""

    subject: Subject
    samples: dict[str, Samples] = field(default_factory=lambda: {key: Samples() for key in COLUMNS})
    few: Memory | None = None
    many: Memory | None = None
    ports_many: int = 0
    trouble: str | None = None

    def median(self, key: str) -> float | None:
        """Of one column."""
        return self.samples[key].median()

    def failed(self) -> bool:
        """Whether a column has no value at all because its runs failed."""
        return any(samples.failures and not samples.values for samples in self.samples.values())

    def memory_values(self) -> dict[str, int | None]:
        """Bytes by column."""
        return {
            "rss_few": self.few and self.few.rss,
            "pss_few": self.few and self.few.pss,
            "rss_many": self.many and self.many.rss,
            "pss_many": self.many and self.many.pss,
        }

    def bytes_per_port(self) -> float | None:
        """Growth per port between few and many, of PSS: a new worker of the helper shares nearly all that RSS shows."""
        if self.few is None or self.many is None:
            return None
        return (self.many.pss - self.few.pss) / (self.ports_many - 2)

    def as_json(self) -> dict:
        """For the JSON document."""
        return {
            "name": self.subject.name,
            "version": self.subject.version(),
            "trouble": self.trouble,
            "columns": {key: samples.as_json() for key, samples in self.samples.items()},
            "memory": {
                **self.memory_values(),
                "ports_many": self.ports_many or None,
                "pss_bytes_per_port": self.bytes_per_port(),
            },
        }


def guarded(row: Row, keys: tuple[str, ...], measure: Callable[[], None]) -> None:
    """A run that fails is noted in its columns, and the round goes on."""
    try:
        measure()
    except Failed as failure:
        say(f"  {row.subject.name}: {failure}")
        for key in keys:
            row.samples[key].failures.append(str(failure))


def measure_tcp(sandbox: Sandbox, seconds: float, streams: int) -> Callable[[Row], None]:
    """Fills tcp_1 and cpu_per_gib, or tcp_4."""
    key = f"tcp_{streams}"

    def measure(row: Row) -> None:
        run = stream(sandbox, row.subject, seconds, streams)
        row.samples[key].add(run.gbit_per_s, run.stalled)
        if streams == 1 and run.cpu_s_per_gib is not None:
            row.samples["cpu_per_gib"].add(run.cpu_s_per_gib)

    keys = (key, "cpu_per_gib") if streams == 1 else (key,)
    return lambda row: guarded(row, keys, lambda: measure(row))


def measure_packets(sandbox: Sandbox, seconds: float) -> Callable[[Row], None]:
    """Fills packets and cpu_per_packet."""

    def measure(row: Row) -> None:
        run = blast(sandbox, row.subject, seconds)
        row.samples["packets"].add(run.per_second / 1e3)
        if run.cpu_us_per_packet is not None:
            row.samples["cpu_per_packet"].add(run.cpu_us_per_packet)

    return lambda row: guarded(row, ("packets", "cpu_per_packet"), lambda: measure(row))


def measure_round_trip(sandbox: Sandbox, seconds: float) -> Callable[[Row], None]:
    """Fills p50 and p99."""

    def measure(row: Row) -> None:
        run = round_trip(sandbox, row.subject, seconds)
        row.samples["p50"].add(run.p50_us)
        row.samples["p99"].add(run.p99_us)

    return lambda row: guarded(row, ("p50", "p99"), lambda: measure(row))


def packet_rounds(rounds: int) -> int:
    """At least nine in a full run, no more than asked for in a short one."""
    return max(rounds, LEAST_PACKET_ROUNDS) if rounds >= FULL_ROUNDS else rounds


def measurements(
    sandbox: Sandbox, seconds: float, rounds: int
) -> list[tuple[str, int, Callable[[Row], None]]]:
    """In the order of a round."""
    return [
        ("TCP, one stream", rounds, measure_tcp(sandbox, seconds, 1)),
        ("TCP, four streams", rounds, measure_tcp(sandbox, seconds, 4)),
        ("64-byte packets", packet_rounds(rounds), measure_packets(sandbox, seconds)),
        ("round trips", rounds, measure_round_trip(sandbox, seconds)),
    ]
