# SPDX-License-Identifier: Apache-2.0
"""The namespaces around one way out, alike for every subject, down to the addresses.

    container ── way out ── host 192.0.2.1 ── veth ── 192.0.2.2 far
                            servers at 198.51.100.1 to .16      clients of published ports at 198.51.100.100

Servers listen on addresses of the host's own (not loopback's, which some of the ways out treat apart), so
that the way out itself is what is measured, at its best: beyond a further hop all of them lose, pasta most
of all (it then acknowledges only what the server has acknowledged), and a ratio to it would flatter. The
kernel only routes to itself here. `--beyond` moves the servers to the far namespace, where the kernel really
masquerades and everybody's packets cross one more veth. Clients of published ports are always in the far
one: a client on the host itself is what pasta splices past its TAP.

Every subject has a host and a far namespace of its own, with the same addresses and the same programs in
them, so that no subject's firewall, connections in TIME_WAIT or forwarding settings touch another's. The far
side answers nothing for 203.0.113.0/24. The uplink has an MTU of 1500 and the offloads a veth has; MTU 65520
(pasta, slirp4netns) concerns the container's interface alone.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.process_cost import family
from benchmarks.sandbox import Process, until
from benchmarks.subjects.subject import Container, Subject

HOST, ROUTER = "192.0.2.1", "192.0.2.2"
SERVERS = [f"198.51.100.{number}" for number in range(1, 17)]
BLACK_HOLE, BLACK_HOLES = "203.0.113.1", 250
CLIENT = "198.51.100.100"
PUBLISHED = 5301  # TCP, to the same port of the first container


class Way(NamedTuple):
    """Two ends as the measurements of `tools/bench switch` want them: target first, then source."""

    containers: list[Container]
    parts: list[Process]

    def processes(self) -> list[int]:
        """Pids of all that make up the way out."""
        return [pid for part in self.parts for pid in family(part.pid)]


class Stage(Subject):
    """Subclasses fill in plug(), which publishes PUBLISHED for the first container too."""

    mtu = 1500

    def __init__(self, *arguments: object, ports: int = 1, beyond: bool = False, **more: object):
        super().__init__(*arguments, ports=ports, **more)
        self.beyond = beyond
        self.instances = 0

    def surround(self) -> None:
        """The host, its uplink, what is beyond it, the servers' addresses."""
        self.host, self.far = self.add_namespaces("host", "far")
        self.servers = self.far if self.beyond else self.host
        self.sandbox.ip_batch(
            [
                f"link add eth0 type veth peer name eth0 netns {self.far}",
                f"addr add {HOST}/24 dev eth0",
                "link set dev eth0 up",
            ],
            self.host,
        )
        self.sandbox.ip_batch(
            [
                f"addr add {CLIENT}/32 dev lo",
                f"addr add {ROUTER}/24 dev eth0",
                "link set dev eth0 up",
                f"route replace 192.0.2.0/24 dev eth0 src {CLIENT}",
                "route add blackhole 203.0.113.0/24",
            ],
            self.far,
        )
        self.sandbox.ip_batch([f"route add default via {ROUTER}"], self.host)
        self.sandbox.ip_batch([f"addr add {address}/32 dev lo" for address in SERVERS], self.servers)

    def fresh(self, ports: int = 1) -> Stage:
        """Another instance of the same, not started: new processes, new namespaces."""
        return type(self)(self.sandbox, ports=ports, beyond=self.beyond, key=self.fresh_key())

    def fresh_key(self) -> str:
        """One that names no namespace and no folder yet."""
        self.instances += 1
        return f"{self.key}-{self.instances}"

    def outward(self, position: int = 0) -> Way:
        """From a container to the first server."""
        return Way([Container(self.servers, SERVERS[0]), self.containers[position]], self.parts)

    def inward(self) -> Way:
        """From the far namespace to the first container's published port."""
        return Way(
            [self.containers[0]._replace(address=HOST), Container(self.far, CLIENT)],
            self.parts,
        )

    def wait_for_address(self, netns: str) -> str:
        """The IPv4 address of eth0, as soon as whoever configures it has done so and set the default route."""

        def found() -> str | None:
            if "default" not in self.sandbox.run(["ip", "-4", "route"], netns):
                return None
            words = self.sandbox.run(["ip", "-4", "-oneline", "addr", "show", "dev", "eth0"], netns).split()
            return words[words.index("inet") + 1].partition("/")[0] if "inet" in words else None

        return until(found, 5, f"no address and route in {netns}")

    def configure_link(self, netns: str, number: int) -> str:
        """10.9.NUMBER.2 with the router 10.9.NUMBER.1, where the way out doesn't do it itself."""
        self.sandbox.ip_batch(
            [
                f"addr add 10.9.{number}.2/24 dev eth0",
                f"link set dev eth0 mtu {self.mtu} up",
                f"route add default via 10.9.{number}.1",
            ],
            netns,
        )
        return f"10.9.{number}.2"
