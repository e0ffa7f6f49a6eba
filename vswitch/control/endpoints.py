# SPDX-License-Identifier: Apache-2.0
"""A container's attachments to networks: interface, address and MAC of each, and how they are given back.

Nothing here awaits: a container's names, addresses and MACs are all reserved in one turn of the event loop,
or none is. The default route of an IP version belongs to one endpoint, whatever the order in which they came: of those
on a network with a way out, the one with the highest gateway priority, and among equals the one whose network's name
comes first, as in Docker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from itertools import count
from random import Random

from vswitch.control.names import mac_bytes, mac_text, new_id
from vswitch.control.networks import Network
from vswitch.control.records import EndpointRecord
from vswitch.control.specs import check_attachment
from vswitch.control.subnets import Address, wished_address
from vswitch.model import AttachmentSpec, Refused
from vswitch.ports.interface import InterfacePlan

NETWORKS_LIMIT = 64  # per container: each is an interface, a port and a descriptor


def reserve_endpoints(
    wishes: Sequence[tuple[AttachmentSpec, Network]],
    holder: str,
    random: Random,
    undo: ExitStack,
    *,
    named: bool,
) -> list[EndpointRecord]:
    """An endpoint on each network, reserved for `holder`; `undo` gives them back. Refused if one cannot be.

    `named`: interfaces are eth0, eth1, …; else the helper finds names that are free in the namespace.
    """
    _refuse_twice([network for _, network in wishes])
    with ExitStack() as partly:
        endpoints = [
            reserve_endpoint(wish, network, f"eth{number}" if named else "", holder, random, partly)
            for number, (wish, network) in enumerate(wishes)
        ]
        undo.enter_context(partly.pop_all())
    return endpoints


def hold_endpoint(endpoint: EndpointRecord, network: Network, holder: str) -> None:
    """Reserve what a stored endpoint has. Refused if somebody has it already."""
    addresses = [ip_address(text) for text in (endpoint.ipv4, endpoint.ipv6) if text is not None]
    with ExitStack() as partly:
        for address in addresses:
            network.reserve(address, holder)
            partly.callback(network.release, address)
        _hold_mac(network, mac_bytes(endpoint.mac), holder)
        partly.pop_all()
    network.endpoints[endpoint.id] = endpoint


def release_endpoint(endpoint: EndpointRecord, network: Network) -> None:
    """Give back its addresses and its MAC."""
    network.endpoints.pop(endpoint.id, None)
    network.macs.pop(mac_bytes(endpoint.mac), None)
    for text in (endpoint.ipv4, endpoint.ipv6):
        if text is not None:
            network.release(ip_address(text))


def default_endpoint(
    endpoints: Iterable[EndpointRecord], networks: Mapping[str, Network], version: int = 4
) -> EndpointRecord | None:
    """Which endpoint holds the default route of an IP version; None if no network has a way out for it.

    Published ports belong to IPv4's.
    """
    able = [e for e in endpoints if networks[e.network].way_out is not None and _address_of(e, version) is not None]
    return min(able, key=lambda e: (-e.gw_priority, networks[e.network].name), default=None)


def _address_of(endpoint: EndpointRecord, version: int) -> str | None:
    return endpoint.ipv4 if version == 4 else endpoint.ipv6


def default_routes(
    endpoint: EndpointRecord, endpoints: Iterable[EndpointRecord], networks: Mapping[str, Network]
) -> list[int]:
    """The IP versions whose default route `endpoint` has among its container's `endpoints`."""
    endpoints = list(endpoints)
    return [version for version in (4, 6) if default_endpoint(endpoints, networks, version) is endpoint]


def interface_plans(
    endpoints: Sequence[EndpointRecord], networks: Mapping[str, Network]
) -> dict[str, InterfacePlan]:
    """What the helper makes of a container's endpoints (by id) in its namespace."""
    return {
        e.id: _interface_plan(e, networks[e.network], default_routes(e, endpoints, networks)) for e in endpoints
    }


