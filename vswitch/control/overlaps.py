# SPDX-License-Identifier: Apache-2.0
"""Networks whose subnets the host has routes into: what is there can't be reached from their containers.

A user may want it so, or the host joined a VPN after the network was made. Nothing is changed on our own account: it is
told once when it begins and once when it ends (events, log), and shown as long as it lasts (`network inspect`, `network
ls`, `ps`). `overlapping` is pure.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from vswitch.control.events import Events
from vswitch.control.networks import Network
from vswitch.control.subnets import Subnet

log = logging.getLogger(__name__)

SHOWN = 8  # routes into one subnet: a host with one for each of its neighbours need not list them all


class Routes:
    """The host's routes in a form in which a subnet is held against all of them at once."""

    def __init__(self, routes: Iterable[Subnet]):
        self._known = set(routes)
        self._firsts: dict[int, list[tuple[int, Subnet]]] = {4: [], 6: []}
        for route in self._known:
            self._firsts[route.version].append((int(route.network_address), route))
        for pairs in self._firsts.values():
            pairs.sort(key=lambda pair: (pair[0], pair[1].prefixlen))

    def overlapping(self, subnet: Subnet) -> list[Subnet]:
        """Those that share an address with it: around it, then inside of it, at most SHOWN of them."""
        wider = (subnet.supernet(new_prefix=bits) for bits in range(subnet.prefixlen))
        around = [route for route in wider if route in self._known]
        pairs = self._firsts[subnet.version]
        low = bisect_left(pairs, int(subnet.network_address), key=lambda pair: pair[0])
        high = bisect_right(pairs, int(subnet.broadcast_address), key=lambda pair: pair[0])
        inside = [route for _, route in pairs[low : low + min(high - low, SHOWN + 128)] if route not in around]
        return [*around, *inside][:SHOWN]


def review(networks: Iterable[Network], known: Routes, events: Events) -> None:
    """Hold every network against the host's routes, and tell what is new and what is over."""
    for network in networks:
        found = {subnet: over for subnet in network.subnets if (over := known.overlapping(subnet))}
        before, network.overlaps = network.overlaps, found
        for subnet, route in _pairs(found) - _pairs(before):
            log.warning("%s", said(network, subnet, route))
            _tell(events, network, "overlap", subnet, route)
        for subnet, route in _pairs(before) - _pairs(found):
            _tell(events, network, "overlap_end", subnet, route)


def said(network: Network, subnet: Subnet, route: Subnet) -> str:
    """An overlap in words."""
    return (
        f"network {network.name}: subnet {subnet} overlaps the host's route to {route}: what is there can't be reached"
        " from its containers"
    )


def warnings(network: Network) -> list[str]:
    """What a user should know about a network."""
    return [said(network, subnet, route) for subnet, routes in network.overlaps.items() for route in routes]


def _pairs(overlaps: dict[Subnet, list[Subnet]]) -> set[tuple[Subnet, Subnet]]:
    return {(subnet, route) for subnet, routes in overlaps.items() for route in routes}


def _tell(events: Events, network: Network, action: str, subnet: Subnet, route: Subnet) -> None:
    events.publish("network", action, network.record.id, network.name, subnet=str(subnet), route=str(route))
