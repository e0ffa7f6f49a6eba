# SPDX-License-Identifier: Apache-2.0
"""What the switch would refuse of a plan, found before its first step: a container that is to be made anew is gone by
the time the switch is asked for the new one.

The steps are gone through on what there is, with the switch's own rules: names, subnets, addresses, MACs and host ports
that two would have. Not foreseen is what only the switch or the kernel knows: the host's routes, ports of other
programs, addresses and ports that are left to be chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from msgspec import Struct, ValidationError, convert

from vswitch.control.ipam import AddressPool
from vswitch.control.modes import BRIDGE, refuse_unfit
from vswitch.control.names import check_network_name, mac_bytes, mac_text
from vswitch.control.specs import check_attachment, check_container, internal
from vswitch.control.subnets import Address, Subnet, SubnetPlan, outside, plan_subnet, plan_subnets, wished_address
from vswitch.control.wayout import way_out
from vswitch.model import AttachmentSpec, ContainerSpec, NetworkSpec, PublishSpec, Refused, SubnetSpec
from vswitch.nat import publish

if TYPE_CHECKING:
    from vswitch.project.plan import Action, State


class Taken(Struct, frozen=True):
    """A host port that a container has."""

    container: str
    host_ip: str | None
    container_port: int


class Segment:
    """A network's addresses and MACs, and who has them."""

    def __init__(self, name: str, plans: Iterable[SubnetPlan], chosen: Iterable[int], asked: dict[str, Any]):
        """`chosen`: the IP versions of subnets that the switch is still to choose."""
        self.name = name
        self.pools = [AddressPool(plan) for plan in plans]
        self.chosen = set(chosen)
        self.macs: dict[bytes, str] = {}
        way = way_out(asked.get("options", {}), internal=asked.get("internal", False))
        self.internal = way is None
        self.binds = way is not None and way.binding4 is not None

    @property
    def subnets(self) -> list[Subnet]:
        return [pool.plan.subnet for pool in self.pools]

    def hold(self, wish: AttachmentSpec, holder: str) -> None:
        """Refused unless `holder` can have what it wishes for."""
        check_attachment(wish)
        versions = {subnet.version for subnet in self.subnets} | self.chosen
        for version, text in ((4, wish.ip), (6, wish.ip6)):
            if text is not None:
                self._reserve(wished_address(text, version, self.name, versions), holder)
        if wish.mac_address is not None:
            mac = mac_bytes(wish.mac_address)
            if (other := self.macs.setdefault(mac, holder)) != holder:
                taken = f"MAC address {mac_text(mac)} is in use by {other} on network {self.name}"
                raise Refused(f"{taken}: choose another")

    def _reserve(self, address: Address, holder: str) -> None:
        pool = next((pool for pool in self.pools if address in pool.plan.subnet), None)
        if pool is not None:
            pool.reserve(address, holder)
        elif address.version not in self.chosen:
            raise outside(address, self.name, self.subnets)

    def let_go(self, holder: str) -> None:
        """Nothing is `holder`'s any more."""
        for pool in self.pools:
            for address in pool.held_by(holder):
                pool.release(address)
        self.macs = {mac: other for mac, other in self.macs.items() if other != holder}


