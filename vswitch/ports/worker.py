# SPDX-License-Identifier: Apache-2.0
"""A process that serves requests inside containers, one at a time, forked from the keeper.

    idle at home ── request of the keeper ──→ inside the container ── answer to the switch ──→ home: idle
                                                                                          └ no way back: ends

It goes back into the network namespace it came from after each request. That fails, and is meant to, after it
joined a user namespace, since there is no way out of one: such a worker has served its only request and ends.
The same happens if going back fails for any other reason: nobody is ever served from within a stranger's
namespace.
"""
from __future__ import annotations

import os
import signal
import socket
import traceback
from typing import NoReturn

from vswitch.container._linux import set_parent_death_signal
from vswitch.model import Refused
from vswitch.ports import inside, messages
from vswitch.ports.messages import FAULTS, Answer, Attach, Configure, Listen, Parcel, Reattach, Remove, Request
from vswitch.ports.tap import Tap

HOME, AWAY = b"home", b"away"  # what a worker tells the keeper when it has answered
MESSAGE_BYTES = 4


def work(channel: socket.socket, link: socket.socket, keeper: int) -> NoReturn:
    """The process's whole life: requests from `link`, answers to `channel`."""
    status = 1
    try:
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == keeper:
            _serve(channel, link)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _serve(channel: socket.socket, link: socket.socket) -> None:
    """One request after the other, until the keeper closes the link or there is no way home."""
    from vswitch.ports import rtnl  # loaded by the keeper already

    home = inside.here()
    rtnl.rehearse()  # while there is time: it brings 2 ms of page faults forward, out of the first request
    while True:
        body, fds = messages.receive(link)
        if not body:
            return
        _answer(channel, messages.decode_request(body), fds)
        if not inside.return_to(home):
            link.send(AWAY)
            return
        link.send(HOME)


def _answer(channel: socket.socket, request: Request, fds: list[int]) -> None:
    """Serve one request and send its answer; by then none of its descriptors is open here."""
    answer, made = _perform(request, fds)
    for fd in fds:
        os.close(fd)
    if made:
        socket.send_fds(channel, [messages.encode(Parcel(request.id))], made)
        for fd in made:
            os.close(fd)
    channel.send(messages.encode(answer))


def _perform(request: Request, fds: list[int]) -> tuple[Answer, list[int]]:
    """The answer, and the descriptors that were made; every failure is an answer too."""
    try:
        made = _dispatch(request, fds)
    except Refused as refusal:
        fault = FAULTS.get(type(refusal), "other")
        return Answer(request.id, fault=fault, message=str(refusal), status=refusal.status), []
    except Exception as error:
        traceback.print_exc()
        return Answer(request.id, fault="other", message=f"the attach helper failed: {error}"), []
    if isinstance(made, Tap):
        return Answer(request.id, made.name, made.vnet_header, made.gso), [made.fd]
    return Answer(request.id), list(made)


def _dispatch(request: Request, fds: list[int]) -> Tap | tuple[int, ...]:
    """Do it: a TAP, or sockets, or neither."""
    match request:
        case Attach(plan=plan, origin=None):
            return inside.attach(*_namespaces(fds), plan)
        case Attach(plan=plan, origin=origin):
            return inside.attach_at(origin, plan)
        case Configure(origin=origin, plan=plan):
            inside.configure_at(origin, plan)
        case Reattach(origin=origin, plan=plan):
            return inside.reattach(origin, plan)
        case Remove(name=name, origin=None, mac=mac):
            inside.remove(*_namespaces(fds), name, mac)
        case Remove(name=name, origin=origin, mac=mac):
            inside.remove_at(origin, name, mac)
        case Listen(origin=None):
            return inside.open_resolver(*_namespaces(fds), ask=request.ask)
        case Listen(origin=origin):
            return inside.reopen_resolver(origin, ask=request.ask)
    return ()


def _namespaces(fds: list[int]) -> tuple[int, int | None]:
    """(network namespace, its user namespace if it came along)."""
    return fds[0], fds[1] if len(fds) > 1 else None
