# SPDX-License-Identifier: Apache-2.0
"""A running container's interfaces become what is decided, while it runs.

    what is decided   interface_plans(endpoints, networks)      pure
    what there is     the plan that each of its ports was made or configured by
    what to do        difference.interface_actions              pure
    doing it          the attach helper re-enters the namespace; wiring.py makes and ends ports

Published ports go with the default route (publishing.py), before the interface that had it goes. The caller holds the
container's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from msgspec.structs import replace

from vswitch.control.difference import AddInterface, ConfigureInterface, RemoveInterface, interface_actions
from vswitch.control.edges import Parts
from vswitch.control.endpoints import interface_plans
from vswitch.control.inventory import Container, Port
from vswitch.control.jobs import Job, quietly
from vswitch.control.publishing import Publishing
from vswitch.control.records import EndpointRecord
from vswitch.control.wiring import Wiring
from vswitch.ports.interface import InterfacePlan


class Settling:
    """What carries out the difference."""

    def __init__(self, parts: Parts, wiring: Wiring, publishing: Publishing):
        self._parts = parts
        self._wiring = wiring
        self._publishing = publishing

    async def settle(
        self, container: Container, endpoints: Sequence[EndpointRecord], job: Job, undo: AsyncExitStack
    ) -> list[Port]:
        """Let the container be on `endpoints`, and nowhere else; the ports that are new.

        `undo` takes back what can be: all but interfaces that went, which go last. Refused.
        """
        plans = interface_plans(endpoints, self._parts.inventory.networks)
        current = {identity: port.plan for identity, port in container.ports.items()}
        added = []
        actions = interface_actions(plans, current)
        before = list(container.record.endpoints)
        for action in actions:
            job.go_on()
            if isinstance(action, AddInterface):
                added.append(await self._add(container, _endpoint(endpoints, action.endpoint), action.plan, undo))
            elif isinstance(action, ConfigureInterface):
                await self._configure(container, container.ports[action.endpoint], action.plan, undo)
        undo.push_async_callback(self._publishing.follow, container, before, whatever_fails=True)
        await self._publishing.follow(container, endpoints)
        job.go_on()
        for action in actions:
            if isinstance(action, RemoveInterface):
                await self._wiring.disconnect(container.ports[action.endpoint])
        return added

    async def _add(
        self, container: Container, endpoint: EndpointRecord, plan: InterfacePlan, undo: AsyncExitStack
    ) -> Port:
        tap = await self._parts.helper.attach_at(container.record.origin, plan)
        endpoint.interface = tap.name
        return await self._wiring.connect(container, endpoint, tap, replace(plan, name=tap.name), undo)

    async def _configure(self, container: Container, port: Port, plan: InterfacePlan, undo: AsyncExitStack) -> None:
        former = port.plan
        if former is not None:
            undo.push_async_callback(self._back, container, port, former)
        port.plan = None  # until it is done, nobody knows
        await self._parts.helper.configure(container.record.origin, plan)
        port.plan = plan

    async def _back(self, container: Container, port: Port, former: InterfacePlan) -> None:
        what = f"container {container.name}: interface {port.endpoint.interface}"
        await quietly(self._parts.helper.configure(container.record.origin, former), what)
        port.plan = former


def _endpoint(endpoints: Sequence[EndpointRecord], identity: str) -> EndpointRecord:
    return next(endpoint for endpoint in endpoints if endpoint.id == identity)
