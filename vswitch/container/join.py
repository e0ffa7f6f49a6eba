# SPDX-License-Identifier: Apache-2.0
"""`vswitch exec`: another program in a container that runs already.

A container of `vswitch run` is named by the pid of its PID 1: user, mount, UTS, PID and network namespaces
are entered at once by its pidfd, so that the pid cannot have been reused, and the order of entering is the
kernel's. A namespace that somebody else made is named by its path: only the network is entered (with its
owner's user namespace, where that is not ours), in a mount namespace with a /sys of its own, as `ip netns
exec` does.

The program is our own child, adopted (see adopt), and dies with us; exit codes as in `docker exec`: its own,
128 + signal, 126 not runnable, 127 not found. What vswitch could not do is a Refused.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping

from vswitch.container import _linux, capabilities, mounts, namespaces
from vswitch.container.adopt import adopt
from vswitch.container.isolate import become_its_root
from vswitch.container.launch import FileTexts, occupy_standard_descriptors
from vswitch.container.program import become
from vswitch.container.signals import SignalQueue
from vswitch.container.supervise import Direct, supervise
from vswitch.container.terminal import Terminal
from vswitch.model import Refused

BUT_THE_NETWORK = _linux.CLONE_NEWNS | _linux.CLONE_NEWUTS | _linux.CLONE_NEWPID


def exec_in(
    target: int | str,
    command: list[str],
    *,
    env: Mapping[str, str],
    workdir: str | None = None,
    capabilities: Collection[int] | None = None,
    files: FileTexts | None = None,
) -> int:
    """Run a program in the container whose PID 1 is `target`, or in the network namespace at that path.

    `files` (for a namespace only) are mounted over resolv.conf, hosts and hostname. Returns its exit status.
    """
    if not command:
        raise Refused("there is no command to run")
    occupy_standard_descriptors()
    enter = _enter_container(target) if isinstance(target, int) else _enter_netns(target, files)
    order = {
        "command": list(command),
        "environment": dict(env),
        "workdir": workdir or ("/" if isinstance(target, int) else None),
        "capabilities": None if capabilities is None else sorted(capabilities),
    }
    sys.stdout and sys.stdout.flush()
    with SignalQueue() as signals:
        return _run(enter, order, signals)


def _run(enter: Callable[[], None], order: dict, signals: SignalQueue) -> int:
    terminal = Terminal.find()
    order["session"] = "group" if terminal else "new"
    order["foreground"] = terminal is not None and terminal.lend()
    order["ignored"] = signals.ignored
    try:
        pid, channel = adopt(enter, lambda channel: become(order, channel))
        program = Direct(pid, os.pidfd_open(pid), terminal)
        failure = channel.receive()
        status = supervise(program, signals, terminal)
    finally:
        if terminal:
            terminal.take_back()
            terminal.close()
    if failure:
        print(f"vswitch: {failure['message']}", file=sys.stderr, flush=True)
        return failure["failed"]
    return status


def _enter_container(pid: int) -> Callable[[], None]:
    """What the intermediate does to be in the container of PID 1 `pid`."""
    pidfd, userns = namespaces.open_process(pid)
    kinds = BUT_THE_NETWORK if namespaces.in_our_network(pid) else BUT_THE_NETWORK | _linux.CLONE_NEWNET
    if userns is not None:
        kinds |= _linux.CLONE_NEWUSER
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def enter() -> None:
        try:
            _shed_groups(userns)
            _linux.setns(pidfd, kinds)
            if userns is not None:
                become_its_root()
            os.fchdir(root)
            os.chroot(".")
        except OSError as error:
            raise _no_entry(f"the container of process {pid}", error) from error

    return enter


def _enter_netns(name_or_path: str, files: FileTexts | None) -> Callable[[], None]:
    """What the intermediate does to be in a network namespace that somebody made."""
    netns = namespaces.open_netns(name_or_path)
    userns = namespaces.owner_userns(netns)

    def enter() -> None:
        try:
            _shed_groups(userns)
            if userns is not None:
                _linux.setns(userns, _linux.CLONE_NEWUSER)
                become_its_root()
            _linux.setns(netns, _linux.CLONE_NEWNET)
            _linux.unshare(_linux.CLONE_NEWNS)
            mounts.make_private()
            if files is not None:
                texts = {"resolv_conf": files.resolv_conf, "hosts": files.hosts, "hostname": files.hostname}
                mounts.cover_files(texts, _warn)
            mounts.fresh_sys(_warn)
        except OSError as error:
            raise _no_entry(f"the network namespace {name_or_path}", error) from error

    return enter


def _shed_groups(userns: int | None) -> None:
    """The real root entering a user's container keeps no groups that the user does not have."""
    if userns is not None and capabilities.held(capabilities.NUMBERS["SETGID"]):
        os.setgroups([])


def _no_entry(what: str, error: OSError) -> Refused:
    return Refused(f"{what} cannot be entered: {error.strerror}", 403)


def _warn(text: str) -> None:
    print(f"vswitch: {text}", file=sys.stderr, flush=True)
