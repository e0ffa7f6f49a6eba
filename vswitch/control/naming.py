# SPDX-License-Identifier: Apache-2.0
"""Who is called what: keeps the resolver's zone and its picture of each container like the inventory.

A container's names, in every network it is on that has names: its name (which PTR records give), its hostname, its
12-hex id, and the endpoint's aliases. They come with its port and go with it, in the same turn of the event loop.
A network whose gateway stands for the host's loopback also has the names of the host (HOST_NAMES).

Whom a container's questions are forwarded to: --dns, else its first network that names upstreams, else the host's
resolvers. If all of its networks are internal: to nobody but another container, if --dns says so.
"""

from __future__ import annotations

import logging
from ipaddress import ip_address

from vswitch.container.files import parse_extra_host
from vswitch.control.containers import HOST_NAMES
from vswitch.control.edges import HostResolvers
from vswitch.control.endpoints import default_endpoint
from vswitch.control.inventory import Container, Port
from vswitch.control.names import SHORT_ID_LENGTH
from vswitch.control.networks import Network
from vswitch.dns.engine import Engine, View
from vswitch.dns.names import wire

log = logging.getLogger(__name__)
HOST = "the host"  # the owner of its names in a network


class Naming:
    """The hand that writes into the engine's zone."""

    def __init__(self, engine: Engine, resolvers: HostResolvers):
        self._engine = engine
        self._resolvers = resolvers
        self._containers: dict[str, Container] = {}  # those that have a port

    # ---- networks

    def open(self, network: Network) -> None:
        """A network is there, or its settings have changed: what its containers see of it follows."""
        zone, identity = self._engine.zone, network.record.id
        zone.add_network(identity, network.name, network.subnets)
        if network.way_out is not None and network.way_out.host_loopback:
            zone.add(identity, HOST, HOST_NAMES, [g.packed for g in network.gateways()], qualified=False)
        else:
            zone.remove(identity, HOST)
        self._engine.cache.clear()  # an answer may lead into it now, or its upstreams may be others
        for container in self._containers.values():
            if any(port.network is network for port in container.ports.values()):
                self._see(container)

    def close(self, network: Network) -> None:
        """A network is gone."""
        self._engine.zone.remove_network(network.record.id)

    # ---- containers

    def port_came(self, port: Port) -> None:
        """A container is on a network from now on; `port` is among its ports."""
        container, endpoint = port.container, port.endpoint
        record = container.record
        labels = dict.fromkeys([record.name, record.hostname, record.id[:SHORT_ID_LENGTH], *endpoint.aliases])
        addresses = [ip_address(text).packed for text in (endpoint.ipv4, endpoint.ipv6) if text is not None]
        try:
            self._engine.zone.add(port.network.record.id, endpoint.id, list(labels), addresses)
        except ValueError as problem:  # from a store that was written before such names were refused
            log.warning("container %s has no names on %s: %s", record.name, port.network.name, problem)
        self._containers[record.id] = container
        self._see(container)

    def port_left(self, port: Port) -> bool:
        """It is no longer among its container's ports; whether that has any left, else the engine is to forget it."""
        self._engine.zone.remove(port.network.record.id, port.endpoint.id)
        if port.container.ports:
            self._see(port.container)
            return True
        self._containers.pop(port.container.record.id, None)
        return False

    def refresh(self) -> None:
        """The host's resolvers are others now, and with them perhaps the world."""
        self._engine.cache.clear()
        for container in self._containers.values():
            self._see(container)

    def _see(self, container: Container) -> None:
        spec = container.record.spec
        networks = ordered_networks(container)
        gateway = next((network.gateway_for(port.endpoint.ipv4) for network, port in networks), None)
        extra = [(n, a) for n, a in (parse_extra_host(text, gateway) for text in spec.extra_hosts) if _possible(n)]
        self._engine.see(container.record.id, View(
            networks=tuple(network.record.id for network, _ in networks if network.shape.resolving.names),
            upstreams=self._upstreams(container, [network for network, _ in networks]),
            extra=tuple((name, ip_address(address.partition("%")[0]).packed) for name, address in extra),
        ))

    def _upstreams(self, container: Container, networks: list[Network]) -> tuple[str, ...] | None:
        if all(network.record.asked.internal for network in networks):
            inside = [server for server in container.record.spec.dns if self._on_our_networks(server)]
            return tuple(inside) or None
        if container.record.spec.dns:
            return tuple(container.record.spec.dns)
        given = next((n.shape.resolving.servers for n in networks if n.shape.resolving.servers), ())
        return given or tuple(self._resolvers.current.nameservers)

    def _on_our_networks(self, server: str) -> bool:
        return self._engine.zone.owns(ip_address(server.partition("%")[0]).packed)


def _possible(name: str) -> bool:
    """Whether a name can stand in DNS; /etc/hosts takes any word."""
    try:
        return bool(wire(name))
    except ValueError:
        return False


def ordered_networks(container: Container) -> list[tuple[Network, Port]]:
    """The networks that a container is on now, the one with its default route first, else as it joined them."""
    ports = list(container.ports.values())
    routed = default_endpoint([port.endpoint for port in ports], {p.network.record.id: p.network for p in ports})
    return sorted(((port.network, port) for port in ports), key=lambda pair: pair[1].endpoint is not routed)
