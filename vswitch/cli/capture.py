# SPDX-License-Identifier: Apache-2.0
"""`vswitch capture`: the switch writes pcapng into a file or pipe of ours."""

from __future__ import annotations

import os
import signal
import stat
import sys
from contextlib import suppress
from typing import Any

import click

from vswitch.cli.attach import sent_ahead
from vswitch.cli.options import client_command, repeated
from vswitch.cli.refusals import as_client_errors
from vswitch.control.api.client import Client, ClientError, segment

SNAPLEN = 262144
ENDING = (signal.SIGINT, signal.SIGTERM)


@client_command("capture")
@repeated("--network", "networks", metavar="N", help="Only this network's ports; repeatable.")
@repeated("--container", "containers", metavar="C", help="Only this container's ports; repeatable.")
@click.option(
    "-w",
    "--write",
    "target",
    metavar="FILE|-",
    help="Where to: a file, or - for stdout. A file that is there is overwritten; its owner and mode stay.",
)
@click.option(
    "--snaplen",
    type=click.IntRange(14, SNAPLEN),
    default=SNAPLEN,
    show_default=True,
    metavar="N",
    help="Keep the first N bytes of each frame.",
)
def capture_command(
    client: Client, networks: tuple[str, ...], containers: tuple[str, ...], target: str | None, snaplen: int
) -> None:
    """Write every frame as pcapng until ctrl-C or SIGTERM.

    To look at it live: vswitch capture -w - | wireshark -k -i -
    """
    with as_client_errors():
        _refuse_unknown(client, networks, containers)
        fd = _open(target)
        spec = {
            "networks": networks,
            "containers": containers,
            "snaplen": snaplen,
            "token": sent_ahead(client, [fd]),
        }
        if stat.S_ISREG(os.fstat(fd).st_mode) and target not in (None, "-"):
            os.ftruncate(fd, 0)  # not before the switch has taken it
        os.close(fd)
        last = _follow(client, spec)
    if last is not None:
        lost = f", {last['dropped']} lost" if last["dropped"] else ""
        print(f"{last['written']} records{lost}", file=sys.stderr)


def _refuse_unknown(client: Client, networks: tuple[str, ...], containers: tuple[str, ...]) -> None:
    """Say what would be refused before a file is made for it."""
    client.get("/v1/version")
    for name in networks:
        client.get(f"/v1/networks/{segment(name)}")
    for name in containers:
        client.get(f"/v1/containers/{segment(name)}")


def _open(target: str | None) -> int:
    """A descriptor of our own for the file, or for stdout where that is no terminal."""
    if target is None and sys.stdout.isatty():
        raise click.UsageError("say where to: -w FILE, or -w - into a pipe")
    if target in (None, "-"):
        if sys.stdout.isatty():
            raise click.UsageError("pcapng is nothing for a terminal: -w FILE, or pipe it into a program")
        return os.dup(sys.stdout.fileno())
    return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _follow(client: Client, spec: dict[str, Any]) -> dict[str, Any] | None:
    """Until the capture ends or ctrl-C, then the last report."""
    report = None

    def end(*_: Any) -> None:
        """The switch writes what is on its way and says how much there was; a second ctrl-C doesn't wait for that."""
        for number in ENDING:
            signal.signal(number, signal.default_int_handler)
        if report is None:
            raise KeyboardInterrupt
        with suppress(ClientError):  # it ended by itself in this very moment
            client.delete(f"/v1/captures/{report['id']}")

    for number in ENDING:
        signal.signal(number, end)
    try:
        for latest in client.lines("POST", "/v1/captures", spec):
            first, report = report is None, latest
            if first:
                print("capturing until ctrl-C", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        pass
    return report
