# SPDX-License-Identifier: Apache-2.0
"""slirp4netns: one process per container, ports published through its API socket."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

from benchmarks.machine import first_line
from benchmarks.nat.stage import PUBLISHED, Stage
from benchmarks.sandbox import NETNS_FOLDER, Failed
from benchmarks.subjects.subject import Container


def add_forward(api: Path, address: str, l4_port: int) -> None:
    """Publishes a TCP port on all of the host's addresses. Failed where slirp4netns says no."""
    request = {
        "execute": "add_hostfwd",
        "arguments": {
            "proto": "tcp",
            "host_addr": "0.0.0.0",
            "host_port": l4_port,
            "guest_addr": address,
            "guest_port": l4_port,
        },
    }
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect(str(api))
        one.sendall(json.dumps(request).encode())
        one.shutdown(socket.SHUT_WR)
        reply = b"".join(iter(lambda: one.recv(4096), b""))
    if b'"error"' in reply:
        raise Failed(f"slirp4netns: {reply.decode(errors='replace').strip()}")


class Slirp4netns(Stage):
    """With the MTU that every other network has, which is its default too."""

    name = "slirp4netns, MTU 1500"
    key = "slirp1500"

    @classmethod
    def absent(cls) -> str | None:
        return None if shutil.which("slirp4netns") else "not installed (apt-get install slirp4netns)"

    @classmethod
    def version(cls) -> str | None:
        return first_line("slirp4netns", "--version")

    def open(self) -> None:
        self.folder = self.sandbox.folder(self.key)

    def plug(self, namespaces: list[str]) -> None:
        for netns in namespaces:
            api = self.folder / f"api{len(self.containers)}"
            process = self.sandbox.spawn(
                [
                    *("slirp4netns", "--configure", "--mtu", str(self.mtu), "--netns-type=path"),
                    *("--api-socket", api, NETNS_FOLDER / netns, "eth0"),
                ],
                self.host,
            )
            self.parts.append(process)
            process.until(api.exists, 5, "slirp4netns made no API socket")
            address = self.wait_for_address(netns)
            if not self.containers:
                add_forward(api, address, PUBLISHED)
            self.containers.append(Container(netns, address))


class LargeSlirp4netns(Slirp4netns):
    """With the MTU that rootless Podman gives it."""

    name = "slirp4netns, MTU 65520"
    key = "slirp65520"
    mtu = 65520
