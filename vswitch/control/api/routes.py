# SPDX-License-Identifier: Apache-2.0
"""Everything that can be asked of a switch, as one table: the server dispatches by it, the OpenAPI document is made from it.

A handler is translation only: it names the method of the switch that does it. Whoever adds a route adds a row. A stream's
handler returns its iterator after every check, so that a refusal can still have a status.
"""
from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cached_property
from typing import Any, get_origin, get_type_hints

from msgspec import Struct

from vswitch import __version__
from vswitch.control.model import (
    Attached,
    ContainerSpec,
    ContainerView,
    DropView,
    Event,
    FdbView,
    LeaseView,
    NamespaceOrigin,
    NeighbourView,
    NetworkSpec,
    NetworkView,
    Pruned,
    Refused,
    Spec,
    StatsView,
)

API = 1
STOP_TIMEOUT_S = 10.0
JSON = "application/json"
JSON_LINES = "application/x-ndjson"
TEXT = "text/plain"


class Context(Struct):
    """What handlers act on: the switch, its captures, the descriptors that clients sent ahead, and what /version says."""

    switch: Any
    captures: Any
    tokens: Any
    started: str
    state_dir: str


class Call(Struct):
    """One decoded request: `names` are the path's variables in order."""

    context: Context
    names: tuple[str, ...]
    query: Any
    body: Any

    @property
    def switch(self) -> Any:
        return self.context.switch


class VersionView(Struct):
    version: str
    api: int
    pid: int
    uid: int
    started: str
    state_dir: str


class Nothing(Spec):
    """A query or body that holds nothing."""


class ContainerList(Spec):
    all: bool = False


class TableFilter(Spec):
    """Rows of one network, of one container, or of both."""

    network: str | None = None
    container: str | None = None


class Removal(Spec):
    force: bool = False


class LogQuery(Spec):
    follow: bool = False


class Namespace(Spec, kw_only=True):
    """A network namespace that the client opened with its own rights and sent under `token` on SOCKET.fd: the descriptors are
    its netns, then its user namespace if `has_userns`, then a pidfd if `has_pidfd`."""

    origin: NamespaceOrigin
    token: str
    has_userns: bool = False
    has_pidfd: bool = False


class NewContainer(Namespace, kw_only=True):
    spec: ContainerSpec


class Stop(Spec):
    """`timeout`: seconds between SIGTERM and SIGKILL."""

    timeout: float = STOP_TIMEOUT_S


class Exit(Spec):
    exit_code: int


class CaptureSpec(Spec):
    """What to write as pcapng into the descriptor sent under `token`; empty lists mean everything; `snaplen` in bytes."""

    token: str
    networks: list[str] = []
    containers: list[str] = []
    snaplen: int = 262144


class CaptureView(Struct):
    """How far a capture is: records written, and records lost since the reader or disk was too slow; `trouble` with the output."""

    id: str
    written: int
    written_bytes: int
    dropped: int
    trouble: str | None


Handler = Callable[[Call], Awaitable[Any]]


class Route(Struct, dict=True, kw_only=True):
    """One method of one path: `{…}` in the path is a variable. `answer` None is 204; `media` other than JSON is a stream."""

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


async def version(call: Call) -> VersionView:
    context = call.context
    return VersionView(__version__, API, os.getpid(), os.geteuid(), context.started, context.state_dir)


async def openapi(call: Call) -> dict[str, Any]:
    from vswitch.control.api.openapi import document

    return document()


async def list_networks(call: Call) -> list[NetworkView]:
    return call.switch.networks()


async def create_network(call: Call) -> NetworkView:
    return await call.switch.create_network(call.body)


async def show_network(call: Call) -> NetworkView:
    return call.switch.network(call.names[0])


async def remove_network(call: Call) -> None:
    await call.switch.remove_network(call.names[0])


async def prune_networks(call: Call) -> Pruned:
    return await call.switch.prune_networks()


