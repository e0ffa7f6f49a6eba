# SPDX-License-Identifier: Apache-2.0
"""What has to be done until there is what a project wants. Pure: the project and what there is in, actions out.

Containers that have to go come first, since others may have their addresses and ports; then networks, containers in
their order, and the networks that have to go. What is there already and fits is left alone, so carrying the actions out
leads to a state for which there is nothing to do. What the file does not name goes only if `prune` says so: whole
networks and containers of the project (known by their label), and the networks, aliases and ports that its containers
have beyond the file. What somebody else made under a name of the file is never taken over: a network without the
project's label, or a container that should be run here, is refused; a container that the file leaves to others to make
gets the file's networks and ports beside its own, and keeps the rest.

Networks, aliases and ports of a container change while it runs, and so does most of a network. Another program, host
name or resolver needs the container made anew: run again, or taken off the switch and attached again, which its
programs see as an interface that goes and comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from vswitch.model import Refused
from vswitch.nat import publish
from vswitch.project.foreseen import Foresight
from vswitch.project.wish import PART_LABEL, PROJECT_LABEL, SERVICE, NetworkWish, Project, ServiceWish

Verb = Literal[
    "create", "update", "run", "attach", "start", "connect", "disconnect", "publish", "unpublish", "detach", "remove"
]  # fmt: skip
SIGNS = {"create": "+", "run": "+", "attach": "+", "detach": "-", "remove": "-"}
# What of a program's specification makes it another program; what a file leaves out is as it stands here
OF_A_PROGRAM: dict[str, Any] = {
    "command": None, "environment": {}, "workdir": None, "cap_add": [], "cap_drop": [], "dns": [], "dns_search": [],
    "dns_options": [], "extra_hosts": [],
}  # fmt: skip
OF_AN_ATTACHED = ("extra_hosts",)
FIXED = (("ip", "ipv4"), ("ip6", "ipv6"), ("mac_address", "mac"))
TRUTHS = ("internal", "ipv6")


class Held(Struct, frozen=True):
    """A container that is there: what the API shows of it, and the specification to start it again."""

    view: dict[str, Any]
    spec: dict[str, Any]


class State(Struct, frozen=True):
    """What there is: networks and containers as the API shows them, by name; and the engine that has a container, of
    which name, for a service which has none at the switch, or why that one cannot be had (`troubles`). `ports` are the
    open ones of everybody, by container.
    """

    networks: dict[str, dict[str, Any]]
    containers: dict[str, Held]
    engines: dict[str, tuple[str, str]] = {}
    troubles: dict[str, str] = {}
    ports: dict[str, list[dict[str, Any]]] = {}


class Action(Struct, frozen=True):
    """One step. `spec` is what is asked for, `place` where a container comes from, `where` the file says so."""

    verb: Verb
    what: Literal["network", "container"]
    name: str
    why: str = ""
    spec: dict[str, Any] = {}
    how: str = ""
    place: str = ""
    where: str = ""

    @property
    def text(self) -> str:
        """The step in one line."""
        why = f": {self.why}" if self.why else ""
        return f"{SIGNS.get(self.verb, '~')} {self.verb} {self.what} {self.name}{why}"


class Plan(Struct, frozen=True):
    """Steps in their order; `waiting` is what the file wants and nobody has made yet, `left` what it names no more."""

    actions: tuple[Action, ...]
    waiting: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def plan(project: Project, state: State, *, prune: bool = False) -> Plan:
    """What to do. Refused where what is there is somebody else's, or cannot be changed, or a step would be refused."""
    actions: list[Action] = []
    for wish in project.networks:
        actions += _at(f"networks.{wish.key}", _network(project, wish, state, prune))
    waiting: list[str] = []
    awaited: list[Action] = []
    present: dict[str, str] = {}  # key → name at the switch, of those that are there or come
    for service in project.services:
        where = f"{project.called}.{service.key}"
        actions += _at(where, _container(project, service, state, prune, present, waiting))
        if service.key not in present:
            spec = _wanted(project, service, present)
            awaited.append(Action("attach", "container", spec["name"], spec=spec, where=where))
    joins = {s.key for s in project.services if s.how != "there" or s.spec.get("network_mode", "bridge") == "bridge"}
    going, left = _unnamed(project, state, {name for key, name in present.items() if key in joins}, prune)
    first = [action for action in going if action.what == "container"]
    steps = (*first, *actions, *going[len(first) :])
    foresight = Foresight(state, {wish.name: wish.key for wish in project.networks})
    for action in (*steps, *awaited):
        foresight.go(action)
    return Plan(steps, tuple(waiting), tuple(left))


