# SPDX-License-Identifier: Apache-2.0
"""`vswitch network …`: the segments that containers join."""

from __future__ import annotations

import sys
from typing import Any

import click

from vswitch.cli.each import each, each_named
from vswitch.cli.options import as_json, client_command, pairs, repeated, strict_pairs
from vswitch.cli.output import emit_json, emit_table, short
from vswitch.control.api.client import Client, segment


@click.group("network")
def network_command() -> None:
    """Create, list, inspect and remove networks."""


@client_command("create")
@click.argument("name")
@click.option(
    "--driver", type=click.Choice(["bridge"]), default="bridge", metavar="DRIVER", help="bridge: one segment."
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
    "--mtu", type=int, default=1500, show_default=True, metavar="N", help="Largest packet in bytes."
)
@repeated("--label", "labels", metavar="K=V", help="A note on the network; repeatable.")
@repeated("--opt", "-o", "options", metavar="K=V", help="Such as host_loopback=true; repeatable.")
def create(client: Client, name: str, **words: Any) -> None:
    """Create a network; prints its id."""
    print(client.post("/v1/networks", _spec(name, **words))["id"])


def _spec(
    name: str,
    *,
    subnets: tuple[str, ...],
    gateways: tuple[str, ...],
    ranges: tuple[str, ...],
    aux_addresses: tuple[str, ...],
    labels: tuple[str, ...],
    options: tuple[str, ...],
    **plain: Any,
) -> dict[str, Any]:
    """The NetworkSpec of the words.

    Every gateway, range and reserved address goes to the subnet that holds it.
    """
    return {
        "name": name,
        "subnets": _subnets(
            subnets, gateways, ranges, strict_pairs("--aux-address", aux_addresses, "NAME=IP")
        ),
        "labels": pairs("--label", labels),
        "options": strict_pairs("--opt", options, "KEY=VALUE"),
        **plain,
    }


def _subnets(
    subnets: tuple[str, ...],
    gateways: tuple[str, ...],
    ranges: tuple[str, ...],
    aux_addresses: dict[str, str],
) -> list[dict[str, Any]]:
    from ipaddress import ip_interface, ip_network

    specs: list[dict[str, Any]] = [{"subnet": subnet} for subnet in subnets]

    def holder(option: str, text: str) -> dict[str, Any]:
        try:
            part = ip_interface(text).network
            for spec in specs:
                whole = ip_network(spec["subnet"], strict=False)
                if part.version == whole.version and part.subnet_of(whole):  # type: ignore[arg-type]
                    return spec
        except ValueError as problem:
            raise click.UsageError(f"{option} {text}: {problem}") from None
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


@client_command("ls")
@as_json
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
def ls(client: Client, as_json: bool, quiet: bool) -> None:
    """List networks."""
    networks = client.get("/v1/networks")
    if as_json:
        emit_json(networks)
    elif quiet:
        for network in networks:
            print(short(network["id"]))
    else:
        emit_table(("NETWORK ID", "NAME", "DRIVER", "SUBNETS", "CONTAINERS"), map(_row, networks))


def _row(network: dict[str, Any]) -> tuple[Any, ...]:
    subnets = [subnet["subnet"] for subnet in network["subnets"]]
    return short(network["id"]), network["name"], network["driver"], subnets, len(network["containers"])


@client_command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@as_json
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


for _command in (create, ls, inspect, rm, prune):
    network_command.add_command(_command)
