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
import secrets
import threading
from collections.abc import Callable
from typing import NamedTuple

from vswitch.datapath._plane import NOBODY, Dataplane

log = logging.getLogger(__name__)

PUNTS_PER_CALL = 64
CAPTURE_SLOTS = 8
KINDS = {1: "dhcp"}
EVENTS = {1: "port_gone"}


class Punt(NamedTuple):
    """A frame that control must answer: complete checksums, no offload header."""

    kind: str
    network: int
    port: int
    frame: bytes
    time_ns: int


class PlaneEvent(NamedTuple):
    """Something that happened of itself: 'port_gone' with the errno of its descriptor."""

    kind: str
    network: int
    port: int
    errno: int


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


class Datapath:
    """The facade that control holds. Use it from one event loop; start() it there, stop() it before the loop ends."""

    def __init__(
        self, *, mac_capacity: int = 65536, mac_share: int = 1024, neighbour_capacity: int = 131072, age_s: int = 300
    ):
        self.plane = Dataplane(
            mac_capacity=mac_capacity,
            mac_share=mac_share,
            neighbour_capacity=neighbour_capacity,
            seed=secrets.randbits(64),
            age_s=age_s,
        )
        self.on_punt: Callable[[Punt], None] = lambda punt: None
        self.on_event: Callable[[PlaneEvent], None] = lambda event: None
        self._waiters: list[tuple[int, asyncio.Future]] = []
        self._changed = asyncio.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._captures: dict[int, object] = {}
        self._masks: dict[int, int] = {}

    # ---- running

    def start(self) -> None:
        """Starts the dataplane's thread and listens to it."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.plane.notify_fd, self._drain)
        self._thread = threading.Thread(target=self.plane.run, name="dataplane", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread; the ports' descriptors stay open and are the caller's."""
        if self._thread is None:
            return
        await self._post(self.plane.post_stop)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        self._thread = None
        self._loop.remove_reader(self.plane.notify_fd)

    async def poke(self) -> None:
        """Returns when the dataplane has answered: proof that it is alive."""
        await self._post(self.plane.post_poke)

    def _drain(self) -> None:
        """The dataplane has something: completions, punts, events, in this order."""
        self.plane.listen()
        self._settle()
        self._changed.set()
        for kind, network, port, errno in self.plane.events():
            self._call(self.on_event, PlaneEvent(EVENTS[kind], network, port, errno))
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
        """Asks, waiting for room on the ring if need be, and awaits completion; returns what `ask` returned."""
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
        await future
        return answer

    # ---- networks, ports, neighbours

    async def add_network(self, index: int, *, mtu: int, gateway_mac: bytes, dhcp: bool) -> None:
        """A new broadcast domain; `dhcp` sends its DHCP questions to on_punt."""
        await self._post(self.plane.post_network_add, index, mtu=mtu, gateway_mac=gateway_mac, dhcp=dhcp)

    async def set_network_mtu(self, index: int, mtu: int) -> None:
        await self._post(self.plane.post_network_mtu, index, mtu)

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
        shared: bool = True,
    ) -> None:
        """A descriptor becomes a port; `shared` False only if nobody else can hold its (non-blocking) open file."""
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
            shared=shared,
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

    async def _table(self, fdb: bool) -> list[tuple]:
        """A snapshot, taken in slices between the dataplane's batches."""
        _, table = await self._post(self.plane.post_snapshot, fdb)
        while not table.done:
            self._changed.clear()
            if not table.done:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.1)
        return table.rows()

    async def fdb(self) -> list[FdbRow]:
        """The MAC table of all networks."""
        return [FdbRow(*row) for row in await self._table(True)]

    async def neighbours(self) -> list[NeighbourRow]:
        """The neighbour table of all networks."""
        return [NeighbourRow(*row) for row in await self._table(False)]

    def counters(self, index: int) -> dict:
        """One port's counters by name, `drops` by reason."""
        return self.plane.port_counters(index)

    def network_drops(self, index: int) -> dict[str, int]:
        return self.plane.network_drops(index)

    def totals(self) -> dict[str, int]:
        """Wake-ups, table sizes and capacities, ring losses."""
        return self.plane.totals()