def _at(where: str, actions: list[Action]) -> list[Action]:
    return [replace(action, where=where) for action in actions]


# ---- networks


def _network(project: Project, wish: NetworkWish, state: State, prune: bool) -> list[Action]:
    view = state.networks.get(wish.name)
    if wish.external:
        if view is None:
            raise Refused(f"network {wish.name} is external, so it must be there: `vswitch network create {wish.name}`")
        return []
    spec = {**wish.spec, "name": wish.name, "labels": {**wish.spec.get("labels", {}), **_ours(project, wish.key)}}
    create = Action("create", "network", wish.name, _subnets_text(wish.spec), spec)
    if view is None:
        return [create]
    if view["labels"].get(PROJECT_LABEL) != project.name:
        raise Refused(
            f"network {wish.name} exists and is not of project {project.name}: say external = true for it, or give"
            " it another name"
        )
    if not _subnets_can_stay(wish.spec.get("subnets", []), view["subnets"]):
        if view["containers"]:
            raise Refused(
                f"network {wish.name} has other subnets or gateways than the file says, and containers are on it:"
                " remove those first"
            )
        return [Action("remove", "network", wish.name, "subnets differ"), create]
    change = network_change(wish, view, prune=prune)
    return [Action("update", "network", wish.name, ", ".join(change), change)] if change else []


def _ours(project: Project, key: str) -> dict[str, str]:
    return {PROJECT_LABEL: project.name, PART_LABEL: key}


def _subnets_text(spec: dict[str, Any]) -> str:
    return ", ".join(subnet["subnet"] for subnet in spec.get("subnets", []))


def network_change(wish: NetworkWish, view: dict[str, Any], *, prune: bool) -> dict[str, Any]:
    """What of a network has to become another, as a NetworkUpdate; what the file leaves to the switch is as it is."""
    spec = wish.spec
    change: dict[str, Any] = {n: spec.get(n, False) for n in TRUTHS if spec.get(n, False) != view[n]}
    if "mtu" in spec and spec["mtu"] != view["mtu"]:
        change["mtu"] = spec["mtu"]
    ours = {PROJECT_LABEL, PART_LABEL}
    for name in ("labels", "options"):
        wished, there = spec.get(name, {}), view[name]
        pairs = {key: value for key, value in wished.items() if there.get(key) != value}
        if prune:
            pairs |= {key: None for key in there if key not in wished and key not in ours}
        if pairs:
            change[name] = pairs
    by_subnet = {_canonical(subnet["subnet"]): subnet for subnet in view["subnets"]}
    subnets = [s for s in spec.get("subnets", []) if not _subnet_fits(s, by_subnet.get(_canonical(s["subnet"])))]
    if subnets:
        change["subnets"] = subnets
    return change


def _subnet_fits(wished: dict[str, Any], there: dict[str, Any] | None) -> bool:
    if there is None or _told(wished, "ip_range") not in ("", _told(there, "ip_range")):
        return False
    return wished.get("aux_addresses", {}).items() <= there.get("aux_addresses", {}).items()


