# SPDX-License-Identifier: Apache-2.0
"""Everything that can be asked of a switch, as one table.

The server dispatches by it, the OpenAPI document is made of it. Whoever adds a route adds a row here and a
handler in handlers.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any, get_origin, get_type_hints

from msgspec import Struct

from vswitch.control.api import handlers as on
from vswitch.control.api.messages import (
    Call,
    CaptureSpec,
    CaptureView,
    Connection,
    ContainerList,
    Disconnection,
    EventQuery,
    Exit,
    FlowKill,
    LogQuery,
    Namespace,
    NewContainer,
    NewPort,
    Nothing,
    PortRemoval,
    Removal,
    SignalSpec,
    Stop,
    TableFilter,
    VersionView,
)
from vswitch.model import (
    Attached,
    ContainerSpec,
    ContainerView,
    DropView,
    Event,
    FdbView,
    FlowFilter,
    FlowView,
    Killed,
    LeaseView,
    NeighbourView,
    NetworkSpec,
    NetworkUpdate,
    NetworkView,
    PortMapping,
    Pruned,
    PublishedView,
    Refused,
    StatsView,
)

JSON = "application/json"
JSON_LINES = "application/x-ndjson"
TEXT = "text/plain"

Handler = Callable[[Call], Awaitable[Any]]


class Route(Struct, dict=True):
    """One method of one path: `{…}` in the path is a variable. `answer` None is 204.

    `media` other than JSON is a stream.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: Any = None
    query: type = Nothing
    body: type | None = None
    status: int = 200
    media: str = JSON

    @property
    def stream(self) -> bool:
        return self.media != JSON

    @property
    def expected_status(self) -> int:
        """What a granted request answers with."""
        return 204 if self.answer is None and not self.stream else self.status

    @property
    def body_optional(self) -> bool:
        return self.body is Stop

    @cached_property
    def segments(self) -> list[str]:
        return self.path.split("/")

    @cached_property
    def query_lists(self) -> frozenset[str]:
        """Fields of the query that may be given several times."""
        hints = get_type_hints(self.query)
        return frozenset(name for name, hint in hints.items() if get_origin(hint) is list)


