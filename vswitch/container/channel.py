# SPDX-License-Identifier: Apache-2.0
"""Messages between the processes of one container: JSON objects with a length before them, on a stream pair.

A stream and not SOCK_SEQPACKET, because an environment may be larger than one packet may be. The other end's
death reads as None, which is how every process of a container learns that its supervisor is gone. Lone
surrogates (bytes that are no UTF-8, in arguments) survive the way.
"""
from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

HEADER = struct.Struct("!I")


class Channel:
    """One end. `send` and `receive` block; wait for `fd` to be readable first where that must not be."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.fd = end.fileno()

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours), cls(theirs)

    def send(self, message: dict[str, Any]) -> bool:
        """Send all of it; False when nobody is left to read it."""
        data = json.dumps(message).encode()
        try:
            self._end.sendall(HEADER.pack(len(data)) + data)
        except OSError:
            return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other end is gone."""
        header = self._exactly(HEADER.size)
        data = header and self._exactly(HEADER.unpack(header)[0])
        return json.loads(data) if data else None

    def _exactly(self, count: int) -> bytes | None:
        data = bytearray()
        while len(data) < count:
            try:
                piece = self._end.recv(count - len(data))
            except ConnectionResetError:
                return None
            if not piece:
                return None
            data += piece
        return bytes(data)

    def ended(self) -> bool:
        """Whether the other end is gone and nothing is left to read; never blocks."""
        try:
            return not self._end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._end.close()


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor except stdin, stdout, stderr and `keep`; only right before an exec."""
    for fd in _others(keep):
        os.close(fd)


def let_go_of_all_but(keep: set[int]) -> None:
    """Point every descriptor except 0 to 2 and `keep` at /dev/null, in a fork that goes on running Python.

    Closed, its number would be given to the next thing opened here, and then be closed again, or written to,
    by the caller's object (a connection, say) that still believes it is its own.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for fd in _others({*keep, null}):
        os.dup2(null, fd, inheritable=False)
    os.close(null)


def _others(keep: set[int]) -> list[int]:
    """The open descriptors above 2 that are not in `keep`."""
    listed = [int(name) for name in os.listdir("/proc/self/fd")]
    return [fd for fd in listed if fd > 2 and fd not in keep and _is_open(fd)]


def _is_open(fd: int) -> bool:
    """False for the one that listed the folder."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
