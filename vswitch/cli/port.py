# SPDX-License-Identifier: Apache-2.0
"""`vswitch port …`: ports of containers that the host's network reaches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from vswitch.cli.options import client_command, json_or_template
from vswitch.cli.output import emit_json, emit_table
from vswitch.cli.tables import container_words, filters
from vswitch.control.api.client import Client, ClientError, segment


class PortCommands(click.Group):
    """`vswitch port web` is `vswitch port ls web`, as in Docker; `vswitch port web 80` shows one port's."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["ls", *args]
        return super().resolve_command(ctx, args)


@click.group("port", cls=PortCommands)
def port_command() -> None:
    """List, add and remove published ports.

    \b
    PUBLISH is [[HOST_IP:]HOST_PORT:]CONTAINER_PORT[/tcp|udp|tcp+udp]:
      8080:80  127.0.0.1:8080:80  [::1]:8080:80  53:53/udp  80 (a free port is chosen)
      8000-8010:80-90 (each to its own)  8000-8010:80 (the first that is free)
    """


@client_command("ls")
@container_words
@click.argument("inner", required=False, metavar="[PORT[/tcp|udp]]")
@filters
@json_or_template("--format", field="container")
def ls(client: Client, inner: str | None, network: str | None, container: str | None, as_json: bool) -> None:
    """List published ports; with PORT, those that lead to this one of the container's."""
    rows = client.get("/v1/ports", network=network, container=container)
    if inner is not None:
        rows = _leading_to(inner, rows)
    if as_json:
        return emit_json(rows)
    owners: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        owners.setdefault((row["container"], row["network"]), []).append(row)
    lines = [(*owner, *text.split("->")) for owner, ports in owners.items() for text in compact(ports)]
    emit_table(("CONTAINER", "NETWORK", "HOST", "CONTAINER PORT"), lines)
    return None


def _leading_to(inner: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    number, _, protocol = inner.partition("/")
    if not number.isascii() or not number.isdecimal() or protocol not in ("", "tcp", "udp"):
        raise click.UsageError(f"{inner!r} is no port of a container: write it like 80 or 53/udp")
    found = [row for row in rows if row["container_port"] == int(number) and protocol in ("", row["protocol"])]
    if not found:
        raise ClientError(f"port {inner} is not published: `vswitch port ls` shows what is")
    return found


@client_command("add")
@click.argument("container")
@click.argument("publish", metavar="PUBLISH")
def add(client: Client, container: str, publish: str) -> None:
    """Publish more of a running container's ports; prints where."""
    for text in compact(client.post(f"/v1/containers/{segment(container)}/ports", {"publish": publish})):
        print(text)


@client_command("rm")
@click.argument("container")
@click.argument("publish", metavar="PUBLISH")
def rm(client: Client, container: str, publish: str) -> None:
    """Publish it no more; prints what was published so.

    What PUBLISH leaves out of the host's side matches anything.
    """
    before = client.get("/v1/ports", container=container)
    client.delete(f"/v1/containers/{segment(container)}/ports", publish=publish)
    after = client.get("/v1/ports", container=container)
    for text in compact(port for port in before if port not in after):
        print(text)


def compact(ports: Iterable[dict[str, Any]]) -> list[str]:
    """`127.0.0.1:8000-8010->80-90/tcp`: ports that follow each other as one range; `*` is every address."""
    ranges: list[list[Any]] = []  # address, protocol, first host port, first container port, count
    ordered = sorted(ports, key=lambda p: (p["host_ip"] or "", p["protocol"], p["host_port"], p["container_port"]))
    for port in ordered:
        before = ranges[-1] if ranges else None
        kind = [port["host_ip"], port["protocol"]]
        here = [port["host_port"], port["container_port"]]
        if before and before[:2] == kind and [before[2] + before[4], before[3] + before[4]] == here:
            before[4] += 1
        else:
            ranges.append([*kind, *here, 1])
    return [_text(*words) for words in ranges]


def _text(address: str | None, protocol: str, host: int, container: int, count: int) -> str:
    shown = "*" if address is None else f"[{address}]" if ":" in address else address
    return f"{shown}:{_ports(host, count)}->{_ports(container, count)}/{protocol}"


def _ports(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


for _command in (ls, add, rm):
    port_command.add_command(_command)
