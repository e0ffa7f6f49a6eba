# SPDX-License-Identifier: Apache-2.0
"""`vswitch attach` and `detach`: a namespace that somebody else made joins networks.

The namespace is opened here, with the caller's rights, and goes to the switch as a descriptor: the switch
never opens on our word what we may not open ourselves.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from vswitch.cli.each import each_named
from vswitch.cli.options import attachment_options, client_command, network_words, pairs, repeated
from vswitch.cli.refusals import as_client_errors
from vswitch.control.api.client import Client, ClientError, segment

if TYPE_CHECKING:
    from vswitch.cli.engines import EngineContainer
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


class Place(NamedTuple):
    """Which namespace is meant: exactly one of these is given."""

    netns: str | None = None
    pid: int | None = None
    engine_container: EngineContainer | None = None


@client_command("attach")
@click.argument("container", required=False, metavar="[CONTAINER]")
@click.option("--podman", metavar="NAME|ID", help="Podman's container of that name.")
@click.option("--docker", metavar="NAME|ID", help="Docker's container of that name.")
@click.option("--netns", metavar="PATH|NAME", help="The namespace by path, or by its name for `ip netns`.")
@click.option("--pid", type=Pid(), metavar="PID", help="The namespace of this process.")
@click.option("--name", metavar="N", help="The container's name (default: the engine's, or one is made up).")
@attachment_options
@click.option("--hostname", metavar="H", help="A host name to resolve it by (default: the engine's, or the short id).")
@repeated("--add-host", "extra_hosts", metavar="H:A", help="A name that it can resolve; repeatable.")
@repeated("--label", "-l", "labels", metavar="K=V", help="A note on the container; repeatable.")
def attach_command(
    client: Client,
    container: str | None,
    podman: str | None,
    docker: str | None,
    netns: str | None,
    pid: int | None,
    networks: tuple[str, ...],
    ip: str | None,
    ip6: str | None,
    mac_address: str | None,
    aliases: tuple[str, ...],
    source_guard: bool,
    labels: tuple[str, ...],
    **plain: Any,
) -> None:
    """Attach an existing network namespace; prints the container's id.

    CONTAINER is one of Podman's or Docker's, whichever has it; best made with --network none. It leaves the switch when
    it ends.
    """
    given = [word for word in (container, podman, docker, netns, pid) if word is not None]
    if len(given) != 1:
        raise click.UsageError("say which namespace, by one of CONTAINER, --podman, --docker, --netns, --pid")
    spec = {
        **network_words(networks, ip, ip6, mac_address, aliases, source_guard),
        "labels": pairs("--label", labels),
        **plain,
    }
    with as_client_errors():
        place = Place(netns, pid)
        if netns is None and pid is None:
            client.get("/v1/version")  # says how to start a switch, before an engine is asked
            place = Place(engine_container=_of_an_engine(container, podman, docker))
        print(attach_place(client, spec, place)["container"]["id"])


def _of_an_engine(container: str | None, podman: str | None, docker: str | None) -> EngineContainer:
    from vswitch.cli.engines import find

    if container is not None:
        return find(container)
    return find(podman, "podman") if podman is not None else find(docker or "", "docker")


def attach_place(client: Client, spec: dict[str, Any], place: Place) -> dict[str, Any]:
    """The switch's answer; an engine's container brings name and host name along, where the spec has none."""
    from vswitch.container import namespaces

    pidfd, pid = None, place.pid
    if (theirs := place.engine_container) is not None:
        pid = theirs.pid
        spec = {
            **spec,
            "name": spec.get("name") or theirs.name,
            "hostname": spec.get("hostname") or theirs.hostname,
            "labels": {"vswitch.engine": theirs.engine, **spec.get("labels", {})},
        }
    if pid == 1:
        raise ClientError("process 1 has the machine's own network: name one with a network namespace of its own")
    if pid is not None:
        netns_fd, userns_fd, pidfd = namespaces.open_pid(pid)
        what, origin = f"process {pid}", namespaces.origin(netns_fd, pid=pid)
    else:
        path = namespaces.netns_path(place.netns or "")
        netns_fd = namespaces.open_netns(path)
        userns_fd = namespaces.owner_userns(netns_fd)
        what, origin = path, namespaces.origin(netns_fd, path=path)
    try:
        if theirs is not None:
            from vswitch.cli.engines import refuse_stranger

            refuse_stranger(theirs)
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
