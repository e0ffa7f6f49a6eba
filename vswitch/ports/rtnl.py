# SPDX-License-Identifier: Apache-2.0
"""rtnetlink as one question and one answer: a batch of changes in a single send, acknowledged one by one.

pyroute2's message classes write and read the bytes; its IPRoute is not used, because it brings an event loop
of its own per namespace and a round trip per change (about 3 ms for an interface; this takes 1). The kernel
works through a batch in order and answers before send() returns, so nothing waits here. A change that fails
doesn't stop those behind it: the caller takes the whole interface back, or repeats the batch, in which every
change may be repeated.

This module costs 0.2 s to import (all of pyroute2), so only the attach helper does. RFC 3549,
linux/netlink.h, linux/rtnetlink.h; extended acknowledgements (NETLINK_EXT_ACK) tell in words why the kernel
said no.
"""
from __future__ import annotations

import os
import socket
import struct
from errno import EAFNOSUPPORT, EEXIST, ENODEV, ESRCH
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network
from typing import NamedTuple, Self

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, nlmsg
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_DELROUTE, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
NLMSG_ERROR = 2
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
RECEIVE_BYTES = 65536
ANSWER_TIMEOUT_S = 5.0  # the kernel has answered before send() returns; this only keeps a bug from hanging

LOOPBACK_INDEX = 1  # in every network namespace
IFF_UP = 1
IFA_F_NODAD = 0x02
IN6_ADDR_GEN_MODE_NONE = 1
# As `ip route add` has them
RT_TABLE_MAIN, RTN_UNICAST, RTPROTO_BOOT, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 254, 1, 3, 0, 253
# Below the 1024 of a default route by hand or from a router advertisement: ours is preferred, the other stays
# in place behind it. With equal metrics IPv6 would make both one route of two paths.
DEFAULT6_METRIC = 512


class Change(NamedTuple):
    """One request of a batch: `what` names it in an error, `tolerated` errno values count as done."""

    what: str
    type: int
    flags: int
    message: nlmsg
    tolerated: tuple[int, ...] = ()


class Link(NamedTuple):
    """What is asked of an interface: `kind` is None for hardware, "tun" for TUN and TAP devices."""

    index: int
    kind: str | None


class NetlinkRefused(OSError):
    """The kernel refused a change; str() is one line."""

    def __init__(self, code: int, what: str, reason: str):
        super().__init__(code, reason)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what}: {self.strerror}"


def loopback_up() -> Change:
    """Set lo up."""
    return Change("cannot set lo up", RTM_NEWLINK, 0, _link_message(LOOPBACK_INDEX, up=True))


def link_up(index: int) -> Change:
    """Set an interface up."""
    return Change("cannot set the interface up", RTM_NEWLINK, 0, _link_message(index, up=True))


