# SPDX-License-Identifier: Apache-2.0
"""A whole switch behind its API, in memory: real sockets, server, controller and store; twins of kernel,
dataplane and machine.

It runs in a thread with a loop of its own, so that the blocking client and the command line can be used from
tests as they are.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from vswitch.clock import SystemClock
from vswitch.config import Settings
from vswitch.control.api.client import Client
from vswitch.control.api.listen import listen
from vswitch.control.api.messages import Context
from vswitch.control.api.server import ApiServer
from vswitch.control.host_twins import MemoryAddresses, MemoryHost, MemoryListeners, MemoryResolvers, MemoryRoutes
from vswitch.control.store import Store
from vswitch.control.switch import Switch
from vswitch.control.twins import MemoryDatapath, MemoryNamespaces, MemoryWatcher
from vswitch.daemon.captures import Captures
from vswitch.ports.handover import TokenServer, offer

TIMEOUT_S = 20


class CapturedDatapath(MemoryDatapath):
    """With the dataplane's capture slots: which of them are taken, and which ports they see."""

    def __init__(self) -> None:
        super().__init__()
        self.captures: dict[int, object] = {}
        self.watched: set[tuple[int, int]] = set()  # slot, port index

    async def start_capture(self, capture: object) -> int:
        slot = next((slot for slot in range(8) if slot not in self.captures), None)
        if slot is None:
            raise LookupError("8 captures are running, which is the most there can be")
        self.captures[slot] = capture
        await asyncio.sleep(0)
        return slot

    async def watch_port(self, slot: int, index: int) -> None:
        await asyncio.sleep(0)
        self.watched.add((slot, index))

    async def stop_capture(self, slot: int) -> None:
        await asyncio.sleep(0)
        self.watched = {(watching, index) for watching, index in self.watched if watching != slot}
        del self.captures[slot]


class Served:
    """Handles on everything, from outside the loop's thread."""

    def __init__(self, folder: str):
        self.folder = folder
        self._numbers = itertools.count()
        self.path = f"{folder}/vswitch.sock"
        self.state_dir = f"{folder}/state"
        self.client = Client(self.path, timeout_s=TIMEOUT_S)
        self.namespaces = MemoryNamespaces()
        self.datapath = CapturedDatapath()
        self.listeners = MemoryListeners()
        self.routes = MemoryRoutes(MemoryHost())
        self.loop = asyncio.new_event_loop()
        self.switch: Switch
        self.server: ApiServer
        self._tokens = TokenServer(f"{self.path}.fd", os.getuid())

    def wait_for(self, work: Coroutine) -> Any:
        """The result of a coroutine that runs in the switch's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)

    async def start(self) -> None:
        os.makedirs(self.state_dir, exist_ok=True)
        self.captures = Captures(self.datapath)
        self.switch = Switch(
            Settings(),
            state_dir=self.state_dir,
            store=Store(":memory:"),
            datapath=self.datapath,
            helper=self.namespaces,
            taps=self.namespaces,
            watcher=MemoryWatcher(),
            host=MemoryHost(),
            addresses=MemoryAddresses("127.0.0.1", "192.0.2.7"),
            routes=self.routes,
            listeners=self.listeners,
            resolvers=MemoryResolvers(),
            clock=SystemClock(),
            observer=self.captures,
        )
        await self.switch.start()
        self._tokens.start(self.loop)
        context = Context(
            switch=self.switch,
            captures=self.captures,
            tokens=self._tokens,
            started="2026-01-02T03:04:05Z",
            state_dir=self.state_dir,
        )
        self._listener = listen(self.path)
        self.server = ApiServer(context, self._listener.socket)
        await self.server.start()

    async def stop(self) -> None:
        await self.server.close()
        self._tokens.close()
        await self.switch.close()
        await self.captures.close()
        self._listener.close()

    def place(self, origin: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a request says of a namespace that was just sent ahead.

        A file, which the twins take for one.
        """
        path = f"{self.folder}/namespace{next(self._numbers)}"
        namespace = os.open(path, os.O_RDONLY | os.O_CREAT)
        try:
            token = offer(f"{self.path}.fd", [namespace])
        finally:
            os.close(namespace)
        return {"origin": origin or {"path": path}, "token": token}

    def attach(self, **spec: Any) -> dict[str, Any]:
        """A container in a new namespace; `name` and whatever else a ContainerSpec has."""
        return self.client.post("/v1/containers", {"spec": spec, **self.place()})["container"]


@contextmanager
def serve(folder: str) -> Iterator[Served]:
    served = Served(folder)
    thread = threading.Thread(target=served.loop.run_forever, daemon=True)
    thread.start()
    served.wait_for(served.start())
    try:
        yield served
    finally:
        served.wait_for(served.stop())
        served.loop.call_soon_threadsafe(served.loop.stop)
        thread.join(TIMEOUT_S)
        served.loop.close()  # its descriptors would be missed by tests that run out of them
        thread.join(TIMEOUT_S)
        served.loop.close()
