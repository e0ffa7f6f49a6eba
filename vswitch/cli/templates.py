# SPDX-License-Identifier: Apache-2.0
"""`inspect -f TEMPLATE`, and --format of every listing: texts with `{{.field}}` in them, filled from a document. Pure.

    {{.name}}  {{.networks.0.ipv4}}     a field, an element of a list by its number
    {{json .ports}}  {{json .}}         the same as JSON
    {{.State.Pid}} and other words of Docker's `inspect` stand for ours (DOCKER), and so does
    {{.NetworkSettings.Networks.blue.IPAddress}}

Fields are found whatever their case and underscores: {{.ExitCode}} is exit_code. This is no more of Go's templates than
scripts use; for anything else there is the JSON itself.
"""

from __future__ import annotations

import json
import re
from typing import Any

from vswitch.control.api.client import ClientError

PIECE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
EXPRESSION = re.compile(r"(json\s+)?\.(\S*)")
ON_A_NETWORK = re.compile(r"networksettings\.networks\.(.+)\.([^.]+)", re.IGNORECASE)
OF_A_NETWORK = {
    "ipaddress": "ipv4",
    "globalipv6address": "ipv6",
    "macaddress": "mac",
    "gateway": "gateway",
    "ipv6gateway": "gateway6",
    "aliases": "aliases",
}
ESCAPES = {r"\n": "\n", r"\t": "\t"}
DOCKERS_ADDRESSES = (".ipaddress", ".globalipv6address")  # without the prefix length that ours have
RUNNING = ("running", "orphaned")  # states in which {{.State.Running}} is true: its program runs
DOCKER = {
    "names": "name",
    "status": "state",
    "state.pid": "pid",
    "state.status": "state",
    "state.exitcode": "exit_code",
    "config.hostname": "hostname",
    "config.cmd": "command",
    "config.labels": "labels",
    "hostconfig.networkmode": "network_mode",
    "networksettings.networks": "networks",
    "networksettings.ports": "ports",
    "networksettings.ipaddress": "networks.0.ipv4",
    "networksettings.macaddress": "networks.0.mac",
    "networksettings.gateway": "networks.0.gateway",
    "networksettings.sandboxkey": "netns",
}


def rendered(template: str, document: dict[str, Any]) -> str:
    """`template` with its fields filled in. ClientError for a field that is not there."""
    return PIECE.sub(lambda piece: _filled(piece[1].strip(), document), checked(template))


def checked(template: str) -> str:
    """`template` with its escapes resolved. ClientError if it is none, whatever the fields are."""
    for escape, character in ESCAPES.items():
        template = template.replace(escape, character)
    if template.startswith("table "):
        raise ClientError("--format 'table …' is not understood: a template is a line of each, such as '{{.name}}'")
    if "{{" in PIECE.sub("", template):
        raise ClientError(f"{template[:80]!r} has a {{{{ without its }}}}: write {{{{.FIELD}}}}")
    for piece in PIECE.finditer(template):
        _expression(piece[1].strip())
    return template


def _expression(text: str) -> tuple[bool, str]:
    """Whether it is wanted as JSON, and the path."""
    match = EXPRESSION.fullmatch(text)
    if match is None:
        raise ClientError(
            f"{{{{{text}}}}} is not understood: {{{{.FIELD}}}}, {{{{.LIST.0.FIELD}}}} or {{{{json .FIELD}}}}"
        )
    return match[1] is not None, match[2]


def _filled(expression: str, document: dict[str, Any]) -> str:
    as_json, path = _expression(expression)
    if path.lower() == "state.running" and isinstance(document, dict) and "state" in document:
        value = document["state"] in RUNNING
    else:
        value = _at(document, _ours(document, path))
    if path.lower().endswith(DOCKERS_ADDRESSES) and value:
        value = value.partition("/")[0]
    if as_json or isinstance(value, (dict, list, bool)):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def _ours(document: Any, path: str) -> str:
    """Our path for Docker's, or the same again."""
    if (match := ON_A_NETWORK.fullmatch(path)) and isinstance(document, dict) and match[2].lower() in OF_A_NETWORK:
        names = [endpoint.get("name", "") for endpoint in document.get("networks", [])]
        if match[1] not in names:
            raise ClientError(f"{{{{.{path}}}}}: it is on {', '.join(names) or 'no network'}, not on {match[1]}")
        return f"networks.{names.index(match[1])}.{OF_A_NETWORK[match[2].lower()]}"
    return DOCKER.get(path.lower(), path)


def _at(document: Any, path: str) -> Any:
    """What stands at a dotted path."""
    value = document
    for word in filter(None, path.split(".")):
        if isinstance(value, list) and word.isdecimal():
            if int(word) >= len(value):
                raise ClientError(f"{{{{.{path}}}}}: there are only {len(value)}")
            value = value[int(word)]
            continue
        names = {_plain(name): name for name in value} if isinstance(value, dict) else {}
        if word not in names.values() and _plain(word) not in names:
            known = f": there is {', '.join(value)}" if isinstance(value, dict) else ""
            raise ClientError(f"{{{{.{path}}}}}: no field {word}{known}")
        value = value[word if word in value else names[_plain(word)]]
    return value


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
