# SPDX-License-Identifier: Apache-2.0
"""A switch whose host is a namespace with a router and a far machine beyond it, as root's or an ordinary user's.

    container 172.18.0.x, fd00:18::x ── switch ── host ── router ── far        (addresses: own_namespace.py)

Programs run in containers by `vswitch run` and `vswitch exec`, so that a test is the same for root and for a user.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from living_switch import LivingSwitch, Namespace, Network, eventually
from own_namespace import Beyond, sysctl
from rootless_switch import UID, RootlessSwitch, rootless_switch

NETWORK = ("--network", "street")


class Stage:
    """`switch` takes client arguments; `host` and `far` are where programs outside run; `folder` is seen by all."""

    def __init__(self, switch: LivingSwitch | RootlessSwitch, host: Network, far: Network, folder: Path):
        self.switch, self.host, self.far, self.folder = switch, host, far, folder
        switch("network", "create", "street", "--ipv6", "--subnet", "172.18.0.0/16", "--subnet", "fd00:18::/64")
        self.run("client", "sleep", "infinity")

    def run(self, name: str, *command: str, options: tuple[str, ...] = ()) -> None:
        """A container with a program."""
        self.switch("run", "-d", "--name", name, *NETWORK, *options, "--", *command)

    def within(self, *command: str, container: str = "client", check: bool = True) -> str:
        """What a program in the container says."""
        done = self.switch("exec", container, "--", *command, check=check)
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def published(self, port: int, *command: str) -> Iterator[None]:
        """A container `server` with a program that listens on `port`, and this port published."""
        self.run("server", *command, options=("-p", f"{port}:{port}"))
        try:
            listens = lambda: f":{port} " in self.within("ss", "-tuln", container="server")  # noqa: E731
            eventually(listens, f"{command[0]} to listen on {port}")
            yield
        finally:
            self.switch("rm", "--force", "server")

    def file(self, name: str, content: bytes) -> Path:
        """A file that the user's containers may read."""
        path = self.folder / name
        path.write_bytes(content)
        os.chown(path, self.folder.stat().st_uid, -1)
        path.chmod(0o600)
        return path


@contextlib.contextmanager
def stage(user: bool) -> Iterator[Stage]:
    with contextlib.ExitStack() as on_leaving:
        folder = Path(tempfile.mkdtemp(prefix="vswitch-stage-"))
        on_leaving.callback(shutil.rmtree, folder)
        if user:
            os.chown(folder, UID, UID)
            host = Namespace(f"vt{os.getpid()}users")
            on_leaving.callback(host.remove)
        else:
            living = LivingSwitch(folder)
            on_leaving.callback(living.close)
            host = living.host
        with host.entered():
            beyond = Beyond()
            on_leaving.callback(beyond.close)
            if user:
                sysctl("ipv4/ping_group_range", "0 2147483647")  # what systemd sets; root has raw sockets
        if user:
            switch = on_leaving.enter_context(rootless_switch(host))
        else:
            switch = living
            switch.start()
        yield Stage(switch, host, Network(f"/proc/{beyond.processes[1].pid}/ns/net"), folder)
