# SPDX-License-Identifier: Apache-2.0
"""Words that several commands take, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import click

from vswitch.cli.output import TEMPLATE
from vswitch.control.api.client import Client

ATTACHMENT_KEYS = {
    "ip": "ip",
    "ip6": "ip6",
    "mac-address": "mac_address",
    "gw-priority": "gw_priority",
    "source-guard": "source_guard",
}
TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class Command(click.Command):
    """As click's own; what is wrong with its options is said to be wrong with this command's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as problem:
            problem.ctx = problem.ctx or ctx
            raise


def client_command(*names: Any, **settings: Any) -> Callable:
    """A command that talks to a switch: takes --socket and gets a `client` as its first argument."""

    def decorate(function: Callable) -> click.Command:
        def invoke(*arguments: Any, socket: str | None, **options: Any) -> Any:
            path = socket or click.get_current_context().obj
            return function(Client(path), *arguments, **options)

        invoke.__doc__ = function.__doc__
        invoke.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        settings.setdefault("cls", Command)
        with_socket = click.option(
            "--socket", metavar="PATH", help="The switch's socket (or VSWITCH_SOCKET)."
        )(invoke)
        return click.command(*names, **settings)(with_socket)

    return decorate


def json_or_template(*names: str, field: str = "name", documents: str = "One JSON document.") -> Callable:
    """--json, and Docker's --format under `names`: `json`, or a template that emit_json fills in for each row, such as
    one with `field`, which every row of this command has.
    """

    def decorate(function: Callable) -> Callable:
        template = click.option(
            *names,
            metavar="TEMPLATE",
            is_eager=True,
            expose_value=False,
            callback=_take_template,
            help=f"json, or a line of each, such as '{{{{.{field}}}}}'.",
        )
        plain = click.option("--json", "as_json", is_flag=True, callback=_or_template, help=documents)
        return plain(template(function))

    return decorate


as_json = json_or_template("--format")


def _take_template(context: click.Context, option: click.Parameter, template: str | None) -> None:
    if template is None:
        return
    if template != "json":
        from vswitch.cli.templates import checked

        checked(template)
    context.meta[TEMPLATE] = None if template == "json" else template


def _or_template(context: click.Context, option: click.Parameter, given: bool) -> bool:
    return given or TEMPLATE in context.meta


def refuse_both(as_json: bool, quiet: bool) -> None:
    if as_json and quiet:
        raise click.UsageError("--quiet shows ids only: leave it out, or --json and --format")


def repeated(*names: str, **settings: Any) -> Callable:
    """An option that may be given several times."""
    return click.option(*names, multiple=True, **settings)


def attachment_options(function: Callable) -> Callable:
    """What says which networks are joined, and how."""
    for option in reversed(
        (
            repeated(
                "--network",
                "--net",
                "networks",
                metavar="NET[,ip=A,ip6=A,mac-address=M,alias=N,gw-priority=N,source-guard=false…]",
                help="Join this network instead of the default one; repeatable.",
            ),
            click.option("--ip", metavar="ADDRESS", help="IPv4 address on the network."),
            click.option("--ip6", metavar="ADDRESS", help="IPv6 address on the network."),
            click.option("--mac-address", metavar="MAC", help="MAC address on the network."),
            repeated(
                "--alias",
                "--network-alias",
                "aliases",
                metavar="NAME",
                help="A further name on the network; repeatable.",
            ),
            click.option(
                "--source-guard/--no-source-guard",
                "source_guard",
                default=True,
                help="Whether it may send from its own MAC and addresses only (default: yes).",
            ),
            repeated(
                "-p",
                "--publish",
                "ports",
                metavar="PUBLISH",
                help="Publish a port, such as 8080:80 (vswitch port --help has all forms); repeatable.",
            ),
        )
    ):
        function = option(function)
    return function


SHARED = "container:"


