# SPDX-License-Identifier: Apache-2.0
"""What a network tells its hosts by DHCP and router advertisements: options of the network (`--opt`), read and
checked.

    option              value                                  told by                           default
    ipv6_ra_mode        dhcpv6-stateful, dhcpv6-stateless,     flags of router advertisements    dhcpv6-stateful
                        slaac, off
    dhcp                true, false                            whether DHCPv4 is served          true
    dhcp_lease_time     3600, 45m, 12h, 7d, infinite           DHCPv4 51 58 59, DHCPv6           1h
    dhcp_dns_server     addresses                              DHCPv4 6, DHCPv6 23, RDNSS        --dns, the host's
    dhcp_ntp_server     addresses                              DHCPv4 42, DHCPv6 56              none
    dhcp_domain_name    a domain                               DHCPv4 15                         none
    dhcp_domain_search  domains                                DHCPv4 119, DHCPv6 24, DNSSL      --dns-search
    dhcp_static_route   SUBNET=GATEWAY,…                       DHCPv4 121                        none
    dhcp_host           MAC=ADDRESS,…                          a reservation                     none

Several values stand between commas. The words are those that users know of dnsmasq (dhcp-option names, lease
times, dhcp-host) and OpenStack (ipv6_ra_mode). A container's own address is a reservation already; `dhcp_host` is
for further stations behind an endpoint without the source guard, such as the guests of a virtual machine.

Modes: `dhcpv6-stateful` tells hosts to ask DHCPv6 for the address that they have (M and O flag); with `slaac` and
`dhcpv6-stateless` (O flag) they make themselves addresses in the network's /64 prefixes, beside the assigned one.
The limits are such that every combination fits into an advertisement and a DHCPv6 message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from typing import Any, NamedTuple, Protocol

from vswitch.control.names import mac_bytes
from vswitch.control.subnets import SubnetPlan, refuse_unusable
from vswitch.dhcp6.scope import MIN_LEASE_S
from vswitch.model import Refused
from vswitch.wire.ipv6 import labels

INFINITE_S = 0xFFFFFFFF
SERVERS_LIMIT = 8
SEARCH_LIMIT, SEARCH_BYTES = 6, 256
ROUTES_LIMIT = 16
RESERVATIONS_LIMIT = 256  # each holds an address for ever
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
STATEFUL, STATELESS, SLAAC, OFF = "dhcpv6-stateful", "dhcpv6-stateless", "slaac", "off"


class HostConfig(NamedTuple):
    """A network's settings for its hosts; `dns` None: the host's resolvers."""

    ra_mode: str = STATEFUL
    dhcp: bool = True
    lease_s: int = 3600
    dns: tuple[IPv4Address | IPv6Address, ...] | None = None
    ntp: tuple[IPv4Address | IPv6Address, ...] = ()
    domain: str | None = None
    search: tuple[str, ...] = ()
    routes: tuple[tuple[IPv4Network, IPv4Address], ...] = ()
    reservations: Mapping[bytes, IPv4Address] = {}

    @property
    def autonomous(self) -> bool:
        """Whether hosts make themselves addresses."""
        return self.ra_mode in (SLAAC, STATELESS)

    @property
    def ntp4(self) -> tuple[IPv4Address, ...]:
        return tuple(server for server in self.ntp if isinstance(server, IPv4Address))

    @property
    def ntp6(self) -> tuple[IPv6Address, ...]:
        return tuple(server for server in self.ntp if isinstance(server, IPv6Address))


def host_config(named: Mapping[str, str]) -> HostConfig:
    """What a network's options say, under their own names; others are none of ours. Refused if one can't be so."""
    settings: dict[str, Any] = {}
    for option, value in named.items():
        if option in READERS:
            field, reader = READERS[option]
            settings[field] = reader(option, value)
    return HostConfig(**settings)


def refuse_unreachable(
    config: HostConfig, plans: Sequence[SubnetPlan], *, ipv6: bool, named: Mapping[str, str]
) -> None:
    """Refused unless reservations and routes lie in the network's subnets, and IPv6 is on where it is spoken of."""
    if "ipv6_ra_mode" in named and not ipv6:
        raise Refused("network option ipv6_ra_mode is about IPv6: ask for --ipv6 too")
    spans = [plan for plan in plans if isinstance(plan.subnet, IPv4Network)]
    for mac, address in config.reservations.items():
        plan = next((plan for plan in spans if address in plan.subnet), None)
        if plan is None:
            raise Refused(f"network option dhcp_host: {address} (for {mac.hex(':')}) is in no subnet of the network")
        refuse_unusable(address, plan.subnet, "network option dhcp_host: address")
        if address == plan.gateway:
            raise Refused(f"network option dhcp_host: {address} is the gateway's: choose another")
    for destination, via in config.routes:
        if not any(via in plan.subnet for plan in spans):
            raise Refused(f"network option dhcp_static_route: {via} (to {destination}) is in no subnet of the network")
    if config.ra_mode in (SLAAC, STATELESS) and not any(
        plan.subnet.version == 6 and plan.subnet.prefixlen == 64 for plan in plans
    ):
        raise Refused(
            f"network option ipv6_ra_mode={config.ra_mode} needs a /64: hosts make themselves addresses in no other"
        )


class Told(Protocol):
    """A network, as far as its resolvers and search list are concerned."""

    hosts: HostConfig
    shape: Any

    def gateways(self, *versions: int) -> Iterable[Any]: ...


