# SPDX-License-Identifier: Apache-2.0
"""The parts of a compose file that are about networks → Project (the Compose Specification's words).

vswitch has no images: whatever makes a container of an image (image, build, volumes …) is not done here and said to be
ignored. What a service is, then:

    x-vswitch: {command: …}        run here, whatever else is said
    x-vswitch: {netns: …} {pid: …} {podman: …} {docker: …}      that namespace or container is attached
    neither image nor build, but a command     run here: entrypoint and command, environment, working_dir
    otherwise                      a container that is there already, or one of Podman's or Docker's with that name:
                                   container_name, else PROJECT-SERVICE-1, PROJECT_SERVICE_1, SERVICE

Each service has its own name as an alias on each network, and is on the project's default network where it names none.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from vswitch.model import Refused
from vswitch.project.documents import Node
from vswitch.project.reading import EXTENSION, Reader
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

WORKED_WITH = {"version", "name", "services", "networks"}
OF_A_NETWORK = {
    "name", "driver", "driver_opts", "external", "internal", "enable_ipv4", "enable_ipv6", "ipam", "labels",
    "attachable",
}  # fmt: skip
OF_A_SERVICE = {
    "container_name", "hostname", "networks", "network_mode", "ports", "expose", "mac_address", "extra_hosts", "dns",
    "dns_search", "dns_opt", "labels", "environment", "working_dir", "command", "entrypoint", "depends_on", "cap_add",
    "cap_drop", "profiles", "x-vswitch",
}  # fmt: skip
OF_AN_ATTACHMENT = {
    "aliases": "aliases", "ipv4_address": "ip", "ipv6_address": "ip6", "mac_address": "mac_address",
    "gw_priority": "gw_priority",
}  # fmt: skip


def read(tree: Node, name: str | None, otherwise: str) -> Project:
    """The project in a compose file: called `name`, else as the file says, else `otherwise`. Refused with the place of
    what cannot be.
    """
    ignored: list[str] = []
    top = _fields(Reader(tree), WORKED_WITH, ignored)
    given = top["name"].word() if "name" in top and not top["name"].empty else otherwise
    project = check_project_name(name or given)
    if not top.keys() & {"services", "networks"}:  # either may be empty: nothing is wanted any more
        raise Refused("describes neither services nor networks: write services: {} if it is to have none any more")
    services = dict(_all(top, "services"))
    wishes = [_service(project, key, reader, ignored) for key, reader in services.items()]
    present = [wish for wish in wishes if wish is not None]
    networks = _networks(project, dict(_all(top, "networks")), present, ignored)
    return Project(project, tuple(networks), tuple(in_order(with_network_names(present, networks))), tuple(ignored))


def _fields(reader: Reader, known: Iterable[str], ignored: list[str]) -> dict[str, Reader]:
    """A mapping's fields; those that mean nothing here are noted as ignored, but for extensions."""
    fields = dict(reader.items())
    ignored.extend(inner.path for key, inner in fields.items() if key not in known and not key.startswith(EXTENSION))
    return {key: inner for key, inner in fields.items() if key in known}


def _all(top: dict[str, Reader], key: str) -> Iterable[tuple[str, Reader]]:
    return top[key].items() if key in top else ()


# ---- networks


def _networks(
    project: str, described: dict[str, Reader], services: list[ServiceWish], ignored: list[str]
) -> list[NetworkWish]:
    """Those that are described; the default one only if somebody is on it, or it is described."""
    wishes = [_network(project, key, reader, ignored) for key, reader in described.items()]
    used = {attachment["network"] for service in services for attachment in service.spec["networks"]}
    if DEFAULT in used and DEFAULT not in described:
        wishes.append(NetworkWish(DEFAULT, f"{project}_{DEFAULT}", spec={}))
    known = {wish.key for wish in wishes}
    for service in services:
        for attachment in service.spec["networks"]:
            if attachment["network"] not in known:
                where = f"services.{service.key}.networks"
                raise Refused(f"{where}: network {attachment['network']!r} is not among the file's networks")
    return wishes


def _network(project: str, key: str, reader: Reader, ignored: list[str]) -> NetworkWish:
    fields = _fields(reader, OF_A_NETWORK, ignored)
    name = fields["name"].word() if "name" in fields else f"{project}_{key}"
    if "external" in fields and not fields["external"].empty:
        outside = fields["external"]
        if outside.is_mapping():
            named = dict(outside.items())
            return NetworkWish(key, named["name"].word() if "name" in named else key, external=True)
        if outside.truth():
            return NetworkWish(key, fields["name"].word() if "name" in fields else key, external=True)
    return NetworkWish(key, name, spec=_network_spec(fields, ignored))


