# SPDX-License-Identifier: Apache-2.0
"""VDE 2: vde_switch, and one vde_plug2tap per container."""

from __future__ import annotations

import shutil

from benchmarks.machine import first_line
from benchmarks.subjects.subject import Subject

PORTS = 1024
NEEDED = ("vde_switch", "vde_plug2tap")


class Vde(Subject):
    """Its processes are counted together: a port is a process of its own there."""

    name = "VDE"
    key = "vde"
    can_grow = True

    @classmethod
    def absent(cls) -> str | None:
        return None if all(map(shutil.which, NEEDED)) else "not installed (apt-get install vde2)"

    @classmethod
    def version(cls) -> str | None:
        return first_line("vde_switch", "--version")

    def open(self) -> None:
        self.socket = self.sandbox.folder(self.key) / "switch"
        # without -d it reads commands from its standard input, and ends with it
        switch = self.sandbox.spawn(
            ["vde_switch", "-s", self.socket, "-n", str(PORTS), "-f", "/dev/null"], self.host, keep_stdin=True
        )
        self.parts.append(switch)
        switch.until((self.socket / "ctl").exists, 5, "vde_switch made no socket")

    def plug(self, namespaces: list[str]) -> None:
        for netns in namespaces:
            self.parts.append(self.sandbox.spawn(["vde_plug2tap", "-s", self.socket, "eth0"], netns))
            self.wait_for_eth0(netns)
            self.configure(netns)

    def grow(self, ports: int) -> None:
        """As many ports in all; the new TAPs stay in the host's namespace."""
        for number in range(len(self.containers), ports):
            self.parts.append(
                self.sandbox.spawn(["vde_plug2tap", "-s", self.socket, f"t{number}"], self.host)
            )
        last = f"t{ports - 1}"
        self.parts[-1].until(
            lambda: last in self.sandbox.run(["ip", "-brief", "link"], self.host), 20, f"no {last}"
        )
