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
    """Close every descriptor of this process except stdin, stdout, stderr and `keep`."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that listed the folder
