# SPDX-License-Identifier: Apache-2.0
"""What every measured switch has: containers (namespaces with an eth0), a host's namespace, processes."""

from __future__ import annotations

import json
from typing import NamedTuple

from benchmarks.process_cost import family
from benchmarks.sandbox import Process, Sandbox, until


class Container(NamedTuple):
    """A namespace that is attached; `address` is its eth0's IPv4 address."""

    netns: str
    address: str
    interface: str = "eth0"


class Subject:
    """A switch under measurement. Subclasses fill in plug(), and grow() where they can."""

    name = ""
    key = ""  # in namespace names and --only
    can_grow = False
    has_processes = True  # False: the kernel does its work, in the context of whoever sends

    def __init__(self, sandbox: Sandbox, ports: int = 2, *, key: str | None = None):
        self.sandbox, self.ports = sandbox, ports
        self.key = key or self.key
        self.containers: list[Container] = []
        self.parts: list[Process] = []
        self.namespaces: list[str] = []

    @classmethod
    def absent(cls) -> str | None:
        """Why it cannot be measured here; None if it can."""
        return None

    @classmethod
    def version(cls) -> str | None:
        """As it names itself; None where the kernel's or the bench's own version is the answer."""
        return None

    def start(self) -> None:
        """Running, with its first containers attached. Failed where that doesn't work."""
        self.surround()
        self.open()
        self.plug(self.add_namespaces(*range(self.ports)))
        self.sandbox.pace(self.namespaces)

    def surround(self) -> None:
        """The namespaces that are there before the switch and its containers."""
        self.host = self.add_namespaces("host")[0]

    def add_namespaces(self, *roles: str | int) -> list[str]:
        """New ones, which stop() removes."""
        names = self.sandbox.add_namespaces(*(f"{self.key}-{role}" for role in roles))
        self.namespaces += names
        return names

    def open(self) -> None:
        """The switch itself, before any port."""

    def plug(self, namespaces: list[str]) -> None:
        """Ports for these namespaces; adds to `containers`."""
        raise NotImplementedError

    def stop(self) -> None:
        """Gone, with its namespaces."""
        self.sandbox.end(*reversed(self.parts))
        self.sandbox.remove_namespaces(self.namespaces)
        self.parts, self.namespaces, self.containers = [], [], []

    def processes(self) -> list[int]:
        """Pids of all that make up the switch, children included; none if the kernel does its work."""
        return [pid for part in self.parts for pid in family(part.pid)]

    def grow(self, ports: int) -> None:
        """That many ports in all; only where can_grow says so."""
        raise NotImplementedError

    def configure(self, netns: str) -> None:
        """Gives eth0 of a namespace the next address of 10.9.0.0/16, as nobody else does it here."""
        number = len(self.containers)
        address = f"10.9.{number // 250}.{number % 250 + 1}"
        self.sandbox.ip_batch([f"addr add {address}/16 dev eth0", "link set dev eth0 mtu 1500 up"], netns)
        self.containers.append(Container(netns, address))

    def link(self, container: Container) -> dict:
        """What `ip` shows of the container's interface."""
        shown = self.sandbox.run(["ip", "-json", "addr", "show", "dev", container.interface], container.netns)
        return json.loads(shown)[0]

    def queue_length(self) -> int:
        """Frames that the ring of a container's interface holds (for a TAP)."""
        return self.link(self.containers[0])["txqlen"]

    def wait_for_eth0(self, netns: str) -> None:
        """Until a program has made it."""

        def there() -> bool:
            return "eth0" in self.sandbox.run(["ip", "-brief", "link"], netns)

        until(there, 5, f"no eth0 in {netns}")