def _interface_plan(endpoint: EndpointRecord, network: Network, routed: Sequence[int]) -> InterfacePlan:
    gateways = {4: network.gateway_for(endpoint.ipv4), 6: network.gateway_for(endpoint.ipv6)}
    return InterfacePlan(
        name=endpoint.interface or None,
        mac=endpoint.mac,
        mtu=network.record.mtu,
        ipv4=[network.with_prefix(endpoint.ipv4)] if endpoint.ipv4 else [],
        ipv6=[network.with_prefix(endpoint.ipv6)] if endpoint.ipv6 else [],
        gateway4=gateways[4] if 4 in routed else None,
        gateway6=gateways[6] if 6 in routed else None,
        dropped_gateways=[gateway for version, gateway in gateways.items() if gateway and version not in routed],
        routes=_neighbouring(endpoint, network),
        accept_ra=bool(network.shape.advertising.prefixes),
        persist=True,
    )


def _neighbouring(endpoint: EndpointRecord, network: Network) -> list[str]:
    """The network's other subnets: containers there are on the same wire."""
    addresses = [ip_address(text) for text in (endpoint.ipv4, endpoint.ipv6) if text is not None]
    versions = {address.version for address in addresses}
    return [
        str(subnet)
        for subnet in network.subnets
        if subnet.version in versions and not any(address in subnet for address in addresses)
    ]


def free_interface(endpoints: Iterable[EndpointRecord]) -> str:
    """The first ethN that none of them has."""
    taken = {endpoint.interface for endpoint in endpoints}
    return next(name for number in count() if (name := f"eth{number}") not in taken)


def reserve_endpoint(
    wish: AttachmentSpec, network: Network, interface: str, holder: str, random: Random, undo: ExitStack
) -> EndpointRecord:
    """One endpoint, reserved for `holder` until `undo` gives it back. Refused."""
    check_attachment(wish)
    ipv4 = _address(network, 4, wish.ip, holder, undo)
    ipv6 = _address(network, 6, wish.ip6, holder, undo)
    mac = _mac(network, wish.mac_address, ipv4, holder, random)
    undo.callback(network.macs.pop, mac, None)
    endpoint = EndpointRecord(
        id=new_id(random),
        network=network.record.id,
        interface=interface,
        mac=mac_text(mac),
        ipv4=None if ipv4 is None else str(ipv4),
        ipv6=None if ipv6 is None else str(ipv6),
        aliases=list(dict.fromkeys(wish.aliases)),
        gw_priority=wish.gw_priority,
        source_guard=wish.source_guard,
    )
    network.endpoints[endpoint.id] = endpoint
    undo.callback(network.endpoints.pop, endpoint.id, None)
    return endpoint


def _address(
    network: Network, version: int, wished: str | None, holder: str, undo: ExitStack
) -> Address | None:
    if wished is None:
        address = network.allocate(version, holder)
    else:
        address = wished_address(wished, version, network.name, {subnet.version for subnet in network.subnets})
        network.reserve(address, holder)
    if address is not None:
        undo.callback(network.release, address)
    return address


def _mac(network: Network, wished: str | None, ipv4: Address | None, holder: str, random: Random) -> bytes:
    """The wished MAC, else 02:42 and the IPv4 address, else (somebody wished for that one) a random one."""
    if wished is not None:
        mac = mac_bytes(wished)
        _hold_mac(network, mac, holder)
        return mac
    mac = b"\x02\x42" + (ipv4.packed if ipv4 is not None else random.randbytes(4))
    while mac in network.macs:
        mac = b"\x02\x42" + random.randbytes(4)
    network.macs[mac] = holder
    return mac


def _hold_mac(network: Network, mac: bytes, holder: str) -> None:
    if (other := network.macs.get(mac)) is not None:
        raise Refused(
            f"MAC address {mac_text(mac)} is in use by {other} on network {network.name}: choose another", 409
        )
    network.macs[mac] = holder


def _refuse_twice(networks: Sequence[Network]) -> None:
    if not networks:
        raise Refused("a container joins at least one network: name one with --network")
    if len(networks) > NETWORKS_LIMIT:
        raise Refused(f"{len(networks)} networks are too many for one container: at most {NETWORKS_LIMIT}")
    seen: set[str] = set()
    for network in networks:
        if network.name in seen:
            raise Refused(f"network {network.name} is named twice: a container joins a network once")
        seen.add(network.name)
