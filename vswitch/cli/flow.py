# SPDX-License-Identifier: Apache-2.0
"""`vswitch flow …`: connections through the gateways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from vswitch.cli.options import client_command, json_or_template
from vswitch.cli.output import emit_json, emit_table
from vswitch.cli.tables import filters
from vswitch.control.api.client import Client

TARGET = "HOST SIDE"  # whose address the host sees or reaches, where it is not the one outside
HEADINGS = (
    "ID", "NETWORK", "CONTAINER", "PROTOCOL", "DIR", "STATE", "INSIDE", "OUTSIDE", TARGET, "OUT BYTES", "IN BYTES",
    "AGE", "IDLE",
)  # fmt: skip
SPARE = ("IDLE", "NETWORK", TARGET, "AGE", "ID", "DIR", "IN BYTES", "OUT BYTES", "PROTOCOL")
PORTS = ("sport", "dport")
CHOICES = {"protocol": ("tcp", "udp", "icmp", "icmpv6"), "direction": ("out", "in")}
WORDS = ("container", "network", "protocol", "direction", "state", "inside", "outside", "src", "dst", *PORTS, "id")


@click.group("flow")
def flow_command() -> None:
    """List and end connections to and from the outside.

    \b
    FILTER is one or more of these, and a flow must fit them all:
      container=web  network=blue  protocol=tcp  direction=out|in  state=established  id=17.3
      inside=10.5.0.2  outside=192.0.2.0/24     the container's address, the other party's
      src=A  dst=A  sport=N  dport=N            of the flow's first packet
    """


@client_command("ls")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@filters
@json_or_template("--format", field="id")
def ls(client: Client, words: tuple[str, ...], network: str | None, container: str | None, as_json: bool) -> None:
    """List flows, the oldest first."""
    rows = client.get("/v1/flows", **_filter(words, network, container))
    if as_json:
        return emit_json(rows)
    columns = [heading for heading in HEADINGS if heading != TARGET or any(row["target"] for row in rows)]
    shown = [dict(zip(HEADINGS, _row(row), strict=True)) for row in rows]
    emit_table(columns, ([row[heading] for heading in columns] for row in shown), [h for h in SPARE if h in columns])
    return None


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    echo = row["protocol"] in ("icmp", "icmpv6")
    return (
        *(row[name] for name in ("id", "network", "container", "protocol", "direction", "state")),
        row["inside"] if echo else _end(row["inside"], row["inside_port"]),
        row["outside"] if echo else _end(row["outside"], row["outside_port"]),
        row["target"],
        row["out_bytes"],
        row["in_bytes"],
        f"{row['age']:.0f} s",
        f"{row['idle']:.0f} s",
    )


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@client_command("kill")
@click.argument("words", nargs=-1, metavar="FILTER...")
@click.option("--all", "everything", is_flag=True, help="Every flow of the switch.")
def kill(client: Client, words: tuple[str, ...], everything: bool) -> None:
    """End flows at once; prints how many."""
    if not words and not everything:
        raise click.UsageError("say which flows, such as container=web or dport=443, or --all")
    if words and everything:
        raise click.UsageError("--all leaves nothing to choose: give a FILTER or --all")
    body: dict[str, Any] = {**_filter(words, None, None), "all": everything}
    print(client.post("/v1/flows/kill", body)["flows"])


def _filter(words: Iterable[str], network: str | None, container: str | None) -> dict[str, Any]:
    """The query that the words describe; --network and --container count as words."""
    query: dict[str, Any] = {name: value for name, value in (("network", network), ("container", container)) if value}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in WORDS or not equals or not value:
            raise click.UsageError(f"filter {word!r} should be WORD=VALUE; the words are {', '.join(WORDS)}")
        if name in query:
            raise click.UsageError(f"filter {word!r}: {name} is given twice")
        if name in CHOICES and value not in CHOICES[name]:
            raise click.UsageError(f"filter {word!r}: {name} is one of {', '.join(CHOICES[name])}")
        query[name] = _number(word, value) if name in PORTS else value
    return query


def _number(word: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 5:
        raise click.UsageError(f"filter {word!r}: a port is a number")
    return int(value)


for _command in (ls, kill):
    flow_command.add_command(_command)
