# SPDX-License-Identifier: Apache-2.0
"""The kernel's own way: veth, forwarding, nftables with masquerade and DNAT. It needs root; nobody else here does."""

from __future__ import annotations

import shutil

from benchmarks.machine import first_line
from benchmarks.nat.stage import PUBLISHED, Stage
from benchmarks.subjects.subject import Container

RULES = f"""
table ip nat {{
    chain out {{ type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }}
    chain in {{ type nat hook prerouting priority dstnat; iifname "eth0" tcp dport {PUBLISHED} dnat to 10.9.0.2; }}
}}
"""


class Kernel(Stage):
    """No process of its own: its work is done in the context of whoever sends."""

    name = "kernel masquerade"
    key = "kernel"
    has_processes = False

    @classmethod
    def absent(cls) -> str | None:
        return None if shutil.which("nft") else "not installed (apt-get install nftables)"

    @classmethod
    def version(cls) -> str | None:
        return first_line("nft", "--version")

    def open(self) -> None:
        self.sandbox.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], self.host)
        self.sandbox.run(["nft", "-f", "-"], self.host, stdin=RULES)

    def plug(self, namespaces: list[str]) -> None:
        for netns in namespaces:
            number = len(self.containers)
            self.sandbox.ip_batch(
                [
                    f"link add v{number} type veth peer name eth0 netns {netns}",
                    f"addr add 10.9.{number}.1/24 dev v{number}",
                    f"link set dev v{number} up",
                ],
                self.host,
            )
            self.containers.append(Container(netns, self.configure_link(netns, number)))
