# SPDX-License-Identifier: Apache-2.0
"""The machine the switch runs on: the subnets it has routes to, the resolvers it uses, our own memory.

Read from /proc and /etc each time it is asked, since all of it changes while we run. Reading is all that
happens here; a file that is not there or says nothing sensible counts as empty: a machine without IPv6 has no
/proc/net/ipv6_route.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from vswitch.container.files import ResolvConf, parse_resolv_conf, reachable
from vswitch.control.subnets import Subnet

RESOLV_CONF = "/etc/resolv.conf"
# systemd-resolved's list of real servers, for when /etc/resolv.conf names only its stub on 127.0.0.53
RESOLVED_CONF = "/run/systemd/resolve/resolv.conf"
RTF_UP, RTF_REJECT = 0x0001, 0x0200
# A shorter route is a way out and no neighbourhood: the default route, or the halves of it that VPNs install
SHORTEST_NEIGHBOURHOOD = 4


class ProcHost:
    """This machine. `proc` and `root` are other folders in tests."""

    def __init__(self, proc: str = "/proc", root: str = ""):
        self._proc = proc
        self._root = root

    def routes(self) -> list[Subnet]:
        """Every subnet that this network namespace has a route to, directly attached ones included."""
        v4 = parse_routes4(_read(f"{self._proc}/net/route"))
        v6 = parse_routes6(_read(f"{self._proc}/net/ipv6_route"))
        return [subnet for subnet in (*v4, *v6) if subnet.prefixlen >= SHORTEST_NEIGHBOURHOOD]

    def resolv_conf(self) -> ResolvConf:
        """The resolvers that a container could ask too; systemd-resolved's own ones where only its stub is
        named.
        """
        conf = reachable(parse_resolv_conf(_read(self._root + RESOLV_CONF)))
        if conf.nameservers:
            return conf
        behind_stub = reachable(parse_resolv_conf(_read(self._root + RESOLVED_CONF)))
        return conf._replace(nameservers=behind_stub.nameservers)

    def interfaces(self) -> list[str]:
        """The interfaces of this network namespace."""
        return [name for _, name in socket.if_nameindex()]

    def first_unprivileged_port(self) -> int:
        """ip(7); 1024 where the kernel doesn't say."""
        text = _read(f"{self._proc}/sys/net/ipv4/ip_unprivileged_port_start").strip()
        return int(text) if text.isascii() and text.isdigit() else 1024

    def resident_bytes(self) -> int:
        """Pages of this process that are in memory (proc(5), statm), in bytes."""
        fields = _read(f"{self._proc}/self/statm").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def parse_routes4(text: str) -> Iterator[Subnet]:
    """The destinations in /proc/net/route: hexadecimal numbers in the machine's byte order, mask in the
    eighth column.
    """
    for line in text.splitlines()[1:]:
        fields = line.split()
        try:
            destination, flags, mask = fields[1], int(fields[3], 16), fields[7]
            if flags & RTF_UP and not flags & RTF_REJECT:
                yield IPv4Network(f"{_native4(destination)}/{_native4(mask)}", strict=False)
        except (IndexError, ValueError, struct.error):
            continue


def parse_routes6(text: str) -> Iterator[Subnet]:
    """The destinations in /proc/net/ipv6_route, but for the kernel's own: link-local, multicast, loopback."""
    for line in text.splitlines():
        fields = line.split()
        try:
            address, prefix, flags, device = (
                bytes.fromhex(fields[0]),
                int(fields[1], 16),
                int(fields[8], 16),
                fields[9],
            )
            subnet = IPv6Network((address, prefix), strict=False)
        except (IndexError, ValueError):
            continue
        own = device == "lo" or subnet.is_link_local or subnet.is_multicast
        if flags & RTF_UP and not flags & RTF_REJECT and not own:
            yield subnet


def _native4(number: str) -> IPv4Address:
    return IPv4Address(struct.pack("=I", int(number, 16)))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
