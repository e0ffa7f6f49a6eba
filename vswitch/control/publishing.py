# SPDX-License-Identifier: Apache-2.0
"""Published ports: sockets of the host that stand for ports of a container.

    PUBLISH text ──nat.publish──→ asked ──sockets opened──→ decided: host address and first host port ──→ the record

They hang on the switch port of the endpoint that holds the default route, and go with it (wiring.py closes them before
the port). A range is one group of sockets per protocol. All of a container's are opened or none; a group that cannot be
had is closed whole by whoever opens it.

Where the host port was left to us, the one that was found is kept in the record and tried first the next time, at a
`start` as after a restart of the switch; if somebody else has it by then, another is chosen. After a restart, a port
that was asked for by number and is taken by now cannot refuse anything any more, the container runs: it stays in the
record, the log and `vswitch ps` say so, and `port add` opens it later. What closed because no network had a way out any
more opens by itself when one has.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address

from msgspec.structs import replace

from vswitch.control.edges import ListenerGroup, Parts
from vswitch.control.endpoints import default_endpoint
from vswitch.control.inventory import Container, Port, Publication
from vswitch.control.jobs import EXHAUSTED, Job, quietly
from vswitch.control.networks import Network
from vswitch.control.records import ContainerRecord, EndpointRecord, PublicationRecord, encode
from vswitch.control.specs import internal
from vswitch.control.store import Put
from vswitch.model import PublishSpec, Refused
from vswitch.nat.publish import meet, parse, text_of

log = logging.getLogger(__name__)

PUBLICATIONS_LIMIT = 4096  # per container: each is an entry in its record, which is written whole
# A block of free ports is looked for from where the kernel found a single one. It gives out each port of its range
# (28,000 by default) with the same likelihood, so with a tenth of them taken, ten in a row are free in every third try.
ATTEMPTS = 16
NO_WAY_OUT = "no network of it has a way out"


def planned(texts: Sequence[str], record: ContainerRecord, networks: dict[str, Network]) -> list[PublicationRecord]:
    """What `-p` asks for, with the network's own default for where. Refused if it cannot be."""
    if not texts:
        return []
    if len(texts) > PUBLICATIONS_LIMIT:
        raise Refused(f"{len(texts)} times -p is too often: at most {PUBLICATIONS_LIMIT}; ranges count once")
    asked = [parse(text) for text in texts]
    if not record.endpoints:
        raise Refused(f"container {record.name} is on no network, so nothing of it can be published: connect it to one")
    endpoint = default_endpoint(record.endpoints, networks)
    if endpoint is None:
        raise internal(networks[e.network].name for e in record.endpoints)
    way = networks[endpoint.network].way_out
    default = way.binding4 if way is not None else None
    return [PublicationRecord(asked=spec, host_ip=spec.host_ip or default) for spec in asked]


