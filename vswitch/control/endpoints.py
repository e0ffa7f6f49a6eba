# SPDX-License-Identifier: Apache-2.0
"""A container's attachments to networks: interface, address and MAC of each, and how they are given back.

Nothing here awaits: a container's names, addresses and MACs are all reserved in one turn of the event loop,
or none is. The first network with a way out holds the default routes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from random import Random

from vswitch.control.names import check_name, mac_bytes, mac_text, new_id
from vswitch.control.networks import Network
from vswitch.control.records import EndpointRecord
from vswitch.control.subnets import Address, parse_address
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
            _reserve(wish, network, f"eth{number}" if named else "", holder, random, partly)
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
    endpoints: Sequence[EndpointRecord], networks: Mapping[str, Network]
) -> EndpointRecord | None:
    """Which endpoint holds the default routes: the first on a network that has a way out."""
    return next((e for e in endpoints if not networks[e.network].record.asked.internal), None)


def interface_plan(endpoint: EndpointRecord, network: Network, *, default_route: bool) -> InterfacePlan:
    """What the helper makes of an endpoint in the container's namespace."""
    return InterfacePlan(
        name=endpoint.interface or None,
        mac=endpoint.mac,
        mtu=network.record.mtu,
        ipv4=[network.with_prefix(endpoint.ipv4)] if endpoint.ipv4 else [],
        ipv6=[network.with_prefix(endpoint.ipv6)] if endpoint.ipv6 else [],
        gateway4=network.gateway_for(endpoint.ipv4) if default_route else None,
        gateway6=network.gateway_for(endpoint.ipv6) if default_route else None,
        persist=True,
    )


def _reserve(
    wish: AttachmentSpec, network: Network, interface: str, holder: str, random: Random, undo: ExitStack
) -> EndpointRecord:
    for alias in wish.aliases:
        check_name(alias, "alias")
    ipv4 = _address(network, 4, wish.ip, "ip", holder, undo)
    ipv6 = _address(network, 6, wish.ip6, "ip6", holder, undo)
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
    )
    network.endpoints[endpoint.id] = endpoint
    undo.callback(network.endpoints.pop, endpoint.id, None)
    return endpoint


def _address(
    network: Network, version: int, wished: str | None, option: str, holder: str, undo: ExitStack
) -> Address | None:
    if wished is None:
        address = network.allocate(version, holder)
    else:
        address = _wished_address(network, version, wished, option)
        network.reserve(address, holder)
    if address is not None:
        undo.callback(network.release, address)
    return address


def _wished_address(network: Network, version: int, wished: str, option: str) -> Address:
    address = parse_address(wished, f"--{option}")
    if address.version != version:
        raise Refused(
            f"--{option} {address} is IPv{address.version}: use --{'ip6' if version == 4 else 'ip'}"
        )
    if version == 6 and not any(subnet.version == 6 for subnet in network.subnets):
        raise Refused(f"network {network.name} has no IPv6 subnet: create it with --ipv6, or leave out --ip6")
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
