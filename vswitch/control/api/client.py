# SPDX-License-Identifier: Apache-2.0
"""The command line's and the plugins' way to a switch: HTTP/1.1 and JSON over its Unix socket, blocking, one
connection per request.

Written on a bare socket on purpose: this module is imported at every start of `vswitch`, and http.client
alone (email.parser, ssl) costs as much as everything else here together. It needs only what our own server
sends: a status line, headers, and a body that is counted, chunked or ended by the connection. Every failure
is a `ClientError` whose text is one line for a person.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import socket
import stat
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from vswitch import __version__

API = 1  # the number in /v1, sent by the server with every answer
ANSWER_TIMEOUT_S = 60.0  # a stop waits up to its own timeout on top of this
START_PATIENCE_S, START_POLL_S = 3.0, 0.05  # a switch listens half a second after its start
LINE_LIMIT_BYTES = 64 * 1024  # of a header line or a chunk's size line: ours are far shorter
HEADER_LIMIT = 64
HOW_TO_BE_LET_IN = (
    "use its owner's rights (sudo), have that switch started with `vswitch-run --socket-group` and a group of yours, "
    "or start your own with `vswitch-run`"
)
UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:")


class ClientError(Exception):
    """What went wrong, in one line. `status` is the HTTP status, or 0 where no answer came."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class NoSwitch(ClientError):
    """Nobody answers at the socket: the line says how to start a switch."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: BinaryIO
    connection: socket.socket

    def close(self) -> None:
        self.body.close()
        self.connection.close()


class Client:
    """One switch, named by the path of its socket."""

    def __init__(self, path: str, timeout_s: float = ANSWER_TIMEOUT_S):
        self.path = path
        self.timeout_s = timeout_s

    def get(self, target: str, **query: Any) -> Any:
        return self.request("GET", target, None, query)

    def post(self, target: str, body: Any = None, **query: Any) -> Any:
        return self.request("POST", target, body, query)

    def delete(self, target: str, **query: Any) -> Any:
        return self.request("DELETE", target, None, query)

    def request(self, method: str, target: str, body: Any, query: dict[str, Any], wait_s: float = 0) -> Any:
        """The decoded JSON of a granted request; a refusal is a ClientError.

        `wait_s` more than usual is waited for.
        """
        answer = self._ask(method, target, body, query, self.timeout_s + wait_s)
        try:
            content = b"".join(_body(answer))
        except (OSError, ValueError) as problem:
            raise self._broken(problem) from None
        finally:
            answer.close()
        return self._decode(content)

    def stream(self, method: str, target: str, body: Any = None, **query: Any) -> Iterator[bytes]:
        """The pieces of an answer that goes on, as they arrive.

        Closing the iterator tells the switch to stop.
        """
        answer = self._ask(method, target, body, query, self.timeout_s)
        answer.connection.settimeout(None)  # a quiet network has no events for hours
        return self._pieces(answer)

    def lines(self, method: str, target: str, body: Any = None, **query: Any) -> Iterator[Any]:
        """The values of an answer that is one JSON value per line, as they arrive."""
        rest = b""
        pieces = self.stream(method, target, body, **query)
        try:
            for piece in pieces:
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    yield self._decode(line)
        finally:
            pieces.close()  # Python 3.12.3, Ubuntu 24.04's: a generator that is closed keeps what it holds

    def _pieces(self, answer: Answer) -> Iterator[bytes]:
        try:
            yield from _body(answer)
        except (OSError, ValueError) as problem:
            raise self._broken(problem) from None
        finally:
            answer.close()

    def _ask(self, method: str, target: str, body: Any, query: dict[str, Any], timeout_s: float) -> Answer:
        """Send one request; the answer's head is read and its refusal raised, its body is still to come."""
        connection = self._connect(timeout_s)
        try:
            connection.sendall(_request(method, target, query, body))
        except (BrokenPipeError, ConnectionResetError):
            pass  # a refusal may have come before the end of our body: it is there to be read
        try:
            answer = _head(connection)
            self._check(answer)
        except (OSError, ValueError) as problem:
            connection.close()
            raise self._broken(problem) from None
        except ClientError:
            connection.close()
            raise
        return answer

    def _connect(self, timeout_s: float) -> socket.socket:
        """A connection; a switch that is just starting is waited for."""
        deadline_at = None
        while True:
            try:
                return self._connect_now(timeout_s)
            except NoSwitch:
                now = time.monotonic()
                deadline_at = deadline_at or now + START_PATIENCE_S
                if now > deadline_at or not self._is_starting():
                    raise
                time.sleep(START_POLL_S)

    def _is_starting(self) -> bool:
        from vswitch.control.api.starting import is_starting

        return is_starting(self.path)

    def _connect_now(self, timeout_s: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(timeout_s)
        try:
            connection.connect(self.path)
        except OSError as problem:
            connection.close()
            raise self._unreachable(problem) from None
        return connection

    def _unreachable(self, problem: OSError) -> ClientError:
        if isinstance(problem, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
            return NoSwitch(f"no switch is running at {self.path}: {how_to_start()}")
        if isinstance(problem, PermissionError):
            return ClientError(f"no permission to use {self.path}{_who_may(self.path)}: {HOW_TO_BE_LET_IN}")
        return ClientError(f"cannot reach a switch at {self.path}: {problem.strerror or problem}")

    def _check(self, answer: Answer) -> None:
        """Raise what a refusal says.

        An answer of another kind of server, or of another API, is refused by us.
        """
        theirs = answer.headers.get("vswitch-version")
        api = answer.headers.get("vswitch-api")
        if theirs is None:
            raise ClientError(f"the program at {self.path} is no switch")
        if api != str(API):
            raise ClientError(
                f"the switch at {self.path} is version {theirs} and speaks API {api}, this vswitch is "
                f"{__version__} and speaks API {API}: install the same version of both"
            )
        if answer.status >= 300:
            refusal = _refusal(b"".join(_body(answer)), answer.status)
            if theirs != __version__ and answer.status in (400, 404, 405):
                refusal += f" (the switch is version {theirs}, this vswitch {__version__})"
            raise ClientError(refusal, answer.status)

    def _decode(self, content: bytes) -> Any:
        try:
            return json.loads(content) if content else None
        except ValueError:
            raise ClientError(f"the switch at {self.path} sent no JSON") from None

    def _broken(self, problem: Exception) -> ClientError:
        if isinstance(problem, TimeoutError):
            return ClientError(f"the switch at {self.path} does not answer: its log should say why")
        return ClientError(f"the switch at {self.path} broke off its answer; was it stopped?")


def segment(name: str) -> str:
    """`name` as one segment of a path (RFC 3986 §2.1). ClientError for none, with which the path would be another."""
    if not name:
        raise ClientError("'' names nothing: a name or an id is expected")
    return _quoted(name)


def _quoted(text: str) -> str:
    return "".join(chr(octet) if octet in UNRESERVED else f"%{octet:02X}" for octet in os.fsencode(text))


def how_to_start() -> str:
    unit = "systemctl start vswitch" if os.geteuid() == 0 else "systemctl --user start vswitch"
    return f"start one with `vswitch-run` or `{unit}`, or name another with --socket"


def _request(method: str, target: str, query: dict[str, Any], body: Any) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    pairs = [
        f"{name}={_quoted(str(value))}"
        for name, values in query.items()
        for value in (values if isinstance(values, (list, tuple)) else [values])
        if value is not None
    ]
    if pairs:
        target = f"{target}?{'&'.join(pairs)}"
    head = [
        f"{method} {target} HTTP/1.1",
        "Host: vswitch",
        "Connection: close",
        f"User-Agent: vswitch/{__version__}",
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + content


def _head(connection: socket.socket) -> Answer:
    """Status line and headers (RFC 9112 §4, §5); ValueError for what is no HTTP answer."""
    stream = connection.makefile("rb")
    version, _, rest = _line(stream).partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise ValueError("no HTTP answer")
    headers: dict[str, str] = {}
    while line := _line(stream):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
        if len(headers) > HEADER_LIMIT:
            raise ValueError("too many headers")
    return Answer(int(rest[:3]), headers, stream, connection)


def _line(stream: BinaryIO) -> str:
    line = stream.readline(LINE_LIMIT_BYTES)
    if not line.endswith(b"\n"):
        raise ValueError("the answer ends in the middle of a line")
    return line.decode("latin-1").rstrip("\r\n")


def _body(answer: Answer) -> Iterator[bytes]:
    """The body's pieces (RFC 9112 §6.3, §7.1); ValueError where it ends early."""
    if answer.headers.get("transfer-encoding", "").lower() == "chunked":
        while length := int(_line(answer.body).partition(";")[0], 16):
            yield _exactly(answer.body, length)
            _line(answer.body)
    elif (length_text := answer.headers.get("content-length")) is not None:
        yield _exactly(answer.body, int(length_text))
    elif answer.status != 204:
        yield answer.body.read()


def _exactly(stream: BinaryIO, length: int) -> bytes:
    content = stream.read(length)
    if len(content) != length:
        raise ValueError("the answer ends early")
    return content


def _refusal(content: bytes, status: int) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the switch refused with status {status}"


def _who_may(path: str) -> str:
    """`, which is for user …`, as far as it can be seen."""
    try:
        info = os.stat(path)
    except OSError:
        return ", which lies in a folder that is closed to you"
    owner = _name(pwd.getpwuid, info.st_uid)
    if info.st_mode & stat.S_IWGRP:
        return f", which is for user {owner} and group {_name(grp.getgrgid, info.st_gid)}"
    return f", which is for user {owner} only"


def _name(look_up: Any, number: int) -> str:
    try:
        return look_up(number)[0]
    except KeyError:
        return str(number)
