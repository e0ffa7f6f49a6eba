# SPDX-License-Identifier: Apache-2.0
"""A container's /etc/resolv.conf, /etc/hosts and /etc/hostname as text, and what a resolv.conf says.

Pure: texts and values in, texts and values out. The formats are resolv.conf(5) and hosts(5); the content
follows Docker: `hosts` has the localhost lines, then the extra hosts in the order given, then the container's
own addresses. Any text parses; what makes no sense in it is left out, as glibc does. Names and addresses
given for rendering have been checked by whoever accepted them.
"""
from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vswitch.model import Refused

LOCALHOST_V4 = "127.0.0.1\tlocalhost\n"
LOCALHOST_V6 = (
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)
LOCALHOST_V6_OFF = "::1\tip6-localhost ip6-loopback\n"


class Files(NamedTuple):
    """The three texts that are mounted over the host's files of the same name; None leaves that one as it is."""

    resolv_conf: str | None
    hosts: str | None
    hostname: str | None


class ResolvConf(NamedTuple):
    nameservers: list[str]
    search: list[str]
    options: list[str]


def parse_resolv_conf(text: str) -> ResolvConf:
    """What it says: the last `search` or `domain` counts, `options` add up, `search .` means none."""
    nameservers, search, options = [], [], []
    for line in text.splitlines():
        if line.startswith(("#", ";")):
            continue
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values and _packed(values[0]):
            nameservers.append(values[0])
        elif keyword in ("search", "domain"):
            search = [name for name in (values if keyword == "search" else values[:1]) if name != "."]
        elif keyword == "options":
            options += values
    return ResolvConf(nameservers, search, options)


def reachable(conf: ResolvConf, *, loopback: bool = False) -> ResolvConf:
    """`conf` without servers that no container reaches: on the host's loopback, or with a zone (%eth0)."""
    servers = [s for s in conf.nameservers if "%" not in s and (loopback or not _is_loopback(s))]
    return conf._replace(nameservers=servers)


def resolv_conf(nameservers: Iterable[str], search: Iterable[str] = (), options: Iterable[str] = ()) -> str:
    """The text of a resolv.conf; keywords without a value are left out."""
    lines = [f"nameserver {server}" for server in nameservers]
    for keyword, values in (("search", list(search)), ("options", list(options))):
        if values:
            lines.append(" ".join([keyword, *values]))
    return "".join(line + "\n" for line in lines)


def hosts(
    hostname: str,
    *,
    name: str | None = None,
    addresses: Iterable[str] = (),
    extra_hosts: Iterable[tuple[str, str]] = (),
    ipv6: bool = True,
) -> str:
    """The text of /etc/hosts; `addresses`: its own, without prefix length; `extra_hosts`: (name, address)."""
    own = _own_names(hostname, name)
    return (
        LOCALHOST_V4
        + (LOCALHOST_V6 if ipv6 else LOCALHOST_V6_OFF)
        + "".join(f"{address}\t{extra}\n" for extra, address in extra_hosts)
        + "".join(f"{address}\t{own}\n" for address in addresses)
    )


def beside_the_host(
    hostname: str,
    *,
    host_resolv_conf: str,
    host_hosts: str,
    dns: Sequence[str] = (),
    dns_search: Sequence[str] = (),
    dns_options: Sequence[str] = (),
    extra_hosts: Sequence[str] = (),
) -> Files:
    """The files of a container in the host's network: the host's own, changed only where that was asked for."""
    conf = parse_resolv_conf(host_resolv_conf)
    changed = resolv_conf(dns or conf.nameservers, dns_search or conf.search, dns_options or conf.options)
    lines = "".join(f"{a}\t{n}\n" for n, a in (parse_extra_host(text, "127.0.0.1") for text in extra_hosts))
    ended = host_hosts if host_hosts.endswith("\n") or not host_hosts else host_hosts + "\n"
    return Files(
        changed if dns or dns_search or dns_options else None, ended + lines if lines else None, hostname + "\n"
    )


def _own_names(hostname: str, name: str | None) -> str:
    """`web.example.org` is also `web`; the container's name comes last, where it is another one."""
    names = [hostname, hostname.partition(".")[0], name or hostname]
    return " ".join(dict.fromkeys(names))


def hostname(name: str) -> str:
    """The text of /etc/hostname."""
    return name + "\n"


def parse_extra_host(text: str, gateway: str | None = None) -> tuple[str, str]:
    """`NAME:ADDRESS` or `NAME=ADDRESS` as (name, address); [brackets] too, `host-gateway` is `gateway`."""
    name, _, address = text.partition("=") if "=" in text else text.partition(":")
    address = address.removeprefix("[").removesuffix("]")
    if address == "host-gateway" and gateway:
        address = gateway
    if not name or any(c.isspace() or not c.isprintable() or c == "#" for c in name) or not _packed(address):
        raise Refused(f"{text!r} is not an extra host: NAME:ADDRESS is expected, such as db:192.0.2.7")
    return name, address


def _packed(address: str) -> bytes | None:
    """The 4 or 16 bytes of an address; a zone is allowed for IPv6; None if it is no address."""
    for family, text in ((socket.AF_INET, address), (socket.AF_INET6, address.partition("%")[0])):
        try:
            return socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
    return None


def _is_loopback(address: str) -> bool:
    packed = _packed(address) or b""
    if len(packed) == 16 and packed.startswith(bytes(10) + b"\xff\xff"):
        packed = packed[12:]
    return packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\x01"