def link_settings(index: int, *, mac: str, mtu: int, txqueuelen: int) -> Change:
    """MAC, MTU and queue length (frames)."""
    attributes = [("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu), ("IFLA_TXQLEN", txqueuelen)]
    what = f"the kernel refused MAC {mac}, MTU {mtu} or queue length {txqueuelen}"
    return Change(what, RTM_NEWLINK, 0, _link_message(index, attributes=attributes))


def silent6(index: int) -> Change:
    """Let an interface make itself no link-local address; without one it stays silent."""
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", IN6_ADDR_GEN_MODE_NONE)]}
    message = _link_message(index, attributes=[("IFLA_AF_SPEC", {"attrs": [("AF_INET6", mode)]})])
    return Change("cannot keep IPv6 quiet", RTM_NEWLINK, 0, message, (EAFNOSUPPORT,))  # MTU < 1280: no IPv6


def address4(index: int, text: str) -> Change:
    """An IPv4 address "A/prefix length" with its broadcast address; one that is there stays as it is."""
    interface = IPv4Interface(text)
    attributes = [("IFA_LOCAL", str(interface.ip)), ("IFA_ADDRESS", str(interface.ip))]
    if interface.network.prefixlen < 31:
        attributes.append(("IFA_BROADCAST", str(interface.network.broadcast_address)))
    return _address(text, socket.AF_INET, index, interface.network.prefixlen, attributes)


def address6(index: int, text: str) -> Change:
    """An IPv6 address "A/prefix length", usable at once: the switch knows that it is unique (IFA_F_NODAD)."""
    interface = IPv6Interface(text)
    attributes = [("IFA_ADDRESS", str(interface.ip))]
    return _address(text, socket.AF_INET6, index, interface.network.prefixlen, attributes)


def default_route4(index: int, gateway: str) -> Change:
    """A default route before any other of its metric, which stays and is in force again when ours goes."""
    message = _route_message(socket.AF_INET, [("RTA_GATEWAY", gateway), ("RTA_OIF", index)])
    what = f"cannot set the default route via {gateway}"
    return Change(what, RTM_NEWROUTE, NLM_F_CREATE, message, (EEXIST,))


def default_route6(index: int, gateway: str) -> Change:
    """A default route at DEFAULT6_METRIC."""
    attributes = [("RTA_GATEWAY", gateway), ("RTA_OIF", index), ("RTA_PRIORITY", DEFAULT6_METRIC)]
    message = _route_message(socket.AF_INET6, attributes)
    what = f"cannot set the default route via {gateway}"
    return Change(what, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, message)


def default_route_removed(index: int, gateway: str) -> Change:
    """No default route through a gateway on this interface; none there is fine."""
    attributes = [("RTA_GATEWAY", gateway), ("RTA_OIF", index)]
    family = socket.AF_INET6 if ip_address(gateway).version == 6 else socket.AF_INET
    if family == socket.AF_INET6:
        attributes.append(("RTA_PRIORITY", DEFAULT6_METRIC))
    message = _route_message(family, attributes)
    return Change(f"cannot take away the default route via {gateway}", RTM_DELROUTE, 0, message, (ESRCH, EAFNOSUPPORT))


def on_link(index: int, text: str) -> Change:
    """A subnet that is reached without a gateway; a route to it that is there stays as it is."""
    subnet = ip_network(text)
    attributes = [("RTA_DST", str(subnet.network_address)), ("RTA_OIF", index)]
    message = _route_message(socket.AF_INET6 if subnet.version == 6 else socket.AF_INET, attributes)
    message["dst_len"] = subnet.prefixlen
    message["scope"] = RT_SCOPE_UNIVERSE if subnet.version == 6 else RT_SCOPE_LINK
    return Change(f"cannot set the route to {text}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, message, (EEXIST,))


def link_removed(index: int) -> Change:
    """Delete an interface; one that is gone already is fine."""
    return Change("cannot delete the interface", RTM_DELLINK, 0, _link_message(index), (ENODEV,))


def rehearse() -> None:
    """Encode every kind of change once: pyroute2 compiles its message classes when first used, in ms."""
    changes = [
        loopback_up(),
        link_settings(1, mac="02:00:00:00:00:00", mtu=1500, txqueuelen=1),
        silent6(1),
        address4(1, "127.0.0.1/8"),
        address6(1, "::1/128"),
        default_route4(1, "127.0.0.1"),
        default_route6(1, "::1"),
        default_route_removed(1, "127.0.0.1"),
        on_link(1, "192.0.2.0/24"),
    ]
    for change in changes:
        encoded(change, 0)


class Rtnl:
    """One rtnetlink socket of the network namespace in which it was made; a context manager."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def apply(self, changes: list[Change]) -> None:
        """Carry out all of them in order; NetlinkRefused for the first that failed, the rest is tried."""
        waiting = {}
        batch = b""
        for change in changes:
            self._sequence += 1
            batch += encoded(change, self._sequence)
            waiting[self._sequence] = change
        self._socket.send(batch)
        failures = []
        while waiting:
            for kind, flags, sequence, body in self._receive():
                if kind == NLMSG_ERROR and (change := waiting.pop(sequence, None)):
                    code, reason = parse_acknowledgement(flags, body)
                    if code and code not in change.tolerated:
                        failures.append(NetlinkRefused(code, change.what, reason))
        if failures:
            raise failures[0]

    def link(self, name: str) -> Link | None:
        """The interface of that name, or None."""
        message = ifinfmsg()
        message["attrs"] = [("IFLA_IFNAME", name)]
        self._sequence += 1
        self._socket.send(encoded(Change("", RTM_GETLINK, 0, message), self._sequence))
        found = None
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if kind == RTM_NEWLINK:
                    found = _parse_link(body)
                elif kind == NLMSG_ERROR:
                    code, reason = parse_acknowledgement(flags, body)
                    if code not in (0, ENODEV):
                        raise NetlinkRefused(code, f"cannot look at interface {name}", reason)
                    return found

    def _receive(self) -> list[tuple[int, int, int, bytes]]:
        """(type, flags, sequence number, body) of each message in one read."""
        data = self._socket.recv(RECEIVE_BYTES)
        messages = []
        offset = 0
        while offset + HEADER.size <= len(data):
            length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
            messages.append((kind, flags, sequence, data[offset + HEADER.size : offset + length]))
            offset += (max(length, HEADER.size) + 3) & ~3
        return messages


def encoded(change: Change, sequence: int) -> bytes:
    """The request's bytes, asking for an acknowledgement."""
    change.message["header"] = {
        "type": change.type,
        "flags": NLM_F_REQUEST | NLM_F_ACK | change.flags,
        "sequence_number": sequence,
        "pid": 0,
    }
    change.message.encode()
    return bytes(change.message.data)


def parse_acknowledgement(flags: int, body: bytes) -> tuple[int, str]:
    """(errno or 0, why) of an NLMSG_ERROR: the code, the request or its header again, then attributes."""
    (code,) = struct.unpack_from("=i", body)
    code = -code
    reason = os.strerror(code)
    if not flags & NLM_F_ACK_TLVS:
        return code, reason
    (echoed,) = struct.unpack_from("=I", body, 4)
    offset = 4 + (HEADER.size if flags & NLM_F_CAPPED else (echoed + 3) & ~3)
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:
            break
        if kind == NLMSGERR_ATTR_MSG:
            words = body[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
            return code, f"{reason} ({words.rstrip('.')})"
        offset += (length + 3) & ~3
    return code, reason


def _link_message(index: int, *, up: bool = False, attributes: list | None = None) -> ifinfmsg:
    """An ifinfomsg for one interface."""
    message = ifinfmsg()
    message["index"] = index
    if up:
        message["flags"] = message["change"] = IFF_UP
    message["attrs"] = attributes or []
    return message


def _address(text: str, family: int, index: int, prefixlen: int, attributes: list) -> Change:
    """RTM_NEWADDR that leaves an existing address (perhaps renewed by a DHCP client) alone."""
    message = ifaddrmsg()
    message["family"] = family
    message["prefixlen"] = prefixlen
    message["index"] = index
    message["flags"] = IFA_F_NODAD if family == socket.AF_INET6 else 0
    message["attrs"] = attributes
    return Change(f"cannot set address {text}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, message, (EEXIST,))


def _route_message(family: int, attributes: list) -> rtmsg:
    """An rtmsg for a default route in the main table."""
    message = rtmsg()
    message["family"] = family
    message["table"] = RT_TABLE_MAIN
    message["type"] = RTN_UNICAST
    message["proto"] = RTPROTO_BOOT
    message["scope"] = RT_SCOPE_UNIVERSE
    message["attrs"] = attributes
    return message


def _parse_link(body: bytes) -> Link:
    """RTM_NEWLINK's body (struct ifinfomsg and attributes)."""
    message = ifinfmsg(HEADER.pack(HEADER.size + len(body), RTM_NEWLINK, 0, 0, 0) + body)
    message.decode()
    return Link(message["index"], message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND"))
