# SPDX-License-Identifier: Apache-2.0
"""`vswitch fdb`, `neigh`, `lease`: what the switch has learned, answers for, and has given out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from vswitch.cli.options import client_command, json_or_template
from vswitch.cli.output import emit_json, emit_table, until
from vswitch.control.api.client import Client


def filters(function: Callable) -> Callable:
    """--network and --container: one kind of row only."""
    function = click.option("--container", metavar="C", help="Only this container's.")(function)
    return click.option("--network", metavar="N", help="Only this network's.")(function)


def container_words(function: Callable) -> Callable:
    """`stats web` for `stats --container web`."""

    @functools.wraps(function)
    def invoke(*arguments: Any, named: str | None, container: str | None, **words: Any) -> Any:
        if named is not None and container is not None:
            raise click.UsageError(f"{named} and --container {container}: one of them is enough")
        return function(*arguments, container=container or named, **words)

    return click.argument("named", required=False, metavar="[CONTAINER]")(invoke)


@client_command("fdb")
@filters
@json_or_template("--format", field="mac")
def fdb_command(client: Client, network: str | None, container: str | None, as_json: bool) -> None:
    """Which MAC address is behind which port."""
    rows = client.get("/v1/fdb", network=network, container=container)
    if as_json:
        return emit_json(rows)
    headings = ("NETWORK", "MAC", "PORT", "CONTAINER", "INTERFACE", "KIND", "AGE")
    emit_table(headings, map(_fdb_row, rows), ("PORT", "INTERFACE", "AGE"))
    return None


def _fdb_row(row: dict[str, Any]) -> tuple[Any, ...]:
    age = None if row["age"] is None else f"{row['age']:.0f} s"
    return row["network"], row["mac"], row["port"], row["container"], row["interface"], row["kind"], age


@client_command("neigh")
@filters
@json_or_template("--format", field="address")
def neigh_command(client: Client, network: str | None, container: str | None, as_json: bool) -> None:
    """Which address belongs to which MAC.

    What the switch answers ARP and neighbour discovery for.
    """
    rows = client.get("/v1/neighbours", network=network, container=container)
    if as_json:
        return emit_json(rows)
    columns = ("network", "address", "mac", "container", "interface", "kind")
    cells = ([row[name] for name in columns] for row in rows)
    emit_table([name.upper() for name in columns], cells, ("INTERFACE", "KIND"))
    return None


@client_command("lease")
@filters
@json_or_template("--format", field="address")
def lease_command(client: Client, network: str | None, container: str | None, as_json: bool) -> None:
    """Addresses that were asked for over DHCP."""
    rows = client.get("/v1/leases", network=network, container=container)
    if as_json:
        return emit_json(rows)
    emit_table(
        ("NETWORK", "ADDRESS", "MAC", "CLIENT ID", "HOSTNAME", "CONTAINER", "STATE", "EXPIRES IN"),
        map(_lease_row, rows),
        ("CLIENT ID", "HOSTNAME", "NETWORK"),
    )
    return None


def _lease_row(row: dict[str, Any]) -> tuple[Any, ...]:
    fields = [
        row[name] for name in ("network", "address", "mac", "client_id", "hostname", "container", "state")
    ]
    return (*fields, until(row["expires"]))
