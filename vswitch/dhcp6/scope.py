# SPDX-License-Identifier: Apache-2.0
"""What control hands to the DHCPv6 engine: a network's settings, and the port a message came in by."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from vswitch.dhcp6.message import INFINITE_S, Code, option
from vswitch.wire.ipv6 import labels

MIN_LEASE_S = 60
"""As in dhcp/scope.py."""
SETTINGS_BYTES = 900
"""What all settings together may need: with an address and both identities they fit into the smallest MTU of IPv6."""
MIN_REFRESH_S, MAX_REFRESH_S = 600, 86400
"""IRT_MINIMUM and IRT_DEFAULT (RFC 8415 §7.6)."""


class Ingress(NamedTuple):
    """The port a message came in by; `port` outlives a restart (an endpoint's id), `address` is the one it has."""

    port: str
    address: IPv6Address | None
    mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Settings of one subnet. ValueError where one can't be said."""

    server_mac: bytes
    subnet: IPv6Network
    dns: tuple[IPv6Address, ...] = ()
    search: tuple[str, ...] = ()
    ntp: tuple[IPv6Address, ...] = ()
    lease_s: int = 3600
    rapid_commit: bool = True
    duid: bytes = field(init=False, compare=False)
    encoded: dict[int, bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not MIN_LEASE_S <= self.lease_s <= INFINITE_S:
            raise ValueError(f"lease_s {self.lease_s} is not from {MIN_LEASE_S} to {INFINITE_S} (for ever)")
        # DUID-LL of an Ethernet address (RFC 8415 §11.4): the gateway's, which is the same after every restart
        object.__setattr__(self, "duid", struct.pack("!HH", 3, 1) + self.server_mac)
        settings = {
            Code.DNS_SERVERS: b"".join(server.packed for server in self.dns),
            Code.DOMAIN_LIST: b"".join(map(labels, self.search)),
            # RFC 5908 §4: each server is a suboption 1 with its address
            Code.NTP_SERVER: b"".join(option(1, server.packed) for server in self.ntp),
        }
        encoded = {int(code): option(code, data) for code, data in settings.items() if data}
        if sum(map(len, encoded.values())) > SETTINGS_BYTES:
            raise ValueError(
                "DNS servers, search domains and time servers don't fit into a DHCPv6 message: leave some out"
            )
        object.__setattr__(self, "encoded", encoded)

    @property
    def refresh_s(self) -> int:
        """When a client that asked for settings alone asks again."""
        return max(MIN_REFRESH_S, min(self.lease_s, MAX_REFRESH_S))
