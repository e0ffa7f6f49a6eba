# SPDX-License-Identifier: Apache-2.0
"""Our own TOML → Project. The words are those of the API and the command line.

    project = "shop"                          # else the folder's name

    [networks.back]                           # shop_back at the switch, unless name says another
    subnets = ["10.9.0.0/24"]                 # or [{subnet = "…", gateway = "…", ip_range = "…"}]
    internal = true

    [containers.web]                          # shop-web, and web as an alias on each network
    command = ["python3", "-m", "http.server", "80"]        # is run; netns, pid, podman, docker = "…" is attached
    networks = ["back"]                       # or [containers.web.networks.back] with ip, ip6, mac_address, aliases
    ports = ["8080:80"]

An unknown word is refused: nobody else's file has to be understood here.
"""

from __future__ import annotations

from typing import Any

from vswitch.model import Refused
from vswitch.project.documents import Node
from vswitch.project.reading import Reader
from vswitch.project.wish import (
    DEFAULT,
    PLACES,
    SERVICE,
    NetworkWish,
    Project,
    ServiceWish,
    check_project_name,
    in_order,
    with_network_names,
)

TOP = ("project", "networks", "containers")
OF_A_NETWORK = ("name", "external", "subnets", "internal", "ipv6", "mtu", "options", "labels")
OF_A_SUBNET = ("subnet", "gateway", "ip_range", "aux_addresses")
LISTS = ("dns", "dns_search", "dns_options", "extra_hosts", "cap_add", "cap_drop")
OF_A_CONTAINER = (
    "name", "command", *PLACES, "networks", "network_mode", "hostname", "ports", *LISTS, "environment", "workdir",
    "labels", "after",
)  # fmt: skip
OF_AN_ATTACHMENT = ("ip", "ip6", "mac_address", "aliases", "gw_priority")
OF_A_PROGRAM = ("environment", "workdir", "cap_add", "cap_drop")


def read(tree: Node, name: str | None, otherwise: str) -> Project:
    """The project in a file of ours; names as in compose.read. Refused with the key path of what cannot be."""
    top = _fields(Reader(tree), TOP)
    project = check_project_name(name or (top["project"].word() if "project" in top else otherwise))
    if not top.keys() & {"networks", "containers"}:  # either may be empty: nothing is wanted any more
        raise Refused("describes neither networks nor containers: write containers = {} if it is to have none any more")
    described = dict(top["networks"].items()) if "networks" in top else {}
    containers = dict(top["containers"].items()) if "containers" in top else {}
    networks = [_network(project, key, reader) for key, reader in described.items()]
    services = [_container(project, key, reader, {n.key for n in networks}) for key, reader in containers.items()]
    used = {attachment["network"] for service in services for attachment in service.spec["networks"]}
    if DEFAULT in used and DEFAULT not in described:
        networks.append(NetworkWish(DEFAULT, f"{project}_{DEFAULT}"))
    ordered = in_order(with_network_names(services, networks))
    return Project(project, tuple(networks), tuple(ordered), called="containers")


def _fields(reader: Reader, known: tuple[str, ...]) -> dict[str, Reader]:
    fields = dict(reader.items())
    for key, inner in fields.items():
        if key not in known:
            raise inner.refused(f"is none of {', '.join(known)}")
    return fields


def _network(project: str, key: str, reader: Reader) -> NetworkWish:
    fields = _fields(reader, OF_A_NETWORK)
    if "external" in fields and fields["external"].truth():
        return NetworkWish(key, fields["name"].word() if "name" in fields else key, external=True)
    spec: dict[str, Any] = {n: fields[n].truth() for n in ("internal", "ipv6") if n in fields}
    if "mtu" in fields:
        spec["mtu"] = fields["mtu"].number()
    for name in ("options", "labels"):
        if name in fields:
            spec[name] = {k: v or "" for k, v in fields[name].pairs().items()}
    if "subnets" in fields:
        spec["subnets"] = [_subnet(element) for element in fields["subnets"].elements()]
    return NetworkWish(key, fields["name"].word() if "name" in fields else f"{project}_{key}", spec=spec)


