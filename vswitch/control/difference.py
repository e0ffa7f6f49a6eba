# SPDX-License-Identifier: Apache-2.0
"""What must be done so that what is becomes what shall be. Pure: two values in, a list of actions out.

    network_actions(desired, current)       what the dataplane, the DHCP server and the address pools are told
    interface_actions(desired, current)     what the helper does to a container's interfaces

The actions stand in the order in which they may be carried out one by one with containers running. `apply_network` and
`apply_interfaces` say what each list makes of `current`: `desired`. Equal values need no action, and the way back is
the same question asked the other way round.

    MTU grows       dataplane, then interfaces: nobody sends what would be dropped
    MTU shrinks     interfaces, then dataplane
    a default route moves       it is set at its new interface before it is taken from the old one
    a network becomes internal  its containers' default routes move before its way out closes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from vswitch.control.subnets import Subnet, SubnetPlan
from vswitch.control.wayout import WayOut
from vswitch.ports.interface import InterfacePlan


class Resolving(Struct, frozen=True):
    """Whether names resolve on a network, and what its containers' resolvers are told."""

    names: bool = True
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Advertising(Struct, frozen=True):
    """Whether a router advertises itself, and the /64 prefixes (8 bytes) in which containers make addresses."""

    on: bool = False
    prefixes: tuple[bytes, ...] = ()


class NetworkShape(Struct, frozen=True):
    """A network as everybody but the user sees it; `way_out` None: --internal."""

    mtu: int
    isolated: bool
    way_out: WayOut | None
    subnets: tuple[SubnetPlan, ...]
    resolving: Resolving
    advertising: Advertising = Advertising()


class SetMtu(Struct, frozen=True):
    """The longest packet that the dataplane lets through."""

    mtu: int


class SetIsolated(Struct, frozen=True):
    """Whether containers reach each other."""

    isolated: bool


class AddSubnet(Struct, frozen=True):
    """One more subnet, with its gateway and pool."""

    plan: SubnetPlan


class DropSubnet(Struct, frozen=True):
    """A subnet goes; nobody has an address in it."""

    plan: SubnetPlan


class ChangePool(Struct, frozen=True):
    """Another range, or other reserved addresses, in a subnet that stays."""

    plan: SubnetPlan


class SetWayOut(Struct, frozen=True):
    """How packets leave; None closes it."""

    way_out: WayOut | None


class SetResolving(Struct, frozen=True):
    """What resolvers are told."""

    resolving: Resolving


class SetAdvertising(Struct, frozen=True):
    """What crosses to the router, and which addresses containers make themselves."""

    advertising: Advertising


class SettleContainers(Struct, frozen=True):
    """Its containers' interfaces follow: `interface_actions` says how."""


NetworkAction = (
    SetMtu
    | SetIsolated
    | AddSubnet
    | DropSubnet
    | ChangePool
    | SetWayOut
    | SetResolving
    | SetAdvertising
    | SettleContainers
)


def network_actions(desired: NetworkShape, current: NetworkShape) -> list[NetworkAction]:
    """From `current` to `desired`."""
    if desired == current:
        return []
    before: list[NetworkAction] = []
    after: list[NetworkAction] = []
    if desired.isolated != current.isolated:
        before.append(SetIsolated(desired.isolated))
    before += _subnet_actions(desired, current)
    if desired.resolving != current.resolving:
        before.append(SetResolving(desired.resolving))
    if desired.advertising != current.advertising:
        before.append(SetAdvertising(desired.advertising))
    if desired.mtu != current.mtu:
        (before if desired.mtu > current.mtu else after).append(SetMtu(desired.mtu))
    if desired.way_out != current.way_out:
        (after if desired.way_out is None else before).append(SetWayOut(desired.way_out))
    gone = _subnets(current).keys() - _subnets(desired).keys()
    after += [DropSubnet(plan) for plan in current.subnets if plan.subnet in gone]
    follow = [SettleContainers()] if _touches_interfaces(desired, current) else []
    return [*before, *follow, *after]


