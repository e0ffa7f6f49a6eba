# SPDX-License-Identifier: Apache-2.0
"""Lists out of the kernel, and word that something changed: rtnetlink with nothing but `struct`.

pyroute2 would cost the daemon's start 0.2 s for these few lines. What a notification says is not used: the kernel drops
some when there are too many (ENOBUFS), and a list is right whatever was missed. rtnetlink(7), RFC 3549 §3.1.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port
ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
RECEIVE_BYTES = 65536
ANSWER_TIMEOUT_S = 2.0  # the kernel answers within send(); this only keeps a bug from hanging the switch
ATTEMPTS = 5  # at a list that changes while it is read


class Listener:
    """Calls back on the running event loop whenever something of `groups` (RTMGRP_…) changes; what exactly, nobody
    reads. OSError where there is no netlink."""

    def __init__(self, groups: int, stirred: Callable[[], None]):
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._stirred = stirred
        try:
            self._socket.bind((0, groups))
        except OSError:
            self._socket.close()
            raise
        self.resume()

    def resume(self) -> None:
        """Call back again."""
        asyncio.get_running_loop().add_reader(self._socket, self._stirred)

    def pause(self) -> None:
        """Call back no more; what happens meanwhile is told at the next resume()."""
        asyncio.get_running_loop().remove_reader(self._socket)

    def drain(self) -> None:
        """Take all that has been said."""
        while True:
            try:
                self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as problem:  # ENOBUFS: some was lost, which changes nothing
                log.debug("netlink: %s", problem)

    def close(self) -> None:
        """Listen no more."""
        self.pause()
        self._socket.close()


def listed(question: int, answer: int, body: bytes) -> list[bytes]:
    """The bodies of all `answer` messages that `question` (RTM_GET…) lists. OSError if the kernel doesn't say.

    A list that changes while it is read is read again, a few times; then it is taken as it is.
    """
    request = HEADER.pack(HEADER.size + len(body), question, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body
    for _ in range(ATTEMPTS):
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as netlink:
            netlink.settimeout(ANSWER_TIMEOUT_S)
            netlink.send(request)
            bodies, whole = _answer(netlink, answer)
        if whole:
            break
    return bodies


def _answer(netlink: socket.socket, wanted: int) -> tuple[list[bytes], bool]:
    """The list, and whether it stayed the same while it was read."""
    bodies: list[bytes] = []
    whole = True
    while True:
        for kind, flags, body in messages(netlink.recv(RECEIVE_BYTES)):
            whole = whole and not flags & NLM_F_DUMP_INTR
            if kind == NLMSG_DONE:
                return bodies, whole
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                raise OSError(code, "the kernel does not list it")
            if kind == wanted:
                bodies.append(body)


def messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of each whole message in it."""
    at = 0
    while at + HEADER.size <= len(datagram):
        length, kind, flags, _, _ = HEADER.unpack_from(datagram, at)
        if length < HEADER.size or at + length > len(datagram):
            return
        yield kind, flags, datagram[at + HEADER.size : at + length]
        at += length + 3 & ~3


def attributes(body: bytes, at: int) -> dict[int, bytes]:
    """The attributes that stand in a message's body from `at` on, by type."""
    found: dict[int, bytes] = {}
    while at + ATTRIBUTE.size <= len(body):
        length, kind = ATTRIBUTE.unpack_from(body, at)
        if length < ATTRIBUTE.size or at + length > len(body):
            break
        found[kind] = body[at + ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found
