# SPDX-License-Identifier: Apache-2.0
"""`vswitch events`: what happens in the switch, as it happens."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from vswitch.cli.options import client_command, json_or_template
from vswitch.cli.output import TEMPLATE, emit_json, printable, short
from vswitch.control.api.client import Client

UNSAID = {"id": None, "name": None, "attributes": {}}  # left out of an event that has none


@client_command("events")
@json_or_template("--format", field="action", documents="One JSON document per line.")
@click.option("--flows", is_flag=True, help="Each connection through a gateway too, as it opens and closes.")
def events_command(client: Client, as_json: bool, flows: bool) -> None:
    """Show events until ctrl-C."""
    wanted = {"flows": "true"} if flows else {}
    templated = click.get_current_context().meta.get(TEMPLATE) is not None
    for event in client.lines("GET", "/v1/events", **wanted):
        if templated:
            emit_json({**UNSAID, **event})
        else:
            print(json.dumps(event, ensure_ascii=False) if as_json else _line(event))
        sys.stdout.flush()


def _line(event: dict[str, Any]) -> str:
    """`2026-01-02T03:04:05Z container running 0123456789ab web (network=blue)`"""
    words = [
        event["time"],
        event["type"],
        event["action"],
        short(event.get("id") or ""),
        event.get("name") or "",
    ]
    attributes = ", ".join(f"{name}={value}" for name, value in (event.get("attributes") or {}).items())
    return printable(" ".join(word for word in [*words, f"({attributes})" if attributes else ""] if word))
