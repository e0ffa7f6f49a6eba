# SPDX-License-Identifier: Apache-2.0
"""A network's options (`--opt`): what each may be, and what they say about its way out.

    option                                      also as com.docker.network.…      default
    mtu                 bytes                   driver.mtu                        --mtu
    icc                 true, false             bridge.enable_icc                 true
    ip_masq             true                    bridge.enable_ip_masquerade       true
    host_ipv4           source address          host_ipv4                         as the host's routes say
    host_ipv6           source address          host_ipv6                         as the host's routes say
    host_interface      interface to leave by                                     as the host's routes say
    host_binding_ipv4   where -p without an     bridge.host_binding_ipv4          all addresses
                        address publishes
    host_loopback       true, false                                               false
    udp_filtering       address-dependent,                                        address-dependent
                        endpoint-independent

With icc = false the network's containers reach its gateway and nobody else on it, at any layer. `host_loopback` makes
the gateway's address stand for the host's own loopback. `udp_filtering` says from whom a container's UDP port hears:
from those it has written to, or from anybody (RFC 4787 §5). The way out leads through the
host's sockets, which send with the host's addresses and nothing else, so ip_masq = false cannot be had and is refused:
a network without a way out is made with --internal, and then every other option here but MTU and icc would mean nothing
and is refused too. Docker's names for what has no counterpart here, because there is no kernel bridge (HABITS), are
taken and mean nothing. Whether the host has the address or interface is asked when the network is made, and not when it
is brought back after a restart: an interface may come later than we do.

What hosts are told by DHCP and router advertisements is said by options too: hostconfig.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from vswitch.control import hostconfig
from vswitch.model import Refused

DOCKER = "com.docker.network."
DOCKERS_NAMES = {
    f"{DOCKER}driver.mtu": "mtu",
    f"{DOCKER}bridge.enable_icc": "icc",
    f"{DOCKER}bridge.enable_ip_masquerade": "ip_masq",
    f"{DOCKER}host_ipv4": "host_ipv4",
    f"{DOCKER}host_ipv6": "host_ipv6",
    f"{DOCKER}bridge.host_binding_ipv4": "host_binding_ipv4",
}
HABITS = (
    f"{DOCKER}bridge.name",
    f"{DOCKER}bridge.default_bridge",
    f"{DOCKER}bridge.inhibit_ipv4",
    f"{DOCKER}bridge.trusted_host_interfaces",
    f"{DOCKER}container_iface_prefix",
)
NOT_THE_WAY_OUT = ("mtu", "icc", *hostconfig.READERS)
UDP_FILTERING = ("address-dependent", "endpoint-independent")
TRUE, FALSE = ("true", "1"), ("false", "0")
INTERFACE_NAME_LIMIT = 15  # IFNAMSIZ without its final zero


class WayOut(NamedTuple):
    """How a network's packets leave it; what the dataplane's `set_way_out` is told."""

    host_loopback: bool = False
    endpoint_filtering: bool = False
    source4: bytes | None = None
    source6: bytes | None = None
    device: str | None = None
    binding4: str | None = None  # where ports are published of which nothing else is said


def named_options(options: Mapping[str, str]) -> dict[str, str]:
    """The options under our own names. Refused if one is unknown, or given twice by two names."""
    named: dict[str, str] = {}
    for option, value in options.items():
        if option in HABITS:
            continue
        name = DOCKERS_NAMES.get(option, option)
        if name not in READERS and name not in NOT_THE_WAY_OUT:
            known = ", ".join(sorted([*NOT_THE_WAY_OUT, *READERS]))
            raise Refused(
                f"network option {option[:80]!r} is unknown; there are {known}, and Docker's names for them:"
                f" {', '.join(DOCKERS_NAMES)}"
            )
        if name in named:
            raise Refused(f"network option {name} is given twice, as {option} too: give it once")
        named[name] = value
    return named


def way_out(options: Mapping[str, str], *, internal: bool) -> WayOut | None:
    """What the options say; None for a network that has no way out. Refused if they can't be so."""
    words = {name: value for name, value in named_options(options).items() if name not in NOT_THE_WAY_OUT}
    if internal:
        for name in words:
            raise Refused(f"network option {name} is about the way out, and --internal has none: leave out one")
        return None
    settings: dict[str, object] = {}
    for name, value in words.items():
        settings.update(READERS[name](name, value))
    return WayOut(**settings)  # type: ignore[arg-type]


def isolated(options: Mapping[str, str]) -> bool:
    """Whether the network's containers are kept apart (icc = false). Refused if it is neither true nor false."""
    return not _truth("icc", named_options(options).get("icc", "true"))


def refuse_strange(way: WayOut, addresses: Sequence[bytes], interfaces: Sequence[str]) -> None:
    """Refused unless the host has what the options name."""
    for packed in (way.source4, way.source6, ip_address(way.binding4).packed if way.binding4 else None):
        if packed is not None and packed not in addresses and any(packed):
            loopback = packed[0] == 127 and len(packed) == 4  # all of 127/8 is the host's, though only one is listed
            if not loopback:
                raise Refused(f"the host has no address {ip_address(packed)}: `ip addr` lists those it has")
    if way.device is not None and way.device not in interfaces:
        raise Refused(f"the host has no interface {way.device}: there are {', '.join(interfaces)}")


def _source(name: str, value: str) -> dict[str, object]:
    version = int(name[-1])
    try:
        address = ip_address(value)
    except ValueError:
        address = None
    if address is None or address.version != version or "%" in value:
        raise Refused(f"network option {name} must be an IPv{version} address, not {value[:60]!r}")
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise Refused(f"network option {name}: nothing outside answers to {address}; give one of the host's addresses")
    return {f"source{version}": address.packed}


def _binding(name: str, value: str) -> dict[str, object]:
    try:
        address = ip_address(value)
    except ValueError:
        address = None
    if address is None or address.version != 4:
        raise Refused(f"network option {name} must be an IPv4 address, not {value[:60]!r}")
    return {"binding4": str(address)}


def _interface(name: str, value: str) -> dict[str, object]:
    fits = value.isascii() and value.isprintable() and not any(c in value for c in "/ ")
    if not fits or not 0 < len(value) <= INTERFACE_NAME_LIMIT or value in (".", ".."):
        raise Refused(f"network option {name} must be an interface of the host, such as eth0, not {value[:60]!r}")
    return {"device": value}


def _loopback(name: str, value: str) -> dict[str, object]:
    return {"host_loopback": _truth(name, value)}


def _filtering(name: str, value: str) -> dict[str, object]:
    if value not in UDP_FILTERING:
        raise Refused(f"network option {name} must be {' or '.join(UDP_FILTERING)}, not {value[:60]!r}")
    return {"endpoint_filtering": value == "endpoint-independent"}


def _masquerade(name: str, value: str) -> dict[str, object]:
    if not _truth(name, value):
        raise Refused(
            f"network option {name}=false cannot be had: packets leave through the host's own sockets, so with the"
            " host's address; for no way out at all use --internal"
        )
    return {}


def _truth(name: str, value: str) -> bool:
    if value.lower() not in TRUE + FALSE:
        raise Refused(f"network option {name} must be true or false, not {value[:60]!r}")
    return value.lower() in TRUE


READERS = {
    "ip_masq": _masquerade,
    "host_ipv4": _source,
    "host_ipv6": _source,
    "host_interface": _interface,
    "host_binding_ipv4": _binding,
    "host_loopback": _loopback,
    "udp_filtering": _filtering,
}
