# SPDX-License-Identifier: Apache-2.0
"""The container's side of an attachment: what its interface shall look like, and making it so.

`configure` works on the network namespace that the calling thread is in (a worker of the attach helper has
entered it) and may be repeated: after a restart of the switch it finds address and routes there and leaves
them; while the container runs, another MTU, further routes or a default route that moves to another interface are
brought about by it too. It never takes away what it didn't put there: of routes only default ones through the plan's
own `dropped_gateways`. There is no counterpart to it, since addresses and routes go with the interface; `unconfigure`
deletes that, for the case that nobody holds its descriptor any more.

Order matters: the MAC before the interface is up (no frame ever leaves with a random one), IPv6 settings
before it is up, since the kernel makes a link-local address, multicast reports and router solicitations in
that moment. A container without an IPv6 address gets disable_ipv6=1, as Docker does; where /proc/sys is
read-only (a daemon in a container, ProtectKernelTunables=) the interface merely makes itself no link-local
address, which silences it as well. One with an IPv6 address gets disable_ipv6=0, whatever the namespace's
default says. accept_ra=0, since address and route come from here, unless the plan says that hosts of this network
make themselves addresses: then accept_ra=2, so that it holds for a container that forwards too.
"""
from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from msgspec import Struct

from vswitch.model import Refused

if TYPE_CHECKING:
    from vswitch.ports import rtnl

TXQUEUELEN = 4096  # frames in the kernel's ring, 8 bytes each: a TAP pushes back on nobody, it drops
SIOCGIFHWADDR = 0x8927  # netdevice(7)
SYSCTL_IPV6 = "/proc/sys/net/ipv6/conf"


class InterfacePlan(Struct, kw_only=True, forbid_unknown_fields=True):
    """An interface as it shall be.

    `name` None or empty is the first free ethN. Addresses carry their prefix length. A gateway is a default
    route; `dropped_gateways` are those through which there shall be none on this interface, since another one has it.
    `routes` are further subnets that are reached without a gateway. `accept_ra`: the kernel makes itself addresses as
    routers advertise. `persist` lets the interface outlive the switch.
    """

    name: str | None = None
    mac: str
    mtu: int = 1500
    txqueuelen: int = TXQUEUELEN
    ipv4: list[str] = []
    ipv6: list[str] = []
    gateway4: str | None = None
    gateway6: str | None = None
    dropped_gateways: list[str] = []
    routes: list[str] = []
    accept_ra: bool = False
    persist: bool = True


def free_name() -> str:
    """The first ethN that the current network namespace doesn't have."""
    taken = {name for _, name in socket.if_nameindex()}
    return next(name for number in count() if (name := f"eth{number}") not in taken)


def configure(plan: InterfacePlan) -> None:
    """Make interface `plan.name` of the current network namespace as planned, and set lo up. Refused."""
    from vswitch.ports import rtnl  # all of pyroute2: only the helper's processes pay for it

    if not plan.name:
        raise ValueError("the interface's name is chosen before it is configured")
    index = socket.if_nametoindex(plan.name)
    in_reach = _set_ipv6(plan.name, wanted=bool(plan.ipv6), accept_ra=plan.accept_ra)
    changes = [] if in_reach or plan.ipv6 else [rtnl.silent6(index)]
    changes += [
        rtnl.loopback_up(),
        rtnl.link_settings(index, mac=plan.mac, mtu=plan.mtu, txqueuelen=plan.txqueuelen),
        rtnl.link_up(index),
        *(rtnl.address4(index, address) for address in plan.ipv4),
        *(rtnl.address6(index, address) for address in plan.ipv6),
    ]
    changes += [rtnl.on_link(index, route) for route in plan.routes]
    if plan.gateway4:
        changes.append(rtnl.default_route4(index, plan.gateway4))
    if plan.gateway6:
        changes.append(rtnl.default_route6(index, plan.gateway6))
    changes += [rtnl.default_route_removed(index, gateway) for gateway in plan.dropped_gateways]
    with _kernel(plan.name) as kernel:
        kernel.apply(changes)


def unconfigure(name: str, mac: str | None = None) -> None:
    """Delete TAP `name` from the current network namespace, without a name the one that has this MAC.

    None there is fine, other kinds are Refused.
    """
    from vswitch.ports import rtnl

    if not name:
        name = _name_of(mac)
    if not name:
        return
    with _kernel(name) as kernel:
        link = kernel.link(name)
        if link is None:
            return
        if link.kind != "tun":
            raise Refused(f"interface {name} is no TAP, so it is not ours to delete", 409)
        kernel.apply([rtnl.link_removed(link.index)])


def _name_of(mac: str | None) -> str:
    """Which TAP of the current network namespace has a MAC; "" if none has."""
    for _, name in socket.if_nameindex():
        with contextlib.suppress(OSError, struct.error), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            answer = fcntl.ioctl(asking, SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
            if answer[18:24].hex(":") == mac:
                return name
    return ""


@contextlib.contextmanager
def _kernel(name: str) -> Iterator[rtnl.Rtnl]:
    """An rtnetlink socket; what the kernel refuses about interface `name` becomes Refused."""
    from vswitch.ports import rtnl

    try:
        with rtnl.Rtnl() as kernel:
            yield kernel
    except rtnl.NetlinkRefused as error:
        raise Refused(f"interface {name}: {error}", 500) from None


def _set_ipv6(name: str, *, wanted: bool, accept_ra: bool) -> bool:
    """Write the interface's IPv6 sysctls, before it goes up; False if they are out of reach."""
    if not _kernel_has_ipv6():
        if wanted:
            raise Refused("this kernel has no IPv6: use networks without it, or boot it with IPv6", 500)
        return True
    try:
        _write(f"{SYSCTL_IPV6}/{name}/accept_ra", "2" if accept_ra else "0")
        _write(f"{SYSCTL_IPV6}/{name}/disable_ipv6", "0" if wanted else "1")
    except OSError:
        return False
    return True


def _kernel_has_ipv6() -> bool:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


def _write(path: str, value: str) -> None:
    """Write a sysctl of the current network namespace."""
    with open(path, "w") as sysctl:
        sysctl.write(value)