def _subnet(reader: Reader) -> dict[str, Any]:
    if not reader.is_mapping():
        return {"subnet": reader.word()}
    fields = _fields(reader, OF_A_SUBNET)
    if "subnet" not in fields:
        raise reader.refused("names no subnet")
    subnet: dict[str, Any] = {n: fields[n].word() for n in OF_A_SUBNET[:3] if n in fields}
    if "aux_addresses" in fields:
        subnet["aux_addresses"] = {k: v or "" for k, v in fields["aux_addresses"].pairs().items()}
    return subnet


def _container(project: str, key: str, reader: Reader, networks: set[str]) -> ServiceWish:
    fields = _fields(reader, OF_A_CONTAINER)
    ways = [word for word in ("command", *PLACES) if word in fields]
    if len(ways) > 1:
        raise reader.refused(f"has {' and '.join(ways)}: one of them is enough")
    how: Any = "run" if ways == ["command"] else ways[0] if ways else "there"
    place = ""
    if how in PLACES:
        place = str(fields[how].number()) if how == "pid" else fields[how].word()
    for word in OF_A_PROGRAM:
        if word in fields and how != "run":
            raise fields[word].refused("is for containers that are run: there is no command")
    spec = _networks(key, fields, networks) | {name: fields[name].words() for name in LISTS if name in fields}
    if "ports" in fields:
        spec["ports"] = [element.publish() for element in fields["ports"].one_or_more()]
    if how in PLACES and "network_mode" in fields:
        raise fields["network_mode"].refused("is for containers that are run: an attached one joins networks")
    if "hostname" in fields:
        spec["hostname"] = fields["hostname"].word()
    if "labels" in fields:
        spec["labels"] = {k: v or "" for k, v in fields["labels"].pairs().items()}
    if how == "run":
        spec |= _program(fields)
    names = (fields["name"].word(),) if "name" in fields else (f"{project}-{key}", key)
    return ServiceWish(key, names, how, place, spec, _after(fields, spec))


def _program(fields: dict[str, Reader]) -> dict[str, Any]:
    command = [element.text() for element in fields["command"].elements()]
    if not command:
        raise fields["command"].refused("names no program")
    environment = fields["environment"].pairs() if "environment" in fields else {}
    spec = {"command": command, "environment": {k: v or "" for k, v in environment.items()}}
    if "workdir" in fields:
        spec["workdir"] = fields["workdir"].word()
    return (
        {"cap_add": [], "cap_drop": []} | spec | {n: fields[n].words() for n in ("cap_add", "cap_drop") if n in fields}
    )


def _networks(key: str, fields: dict[str, Reader], known: set[str]) -> dict[str, Any]:
    mode = fields["network_mode"].word() if "network_mode" in fields else "bridge"
    if mode != "bridge":
        if "networks" in fields:
            raise fields["network_mode"].refused("goes with no networks")
        return {"network_mode": mode, "networks": []}
    joined: list[dict[str, Any]] = []
    if "networks" in fields and not fields["networks"].is_mapping():
        joined = [{"network": word, "aliases": []} for word in dict.fromkeys(fields["networks"].words())]
    elif "networks" in fields:
        joined = [_attachment(network, inner) for network, inner in fields["networks"].items()]
    for attachment in joined:
        if attachment["network"] not in known | {DEFAULT}:
            raise fields["networks"].refused(f"network {attachment['network']!r} is not among the file's networks")
    for attachment in joined or (joined := [{"network": DEFAULT, "aliases": []}]):
        attachment["aliases"] = list(dict.fromkeys([key, *attachment["aliases"]]))
    return {"networks": joined}


def _attachment(network: str, reader: Reader) -> dict[str, Any]:
    fields = _fields(reader, OF_AN_ATTACHMENT)
    aliases = fields["aliases"].words() if "aliases" in fields else []
    return {
        "network": network,
        "aliases": aliases,
        **{name: fields[name].word() for name in OF_AN_ATTACHMENT[:3] if name in fields},
        **({"gw_priority": fields["gw_priority"].number()} if "gw_priority" in fields else {}),
    }


def _after(fields: dict[str, Reader], spec: dict[str, Any]) -> tuple[str, ...]:
    first = fields["after"].words() if "after" in fields else []
    mode = spec.get("network_mode", "")
    if mode.startswith(SERVICE):
        first.append(mode.removeprefix(SERVICE))
    return tuple(dict.fromkeys(first))