CONTAINER = "/v1/containers/{container}"
# fmt: off
ROUTES = (
    Route("GET", "/v1/version", on.version, "Who answers here.", VersionView),
    Route("GET", "/v1/openapi.json", on.openapi, "This document.", dict[str, Any]),
    Route("GET", "/v1/networks", on.list_networks, "All networks.", list[NetworkView]),
    Route("POST", "/v1/networks", on.create_network, "Create a network.", NetworkView, body=NetworkSpec,
          status=201),
    Route("POST", "/v1/networks/prune", on.prune_networks,
          "Remove every network that no container is on, but for the default one.", Pruned),
    Route("GET", "/v1/networks/{network}", on.show_network, "One network.", NetworkView),
    Route("PATCH", "/v1/networks/{network}", on.update_network,
          "Change a network, containers running or not; what is left out stays.", NetworkView, body=NetworkUpdate),
    Route("POST", "/v1/networks/{network}/connect", on.connect, "A container that is there joins the network too.",
          ContainerView, body=Connection),
    Route("POST", "/v1/networks/{network}/disconnect", on.disconnect, "A container leaves the network.",
          ContainerView, body=Disconnection),
    Route("DELETE", "/v1/networks/{network}", on.remove_network,
          "Remove a network; refused while a container is on it."),
    Route("GET", "/v1/containers", on.list_containers, "Containers; stopped ones too if `all`.",
          list[ContainerView], query=ContainerList),
    Route("POST", "/v1/containers", on.create_container, "Attach a namespace as a new container.", Attached,
          body=NewContainer, status=201),
    Route("GET", CONTAINER, on.show_container, "One container.", ContainerView),
    Route("DELETE", CONTAINER, on.remove_container, "Remove a container; a running one only if `force`.",
          query=Removal),
    Route("GET", f"{CONTAINER}/spec", on.show_spec, "What is needed to start it again.", ContainerSpec),
    Route("POST", f"{CONTAINER}/detach", on.detach_container, "Take an attached namespace's interfaces out."),
    Route("POST", f"{CONTAINER}/stop", on.stop_container, "Stop a container that was run.", body=Stop),
    Route("POST", f"{CONTAINER}/signal", on.signal_container, "Send a container's first process a signal.",
          body=SignalSpec),
    Route("POST", f"{CONTAINER}/start", on.start_container,
          "Attach the new namespaces of a stopped container.", Attached, body=Namespace),
    Route("POST", f"{CONTAINER}/exit", on.report_exit, "Its supervisor reports how its program ended.",
          body=Exit),
    Route("GET", f"{CONTAINER}/logs", on.read_logs,
          "What a detached container wrote; goes on while it runs if `follow`.", query=LogQuery, media=TEXT),
    Route("POST", f"{CONTAINER}/ports", on.publish_port, "Publish more of a running container's ports.",
          list[PortMapping], body=NewPort, status=201),
    Route("DELETE", f"{CONTAINER}/ports", on.unpublish_port, "Publish it no more.", query=PortRemoval),
    Route("GET", "/v1/ports", on.list_published, "Published ports.", list[PublishedView], query=TableFilter),
    Route("GET", "/v1/flows", on.list_flows, "Connections through the gateways.", list[FlowView],
          query=FlowFilter),
    Route("POST", "/v1/flows/kill", on.kill_flows, "End the flows that fit a filter.", Killed, body=FlowKill),
    Route("GET", "/v1/fdb", on.list_fdb, "Which MAC is behind which port.", list[FdbView],
          query=TableFilter),
    Route("GET", "/v1/neighbours", on.list_neighbours, "Which address belongs to which MAC.",
          list[NeighbourView], query=TableFilter),
    Route("GET", "/v1/leases", on.list_leases, "DHCP leases.", list[LeaseView], query=TableFilter),
    Route("GET", "/v1/stats", on.show_stats, "Counters, tables, memory.", StatsView, query=TableFilter),
    Route("GET", "/v1/drops", on.list_drops, "Frames that died, by port and reason.", list[DropView],
          query=TableFilter),
    Route("POST", "/v1/captures", on.start_capture,
          "Capture into a descriptor; tells how far it is until stopped or the client goes.", CaptureView,
          body=CaptureSpec, media=JSON_LINES),
    Route("DELETE", "/v1/captures/{capture}", on.stop_capture,
          "End a capture: what is on its way is written first.", CaptureView),
    Route("GET", "/v1/events", on.follow_events, "What happens, as it happens.", Event, query=EventQuery,
          media=JSON_LINES),
)
# fmt: on


def find(method: str, segments: list[str]) -> tuple[Route | None, tuple[str, ...]]:
    """The route of a request and its path's variables; a literal segment goes before a variable."""
    best: tuple[Route | None, tuple[str, ...]] = (None, ())
    for route in ROUTES:
        names = _match(route.segments, segments) if route.method == method else None
        if names is not None and (best[0] is None or len(names) < len(best[1])):
            best = route, names
    return best


def _match(pattern: list[str], segments: list[str]) -> tuple[str, ...] | None:
    if len(pattern) != len(segments):
        return None
    names = []
    for expected, given in zip(pattern, segments, strict=True):
        if expected.startswith("{") and given:
            names.append(given)
        elif expected != given:
            return None
    return tuple(names)


def refuse_unknown(method: str, segments: list[str]) -> Refused:
    """Why no route was found: a method that the path does not have (405), or no such path (404)."""
    allowed = sorted({route.method for route in ROUTES if _match(route.segments, segments) is not None})
    if allowed:
        return Refused(f"{method} is not possible here: use {' or '.join(allowed)}", 405)
    return Refused("no such path: GET /v1/openapi.json lists all", 404)
