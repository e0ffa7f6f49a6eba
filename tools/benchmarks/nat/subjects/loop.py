# SPDX-License-Identifier: Apache-2.0
"""The raw NAT loop (yardsticks/nat_loop.c): what vswitch's targets are ratios of. One process per container."""

from __future__ import annotations

from benchmarks.nat.stage import PUBLISHED, Stage
from benchmarks.sandbox import NETNS_FOLDER
from benchmarks.subjects.subject import Container
from benchmarks.yardstick import yardstick

GATEWAY_MAC = "02:00:00:00:00:01"


class Loop(Stage):
    """One thread, super-frames, no repair of losses."""

    name = "raw NAT loop"
    key = "loop"

    def plug(self, namespaces: list[str]) -> None:
        for netns in namespaces:
            number = len(self.containers)
            ports = [] if number else [str(PUBLISHED)]
            program = yardstick(self.sandbox, "nat_loop")
            process = self.sandbox.spawn([program, NETNS_FOLDER / netns, f"10.9.{number}.2", *ports], self.host)
            self.parts.append(process)
            process.wait_ready("ready")
            address = self.configure_link(netns, number)
            neighbour = f"neigh replace 10.9.{number}.1 lladdr {GATEWAY_MAC} nud permanent dev eth0"
            self.sandbox.ip_batch([neighbour], netns)
            self.containers.append(Container(netns, address))

    def use_queue_length(self, frames: int) -> None:
        """The ring of the switch it is compared with: no ratio may come from a queue's length."""
        for one in self.containers:
            self.sandbox.run(["ip", "link", "set", "dev", "eth0", "txqueuelen", str(frames)], one.netns)
