# SPDX-License-Identifier: Apache-2.0
"""The machine the switch runs on: the subnets it has routes to, the resolvers it uses, our own memory.

Read from the kernel, /proc and /etc each time it is asked, since all of it changes while we run. Reading is all that
happens here; a file that is not there or says nothing sensible counts as empty.
"""

from __future__ import annotations

import logging
import os
import socket

from vswitch.container.files import ResolvConf, parse_resolv_conf, reachable
from vswitch.control.hostroutes import read_routes
from vswitch.control.subnets import Subnet

log = logging.getLogger(__name__)

RESOLV_CONF = "/etc/resolv.conf"
# systemd-resolved's list of real servers, for when /etc/resolv.conf names only its stub on 127.0.0.53
RESOLVED_CONF = "/run/systemd/resolve/resolv.conf"


class ProcHost:
    """This machine. `proc` and `root` are other folders in tests."""

    def __init__(self, proc: str = "/proc", root: str = ""):
        self._proc = proc
        self._root = root

    def routes(self) -> list[Subnet]:
        """Every subnet that this network namespace has a route to, directly attached ones included."""
        try:
            return read_routes()
        except OSError as problem:
            log.warning("the host's routes cannot be read: %s", problem)
            return []

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


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