def usable_resolvers(version: int, network: Told, nameservers: Sequence[str]) -> tuple[Any, ...]:
    """The resolvers that hosts are told of: by option, else the gateway where the network has names, else the network's
    own (--dns), else the host's; those that a container reaches.
    """
    if network.hosts.dns is not None:
        return tuple(server for server in network.hosts.dns if server.version == version)
    if network.shape.resolving.names:
        return tuple(network.gateways(version))[:SERVERS_LIMIT]
    plain = (ip_address(text) for text in network.shape.resolving.servers or nameservers if "%" not in text)
    usable = (a for a in plain if a.version == version and not (a.is_loopback or a.is_link_local or a.is_unspecified))
    return tuple(usable)[:SERVERS_LIMIT]


def usable_search(network: Told) -> tuple[str, ...]:
    """The search list that hosts are told of: by option, else the network's own (--dns-search) as far as it can be."""
    if network.hosts.search:
        return network.hosts.search
    said: list[str] = []
    for domain in network.shape.resolving.search[:SEARCH_LIMIT]:
        try:
            size = len(labels(domain))
        except ValueError:
            continue
        if size + sum(len(labels(other)) for other in said) <= SEARCH_BYTES:
            said.append(domain.removesuffix("."))
    return tuple(said)


# ---- one option each


def _words(option: str, value: str, limit: int) -> list[str]:
    words = [word.strip() for word in value.split(",")]
    if not all(words) or len(words) > limit:
        raise Refused(f"network option {option} takes 1 to {limit} values with commas between, not {value[:60]!r}")
    return words


def _mode(option: str, value: str) -> str:
    modes = (STATEFUL, STATELESS, SLAAC, OFF)
    if value not in modes:
        raise Refused(f"network option {option} must be {', '.join(modes[:-1])} or {OFF}, not {value[:60]!r}")
    return value


def _served(option: str, value: str) -> bool:
    if value.lower() not in ("true", "1", "false", "0"):
        raise Refused(f"network option {option} must be true or false, not {value[:60]!r}")
    return value.lower() in ("true", "1")


def _lease_time(option: str, value: str) -> int:
    if value == "infinite":
        return INFINITE_S
    number, unit = (value[:-1], value[-1]) if value[-1:] in UNITS else (value, "s")
    fits = number.isascii() and number.isdigit() and len(number) < 10
    if not fits or not MIN_LEASE_S <= int(number) * UNITS[unit] < INFINITE_S:
        raise Refused(
            f"network option {option} is a time of at least {MIN_LEASE_S}s, such as 3600, 45m, 12h or infinite,"
            f" not {value[:60]!r}"
        )
    return int(number) * UNITS[unit]


def _servers(option: str, value: str) -> tuple[IPv4Address | IPv6Address, ...]:
    servers = []
    for word in _words(option, value, SERVERS_LIMIT):
        try:
            address = ip_address(word)
        except ValueError:
            address = None
        if address is None or "%" in word or address.is_unspecified or address.is_multicast or address.is_loopback:
            raise Refused(f"network option {option}: {word[:60]!r} is no address of a server")
        servers.append(address)
    return tuple(servers)


def _domain(option: str, value: str) -> str:
    try:
        labels(value)
    except ValueError as problem:
        raise Refused(f"network option {option}: {problem}") from None
    return value.removesuffix(".")


def _search(option: str, value: str) -> tuple[str, ...]:
    domains = tuple(_domain(option, word) for word in _words(option, value, SEARCH_LIMIT))
    if sum(len(labels(domain)) for domain in domains) > SEARCH_BYTES:
        raise Refused(f"network option {option}: the domains are too long together, {SEARCH_BYTES} bytes at most")
    return domains


def _pairs(option: str, value: str, limit: int, shape: str) -> list[tuple[str, str]]:
    pairs = []
    for word in _words(option, value, limit):
        left, equals, right = word.partition("=")
        if not equals:
            raise Refused(f"network option {option}: {word[:60]!r} should be {shape}")
        pairs.append((left, right))
    return pairs


def _routes(option: str, value: str) -> tuple[tuple[IPv4Network, IPv4Address], ...]:
    routes = []
    for subnet, gateway in _pairs(option, value, ROUTES_LIMIT, "SUBNET=GATEWAY"):
        try:
            destination, via = ip_network(subnet), ip_address(gateway)
        except ValueError as problem:
            raise Refused(f"network option {option}: {problem}") from None
        if not isinstance(destination, IPv4Network) or not isinstance(via, IPv4Address):
            raise Refused(f"network option {option}: DHCP tells IPv4 routes only, not {subnet}={gateway}")
        routes.append((destination, via))
    return tuple(routes)


def _reservations(option: str, value: str) -> dict[bytes, IPv4Address]:
    reservations: dict[bytes, IPv4Address] = {}
    for mac, text in _pairs(option, value, RESERVATIONS_LIMIT, "MAC=ADDRESS"):
        try:
            address = IPv4Address(text)
        except ValueError:
            raise Refused(f"network option {option}: {text[:60]!r} is no IPv4 address") from None
        station = mac_bytes(mac)
        if station in reservations or address in reservations.values():
            raise Refused(f"network option {option}: {mac}={text} is there already")
        reservations[station] = address
    return reservations


READERS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "ipv6_ra_mode": ("ra_mode", _mode),
    "dhcp": ("dhcp", _served),
    "dhcp_lease_time": ("lease_s", _lease_time),
    "dhcp_dns_server": ("dns", _servers),
    "dhcp_ntp_server": ("ntp", _servers),
    "dhcp_domain_name": ("domain", _domain),
    "dhcp_domain_search": ("search", _search),
    "dhcp_static_route": ("routes", _routes),
    "dhcp_host": ("reservations", _reservations),
}
