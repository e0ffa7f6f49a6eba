# SPDX-License-Identifier: Apache-2.0
"""The default network: it is as [default_network] says, at the start and whenever the settings are read again.

What can change with containers running does (changing.py). Another subnet or gateway can't: an unused network is made
anew, a used one stays as it is, which is logged.
"""

from __future__ import annotations

import logging
from ipaddress import IPv4Interface
from random import Random

from vswitch.config import DefaultNetworkSettings, Settings
from vswitch.control.changing import Changing
from vswitch.control.edges import Parts
from vswitch.control.host import ProcHost
from vswitch.control.hostaddresses import read_addresses
from vswitch.control.jobs import Job
from vswitch.control.networks import DEFAULT, Network, Surroundings, plan_network
from vswitch.control.segments import Segments
from vswitch.control.subnets import plan_subnet
from vswitch.model import NetworkSpec, Refused, SubnetSpec

log = logging.getLogger(__name__)


class DefaultNetwork:
    """What keeps it in line with the settings."""

    def __init__(self, parts: Parts, segments: Segments, changing: Changing):
        self._parts = parts
        self._segments = segments
        self._changing = changing

    async def settle(self, settings: DefaultNetworkSettings, job: Job) -> None:
        """Bring it in line; a used one that can't be is left as it is, which is logged.

        Refused where the settings name a subnet that cannot be had. Without a free subnet in the pools there
        is no default network, and the log says why.
        """
        wanted = default_network(settings)
        existing = self._parts.inventory.network_ids.get(DEFAULT)
        if existing is not None:
            network = self._parts.inventory.networks[existing]
            if settings.enabled and network.record.asked == wanted:
                return
            if settings.enabled and await self._changed(network, wanted, job):
                return
            if network.endpoints:
                log.warning("the default network is in use, so its changed settings wait until it is not")
                return
            await self._segments.unmake(network)
        if settings.enabled:
            try:
                await self._segments.make(wanted, job)
            except Refused as refusal:
                if wanted.subnets or wanted.options:
                    raise Refused(f"[default_network] of the settings: {refusal}", refusal.status) from None
                log.warning("there is no default network: %s", refusal)

    async def _changed(self, network: Network, wanted: NetworkSpec, job: Job) -> bool:
        """Whether it could become so while it is in use."""
        if _subnets(network.record.asked) != _subnets(wanted):
            return False
        try:
            await self._changing.become(network, wanted, job)
        except Refused as refusal:
            log.warning("the default network does not follow its settings: %s", refusal)
            return False
        return True


def check_default_network(settings: Settings) -> None:
    """Refused where the settings ask for a default network that cannot be on this machine, whatever its routes are."""
    asked = settings.default_network
    if asked.enabled:
        around = Surroundings({}, [], settings.pools, read_addresses(), ProcHost().interfaces())
        plan_network(default_network(asked), around, identity="", created_at=0, random=Random())


def _subnets(asked: NetworkSpec) -> set[tuple[object, object]]:
    """What of the subnets cannot change."""
    return {(plan.subnet, plan.gateway) for plan in map(plan_subnet, asked.subnets)}


def default_network(settings: DefaultNetworkSettings) -> NetworkSpec:
    """What the settings ask the default network to be."""
    subnets = []
    if settings.bip is not None:
        gateway = IPv4Interface(settings.bip)
        subnets.append(
            SubnetSpec(subnet=str(gateway.network), gateway=str(gateway.ip), ip_range=settings.fixed_cidr)
        )
    if settings.fixed_cidr_v6 is not None:
        subnets.append(SubnetSpec(subnet=settings.fixed_cidr_v6))
    options = dict(settings.options)
    if not settings.icc:
        options["icc"] = "false"
    return NetworkSpec(
        name=DEFAULT, subnets=subnets, ipv6=settings.ipv6, mtu=settings.mtu, options=options, dns=settings.dns
    )
