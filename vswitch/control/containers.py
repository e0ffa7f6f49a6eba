# SPDX-License-Identifier: Apache-2.0
"""A container: how a wish becomes a record, every part of it checked; and the files under /etc for it.

Nothing here awaits or touches the kernel. What the client will do itself in its own rights (command,
environment, working folder, capabilities) is kept as it came.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from random import Random

from msgspec.structs import replace

from vswitch.container.files import ResolvConf, hosts, parse_extra_host, resolv_conf
from vswitch.container.files import hostname as hostname_text
from vswitch.container.namespaces import pid_ended, pid_started
from vswitch.control import modes
from vswitch.control.difference import Resolving
from vswitch.control.endpoints import default_endpoint
from vswitch.control.inventory import Container, Inventory
from vswitch.control.names import SHORT_ID_LENGTH, invented_name, new_id
from vswitch.control.records import ContainerRecord
from vswitch.control.specs import check_container
from vswitch.model import ContainerFiles, ContainerSpec, NamespaceOrigin, Refused
from vswitch.nat.publish import text_of

HOST_NAMES = ("host.vswitch.internal", "host.docker.internal", "host.containers.internal")


def plan_container(
    spec: ContainerSpec,
    origin: NamespaceOrigin,
    inventory: Inventory,
    limit: int,
    *,
    now: float,
    random: Random,
) -> ContainerRecord:
    """The container that `spec` becomes, still without endpoints. Refused if it cannot be."""
    if len(inventory.containers) >= limit:
        raise Refused(
            f"the switch has {limit} containers, its limit: remove one (vswitch ps -a lists them)", 507
        )
    check_container(spec)
    identity = new_id(random)
    other = modes.provider_of(spec, inventory)
    return ContainerRecord(
        id=identity,
        name=spec.name or invented_name(random, inventory.container_ids),
        hostname=other.record.hostname if other else spec.hostname or identity[:SHORT_ID_LENGTH],
        spec=spec,
        origin=origin,
        state="starting",
        endpoints=[],
        created_at=now,
    )


def identified(
    origin: NamespaceOrigin, netns_fd: int, pidfd: int | None, *, ours_too: bool = False
) -> NamespaceOrigin:
    """`origin` with what the kernel says about the namespace. Refused if the client says otherwise, or sent
    our own, unless that may be.
    """
    status = os.fstat(netns_fd)
    claimed, actual = (origin.device, origin.inode), (status.st_dev, status.st_ino)
    if claimed not in ((0, 0), actual):
        raise Refused("the descriptor is of another namespace than the origin says: attach again", 409)
    own = os.stat("/proc/self/ns/net")
    if actual == (own.st_dev, own.st_ino) and not ours_too:
        raise Refused(
            "that is the network namespace of the switch itself: give the container one of its own", 409
        )
    if origin.path is not None:
        _refuse_other_path(origin.path, actual)
    elif origin.pid is None or pidfd is None:
        raise Refused("where the namespace is found is missing: a path, or a pid with its pidfd")
    return replace(origin, device=actual[0], inode=actual[1])


def _refuse_other_path(path: str, actual: tuple[int, int]) -> None:
    """Its end is noticed by its path, so we must see it there too."""
    if not os.path.isabs(path):
        raise Refused(f"{path!r} is no absolute path of a namespace")
    try:
        status = os.stat(path)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise Refused(
            f"the namespace is gone, or out of the switch's sight: {path!r}: {reason}", 404
        ) from None
    if (status.st_dev, status.st_ino) != actual:
        raise Refused(f"the namespace is gone: {path} is another one now", 404)


def open_process(origin: NamespaceOrigin) -> int | None:
    """A pidfd of the very process the origin names; None if it names none, or that one has ended."""
    if origin.pid is None:
        return None
    try:
        pidfd = os.pidfd_open(origin.pid)
    except OSError:
        return None
    if origin.pid_started not in (None, pid_started(origin.pid)) or pid_ended(pidfd):
        os.close(pidfd)
        return None
    return pidfd


def restart_spec(container: Container) -> ContainerSpec:
    """What a client needs to start a container again: its spec, with the names that were made up for it."""
    record = container.record
    ports = [text_of(port.asked) for port in record.ports]
    hostname = None if record.spec.network_mode.startswith(modes.CONTAINER) else record.hostname
    return replace(record.spec, name=record.name, hostname=hostname, ports=ports)


def container_files(container: Container, inventory: Inventory, resolvers: ResolvConf) -> ContainerFiles:
    """resolv.conf, and hosts with the container's addresses and --add-host.

    The resolver answers at 127.0.0.11, else at the gateways; where no network has names --dns and friends stand in
    resolv.conf themselves, else the host's own. `ndots:0` has names without a dot asked for as they are first, which
    keeps containers' names out of other people's domains; --dns-option may say otherwise.
    """
    if container.record.spec.network_mode == modes.HOST:
        return ContainerFiles(resolv_conf=None, hosts=None, hostname=hostname_text(container.record.hostname))
    container = modes.provider_of(container.record.spec, inventory) or container
    record, spec = container.record, container.record.spec
    addresses = [a for endpoint in record.endpoints for a in (endpoint.ipv4, endpoint.ipv6) if a is not None]
    first = default_endpoint(record.endpoints, inventory.networks) or next(iter(record.endpoints), None)
    network = None if first is None else inventory.networks[first.network]
    gateway = "127.0.0.1" if network is None else network.gateway_for(first.ipv4)
    told = Resolving() if network is None else network.shape.resolving
    extra_hosts = [parse_extra_host(extra, gateway) for extra in spec.extra_hosts]
    networks = [inventory.networks[endpoint.network] for endpoint in record.endpoints]
    gateways = [str(gateway) for network in networks if network.shape.resolving.names for gateway in network.gateways()]
    asked_options = spec.dns_options or told.options
    options = list(asked_options or resolvers.options)
    if gateways and not any(option.startswith("ndots:") for option in asked_options):
        options = [*(option for option in options if not option.startswith("ndots:")), "ndots:0"]
    servers = [container.nameserver] if container.nameserver else gateways
    servers = servers or spec.dns or list(told.servers) or resolvers.nameservers
    search = list(spec.dns_search or told.search or resolvers.search)
    return ContainerFiles(
        resolv_conf=resolv_conf(servers, [] if search == ["."] else search, options),
        hosts=hosts(
            record.hostname,
            name=record.name,
            addresses=addresses,
            extra_hosts=[*extra_hosts, *host_names(record, inventory, extra_hosts)],
            ipv6=any(endpoint.ipv6 for endpoint in record.endpoints),
        ),
        hostname=hostname_text(record.hostname),
    )


def host_names(
    record: ContainerRecord, inventory: Inventory, given: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The names of the host for /etc/hosts, where a network's gateway stands for the host's loopback; a name that the
    user has `given` an address stays the user's.
    """
    taken = {name for name, _ in given}
    for endpoint in record.endpoints:
        network = inventory.networks[endpoint.network]
        if network.way_out is not None and network.way_out.host_loopback:
            gateways = [network.gateway_for(a) for a in (endpoint.ipv4, endpoint.ipv6) if a is not None]
            return [(name, g) for name in HOST_NAMES if name not in taken for g in gateways if g is not None]
    return []
