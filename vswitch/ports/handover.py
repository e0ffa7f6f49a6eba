# SPDX-License-Identifier: Apache-2.0
"""Descriptors on their way from a client to the switch: left under a token, claimed by whoever names it.

HTTP carries no descriptors, so they come first, on a socket of their own (SOCKET.fd, SOCK_SEQPACKET):

    client ── {"token": "<32 hex digits>"} + SCM_RIGHTS ──→ TokenServer      one message
           ←──────────── {"error": null or one line} ──────                 now they are in the switch's hands
    client ── HTTP request that names the token ──→ handler ── claim(token) → the descriptors, in order

Without the answer the HTTP request could overtake the descriptors. The token is random and works once; that
it can't be guessed matters little, since only the switch's own user gets as far as sending anything
(SO_PEERCRED). A descriptor carries its opener's rights, which is the point: what a client may not open, the
switch does not open for it.

Whatever a client does, nothing stays: every descriptor is closed unless it was claimed within UNCLAIMED_S, a
connection that says nothing is closed after the same time, and a message that is too long, malformed, or
carries none or too many descriptors is answered with one line. Caps refuse the new and leave the old alone.
"""
from __future__ import annotations

import array
import contextlib
import os
import pwd
import re
import socket
import stat
import struct
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from vswitch.model import Refused

if TYPE_CHECKING:  # asyncio costs 30 ms, and offer() serves a command line that has none of it
    import asyncio

UNCLAIMED_S = 5.0  # the HTTP request follows within milliseconds
PENDING = 128  # tokens; at most PENDING * DESCRIPTORS descriptors are held, far below hard limits
CONNECTIONS = 64  # each is one message long
DESCRIPTORS = 8  # per token; a container brings three, a capture one
MESSAGE_BYTES = 1024  # ours has 46
ACCEPT_PAUSE_S = 0.2  # when descriptors or memory have run out, instead of spinning on a readable listener
ANSWER_TIMEOUT_S = 10.0  # client side; the switch answers in well under a millisecond
BACKLOG = 128

TOKEN = re.compile(r"[0-9a-f]{32}")
UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid
CMSG_SPACE = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)


class Offer(Struct, forbid_unknown_fields=True):
    """What a client sends."""

    token: str


class Receipt(Struct):
    """What it gets; `error` None: the descriptors are in the switch's hands."""

    error: str | None = None


class Deposit(NamedTuple):
    """Descriptors nobody has claimed yet, and the timer that will close them."""

    fds: list[int]
    expiry: asyncio.TimerHandle


class TokenServer:
    """The switch's side, on the running event loop from start() to close()."""

    def __init__(self, path: str, uid: int):
        self._path = path
        self._uid = uid
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        self._connections: dict[socket.socket, asyncio.TimerHandle] = {}
        self._deposits: dict[str, Deposit] = {}

    def listen(self) -> None:
        """Be there for clients, who wait until start(). At the path, mode 0600; a socket left there by a dead switch is
        replaced. Refused.
        """
        self._listener = _listen(self._path)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take descriptors from now on; listens first if it does not yet."""
        self._loop = loop
        if self._listener is None:
            self.listen()
        assert self._listener is not None
        loop.add_reader(self._listener.fileno(), self._on_connection)

    def claim(self, token: str) -> list[int]:
        """The descriptors left under a token, in the order sent: the caller's from now on. Refused."""
        deposit = self._deposits.pop(token, None)
        if deposit is None:
            raise Refused(f"no descriptors wait under this token: send them at most {UNCLAIMED_S:g} s before")
        deposit.expiry.cancel()
        return deposit.fds

    def close(self) -> None:
        """Stop listening and close whatever was not claimed. May be called twice."""
        if self._listener is None:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        self._listener = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        for connection in list(self._connections):
            self._hang_up(connection)
        for token in list(self._deposits):
            self._expire(token)

    def _on_connection(self) -> None:
        """Let in whoever is the same user, as long as there is room."""
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                self._pause()
            return
        connection.setblocking(False)
        refusal = self._unwelcome(connection)
        if refusal is not None:
            _answer(connection, refusal)
            connection.close()
            return
        self._connections[connection] = self._loop.call_later(UNCLAIMED_S, self._hang_up, connection)
        self._loop.add_reader(connection.fileno(), self._on_message, connection)

    def _unwelcome(self, connection: socket.socket) -> str | None:
        """Why this client may not even speak."""
        _, uid, _ = UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
        if uid != self._uid:
            return f"this switch belongs to uid {self._uid}, not to uid {uid}: run the command as that user"
        if len(self._connections) >= CONNECTIONS:
            return f"{CONNECTIONS} clients are handing over descriptors already: try again"
        return None

    def _on_message(self, connection: socket.socket) -> None:
        """The one message of a connection: keep its descriptors, or close them and say why."""
        if connection not in self._connections:
            return
        try:
            body, flags, fds = _receive(connection)
        except BlockingIOError:
            return
        except OSError:
            self._hang_up(connection)
            return
        refusal = self._deposit(body, flags, fds)
        if refusal is not None:
            _close_all(fds)
        if body or refusal is None:
            _answer(connection, refusal)
        self._hang_up(connection)

    def _deposit(self, body: bytes, flags: int, fds: list[int]) -> str | None:
        """Keep the descriptors under the message's token, or say in one line why not."""
        if flags & socket.MSG_TRUNC:
            return f"the message is longer than {MESSAGE_BYTES} bytes: send a token only"
        if flags & socket.MSG_CTRUNC:
            return f"more than {DESCRIPTORS} descriptors came, or more than the switch may open (ulimit -n)"
        if not fds:
            return "the message brought no descriptors: send them with SCM_RIGHTS"
        try:
            token = msgspec.json.decode(body, type=Offer).token
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"the message is not {{\"token\": …}}: {' '.join(str(error).split())}"
        if not TOKEN.fullmatch(token):
            return "a token is 32 hexadecimal digits, at random"
        if token in self._deposits:
            return "descriptors wait under this token already: use each token once"
        if len(self._deposits) >= PENDING:
            return f"{PENDING} sets of descriptors wait to be claimed already: try again in {UNCLAIMED_S:g} s"
        self._deposits[token] = Deposit(fds, self._loop.call_later(UNCLAIMED_S, self._expire, token))
        return None

    def _expire(self, token: str) -> None:
        """Close what nobody claimed."""
        deposit = self._deposits.pop(token)
        deposit.expiry.cancel()
        _close_all(deposit.fds)

    def _hang_up(self, connection: socket.socket) -> None:
        """Be done with a connection."""
        self._connections.pop(connection).cancel()
        self._loop.remove_reader(connection.fileno())
        connection.close()

    def _pause(self) -> None:
        """Leave connections in the backlog for a moment: there is nothing to accept them with."""
        assert self._listener is not None
        self._loop.remove_reader(self._listener.fileno())
        self._loop.call_later(ACCEPT_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._on_connection)


