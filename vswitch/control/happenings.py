# SPDX-License-Identifier: Apache-2.0
"""What the dataplane tells of itself: an interface has gone, a flow has come or gone, pings are not allowed.

Flows are only told of while somebody asked for them (events.py): a busy switch has thousands in a second.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from vswitch.control.edges import Parts
from vswitch.control.ending import Ending
from vswitch.control.flows import flow_view
from vswitch.control.jobs import Job, Jobs

log = logging.getLogger(__name__)

PING_REMEDY = "allow it with `sysctl net.ipv4.ping_group_range='0 2147483647'`"
FLOW_EVENTS = {"flow_opened": "opened", "flow_closed": "closed"}
FLOW_ATTRIBUTES = ("network", "protocol", "direction", "inside", "inside_port", "outside", "outside_port", "target")
FLOW_COUNTERS = ("out_packets", "out_bytes", "in_packets", "in_bytes", "age")


class Happenings:
    """Turns the dataplane's events into what follows from them."""

    def __init__(self, parts: Parts, ending: Ending, jobs: Jobs):
        self._parts = parts
        self._ending = ending
        self._jobs = jobs
        self._no_ping_said = False
        self._flows_wanted = False
        self._flows_told = asyncio.Lock()  # so that an older wish never follows a newer one
        parts.events.flows_wanted = self._want_flows

    def on_event(self, event: Any) -> None:
        """Something happened in the dataplane of itself."""
        if event.kind in FLOW_EVENTS:
            self._flow(FLOW_EVENTS[event.kind], event.flow)
        elif event.kind == "no_ping":
            self._no_ping()
        else:
            self._port(event)

    def _port(self, event: Any) -> None:
        port = self._parts.inventory.ports.get(event.port)
        if port is None or port.network.index != event.network:
            return
        container, endpoint = port.container, port.endpoint
        reason = os.strerror(event.errno) if event.errno else None
        self._parts.events.publish(
            "port",
            event.kind,
            endpoint.id,
            f"{container.name}/{endpoint.interface}",
            network=port.network.name,
            reason=reason,
        )
        if event.kind == "port_gone":
            log.info("port %s/%s is gone: %s", container.name, endpoint.interface, reason)
            self._jobs.start(lambda job: self._ending.interface_gone(container, endpoint.id))

    def _flow(self, action: str, row: Any) -> None:
        network = self._parts.inventory.networks_by_index().get(row.network)
        if network is None:
            return
        view = flow_view(row, network, self._parts.inventory)
        attributes = {name: value for name in FLOW_ATTRIBUTES if (value := getattr(view, name)) is not None}
        if action == "closed":
            attributes.update({name: getattr(view, name) for name in FLOW_COUNTERS})
            attributes["last_state"] = view.state  # what it was in until it closed
        self._parts.events.publish("flow", action, view.id, view.container, **attributes)

    def _no_ping(self) -> None:
        """Said once: whoever pings without the right to will do so every second."""
        if not self._no_ping_said:
            self._no_ping_said = True
            log.warning(
                "containers cannot ping outwards: this machine lets no group of ours open ping sockets; %s",
                PING_REMEDY,
            )

    def _want_flows(self, wanted: bool) -> None:
        self._flows_wanted = wanted
        self._jobs.start(self._tell_flows_wanted)

    async def _tell_flows_wanted(self, job: Job) -> None:
        async with self._flows_told:
            await self._parts.datapath.watch_flows(self._flows_wanted)
