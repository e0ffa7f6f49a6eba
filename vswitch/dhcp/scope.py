# SPDX-License-Identifier: Apache-2.0
"""What control hands to the DHCP engine: a network's settings, the port a message came in by, and the IPAM's
side of a lease.

Values, and one protocol. A Scope is checked when it is made: a setting that no option can say raises
ValueError with one line.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple, Protocol

from vswitch.dhcp.message import ANY
from vswitch.dhcp.options import Code, Route, encode

LEASE_S = 3600
"""Default lease: a vanished client's address is back within the hour, clients renew every half hour (10,000
of them: 6 messages a second), and a switch that is down for an upgrade, or for a long lunch, costs nobody an
address."""
MIN_LEASE_S = 60
"""A client that asks for less gets this: renewing twice a minute is as often as anyone may make us write."""
INFINITE_S = 0xFFFFFFFF

MAX_LEASES = 16384
"""Dynamic leases for each network: every address of a /18, some 10 MiB here and in the store."""
MAX_LEASES_PER_PORT = 32
"""Upper bound of a port's share: one virtual machine with a bridge of its own guests."""
MIN_LEASES_PER_PORT = 4
"""Lower bound of a port's share: boot ROM, installer and system of one machine each name themselves anew."""


class Addresses(Protocol):
    """The IPAM of one network, as far as dynamic leases need it. Synchronous, in memory, and the only judge
    of who has an address.

    Addresses assigned to ports (containers) are IPAM's own business: the engine neither reserves nor releases
    them.
    """

    def peek(self) -> IPv4Address | None:
        """The address to give next, best the one free for longest; None if all are taken. Takes nothing."""

    def reserve(self, address: IPv4Address) -> bool:
        """Takes an address; False if taken, or not for dynamic clients (the gateway, outside the range)."""

    def release(self, address: IPv4Address) -> None:
        """Gives back an address that `reserve` took."""


class Ingress(NamedTuple):
    """The port a message came in by, and what is assigned to it.

    `port` names the port and must outlive a restart of the switch (an endpoint's id, not an index): leases
    are stored with it. With `address` the port gets exactly that address, whatever its client calls itself.
    With `mac` no other station may ask. `source` is the frame's Ethernet source: where an answer through a
    relay agent goes.
    """

    port: str
    address: IPv4Address | None = None
    mac: bytes | None = None
    hostname: str | None = None
    source: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Settings of one network. `server` is the gateway's address, `router` is None on an internal network.

    `authoritative`: nobody else serves this segment, so a client that knows an address we don't is answered
    (with that address if it is free, else NAK) instead of left waiting. `ipv6_only_s` is sent to clients that
    ask for it (RFC 8925).
    """

    server: IPv4Address
    subnet: IPv4Network
    router: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    domain: str | None = None
    search: tuple[str, ...] = ()
    mtu: int = 1500
    ntp: tuple[IPv4Address, ...] = ()
    routes: tuple[Route, ...] = ()
    lease_s: int = LEASE_S
    authoritative: bool = True
    rapid_commit: bool = True
    ipv6_only_s: int | None = None
    max_leases: int = MAX_LEASES
    max_leases_per_port: int | None = None
    encoded: dict[int, bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.server not in self.subnet:
            raise ValueError(f"the DHCP server's address {self.server} must be inside {self.subnet}")
        if not MIN_LEASE_S <= self.lease_s <= INFINITE_S:
            raise ValueError(f"lease_s {self.lease_s} is not from {MIN_LEASE_S} to {INFINITE_S} (for ever)")
        object.__setattr__(self, "encoded", _encode_settings(self))

    @property
    def port_share(self) -> int:
        """Dynamic leases a port may hold: a quarter of the subnet, within bounds; none empties it."""
        if self.max_leases_per_port is not None:
            return self.max_leases_per_port
        return max(MIN_LEASES_PER_PORT, min(MAX_LEASES_PER_PORT, self.subnet.num_addresses // 4))

    def usable(self, address: IPv4Address) -> bool:
        """Whether a client of this network could have the address at all."""
        return address in self.subnet and address != self.server and (
            self.subnet.prefixlen > 30
            or address not in (self.subnet.network_address, self.subnet.broadcast_address)
        )


def _encode_settings(scope: Scope) -> dict[int, bytes]:
    """The options that are the same in every answer of this network, by code."""
    settings = {
        Code.SUBNET_MASK: scope.subnet.netmask,
        Code.ROUTER: (scope.router,) if scope.router is not None else None,
        Code.DOMAIN_SERVER: scope.dns,
        Code.DOMAIN_NAME: scope.domain,
        Code.MTU: scope.mtu,
        Code.BROADCAST: scope.subnet.broadcast_address,
        Code.NTP_SERVERS: scope.ntp,
        Code.SERVER_ID: scope.server,
        Code.IPV6_ONLY: scope.ipv6_only_s,
        Code.DOMAIN_SEARCH: scope.search,
        Code.CLASSLESS_ROUTES: all_routes(scope),
    }
    present = {code: value for code, value in settings.items() if value not in (None, ())}
    return {int(code): _encode_setting(code, value) for code, value in present.items()}


def _encode_setting(code: Code, value: Any) -> bytes:
    try:
        return encode(code, value)
    except ValueError as error:
        raise ValueError(f"DHCP option {code.name.lower()}: {error}") from None


def all_routes(scope: Scope) -> tuple[Route, ...]:
    """Option 121: static routes, and the default one since whoever reads 121 ignores 3 (RFC 3442)."""
    default = IPv4Network("0.0.0.0/0")
    if scope.router is None or any(route.destination == default for route in scope.routes):
        return scope.routes
    on_link = () if scope.router in scope.subnet else (Route(IPv4Network(scope.router), ANY),)
    return (*on_link, *scope.routes, Route(default, scope.router))
