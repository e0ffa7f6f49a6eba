# SPDX-License-Identifier: Apache-2.0
"""Which subnet a network gets: what a user asked for, checked, or a free one out of the pools. All is pure.

Everything that must not be overlapped (other networks, the host's routes) is handed in. A subnet that a user
names may overlap a host route, since he may know better; an automatic one never does.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from random import Random
from typing import NamedTuple, NoReturn

from vswitch.model import Refused, SubnetSpec

Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network

# No network can live here: these mean "this host", "everybody" or nothing, everywhere (RFC 6890, RFC 4291)
UNUSABLE: tuple[Subnet, ...] = (
    *(IPv4Network(subnet) for subnet in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4")),
    *(IPv6Network(subnet) for subnet in ("::/8", "fe80::/10", "ff00::/8")),
)
SUBNETS_LIMIT = 64  # per network: each costs a gateway binding in the dataplane; nobody lays out more on one segment
LONGEST_PREFIX = {4: 30, 6: 126}  # a gateway and at least one container must fit


class SubnetPool(NamedTuple):
    """A range that is cut into subnets of prefix length `size`."""

    base: Subnet
    size: int


class SubnetPlan(NamedTuple):
    """A subnet as a network has it: every field checked against the others."""

    subnet: Subnet
    gateway: Address
    ip_range: Subnet | None
    aux_addresses: Mapping[str, Address]


def plan_subnet(spec: SubnetSpec) -> SubnetPlan:
    """A user's wish as values; the gateway is the subnet's first address unless given. Refused if it cannot
    be.
    """
    subnet = parse_subnet(spec.subnet, "subnet")
    if subnet.prefixlen > LONGEST_PREFIX[subnet.version]:
        raise Refused(
            f"subnet {subnet} has no room for containers: use /{LONGEST_PREFIX[subnet.version]} or less"
        )
    if clash := overlapping(subnet, UNUSABLE):
        raise Refused(f"subnet {subnet} overlaps {clash}, which no network can use")
    gateway = subnet[1] if spec.gateway is None else _inside(subnet, spec.gateway, "gateway")
    ip_range = None if spec.ip_range is None else _part_of(subnet, spec.ip_range)
    aux = {name: _inside(subnet, text, f"aux address {name}") for name, text in spec.aux_addresses.items()}
    _refuse_twice({"gateway": gateway, **{f"aux address {name}": held for name, held in aux.items()}})
    return SubnetPlan(subnet, gateway, ip_range, aux)


def plan_subnets(
    specs: Sequence[SubnetSpec], others: Mapping[str, list[Subnet]], *, ipv6: bool, there: Container[Subnet] = ()
) -> list[SubnetPlan]:
    """The subnets that a user names for a network; `others` have other networks, `there` are those that it has already.
    Refused if they cannot be.
    """
    if len(specs) > SUBNETS_LIMIT:
        raise Refused(f"{len(specs)} subnets are too many for one network: at most {SUBNETS_LIMIT}")
    plans: list[SubnetPlan] = []
    for spec in specs:
        plan = plan_subnet(spec)
        if plan.subnet.version == 6 and not ipv6:
            raise Refused(f"subnet {plan.subnet} is IPv6: ask for --ipv6 too")
        if other := overlapping(plan.subnet, (earlier.subnet for earlier in plans)):
            raise Refused(f"subnet {plan.subnet} overlaps {other}, which is given too")
        for name, subnets in others.items() if plan.subnet not in there else ():
            if other := overlapping(plan.subnet, subnets):
                raise Refused(f"subnet {plan.subnet} overlaps {other} of network {name}: choose another", 409)
        plans.append(plan)
    return plans


def free_subnet(pools: Iterable[SubnetPool], taken: Iterable[Subnet]) -> Subnet | None:
    """The first subnet of the pools, in their order, that overlaps nothing taken; None if there is none."""
    spans: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for subnet in taken:
        spans[subnet.version].append(_span(subnet))
    for version in spans:
        spans[version].sort()
    for pool in pools:
        if (found := _first_free(pool, spans[pool.base.version])) is not None:
            return found
    return None


def random_local_subnet(random: Random, taken: Iterable[Subnet]) -> IPv6Network:
    """A unique local /64 with a random global ID (RFC 4193 §3.2) that overlaps nothing taken."""
    taken = list(taken)
    while True:
        subnet = IPv6Network((0xFD << 120 | random.getrandbits(40) << 80, 64))
        if overlapping(subnet, taken) is None:
            return subnet


def overlapping(subnet: Subnet, others: Iterable[Subnet]) -> Subnet | None:
    """The first of `others` that shares an address with `subnet`."""
    return next(
        (other for other in others if other.version == subnet.version and other.overlaps(subnet)), None
    )


def usable_span(subnet: Subnet) -> tuple[int, int]:
    """First and last address to hold: not the subnet's own (RFC 4291 §2.6.1), not IPv4's broadcast."""
    first, last = _span(subnet)
    return first + 1, last - 1 if subnet.version == 4 else last


def refuse_unusable(address: Address, subnet: Subnet, what: str) -> None:
    """Refused unless somebody in `subnet` can hold `address`."""
    if address not in subnet:
        raise Refused(f"{what} {address} is outside {subnet}")
    first, last = usable_span(subnet)
    if not first <= int(address) <= last:
        raise Refused(
            f"{what} {address} is the {'subnet' if int(address) < first else 'broadcast'} address of {subnet}"
        )


def wished_address(text: str, version: int, network: str, versions: Collection[int]) -> Address:
    """The address that a container wishes for on a network, which has subnets of these IP versions. Refused if it can
    be on none of them.
    """
    option = "ip" if version == 4 else "ip6"
    address = parse_address(text, f"--{option}")
    if address.version != version:
        raise Refused(f"--{option} {address} is IPv{address.version}: use --{'ip6' if version == 4 else 'ip'}")
    if version == 6 and version not in versions:
        raise Refused(f"network {network} has no IPv6 subnet: create it with --ipv6, or leave out --ip6")
    return address


def outside(address: Address, network: str, subnets: Iterable[Subnet]) -> Refused:
    """That no subnet of the network has the address."""
    return Refused(f"address {address} is outside network {network} ({', '.join(map(str, subnets))})")


def parse_subnet(text: str, what: str) -> Subnet:
    """`172.20.0.0/16` as a value. Refused if it is no subnet."""
    try:
        if "/" not in text:
            raise ValueError
        return ip_network(text)
    except ValueError:
        _explain_subnet(text, what)


def parse_address(text: str, what: str) -> Address:
    """`172.20.0.5` as a value. Refused if it is none; an IPv6 zone means nothing here."""
    try:
        address = ip_address(text)
    except ValueError:
        raise Refused(f"{what} {_shown(text)} is no address: write it like 172.20.0.5 or fd00::5") from None
    if getattr(address, "scope_id", None):
        raise Refused(f"{what} {_shown(text)} has a zone: write it without")
    return address


def _first_free(pool: SubnetPool, spans: list[tuple[int, int]]) -> Subnet | None:
    """One pass over the taken spans, sorted by their first address: each pushes the candidate past itself or
    ends it.
    """
    first, last = _span(pool.base)
    length = 1 << (pool.base.max_prefixlen - pool.size)
    candidate = first
    for taken_first, taken_last in spans:
        if candidate + length - 1 < taken_first:
            break
        if taken_last >= candidate:
            candidate = (taken_last // length + 1) * length
    return type(pool.base)((candidate, pool.size)) if candidate + length - 1 <= last else None


def _explain_subnet(text: str, what: str) -> NoReturn:
    """Name the subnet that was meant where only bits of a host are set."""
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise Refused(f"{what} {_shown(text)} is no subnet: write it like 172.20.0.0/16") from None
    raise Refused(f"{what} {text} is an address within a subnet: write the subnet, {meant}")


def _inside(subnet: Subnet, text: str, what: str) -> Address:
    address = parse_address(text, what)
    refuse_unusable(address, subnet, what)
    return address


def _part_of(subnet: Subnet, text: str) -> Subnet:
    ip_range = parse_subnet(text, "ip range")
    if ip_range.version != subnet.version or not ip_range.subnet_of(subnet):  # type: ignore[arg-type]
        raise Refused(f"ip range {ip_range} is outside {subnet}")
    return ip_range


def _refuse_twice(addresses: Mapping[str, Address]) -> None:
    seen: dict[Address, str] = {}
    for what, address in addresses.items():
        if address in seen:
            raise Refused(f"{what} {address} is the {seen[address]} too: choose another")
        seen[address] = what


def _span(subnet: Subnet) -> tuple[int, int]:
    return int(subnet.network_address), int(subnet.broadcast_address)


def _shown(text: str) -> str:
    """What a user wrote, as it may stand in one line."""
    return repr(text[:60])
