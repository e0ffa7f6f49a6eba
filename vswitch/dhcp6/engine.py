# SPDX-License-Identifier: Apache-2.0
"""The DHCPv6 server of one subnet (RFC 8415 §18.3; read it before changing this).

Values in: a UDP payload, the port it came in by, the time (Unix seconds: leases outlive the process). Values out:
an Outcome. The order that a shell must keep: first store `changes`, then send `reply`; if storing fails it sends
nothing, and the client asks again.

Who gets what. A port has one address, assigned by IPAM, and gets exactly that, whatever its client calls itself:
there is no pool, and no address can have two holders. The first association for an address in a message (the one
that the lease is for, if it is among them) gets it; further ones, temporary ones and prefixes are told that there
is nothing (NoAddrsAvail, NoPrefixAvail). So a flood of made-up clients changes one lease: its own port's.

    SOLICIT      ADVERTISE, of highest preference: nobody else serves this link. With rapid commit REPLY, and the
    lease starts
    REQUEST, RENEW, REBIND   REPLY, the lease starts, or starts again; addresses that aren't the port's get lifetime 0
    CONFIRM      REPLY: are all of these addresses of this link?
    RELEASE, DECLINE         REPLY; the lease is over, or the address rests DECLINED until it is asked for again
    INFORMATION-REQUEST      REPLY with settings alone
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv6Address
from typing import NamedTuple

from vswitch.dhcp6.drop import Drop
from vswitch.dhcp6.message import (
    INFINITE_S,
    MUST_NAME_SERVER,
    Association,
    Code,
    MessageType,
    Request,
    Status,
    address_option,
    association_option,
    option,
    read,
    status,
)
from vswitch.dhcp6.scope import Ingress, Scope

DECLINE_S = 3600
"""How long a declined address is shown as such if nobody asks for it."""
EXPIRE_BATCH = 256
"""As in dhcp/engine.py."""
HIGHEST_PREFERENCE = b"\xff"


class State(StrEnum):
    """What a lease is. Each ends by itself at `expires_at`, and is forgotten then."""

    BOUND = "bound"
    """The client uses the address. REQUEST, RENEW, REBIND: again. RELEASE: nothing. DECLINE: DECLINED."""
    DECLINED = "declined"
    """Somebody else was seen to use the address. REQUEST, RENEW, REBIND: BOUND, for the address is this port's."""


class Lease(NamedTuple):
    """A port's address and who has it. Times are Unix seconds."""

    address: IPv6Address
    port: str
    mac: bytes
    duid: bytes
    iaid: bytes
    state: State
    bound_at: float
    expires_at: float

    @property
    def client_id(self) -> bytes:
        """As a lease of DHCPv4 calls it."""
        return self.duid

    @property
    def hostname(self) -> None:
        """No client says it here."""

    def row(self) -> tuple:
        """For the store: text, bytes and numbers, in the order of LEASE_COLUMNS."""
        return (str(self.address), *self[1:5], str(self.state), *self[6:])

    @classmethod
    def from_row(cls, row: Iterable) -> Lease:
        """A lease as `row` gave it."""
        address, port, mac, duid, iaid, state, bound_at, expires_at = row
        return cls(IPv6Address(address), port, mac, duid, iaid, State(state), bound_at, expires_at)


LEASE_COLUMNS = Lease._fields


class Put(NamedTuple):
    """The store must know this lease (by its address) from now on."""

    lease: Lease


class Delete(NamedTuple):
    """The store must forget the lease of this address."""

    address: IPv6Address


Change = Put | Delete


class Outcome(NamedTuple):
    """What a message leads to: store `changes`, then send `reply` (a UDP payload); `drop`: why none; `note`: for
    people."""

    reply: bytes | None = None
    changes: tuple[Change, ...] = ()
    drop: Drop | None = None
    note: str | None = None
    received: MessageType | None = None