def offer(path: str, fds: list[int]) -> str:
    """Leave copies of 1 to DESCRIPTORS descriptors with the switch at `path`; the token. Blocks. Refused."""
    token = os.urandom(16).hex()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(path)
            socket.send_fds(connection, [msgspec.json.encode(Offer(token))], fds)
        except BrokenPipeError:
            pass  # it was refused before it was heard: the reason is there to be read
        except PermissionError:
            raise Refused(_only_the_owner(path), 403) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise Refused(f"cannot hand descriptors to the switch at {path}: {reason}", 500) from None
        try:
            error = msgspec.json.decode(_answer_to(connection), type=Receipt).error
        except (OSError, msgspec.DecodeError):
            raise Refused(f"the switch at {path} gave no answer: is it shutting down?", 500) from None
    if error is not None:
        raise Refused(error, 403)
    return token


def _only_the_owner(path: str) -> str:
    """What somebody of --socket-group cannot do, and who can."""
    try:
        name = pwd.getpwuid(os.stat(path).st_uid).pw_name
    except (OSError, KeyError):
        name = None
    sudo = "sudo" if name == "root" else f"sudo -u {name}"
    become = "" if name is None else f" ({name}: `{sudo} vswitch …`)"
    return f"run, start, attach and captures need the user who runs the switch{become}; others may look and change"


def _answer_to(connection: socket.socket) -> bytes:
    """The server's answer, which is there even if it hung up on us unread (ECONNRESET comes once)."""
    try:
        return connection.recv(MESSAGE_BYTES)
    except ConnectionResetError:
        return connection.recv(MESSAGE_BYTES)


def _listen(path: str) -> socket.socket:
    """A listening socket at `path`, never open to others; the switch's lock says that the path is ours."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise Refused(f"{path} exists and is no socket: remove it, or choose another --socket")
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before bind(), which gives the file this mode
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Refused(f"cannot listen at {path}: {error.strerror or error}", 500) from None
    return listener


def _receive(connection: socket.socket) -> tuple[bytes, int, list[int]]:
    """(body, MSG_* flags, descriptors) of one message; every descriptor the kernel gave us is listed."""
    body, ancillary, flags, _ = connection.recvmsg(MESSAGE_BYTES, CMSG_SPACE, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return body, flags, fds.tolist()


def _answer(connection: socket.socket, error: str | None) -> None:
    """Tell the client; one that has gone or doesn't read misses it."""
    with contextlib.suppress(OSError):
        connection.send(msgspec.json.encode(Receipt(error)), socket.MSG_NOSIGNAL)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
