# SPDX-License-Identifier: Apache-2.0
"""The raw loop (tools/yardsticks/switch_loop.c): what vswitch's targets are ratios of."""

from __future__ import annotations

from benchmarks.sandbox import NETNS_FOLDER
from benchmarks.subjects.subject import Subject
from benchmarks.yardstick import yardstick


class Loop(Subject):
    """Two TAPs with offloads, one thread, no table."""

    name = "raw loop"
    key = "loop"

    def plug(self, namespaces: list[str]) -> None:
        relay = self.sandbox.spawn(
            [yardstick(self.sandbox, "switch_loop"), *(NETNS_FOLDER / one for one in namespaces)], self.host
        )
        self.parts.append(relay)
        relay.wait_ready("ready")
        for netns in namespaces:
            self.configure(netns)

    def use_queue_length(self, frames: int) -> None:
        """The ring of the switch it is compared with: no ratio may come from a queue's length."""
        for one in self.containers:
            self.sandbox.run(
                ["ip", "link", "set", "dev", one.interface, "txqueuelen", str(frames)], one.netns
            )


class Twin(Loop):
    """A second raw loop: what differs between the two is this machine's noise."""

    name = "raw loop, twin"
    key = "twin"
