# SPDX-License-Identifier: Apache-2.0
"""What the switch makes of a plan's actions, as far as a plan looks at it: pure, state in, state out."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from msgspec.structs import replace

from vswitch.nat import publish
from vswitch.project.plan import Action, Held, Plan, State
from vswitch.project.wish import Project

SPEC_DEFAULTS: dict[str, Any] = {
    "name": None, "hostname": None, "network_mode": "bridge", "labels": {}, "command": None, "environment": {},
    "workdir": None, "dns": [], "dns_search": [], "dns_options": [], "extra_hosts": [], "cap_add": [], "cap_drop": [],
    "ports": [],
}  # fmt: skip


def carried_out(plan: Plan, state: State) -> State:
    for action in plan.actions:
        state = done(action, state)
    return state


def done(action: Action, state: State) -> State:
    """One action; what the switch would refuse is an AssertionError."""
    networks, containers = dict(state.networks), dict(state.containers)
    if action.what == "network":
        if action.verb == "create":
            assert action.name not in networks, "a network of that name exists"
            networks[action.name] = network_view(action.spec)
        elif action.verb == "update":
            networks[action.name] = updated(networks[action.name], action.spec)
        else:
            assert networks[action.name]["containers"] == [], "the network is in use"
            del networks[action.name]
    elif action.verb in ("run", "attach"):
        assert action.name not in containers, "a container of that name exists"
        containers[action.name] = held(action, networks)
    elif action.verb in ("remove", "detach"):
        attached = containers[action.name].view["command"] is None
        assert attached == (action.verb == "detach"), "wrong word for the kind of container"
        del containers[action.name]
    elif action.verb in ("connect", "disconnect"):
        containers[action.name] = joined(action, containers[action.name], networks)
    elif action.verb == "start":
        before = containers[action.name]
        assert before.view["state"] == "exited"
        containers[action.name] = replace(before, view={**before.view, "state": "running"})
    else:
        before = containers[action.name]
        text = publish.text_of(publish.parse(action.spec["publish"]))
        ports = before.spec["ports"]
        assert (text in ports) == (action.verb == "unpublish"), f"{action.verb} {text} of {ports}"
        ports = [p for p in ports if p != text] if action.verb == "unpublish" else [*ports, text]
        containers[action.name] = replace(before, spec={**before.spec, "ports": ports})
    return members_shown(replace(state, networks=networks, containers=containers))


def updated(view: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A NetworkUpdate's effect: null takes a label or option away, a subnet that is there gets ranges, others come."""
    view = {**view, **{name: change[name] for name in ("internal", "ipv6", "mtu") if name in change}}
    for name in ("labels", "options"):
        pairs = {**view[name], **change.get(name, {})}
        view[name] = {key: value for key, value in pairs.items() if value is not None}
    here = {subnet["subnet"]: subnet for subnet in view["subnets"]}
    for subnet in change.get("subnets", []):
        network = str(ip_network(subnet["subnet"], strict=False))
        here[network] = {"gateway": "", "ip_range": None, "aux_addresses": {}, **here.get(network, {}), **subnet}
        here[network]["subnet"] = network
    return {**view, "subnets": list(here.values())}


def joined(action: Action, container: Held, networks: dict[str, Any]) -> Held:
    network = action.spec["network"]
    on = {endpoint["name"]: endpoint for endpoint in container.view["networks"]}
    assert network in networks and (network in on) == (action.verb == "disconnect"), f"{action.verb} {network} of {on}"
    mode = container.spec["network_mode"]
    assert mode in ("bridge", "none"), "its network is somebody else's"
    if action.verb == "connect":
        on[network] = endpoint_view(action.spec)
    else:
        del on[network]
    mode = "bridge" if on else mode
    return replace(container, view={**container.view, "networks": list(on.values()), "network_mode": mode})


def endpoint_view(attachment: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": attachment["network"],
        "ipv4": f"{attachment.get('ip', '172.30.0.9')}/16",
        "ipv6": f"{attachment['ip6']}/64" if "ip6" in attachment else None,
        "mac": attachment.get("mac_address", "02:42:ac:1e:00:09"),
        "aliases": list(attachment["aliases"]),
        "gw_priority": attachment.get("gw_priority", 0),
    }


