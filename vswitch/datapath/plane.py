# SPDX-License-Identifier: Apache-2.0
"""The dataplane for the asyncio control plane: every change is awaited until the dataplane has carried it out.

Enters: changes, as coroutines; frames to send. Leaves: answers, and through `on_punt` and `on_event` what the
dataplane wants control to know. One eventfd wakes the loop; the dataplane writes it only when control has looked
since the last time, so a busy dataplane costs the loop one wake-up per drain.

The punt ring is drained at most PUNTS_PER_CALL frames per loop iteration, so that a storm of questions doesn't keep
the API waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import threading
from collections.abc import Callable, Collection
from typing import NamedTuple

from vswitch.datapath._plane import NOBODY, Dataplane
from vswitch.nat.listeners import ListenerGroup

log = logging.getLogger(__name__)

PUNTS_PER_CALL = 64
CAPTURE_SLOTS = 8
MAX_LISTENERS = 65536
KINDS = {1: "dhcp", 2: "router", 3: "dhcpv6", 4: "dns"}
EVENT_SERVICE = 5
EVENTS = {1: "port_gone", 2: "no_ping", 3: "flow_opened", 4: "flow_closed"}
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}
DIRECTIONS = {1: "out", 2: "in"}
TCP_STATES = {0: "", 1: "connecting", 2: "syn_received", 3: "syn_sent", 4: "established", 5: "time_wait"}
# Descriptors of the process for what is no flow and no port: the resolver's (up to 2,048), three for each container
SPARE_DESCRIPTORS, SPARE_PART = 512, 6  # at least so many, or this part of all


class Punt(NamedTuple):
    """A frame that control must answer: complete checksums, no offload header."""

    kind: str
    network: int
    port: int
    frame: bytes
    time_ns: int


class FlowRow(NamedTuple):
    """One flow through a host socket. Addresses have 16 bytes, IPv4 mapped; `inside` is the container's end,
    `outside` the other as the container sees it, `target` whom the socket really talks to."""

    network: int
    port: int
    protocol: str
    direction: str
    state: str
    inside: bytes
    inside_port: int
    outside: bytes
    outside_port: int
    target: bytes
    out_bytes: int
    in_bytes: int
    out_packets: int
    in_packets: int
    age_s: float
    idle_s: float
    number: int
    generation: int


def flow_of(row: tuple) -> FlowRow:
    """A row of the dataplane's with names in place of numbers."""
    network, port, protocol, direction, state, *others = row
    return FlowRow(network, port, PROTOCOLS[protocol], DIRECTIONS[direction], TCP_STATES[state], *others)


class PlaneEvent(NamedTuple):
    """Something that happened of itself: 'port_gone' with the errno of its descriptor, 'no_ping' when the kernel
    allows neither ping nor raw sockets, 'flow_opened' and 'flow_closed' with the flow while flows are watched."""

    kind: str
    network: int
    port: int
    errno: int
    flow: FlowRow | None = None


class Connection(NamedTuple):
    """A container's connection to a service of control's: the far end of it is the descriptor, the receiver's to close.
    Addresses as in FlowRow."""

    fd: int
    network: int
    port: int
    inside: bytes
    inside_port: int


class FdbRow(NamedTuple):
    network: int
    port: int
    mac: bytes
    static: bool
    age_s: int


class NeighbourRow(NamedTuple):
    """`port` is None for the gateway's own addresses."""

    network: int
    port: int | None
    address: bytes
    mac: bytes


def mapped(address: bytes) -> bytes:
    """Sixteen bytes: IPv4 in its IPv6-mapped form."""
    return b"\0" * 10 + b"\xff\xff" + address if len(address) == 4 else address


