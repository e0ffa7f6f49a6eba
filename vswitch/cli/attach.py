# SPDX-License-Identifier: Apache-2.0
"""`vswitch attach` and `detach`: a namespace that somebody else made joins networks.

The namespace is opened here, with the caller's rights, and goes to the switch as a descriptor: the switch
never opens on our word what we may not open ourselves.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from vswitch.cli.each import each_named
from vswitch.cli.options import attachment_options, attachments, client_command, pairs, repeated
from vswitch.cli.refusals import as_client_errors
from vswitch.control.api.client import Client, segment

if TYPE_CHECKING:
    from vswitch.model import NamespaceOrigin


class Pid(click.ParamType):
    """The number of a process."""

    name = "pid"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """`value` as a number from 1 up; engines give 0 for a container that does not run."""
        if str(value) == "0":
            self.fail("0 is no process: that is what engines say of a container that does not run", parameter, context)
        if not str(value).isdecimal():
            remedy = "give its number, as podman inspect -f '{{.State.Pid}}' NAME shows it"
            self.fail(f"{value!r} is no number of a process: {remedy}", parameter, context)
        return int(value)


@client_command("attach")
@click.option("--netns", metavar="PATH|NAME", help="The namespace by path, or by its name for `ip netns`.")
@click.option("--pid", type=Pid(), metavar="PID", help="The namespace of this process.")
@click.option("--name", metavar="N", help="The container's name (default: one is made up).")
@attachment_options
@repeated("--label", "-l", "labels", metavar="K=V", help="A note on the container; repeatable.")
def attach_command(
    client: Client,
    netns: str | None,
    pid: int | None,
    name: str | None,
    networks: tuple[str, ...],
    ip: str | None,
    ip6: str | None,
    mac_address: str | None,
    aliases: tuple[str, ...],
    source_guard: bool,
    ports: tuple[str, ...],
    labels: tuple[str, ...],
) -> None:
    """Attach an existing network namespace; prints the container's id."""
    if (netns is None) == (pid is None):
        raise click.UsageError("say which namespace: either --netns or --pid")
    spec = {
        "name": name,
        "networks": attachments(networks, ip, ip6, mac_address, aliases, source_guard),
        "labels": pairs("--label", labels),
        "ports": ports,
    }
    with as_client_errors():
        print(_attach(client, spec, netns, pid)["container"]["id"])


def _attach(client: Client, spec: dict[str, Any], netns: str | None, pid: int | None) -> dict[str, Any]:
    from vswitch.container import namespaces

    pidfd = None
    if pid is not None:
        netns_fd, userns_fd, pidfd = namespaces.open_pid(pid)
        what, origin = f"process {pid}", namespaces.origin(netns_fd, pid=pid)
    else:
        path = namespaces.netns_path(netns)  # type: ignore[arg-type]
        netns_fd = namespaces.open_netns(path)
        userns_fd = namespaces.owner_userns(netns_fd)
        what, origin = path, namespaces.origin(netns_fd, path=path)
    try:
        namespaces.refuse_own(netns_fd, what)
        return client.post(
            "/v1/containers", {"spec": spec, **hand_over(client, origin, netns_fd, userns_fd, pidfd)}
        )
    finally:
        for fd in (netns_fd, userns_fd, pidfd):
            if fd is not None:
                os.close(fd)


def hand_over(
    client: Client, origin: NamespaceOrigin, netns_fd: int, userns_fd: int | None, pidfd: int | None
) -> dict[str, Any]:
    """Send a namespace ahead; what the request then says of it."""
    token = sent_ahead(client, [fd for fd in (netns_fd, userns_fd, pidfd) if fd is not None])
    place = {name: getattr(origin, name) for name in origin.__struct_fields__}
    return {
        "origin": place,
        "token": token,
        "has_userns": userns_fd is not None,
        "has_pidfd": pidfd is not None,
    }


def sent_ahead(client: Client, fds: list[int]) -> str:
    """Leave descriptors with the switch, for the request that will name their token."""
    from vswitch.model import Refused
    from vswitch.ports.handover import offer

    try:
        return offer(f"{client.path}.fd", fds)
    except Refused:
        client.get("/v1/version")  # where no switch runs at all, this says it better
        raise


@client_command("detach")
@click.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
def detach_command(client: Client, names: tuple[str, ...]) -> int:
    """Take attached namespaces off their networks and forget them."""
    return each_named(names, lambda name: client.post(f"/v1/containers/{segment(name)}/detach"))
