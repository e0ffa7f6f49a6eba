# SPDX-License-Identifier: Apache-2.0
"""vswitch as a user starts it: `vswitch-run` in the host's namespace, `vswitch attach -p` for each container."""

from __future__ import annotations

from benchmarks.nat.stage import PUBLISHED, Stage
from benchmarks.subjects import vswitch


class Vswitch(Stage, vswitch.Vswitch):
    """One process for all containers. Needs the host's resolver for nothing here: addresses only."""

    def fresh(self, ports: int = 1) -> Vswitch:
        return type(self)(
            self.sandbox,
            ports=ports,
            beyond=self.beyond,
            key=self.fresh_key(),
            name=self.name,
            environment=self.environment,
        )

    def plug(self, namespaces: list[str]) -> None:
        for netns in namespaces:
            first = netns == namespaces[0] and not self.containers
            self.attach(netns, *(["-p", f"{PUBLISHED}:{PUBLISHED}"] if first else []))
        self.adopt(namespaces)

    def attach(self, netns: str, *more: str) -> None:
        """`vswitch attach`, with further options."""
        self.command("attach", "--netns", netns, "--name", netns, *more)