def _network_spec(fields: dict[str, Reader], ignored: list[str]) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if "driver" in fields and fields["driver"].word() not in ("bridge", DEFAULT):
        raise fields["driver"].refused(f"driver {fields['driver'].word()[:40]!r} is not known: bridge is")
    if "driver_opts" in fields:
        spec["options"] = {key: value or "" for key, value in fields["driver_opts"].pairs().items()}
    for field, name in (("internal", "internal"), ("enable_ipv6", "ipv6")):
        if field in fields:
            spec[name] = fields[field].truth()
    if "labels" in fields:
        spec["labels"] = {key: value or "" for key, value in fields["labels"].pairs().items()}
    if "ipam" in fields:
        spec["subnets"] = _subnets(_fields(fields["ipam"], ("config", "driver"), ignored), ignored)
    if "enable_ipv4" in fields and not fields["enable_ipv4"].truth():
        ignored.append(fields["enable_ipv4"].path)
    return spec


def _subnets(ipam: dict[str, Reader], ignored: list[str]) -> list[dict[str, Any]]:
    subnets = []
    for element in ipam["config"].elements() if "config" in ipam else []:
        fields = _fields(element, ("subnet", "gateway", "ip_range", "aux_addresses"), ignored)
        if "subnet" not in fields:
            raise element.refused("names no subnet")
        subnet: dict[str, Any] = {n: fields[n].word() for n in ("subnet", "gateway", "ip_range") if n in fields}
        if "aux_addresses" in fields:
            subnet["aux_addresses"] = {key: value or "" for key, value in fields["aux_addresses"].pairs().items()}
        subnets.append(subnet)
    return subnets


# ---- services


def _service(project: str, key: str, reader: Reader, ignored: list[str]) -> ServiceWish | None:
    """None for a service that belongs to a profile: those are only started when asked for."""
    everything = dict(reader.items())
    if "profiles" in everything and everything["profiles"].words():
        ignored.append(f"services.{key} (it belongs to a profile)")
        return None
    fields = _fields(reader, OF_A_SERVICE, ignored)
    how, place, command = _how(everything)
    spec = _network_words(key, fields, ignored)
    if how in PLACES and "network_mode" in fields:
        raise fields["network_mode"].refused("is for containers that are run: an attached one joins networks")
    spec |= _names_and_resolvers(fields)
    if "ports" in fields:
        spec["ports"] = [_publish(element, ignored) for element in fields["ports"].elements()]
    if "labels" in fields:
        spec["labels"] = {label: value or "" for label, value in fields["labels"].pairs().items()}
    if how == "run":
        spec |= {"command": command, **_program(fields)}
    else:
        ignored.extend(f"services.{key}.{f}" for f in ("command", "entrypoint", "environment") if f in fields)
    names = (fields["container_name"].word(),) if "container_name" in fields else _names(project, key)
    return ServiceWish(key, names, how, place, spec, _after(fields, spec, ignored))


def _names(project: str, key: str) -> tuple[str, ...]:
    return f"{project}-{key}-1", f"{project}_{key}_1", key


def _how(fields: dict[str, Reader]) -> tuple[Any, str, list[str]]:
    ours = dict(fields["x-vswitch"].items()) if "x-vswitch" in fields else {}
    for word in ours:
        if word not in (*PLACES, "command"):
            raise ours[word].refused(f"is none of command, {', '.join(PLACES)}")
    if len(ours) > 1:
        raise fields["x-vswitch"].refused("one of them is enough")
    if "command" in ours:
        return "run", "", _command(ours["command"])
    for word in PLACES:
        if word in ours:
            return word, str(ours[word].number()) if word == "pid" else ours[word].word(), []
    if "image" not in fields and "build" not in fields and ("command" in fields or "entrypoint" in fields):
        words = [w for name in ("entrypoint", "command") if name in fields for w in _command(fields[name])]
        if words:
            return "run", "", words
    return "there", "", []


def _command(reader: Reader) -> list[str]:
    """A list of words, or a text that is split as a shell splits it."""
    if reader.is_list() or reader.empty:
        return [element.text() for element in reader.elements()]
    try:
        return shlex.split(reader.text())
    except ValueError as error:
        raise reader.refused(f"cannot be split into words: {error}") from None


