# SPDX-License-Identifier: Apache-2.0
"""The switch's life from the first turn of the event loop to the last: what is put together, in which order,
and how it ends.

    socket    ours alone (lock), and the state folder too: a second switch is refused before it touches the store
    dataplane its thread runs
    captures  of a packet log, before there is a port
    switch    store, networks, containers that were there before
    clients   descriptors first (SOCKET.fd), then requests; those who connected meanwhile, to either, were queued
    READY

It ends backwards, by SIGTERM or SIGINT; containers keep their interfaces either way. SIGHUP reads the
settings again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from vswitch.clock import SystemClock, rfc3339
from vswitch.config import ConfigError, Settings
from vswitch.container.isolate import check_tun
from vswitch.container.watch import NamespaceWatcher
from vswitch.control.api.listen import Listener, listen
from vswitch.control.api.messages import Context
from vswitch.control.api.places import config_path
from vswitch.control.api.server import ApiServer
from vswitch.control.store import Store
from vswitch.control.switch import Switch
from vswitch.daemon import logs, watchdog
from vswitch.daemon.captures import Captures
from vswitch.daemon.kept import KeptTaps, returned_taps
from vswitch.daemon.notify import Inherited, Notifier
from vswitch.daemon.statelock import lock_state
from vswitch.datapath.plane import Datapath
from vswitch.model import Refused
from vswitch.ports.handover import TokenServer
from vswitch.ports.tap import disabled

if TYPE_CHECKING:
    from vswitch.daemon.main import Options
    from vswitch.ports.enter import AttachHelper

log = logging.getLogger(__name__)
STORE_NAME = "vswitch.db"


class Daemon:
    """Everything that runs, on one event loop."""

    def __init__(
        self,
        options: Options,
        settings: Settings,
        helper: AttachHelper,
        notifier: Notifier,
        watchdog_interval_s: float | None,
        inherited: list[Inherited],
    ):
        self._options = options
        self._settings = settings
        self._helper = helper
        self._notifier = notifier
        self._watchdog_interval_s = watchdog_interval_s
        self._inherited = inherited
        self._switch: Switch

    async def run(self) -> None:
        """Until a signal ends it. Refused, StoreError where it cannot begin."""
        asked_to_end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked_to_end.set)
        async with AsyncExitStack() as ending:
            datapath = await self._bring_up(ending)
            loop.add_signal_handler(signal.SIGHUP, self._reload)
            self._in_background(self._tell_status(), ending)
            if self._watchdog_interval_s is not None:
                self._in_background(
                    watchdog.feed(datapath.poke, self._notifier.watchdog, self._watchdog_interval_s), ending
                )
            _warn_without_tun()
            self._notifier.ready(self._status())
            log.info("ready at %s: %s", self._options.socket, self._status())
            await asked_to_end.wait()
            log.info("ending: containers keep their interfaces")
            self._notifier.stopping()

    async def _bring_up(self, ending: AsyncExitStack) -> Datapath:
        """Everything in its order; `ending` takes it down backwards, also where one step fails."""
        options, settings = self._options, self._settings
        listener = listen(options.socket, settings.switch.socket_group)
        ending.callback(listener.close)
        tokens = TokenServer(f"{options.socket}.fd", os.geteuid())
        tokens.listen()
        ending.callback(tokens.close)
        _make_state_dir(options.state_dir)
        lock = await lock_state(options.state_dir)
        ending.callback(lock.close)
        datapath = Datapath(
            nat_timeouts=settings.nat.timeouts(),
            max_flows=settings.nat.max_flows,
            busy_poll_us=settings.switch.busy_poll_us,
            disabled=disabled(),
        )
        datapath.start()
        ending.push_async_callback(datapath.stop)
        captures = Captures(datapath)
        ending.push_async_callback(captures.close)
        if settings.switch.log_packets is not None:
            await captures.log_to(settings.switch.log_packets)
        self._switch = Switch(
            settings,
            state_dir=options.state_dir,
            config_path=options.config or config_path(),
            store=Store(os.path.join(options.state_dir, STORE_NAME)),
            datapath=datapath,
            helper=self._helper,
            watcher=NamespaceWatcher(),
            keeper=KeptTaps(self._notifier),
            observer=captures,
        )
        ending.push_async_callback(self._switch.close)
        await self._switch.start(returned_taps(self._inherited, self._notifier))
        await self._open_to_clients(listener, tokens, captures, ending)
        ending.callback(lock.ending)
        return datapath

    async def _open_to_clients(
        self, listener: Listener, tokens: TokenServer, captures: Captures, ending: AsyncExitStack
    ) -> None:
        tokens.start(asyncio.get_running_loop())
        ending.callback(tokens.close)  # again, and first: nobody leaves descriptors with a switch that ends
        started = rfc3339(SystemClock().wall_s())
        context = Context(
            switch=self._switch,
            captures=captures,
            tokens=tokens,
            started=started,
            state_dir=self._options.state_dir,
        )
        server = ApiServer(context, listener.socket)
        await server.start()
        ending.push_async_callback(server.close)

    def _in_background(self, work: Coroutine[Any, Any, None], ending: AsyncExitStack) -> None:
        """Run `work` until the end."""
        task = asyncio.create_task(work)

        async def end() -> None:
            task.cancel()
            await asyncio.wait([task])

        ending.push_async_callback(end)

    def _reload(self) -> None:
        """Read the settings again; if they can't be used, or apply only to a new process, the log says so."""
        self._notifier.reloading()
        try:
            settings = self._options.settings()
        except ConfigError as problem:
            log.error("settings stay as they were: %s", problem)
        else:
            logs.set_up(settings.switch.log_level, settings.switch.log_format)
            for change in self._switch.reload(settings):
                when = "" if change.live else ", with the next start"
                log.info("setting %s is now %s%s", change.place, change.after, when)
        self._notifier.ready(self._status())

    async def _tell_status(self) -> None:
        """Keep what `systemctl status` shows up to date."""
        if not self._notifier.managed:
            return
        async for event in self._switch.events.subscribe():
            if event.type == "container":
                self._notifier.status(self._status())

    def _status(self) -> str:
        ports = len(self._switch.ports())
        return f"{ports} interface{'' if ports == 1 else 's'} attached"


def _warn_without_tun() -> None:
    """Say now what every `vswitch run` would say; the device may come while the switch runs."""
    try:
        check_tun()
    except Refused as refusal:
        log.warning("no container can be attached as things are: %s", refusal)


def _make_state_dir(path: str) -> None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as problem:
        raise Refused(
            f"cannot make {path}: {problem.strerror}: choose a place you may write to with --state-dir"
        ) from None
