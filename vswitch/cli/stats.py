# SPDX-License-Identifier: Apache-2.0
"""`vswitch stats` and `vswitch drops`: what crossed each port, and what died there and why."""

from __future__ import annotations

from typing import Any

from vswitch.cli.options import as_json, client_command
from vswitch.cli.output import emit_json, emit_table
from vswitch.cli.tables import filters
from vswitch.control.api.client import Client

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@client_command("stats")
@filters
@as_json
def stats_command(client: Client, network: str | None, container: str | None, as_json: bool) -> None:
    """Counters of every port (rx is into the switch), totals, table sizes, memory."""
    stats = client.get("/v1/stats", network=network, container=container)
    if as_json:
        return emit_json(stats)
    emit_table(
        ("NETWORK", "CONTAINER", "INTERFACE", "RX FRAMES", "RX", "TX FRAMES", "TX", "DROPS"),
        map(_row, stats["ports"]),
    )
    print()
    emit_table(
        ("TABLE", "SIZE", "CAPACITY"),
        ((name, t["size"], t["capacity"]) for name, t in stats["tables"].items()),
    )
    memory = size(stats["resident_memory"])
    print(f"\nup {stats['uptime']:.0f} s, {memory} resident, {stats['wakeups']} wake-ups")
    return None


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
@filters
@as_json
def drops_command(client: Client, network: str | None, container: str | None, as_json: bool) -> None:
    """Frames that died, by port and reason."""
    rows = client.get("/v1/drops", network=network, container=container)
    if as_json:
        return emit_json(rows)
    columns = ("network", "container", "interface", "reason", "count")
    emit_table([name.upper() for name in columns], ([row[name] for name in columns] for row in rows))
    return None