def _subnets_can_stay(wished: list[dict[str, Any]], there: list[dict[str, Any]]) -> bool:
    """Whether no gateway differs and there is no subnet of an IP version that the file names subnets of, but not this
    one: neither can change.
    """
    named = {_canonical(subnet["subnet"]): subnet for subnet in wished}
    versions = {":" in key for key in named}
    for subnet in there:
        key = _canonical(subnet["subnet"])
        if key not in named and (":" in key) in versions:
            return False
        if key in named and _told(named[key], "gateway") not in ("", _told(subnet, "gateway")):
            return False
    return True


def _told(subnet: dict[str, Any], field: str) -> str:
    value = subnet.get(field)
    return "" if value is None else _canonical(value)


def _canonical(text: str) -> str:
    """A subnet or address in its usual writing; what is none stays, for the switch to refuse."""
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        return text


# ---- containers


def _container(
    project: Project, service: ServiceWish, state: State, prune: bool, present: dict[str, str], waiting: list[str]
) -> list[Action]:
    name = _there(project, service, state)
    present[service.key] = name or service.names[0]
    wanted = _wanted(project, service, present)
    if service.how == "there" and wanted.get("network_mode", "bridge") != "bridge":
        return []  # it wants nothing of the switch
    if name is None:
        return _new(service, wanted, state, present, waiting)
    held = state.containers[name]
    _refuse_foreign(project, service, held)
    if why := _elsewhere(service, held):
        return [_away(held, why), *_new(service, wanted, state, present, waiting)]
    if held.view["state"] == "orphaned":
        waiting.append(f"{service.key}: container {name} is orphaned: {held.view.get('remedy') or 'attach it again'}")
        return []
    own = held.view["labels"].get(PROJECT_LABEL) == project.name
    if differing := container_differences(service, wanted, held):
        if own:
            return _anew(service, {**wanted, "name": name}, held, differing, prune)
        stays = " and ".join(differing)
        waiting.append(f"{service.key}: container {name} was made by somebody else, who alone can change its {stays}")
    prune = prune and own
    start = [Action("start", "container", name)] if held.view["state"] == "exited" else []
    if start:  # a stopped one has networks, but no open ports
        return [*_attachments(name, wanted, held, prune), *start, *_ports(name, wanted, held, prune)]
    return [*_attachments(name, wanted, held, prune), *_ports(name, wanted, held, prune)]


def _there(project: Project, service: ServiceWish, state: State) -> str | None:
    """The name of the container that the service is already."""
    ours = _ours(project, service.key)
    names = service.names if service.how == "there" else service.names[:1]
    labelled = (name for name, held in state.containers.items() if ours.items() <= held.view["labels"].items())
    return next((name for name in (*names, *labelled) if name in state.containers), None)


def _wanted(project: Project, service: ServiceWish, present: dict[str, str]) -> dict[str, Any]:
    """The specification to ask for; another service's network by that one's container."""
    spec = {**service.spec, "name": service.names[0]}
    spec["labels"] = {**spec.get("labels", {}), **_ours(project, service.key)}
    mode = spec.get("network_mode", "bridge")
    if mode.startswith(SERVICE):
        other = mode.removeprefix(SERVICE)
        if other not in present:
            raise Refused(f"{service.key}: {mode} names nothing that this file describes")
        spec["network_mode"] = f"container:{present[other]}"
    return spec


def _new(
    service: ServiceWish, wanted: dict[str, Any], state: State, present: dict[str, str], waiting: list[str]
) -> list[Action]:
    name = wanted["name"]
    if service.how == "run":
        return [Action("run", "container", name, _summary(wanted), wanted)]
    how, place = service.how, service.place
    if how == "there":
        how, place = state.engines.get(service.key, ("", ""))
    if not how:
        del present[service.key]
        unknown = f"no container is called {' or '.join(service.names)}: have one made with --network none"
        waiting.append(f"{service.key}: {state.troubles.get(service.key, unknown)}, then apply again")
        return []
    return [Action("attach", "container", name, _summary(wanted), wanted, how, place)]