class Publishing:
    """What opens and closes them."""

    def __init__(self, parts: Parts):
        self._parts = parts

    # ---- with the container

    async def open_all(self, container: Container, undo: AsyncExitStack) -> list[PublicationRecord]:
        """Open everything in the record; the records as decided. Refused, and then `undo` closes what was opened."""
        container.unpublished.clear()
        if not container.record.ports:
            return []
        if default_endpoint(container.record.endpoints, self._parts.inventory.networks) is None:
            raise _without_way_out(container)
        port = self._default_port(container)
        opened = []
        for record in container.record.ports:
            publication = await self._open(port, record)
            undo.push_async_callback(self._close, port, publication)
            opened.append(publication.record)
        return opened

    async def reopen(self, container: Container) -> bool:
        """After a restart: open what can be, and remember why the rest can't; whether the record has changed."""
        container.unpublished.clear()
        if not container.record.ports:
            return False
        records = []
        for record in container.record.ports:
            try:
                record = (await self._open(self._default_port(container), record)).record
            except Refused as refusal:
                self._give_up(container, record, str(refusal))
            records.append(record)
        changed = records != container.record.ports
        container.record = replace(container.record, ports=records)
        return changed

    def _give_up(self, container: Container, record: PublicationRecord, why: str) -> None:
        text = text_of(record.asked)
        add = f"then `vswitch port add {container.name} {text}`"
        then = "it opens again when one has" if why == NO_WAY_OUT else add
        said = f"port {text} is not published: {why}; {then}"
        if container.unpublished.get(record) != said:
            log.error("container %s: %s", container.name, said)
        container.unpublished[record] = said

    async def close(self, port: Port) -> None:
        """Close everything that hangs on a port, whatever fails on the way."""
        for publication in list(port.publications):
            await self._close(port, publication)

    async def follow(
        self, container: Container, endpoints: Iterable[EndpointRecord], *, whatever_fails: bool = False
    ) -> None:
        """The default route of `endpoints` is at another of them, or at none: what is published goes there with its
        sockets. Where there is none, it is closed until there is one again. Refused, and then the one that could not
        be moved is where it was; `whatever_fails` closes it instead, and goes on.
        """
        endpoint = default_endpoint(endpoints, self._parts.inventory.networks)
        target = None if endpoint is None else container.ports.get(endpoint.id)
        for port in list(container.ports.values()):
            for publication in list(port.publications) if port is not target else ():
                if target is None:
                    await self._close(port, publication)
                    self._give_up(container, publication.record, NO_WAY_OUT)
                elif (problem := await self._move(publication, port, target)) is not None:
                    if not whatever_fails:
                        raise problem
                    await self._close(port, publication)
                    self._give_up(container, publication.record, str(problem))
        for record in list(container.unpublished):
            if target is None:
                self._give_up(container, record, NO_WAY_OUT)
                continue
            try:
                decided = (await self._open(target, record)).record
            except Refused as refusal:
                self._give_up(container, record, str(refusal))
                continue
            del container.unpublished[record]
            ports = container.record.ports  # whoever changes the container has them in the record to be stored
            ports[ports.index(record)] = decided

    async def _move(self, publication: Publication, port: Port, target: Port) -> Refused | None:
        """From one port to another, without its sockets being closed; why it can't be, and then it is where it was."""
        groups = publication.groups.values()
        for group in groups:
            await self._stop(group, port)
        try:
            for group in groups:
                await self._accept(group, target)
        except Refused as refusal:
            for group in groups:
                await self._stop(group, target)
            for group in groups:
                await quietly(self._accept(group, port), f"published ports of {port.container.name}")
            return refusal
        port.publications.remove(publication)
        target.publications.append(publication)
        return None

    # ---- while it runs

    async def add(self, container: Container, text: str, job: Job) -> Publication:
        """Publish more of a running container. Refused, and then nothing has changed."""
        async with container.lock, AsyncExitStack() as undo:
            before = container.record
            if before.state != "running":
                raise Refused(f"container {container.name} is {before.state}: only a running one can publish", 409)
            (record,) = planned([text], before, self._parts.inventory.networks)
            if len(before.ports) >= PUBLICATIONS_LIMIT:
                raise Refused(f"container {container.name} publishes {PUBLICATIONS_LIMIT} times, the limit", 507)
            port = self._default_port(container)
            publication = await self._open(port, record)
            undo.push_async_callback(self._close, port, publication)
            job.go_on()
            mended = [other for other in container.unpublished if other.asked == record.asked]
            others = [other for other in before.ports if other not in mended]
            await self._store(container, [*others, publication.record])
            for other in mended:
                del container.unpublished[other]
            undo.pop_all()
        self._tell(container, "publish", publication.record)
        return publication

    async def remove(self, container: Container, text: str, job: Job) -> None:
        """Publish less. Refused if it was not published so, or the store cannot take note."""
        wanted = parse(text)
        async with container.lock:
            job.go_on()
            ports = container.record.ports
            going = {record: which for record in ports if (which := _meant(record, wanted))}
            if not going:
                there = ", ".join(text_of(as_decided(record)) for record in ports[:5]) or "nothing"
                there += f" and {len(ports) - 5} more (`vswitch port ls {container.name}`)" if len(ports) > 5 else ""
                raise Refused(f"container {container.name} does not publish {text}: it publishes {there}", 404)
            staying = {record: _without(record, going.get(record, ())) for record in ports}
            await self._store(container, [record for record in staying.values() if record is not None])
            for record, protocols in going.items():
                container.unpublished.pop(record, None)
                for port in container.ports.values():
                    await self._close_some(port, record, protocols, staying[record])
        for record in going:
            self._tell(container, "unpublish", record)

    async def _close_some(
        self, port: Port, record: PublicationRecord, protocols: Sequence[str], left: PublicationRecord | None
    ) -> None:
        for publication in [p for p in port.publications if p.record == record]:
            for protocol in protocols:
                await self._end(publication.groups.pop(protocol), port)
            if left is None:
                port.publications.remove(publication)
            else:
                publication.record = left

    # ---- the steps

    def _default_port(self, container: Container) -> Port:
        endpoint = default_endpoint(container.record.endpoints, self._parts.inventory.networks)
        if endpoint is None:
            raise Refused(NO_WAY_OUT, 409)
        port = container.ports.get(endpoint.id)
        if port is None:
            raise Refused(f"the interface of {container.name} with its default route is beyond reach", 409)
        return port

    async def _open(self, port: Port, record: PublicationRecord) -> Publication:
        """Sockets for one record, accepting for the container."""
        first, groups = await self._sockets(record, port)
        publication = Publication(replace(record, host_port=first), groups)
        async with AsyncExitStack() as undo:
            for group in groups.values():
                undo.push_async_callback(self._shut, group)
            for group in groups.values():
                await self._accept(group, port)
                undo.push_async_callback(self._stop, group, port)
            port.publications.append(publication)
            undo.pop_all()
        return publication

    async def _sockets(self, record: PublicationRecord, port: Port) -> tuple[int, dict[str, ListenerGroup]]:
        """The first host port that can be had, and its sockets by protocol."""
        problem: OSError | None = None
        for first in _candidates(record):
            try:
                return await self._bind(record, first)
            except OSError as refused:
                problem = refused
                if refused.errno != errno.EADDRINUSE:
                    break
        assert problem is not None
        raise self._refusal(record, problem, port) from None

    async def _bind(self, record: PublicationRecord, first: int) -> tuple[int, dict[str, ListenerGroup]]:
        """Every protocol from host port `first` on, all or none; 0 for wherever there is room. OSError."""
        asked = record.asked
        groups: dict[str, ListenerGroup] = {}
        if first == 0 and asked.count > 1:
            first = await self._room(record)
        try:
            for protocol in asked.protocols:
                groups[protocol] = await self._listen(record, protocol, first, asked.count)
                first = first or groups[protocol].host_ports[0]
        except BaseException:
            for group in groups.values():
                await self._shut(group)
            raise
        return first, groups

    async def _room(self, record: PublicationRecord) -> int:
        """Where a block of ports may be free."""
        single = await self._listen(record, record.asked.protocols[0], 0, 1)
        first = single.host_ports[0]
        await self._shut(single)
        return first if first + record.asked.count <= 65536 else first - record.asked.count + 1

    async def _listen(self, record: PublicationRecord, protocol: str, first: int, count: int) -> ListenerGroup:
        """Off the loop: ten thousand sockets take their time."""
        opening = self._parts.listeners.open_listeners
        return await asyncio.to_thread(
            opening, record.host_ip, first, count, protocol, record.asked.container_port
        )

    async def _accept(self, group: ListenerGroup, port: Port) -> None:
        four, six = port.endpoint.ipv4, port.endpoint.ipv6
        try:
            await self._parts.datapath.add_listeners(
                group,
                network=port.network.index,
                port=port.index,
                address4=ip_address(four).packed if four else None,
                address6=ip_address(six).packed if six else None,
            )
        except LookupError as full:
            raise Refused(f"the switch can publish no more ports ({full}): remove some", 507) from None

    async def _close(self, port: Port, publication: Publication) -> None:
        if publication in port.publications:
            port.publications.remove(publication)
        while publication.groups:
            await self._end(publication.groups.popitem()[1], port)

    async def _end(self, group: ListenerGroup, port: Port) -> None:
        await self._stop(group, port)
        await self._shut(group)

    async def _stop(self, group: ListenerGroup, port: Port) -> None:
        what = f"published ports of {port.container.name}"
        await quietly(self._parts.datapath.remove_listeners(group), what)

    async def _shut(self, group: ListenerGroup) -> None:
        await quietly(asyncio.to_thread(group.close), "sockets of published ports")

    # ---- around them

    async def _store(self, container: Container, ports: list[PublicationRecord]) -> None:
        record = replace(container.record, ports=ports)
        await self._parts.store.write([Put("containers", record.id, encode(record))])
        container.record = record

    def _tell(self, container: Container, action: str, record: PublicationRecord) -> None:
        ports = text_of(as_decided(record))
        self._parts.events.publish("container", action, container.record.id, container.name, ports=ports)

    def _refusal(self, record: PublicationRecord, problem: OSError, port: Port) -> Refused:
        """Why the sockets can't be had, and what would be right."""
        number = getattr(problem, "host_port", 0)
        at = f" at {record.host_ip}" if record.host_ip else ""
        what = f"host port {number}/{'+'.join(record.asked.protocols)}{at}"
        if problem.errno == errno.EADDRINUSE:
            return Refused(f"{self._taken(record, number, what, port)}: choose another, or free it first", 409)
        if problem.errno in (errno.EACCES, errno.EPERM):
            first = self._parts.host.first_unprivileged_port()
            return Refused(
                f"{what} needs privilege, since it is below {first}: choose one from {first} on, or allow it with"
                f" `sysctl net.ipv4.ip_unprivileged_port_start={number or 80}`",
                403,
            )
        if problem.errno == errno.EADDRNOTAVAIL:
            return Refused(f"{record.host_ip} is no address of this host: `ip addr` lists those it has")
        if problem.errno == errno.EAFNOSUPPORT:
            return Refused(f"{record.host_ip} cannot be used: this host has no IPv6")
        if (exhausted := EXHAUSTED.get(problem.errno or 0)) is not None:
            return Refused(f"each published port is a socket: {exhausted}", 507)
        return Refused(f"{what} cannot be opened: {problem.strerror or problem}", 500)

    def _taken(self, record: PublicationRecord, number: int, what: str, wanting: Port) -> str:
        asked = record.asked
        if asked.host_port is None:
            row = f", not {asked.count} in a row" if asked.count > 1 else ""
            return f"no host ports{row} were found to be free"
        if asked.choices > 1:
            return f"none of host ports {asked.host_port}-{asked.host_port + asked.choices - 1} is free"
        return f"{what} is taken by {self._holder(record, number, wanting)}"

    def _holder(self, record: PublicationRecord, number: int, wanting: Port) -> str:
        for port in self._parts.inventory.ports.values():
            for other in port.publications:
                theirs = other.record
                first = theirs.host_port or 0
                shared = any(protocol in record.asked.protocols for protocol in other.groups)
                if meet(theirs.host_ip, record.host_ip) and shared and first <= number < first + theirs.asked.count:
                    name = port.container.name
                    return f"container {name}{' itself' if port.container is wanting.container else ''}"
        return "another program"