async def list_containers(call: Call) -> list[ContainerView]:
    return call.switch.containers(everything=call.query.all)


async def create_container(call: Call) -> Attached:
    return await call.switch.attach(call.body.spec, call.body.origin, *_claim(call))


async def show_container(call: Call) -> ContainerView:
    return call.switch.container(call.names[0])


async def show_spec(call: Call) -> ContainerSpec:
    return call.switch.container_spec(call.names[0])


async def remove_container(call: Call) -> None:
    await call.switch.remove(call.names[0], force=call.query.force)


async def detach_container(call: Call) -> None:
    await call.switch.detach(call.names[0])


async def stop_container(call: Call) -> None:
    await call.switch.stop(call.names[0], call.body.timeout)


async def start_container(call: Call) -> Attached:
    return await call.switch.start_container(call.names[0], call.body.origin, *_claim(call))


async def report_exit(call: Call) -> None:
    await call.switch.report_exit(call.names[0], call.body.exit_code)


async def read_logs(call: Call) -> AsyncIterator[bytes]:
    return call.switch.logs(call.names[0], follow=call.query.follow)


async def list_fdb(call: Call) -> list[FdbView]:
    return await call.switch.fdb(call.query.network, call.query.container)


async def list_neighbours(call: Call) -> list[NeighbourView]:
    return await call.switch.neighbours(call.query.network, call.query.container)


async def list_leases(call: Call) -> list[LeaseView]:
    return call.switch.leases(call.query.network, call.query.container)


async def show_stats(call: Call) -> StatsView:
    return call.switch.stats(call.query.network, call.query.container)


async def list_drops(call: Call) -> list[DropView]:
    return call.switch.drops(call.query.network, call.query.container)


async def follow_events(call: Call) -> AsyncIterator[Event]:
    return call.switch.events.subscribe()


async def start_capture(call: Call) -> AsyncIterator[CaptureView]:
    body, switch = call.body, call.switch
    networks = frozenset(switch.network(reference).id for reference in body.networks)
    containers = frozenset(switch.container(reference).id for reference in body.containers)
    fd = _claim_one(call)
    return await call.context.captures.start_stream(fd, networks, containers, body.snaplen)


async def stop_capture(call: Call) -> CaptureView:
    return await call.context.captures.stop(call.names[0])


def _claim_one(call: Call) -> int:
    """The only descriptor that was sent ahead. Refused, and nothing is kept, if there are more."""
    fds = call.context.tokens.claim(call.body.token)
    if len(fds) != 1:
        for fd in fds:
            os.close(fd)
        raise Refused(f"{len(fds)} descriptors came under the token; a capture is written into one")
    return fds[0]


def _claim(call: Call) -> tuple[int, int | None, int | None]:
    """The namespace that was sent ahead: netns, its user namespace, pidfd. Refused, and nothing is kept, if it is not as described."""
    body = call.body
    fds = call.context.tokens.claim(body.token)
    try:
        expected = 1 + body.has_userns + body.has_pidfd
        if len(fds) != expected:
            raise Refused(f"{len(fds)} descriptors came under the token; the request describes {expected}")
        if body.has_pidfd:
            _check_pidfd(fds[-1])
    except Refused:
        for fd in fds:
            os.close(fd)
        raise
    return fds[0], fds[1] if body.has_userns else None, fds[-1] if body.has_pidfd else None


def _check_pidfd(fd: int) -> None:
    """Refused unless the kernel takes it for a process, ended or not, ours or not."""
    try:
        signal.pidfd_send_signal(fd, 0)  # type: ignore[arg-type]
    except (ProcessLookupError, PermissionError):
        pass
    except OSError:
        raise Refused("the last descriptor under the token is no pidfd") from None


