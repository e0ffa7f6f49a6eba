# SPDX-License-Identifier: Apache-2.0
"""A network: how a wish becomes a record, and what is known of it while the switch runs.

`plan_network` and `plan_change` are pure: everything that they must not collide with is handed in. A `Network` holds
its subnets' address pools, the MACs in use on it and who is on it; all reservations are made and given back without an
await in between, so two requests at the same moment never get the same address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from random import Random
from typing import NamedTuple

from msgspec.structs import replace

from vswitch.config import PoolsSettings
from vswitch.control.difference import Advertising, NetworkShape, Resolving
from vswitch.control.hostconfig import OFF, HostConfig, host_config, refuse_unreachable
from vswitch.control.ipam import AddressPool
from vswitch.control.names import check_network_name, link_local
from vswitch.control.records import EndpointRecord, NetworkRecord
from vswitch.control.resolverwords import check_resolver_words
from vswitch.control.subnets import (
    SUBNETS_LIMIT,
    Address,
    Subnet,
    SubnetPlan,
    SubnetPool,
    free_subnet,
    outside,
    parse_address,
    plan_subnet,
    plan_subnets,
    random_local_subnet,
)
from vswitch.control.wayout import WayOut, isolated, named_options, refuse_strange, way_out
from vswitch.model import NetworkSpec, Refused, SubnetSpec

DEFAULT = "default"  # the network that a container joins without naming one
AUTONOMOUS_LIMIT = 8  # prefixes for autoconfiguration, as the dataplane has room for
SMALLEST_MTU, LARGEST_MTU = 68, 65520  # RFC 791 §3.2; what a TAP carries
SMALLEST_IPV6_MTU = 1280  # RFC 8200 §5


class Surroundings(NamedTuple):
    """What a new network must fit in with."""

    networks: Mapping[str, list[Subnet]]  # name → subnets
    routes: list[Subnet]  # the host's; default routes are not among them
    pools: PoolsSettings
    addresses: Sequence[bytes] = ()  # the host's own
    interfaces: Sequence[str] = ()


def plan_network(
    asked: NetworkSpec, around: Surroundings, *, identity: str, created_at: float, random: Random
) -> NetworkRecord:
    """The network that `asked` becomes. Refused if it cannot be."""
    check_network_name(asked.name)
    _check_options(asked, around)
    subnets = _wished_subnets(asked, around)
    if not any(plan.subnet.version == 4 for plan in subnets):
        subnets.append(_automatic(_free_ipv4(around)))
    if asked.ipv6 and not any(plan.subnet.version == 6 for plan in subnets):
        subnets.append(_automatic(_free_ipv6(around, random)))
    _check_hosts(asked, subnets)
    return NetworkRecord(
        id=identity,
        name=asked.name,
        asked=asked,
        mtu=_mtu(asked),
        subnets=[_as_spec(plan) for plan in subnets],
        created_at=created_at,
    )


def plan_change(record: NetworkRecord, asked: NetworkSpec, around: Surroundings, random: Random) -> NetworkRecord:
    """A network that is there as `asked` from now on. Refused if that cannot be done with containers on it.

    Its subnets stay, with the ranges and reserved addresses that `asked` gives them; others in `asked` are added.
    """
    if asked.name != record.name or asked.driver != record.asked.driver:
        raise Refused("a network's name and driver can't be changed: create another network")
    _check_options(asked, around)
    there = {plan.subnet: plan for plan in map(plan_subnet, record.subnets)}
    others = around._replace(networks={n: s for n, s in around.networks.items() if n != record.name})
    for plan in _wished_subnets(asked, others, there):
        there[plan.subnet] = _joined(there.get(plan.subnet), plan)
    if len(there) > SUBNETS_LIMIT:
        raise Refused(f"{len(there)} subnets are too many for one network: at most {SUBNETS_LIMIT}")
    six = [plan.subnet for plan in there.values() if plan.subnet.version == 6]
    if six and not asked.ipv6:
        raise Refused(f"network {record.name} has IPv6 subnet {six[0]}, which can't be taken away: create another", 409)
    if asked.ipv6 and not six:
        subnet = _free_ipv6(around, random)
        there[subnet] = _automatic(subnet)
    _check_hosts(asked, list(there.values()))
    if host_config(named_options(asked.options)).dhcp != _hosts(record).dhcp:
        raise Refused("network option dhcp can't be changed: create another network")
    subnets = [_as_spec(plan) for plan in there.values()]
    return replace(record, asked=asked, mtu=_mtu(asked), subnets=subnets)


def _check_hosts(asked: NetworkSpec, subnets: Sequence[SubnetPlan]) -> None:
    """Refused unless what hosts are to be told fits the network."""
    named = named_options(asked.options)
    refuse_unreachable(host_config(named), subnets, ipv6=asked.ipv6, named=named)


def _joined(former: SubnetPlan | None, plan: SubnetPlan) -> SubnetPlan:
    """A subnet as it is to be; its gateway has to stay, since every container has it in its routes."""
    if former is not None and former.gateway != plan.gateway:
        raise Refused(f"subnet {plan.subnet} has gateway {former.gateway}, which can't be changed: add another subnet")
    return plan


def shape_of(record: NetworkRecord) -> NetworkShape:
    """What the rest of the switch sees of it."""
    asked = record.asked
    return NetworkShape(
        mtu=record.mtu,
        isolated=isolated(asked.options),
        way_out=way_out(asked.options, internal=asked.internal),
        subnets=tuple(map(plan_subnet, record.subnets)),
        resolving=Resolving(
            asked.dns, tuple(asked.dns_servers), tuple(asked.dns_search), tuple(asked.dns_options)
        ),
        advertising=_advertising(_hosts(record), [plan_subnet(spec).subnet for spec in record.subnets]),
    )


def _hosts(record: NetworkRecord) -> HostConfig:
    """What a network's hosts are told, by its options."""
    return host_config(named_options(record.asked.options))


