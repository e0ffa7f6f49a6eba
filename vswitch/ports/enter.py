# SPDX-License-Identifier: Apache-2.0
"""The switch's side of the attach helper: asks a process that can enter namespaces for ready-made TAPs.

Why a process: see keeper.py; what happens in the container: see inside.py. `AttachHelper.fork()` is called
first thing in `vswitch-run`, before any thread or event loop. Afterwards its coroutines may be awaited
concurrently: up to AT_ONCE requests are under way, the others queue for a place. Each ends within
ANSWER_TIMEOUT_S of its start, whatever the kernel or the helper does.

A TAP becomes persistent here, when its descriptor has arrived: a helper that dies on the way, or a request
that nobody awaits any more, leaves no interface behind. Should the helper itself die (someone killed it), the
request under way fails with a clear line, and the next one starts a new helper by exec, since a process with
threads must not just fork.

The channel is a raw non-blocking SOCK_SEQPACKET socket with add_reader: no event loop's transport carries
descriptors.
"""
from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
from errno import ETOOMANYREFS
from itertools import count
from typing import NamedTuple, Self

from vswitch.model import NamespaceOrigin, Refused
from vswitch.ports import keeper, messages
from vswitch.ports.inside import InterfaceGone, NamespaceGone, NotPermitted
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.messages import REFUSALS, Answer, Attach, Configure, Listen, Parcel, Reattach, Remove, Request
from vswitch.ports.tap import Tap, persist_tap

__all__ = ["AttachHelper", "InterfaceGone", "NamespaceGone", "NotPermitted"]

AT_ONCE = 4  # requests under way: the kernel's rtnl lock lets one proceed, the rest of an attach is Python
QUEUE = 1024  # requests waiting for a place, some 3 s worth; beyond that the newest is refused
ANSWER_TIMEOUT_S = keeper.REQUEST_TIMEOUT_S + 5.0  # the keeper answers for late workers; this is for itself
CLOSE_TIMEOUT_MS = 1000


class Waiting(NamedTuple):
    """A request under way: its answer to come, and the descriptors that have come ahead of it."""

    answer: asyncio.Future[Answer]
    fds: list[int]