CONTAINER = "/v1/containers/{container}"
ROUTES = (
    Route(method="GET", path="/v1/version", handler=version, answer=VersionView, summary="Who answers here."),
    Route(method="GET", path="/v1/openapi.json", handler=openapi, answer=dict[str, Any], summary="This document."),
    Route(method="GET", path="/v1/networks", handler=list_networks, answer=list[NetworkView], summary="All networks."),
    Route(method="POST", path="/v1/networks", handler=create_network, body=NetworkSpec, answer=NetworkView, status=201,
          summary="Create a network."),
    Route(method="POST", path="/v1/networks/prune", handler=prune_networks, answer=Pruned,
          summary="Remove every network that no container is on, but for the default one."),
    Route(method="GET", path="/v1/networks/{network}", handler=show_network, answer=NetworkView, summary="One network."),
    Route(method="DELETE", path="/v1/networks/{network}", handler=remove_network,
          summary="Remove a network; refused while a container is on it."),
    Route(method="GET", path="/v1/containers", handler=list_containers, query=ContainerList, answer=list[ContainerView],
          summary="Containers; stopped ones too if `all`."),
    Route(method="POST", path="/v1/containers", handler=create_container, body=NewContainer, answer=Attached, status=201,
          summary="Attach a namespace as a new container."),
    Route(method="GET", path=CONTAINER, handler=show_container, answer=ContainerView, summary="One container."),
    Route(method="DELETE", path=CONTAINER, handler=remove_container, query=Removal,
          summary="Remove a container; a running one only if `force`."),
    Route(method="GET", path=f"{CONTAINER}/spec", handler=show_spec, answer=ContainerSpec,
          summary="What is needed to start it again."),
    Route(method="POST", path=f"{CONTAINER}/detach", handler=detach_container, summary="Take an attached namespace's interfaces out."),
    Route(method="POST", path=f"{CONTAINER}/stop", handler=stop_container, body=Stop, summary="Stop a container that was run."),
    Route(method="POST", path=f"{CONTAINER}/start", handler=start_container, body=Namespace, answer=Attached,
          summary="Attach the new namespaces of a stopped container."),
    Route(method="POST", path=f"{CONTAINER}/exit", handler=report_exit, body=Exit,
          summary="Its supervisor reports how its program ended."),
    Route(method="GET", path=f"{CONTAINER}/logs", handler=read_logs, query=LogQuery, media=TEXT,
          summary="What a detached container wrote; goes on while it runs if `follow`."),
    Route(method="GET", path="/v1/fdb", handler=list_fdb, query=TableFilter, answer=list[FdbView], summary="Which MAC is behind which port."),
    Route(method="GET", path="/v1/neighbours", handler=list_neighbours, query=TableFilter, answer=list[NeighbourView],
          summary="Which address belongs to which MAC."),
    Route(method="GET", path="/v1/leases", handler=list_leases, query=TableFilter, answer=list[LeaseView], summary="DHCP leases."),
    Route(method="GET", path="/v1/stats", handler=show_stats, query=TableFilter, answer=StatsView, summary="Counters, tables, memory."),
    Route(method="GET", path="/v1/drops", handler=list_drops, query=TableFilter, answer=list[DropView],
          summary="Frames that died, by port and reason."),
    Route(method="POST", path="/v1/captures", handler=start_capture, body=CaptureSpec, answer=CaptureView, media=JSON_LINES,
          summary="Capture into a descriptor; tells every second how far it is, until it is stopped or the client goes."),
    Route(method="DELETE", path="/v1/captures/{capture}", handler=stop_capture, answer=CaptureView,
          summary="End a capture: what is on its way is written first."),
    Route(method="GET", path="/v1/events", handler=follow_events, answer=Event, media=JSON_LINES, summary="What happens, as it happens."),
)


def find(method: str, segments: list[str]) -> tuple[Route | None, tuple[str, ...]]:
    """The route of a request and its path's variables; a literal segment goes before a variable."""
    best: tuple[Route | None, tuple[str, ...]] = (None, ())
    for route in ROUTES:
        if route.method == method and (names := _match(route.segments, segments)) is not None:
            if best[0] is None or len(names) < len(best[1]):
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
