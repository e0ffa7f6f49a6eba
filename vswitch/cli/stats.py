# SPDX-License-Identifier: Apache-2.0
"""`vswitch stats` and `vswitch drops`: what crossed each port, and what died there and why."""

from __future__ import annotations

from typing import Any

from vswitch.cli.options import client_command, json_or_template
from vswitch.cli.output import emit_json, emit_table
from vswitch.cli.tables import container_words, filters
from vswitch.control.api.client import Client

NEARLY = 0.95
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@client_command("stats")
@container_words
@filters
@json_or_template("--format", field="uptime")
def stats_command(client: Client, network: str | None, container: str | None, as_json: bool) -> None:
    """Counters of every port, totals, table sizes, memory.

    rx is into the switch. Totals are those of the ports shown; drops are the networks' own, those at ports that
    have left included.
    """
    stats = client.get("/v1/stats", network=network, container=container)
    if as_json:
        return emit_json(stats)
    emit_table(
        ("NETWORK", "CONTAINER", "INTERFACE", "RX FRAMES", "RX", "TX FRAMES", "TX", "DROPS"),
        map(_row, stats["ports"]),
        ("INTERFACE", "RX FRAMES", "TX FRAMES"),
    )
    print()
    emit_table(
        ("TABLE", "SIZE", "CAPACITY"),
        ((name, t["size"], t["capacity"]) for name, t in stats["tables"].items()),
    )
    print()
    print(_totals(stats))
    print(_dropped(stats["drops"]))
    for line in _nearly_full(stats["tables"]):
        print(line)
    memory = size(stats["resident_memory"])
    print(f"up {stats['uptime']:.0f} s, {memory} resident, {stats['wakeups']} wake-ups")
    return None


def _totals(stats: dict[str, Any]) -> str:
    """What crossed the ports above: `total: rx 12 frames, 1.5 KiB; tx 10 frames, 1.2 KiB`."""
    total = stats["totals"]
    directions = (f"{d} {total[f'{d}_frames']} frames, {size(total[f'{d}_wire_bytes'])}" for d in ("rx", "tx"))
    return f"total: {'; '.join(directions)}"


def _dropped(drops: dict[str, int]) -> str:
    """`dropped: 4 frames (mac_spoof 3, runt 1; vswitch drops explains them)`"""
    if not drops:
        return "dropped: none"
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items(), key=lambda pair: -pair[1]))
    return f"dropped: {sum(drops.values())} frames ({reasons}; `vswitch drops` explains them)"


def _nearly_full(tables: dict[str, Any]) -> list[str]:
    """A line for each table that takes no more, or soon won't."""
    tight = [(n, t) for n, t in tables.items() if t["capacity"] and t["size"] >= NEARLY * t["capacity"]]
    return [f"{n.replace('_', ' ')}: {'full' if t['size'] >= t['capacity'] else 'nearly full'}" for n, t in tight]


def _row(port: dict[str, Any]) -> tuple[Any, ...]:
    return (
        port["network"],
        port["container"],
        port["interface"],
        port["rx_frames"],
        size(port["rx_wire_bytes"]),
        port["tx_frames"],
        size(port["tx_wire_bytes"]),
        sum(port["drops"].values()),
    )


def size(count: int) -> str:
    """`count` bytes in the unit that leaves one to four digits."""
    value = float(count)
    for unit in UNITS:
        if value < 1024 or unit == UNITS[-1]:
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


@client_command("drops")
@container_words
@filters
@json_or_template("--format", field="reason")
def drops_command(client: Client, network: str | None, container: str | None, as_json: bool) -> None:
    """Frames that died, by port and reason.

    What died at ports that have left is shown as (departed).
    """
    rows = client.get("/v1/drops", network=network, container=container)
    if as_json:
        return emit_json(rows)
    headings = ("NETWORK", "CONTAINER", "INTERFACE", "REASON", "COUNT", "EXPLANATION")
    emit_table(headings, map(_drop_row, rows), ("INTERFACE",))
    return None


def _drop_row(row: dict[str, Any]) -> tuple[Any, ...]:
    container = "(departed)" if row["container"] is None else row["container"]
    return row["network"], container, row["interface"], row["reason"], row["count"], row["explanation"]
