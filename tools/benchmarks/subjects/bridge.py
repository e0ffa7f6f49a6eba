# SPDX-License-Identifier: Apache-2.0
"""The kernel's bridge with veth pairs: no process of its own, its work is done in the senders' context."""

from __future__ import annotations

from benchmarks.subjects.subject import Subject


class Bridge(Subject):
    """As Docker makes it, without its firewall."""

    name = "kernel bridge"
    key = "bridge"
    has_processes = False

    def open(self) -> None:
        self.sandbox.ip_batch(["link add br0 type bridge", "link set dev br0 up"], self.host)

    def plug(self, namespaces: list[str]) -> None:
        for netns in namespaces:
            port = f"v{len(self.containers)}"
            self.sandbox.ip_batch(
                [
                    f"link add {port} type veth peer name eth0 netns {netns}",
                    f"link set dev {port} master br0 up",
                ],
                self.host,
            )
            self.configure(netns)
