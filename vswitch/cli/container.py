# SPDX-License-Identifier: Apache-2.0
"""`vswitch ps`, `inspect`, `stop`, `rm`, `logs`: containers that are there already."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import click

from vswitch.cli.each import each, each_named
from vswitch.cli.options import as_json, client_command, json_or_template, refuse_both
from vswitch.cli.output import ago, emit_json, emit_table, short
from vswitch.cli.port import compact
from vswitch.control.api.client import Client, ClientError, segment

SPARE = ("CREATED", "COMMAND", "NETWORKS", "CONTAINER ID", "PORTS")  # what a narrow terminal goes without
COMMAND_WIDTH = 24
STOP_TIMEOUT_S = 10.0


@client_command("ps")
@click.option("-a", "--all", "everything", is_flag=True, help="Stopped ones too.")
@as_json
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
def ps_command(client: Client, everything: bool, as_json: bool, quiet: bool) -> None:
    """List containers."""
    refuse_both(as_json, quiet)
    containers = client.get("/v1/containers", all=1 if everything else None)
    if as_json:
        emit_json(containers)
    elif quiet:
        for container in containers:
            print(short(container["id"]))
    else:
        headings = ("CONTAINER ID", "COMMAND", "CREATED", "STATUS", "NETWORKS", "ADDRESSES", "PORTS", "NAME")
        emit_table(headings, map(_row, containers), SPARE)
        _say_remedies(containers)
        for warning in dict.fromkeys(w for container in containers for w in container["warnings"]):
            print(f"vswitch: {warning}", file=sys.stderr)


def _row(container: dict[str, Any]) -> tuple[Any, ...]:
    networks = container["networks"]
    addresses = [address.partition("/")[0] for n in networks for address in (n["ipv4"], n["ipv6"]) if address]
    return (
        short(container["id"]),
        _what_runs(container),
        ago(container["created"]),
        _status(container),
        [n["name"] for n in networks] or _without_network(container["network_mode"]),
        addresses,
        compact(container["ports"]),
        container["name"],
    )


def _without_network(mode: str) -> list[str]:
    """What it has instead; nothing, if it left its networks."""
    return [] if mode == "bridge" else [mode]


def _what_runs(container: dict[str, Any]) -> str:
    """The command in quotes, as Docker shows it; for a namespace of others its pid or path."""
    if container["command"]:
        text = " ".join(container["command"])
        return f'"{text[: COMMAND_WIDTH - 1]}…"' if len(text) > COMMAND_WIDTH else f'"{text}"'
    return f"pid {container['pid']}" if container["pid"] else container["netns"] or "-"


def _status(container: dict[str, Any]) -> str:
    if container["state"] == "exited" and container["exit_code"] is not None:
        return f"exited ({container['exit_code']})"
    return container["state"]


def _say_remedies(containers: list[dict[str, Any]]) -> None:
    for container in containers:
        if container["remedy"]:
            print(
                f"vswitch: {container['name']} is {container['state']}: {container['remedy']}",
                file=sys.stderr,
            )


@client_command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@json_or_template("-f", "--format")
def inspect_command(client: Client, names: tuple[str, ...], as_json: bool) -> int:
    """Show containers in full, as a JSON list.

    A TEMPLATE has {{.FIELD}}, {{.LIST.0.FIELD}} and {{json .FIELD}}; Docker's {{.State.Pid}} and the like are
    understood.
    """
    containers, status = each(names, lambda name: client.get(f"/v1/containers/{segment(name)}"))
    emit_json(containers)
    return status


class Seconds(click.FloatRange):
    """A number of seconds; NaN, which is in every range, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not self.min <= seconds <= self.max:
            self.fail(f"{value!r} is no number of seconds from {self.min} to {self.max}", param, ctx)
        return seconds


def timeout_option(function: Callable) -> Callable:
    return click.option(
        "-t",
        "--time",
        "--timeout",
        "timeout_s",
        type=Seconds(0, 3600),
        default=STOP_TIMEOUT_S,
        show_default=True,
        metavar="S",
        help="Seconds between SIGTERM and SIGKILL.",
    )(function)


@client_command("stop")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@timeout_option
def stop_command(client: Client, names: tuple[str, ...], timeout_s: float) -> int:
    """Stop containers; they keep names and addresses until removed."""
    return each_named(names, lambda name: stop_container(client, name, timeout_s))


def stop_container(client: Client, name: str, timeout_s: float, *, running: bool = False) -> None:
    """Returns when it has ended; with `running`, one that has ended already is refused."""
    target = f"/v1/containers/{segment(name)}"
    if running and (state := client.get(target)["state"]) == "exited":
        raise ClientError(f"container {name} is not running: it is {state} already")
    client.request("POST", f"{target}/stop", {"timeout": timeout_s}, {}, wait_s=timeout_s)


@client_command("rm")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-f", "--force", is_flag=True, help="Running ones too.")
def rm_command(client: Client, names: tuple[str, ...], force: bool) -> int:
    """Remove containers; names and addresses become free."""
    query = {"force": 1 if force else None}
    return each_named(names, lambda name: client.delete(f"/v1/containers/{segment(name)}", **query))


@client_command("logs")
@click.argument("name", metavar="CONTAINER")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends.")
@click.option("-n", "--tail", default="all", metavar="N", help="Only the last N lines of what there is.")
@click.option("--since", "--until", metavar="T", hidden=True, help="Refused: the log has no times.")
def logs_command(client: Client, name: str, follow: bool, tail: str, since: str | None) -> None:
    """What a detached container wrote."""
    if since is not None:
        raise click.UsageError("the log has no times, so there is no --since or --until: try --tail")
    if tail != "all" and not (tail.isascii() and tail.isdigit() and len(tail) < 10):
        raise click.UsageError(f"--tail {tail!r} is no number of lines")
    query = {"follow": 1 if follow else None, "tail": None if tail == "all" else tail}
    for piece in client.stream("GET", f"/v1/containers/{segment(name)}/logs", **query):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