def _without_way_out(container: Container) -> Refused:
    """A stopped container's ports have nowhere to go."""
    text = text_of(container.record.ports[0].asked)
    more = f" (and {others} more)" if (others := len(container.record.ports) - 1) else ""
    return Refused(
        f"port {text}{more} cannot be published: {NO_WAY_OUT}: `vswitch network connect NETWORK {container.name}`"
        f" first, or `vswitch port rm {container.name} {text}`",
        409,
    )


def as_decided(record: PublicationRecord) -> PublishSpec:
    """What was asked, with what was left open decided."""
    if record.host_port is None:
        return replace(record.asked, host_ip=record.host_ip)
    return replace(record.asked, host_ip=record.host_ip, host_port=record.host_port, choices=1)


def _candidates(record: PublicationRecord) -> Iterator[int]:
    """First host ports to try, in this order; 0 is whatever the kernel finds."""
    asked = record.asked
    if asked.host_port is not None and asked.choices == 1:
        yield asked.host_port
        return
    if record.host_port is not None:
        yield record.host_port
    if asked.host_port is None:
        yield from [0] * ATTEMPTS
    else:
        yield from (p for p in range(asked.host_port, asked.host_port + asked.choices) if p != record.host_port)


def _meant(record: PublicationRecord, wanted: PublishSpec) -> tuple[str, ...]:
    """Which of its protocols `port rm` means; what the text leaves out matches anything."""
    asked = record.asked
    same = (asked.container_port, asked.count) == (wanted.container_port, wanted.count)
    at = wanted.host_ip is None or wanted.host_ip == record.host_ip
    behind = wanted.host_port is None or wanted.host_port in (record.host_port, asked.host_port)
    if not (same and at and behind):
        return ()
    return tuple(protocol for protocol in asked.protocols if protocol in wanted.protocols)


def _without(record: PublicationRecord, protocols: Sequence[str]) -> PublicationRecord | None:
    """What stays of it."""
    left = tuple(protocol for protocol in record.asked.protocols if protocol not in protocols)
    return replace(record, asked=replace(record.asked, protocols=left)) if left else None
