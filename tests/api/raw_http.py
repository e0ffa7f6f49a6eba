# SPDX-License-Identifier: Apache-2.0
"""HTTP by hand, for requests that no client of ours would make: bytes in, (status, body) out."""

from __future__ import annotations

import json
import re
import socket
from typing import Any, NamedTuple

TIMEOUT_S = 10


class Reply(NamedTuple):
    status: int
    head: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The line of a refusal, checked to be one."""
        line = self.json["error"]
        assert isinstance(line, str) and line and line.isprintable() and len(line) <= 1000, line
        return line


def exchange(path: str, content: bytes, *, leave: bool = False) -> list[Reply]:
    """Everything that is answered to `content` until the server closes.

    With `leave`, we go in the middle of a request.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
        try:
            connection.sendall(content)
            if leave:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before the end: what was said is there to be read
        return split(_until_closed(connection))


def ask(path: str, method: str, target: str, body: bytes = b"", *headers: str) -> Reply:
    """The answer to one well-formed request with any body."""
    head = [
        f"{method} {target} HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *headers,
        "",
        "",
    ]
    (reply,) = exchange(path, "\r\n".join(head).encode() + body)
    return reply


def _until_closed(connection: socket.socket) -> bytes:
    content = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return content
        if not piece:
            return content
        content += piece


def split(content: bytes) -> list[Reply]:
    """The answers in a connection's bytes; all of ours that are not streams are counted."""
    replies = []
    while content:
        head, gap, content = content.partition(b"\r\n\r\n")
        assert gap, head
        length = re.search(rb"(?i)content-length: (\d+)", head)
        size = int(length[1]) if length else 0
        replies.append(Reply(int(head[9:12]), head.decode("latin-1"), content[:size]))
        content = content[size:]
    return replies