class Foresight:
    """What there is, and what it becomes step by step."""

    def __init__(self, state: State, keys: dict[str, str]):
        """`keys`: what the file calls the networks."""
        self._state = state
        self._keys = keys
        self._segments = {name: _there(view) for name, view in state.networks.items()}
        self._ports: dict[tuple[str, int], list[Taken]] = {}
        for container, ports in state.ports.items():
            for port in ports:
                taken = Taken(container, port["host_ip"], port["container_port"])
                self._ports.setdefault((port["protocol"], port["host_port"]), []).append(taken)

    def go(self, action: Action) -> None:
        """One step. Refused, with the key path, if the switch would refuse it."""
        with _at(action.where):
            if action.what == "network":
                self._network(action)
            elif action.verb in ("run", "attach"):
                self._come(action)
            elif action.verb in ("remove", "detach"):
                for segment in self._segments.values():
                    segment.let_go(action.name)
                self._close(action.name, None)
            elif action.verb == "connect":
                wish = {name: value for name, value in action.spec.items() if name != "container"}
                self._join(_as(AttachmentSpec, wish), action)
            elif action.verb == "disconnect":
                for segment in self._known([action.spec["network"]]):
                    segment.let_go(action.name)
            elif action.verb == "start":
                self._open(self._state.containers[action.name].spec.get("ports", ()), action, self._on(action.name))
            elif action.verb == "publish":
                self._open([action.spec["publish"]], action, self._on(action.name))
            elif action.verb == "unpublish":
                self._close(action.name, publish.parse(action.spec["publish"]))

    # ---- networks

    def _network(self, action: Action) -> None:
        if action.verb == "remove":
            del self._segments[action.name]
            return
        others = {name: segment.subnets for name, segment in self._segments.items() if name != action.name}
        if action.verb == "create":
            check_network_name(action.name)
            asked = _as(NetworkSpec, action.spec)
            plans = plan_subnets(asked.subnets, others, ipv6=asked.ipv6)
            chosen = {4, 6} if asked.ipv6 else {4}
            chosen -= {plan.subnet.version for plan in plans}
            self._segments[action.name] = Segment(action.name, plans, chosen, action.spec)
            return
        segment, view = self._segments[action.name], self._state.networks[action.name]
        ipv6 = action.spec.get("ipv6", view["ipv6"])
        subnets = _as(list[SubnetSpec], action.spec.get("subnets", []))
        plans = plan_subnets(subnets, others, ipv6=ipv6, there=segment.subnets)
        segment.pools += [AddressPool(plan) for plan in plans if plan.subnet not in segment.subnets]
        if ipv6 and not any(subnet.version == 6 for subnet in segment.subnets):
            segment.chosen.add(6)
        segment.internal = action.spec.get("internal", segment.internal)

    # ---- containers

    def _come(self, action: Action) -> None:
        spec = _as(ContainerSpec, {name: value for name, value in action.spec.items() if name != "passed"})
        check_container(spec)
        refuse_unfit(spec)
        for wish in spec.networks if spec.network_mode == BRIDGE else ():
            self._join(wish, action)
        joined = self._known(wish.network for wish in spec.networks)
        if spec.ports and joined and all(segment.internal for segment in joined):
            raise internal(segment.name for segment in joined)
        self._open(spec.ports, action, joined)

    def _known(self, names: Iterable[str]) -> list[Segment]:
        return [self._segments[name] for name in names if name in self._segments]

    def _on(self, container: str) -> list[Segment]:
        return self._known(endpoint["name"] for endpoint in self._state.containers[container].view["networks"])

    def _join(self, wish: AttachmentSpec, action: Action) -> None:
        key = self._keys.get(wish.network)
        with _at(f"{action.where}.networks.{key}" if key is not None else ""):
            if (segment := self._segments.get(wish.network)) is not None:
                segment.hold(wish, action.name)

    # ---- host ports

    def _open(self, texts: Iterable[str], action: Action, joined: Iterable[Segment]) -> None:
        """For a container on these networks."""
        anywhere = not any(segment.binds for segment in joined)  # all addresses, where none is said
        for text in texts:
            spec = publish.parse(text)
            if spec.host_port is None or spec.choices > 1 or (spec.host_ip is None and not anywhere):
                continue  # which one is decided by the switch
            for protocol, host_port, container_port in _single(spec):
                there = self._ports.setdefault((protocol, host_port), [])
                for other in there:
                    if publish.meet(spec.host_ip, other.host_ip):
                        itself = " itself" if other.container == action.name else ""
                        with _at(f"{action.where}.ports"):
                            raise Refused(
                                f"host port {host_port}/{protocol} is taken by container {other.container}{itself}:"
                                " choose another, or free it first"
                            )
                there.append(Taken(action.name, spec.host_ip, container_port))

    def _close(self, container: str, spec: PublishSpec | None) -> None:
        """All of a container's, or those of one PUBLISH."""
        for (protocol, host_port), there in self._ports.items():
            there[:] = [t for t in there if t.container != container or not _means(spec, protocol, host_port, t)]


def _there(view: dict[str, Any]) -> Segment:
    """A network that there is, with what its containers hold."""
    plans = [plan_subnet(_as(SubnetSpec, {n: v for n, v in s.items() if v})) for s in view["subnets"]]
    segment = Segment(view["name"], plans, (), view)
    for member in view["containers"]:
        for text in (member.get("ipv4"), member.get("ipv6")):
            address = ip_address(text.partition("/")[0]) if text else None
            for pool in segment.pools:
                if address is not None and address in pool.plan.subnet and pool.holder(address) is None:
                    pool.reserve(address, member["name"])
        if member.get("mac"):
            segment.macs[mac_bytes(member["mac"])] = member["name"]
    return segment


def _single(spec: PublishSpec) -> Iterator[tuple[str, int, int]]:
    """Its ports one by one: protocol, the host's, the container's."""
    for protocol in spec.protocols:
        for offset in range(spec.count):
            yield protocol, (spec.host_port or 0) + offset, spec.container_port + offset


def _means(spec: PublishSpec | None, protocol: str, host_port: int, taken: Taken) -> bool:
    if spec is None:
        return True
    inside = spec.container_port <= taken.container_port < spec.container_port + spec.count
    behind = spec.host_port is None or spec.choices > 1 or host_port - spec.host_port == (
        taken.container_port - spec.container_port
    )
    return protocol in spec.protocols and inside and behind and spec.host_ip in (None, taken.host_ip)


def _as(kind: Any, value: Any) -> Any:
    try:
        return convert(value, kind)
    except ValidationError as error:
        raise Refused(str(error)) from None


class _Placed(Refused):
    """A refusal that says where in the file."""


@contextmanager
def _at(where: str) -> Iterator[None]:
    """What is refused within says `where`, unless it says it more exactly already."""
    try:
        yield
    except _Placed:
        raise
    except Refused as refusal:
        if not where:
            raise
        raise _Placed(f"{where}: {refusal}", refusal.status) from None
