# SPDX-License-Identifier: Apache-2.0
"""`vswitch network …`: the segments that containers join."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from vswitch.cli.each import each, each_named
from vswitch.cli.options import (
    as_json,
    client_command,
    json_or_template,
    pairs,
    refuse_both,
    repeated,
    strict_pairs,
)
from vswitch.cli.output import emit_json, emit_table, short
from vswitch.control.api.client import Client, ClientError, segment

MTU_OPTIONS = ("mtu", "com.docker.network.driver.mtu")  # the option that has a flag of its own


@click.group("network")
def network_command() -> None:
    """Create, change, join, leave and remove networks."""


def described(function: Callable) -> Callable:
    """What `create` and `update` say of a network alike."""
    for option in reversed(
        (
            repeated("--label", "labels", metavar="K=V", help="A note on the network; repeatable."),
            repeated(
                "--opt", "-o", "options", metavar="K=V", help="Such as icc=false or host_loopback=true; repeatable."
            ),
            repeated("--dns", "dns_servers", metavar="A", help="A resolver for its containers; repeatable."),
            repeated("--dns-search", metavar="D", help="A search domain for its containers; repeatable."),
            repeated("--dns-option", "dns_options", metavar="O", help="An option for their resolv.conf; repeatable."),
        )
    ):
        function = option(function)
    return function


@client_command("create")
@click.argument("name")
@click.option(
    "-d", "--driver", type=click.Choice(["bridge"]), default="bridge", metavar="DRIVER", help="bridge: one segment."
)
@repeated(
    "--subnet",
    "subnets",
    metavar="CIDR",
    help="Addresses of the network; a free subnet is chosen if left out.",
)
@repeated(
    "--gateway", "gateways", metavar="IP", help="The gateway's address in its subnet (default: the first)."
)
@repeated(
    "--ip-range", "ranges", metavar="CIDR", help="Give out addresses from this part of the subnet only."
)
@repeated(
    "--aux-address", "aux_addresses", metavar="NAME=IP", help="Never give out this address; repeatable."
)
@click.option("--internal", is_flag=True, help="No way out of the network.")
@click.option("--ipv6/--no-ipv6", default=False, help="IPv6 too.")
@click.option(
    "--mtu", type=int, show_default="1500", metavar="N", help="Largest packet in bytes."
)
@click.option("--names/--no-names", "dns", default=True, help="Containers' names resolve on it (default), or don't.")
@described
def create(client: Client, name: str, **words: Any) -> None:
    """Create a network; prints its id."""
    network = client.post("/v1/networks", _spec(name, **words))
    print(network["id"])
    _warn([network])


def _spec(
    name: str,
    *,
    subnets: tuple[str, ...],
    gateways: tuple[str, ...],
    ranges: tuple[str, ...],
    aux_addresses: tuple[str, ...],
    labels: tuple[str, ...],
    options: tuple[str, ...],
    mtu: int | None,
    **plain: Any,
) -> dict[str, Any]:
    """The NetworkSpec of the words.

    Every gateway, range and reserved address goes to the subnet that holds it.
    """
    reserved = strict_pairs("--aux-address", aux_addresses, "NAME=IP")
    return {
        "name": name,
        "subnets": _subnets([{"subnet": subnet} for subnet in subnets], gateways, ranges, reserved),
        "labels": pairs("--label", labels),
        "options": _options(options, mtu),
        **({} if mtu is None else {"mtu": mtu}),
        **plain,
    }


def _options(words: tuple[str, ...], mtu: int | None) -> dict[str, str]:
    """What --opt says; --mtu beside it may say the same, but nothing else."""
    options = strict_pairs("--opt", words, "KEY=VALUE")
    for name in MTU_OPTIONS:
        if mtu is not None and options.get(name, str(mtu)) != str(mtu):
            raise click.UsageError(f"--mtu {mtu} and --opt {name}={options[name]}: say one of them")
    return options


def _subnets(
    specs: list[dict[str, Any]],
    gateways: tuple[str, ...],
    ranges: tuple[str, ...],
    aux_addresses: dict[str, str],
) -> list[dict[str, Any]]:
    def holder(option: str, text: str) -> dict[str, Any]:
        part = _range(option, text)
        for spec in specs:
            whole = _range("--subnet", spec["subnet"])
            if part.version == whole.version and part.subnet_of(whole):
                return spec
        raise click.UsageError(
            f"{option} {text} lies in no --subnet that is given: give the --subnet that holds it"
        )

    for option, field, texts in (("--gateway", "gateway", gateways), ("--ip-range", "ip_range", ranges)):
        for text in texts:
            spec = holder(option, text)
            if field in spec:
                raise click.UsageError(f"{option} is given twice for subnet {spec['subnet']}")
            spec[field] = text
    for name, address in aux_addresses.items():
        holder("--aux-address", address).setdefault("aux_addresses", {})[name] = address
    return specs


def _range(option: str, text: str) -> Any:
    from ipaddress import ip_interface

    try:
        return ip_interface(text).network
    except ValueError:
        forms = "172.20.0.5 or fd00::5" if option in ("--gateway", "--aux-address") else "172.20.0.0/16 or fd00::/64"
        raise click.UsageError(f"{option} {text!r} can't be: write it like {forms}") from None


@client_command("update")
@click.argument("name", metavar="NETWORK")
@click.option("--mtu", type=int, metavar="N", help="Largest packet in bytes; interfaces in containers follow.")
@click.option("--internal/--no-internal", default=None, help="Close the way out of the network, or open it.")
@click.option("--ipv6", is_flag=True, default=None, help="IPv6 too, for containers that join from now on.")
@repeated("--subnet", "subnets", metavar="CIDR", help="One more subnet; repeatable.")
@repeated("--gateway", "gateways", metavar="IP", help="The gateway's address in a subnet that is added.")
@repeated("--ip-range", "ranges", metavar="CIDR", help="Give out addresses from this part of its subnet only.")
@repeated("--aux-address", "aux_addresses", metavar="NAME=IP", help="Never give out this address; repeatable.")
@click.option("--names/--no-names", "dns", default=None, help="Containers' names resolve on it, or don't.")
@described
@repeated("--label-rm", "gone_labels", metavar="K", help="Take a label away; repeatable.")
@repeated("--opt-rm", "gone_options", metavar="K", help="Take an option away, back to its default; repeatable.")
def update(client: Client, name: str, **words: Any) -> None:
    """Change a network while containers are on it.

    What is not said stays. The word none in place of a list (--dns none) empties it.
    """
    changes = _changes(client, name, **words)
    if not changes:
        raise click.UsageError("nothing to change is said")
    network = client.request("PATCH", f"/v1/networks/{segment(name)}", changes, {})
    print(name)
    _warn([network])


def _changes(
    client: Client,
    name: str,
    *,
    subnets: tuple[str, ...],
    gateways: tuple[str, ...],
    ranges: tuple[str, ...],
    aux_addresses: tuple[str, ...],
    labels: tuple[str, ...],
    gone_labels: tuple[str, ...],
    options: tuple[str, ...],
    gone_options: tuple[str, ...],
    mtu: int | None,
    **plain: Any,
) -> dict[str, Any]:
    """The NetworkUpdate of the words: only what was said."""
    reserved = strict_pairs("--aux-address", aux_addresses, "NAME=IP")
    specs: list[dict[str, Any]] = [{"subnet": subnet} for subnet in subnets]
    there: dict[str, Any] = {}
    if gateways or ranges or reserved or gone_labels or gone_options:
        there = client.get(f"/v1/networks/{segment(name)}")
    if gateways or ranges or reserved:
        specs += [{"subnet": s["subnet"]} for s in there["subnets"] if s["subnet"] not in subnets]
        specs = [s for s in _subnets(specs, gateways, ranges, reserved) if len(s) > 1 or s["subnet"] in subnets]
    _refuse_unknown(name, "label", gone_labels, there.get("labels", {}))
    _refuse_unknown(name, "option", gone_options, there.get("options", {}))
    changes = {
        "subnets": specs,
        "labels": {**pairs("--label", labels), **dict.fromkeys(gone_labels)},
        "options": {**_options(options, mtu), **dict.fromkeys(gone_options)},
        "mtu": mtu,
        **{key: value for key, value in plain.items() if not isinstance(value, tuple)},
    }
    said = {key: value for key, value in changes.items() if value not in (None, [], {})}
    lists = {key: list(value) for key, value in plain.items() if isinstance(value, tuple) and value}
    return said | {key: [] if words == ["none"] else words for key, words in lists.items()}


def _refuse_unknown(network: str, what: str, gone: tuple[str, ...], there: dict[str, str]) -> None:
    for name in gone:
        if name not in there:
            raise ClientError(f"network {network} has no {what} {name!r}: it has {', '.join(there) or 'none'}")


@client_command("connect")
@click.argument("network", metavar="NETWORK")
@click.argument("container", metavar="CONTAINER")
@click.option("--ip", metavar="ADDRESS", help="IPv4 address on the network.")
@click.option("--ip6", metavar="ADDRESS", help="IPv6 address on the network.")
@click.option("--mac-address", metavar="MAC", help="MAC address on the network.")
@repeated("--alias", "aliases", metavar="NAME", help="A further name on the network; repeatable.")
@click.option("--gw-priority", type=int, default=0, metavar="N", help="The highest has the default route (default 0).")
@click.option("--source-guard/--no-source-guard", default=True, help="Its own MAC and addresses only (default: yes).")
def connect(client: Client, network: str, container: str, **words: Any) -> None:
    """Let a container join a network too.

    A running one gets another interface at once, a stopped one when it starts.
    """
    client.post(f"/v1/networks/{segment(network)}/connect", {"container": container, **words})


@client_command("disconnect")
@click.argument("network", metavar="NETWORK")
@click.argument("container", metavar="CONTAINER")
@click.option("-f", "--force", is_flag=True, help="As without: for the habit.")
def disconnect(client: Client, network: str, container: str, force: bool) -> None:
    """Take a container off a network.

    Its default route and published ports go on by the next of its networks.
    """
    client.post(f"/v1/networks/{segment(network)}/disconnect", {"container": container})


@client_command("ls")
@as_json
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
def ls(client: Client, as_json: bool, quiet: bool) -> None:
    """List networks."""
    refuse_both(as_json, quiet)
    networks = client.get("/v1/networks")
    if as_json:
        emit_json(networks)
    elif quiet:
        for network in networks:
            print(short(network["id"]))
    else:
        headings = ("NETWORK ID", "NAME", "DRIVER", "SUBNETS", "CONTAINERS")
        emit_table(headings, map(_row, networks), ("DRIVER", "NETWORK ID"))
        _warn(networks)


def _warn(networks: list[dict[str, Any]]) -> None:
    for warning in [warning for network in networks for warning in network["warnings"]]:
        print(f"vswitch: {warning}", file=sys.stderr)


def _row(network: dict[str, Any]) -> tuple[Any, ...]:
    subnets = [subnet["subnet"] for subnet in network["subnets"]]
    return short(network["id"]), network["name"], network["driver"], subnets, len(network["containers"])


@client_command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_or_template("-f", "--format")
def inspect(client: Client, names: tuple[str, ...], as_json: bool) -> int:
    """Show networks in full, as a JSON list."""
    networks, status = each(names, lambda name: client.get(f"/v1/networks/{segment(name)}"))
    emit_json(networks)
    return status


@client_command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(client: Client, names: tuple[str, ...]) -> int:
    """Remove networks that no container is on."""
    return each_named(names, lambda name: client.delete(f"/v1/networks/{segment(name)}"))


@client_command("prune")
@click.option("-f", "--force", is_flag=True, help="Don't ask (asked only at a terminal).")
def prune(client: Client, force: bool) -> None:
    """Remove all networks that no container is on.

    The default network stays.
    """
    if not force and sys.stdin.isatty():
        click.confirm("Remove all networks that no container is on?", abort=True, err=True)
    for name in client.post("/v1/networks/prune")["networks"]:
        print(name)


for _command in (create, update, connect, disconnect, ls, inspect, rm, prune):
    network_command.add_command(_command)