def _descriptors() -> int:
    """How many of this process's descriptors the dataplane may have."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(limit - max(SPARE_DESCRIPTORS, limit // SPARE_PART), 64)


class Datapath:
    """The facade that control holds. Use it from one event loop; start() it there, stop() it before the loop ends."""

    def __init__(
        self,
        *,
        mac_capacity: int = 65536,
        mac_share: int = 1024,
        neighbour_capacity: int = 131072,
        age_s: int = 300,
        max_flows: int = 65536,
        busy_poll_us: int = 0,
        nat_timeouts: dict[str, int] | None = None,
        disabled: Collection[str] = (),
    ):
        self.plane = Dataplane(
            mac_capacity=mac_capacity,
            mac_share=mac_share,
            neighbour_capacity=neighbour_capacity,
            seed=secrets.randbits(64),
            age_s=age_s,
            max_flows=max_flows,
            busy_poll_us=busy_poll_us if len(os.sched_getaffinity(0)) > 1 else 0,
            max_descriptors=_descriptors(),
            nat_timeouts=nat_timeouts,
            disabled=disabled,
        )
        self.on_punt: Callable[[Punt], None] = lambda punt: None
        self.on_event: Callable[[PlaneEvent], None] = lambda event: None
        self.on_connection: Callable[[Connection], None] = lambda connection: os.close(connection.fd)
        self._waiters: list[tuple[int, asyncio.Future]] = []
        self._changed = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._dialer: threading.Thread | None = None
        self._listening: dict[ListenerGroup, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._captures: dict[int, object] = {}
        self._masks: dict[int, int] = {}

    # ---- running

    def start(self) -> None:
        """Starts the dataplane's thread and listens to it."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.plane.notify_fd, self._drain)
        self._dialer = threading.Thread(target=self.plane.dial, name="dialer", daemon=True)
        self._dialer.start()
        self._thread = threading.Thread(target=self.plane.run, name="dataplane", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread; the ports' descriptors stay open and are the caller's."""
        if self._thread is None:
            return
        await self._post(self.plane.post_stop)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self.plane.wake_dialer()
        await asyncio.get_running_loop().run_in_executor(None, self._dialer.join)
        self._thread = self._dialer = None
        self._loop.remove_reader(self.plane.notify_fd)

    async def poke(self) -> None:
        """Returns when the dataplane has answered: proof that it is alive."""
        await self._post(self.plane.post_poke)

    def _drain(self) -> None:
        """The dataplane has something: completions, punts, events, in this order."""
        self.plane.listen()
        self._settle()
        self._changed.set()
        for kind, network, port, errno, flow in self.plane.events():
            if kind == EVENT_SERVICE:
                self._call(self.on_connection, Connection(errno, network, port, *flow[5:7]))
                continue
            self._call(self.on_event, PlaneEvent(EVENTS[kind], network, port, errno, flow_of(flow) if flow else None))
        punts = self.plane.punts(PUNTS_PER_CALL)
        for kind, network, port, frame, time_ns in punts:
            self._call(self.on_punt, Punt(KINDS[kind], network, port, frame, time_ns))
        if len(punts) == PUNTS_PER_CALL:
            self._loop.call_soon(self._drain)

    def _call(self, receiver: Callable, value: object) -> None:
        """A receiver's bug must not stop the draining."""
        try:
            receiver(value)
        except Exception:
            log.exception("%s failed", receiver)

    def _settle(self) -> None:
        """Wakes those whose command was carried out."""
        completed = self.plane.completed
        while self._waiters and self._waiters[0][0] <= completed:
            future = self._waiters.pop(0)[1]
            if not future.done():
                future.set_result(None)

    async def _post(self, ask: Callable, *args, **kwargs):
        """Asks, waiting for room on the ring if need be, and awaits completion; returns what `ask` returned.

        Cancelled, it waits for what was asked all the same: whoever hands over a descriptor may close it then.
        """
        answer = ask(*args, **kwargs)
        while answer is None:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 0.1)
            answer = ask(*args, **kwargs)
        ticket = answer[0] if isinstance(answer, tuple) else answer
        future = asyncio.get_running_loop().create_future()
        self._waiters.append((ticket, future))
        self._settle()
        cancelled = False
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError
        return answer

    # ---- networks, ports, neighbours

    async def add_network(self, index: int, *, mtu: int, gateway_mac: bytes, dhcp: bool) -> None:
        """A new broadcast domain; `dhcp` sends its DHCP questions to on_punt."""
        await self._post(self.plane.post_network_add, index, mtu=mtu, gateway_mac=gateway_mac, dhcp=dhcp)

    async def set_network_mtu(self, index: int, mtu: int) -> None:
        await self._post(self.plane.post_network_mtu, index, mtu)

    async def set_network_isolated(self, index: int, isolated: bool) -> None:
        """Whether its ports reach each other, or the gateway only."""
        await self._post(self.plane.post_network_isolated, index, isolated)

    async def set_network_router(self, index: int, *, on: bool, prefixes: Collection[bytes] = ()) -> None:
        """Whether a network's router solicitations and DHCPv6 questions go to on_punt, and the prefixes (8 bytes each)
        in which its containers may make themselves addresses."""
        await self._post(self.plane.post_network_router, index, on)
        for prefix in prefixes:
            await self._post(self.plane.post_network_prefix, index, prefix)

    async def serve_names(self, index: int, on: bool) -> None:
        """Whether port 53 of a network's gateway is ours to answer: by on_punt for UDP, on_connection for TCP."""
        await self._post(self.plane.post_network_dns, index, on)

    async def remove_network(self, index: int) -> None:
        """Forgets a network; its ports must have been removed."""
        await self._post(self.plane.post_network_remove, index)

    async def add_port(
        self,
        index: int,
        fd: int,
        network: int,
        *,
        kind: str,
        vnet_header: bool,
        gso: int,
        mac: bytes | None = None,
        guard: bool = True,
        addresses: Collection[bytes] = (),
        shared: bool = True,
        sibling: int | None = None,
    ) -> None:
        """A descriptor becomes a port; `shared` False only if nobody else can hold its (non-blocking) open file. With
        `guard` it speaks as its MAC and as `addresses`, which are bound to it already. `sibling` is another port of
        the same container, if it has any: they ask about names on one account."""
        await self._post(
            self.plane.post_port_add,
            index,
            fd,
            network,
            kind=kind,
            vnet_header=vnet_header,
            gso=gso,
            mac=mac,
            guard=guard,
            addresses=addresses,
            shared=shared,
            sibling=sibling,
        )

    async def remove_port(self, index: int) -> None:
        """Takes a port out; afterwards its descriptor is the caller's to close."""
        await self._post(self.plane.post_port_remove, index)
        self._masks.pop(index, None)

    async def add_neighbour(self, network: int, address: bytes, mac: bytes, port: int | None) -> None:
        """Binds an address (4 or 16 bytes) to a MAC and port; None is the gateway itself."""
        await self._post(self.plane.post_neighbour, network, address, mac, NOBODY if port is None else port)

    async def remove_neighbour(self, network: int, address: bytes) -> None:
        await self._post(self.plane.post_neighbour, network, address, None)

    # ---- translation

    async def set_way_out(
        self,
        network: int,
        *,
        open: bool,
        host_loopback: bool = False,
        endpoint_filtering: bool = False,
        source4: bytes | None = None,
        source6: bytes | None = None,
        device: str | None = None,
    ) -> None:
        """How a network's packets leave it; before this is called, not at all."""
        await self._post(
            self.plane.post_way_out,
            network,
            open=open,
            host_loopback=host_loopback,
            endpoint_filtering=endpoint_filtering,
            source4=source4,
            source6=source6,
            device=(device or "").encode(),
        )

    async def set_own_subnets(self, subnets: list[tuple[int, bytes, int]]) -> None:
        """All subnets of all networks, as (network, address, prefix length): no host socket is ever sent there."""
        table = [(mapped(address), bits + (96 if len(address) == 4 else 0)) for _, address, bits in subnets]
        await self._post(self.plane.post_own_subnets, table)

    async def set_host_addresses(self, addresses: list[bytes]) -> None:
        """The host's own addresses: clients of published ports that have one of them appear as the gateway."""
        await self._post(self.plane.post_host_addresses, [mapped(address) for address in addresses])

    async def add_listeners(
        self, group: ListenerGroup, *, network: int, port: int, address4: bytes | None, address6: bytes | None
    ) -> None:
        """A group's sockets start to accept for the container on switch port `port`. LookupError without room."""
        first = self._free_listeners(group.count)
        self._listening[group] = first
        await self._post(
            self.plane.post_listen, group, first, network=network, port=port, address4=address4, address6=address6
        )

    async def remove_listeners(self, group: ListenerGroup) -> None:
        """A group's sockets stop accepting and may be closed; connections that they accepted go on."""
        first = self._listening.get(group)
        if first is not None:
            await self._post(self.plane.post_unlisten, first, group.count)
            del self._listening[group]

    def _free_listeners(self, count: int) -> int:
        """The first of `count` consecutive listener numbers that are free."""
        first = 0
        for start, size in sorted((start, group.count) for group, start in self._listening.items()):
            if start - first >= count:
                break
            first = start + size
        if first + count > MAX_LISTENERS:
            raise LookupError(f"{MAX_LISTENERS} published ports are the most there can be")
        return first

    async def kill_flows(self, flows: list[tuple[int, int]]) -> int:
        """Ends flows by (number, generation); how many were asked for."""
        await asyncio.gather(*(self._post(self.plane.post_flow_kill, *flow) for flow in flows))
        return len(flows)

    async def watch_flows(self, on: bool) -> None:
        """Whether on_event hears of every flow that comes and goes."""
        await self._post(self.plane.post_flow_watch, on)

    async def flows(self) -> list[FlowRow]:
        """All flows through host sockets."""
        return [flow_of(row) for row in await self._table("flows")]

    # ---- frames

    def inject(self, frame: bytes, *, network: int, port: int | None = None, except_port: int | None = None) -> bool:
        """Sends a complete frame to one port, or to all of the network but `except_port`; False if the ring is full."""
        if port is not None:
            return self.plane.inject(frame, network, port=port)
        return self.plane.inject(frame, network, port=NOBODY if except_port is None else except_port, flood=True)

    # ---- captures

    async def start_capture(self, capture: object) -> int:
        """Gives `capture` (an observe.Capture, kept alive) a slot; watch_port() says which ports it sees.

        Raises LookupError when all slots are taken.
        """
        slot = next((slot for slot in range(CAPTURE_SLOTS) if slot not in self._captures), None)
        if slot is None:
            raise LookupError(f"{CAPTURE_SLOTS} captures are running, which is the most there can be")
        self._captures[slot] = capture
        await self._post(self.plane.post_capture, slot, capture.address)
        return slot

    async def watch_port(self, slot: int, index: int) -> None:
        """Lets the capture in `slot` see a port's frames."""
        self._masks[index] = self._masks.get(index, 0) | 1 << slot
        await self._post(self.plane.post_capture_port, index, self._masks[index])

    async def stop_capture(self, slot: int) -> None:
        """Ends a capture; its ring is no longer written once this returns."""
        for index, mask in list(self._masks.items()):
            if mask >> slot & 1:
                self._masks[index] = mask & ~(1 << slot)
                await self._post(self.plane.post_capture_port, index, self._masks[index])
        await self._post(self.plane.post_capture, slot, 0)
        self._captures.pop(slot, None)

    # ---- views

    async def _table(self, what: str) -> list[tuple]:
        """A snapshot, taken in slices between the dataplane's batches."""
        _, table = await self._post(self.plane.post_snapshot, what)
        while not table.done:
            self._changed.clear()
            if not table.done:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.1)
        return table.rows()

    async def fdb(self) -> list[FdbRow]:
        """The MAC table of all networks."""
        return [FdbRow(*row) for row in await self._table("fdb")]

    async def neighbours(self) -> list[NeighbourRow]:
        """The neighbour table of all networks."""
        return [NeighbourRow(*row) for row in await self._table("neighbours")]

    def counters(self, index: int) -> dict:
        """One port's counters by name, `drops` by reason."""
        return self.plane.port_counters(index)

    def network_drops(self, index: int) -> dict[str, int]:
        return self.plane.network_drops(index)

    def totals(self) -> dict[str, int]:
        """Wake-ups, table sizes and capacities, ring losses."""
        return self.plane.totals()
