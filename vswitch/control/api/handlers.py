# SPDX-License-Identifier: Apache-2.0
"""One handler per route: translation only, each names the method of the switch that does it.

A stream's handler returns its iterator after every check, so that a refusal can still have a status.
Descriptors that a client sent ahead belong to whoever claims them: here, until the switch has them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

from vswitch import __version__
from vswitch.control.api.messages import API, Call, CaptureView, VersionView
from vswitch.model import (
    Attached,
    AttachmentSpec,
    ContainerSpec,
    ContainerView,
    DropView,
    Event,
    FdbView,
    FlowView,
    Killed,
    LeaseView,
    NeighbourView,
    NetworkView,
    PortMapping,
    Pruned,
    PublishedView,
    Refused,
    StatsView,
)


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


async def update_network(call: Call) -> NetworkView:
    return await call.switch.update_network(call.names[0], call.body)


async def connect(call: Call) -> ContainerView:
    body = call.body
    words = {name: getattr(body, name) for name in AttachmentSpec.__struct_fields__}
    return await call.switch.connect(call.names[0], body.container, AttachmentSpec(**words))


async def disconnect(call: Call) -> ContainerView:
    return await call.switch.disconnect(call.names[0], call.body.container)


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


async def signal_container(call: Call) -> None:
    await call.switch.signal(call.names[0], call.body.signal)


async def start_container(call: Call) -> Attached:
    return await call.switch.start_container(call.names[0], call.body.origin, *_claim(call))


async def report_exit(call: Call) -> None:
    await call.switch.report_exit(call.names[0], call.body.exit_code)


async def read_logs(call: Call) -> AsyncIterator[bytes]:
    return call.switch.logs(call.names[0], follow=call.query.follow, tail=call.query.tail)


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


async def list_published(call: Call) -> list[PublishedView]:
    return call.switch.published(call.query.network, call.query.container)


async def publish_port(call: Call) -> list[PortMapping]:
    return await call.switch.publish(call.names[0], call.body.publish)


async def unpublish_port(call: Call) -> None:
    await call.switch.unpublish(call.names[0], call.query.publish)


async def list_flows(call: Call) -> list[FlowView]:
    return await call.switch.flows(call.query)


async def kill_flows(call: Call) -> Killed:
    body = call.body
    said = any(getattr(body, name) is not None for name in body.__struct_fields__ if name != "all")
    if not said and not body.all:
        raise Refused("no filter means every flow: say which, such as container or dport, or say all")
    return await call.switch.kill_flows(body)


async def follow_events(call: Call) -> AsyncIterator[Event]:
    return call.switch.events.subscribe(flows=call.query.flows)


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
    """The namespace that was sent ahead: netns, its user namespace, pidfd.

    Refused, and nothing is kept, if it is not as described.
    """
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
