# SPDX-License-Identifier: Apache-2.0
"""Solicitations read and advertisements written (RFC 4861 §4.1, §4.2, §4.6; RFC 8106 §5; read them before changing
this).

    RA: type 134  code 0  checksum 2  hop limit 1  M 80 O 40 …  router lifetime 2  reachable 4  retransmit 4  options…

An option is type, length in units of 8 bytes, data. Here they are, in this order: source link-layer address 1, MTU
5, a prefix information 3 for each prefix, recursive DNS servers 25, search list 31. Lifetimes are seconds. The
whole must fit into the smallest MTU of IPv6: Router's constructor refuses what doesn't.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from vswitch.ra.drop import Drop
from vswitch.wire.ipv6 import ICMPV6, ND_HOP_LIMIT, emit_packet, group_mac, labels, parse_packet

SOLICITATION, ADVERTISEMENT = 133, 134
SOURCE_LINK_LAYER, PREFIX_INFORMATION, MTU, RDNSS, DNSSL = 1, 3, 5, 25, 31
MANAGED, OTHER_CONFIGURATION = 0x80, 0x40
ON_LINK, AUTONOMOUS = 0x80, 0x40
ALL_NODES = IPv6Address("ff02::1")
UNSPECIFIED = IPv6Address(0)

MAX_INTERVAL_S = 600.0  # MaxRtrAdvInterval and MinRtrAdvInterval, the defaults of RFC 4861 §6.2.1
MIN_INTERVAL_S = 200.0
LIFETIME_S = 1800  # AdvDefaultLifetime: three advertisements may be lost
VALID_S, PREFERRED_S = 2_592_000, 604_800  # AdvValidLifetime, AdvPreferredLifetime: 30 and 7 days
HOP_LIMIT = 64
LONGEST_MESSAGE = 1280 - 40
AUTONOMOUS_BITS = 64  # RFC 4862 §5.5.3: an interface identifier has 64 bits on Ethernet


class Prefix(NamedTuple):
    """A prefix on the link; `autonomous`: hosts make themselves addresses in it."""

    network: IPv6Network
    autonomous: bool


class Solicitation(NamedTuple):
    """Who asks; `source` is :: while he has no address."""

    mac: bytes
    source: IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """What a network's router says of itself and its link. ValueError where it can't be said.

    `managed`: addresses come by DHCPv6 (M), `other`: other settings do (O). `default` False: no way leads out by
    it. A prefix that isn't a /64 is never autonomous.
    """

    mac: bytes
    address: IPv6Address  # link-local
    mtu: int
    prefixes: tuple[Prefix, ...] = ()
    managed: bool = False
    other: bool = False
    default: bool = True
    dns: tuple[IPv6Address, ...] = ()
    search: tuple[str, ...] = ()
    encoded: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoded", _message(self, LIFETIME_S if self.default else 0))
        if len(self.encoded) > LONGEST_MESSAGE:
            raise ValueError(
                f"{len(self.prefixes)} prefixes, {len(self.dns)} DNS servers and {len(self.search)} search domains"
                " don't fit into a router advertisement: leave some out"
            )

    def advertisement(self, to: Solicitation | None = None) -> bytes:
        """A frame for all nodes, or for the one who asked."""
        if to is None or to.source == UNSPECIFIED:
            return self._frame(self.encoded, group_mac(ALL_NODES), ALL_NODES)
        return self._frame(self.encoded, to.mac, to.source)

    def farewell(self) -> bytes:
        """A frame for all nodes: this is no way out any more (RFC 4861 §6.2.5)."""
        return self._frame(_message(self, 0), group_mac(ALL_NODES), ALL_NODES)

    def _frame(self, message: bytes, to: bytes, destination: IPv6Address) -> bytes:
        return emit_packet(
            to, self.mac, self.address, destination, ICMPV6, message, checksum_at=2, hop_limit=ND_HOP_LIMIT
        )


def _message(router: Router, lifetime_s: int) -> bytes:
    flags = (MANAGED if router.managed else 0) | (OTHER_CONFIGURATION if router.other else 0)
    parts = [
        struct.pack("!BBHBBHII", ADVERTISEMENT, 0, 0, HOP_LIMIT, flags, lifetime_s, 0, 0),
        struct.pack("!BB6s", SOURCE_LINK_LAYER, 1, router.mac),
        struct.pack("!BBHI", MTU, 1, 0, router.mtu),
    ]
    for prefix in router.prefixes:
        network = prefix.network
        autonomous = prefix.autonomous and network.prefixlen == AUTONOMOUS_BITS
        flags = ON_LINK | (AUTONOMOUS if autonomous else 0)
        head = struct.pack("!BBBBIII", PREFIX_INFORMATION, 4, network.prefixlen, flags, VALID_S, PREFERRED_S, 0)
        parts.append(head + network.network_address.packed)
    if router.dns:
        servers = b"".join(server.packed for server in router.dns)
        parts.append(struct.pack("!BBHI", RDNSS, 1 + 2 * len(router.dns), 0, LIFETIME_S) + servers)
    if router.search:
        names = b"".join(map(labels, router.search))
        names += bytes(-len(names) % 8)
        if len(names) > LONGEST_MESSAGE:
            raise ValueError("the search list is too long for a router advertisement")
        parts.append(struct.pack("!BBHI", DNSSL, 1 + len(names) // 8, 0, LIFETIME_S) + names)
    return b"".join(parts)


def parse_solicitation(frame: bytes) -> Solicitation | Drop:
    """The solicitation in a frame, or why there is none (RFC 4861 §6.1.1); never raises."""
    packet = parse_packet(frame, ICMPV6)
    if isinstance(packet, str):
        return {"malformed": Drop.MALFORMED, "checksum": Drop.CHECKSUM, "other": Drop.NOT_SOLICITATION}[packet]
    message = packet.payload
    if not message or message[0] != SOLICITATION:
        return Drop.NOT_SOLICITATION
    if len(message) < 8 or message[1] != 0 or packet.hop_limit != ND_HOP_LIMIT:
        return Drop.MALFORMED
    at = 8
    while at < len(message):
        kind, size = message[at], message[at + 1] * 8 if at + 1 < len(message) else 0
        if size == 0 or at + size > len(message):
            return Drop.MALFORMED
        if kind == SOURCE_LINK_LAYER and packet.source == UNSPECIFIED:
            return Drop.MALFORMED
        at += size
    return Solicitation(packet.source_mac, packet.source)
