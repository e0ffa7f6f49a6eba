# SPDX-License-Identifier: Apache-2.0
"""`vswitch restart`, `kill`, `wait`: Docker's words for what `stop`, `start` and `events` do."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import click

from vswitch.cli.container import stop_container, timeout_option
from vswitch.cli.each import each, each_named
from vswitch.cli.options import client_command
from vswitch.cli.run import start_container
from vswitch.control.api.client import Client, ClientError, segment

LIVE = ("starting", "running", "orphaned", "removing")


@client_command("restart")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@timeout_option
def restart_command(client: Client, names: tuple[str, ...], timeout_s: float) -> int:
    """Stop containers and start them again.

    They keep their addresses.
    """

    def restart(name: str) -> int:
        stop_container(client, name, timeout_s)
        return start_container(client, name, lambda _: print(name))

    statuses, refused = each(names, restart)
    return refused or int(any(statuses))


class SignalName(click.ParamType):
    """KILL, SIGKILL or 9."""

    name = "signal"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """The signal's number."""
        text = str(value).upper()
        try:
            return signal.Signals(int(text)) if text.isdecimal() else signal.Signals[f"SIG{text.removeprefix('SIG')}"]
        except (ValueError, KeyError):
            return self.fail(
                f"{value!r} is no signal: give its name or number, as `kill -l` lists them", parameter, context
            )


@client_command("kill")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@click.option("-s", "--signal", "number", type=SignalName(), default="KILL", metavar="SIGNAL", help="Default: KILL.")
def kill_command(client: Client, names: tuple[str, ...], number: int) -> int:
    """Send containers' first processes a signal.

    One that is killed keeps its name and addresses, as after `stop`.
    """
    if number == signal.SIGKILL:
        return each_named(names, lambda name: stop_container(client, name, 0, running=True))
    return each_named(
        names, lambda name: client.post(f"/v1/containers/{segment(name)}/signal", {"signal": int(number)})
    )


@client_command("wait")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
def wait_command(client: Client, names: tuple[str, ...]) -> int:
    """Wait until containers have ended; prints their exit statuses."""
    events = _lines(client.stream("GET", "/v1/events"))  # from now on, so that no end is missed
    ended: dict[str, Any] = {}
    waiting, status = each(names, lambda name: _seen(client, name, ended))
    for identity in waiting:
        while identity not in ended:
            event = next(events, None)
            if event is None:
                raise ClientError("the switch ended before the container did")
            if event["type"] == "container" and event["action"] in ("exit", "remove"):
                ended.setdefault(event["id"], (event.get("attributes") or {}).get("exit_code"))
        print("-" if ended[identity] is None else ended[identity], flush=True)
    return status


def _seen(client: Client, name: str, ended: dict[str, Any]) -> str:
    """The container's id; what has ended is noted."""
    container = client.get(f"/v1/containers/{segment(name)}")
    if container["state"] not in LIVE:
        ended[container["id"]] = container["exit_code"]
    return container["id"]


def _lines(pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from map(json.loads, filter(None, whole))
