# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch's userspace datapath (datapath_type=netdev) with TAP ports; all its files are scratch."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.machine import first_line
from benchmarks.subjects.subject import Subject

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
NEEDED = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl")


class OpenVSwitch(Subject):
    """Its TAPs are moved into the containers; the descriptors stay with ovs-vswitchd."""

    name = "Open vSwitch"
    key = "ovs"
    can_grow = True

    @classmethod
    def absent(cls) -> str | None:
        if all(map(shutil.which, NEEDED)) and SCHEMA.exists():
            return None
        return "not installed (apt-get install openvswitch-switch)"

    @classmethod
    def version(cls) -> str | None:
        said = first_line("ovs-vswitchd", "--version")
        return f"Open vSwitch {said.split()[-1]}, userspace datapath" if said else None

    def open(self) -> None:
        self.folder = self.sandbox.folder(self.key)
        self.database = f"unix:{self.folder}/db.sock"
        self.environment = {
            "OVS_RUNDIR": str(self.folder),
            "OVS_LOGDIR": str(self.folder),
            "OVS_DBDIR": str(self.folder),
        }
        self.sandbox.run(
            ["ovsdb-tool", "create", self.folder / "conf.db", SCHEMA], environment=self.environment
        )
        server = self.spawn("ovsdb-server", self.folder / "conf.db", f"--remote=p{self.database}")
        server.until((self.folder / "db.sock").exists, 5, "ovsdb-server made no socket")
        self.vsctl("--no-wait", "init")
        self.spawn("ovs-vswitchd", self.database)
        self.vsctl(
            "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=standalone"
        )

    def spawn(self, *argv: str | Path):
        """One of its daemons, in the foreground."""
        control = f"--unixctl={self.folder}/{argv[0]}.ctl"
        part = self.sandbox.spawn([*argv, control, "--verbose=off"], self.host, environment=self.environment)
        self.parts.append(part)
        return part

    def vsctl(self, *argv: str) -> None:
        """A change of its configuration; returns when ovs-vswitchd has made it."""
        self.sandbox.run(
            ["ovs-vsctl", f"--db={self.database}", "--timeout=60", *argv],
            self.host,
            timeout_s=70,
            environment=self.environment,
        )

    def add_ports(self, names: list[str]) -> None:
        """TAP ports in the host's namespace."""
        words = [
            ["--", "add-port", "br0", name, "--", "set", "interface", name, "type=tap"] for name in names
        ]
        self.vsctl(*(word for group in words for word in group))

    def plug(self, namespaces: list[str]) -> None:
        for netns in namespaces:
            tap = f"t{len(self.containers)}"
            self.add_ports([tap])
            self.sandbox.run(["ip", "link", "set", "dev", tap, "netns", netns, "name", "eth0"], self.host)
            self.configure(netns)

    def grow(self, ports: int) -> None:
        """As many ports in all; the new ones stay in the host's namespace."""
        self.add_ports([f"t{number}" for number in range(len(self.containers), ports)])
