# SPDX-License-Identifier: Apache-2.0
"""PUBLISH: how a published port is written, as a value and back.

    [[HOST_IP:]HOST_PORTS:]CONTAINER_PORTS[/tcp | /udp | /tcp+udp]

    8080:80                  host port 8080 at all of the host's addresses, IPv4 and IPv6
    127.0.0.1:8080:80        at one address; [::1]:8080:80 (the brackets may be left out, as in Docker)
    80    127.0.0.1::80      a free host port is chosen
    8000-8010:80-90          as many host ports as container ports, in order
    8000-8010:80             the first free one of these host ports
    53:53/tcp+udp            both protocols under one host port (`,` does for `+`); tcp where nothing is said

Docker's grammar, with `tcp+udp` for what takes two options there. Without SCTP, which has no translator. Any text is a
value or a `Refused` of one line; whether the ports can be had is not known here.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from vswitch.model import Protocol, PublishSpec, Refused

PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp")
LAST_PORT = 65535
WILDCARDS = ("0.0.0.0", "::")
PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


def parse(text: str) -> PublishSpec:
    """What a PUBLISH says. Refused where it says nothing that can be."""
    where, slash, protocol = text.partition("/")
    parts = where.rsplit(":", 2)
    container_port, count = _container_ports(text, parts[-1])
    host_port, choices = _host_ports(text, parts[-2] if len(parts) > 1 else "", count)
    return PublishSpec(
        container_port=container_port,
        count=count,
        protocols=_protocols(text, protocol) if slash else ("tcp",),
        host_ip=_host_ip(text, parts[0]) if len(parts) == 3 and parts[0] else None,
        host_port=host_port,
        choices=choices,
    )


def text_of(spec: PublishSpec) -> str:
    """The PUBLISH that says this, in full; parse() makes the same value of it."""
    container = _ports_text(spec.container_port, spec.count)
    host = "" if spec.host_port is None else _ports_text(spec.host_port, max(spec.count, spec.choices))
    address = spec.host_ip
    if address is None:
        before = f"{host}:" if host else ""
    else:
        before = f"[{address}]:{host}:" if ":" in address else f"{address}:{host}:"
    return f"{before}{container}/{'+'.join(spec.protocols)}"


def meet(one: str | None, other: str | None) -> bool:
    """Whether two host addresses cannot have the same port, as one is the other or takes it in; None: all of them."""
    if one is None or other is None or one == other:
        return True
    return (":" in one) == (":" in other) and not {one, other}.isdisjoint(WILDCARDS)


def _ports_text(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def _container_ports(text: str, ports: str) -> tuple[int, int]:
    """First and count."""
    if not ports:
        raise _refused(text, "names no container port")
    first, last = _range(text, ports, "container")
    if first == 0:
        raise _refused(text, "a container's ports are 1 to 65535")
    return first, last - first + 1


def _host_ports(text: str, ports: str, count: int) -> tuple[int | None, int]:
    """The first, None where any will do, and among how many may be chosen."""
    if not ports:
        return None, 1
    first, last = _range(text, ports, "host")
    if last == 0:
        return None, 1  # as Docker takes it: whatever is free
    if first == 0:
        raise _refused(text, "a host's ports are 1 to 65535")
    given = last - first + 1
    if count > 1 and given != count:
        raise _refused(text, f"{given} host port{'s' * (given > 1)} for {count} container ports: give as many of both")
    return first, given if count == 1 else 1


def _range(text: str, ports: str, side: str) -> tuple[int, int]:
    match = PORTS.fullmatch(ports)
    if match is None:
        if side == "host" and _is_address(ports):
            raise _refused(text, f"what stands before the last colon is a host port: for an address, {ports}::PORT")
        raise _refused(text, f"{ports[:40]!r} is no port and no range of ports")
    first = int(match[1])
    last = int(match[2] or first)
    if max(first, last) > LAST_PORT:
        raise _refused(text, f"port {max(first, last)} is above {LAST_PORT}")
    if last < first:
        raise _refused(text, f"range {ports} ends before it begins")
    return first, last


def _protocols(text: str, words: str) -> tuple[Protocol, ...]:
    """In the order of PROTOCOLS, each once."""
    given = [word.lower() for word in re.split("[+,]", words)]
    if any(word not in PROTOCOLS for word in given):
        raise _refused(text, f"protocol {words[:40]!r} is none of tcp, udp, tcp+udp")
    return tuple(protocol for protocol in PROTOCOLS if protocol in given)


def _host_ip(text: str, address: str) -> str:
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    if not _is_address(bare) or (bare is not address and ":" not in bare):
        raise _refused(text, f"{address[:40]!r} is no address of the host: write it like 192.0.2.1 or [2001:db8::1]")
    if ip_address(bare).is_multicast:
        raise _refused(text, f"{address} is a group's address and no host's")
    return str(ip_address(bare))


def _is_address(text: str) -> bool:
    """Without a zone: the sockets are found by address alone."""
    try:
        return "%" not in text and bool(ip_address(text))
    except ValueError:
        return False


def _refused(text: str, why: str) -> Refused:
    return Refused(f"-p {text[:80]!r}: {why}; it reads [[HOST_IP:]HOST_PORT:]CONTAINER_PORT[/tcp|udp|tcp+udp]")
