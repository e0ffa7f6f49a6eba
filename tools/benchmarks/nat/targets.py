# SPDX-License-Identifier: Apache-2.0
"""What vswitch's way out must reach: ratios to the raw NAT loop and to the best of its peers, of the same run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.nat.columns import COLUMNS, Row
from benchmarks.targets import KIB, Verdict, ratio

BULK_KEYS = ("tcp_out_1", "tcp_out_4", "tcp_in_1", "tcp_in_4")
OF_LOOP = {**dict.fromkeys(BULK_KEYS, 0.80), "published": 0.75}
OF_LOOP_WITHOUT_PEEK_OFF = 0.65  # stock kernels before 6.9
OF_PEERS_AT_1500 = 8.0
OF_PEERS_AT_ANY_MTU = 1.0
OF_PASTA_PACKETS = 1.5
OF_PEERS_CONNECTS = 1.5
OF_PEERS_ROUND_TRIP = 1.0
BYTES_PER_FLOW = KIB
PACKET_KEYS = ("udp_out_64", "udp_in_64", "udp_out_1400", "udp_in_1400")
PASTA, PEERS = ("pasta",), ("pasta", "slirp4netns")


def peers(rows: Iterable[Row], names: Sequence[str], mtu: int | None = None) -> list[Row]:
    """The measured rows of those programs, of one MTU or of any."""
    return [
        row
        for row in rows
        if not row.trouble and row.subject.name.startswith(tuple(names)) and (mtu is None or row.subject.mtu == mtu)
    ]


def best(rows: Iterable[Row], keys: Iterable[str], *, least: bool = False) -> float | None:
    """The best median of any of the rows in any of the columns; None where there is none."""
    keys = tuple(keys)
    found = [median for row in rows for key in keys if (median := row.median(key)) is not None]
    return (min if least else max)(found, default=None)


def words_of(key: str) -> str:
    """A column in a verdict's line."""
    head = COLUMNS[key][0]
    return f"UDP {head}" if key in PACKET_KEYS else f"TCP {head}" if key in BULK_KEYS else head


def same_direction(key: str) -> list[str]:
    """tcp_out_1 → the columns of both stream counts outwards."""
    return [other for other in BULK_KEYS if other.rpartition("_")[0] == key.rpartition("_")[0]]


def against_loop(own: Row, loop: Row | None, bounds: dict[str, float]) -> list[Verdict]:
    """Bulk TCP as shares of what one thread of plain C does."""
    return [
        Verdict(f"{words_of(key)} / loop", ratio(own.median(key), loop and loop.median(key)), bound, True)
        for key, bound in bounds.items()
    ]


def against_peers(own: Row, rows: Sequence[Row]) -> list[Verdict]:
    """Ratios to the best of pasta and slirp4netns, whichever that is in a column."""
    at_1500, at_any = peers(rows, PEERS, 1500), peers(rows, PEERS)
    lines = []
    for key in BULK_KEYS:
        small, large = best(at_1500, [key]), best(at_any, same_direction(key))
        lines += [
            Verdict(f"{words_of(key)} / peers at MTU 1500", ratio(own.median(key), small), OF_PEERS_AT_1500, True),
            Verdict(f"{words_of(key)} / peers at any MTU", ratio(own.median(key), large), OF_PEERS_AT_ANY_MTU, True),
        ]
    for key in PACKET_KEYS:
        pasta = best(peers(rows, PASTA), [key])
        lines.append(Verdict(f"{words_of(key)} / pasta", ratio(own.median(key), pasta), OF_PASTA_PACKETS, True))
    quickest = best(at_any, ["p50"], least=True)
    return [
        *lines,
        Verdict("RTT p50 / peers", ratio(own.median("p50"), quickest), OF_PEERS_ROUND_TRIP, False),
        Verdict("connects / peers", ratio(own.median("connects"), best(at_any, ["connects"])), OF_PEERS_CONNECTS, True),
    ]


def verdicts(own: Row, rows: Sequence[Row], loop: Row | None) -> list[Verdict]:
    """All that the table can say about vswitch with every feature."""
    per_flow = own.median("tcp_flow")
    return [
        *against_loop(own, loop, OF_LOOP),
        *against_peers(own, rows),
        Verdict("memory per idle TCP flow", per_flow and per_flow / KIB, BYTES_PER_FLOW / KIB, False, " KiB"),
    ]


def verdicts_without_peek_off(less: Row, loop: Row | None) -> list[Verdict]:
    """The bound of a vswitch on a kernel that cannot peek at an offset."""
    return against_loop(less, loop, dict.fromkeys(OF_LOOP, OF_LOOP_WITHOUT_PEEK_OFF))