def _advertising(hosts: HostConfig, subnets: Sequence[Subnet]) -> Advertising:
    """Whether a router advertises itself, and the /64 prefixes in which containers make themselves addresses."""
    six = [subnet for subnet in subnets if subnet.version == 6]
    if not six or hosts.ra_mode == OFF:
        return Advertising()
    made = [s.network_address.packed[:8] for s in six if s.prefixlen == 64] if hosts.autonomous else []
    return Advertising(True, tuple(made[:AUTONOMOUS_LIMIT]))


def _check_options(asked: NetworkSpec, around: Surroundings) -> None:
    """Refused unless the options can be so, on this host."""
    isolated(asked.options)
    check_resolver_words(asked.dns_servers, asked.dns_search, asked.dns_options)
    way = way_out(asked.options, internal=asked.internal)
    if way is not None:
        refuse_strange(way, around.addresses, around.interfaces)


def _mtu(asked: NetworkSpec) -> int:
    mtu = asked.mtu
    if (value := named_options(asked.options).get("mtu")) is not None:
        if not value.isascii() or not value.isdigit():
            raise Refused(f"network option mtu must be a number, not {value[:40]!r}")
        mtu = int(value[:9])
    smallest = SMALLEST_IPV6_MTU if asked.ipv6 else SMALLEST_MTU
    if not smallest <= mtu <= LARGEST_MTU:
        raise Refused(
            f"MTU {mtu} is out of range: {smallest} to {LARGEST_MTU}{' with IPv6' if asked.ipv6 else ''}"
        )
    return mtu


def _wished_subnets(
    asked: NetworkSpec, around: Surroundings, there: Container[Subnet] = ()
) -> list[SubnetPlan]:
    """The subnets that the user names; `there` are those that the network has already."""
    return plan_subnets(asked.subnets, around.networks, ipv6=asked.ipv6, there=there)


def _free_ipv4(around: Surroundings) -> Subnet:
    pools = [SubnetPool(IPv4Network(pool.base), pool.size) for pool in around.pools.ipv4]
    return _free(pools, around, "--subnet 10.1.0.0/24")


def _free_ipv6(around: Surroundings, random: Random) -> Subnet:
    if not around.pools.ipv6:
        return random_local_subnet(random, _taken(around))
    pools = [SubnetPool(IPv6Network(pool.base), pool.size) for pool in around.pools.ipv6]
    return _free(pools, around, "--subnet fd00:1::/64")


def _free(pools: list[SubnetPool], around: Surroundings, example: str) -> Subnet:
    subnet = free_subnet(pools, _taken(around))
    if subnet is None:
        raise Refused(
            f"no subnet of the address pools is free: name one ({example}) or extend [pools]",
            507,
        )
    return subnet


def _taken(around: Surroundings) -> list[Subnet]:
    return [*around.routes, *(subnet for subnets in around.networks.values() for subnet in subnets)]


def _automatic(subnet: Subnet) -> SubnetPlan:
    return SubnetPlan(subnet, subnet[1], None, {})


def _as_spec(plan: SubnetPlan) -> SubnetSpec:
    return SubnetSpec(
        subnet=str(plan.subnet),
        gateway=str(plan.gateway),
        ip_range=None if plan.ip_range is None else str(plan.ip_range),
        aux_addresses={name: str(address) for name, address in plan.aux_addresses.items()},
    )