class Engine:
    """The leases of one subnet, one for each port at most, and the rules by which they change."""

    def __init__(self, scope: Scope):
        self.scope = scope
        self._leases: dict[str, Lease] = {}  # by port
        # (expires_at, port); an entry whose lease has changed since is stale and skipped
        self._agenda: list[tuple[float, str]] = []

    def reconfigure(self, scope: Scope) -> None:
        """New settings, same subnet; clients learn them when they renew."""
        if scope.subnet != self.scope.subnet:
            raise ValueError(f"{scope.subnet} is not this engine's {self.scope.subnet}: make a new engine")
        self.scope = scope

    def leases(self) -> list[Lease]:
        """Every lease, as of now."""
        return list(self._leases.values())

    def load(self, rows: Iterable[tuple], now: float) -> tuple[Change, ...]:
        """Takes over the rows of a former run; returns the changes to store: what is of another subnet goes, and
        what has ended."""
        changes: list[Change] = []
        for row in rows:
            lease = Lease.from_row(row)
            if lease.address not in self.scope.subnet or lease.port in self._leases:
                changes.append(Delete(lease.address))
            else:
                self._put(lease)
        return (*changes, *self.expire(now))

    def next_expiry(self) -> float | None:
        """When `expire` has something to do (Unix seconds), None if never; ask after every other call."""
        while self._agenda:
            expires_at, port = self._agenda[0]
            lease = self._leases.get(port)
            if lease is not None and lease.expires_at == expires_at:
                return expires_at
            heapq.heappop(self._agenda)
        return None

    def expire(self, now: float) -> tuple[Change, ...]:
        """Ends what has ended by `now`, at most EXPIRE_BATCH leases; returns the changes to store."""
        changes: list[Change] = []
        while len(changes) < EXPIRE_BATCH and (at := self.next_expiry()) is not None and at <= now:
            changes.append(Delete(self._leases.pop(self._agenda[0][1]).address))
        return tuple(changes)

    def forget_port(self, port: str) -> tuple[Change, ...]:
        """A port is gone for good; returns the changes to store."""
        lease = self._leases.pop(port, None)
        return () if lease is None else (Delete(lease.address),)

    def handle(self, payload: bytes, ingress: Ingress, now: float, *, to_group: bool = True) -> Outcome:
        """What a client's message (the payload of a datagram to port 547) leads to; never raises.

        `to_group` False: it was sent to an address of the server's own.
        """
        request = read(payload)
        if isinstance(request, Drop):
            return Outcome(drop=request)
        if request.server is not None and request.server != self.scope.duid:
            return Outcome(drop=Drop.OTHER_SERVER, received=request.kind)
        if not to_group:
            return self._unicast(request)
        outcome = self._answer(request, ingress, now)
        return outcome._replace(received=request.kind)

    def _unicast(self, request: Request) -> Outcome:
        """RFC 8415 §18.4: told to ask the group, or not answered."""
        if request.kind not in MUST_NAME_SERVER:
            return Outcome(drop=Drop.UNICAST, received=request.kind)
        return Outcome(self._message(MessageType.REPLY, request, status(Status.USE_MULTICAST)), received=request.kind)

    def _answer(self, request: Request, ingress: Ingress, now: float) -> Outcome:
        match request.kind:
            case MessageType.SOLICIT if not (request.rapid_commit and self.scope.rapid_commit):
                body = self._associations(request, ingress) + option(Code.PREFERENCE, HIGHEST_PREFERENCE)
                return Outcome(self._message(MessageType.ADVERTISE, request, body))
            case MessageType.CONFIRM:
                return self._confirm(request)
            case MessageType.RELEASE | MessageType.DECLINE:
                return self._give_up(request, ingress, now)
            case MessageType.INFORMATION_REQUEST:
                refresh = option(Code.INFORMATION_REFRESH_TIME, self.scope.refresh_s.to_bytes(4, "big"))
                return Outcome(self._message(MessageType.REPLY, request, refresh))
        return self._bind(request, ingress, now)

    def _bind(self, request: Request, ingress: Ingress, now: float) -> Outcome:
        """The lease starts, or starts again."""
        body = self._associations(request, ingress)
        if request.kind is MessageType.SOLICIT:
            body = option(Code.RAPID_COMMIT) + body
        reply = self._message(MessageType.REPLY, request, body)
        chosen = self._chosen(request, ingress)
        if chosen is None or ingress.address is None:
            return Outcome(reply)
        before = self._leases.get(ingress.port)
        moved = (Delete(before.address),) if before is not None and before.address != ingress.address else ()
        expires_at = math.inf if self.scope.lease_s == INFINITE_S else now + self.scope.lease_s
        assert request.client is not None
        lease = Lease(
            ingress.address, ingress.port, ingress.mac, request.client, chosen.iaid, State.BOUND, now, expires_at
        )
        self._put(lease)
        return Outcome(reply, (*moved, Put(lease)))

    def _chosen(self, request: Request, ingress: Ingress) -> Association | None:
        """The association that gets the port's address: the one that has it, else the first."""
        lease = self._leases.get(ingress.port)
        asked = [ia for ia in request.associations if ia.code is Code.IA_NA]
        known = (ia for ia in asked if lease is not None and (lease.duid, lease.iaid) == (request.client, ia.iaid))
        return next(known, asked[0] if asked else None)

    def _associations(self, request: Request, ingress: Ingress) -> bytes:
        """What each association gets."""
        chosen, answers = self._chosen(request, ingress), []
        for asked in request.associations:
            if asked.code is Code.IA_PD:
                answers.append(association_option(asked, 0, status(Status.NO_PREFIX_AVAIL)))
                continue
            withdrawn = b""
            if request.kind in (MessageType.RENEW, MessageType.REBIND):
                strange = dict.fromkeys(a for a in asked.addresses if asked is not chosen or a != ingress.address)
                withdrawn = b"".join(address_option(address, 0) for address in strange)
            if asked is chosen and ingress.address is not None:
                inside = address_option(ingress.address, self.scope.lease_s) + withdrawn
                answers.append(association_option(asked, self.scope.lease_s, inside))
            else:
                answers.append(association_option(asked, 0, withdrawn or status(Status.NO_ADDRS_AVAIL)))
        return b"".join(answers)

    def _confirm(self, request: Request) -> Outcome:
        addresses = [address for asked in request.associations for address in asked.addresses]
        if not addresses:
            return Outcome(drop=Drop.NO_QUESTION)
        on_link = all(address in self.scope.subnet for address in addresses)
        code = Status.SUCCESS if on_link else Status.NOT_ON_LINK
        return Outcome(self._message(MessageType.REPLY, request, status(code)))

    def _give_up(self, request: Request, ingress: Ingress, now: float) -> Outcome:
        """RELEASE or DECLINE: of the lease if it is among them; an association that has none is told so."""
        lease, answers, changes, note = self._leases.get(ingress.port), [], [], None
        for asked in request.associations:
            theirs = lease is not None and asked.code is Code.IA_NA and lease.state is State.BOUND
            if not theirs or lease is None or (lease.duid, lease.iaid) != (request.client, asked.iaid):
                answers.append(association_option(asked, 0, status(Status.NO_BINDING)))
            elif lease.address in asked.addresses and not changes:
                changes.append(self._end(lease, request.kind, now))
                if request.kind is MessageType.DECLINE:
                    note = f"{lease.address} declined by {lease.mac.hex(':')}: somebody else uses it"
        reply = self._message(MessageType.REPLY, request, status(Status.SUCCESS) + b"".join(answers))
        return Outcome(reply, tuple(changes), note=note)

    def _end(self, lease: Lease, kind: MessageType, now: float) -> Change:
        if kind is MessageType.RELEASE:
            del self._leases[lease.port]
            return Delete(lease.address)
        declined = lease._replace(state=State.DECLINED, expires_at=now + DECLINE_S)
        self._put(declined)
        return Put(declined)

    def _put(self, lease: Lease) -> None:
        """Notes a lease and when it ends; the agenda never grows beyond twice the table."""
        self._leases[lease.port] = lease
        if len(self._agenda) > 2 * len(self._leases) + 64:
            lasting = ((other.expires_at, port) for port, other in self._leases.items())
            self._agenda = [entry for entry in lasting if entry[0] != math.inf]
            heapq.heapify(self._agenda)
        elif lease.expires_at != math.inf:
            heapq.heappush(self._agenda, (lease.expires_at, lease.port))

    def _message(self, kind: MessageType, request: Request, body: bytes) -> bytes:
        """A message with both identities, `body`, and the settings that were asked for."""
        head = bytes([kind]) + request.transaction + option(Code.SERVERID, self.scope.duid)
        if request.client is not None:
            head += option(Code.CLIENTID, request.client)
        lean = request.kind in (MessageType.RELEASE, MessageType.DECLINE, MessageType.CONFIRM)
        settings = (data for code, data in self.scope.encoded.items() if code in request.wanted and not lean)
        return head + body + b"".join(settings)
