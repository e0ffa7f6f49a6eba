# SPDX-License-Identifier: Apache-2.0
"""A container goes: asked to (stop, detach, remove), or of itself (its process or its namespace ends).

What is left of it:

    attached, namespace gone or detached      nothing
    run in the foreground, ended by itself    nothing
    run in the foreground, `vswitch stop`     `exited`: name and addresses stay reserved until `rm`
    run -d or started again, however it ended `exited`

Whoever asks gets a refusal if the store cannot take note, and then nothing has changed. A container that
ended of itself has ended whatever the store says: that is logged, and the next start finds it out again.

A process's end is noticed twice, by its pidfd and by its supervisor's report, which alone knows the exit
code; the report is given REPORT_PATIENCE_S to come, then the container has ended without one.
"""

from __future__ import annotations

import logging
import os
import signal

from msgspec.structs import replace

from vswitch.clock import happens_within
from vswitch.container.namespaces import pid_ended
from vswitch.control.edges import Parts
from vswitch.control.endpoints import release_endpoint
from vswitch.control.hostservices import HostServices
from vswitch.control.inventory import Container
from vswitch.control.jobs import Job, Jobs, quietly
from vswitch.control.logs import remove_logs
from vswitch.control.records import ContainerRecord, EndpointRecord, encode
from vswitch.control.resolving import Resolver
from vswitch.control.store import Change, Delete, Put
from vswitch.control.wiring import Wiring
from vswitch.model import NamespaceOrigin, Refused

log = logging.getLogger(__name__)

REPORT_PATIENCE_S = 2.0  # a supervisor reports within milliseconds, unless it was killed too
KILL_PATIENCE_S = 10.0  # after SIGKILL only a process stuck in the kernel is still there
STOP_TIMEOUT_LIMIT_S = 86400.0