def network_words(
    networks: tuple[str, ...],
    ip: str | None,
    ip6: str | None,
    mac_address: str | None,
    aliases: tuple[str, ...],
    source_guard: bool = True,
) -> dict[str, Any]:
    """What a spec says of networks: `network_mode` and `networks`."""
    modes = [text for text in networks if text in ("host", "none") or text.startswith(SHARED)]
    if not modes:
        return {"networks": attachments(networks, ip, ip6, mac_address, aliases, source_guard)}
    mode = modes[0]
    if mode == SHARED:
        raise click.UsageError("--network container: names no container: say --network container:NAME")
    if len(networks) > 1:
        raise click.UsageError(f"--network {mode} goes with no other --network")
    single = {"--ip": ip, "--ip6": ip6, "--mac-address": mac_address, "--alias": aliases}
    single["--no-source-guard"] = not source_guard
    for option, value in single.items():
        if value:
            raise click.UsageError(f"{option} with --network {mode}: that joins no network to have it on")
    return {"network_mode": mode, "networks": []}


def attachments(
    networks: Iterable[str],
    ip: str | None,
    ip6: str | None,
    mac_address: str | None,
    aliases: Iterable[str],
    source_guard: bool = True,
) -> list[dict[str, Any]]:
    """The attachments that `attachment_options` describe.

    --ip and the like belong to the only network there is, --no-source-guard to all.
    """
    joined = [_attachment(text) for text in networks] or [{"network": "default", "aliases": []}]
    single = {"ip": ip, "ip6": ip6, "mac_address": mac_address}
    given = [name for name, value in single.items() if value is not None] + (["alias"] if aliases else [])
    if given and len(joined) > 1:
        option = given[0].replace("_", "-")
        raise click.UsageError(
            f"--{option} with several networks: say which one with --network NET,{option}=…"
        )
    for name, value in single.items():
        if value is not None:
            if joined[0].get(name) is not None:
                raise click.UsageError(
                    f"--{name.replace('_', '-')} is given twice for network {joined[0]['network']}"
                )
            joined[0][name] = value
    joined[0]["aliases"].extend(aliases)
    if not source_guard:
        for attachment in joined:
            attachment.setdefault("source_guard", False)
    return joined


def _attachment(text: str) -> dict[str, Any]:
    """`NET[,ip=A,ip6=A,mac-address=M,alias=N…]`, or with `name=NET` anywhere in it, as Docker takes it."""
    first, *rest = text.split(",")
    words = [first if "=" in first else f"name={first}", *rest]
    attachment: dict[str, Any] = {"aliases": []}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise click.UsageError(f"--network {text}: {word!r} should be KEY=VALUE")
        if key == "alias":
            attachment["aliases"].append(value)
            continue
        field = "network" if key == "name" else ATTACHMENT_KEYS.get(key)
        if field is None:
            raise click.UsageError(
                f"--network {text}: {key!r} is none of name, {', '.join(ATTACHMENT_KEYS)}, alias"
            )
        if field in attachment:
            raise click.UsageError(f"--network {text}: {key} is given twice")
        readers = {"gw-priority": _number, "source-guard": _truth}
        attachment[field] = readers[key](text, key, value) if key in readers else value
    if "network" not in attachment:
        raise click.UsageError(f"--network {text}: names no network")
    return attachment


def _truth(text: str, key: str, value: str) -> bool:
    if value not in TRUTHS:
        raise click.UsageError(f"--network {text}: {key} is true or false, not {value!r}")
    return TRUTHS[value]


def _number(text: str, key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise click.UsageError(f"--network {text}: {key} should be a number, not {value!r}") from None


def pairs(option: str, words: Iterable[str]) -> dict[str, str]:
    """`K=V…` as a dict; a bare K is K with an empty value, as labels are in Docker."""
    result = {}
    for word in words:
        key, _, value = word.partition("=")
        if not key:
            raise click.UsageError(f"{option} {word!r}: should be KEY=VALUE")
        result[key] = value
    return result


def strict_pairs(option: str, words: Iterable[str], shape: str) -> dict[str, str]:
    """`K=V…` as a dict, both of them there and no key twice."""
    result: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if not key or not value:
            raise click.UsageError(f"{option} {word!r}: should be {shape}")
        if key in result:
            raise click.UsageError(f"{option} {word!r}: {key} is given twice")
        result[key] = value
    return result


def environment(words: Iterable[str]) -> dict[str, str]:
    """`-e K=V…` as a dict.

    A bare K is taken from our own environment, and left out where it is not set there.
    """
    result = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key:
            raise click.UsageError(f"-e {word!r}: should be KEY=VALUE")
        if equals:
            result[key] = value
        elif key in os.environ:
            result[key] = os.environ[key]
    return result