class AttachHelper:
    """A handle on the helper process."""

    def __init__(self, channel: socket.socket, pid: int):
        self._channel = channel
        self._pid = pid
        self._alive = True
        self._closed = False
        self._ids = count(1)
        self._pending: dict[int, Waiting] = {}  # by request id
        self._places = asyncio.Semaphore(AT_ONCE)
        self._queued = 0
        self._sending = asyncio.Lock()
        self._room_awaited: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def fork(cls) -> Self:
        """Start the helper. To be called before the process has threads or an event loop."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            keeper.serve(theirs.fileno())
        theirs.close()
        ours.setblocking(False)
        return cls(ours, pid)

    async def attach(self, netns_fd: int, userns_fd: int | None, plan: InterfacePlan) -> Tap:
        """A new configured TAP in that network namespace; its fd is the caller's. NotPermitted, Refused."""
        fds = [netns_fd] if userns_fd is None else [netns_fd, userns_fd]
        return _received_tap(*await self._ask(Attach(next(self._ids), plan), fds), plan)

    async def attach_at(self, origin: NamespaceOrigin, plan: InterfacePlan) -> Tap:
        """`attach` where the namespace is known from before. NamespaceGone, NotPermitted, Refused."""
        return _received_tap(*await self._ask(Attach(next(self._ids), plan, origin), []), plan)

    async def configure(self, origin: NamespaceOrigin, plan: InterfacePlan) -> None:
        """Make interface `plan.name` as planned while the switch holds its TAP.

        NamespaceGone, InterfaceGone and NotPermitted tell what is missing; other failures are plain Refused.
        """
        await self._ask(Configure(next(self._ids), origin, plan), [])

    async def reattach(self, origin: NamespaceOrigin, plan: InterfacePlan) -> Tap:
        """The persistent TAP `plan.name` that a former switch left there, configured anew.

        NamespaceGone, InterfaceGone and NotPermitted tell what is missing; other failures are plain Refused.
        """
        return _received_tap(*await self._ask(Reattach(next(self._ids), origin, plan), []), plan)

    async def remove(
        self,
        name: str,
        *,
        netns_fd: int | None = None,
        userns_fd: int | None = None,
        origin: NamespaceOrigin | None = None,
        mac: str | None = None,
    ) -> None:
        """Delete the interface, by descriptor or origin; gone already is fine. NotPermitted, Refused.

        An empty name means the TAP that has this MAC.
        """
        if (netns_fd is None) == (origin is None):
            raise ValueError("either netns_fd or origin says where the interface is")
        fds = [fd for fd in (netns_fd, userns_fd) if fd is not None]
        await self._ask(Remove(next(self._ids), name, origin, mac), fds)

    async def listen(
        self,
        *,
        netns_fd: int | None = None,
        userns_fd: int | None = None,
        origin: NamespaceOrigin | None = None,
        ask: bool = False,
    ) -> tuple[int, ...]:
        """The resolver's sockets there, UDP and listening TCP, and to `ask` from there UDP of IPv4 and IPv6; the
        caller's. NamespaceGone, NotPermitted, Refused.
        """
        if (netns_fd is None) == (origin is None):
            raise ValueError("either netns_fd or origin says where the sockets shall be")
        given = [fd for fd in (netns_fd, userns_fd) if fd is not None]
        _, fds = await self._ask(Listen(next(self._ids), origin, ask), given)
        if len(fds) != (4 if ask else 2):
            _close_all(fds)
            raise _short_of_descriptors()
        return tuple(fds)

    def close(self) -> None:
        """End the helper; requests under way are refused. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._lose("the switch is ending")

    async def _ask(self, request: Request, fds: list[int]) -> tuple[Answer, list[int]]:
        """One request and its answer; the descriptors that come with it belong to the caller. Refused."""
        if self._queued >= QUEUE:
            raise Refused(f"{QUEUE} attachments are waiting already: try again when some are done", 507)
        self._queued += 1
        try:
            await self._places.acquire()
        finally:
            self._queued -= 1
        try:
            answer, answer_fds = await self._exchange(request, fds)
        finally:
            self._places.release()
        if answer.fault is not None:
            _close_all(answer_fds)
            raise _refusal(answer)
        return answer, answer_fds

    async def _exchange(self, request: Request, fds: list[int]) -> tuple[Answer, list[int]]:
        """Send, and wait for the answer with that id."""
        self._ready()
        waiting = Waiting(asyncio.get_running_loop().create_future(), [])
        self._pending[request.id] = waiting
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                async with self._sending:
                    await self._send(messages.encode(request), fds)
                return await waiting.answer, waiting.fds
        except TimeoutError:
            _close_all(waiting.fds)
            late = f"the attach helper did not answer within {ANSWER_TIMEOUT_S:g} s; try again"
            raise Refused(late, 500) from None
        except BaseException:
            _close_all(waiting.fds)
            raise
        finally:
            del self._pending[request.id]

    async def _send(self, body: bytes, fds: list[int]) -> None:
        """Hand the message to the kernel, waiting for room if it has none."""
        while True:
            try:
                socket.send_fds(self._channel, [body], fds)
                return
            except BlockingIOError:
                await self._room()
            except (BrokenPipeError, ConnectionResetError):
                self._lose("it has ended unexpectedly")
                raise Refused("the attach helper has ended unexpectedly; try again", 500) from None
            except OSError as error:
                limit = ": raise the limit of open files (ulimit -n)" if error.errno == ETOOMANYREFS else ""
                raise Refused(f"cannot ask the attach helper: {error.strerror}{limit}", 500) from None

    async def _room(self) -> None:
        """Until the channel takes another message; Refused if it is lost meanwhile."""
        assert self._loop is not None
        room = self._room_awaited = self._loop.create_future()
        self._loop.add_writer(self._channel.fileno(), lambda: room.done() or room.set_result(None))
        try:
            await room
        finally:
            self._room_awaited = None
            if self._alive:
                self._loop.remove_writer(self._channel.fileno())

    def _ready(self) -> None:
        """Have a live helper whose answers this event loop reads."""
        if self._closed:
            raise Refused("the switch is ending", 500)
        if not self._alive:
            try:
                self._revive()
            except OSError as error:
                raise Refused(f"cannot start the attach helper again: {error.strerror}", 500) from None
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.add_reader(self._channel.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        """Take in answers until there are no more."""
        while self._alive:
            try:
                body, fds = messages.receive(self._channel)
            except BlockingIOError:
                return
            except OSError:
                body, fds = b"", []
            if not body:
                self._lose("it has ended unexpectedly")
                return
            reply = messages.decode_reply(body)
            waiting = self._pending.get(reply.id)
            if waiting is None or waiting.answer.done():
                _close_all(fds)  # nobody waits any more; a new TAP isn't persistent yet, so this deletes it
            elif isinstance(reply, Parcel):
                waiting.fds.extend(fds)
            else:
                waiting.answer.set_result(reply)

    def _lose(self, why: str) -> None:
        """Let go of the process: channel closed, requests refused, no zombie."""
        if not self._alive:
            return
        self._alive = False
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_writer(self._channel.fileno())
        self._loop = None
        awaited = [waiting.answer for waiting in self._pending.values()]
        if self._room_awaited is not None:
            awaited.append(self._room_awaited)
        for future in awaited:
            if not future.done():
                future.set_exception(Refused(f"the attach helper is gone: {why}; try again", 500))
                future.exception()  # seen: a request that awaits its room never awaits its answer
        self._channel.close()
        _bury(self._pid)

    def _revive(self) -> None:
        """Start another helper by exec."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-c", "from vswitch.ports.keeper import serve; serve(3)"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        with theirs, contextlib.ExitStack() as on_failure:
            on_failure.callback(ours.close)
            channel = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)]
            self._pid = os.posix_spawn(sys.executable, command, environment, file_actions=channel)
            on_failure.pop_all()
        ours.setblocking(False)
        self._channel, self._alive = ours, True


def _received_tap(answer: Answer, fds: list[int], plan: InterfacePlan) -> Tap:
    """The TAP of an answer, made persistent if the plan says so."""
    if not fds:
        raise _short_of_descriptors()
    (fd,) = fds
    try:
        if plan.persist:
            persist_tap(fd)
    except OSError as error:
        os.close(fd)
        reason = f"interface {answer.name} was deleted by someone as soon as it was made ({error.strerror})"
        raise Refused(f"{reason}; try again", 409) from None
    return Tap(fd, answer.name, answer.vnet_header, answer.gso)


def _short_of_descriptors() -> Refused:
    return Refused("the switch may not open more descriptors: raise its limit (ulimit -n)", 507)


def _refusal(answer: Answer) -> Refused:
    """What the helper's child raised."""
    return REFUSALS[answer.fault](answer.message, answer.status)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _bury(pid: int) -> None:
    """Wait for the helper, which ends as soon as its channel is closed; kill it if it doesn't."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(CLOSE_TIMEOUT_MS):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
        finally:
            os.close(pidfd)