class Ending:
    """The containers' goings."""

    def __init__(self, parts: Parts, wiring: Wiring, leasing: HostServices, resolving: Resolver, jobs: Jobs):
        self._parts = parts
        self._resolving = resolving
        self._wiring = wiring
        self._leasing = leasing
        self._jobs = jobs

    # ---- noticed

    def watch(self, container: Container) -> None:
        """Notice the container's end from now on: its process's, or its namespace's path's. Refused if there
        is neither.
        """
        origin = container.record.origin

        def gone() -> None:
            self._jobs.start(lambda job: self._namespace_gone(container, origin))

        if container.pidfd is not None:
            container.watches.append(self._parts.watcher.watch_pid(container.pidfd, gone))
        if origin.path is not None:
            container.watches.append(self._parts.watcher.watch_path(origin.path, origin.inode, gone))
        if not container.watches:
            raise Refused(
                f"the end of {container.name} could not be noticed: a path or a running process must be known"
            )

    def unwatch(self, container: Container) -> None:
        """Notice it no more, and let go of the process."""
        while container.watches:
            self._parts.watcher.forget(container.watches.pop())
        pidfd, container.pidfd = container.pidfd, None
        if pidfd is not None:
            os.close(pidfd)

    async def _namespace_gone(self, container: Container, origin: NamespaceOrigin) -> None:
        if container.made_by_us:
            await happens_within(self._parts.clock, REPORT_PATIENCE_S, container.settled)
        await self.ended(container, None, origin)

    async def reported(self, container: Container, exit_code: int) -> None:
        """Its supervisor says that it is over. Refused while its first process runs: that report is of an
        earlier run.
        """
        if container.pidfd is not None and not pid_ended(container.pidfd):
            raise Refused(f"container {container.name} still runs", 409)
        await self.ended(container, exit_code, container.record.origin)

    async def ended(self, container: Container, exit_code: int | None, origin: NamespaceOrigin) -> None:
        """It has ended of itself where it was in `origin`; `exit_code` where somebody knows it."""
        async with container.lock:
            if not self._there(container) or container.record.origin != origin:
                return  # gone already, or started again meanwhile
            if container.live:
                await self._end(container, exit_code)
            elif exit_code is not None and container.record.exit_code is None:
                await self._note(replace(container.record, exit_code=exit_code), container)

    async def found_gone(self, container: Container) -> None:
        """It ended while no switch was running."""
        async with container.lock:
            await self._end(container, None)

    async def _end(self, container: Container, exit_code: int | None) -> None:
        if container.made_by_us:
            self._publish(container, "exit", exit_code=exit_code)
        if container.made_by_us and (container.stopping or container.record.spec.detached):
            await self._retire(container, exit_code)
        else:
            await self._go(container, sweep=False)

    async def _retire(self, container: Container, exit_code: int | None) -> None:
        """Exited, but kept."""
        await self._take_down(container)
        exited = replace(container.record, state="exited", kept=True, exit_code=exit_code, remedy=None)
        await self._note(exited, container)
        container.settled.set()

    async def _note(self, record: ContainerRecord, container: Container) -> None:
        """What has happened anyway."""
        container.record = record
        await quietly(self._write(record), f"container {record.name}")

    async def orphan(self, container: Container, why: str) -> None:
        """An interface is beyond reach; the remedy is shown until the container is mended or goes."""
        record = container.record
        log.warning("container %s is orphaned: %s", record.name, why)
        await self._note(
            replace(record, state="orphaned", kept=True, remedy=f"{why}; {remedy(record)}"), container
        )
        self._publish(container, "orphan", reason=why)

    async def interface_gone(self, container: Container, endpoint_id: str) -> None:
        """The dataplane found a descriptor dead: the interface was deleted, or its namespace is ending."""
        async with container.lock:
            port = container.ports.get(endpoint_id)
            if port is None or not self._there(container):
                return
            await self._wiring.disconnect(port)
            if container.record.state == "running":
                await self.orphan(container, f"interface {port.endpoint.interface} was deleted")

    # ---- asked for

    async def stop(self, container: Container, timeout_s: float) -> None:
        """SIGTERM, after `timeout_s` SIGKILL; returns when it has ended and is kept as exited."""
        if not container.made_by_us:
            raise Refused(
                f"container {container.name} was attached, not run: use `vswitch detach {container.name}`",
                409,
            )
        if not 0 <= timeout_s <= STOP_TIMEOUT_LIMIT_S:
            raise Refused(f"timeout must be between 0 and {STOP_TIMEOUT_LIMIT_S:g} s")
        await self._end_process(container, timeout_s)

    async def signal(self, container: Container, number: int) -> None:
        """To its first process, and nothing else is done: whatever it does then is its own affair."""
        if not container.made_by_us:
            raise Refused(f"container {container.name} was attached, not run: its processes are not the switch's", 409)
        async with container.lock:
            if container.record.state not in ("running", "orphaned"):
                raise Refused(f"container {container.name} is not running ({container.record.state})", 409)
            self._signal(container, signal.Signals(number))

    async def _end_process(self, container: Container, timeout_s: float) -> None:
        """End it in whatever way it takes, so that it is kept; one that is just starting is waited for."""
        async with container.lock:
            if not container.live or not self._there(container):
                return
            container.stopping = True
        if timeout_s > 0:
            self._signal(container, signal.SIGTERM)
            if await happens_within(self._parts.clock, timeout_s, container.settled):
                return
        self._signal(container, signal.SIGKILL)
        if not await happens_within(self._parts.clock, KILL_PATIENCE_S, container.settled):
            raise Refused(
                f"container {container.name} does not end, not even by SIGKILL: see what pid"
                f" {container.record.origin.pid} waits for",
                500,
            )

    def _signal(self, container: Container, number: signal.Signals) -> None:
        """To its first process; one that is gone already has ended."""
        try:
            if container.pidfd is None:
                raise ProcessLookupError
            signal.pidfd_send_signal(container.pidfd, number)
        except ProcessLookupError:
            origin = container.record.origin
            self._jobs.start(lambda job: self.ended(container, None, origin))
        except PermissionError:
            raise Refused(
                f"no permission to end container {container.name}: it belongs to another user", 403
            ) from None

    async def detach(self, container: Container, job: Job) -> None:
        """Take an attached container's interfaces away and forget it."""
        if container.made_by_us:
            raise Refused(
                f"container {container.name} was run, not attached: use `vswitch stop {container.name}`",
                409,
            )
        await self._forget(container, job)

    async def remove(self, container: Container, force: bool, job: Job) -> None:
        """Forget a container; a running one only by force, which ends it."""
        state, name = container.record.state, container.name
        if container.live and not force and not (state == "orphaned" and not container.made_by_us):
            how = "stop" if container.made_by_us else "detach"
            raise Refused(
                f"container {name} is {state}: `vswitch {how} {name}` first, or remove it with --force", 409
            )
        if container.made_by_us:
            await self._end_process(container, 0)
        await self._forget(container, job)

    async def _forget(self, container: Container, job: Job) -> None:
        """Refused if the store cannot take note, and then it is as it was."""
        async with container.lock:
            if not self._there(container):
                return
            job.go_on()
            before = container.record
            removing = replace(before, state="removing")
            await self._write(removing)
            container.record = removing
            await self._go(container, sweep=before.state == "orphaned")

    # ---- the steps

    async def finish_removal(self, container: Container) -> None:
        """What a former switch began: take away what is left and forget it."""
        async with container.lock:
            await self._go(container, sweep=True)

    async def _go(self, container: Container, *, sweep: bool) -> None:
        """Forget it, whatever fails; `sweep` looks for interfaces that we hold no descriptor of."""
        if sweep:
            await self.sweep(container)
        await self._take_down(container)
        changes: list[Change] = [Delete("containers", container.record.id)]
        for endpoint in container.record.endpoints:
            network = self._parts.inventory.networks.get(endpoint.network)
            if network is not None:
                changes += self._leasing.forget_endpoint(endpoint, network)
                release_endpoint(endpoint, network)
        self._parts.inventory.drop_container(container)
        await quietly(
            self._parts.store.write(changes), f"container {container.name} is forgotten at the next start"
        )
        remove_logs(self._parts.state_dir, container.record.id)
        container.settled.set()
        self._publish(container, "remove")

    async def sweep(self, container: Container) -> None:
        """Delete the interfaces that we hold no descriptor of, if their namespace is still there."""
        for endpoint in container.record.endpoints:
            if endpoint.id not in container.ports:
                await self.sweep_one(container, endpoint)

    async def sweep_one(self, container: Container, endpoint: EndpointRecord) -> None:
        """Delete one interface; if its name never became known, by its MAC."""
        remove = self._parts.helper.remove(endpoint.interface, origin=container.record.origin, mac=endpoint.mac)
        await quietly(remove, f"container {container.name}: interface {endpoint.interface} may stay behind")

    async def _take_down(self, container: Container) -> None:
        self.unwatch(container)
        self._resolving.silence(container)
        for port in list(container.ports.values()):
            await self._wiring.disconnect(port)

    async def _write(self, record: ContainerRecord) -> None:
        await self._parts.store.write([Put("containers", record.id, encode(record))])

    def _there(self, container: Container) -> bool:
        return self._parts.inventory.containers.get(container.record.id) is container

    def _publish(self, container: Container, action: str, **attributes: object) -> None:
        self._parts.events.publish("container", action, container.record.id, container.name, **attributes)


def remedy(record: ContainerRecord) -> str:
    """The command that mends an orphaned container."""
    if record.spec.command is not None:
        return f"run `vswitch stop {record.name}`, then `vswitch start {record.name}`"
    where = f"--netns {record.origin.path}" if record.origin.path else f"--pid {record.origin.pid}"
    return f"run `vswitch attach {where} --name {record.name}`"