def _summary(spec: dict[str, Any]) -> str:
    program = " ".join(spec.get("command") or [])
    networks = ", ".join(a["network"] for a in spec["networks"]) or spec.get("network_mode", "")
    ports = f", ports {', '.join(spec['ports'])}" if spec.get("ports") else ""
    return f"{program[:40] + ' ' if program else ''}on {networks}{ports}"


def _refuse_foreign(project: Project, service: ServiceWish, held: Held) -> None:
    """What is to be run here must be the project's own."""
    ours = held.view["labels"].get(PROJECT_LABEL) == project.name
    if service.how != "there" and not ours:
        raise Refused(
            f"container {held.view['name']} exists and is not of project {project.name}: remove it, or give"
            f" {service.key} another name"
        )


def _elsewhere(service: ServiceWish, held: Held) -> str:
    """Why a container is another one than the file means: run instead of attached, or of another namespace."""
    view = held.view
    if service.how == "there":
        return ""
    if (service.how == "run") != (view["command"] is not None):
        return "it is to be run" if service.how == "run" else "it is to be attached"
    if service.how == "pid" and str(view["pid"]) != service.place:
        return f"it is process {view['pid']}"
    suffix = service.place if "/" in service.place else f"/{service.place}"
    if service.how == "netns" and not (view["netns"] or "").endswith(suffix):
        return f"it is namespace {view['netns']}"
    return ""


def _away(held: Held, why: str) -> Action:
    return Action("detach" if held.view["command"] is None else "remove", "container", held.view["name"], why)


def container_differences(service: ServiceWish, wanted: dict[str, Any], held: Held) -> list[str]:
    """Why a container has to be made anew: what of it is not as the file says."""
    spec, view = held.spec, held.view
    differing = []
    if service.how == "run":
        differing += [name for name, unsaid in OF_A_PROGRAM.items() if not _same(name, wanted, spec, unsaid)]
    else:
        differing += [name for name in OF_AN_ATTACHED if name in wanted and wanted[name] != spec.get(name, [])]
    if "hostname" in wanted and wanted["hostname"] != view["hostname"]:
        differing.append("hostname")
    if not service.spec.get("labels", {}).items() <= view["labels"].items():
        differing.append("labels")
    mode = wanted.get("network_mode", "bridge")
    if service.how == "run" and mode != view.get("network_mode", "bridge"):
        differing.append("network_mode")
    return differing


def _same(name: str, wanted: dict[str, Any], spec: dict[str, Any], unsaid: Any) -> bool:
    there = spec.get(name, unsaid)
    if name == "workdir" and name not in wanted:
        return True
    return wanted.get(name, unsaid) == there


def _attachments(name: str, wanted: dict[str, Any], held: Held, prune: bool) -> list[Action]:
    """Networks to join and leave; one that is joined otherwise than wanted is left and joined again."""
    if wanted.get("network_mode", "bridge") != "bridge":
        return []
    mode = held.view.get("network_mode", "bridge")
    if mode not in ("bridge", "none"):
        raise Refused(
            f"container {name} has the network of {mode} and cannot join others: run it anew, or leave it out"
        )
    there = {endpoint["name"]: endpoint for endpoint in held.view["networks"]}
    wished = {attachment["network"]: attachment for attachment in wanted["networks"]}
    misfits = [n for n, w in wished.items() if n in there and not _fits(w, there[n], prune)]
    leaving = misfits + ([n for n in there if n not in wished] if prune else [])
    joining = [w for n, w in wished.items() if n not in there or n in misfits]
    return [_attachment("disconnect", name, {"network": network}) for network in leaving] + [
        _attachment("connect", name, attachment) for attachment in joining
    ]


def _attachment(verb: Verb, name: str, attachment: dict[str, Any]) -> Action:
    network = attachment["network"]
    return Action(verb, "container", name, network, {**attachment, "container": name})