def network_view(spec: dict[str, Any]) -> dict[str, Any]:
    subnets = [
        {
            "gateway": "",
            "ip_range": None,
            "aux_addresses": {},
            **s,
            "subnet": str(ip_network(s["subnet"], strict=False)),
        }
        for s in spec.get("subnets", [])
    ]
    versions = {":" in subnet["subnet"] for subnet in subnets}
    if False not in versions:
        subnets.append({"subnet": "172.30.0.0/16", "gateway": "172.30.0.1", "ip_range": None})
    return {
        "name": spec["name"],
        "internal": spec.get("internal", False),
        "ipv6": spec.get("ipv6", False),
        "mtu": spec.get("mtu", 1500),
        "options": spec.get("options", {}),
        "labels": spec.get("labels", {}),
        "subnets": subnets,
        "containers": [],
    }


def held(action: Action, networks: dict[str, Any]) -> Held:
    spec = {**SPEC_DEFAULTS, **action.spec}
    spec["ports"] = [publish.text_of(publish.parse(text)) for text in spec["ports"]]
    attached = action.verb == "attach"
    assert attached == (spec["command"] is None)
    names = [attachment["network"] for attachment in spec["networks"]]
    assert len(set(names)) == len(names) and set(names) <= networks.keys(), f"networks {names} of {sorted(networks)}"
    view = {
        "name": action.name,
        "state": "running",
        "labels": spec["labels"],
        "command": spec["command"],
        "hostname": spec["hostname"] or "0123456789ab",
        "network_mode": spec["network_mode"],
        "networks": [endpoint_view(attachment) for attachment in spec["networks"]],
        "netns": action.place if action.how == "netns" else "/proc/7/ns/net",
        "pid": None if action.how == "netns" else int(action.place) if action.how == "pid" else 7,
        "remedy": None,
    }
    return Held(view, spec)


def members_shown(state: State) -> State:
    """Networks list who is on them, and ports are open."""
    on: dict[str, list[dict]] = {name: [] for name in state.networks}
    for name, container in state.containers.items():
        for endpoint in container.view["networks"]:
            on[endpoint["name"]].append({**endpoint, "name": name})
    networks = {name: {**view, "containers": on[name]} for name, view in state.networks.items()}
    running = {name: held for name, held in state.containers.items() if held.view["state"] == "running"}
    return replace(state, networks=networks, ports={name: open_ports(held) for name, held in running.items()})


def open_ports(container: Held) -> list[dict[str, Any]]:
    """Those whose number was asked for."""
    return [
        {
            "host_ip": port.host_ip,
            "host_port": port.host_port,
            "container_port": port.container_port,
            "protocol": port.protocols[0],
        }
        for port in map(publish.parse, container.spec["ports"])
        if port.host_port is not None
    ]


def satisfied(project: Project, state: State, *, exactly: bool) -> bool:
    """Whether everything is as the project wants; with `exactly`, nothing of its containers is beyond that.

    Written apart from plan.py on purpose.
    """
    for network in project.networks:
        if network.name not in state.networks:
            return False
    for service in project.services:
        there = [state.containers[name] for name in service.names if name in state.containers]
        if service.how == "there" and service.spec.get("network_mode"):
            continue  # it wants nothing of the switch
        if not there:
            if service.how == "run" or (service.how != "there" and service.spec.get("network_mode") is None):
                return False
            continue
        container = there[0]
        on = {endpoint["name"]: endpoint for endpoint in container.view["networks"]}
        wished = {attachment["network"]: attachment for attachment in service.spec["networks"]}
        if container.view["network_mode"] == "bridge" and not service.spec.get("network_mode"):
            if not wished.keys() <= on.keys() or (exactly and wished.keys() != on.keys()):
                return False
            for name, attachment in wished.items():
                aliases = set(attachment["aliases"]), set(on[name]["aliases"])
                if not aliases[0] <= aliases[1] or (exactly and aliases[0] != aliases[1]):
                    return False
                if "ip" in attachment and on[name]["ipv4"] != f"{attachment['ip']}/16":
                    return False
        ports = {publish.parse(text) for text in service.spec.get("ports", [])}
        open_ports = {publish.parse(text) for text in container.spec["ports"]}
        if not ports <= open_ports or (exactly and ports != open_ports):
            return False
        if "hostname" in service.spec and container.view["hostname"] != service.spec["hostname"]:
            return False
        if service.how == "run" and container.spec["command"] != service.spec["command"]:
            return False
        if container.view["state"] != "running":
            return False
    return True