def _program(fields: dict[str, Reader]) -> dict[str, Any]:
    spec: dict[str, Any] = {"cap_add": [], "cap_drop": [], "environment": {}}
    for name in ("cap_add", "cap_drop"):
        if name in fields:
            spec[name] = fields[name].words()
    if "environment" in fields:
        pairs = fields["environment"].pairs()
        spec["environment"] = {key: value for key, value in pairs.items() if value is not None}
        if passed := [key for key, value in pairs.items() if value is None]:
            spec["passed"] = passed  # as the caller has them
    if "working_dir" in fields:
        spec["workdir"] = fields["working_dir"].word()
    return spec


def _names_and_resolvers(fields: dict[str, Reader]) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if "hostname" in fields:
        spec["hostname"] = fields["hostname"].word()
    for field, name in (("dns", "dns"), ("dns_search", "dns_search"), ("dns_opt", "dns_options")):
        if field in fields:
            spec[name] = fields[field].words()
    if "extra_hosts" in fields:
        spec["extra_hosts"] = _extra_hosts(fields["extra_hosts"])
    return spec


def _extra_hosts(reader: Reader) -> list[str]:
    """`HOST:ADDRESS`, `HOST=ADDRESS`, or a mapping of a host to an address or several."""
    if not reader.is_mapping():
        return [word.replace("=", ":", 1) if ":" not in word.partition("=")[0] else word for word in reader.words()]
    return [f"{host}:{address}" for host, inner in reader.items() for address in inner.words()]


def _network_words(key: str, fields: dict[str, Reader], ignored: list[str]) -> dict[str, Any]:
    mode = fields["network_mode"].word() if "network_mode" in fields else "bridge"
    if mode != "bridge":
        if "networks" in fields:
            raise fields["network_mode"].refused("goes with no networks")
        return {"network_mode": mode, "networks": []}
    joined = _attachments(fields["networks"], ignored) if "networks" in fields else []
    if not joined:
        joined = [{"network": DEFAULT, "aliases": []}]
    if "mac_address" in fields and "mac_address" not in joined[0]:
        joined[0]["mac_address"] = fields["mac_address"].word()
    for attachment in joined:
        attachment["aliases"] = list(dict.fromkeys([key, *attachment["aliases"]]))
    return {"networks": joined}


def _attachments(reader: Reader, ignored: list[str]) -> list[dict[str, Any]]:
    if not reader.is_mapping():
        words = reader.words()
        if len(set(words)) < len(words):
            raise reader.refused("names a network twice")
        return [{"network": word, "aliases": []} for word in words]
    joined = []
    for network, inner in reader.items():
        fields = _fields(inner, (*OF_AN_ATTACHMENT, "priority"), ignored)
        attachment: dict[str, Any] = {"network": network, "aliases": []}
        for field, name in OF_AN_ATTACHMENT.items():
            if field not in fields or fields[field].empty:
                continue
            plain = fields[field].words if name == "aliases" else fields[field].word
            attachment[name] = fields[field].number() if name == "gw_priority" else plain()
        if "priority" in fields and "gw_priority" not in attachment:
            attachment["gw_priority"] = fields["priority"].number()
        joined.append(attachment)
    return joined


def _publish(reader: Reader, ignored: list[str]) -> str:
    """The short form is a PUBLISH; the long one becomes one."""
    if not reader.is_mapping():
        return reader.publish()
    fields = _fields(reader, ("target", "published", "host_ip", "protocol", "name", "app_protocol"), ignored)
    if "target" not in fields:
        raise reader.refused("names no target port")
    host = fields["published"].word() if "published" in fields and not fields["published"].empty else ""
    address = fields["host_ip"].word() if "host_ip" in fields else ""
    protocol = fields["protocol"].word() if "protocol" in fields else "tcp"
    target = fields["target"].number()
    where = f"[{address}]" if ":" in address else address
    before = f"{where}:{host}:" if where else f"{host}:" if host else ""
    return reader.publish(f"{before}{target}/{protocol}")


def _after(fields: dict[str, Reader], spec: dict[str, Any], ignored: list[str]) -> tuple[str, ...]:
    """Which services come first."""
    if "depends_on" not in fields:
        first = []
    elif fields["depends_on"].is_mapping():
        first = []
        for key, inner in fields["depends_on"].items():
            first.append(key)
            conditions = _fields(inner, ("condition", "required"), ignored)
            if "condition" in conditions and conditions["condition"].word() != "service_started":
                ignored.append(conditions["condition"].path)
    else:
        first = fields["depends_on"].words()
    mode = spec.get("network_mode", "")
    if mode.startswith(SERVICE):
        first.append(mode.removeprefix(SERVICE))
    return tuple(dict.fromkeys(first))