def apply_network(current: NetworkShape, actions: Sequence[NetworkAction]) -> NetworkShape:
    """What the actions make of it."""
    for action in actions:
        current = _applied(current, action)
    return current


def _subnets(shape: NetworkShape) -> dict[Subnet, SubnetPlan]:
    return {plan.subnet: plan for plan in shape.subnets}


def _subnet_actions(desired: NetworkShape, current: NetworkShape) -> list[NetworkAction]:
    """Additions and changes. Another gateway makes it another subnet."""
    there = _subnets(current)
    actions: list[NetworkAction] = []
    for plan in desired.subnets:
        if plan.subnet not in there:
            actions.append(AddSubnet(plan))
        elif there[plan.subnet] != plan:
            actions.append(ChangePool(plan))
    return actions


def _touches_interfaces(desired: NetworkShape, current: NetworkShape) -> bool:
    """Whether a container would notice at its interface."""
    internal = (desired.way_out is None) != (current.way_out is None)
    making = bool(desired.advertising.prefixes) != bool(current.advertising.prefixes)
    return internal or making or desired.mtu != current.mtu or _subnets(desired).keys() != _subnets(current).keys()


def _applied(shape: NetworkShape, action: NetworkAction) -> NetworkShape:
    match action:
        case SetMtu(mtu=mtu):
            return replace(shape, mtu=mtu)
        case SetIsolated(isolated=isolated):
            return replace(shape, isolated=isolated)
        case SetWayOut(way_out=way_out):
            return replace(shape, way_out=way_out)
        case SetResolving(resolving=resolving):
            return replace(shape, resolving=resolving)
        case SetAdvertising(advertising=advertising):
            return replace(shape, advertising=advertising)
        case AddSubnet(plan=plan):
            return replace(shape, subnets=(*shape.subnets, plan))
        case ChangePool(plan=changed):
            kept = tuple(changed if plan.subnet == changed.subnet else plan for plan in shape.subnets)
            return replace(shape, subnets=kept)
        case DropSubnet(plan=gone):
            return replace(shape, subnets=tuple(plan for plan in shape.subnets if plan.subnet != gone.subnet))
    return shape


# ---- a container's interfaces, by endpoint id


class AddInterface(Struct, frozen=True):
    """An interface that isn't there."""

    endpoint: str
    plan: InterfacePlan


class ConfigureInterface(Struct, frozen=True):
    """An interface that is there becomes as planned."""

    endpoint: str
    plan: InterfacePlan


class RemoveInterface(Struct, frozen=True):
    """An interface goes, with its addresses and routes."""

    endpoint: str


InterfaceAction = AddInterface | ConfigureInterface | RemoveInterface
Plans = Mapping[str, InterfacePlan]


def interface_actions(desired: Plans, current: Mapping[str, InterfacePlan | None]) -> list[InterfaceAction]:
    """From `current` to `desired`; None in `current` is an interface that is there, nobody knows how."""
    added: list[InterfaceAction] = [AddInterface(e, plan) for e, plan in desired.items() if e not in current]
    changed = [(e, plan) for e, plan in desired.items() if e in current and current[e] != plan]
    changed.sort(key=lambda pair: not (pair[1].gateway4 or pair[1].gateway6))
    removed: list[InterfaceAction] = [RemoveInterface(e) for e in current if e not in desired]
    return [*added, *(ConfigureInterface(e, plan) for e, plan in changed), *removed]


def apply_interfaces(
    current: Mapping[str, InterfacePlan | None], actions: Sequence[InterfaceAction]
) -> dict[str, InterfacePlan | None]:
    """What the actions make of them."""
    plans = dict(current)
    for action in actions:
        match action:
            case AddInterface(endpoint=endpoint, plan=plan) | ConfigureInterface(endpoint=endpoint, plan=plan):
                plans[endpoint] = plan
            case RemoveInterface(endpoint=endpoint):
                del plans[endpoint]
    return plans
