# SPDX-License-Identifier: Apache-2.0
"""Captures under way: which port each of them sees, and how each ends.

A capture sees the ports that its client asked for: those of some networks, of some containers, or all. Ports
come and go while it runs, so this is told of every port by control (PortObserver): described to the writers
before the first frame, put into the dataplane's mask once the port is there, forgotten when it leaves.

    start     descriptor → writer's thread → slot in the dataplane → masks of the ports that are there
    ends      by stop, by its reader going away (the writer notices), or with the switch:
              out of the dataplane first, then the writer

Limits: the dataplane has 8 slots; what does not fit is refused.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, NamedTuple

from vswitch.control.api.messages import CaptureView
from vswitch.control.inventory import Port
from vswitch.control.names import mac_bytes
from vswitch.model import Refused
from vswitch.observe._pcapng import SNAPLEN_MAX
from vswitch.observe.capture import CaptureWriter, Endpoint, Output
from vswitch.observe.outputs import Folder, Stream

log = logging.getLogger(__name__)
REPORT_INTERVAL_S = 1.0
SNAPLEN_MIN = 14  # an Ethernet header: with less, frames can't be told apart


class Wanted(NamedTuple):
    """Which ports a capture sees: of these networks and these containers (ids); an empty set means all."""

    networks: frozenset[str] = frozenset()
    containers: frozenset[str] = frozenset()

    def sees(self, port: Port) -> bool:
        wanted_network = not self.networks or port.network.record.id in self.networks
        return wanted_network and (not self.containers or port.container.record.id in self.containers)


class Session:
    """One capture."""

    def __init__(self, writer: CaptureWriter, wanted: Wanted, ended: asyncio.Event):
        self.id = secrets.token_hex(6)
        self.writer = writer
        self.slot: int | None = None
        self.sees = wanted.sees
        self.ended = ended

    def view(self) -> CaptureView:
        statistics = self.writer.statistics()
        return CaptureView(
            id=self.id,
            written=statistics.written,
            written_bytes=statistics.written_bytes,
            dropped=statistics.dropped,
            trouble=statistics.trouble,
        )


class Captures:
    """All captures; control.edges.PortObserver."""

    def __init__(self, datapath: Any):
        self._datapath = datapath
        self._sessions: dict[str, Session] = {}
        self._present: dict[int, Port] = {}
        self._endings: set[asyncio.Future[None]] = set()

    # ---- as control's observer

    def port_coming(self, port: Port) -> None:
        for session in self._sessions.values():
            if session.sees(port):
                session.writer.update(port.index, describe(port))

    async def port_came(self, port: Port) -> None:
        self._present[port.index] = port
        for session in list(self._sessions.values()):
            if session.slot is not None and session.sees(port):
                await self._datapath.watch_port(session.slot, port.index)

    def port_left(self, port: Port) -> None:
        if self._present.pop(port.index, None) is not None:
            for session in self._sessions.values():
                if session.sees(port):
                    session.writer.update(port.index, None)

    # ---- as the API's

    async def start_stream(
        self, fd: int, networks: frozenset[str], containers: frozenset[str], snaplen: int
    ) -> Reports:
        """A capture of some ports (by ids; empty for all) into a client's descriptor, ours from now on.

        Refused.
        """
        starting = asyncio.ensure_future(
            self._start(Stream(fd), "client", Wanted(networks, containers), snaplen)
        )
        try:
            return Reports(self, await asyncio.shield(starting))
        except asyncio.CancelledError:
            starting.add_done_callback(self._end_unwanted)
            raise

    async def log_to(self, folder: str) -> None:
        """Everything into rotating files of a folder, for as long as the switch runs. Refused."""
        try:
            output = Folder(folder)
        except OSError as problem:
            raise Refused(f"cannot log packets to {folder}: {problem.strerror}") from None
        await self._start(output, "log", Wanted(), SNAPLEN_MAX)

    async def stop(self, identity: str) -> CaptureView:
        """End a capture: what is on its way is written, then the descriptor closed. Refused with 404."""
        session = self._sessions.get(identity)
        if session is None:
            raise Refused(f"no capture {identity[:80]!r} is under way", 404)
        await self._end(session)
        return session.view()

    async def close(self) -> None:
        """End all."""
        await asyncio.gather(*(self._end(session) for session in list(self._sessions.values())))

    # ---- below

    async def _start(self, output: Output, label: str, wanted: Wanted, snaplen: int) -> Session:
        if not SNAPLEN_MIN <= snaplen <= SNAPLEN_MAX:
            output.close()
            raise Refused(f"snaplen {snaplen} is out of range: {SNAPLEN_MIN} to {SNAPLEN_MAX} bytes")
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        writer = CaptureWriter(
            output,
            label=label,
            snaplen=snaplen,
            endpoints={port.index: describe(port) for port in self._present.values() if wanted.sees(port)},
            on_end=lambda reason: loop.call_soon_threadsafe(ended.set),
        )
        session = Session(writer, wanted, ended)
        self._sessions[session.id] = session
        writer.start()
        try:
            session.slot = await self._datapath.start_capture(writer.capture)
            await self._watch_all(session)
        except BaseException as problem:
            await self._end(session)
            if isinstance(problem, LookupError):
                raise Refused(f"{problem}: end one first", 507) from None
            raise
        return session

    def _end_unwanted(self, starting: asyncio.Future[Session]) -> None:
        """Its client went away while it was being started."""
        if not starting.cancelled() and starting.exception() is None:
            ending = asyncio.ensure_future(self._end(starting.result()))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def _watch_all(self, session: Session) -> None:
        """Every port that is there; one that comes meanwhile is watched by port_came."""
        for port in list(self._present.values()):
            if self._present.get(port.index) is port and session.sees(port):
                await self._datapath.watch_port(session.slot, port.index)

    async def _end(self, session: Session) -> None:
        """Whoever comes second waits until it has ended."""
        if self._sessions.pop(session.id, None) is None:
            await session.ended.wait()
            return
        if session.slot is not None:
            await self._datapath.stop_capture(session.slot)
        await asyncio.to_thread(session.writer.stop)
        session.ended.set()


class Reports:
    """What the client of a capture is sent: how far it is, every second, and once more when it has ended."""

    def __init__(self, captures: Captures, session: Session):
        self._captures = captures
        self._session = session
        self._reported = False
        self._last = False

    def __aiter__(self) -> Reports:
        return self

    async def __anext__(self) -> CaptureView:
        """At once the first time, so that the client knows the capture's id and that it has begun."""
        if self._last:
            raise StopAsyncIteration
        if self._reported:
            try:
                async with asyncio.timeout(REPORT_INTERVAL_S):
                    await self._session.ended.wait()
                self._last = True
            except TimeoutError:
                pass
        self._reported = True
        return self._session.view()

    async def aclose(self) -> None:
        """The client has gone, or the capture has ended: nothing of it is left when this returns."""
        await asyncio.shield(self._captures._end(self._session))


def describe(port: Port) -> Endpoint:
    """What a capture says of a port."""
    endpoint, network = port.endpoint, port.network
    addresses = tuple(
        network.with_prefix(address) for address in (endpoint.ipv4, endpoint.ipv6) if address is not None
    )
    name = f"{port.container.name}/{endpoint.interface}"
    return Endpoint(name, mac_bytes(endpoint.mac), addresses, f"network {network.name}")
