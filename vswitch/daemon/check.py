# SPDX-License-Identifier: Apache-2.0
"""`vswitch-run --check`: would it start, and what does this machine offer? One line per finding; exit status
1 if something must be mended.

What the kernel can do is not guessed from its version but tried, in a child with namespaces of its own:
making them shows that `vswitch run` works for this user, and a TAP made there shows its offloads. Nothing of
it is left.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from vswitch.config import ConfigError
from vswitch.container.isolate import check_tun, isolate
from vswitch.control.api.places import config_path, socket_path_problem
from vswitch.control.defaultnetwork import check_default_network
from vswitch.control.happenings import PING_REMEDY
from vswitch.control.host import ProcHost
from vswitch.model import Refused
from vswitch.ports import tap

if TYPE_CHECKING:
    from vswitch.daemon.main import Options

OFFLOADS = (
    (tap.GSO_TCP4 | tap.GSO_TCP6, "TCP segmentation offload"),
    (tap.GSO_UDP, "UDP segmentation offload (Linux 6.2)"),
)


class Finding(NamedTuple):
    """`works` None: missing, but there is a fallback."""

    works: bool | None
    text: str


def check(options: Options) -> int:
    """Print every finding; 0 if nothing must be mended."""
    verdicts = {True: "ok", None: "--", False: "!!"}
    findings = [*_settings(options), *_places(options), *_kernel(), *_way_out()]
    for works, text in findings:
        print(f"{verdicts[works]}  {text}")
    return int(any(works is False for works, _ in findings))


def _settings(options: Options) -> Iterator[Finding]:
    path = options.config or config_path()
    try:
        check_default_network(options.settings())
    except ConfigError as problem:
        yield Finding(False, f"settings: {problem}")
        return
    except Refused as refusal:
        yield Finding(False, f"settings: {path}: [default_network]: {refusal}")
        return
    there = os.path.exists(path)
    yield Finding(True, f"settings: {path}" if there else f"settings: the defaults, there is no {path}")


def _places(options: Options) -> Iterator[Finding]:
    if problem := socket_path_problem(options.socket):
        yield Finding(False, f"socket: {problem}")
    socket_folder = os.path.dirname(os.path.abspath(options.socket))
    for option, folder in (("socket", socket_folder), ("state-dir", options.state_dir)):
        writable = os.access(_nearest_that_exists(folder), os.W_OK | os.X_OK)
        remedy = "" if writable else f": no permission to write there, choose another with --{option}"
        yield Finding(writable, f"{option}: {folder}{remedy}")


def _nearest_that_exists(folder: str) -> str:
    folder = os.path.abspath(folder)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return folder


def _kernel() -> Iterator[Finding]:
    yield Finding(True, f"kernel: Linux {platform.release()}, Python {platform.python_version()}")
    try:
        check_tun()
        yield Finding(True, f"TAP devices: {tap.TUN_DEVICE} can be opened")
    except Refused as refusal:
        yield Finding(False, f"TAP devices: {refusal}")
        return
    yield from _tried()


def _way_out() -> Iterator[Finding]:
    """What containers may do through sockets of ours: ping outwards, and have low ports of the host published."""
    if _can_ping():
        yield Finding(True, "ping: containers can ping outwards")
    else:
        yield Finding(None, f"ping: containers cannot ping outwards; {PING_REMEDY}")
    first = ProcHost().first_unprivileged_port()
    if first == 0 or _may_bind_low_ports():
        yield Finding(True, "published ports: any of the host's")
    else:
        remedy = "`sysctl net.ipv4.ip_unprivileged_port_start=80` allows lower ones"
        yield Finding(None, f"published ports: from {first} on; {remedy}")


def _can_ping() -> bool:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        with contextlib.suppress(PermissionError), socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP):
            return True
    return False


def _may_bind_low_ports() -> bool:
    """Whether a port below 1024 would be ours; one that somebody has tells nothing, so several are tried."""
    for port in range(1, 1024):
        try:
            with socket.socket() as tried:
                tried.bind(("127.0.0.1", port))
            return True
        except PermissionError:
            return False
        except OSError:
            continue
    return False


def _tried() -> Iterator[Finding]:
    """What a child found out that went into namespaces of its own."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _try(writing)
    os.close(writing)
    with os.fdopen(reading) as answer:
        outcome, _, rest = answer.read().partition(" ")
    os.waitpid(pid, 0)
    if outcome != "gso":
        yield Finding(False, f"namespaces: {rest or 'the attempt to make some died'}")
        return
    yield Finding(True, f"namespaces: can be made{'' if os.geteuid() == 0 else ' by this user'}")
    vnet_header, gso = (int(word) for word in rest.split())
    yield Finding(True if vnet_header else None, "checksum offload (IFF_VNET_HDR)")
    for bits, text in OFFLOADS:
        yield Finding(True if gso & bits == bits else None, text)


def _try(writing: int) -> NoReturn:
    """In the child: tell what happened in one line."""
    try:
        isolate()
        device = tap.open_tap("vswitch0", persist=False)
        answer = f"gso {int(device.vnet_header)} {device.gso}"
    except Refused as refusal:
        answer = f"refused {refusal}"
    except Exception as problem:
        answer = f"refused {problem}"
    os.write(writing, answer.encode())
    os._exit(0)