class Network:
    """A network while the switch runs; `index` is the dataplane's number for it."""

    def __init__(self, record: NetworkRecord, index: int, last: Mapping[str, str]):
        """`last` has, per subnet, the address that was handed out last before a restart."""
        self.record = record
        self.index = index
        self.shape = shape_of(record)
        self.hosts = _hosts(record)  # what they are told by DHCP and RA
        self.lock = asyncio.Lock()  # held by whoever changes or removes it
        self.overlaps: dict[Subnet, list[Subnet]] = {}  # of its subnets with routes of the host's
        self.closed: set[Subnet] = set()  # subnets that are only being added: nobody gets an address there
        self.ready = False  # the dataplane knows it, and it is in the store
        self.leaving = False
        self.pools = [
            AddressPool(
                plan_subnet(spec), parse_address(last[spec.subnet], "stored") if spec.subnet in last else None
            )
            for spec in record.subnets
        ]
        for mac, address in self.hosts.reservations.items():
            self.reserve(address, _reservation(mac))
        self.endpoints: dict[str, EndpointRecord] = {}  # those of stopped containers too
        self.gateway_mac = b"\x02\x42" + next(iter(self.gateways(4))).packed
        self.macs: dict[bytes, str] = {self.gateway_mac: "the gateway"}

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def way_out(self) -> WayOut | None:
        """How its packets leave it; None: they don't."""
        return self.shape.way_out

    def become(self, record: NetworkRecord) -> None:
        """Be as `record` says. Subnets that are new stay closed until `open`. Refused, and then nothing has changed."""
        shape = shape_of(record)
        there = {pool.plan.subnet: pool for pool in self.pools}
        pools = [there.get(plan.subnet) or AddressPool(plan) for plan in shape.subnets]
        done: list[tuple[AddressPool, SubnetPlan]] = []
        hosts, former_hosts, held = _hosts(record), self.hosts, []
        try:
            for pool, plan in zip(pools, shape.subnets, strict=True):
                former = pool.plan
                if former != plan:
                    pool.replan(plan)
                    done.append((pool, former))
            for mac, address in hosts.reservations.items():
                if former_hosts.reservations.get(mac) != address:
                    pool = next(pool for pool in pools if address in pool.plan.subnet)
                    pool.reserve(address, _reservation(mac))
                    held.append((pool, address))
        except Refused:
            for pool, address in held:
                pool.release(address)
            for pool, former in done:
                pool.replan(former)
            raise
        for mac, address in former_hosts.reservations.items():
            if hosts.reservations.get(mac) != address:
                self.release(address)
        self.hosts = hosts
        self.record, self.shape, self.pools = record, shape, pools
        self.closed = {*self.closed, *(pool.plan.subnet for pool in pools if pool.plan.subnet not in there)}
        self.closed &= set(self.subnets)

    def open(self) -> None:
        """Its new subnets give out addresses."""
        self.closed.clear()

    @property
    def subnets(self) -> list[Subnet]:
        return [pool.plan.subnet for pool in self.pools]

    @property
    def advertised(self) -> bool:
        """Whether its router advertises itself, and DHCPv6 is served."""
        return self.shape.advertising.on

    def gateways(self, *versions: int) -> Iterable[Address]:
        """The gateway's address in each subnet, of the given IP versions or of all."""
        return [
            pool.plan.gateway for pool in self.pools if not versions or pool.plan.gateway.version in versions
        ]

    def bound(self) -> list[Address]:
        """All addresses that the gateway answers for: its own, and the link-local one where there is IPv6."""
        addresses = list(self.gateways())
        if any(address.version == 6 for address in addresses):
            addresses.append(link_local(self.gateway_mac))
        return addresses

    def pool_of(self, address: Address) -> AddressPool | None:
        """The pool of the subnet that `address` lies in."""
        return next((pool for pool in self.pools if address in pool.plan.subnet), None)

    def allocate(self, version: int, holder: str) -> Address | None:
        """The next free address of one IP version; None if the network has none. Refused with 507 if all are
        held.
        """
        pools = [p for p in self.pools if p.plan.subnet.version == version and p.plan.subnet not in self.closed]
        if not pools:
            return None
        return next((pool for pool in pools if not pool.full), pools[-1]).allocate(holder)

    def reserve(self, address: Address, holder: str) -> None:
        """Hold one particular address. Refused if it is outside or in use."""
        pool = self.pool_of(address)
        if pool is None or pool.plan.subnet in self.closed:
            raise outside(address, self.name, self.subnets)
        pool.reserve(address, holder)

    def release(self, address: Address) -> None:
        """Let nobody hold it."""
        if (pool := self.pool_of(address)) is not None:
            pool.release(address)

    def with_prefix(self, address: str) -> str:
        """`172.17.0.2/16` for an address of this network."""
        version = 6 if ":" in address else 4
        pools = [pool for pool in self.pools if pool.plan.subnet.version == version]
        pool = pools[0] if len(pools) == 1 else self.pool_of(ip_address(address))
        return f"{address}/{pool.plan.subnet.prefixlen}" if pool is not None else address

    def gateway_for(self, address: str | None) -> str | None:
        """The gateway of the subnet that `address` lies in."""
        pool = None if address is None else self.pool_of(ip_address(address))
        return None if pool is None else str(pool.plan.gateway)

    def cursors(self) -> dict[str, str]:
        """What to hand in as `last` after a restart."""
        return {str(pool.plan.subnet): str(pool.last) for pool in self.pools if pool.last is not None}


def _reservation(mac: bytes) -> str:
    """Who holds a reserved address."""
    return f"the DHCP reservation of {mac.hex(':')}"
