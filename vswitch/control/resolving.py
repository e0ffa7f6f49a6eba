# SPDX-License-Identifier: Apache-2.0
"""The shell around the DNS engine: what asks, by which way, and how it gets its answer.

    127.0.0.11:53 in the container    sockets that the attach helper opened there (UDP, TCP): one pair for a container
    gateway:53, UDP                   punted frames in, injected frames out
    gateway:53, TCP                   the translator's connections, of each the far end (on_connection)
    upstreams                         flights.py

The engine's actions are done at once and in order; one timer serves it. Of a socket READS datagrams are taken per turn
of the loop, so that a container that floods delays others by that, and one that asks faster than the engine allows is
not read at all for REST_S: the kernel drops then, and nobody pays for it. Nor is a listener heard for so long that had
READS clients at once, or when the switch is out of descriptors: its clients stay in the kernel's queue. Connections
are streams.py's business.

The sockets keep their container's namespace alive: `silence` closes them the moment it has ended, before anything
else of it is taken down. Where port 53 is taken in a container, only the gateway answers it, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

from vswitch.control.edges import Parts
from vswitch.control.flights import Flights, Inward
from vswitch.control.inventory import Container, Port
from vswitch.control.naming import Naming, ordered_networks
from vswitch.control.networks import Network
from vswitch.control.streams import Streams
from vswitch.dns import datagram
from vswitch.dns.action import Action, Arm, Asker, Close, Dropped, Reply, Send
from vswitch.dns.codec import Transport
from vswitch.dns.datagram import Origin
from vswitch.dns.drop import Drop
from vswitch.dns.engine import Engine
from vswitch.dns.stream import MAX_QUESTION_BYTES
from vswitch.model import NamespaceOrigin, Refused

log = logging.getLogger(__name__)

READS = 8
REST_S = 0.01
LOOPBACK = "127.0.0.11"
DOMAIN = 53


class Ears:
    """A container's sockets at 127.0.0.11."""

    def __init__(self, container: Container, udp: int, tcp: int, inward: Inward | None):
        self.container = container
        self.inward = inward
        self.udp = socket.socket(fileno=udp)
        self.tcp = socket.socket(fileno=tcp)
        self.resting: dict[socket.socket, asyncio.TimerHandle] = {}
        self.closed = False