def _fits(wished: dict[str, Any], endpoint: dict[str, Any], prune: bool) -> bool:
    for name, shown in FIXED:
        if name in wished and _plain(wished[name]) != _plain((endpoint[shown] or "").partition("/")[0]):
            return False
    if "gw_priority" in wished and wished["gw_priority"] != endpoint.get("gw_priority", 0):
        return False
    aliases = set(wished["aliases"]), set(endpoint["aliases"])
    return aliases[0] == aliases[1] if prune else aliases[0] <= aliases[1]


def _plain(text: str) -> str:
    return _canonical(text.lower().replace("-", ":"))


def _anew(service: ServiceWish, wanted: dict[str, Any], held: Held, differing: list[str], prune: bool) -> list[Action]:
    """Away and back, with what the file says and, unless it is to go, what else there is."""
    name, why = held.view["name"], f"{', '.join(differing)} differ"
    spec = wanted if prune else {**wanted, **_beyond(wanted, held)}
    if held.view["command"] is None:
        how = "netns" if held.view["netns"] and not held.view["pid"] else "pid"
        place = held.view["netns"] if how == "netns" else str(held.view["pid"])
        kept = {"hostname": held.view["hostname"], "labels": {**held.view["labels"], **wanted["labels"]}}
        again = Action(
            "attach", "container", name, _summary(spec), {**kept, **spec, "labels": kept["labels"]}, how, place
        )
        return [_away(held, why), again]
    if service.how != "run":  # it was run for an earlier file, and this one doesn't say with which program
        names = {"labels": {**held.view["labels"], **wanted["labels"]}}
        spec = {**held.spec, "network_mode": "bridge", **spec, **names}
    return [_away(held, why), Action("run", "container", name, _summary(spec), spec)]


def _beyond(wanted: dict[str, Any], held: Held) -> dict[str, Any]:
    """Networks and ports that a container has and the file does not name."""
    if wanted.get("network_mode", "bridge") != "bridge":
        return {}
    named = {attachment["network"] for attachment in wanted["networks"]}
    networks = [
        {"network": endpoint["name"], "aliases": endpoint["aliases"]}
        for endpoint in held.view["networks"]
        if endpoint["name"] not in named
    ]
    _, extra = _port_differences(wanted, held)
    return {
        "networks": [*wanted["networks"], *networks],
        "ports": [*wanted.get("ports", []), *map(publish.text_of, extra)],
    }


def _ports(name: str, wanted: dict[str, Any], held: Held, prune: bool) -> list[Action]:
    missing, extra = _port_differences(wanted, held)
    going = [_port("unpublish", name, spec) for spec in extra] if prune else []
    return going + [_port("publish", name, spec) for spec in missing]


def _port(verb: Verb, name: str, port: Any) -> Action:
    text = publish.text_of(port)
    return Action(verb, "container", name, text, {"publish": text})


def _port_differences(wanted: dict[str, Any], held: Held) -> tuple[list[Any], list[Any]]:
    wished = [publish.parse(text) for text in wanted.get("ports", [])]
    there = [publish.parse(text) for text in held.spec.get("ports", [])]
    return [p for p in dict.fromkeys(wished) if p not in there], [p for p in dict.fromkeys(there) if p not in wished]


# ---- what the file does not name


def _unnamed(project: Project, state: State, present: Iterable[str], prune: bool) -> tuple[list[Action], list[str]]:
    """The project's containers and networks that the file names no more: what to do, or what to tell."""
    why = "the file does not name it"
    networks = {wish.name for wish in project.networks}
    actions, left = [], []
    for name, held in state.containers.items():
        if held.view["labels"].get(PROJECT_LABEL) == project.name and name not in present:
            actions.append(_away(held, why))
    gone = {action.name for action in actions} | set(present)
    for name, view in state.networks.items():
        if view["labels"].get(PROJECT_LABEL) == project.name and name not in networks:
            users = [member["name"] for member in view["containers"] if member["name"] not in gone]
            if users and prune:
                left.append(f"network {name} (in use by {', '.join(users)})")
            else:
                actions.append(Action("remove", "network", name, why))
    return (actions, left) if prune else ([], [f"{action.what} {action.name}" for action in actions])
