# SPDX-License-Identifier: Apache-2.0
"""A child in other namespaces than ours, although a PID namespace is only entered by being born into it.

    supervisor ──fork──→ intermediate: enter() changes ITS namespaces ──fork──→ child (waits)
    supervisor ←─ pid of the child; it ends; the kernel gives the child to the nearest subreaper: us
    supervisor ── adopted ──→ child: asks to die with its parent, looks whether that is gone already, runs

The order matters: a parent-death signal counts for the parent at that moment, so it is asked for only after
the intermediate has gone (prctl(2)); and getppid() is 0 inside a new PID namespace, so a supervisor that died
before the request is seen by the channel's end. The supervisor itself stays in its namespaces and is a
subreaper only for these few milliseconds.
"""
from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NoReturn

from vswitch.container import _linux
from vswitch.container.channel import Channel
from vswitch.model import Refused

Enter = Callable[[], None]
Child = Callable[[Channel], NoReturn]


def adopt(enter: Enter, child: Child) -> tuple[int, Channel]:
    """A child born where `enter` leads, running `child(channel)`: (pid, our end). Refused if `enter` is."""
    ours, theirs = Channel.pair()
    before = _linux.is_child_subreaper()
    _linux.set_child_subreaper(True)
    try:
        intermediate = os.fork()
        if intermediate == 0:
            ours.close()
            _intermediate(enter, child, theirs)
        theirs.close()
        answer = ours.receive()
        os.waitpid(intermediate, 0)
    except BaseException:
        ours.close()
        raise
    finally:
        _linux.set_child_subreaper(before)
    if answer is None or "refused" in answer:
        ours.close()
        raise refusal(answer)
    ours.send({"adopted": True})
    return answer["pid"], ours


def refusal(answer: dict | None) -> Refused:
    """The refusal that a message carries; a missing message is our own failure."""
    if answer is None:
        return Refused("the process that makes the container ended unexpectedly", 500)
    return Refused(answer["refused"], answer.get("status", 500))


def _intermediate(enter: Enter, child: Child, channel: Channel) -> NoReturn:
    try:
        enter()
        pid = os.fork()
    except BaseException as error:
        status = error.status if isinstance(error, Refused) else 500
        channel.send({"refused": str(error) or type(error).__name__, "status": status})
        os._exit(1)
    if pid:
        channel.send({"pid": pid})
        os._exit(0)
    try:
        _tie_to_supervisor(channel)
        child(channel)
    except BaseException as error:
        channel.send({"refused": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(125)


def _tie_to_supervisor(channel: Channel) -> None:
    """Wait until adopted, then share the supervisor's fate."""
    if channel.receive() is None:
        os._exit(125)
    _linux.set_parent_death_signal(signal.SIGKILL)
    if channel.ended():
        os._exit(125)