class Resolver:
    """All containers' resolver."""

    def __init__(self, parts: Parts):
        self._parts = parts
        self.engine = Engine(parts.random)
        self._naming = Naming(self.engine, parts.resolvers)
        self._ears: dict[str, Ears] = {}
        self._flights = Flights(self._heard, self._lost)
        self._inward: dict[int, Inward] = {}  # those flights that are on our own networks
        self._streams = Streams(parts.clock, self._asked_over_tcp)
        self._timer: asyncio.TimerHandle | None = None
        self._to_do: deque[Action] = deque()
        self._busy = False
        self.drops: dict[str, Counter[str]] = {}  # by endpoint id; an endpoint's go with it
        self.network_drops: dict[str, Counter[str]] = {}  # by network id, those of departed endpoints included

    # ---- life

    def start(self) -> None:
        """Follow the host's resolvers, take connections from now on."""
        self._parts.resolvers.follow(self._resolvers_changed)
        self._parts.datapath.on_connection = self._on_connection

    def stop(self) -> None:
        """Close every socket; containers' names stay as they are."""
        self._parts.resolvers.close()
        for ears in list(self._ears.values()):
            self._close(ears)
        self._streams.close()
        self._flights.close_all()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _resolvers_changed(self) -> None:
        servers = ", ".join(self._parts.resolvers.current.nameservers) or "none"
        log.info("the host's resolvers are now: %s", servers)
        self._naming.refresh()

    # ---- networks and containers come and go

    async def open(self, network: Network) -> None:
        """A network is there, or its settings have changed."""
        self._naming.open(network)
        await self._parts.datapath.serve_names(network.index, network.shape.resolving.names)

    def close(self, network: Network) -> None:
        """A network is gone."""
        self._naming.close(network)
        self.network_drops.pop(network.record.id, None)

    def port_came(self, port: Port) -> None:
        """A container is on a network: its names are there."""
        self._naming.port_came(port)

    def port_left(self, port: Port) -> None:
        """It is no more: nobody has its names there."""
        if not self._naming.port_left(port):
            self._do(self.engine.forget(port.container.record.id))
        self.drops.pop(port.endpoint.id, None)

    async def listen(
        self,
        container: Container,
        *,
        netns_fd: int | None = None,
        userns_fd: int | None = None,
        origin: NamespaceOrigin | None = None,
    ) -> bool:
        """Answer at 127.0.0.11 in a container, if one of its networks has names and it has no name server of its own.
        Whether sockets were opened: they are to be closed if its coming fails.
        """
        served = any(network.shape.resolving.names for network, _ in ordered_networks(container))
        if not served or container.record.id in self._ears or serves_domain(container):
            return False
        ask = any(map(self._leads_inside, container.record.spec.dns))
        try:
            udp, tcp, *more = await self._parts.helper.listen(
                netns_fd=netns_fd, userns_fd=userns_fd, origin=origin, ask=ask
            )
        except Refused as refusal:
            log.warning("container %s has names at its gateway only: %s", container.name, refusal)
            return False
        inward = Inward(*more, self._heard) if more else None
        ears = self._ears[container.record.id] = Ears(container, udp, tcp, inward)
        container.nameserver = LOOPBACK
        loop = asyncio.get_running_loop()
        loop.add_reader(ears.udp.fileno(), self._datagrams, ears)
        loop.add_reader(ears.tcp.fileno(), self._accept, ears)
        return True

    def silence(self, container: Container) -> None:
        """Close a container's sockets, so that its namespace can go."""
        container.nameserver = None
        if (ears := self._ears.get(container.record.id)) is not None:
            self._close(ears)
        self._streams.leave(container.record.id)

    def _close(self, ears: Ears) -> None:
        del self._ears[ears.container.record.id]
        ears.closed = True
        loop = asyncio.get_running_loop()
        for resting in ears.resting.values():
            resting.cancel()
        if ears.inward is not None:
            ears.inward.close_all()
        for one in (ears.udp, ears.tcp):
            loop.remove_reader(one.fileno())
            one.close()

    # ---- questions

    def _datagrams(self, ears: Ears) -> None:
        """Questions at 127.0.0.11."""
        now = self._parts.clock.monotonic_s()
        name = ears.container.record.id
        for _ in range(READS):
            try:
                data, peer = ears.udp.recvfrom(MAX_QUESTION_BYTES)
            except OSError:  # nothing more, or an answer that nobody waited for
                return
            actions = self.engine.ask(data, Asker(name, (ears, peer)), now)
            self._do(actions)
            if ears.closed:
                return
            if _dropped(actions) is Drop.RATE:
                self._rest(ears, ears.udp, self._datagrams)
                return

    def _rest(self, ears: Ears, one: socket.socket, listen: Callable[[Ears], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(one.fileno())
        ears.resting[one] = loop.call_later(REST_S, self._wake, ears, one, listen)

    def _wake(self, ears: Ears, one: socket.socket, listen: Callable[[Ears], None]) -> None:
        del ears.resting[one]
        asyncio.get_running_loop().add_reader(one.fileno(), listen, ears)

    def on_punt(self, punt: Any) -> None:
        """A question at the gateway over UDP; never raises, whatever its bytes."""
        port = self._parts.inventory.ports.get(punt.port)
        if port is None or port.network.index != punt.network:
            return
        found = datagram.parse(punt.frame)
        if found is None:
            self._count(Drop.SHORT, port.container, port)
            return
        origin, data = found
        room = port.network.record.mtu - datagram.OVERHEAD[len(origin.source)]
        asker = Asker(port.container.record.id, (port, origin), room_bytes=room)
        self._do(self.engine.ask(data, asker, self._parts.clock.monotonic_s()))

    def _accept(self, ears: Ears) -> None:
        """Connections to 127.0.0.11."""
        for _ in range(READS):
            try:
                made, _ = ears.tcp.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                log.debug("a DNS client of %s waits: %s", ears.container.name, problem)
                self._rest(ears, ears.tcp, self._accept)
                return
            made.setblocking(False)
            self._streams.admit(ears.container.record.id, made)
        self._rest(ears, ears.tcp, self._accept)

    def _on_connection(self, connection: Any) -> None:
        """A connection to the gateway."""
        port = self._parts.inventory.ports.get(connection.port)
        if port is None or port.network.index != connection.network:
            os.close(connection.fd)
            return
        self._streams.admit(port.container.record.id, socket.socket(fileno=connection.fd))

    def _asked_over_tcp(self, container: str, stream: Any, data: bytes) -> None:
        actions = self.engine.ask(data, Asker(container, stream, Transport.TCP), self._parts.clock.monotonic_s())
        self._do(actions)
        reason = _dropped(actions)
        if reason is Drop.RATE:
            self._streams.refuse(stream)
        elif reason is not None:
            self._streams.settled(stream)

    # ---- what the engine wants done

    def _do(self, actions: Iterable[Action]) -> None:
        """In order; what comes of doing one is done after those that are due already."""
        self._to_do.extend(actions)
        if self._busy:
            return
        self._busy = True
        try:
            while self._to_do:
                self._act(self._to_do.popleft())
        finally:
            self._busy = False

    def _act(self, action: Action) -> None:
        kind = type(action)
        if kind is Reply:
            self._reply(action.asker, action.data)
        elif kind is Send:
            if not self._send(action):
                self._lost(action.flight)
        elif kind is Close:
            self._end_flight(action.flight)
        elif kind is Arm:
            self._arm(action.at)
        elif kind is Dropped:
            self._drop(action)

    def _send(self, send: Send) -> bool:
        """To a server on our own networks from within the asker's namespace, or not at all: from here the host would
        look for it elsewhere. To others from here.
        """
        if not self._leads_inside(send.server):
            return self._flights.open(send)
        ears = self._ears.get(send.container)
        if ears is None or ears.inward is None or not ears.inward.open(send):
            return False
        self._inward[send.flight] = ears.inward
        return True

    def _end_flight(self, number: int) -> None:
        if (inward := self._inward.pop(number, None)) is not None:
            inward.close(number)
        else:
            self._flights.close(number)

    def _leads_inside(self, server: str) -> bool:
        """Whether a server is an address of our own networks."""
        return self.engine.zone.owns(ip_address(server.partition("%")[0]).packed)

    def _reply(self, asker: Asker, data: bytes) -> None:
        if asker.transport is Transport.TCP:
            self._streams.answer(asker.peer, data)
            return
        where, whence = asker.peer
        if type(where) is Ears:
            if not where.closed:
                try:
                    where.udp.sendto(data, whence)
                except OSError as problem:  # its buffer is full, or the asker's port is closed
                    log.debug("an answer to %s is lost: %s", where.container.name, problem)
        else:
            self._answer_at_gateway(where, whence, data)

    def _answer_at_gateway(self, port: Port, origin: Origin, data: bytes) -> None:
        if self._parts.inventory.ports.get(port.index) is not port:
            return
        frame = datagram.emit(origin, port.network.gateway_mac, data)
        self._parts.datapath.inject(frame, network=port.network.index, port=port.index)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, at - self._parts.clock.monotonic_s())
        self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self._do(self.engine.due(self._parts.clock.monotonic_s()))

    def _heard(self, data: bytes, flight: int, server: str) -> None:
        self._do(self.engine.heard(data, flight, server, self._parts.clock.monotonic_s()))

    def _lost(self, flight: int) -> None:
        self._end_flight(flight)
        self._do(self.engine.lost(flight, self._parts.clock.monotonic_s()))

    def _drop(self, action: Dropped) -> None:
        container = self._parts.inventory.containers.get(action.container or "")
        if container is not None and container.ports:
            self._count(action.reason, container, next(iter(container.ports.values())))

    def _count(self, reason: Drop, container: Container, port: Port) -> None:
        self.drops.setdefault(port.endpoint.id, Counter())[str(reason)] += 1
        self.network_drops.setdefault(port.network.record.id, Counter())[str(reason)] += 1


def _dropped(actions: list[Action]) -> Drop | None:
    """Why a question gets no answer, if so."""
    return actions[0].reason if actions and type(actions[0]) is Dropped else None


def serves_domain(container: Container) -> bool:
    """Whether a container publishes port 53, and so has a name server of its own that wants it on all its addresses."""
    ports = (port.asked for port in container.record.ports)
    return any(port.container_port <= DOMAIN < port.container_port + port.count for port in ports)
