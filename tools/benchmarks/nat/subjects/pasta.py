# SPDX-License-Identifier: Apache-2.0
"""pasta (passt): one process per container. Its TAP has no vnet header, so its MTU decides how it does."""

from __future__ import annotations

import shutil

from benchmarks.machine import first_line
from benchmarks.nat.stage import PUBLISHED, Stage
from benchmarks.sandbox import NETNS_FOLDER
from benchmarks.subjects.subject import Container


class Pasta(Stage):
    """As rootless Podman starts it, but with the MTU that every other network has."""

    name = "pasta, MTU 1500"
    key = "pasta1500"

    @classmethod
    def absent(cls) -> str | None:
        return None if shutil.which("pasta") else "not installed (apt-get install passt)"

    @classmethod
    def version(cls) -> str | None:
        said = first_line("pasta", "--version")
        if said and "unknown" in said:  # Debian's build doesn't know its own
            return first_line("dpkg-query", "-W", "passt") or said
        return said

    def command(self, netns: str, ports: str) -> list[str]:
        """In the foreground, IPv4, forwarding nothing but those TCP ports. Without --runas it refuses root."""
        return [
            *("pasta", "--foreground", "--quiet", "-4", "--runas", "0:0", "--config-net"),
            *("--netns", str(NETNS_FOLDER / netns), "--ns-ifname", "eth0", "--mtu", str(self.mtu)),
            *("-t", ports, "-u", "none", "-T", "none", "-U", "none"),
        ]

    def plug(self, namespaces: list[str]) -> None:
        for netns in namespaces:
            ports = "none" if self.containers else str(PUBLISHED)
            process = self.sandbox.spawn(self.command(netns, ports), self.host)
            self.parts.append(process)
            process.until(lambda one=netns: "eth0" in self.sandbox.run(["ip", "link"], one), 5, "no eth0")
            self.containers.append(Container(netns, self.wait_for_address(netns)))


class LargePasta(Pasta):
    """With the MTU it chooses itself."""

    name = "pasta, MTU 65520"
    key = "pasta65520"
    mtu = 65520
