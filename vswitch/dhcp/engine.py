# SPDX-License-Identifier: Apache-2.0
"""The DHCPv4 server of one network (RFC 2131 §4.3; read it and table.py's states before changing this).

Values in: a UDP payload, the port it came in by, the time (Unix seconds: leases outlive the process, so no
monotonic clock). Values out: an Outcome. The engine has no clock, no socket, no log and no store; the one
thing it calls is the IPAM (scope.Addresses).

The order that a shell must keep: first store `changes`, then send `reply`. If storing fails it sends nothing;
the client asks again, and the next ACK carries its lease once more. Replies go into the port that asked and
into no other.

Who gets what. A port with an assigned address gets exactly that, always: no pool, no cap, no memory. Any
other port's clients get dynamic leases: the address they have, else the one they had, else the one they wish
for, else the IPAM's next. IPAM judges who has an address; the table keeps who may use it until when.

REQUEST has four faces (RFC 2131 §4.3.2): with a server id it takes an offer (SELECTING); with option 50 alone
it asks whether an old address still holds (INIT-REBOOT); with ciaddr it extends one (RENEWING, REBINDING).
For all: the client's own address is granted, another client's or another network's refused (NAK). An address
we know nothing of is granted if it is free and we are authoritative: then a lost store or an offer that a
restart forgot costs nobody a thing. If we are not, silence.
"""
from __future__ import annotations

import math
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import NamedTuple

from vswitch.dhcp.drop import Drop
from vswitch.dhcp.message import ANY, MessageType
from vswitch.dhcp.reply import Reply, grant, inform, refuse
from vswitch.dhcp.request import Request, read
from vswitch.dhcp.scope import INFINITE_S, MIN_LEASE_S, Addresses, Ingress, Scope
from vswitch.dhcp.table import FIRM, Change, Client, Delete, Lease, Put, State, Table, identity

OFFER_S = 30
"""How long an offer is held: clients choose within a few seconds; longer only helps floods."""
DECLINE_S = 3600
"""How long a declined address rests: by then its unlawful user may have gone, and the pool heals."""
REMEMBER_S = 86400
"""How long an ended lease is remembered: a machine that was off overnight gets its address back."""
EXPIRE_BATCH = 256
"""Leases that one `expire` ends: a few milliseconds, so that a day's sleep of the host stalls nobody."""


class Outcome(NamedTuple):
    """What a message leads to: store `changes`, then send `reply`; `drop`: why none; `note`: for people."""

    reply: Reply | None = None
    changes: tuple[Change, ...] = ()
    drop: Drop | None = None
    note: str | None = None
    received: MessageType | None = None


class Engine:
    """The leases of one network and the rules by which they change."""

    def __init__(self, scope: Scope, addresses: Addresses):
        self.scope = scope
        self._addresses = addresses
        self._table = Table(scope.max_leases, scope.port_share)

    def reconfigure(self, scope: Scope) -> None:
        """New settings, same subnet; clients learn them when they renew, a lowered cap ends no lease."""
        if scope.subnet != self.scope.subnet:
            raise ValueError(f"{scope.subnet} is not this engine's {self.scope.subnet}: make a new engine")
        self.scope = scope
        self._table.max_leases, self._table.max_per_port = scope.max_leases, scope.port_share

    def leases(self) -> list[Lease]:
        """Every lease, offers included, as of now: the caller may take its time over the list."""
        return list(self._table)

    def rows(self) -> list[tuple]:
        """What the store holds, as rows for `load`."""
        return [lease.row() for lease in self._table if lease.state is not State.OFFERED]

    def load(self, rows: Iterable[tuple], now: float) -> tuple[Change, ...]:
        """Takes over the rows of a former run; on an empty engine, when IPAM knows the assigned addresses.

        Returns the changes to store: what no longer fits (another subnet, address taken, over a cap) goes.
        """
        leases = [Lease.from_row(row) for row in rows]
        changes: list[Change] = []
        for lease in sorted(leases, key=lambda lease: (not lease.held, -lease.expires_at)):
            if not self._restore(lease):
                changes.append(Delete(lease.address))
        return (*changes, *self.expire(now))

    def _restore(self, lease: Lease) -> bool:
        """Puts a stored lease back; False if impossible. Held leases come first and stay even above a cap."""
        owned = lease.reserved or lease.state is not State.DECLINED
        if not self.scope.usable(lease.address) or (owned and self._table.of(lease.client) is not None):
            return False
        if not lease.reserved:
            if lease.held and not self._addresses.reserve(lease.address):
                return False
            if not lease.held and self._table.victim(lease.port) is not None:
                return False
        self._table.put(lease)
        return True

    def handle(self, payload: bytes, ingress: Ingress, now: float) -> Outcome:
        """What a client's message (the payload of a datagram to port 67) leads to; never raises."""
        request = read(payload)
        if isinstance(request, Drop):
            return Outcome(drop=request)
        drop = self._inadmissible(request, ingress)
        if drop is not None:
            return Outcome(drop=drop, received=request.kind)
        outcome = _Exchange(self, request, ingress, now).run()
        return outcome._replace(received=request.kind)

    def _inadmissible(self, request: Request, ingress: Ingress) -> Drop | None:
        """Why this port may not send this message at all."""
        if ingress.mac is not None and request.mac != ingress.mac:
            return Drop.CHADDR
        giaddr = request.message.giaddr
        return None if giaddr == ANY or self.scope.usable(giaddr) else Drop.RELAYED

    def next_expiry(self) -> float | None:
        """When `expire` has something to do (Unix seconds), None if never; ask after every other call."""
        return self._table.next_expiry()

    def expire(self, now: float) -> tuple[Change, ...]:
        """Ends what has ended by `now`, at most EXPIRE_BATCH leases; returns the changes to store."""
        changes: list[Change] = []
        for _ in range(EXPIRE_BATCH):
            lease = self._table.next_due(now)
            if lease is None:
                break
            self._end(lease, changes)
        return tuple(changes)

    def _end(self, lease: Lease, changes: list[Change]) -> None:
        """A state's time is over: what was in use becomes a memory, anything else goes."""
        if lease.state is State.BOUND or (lease.state is State.OFFERED and lease.bound_at > 0):
            self._remember(lease, State.EXPIRED, lease.expires_at, changes)
        else:
            self._forget(lease, changes)

    def forget_port(self, port: str) -> tuple[Change, ...]:
        """A port is gone for good: its leases go, IPAM has their addresses back. Returns changes to store."""
        changes: list[Change] = []
        for lease in self._table.of_port(port):
            self._forget(lease, changes)
        return tuple(changes)

    def _remember(self, lease: Lease, state: State, ended_at: float, changes: list[Change]) -> None:
        """Ends a lease and keeps it as a memory; IPAM has the address back."""
        self._free(lease)
        memory = lease._replace(state=state, expires_at=ended_at + REMEMBER_S)
        self._table.put(memory)
        changes.append(Put(memory))

    def _forget(self, lease: Lease, changes: list[Change]) -> None:
        """Ends a lease without a memory; IPAM has the address back."""
        self._free(lease)
        self._table.remove(lease.address)
        if lease.stored:
            changes.append(Delete(lease.address))

    def _free(self, lease: Lease) -> None:
        if lease.held and not lease.reserved:
            self._addresses.release(lease.address)


class _Exchange:
    """One message being answered: what every step of it needs, and the changes it has made so far."""

    def __init__(self, engine: Engine, request: Request, ingress: Ingress, now: float):
        self.engine, self.request, self.ingress, self.now = engine, request, ingress, now
        self.scope, self.table, self.addresses = engine.scope, engine._table, engine._addresses
        self.reserved = ingress.address is not None
        self.client = Client(ingress.port, identity(request.mac, request.client_id, self.reserved))
        self.changes: list[Change] = []

    def run(self) -> Outcome:
        match self.request.kind:
            case MessageType.DISCOVER:
                return self._discover()
            case MessageType.REQUEST:
                return self._request()
            case MessageType.DECLINE:
                return self._decline()
            case MessageType.RELEASE:
                return self._release()
        return self._inform()

    def _outcome(
        self, reply: Reply | None = None, drop: Drop | None = None, note: str | None = None
    ) -> Outcome:
        if reply is not None and reply.left_out:
            note = f"options {', '.join(map(str, reply.left_out))} don't fit into the client's message size"
        return Outcome(reply, tuple(self.changes), drop, note)

    def _discover(self) -> Outcome:
        address = self._address_to_offer()
        if isinstance(address, Drop):
            return self._outcome(drop=address)
        if self.request.rapid_commit and self.scope.rapid_commit:
            return self._bind(address)
        known = self.table.at(address)
        if known is None or known.state not in FIRM or known.client != self.client:
            self.table.put(self._lease(address, State.OFFERED, known, self.now + OFFER_S))
        return self._outcome(self._grant(MessageType.OFFER, address))

    def _address_to_offer(self) -> IPv4Address | Drop:
        """The assigned address; else the one the client has, had, wishes for, or the next."""
        if self.ingress.address is not None:
            return self._claim(self.ingress.address)
        known = self.table.of(self.client)
        if known is not None and known.held:
            return known.address
        return self._take(known.address if known else None, self.request.requested, self.addresses.peek)

    def _request(self) -> Outcome:
        request = self.request
        selecting = request.server is not None
        if selecting and request.server != self.scope.server:
            return self._not_chosen()
        wanted = request.ciaddr or request.requested
        if selecting:
            wanted = request.requested or request.ciaddr
        if wanted is None:
            return self._outcome(drop=Drop.OPTIONS)
        if self.reserved:
            return self._bind(self._claim(wanted)) if wanted == self.ingress.address else self._refuse(wanted)
        known = self.table.of(self.client)
        if known is not None and known.held:
            return self._bind(wanted) if wanted == known.address else self._refuse(wanted)
        if not self.scope.usable(wanted):
            return self._refuse(wanted)
        if known is None and not selecting and not self.scope.authoritative:
            return self._outcome(drop=Drop.UNKNOWN_CLIENT)
        return self._adopt(wanted)

    def _adopt(self, wanted: IPv4Address) -> Outcome:
        """Grants an address that the client doesn't hold (any more), if it is free."""
        taken = self._take(wanted)
        if taken is Drop.NO_ADDRESS:
            return self._refuse(wanted)
        return self._outcome(drop=taken) if isinstance(taken, Drop) else self._bind(taken)

    def _not_chosen(self) -> Outcome:
        """The client takes another server's offer: ours is void."""
        known = self.table.of(self.client)
        if known is not None and known.state is State.OFFERED:
            self.engine._forget(known, self.changes)
        return self._outcome(drop=Drop.OTHER_SERVER)

    def _claim(self, address: IPv4Address) -> IPv4Address:
        """Makes way for the address assigned to this port: IPAM says so, whatever the table says."""
        mine, theirs = self.table.of(self.client), self.table.at(address)
        if mine is not None and mine.address != address:
            self.engine._forget(mine, self.changes)
        if theirs is not None and theirs.client != self.client:
            self.table.remove(address)
            if theirs.stored:
                self.changes.append(Delete(address))
        return address

    def _take(self, *wishes) -> IPv4Address | Drop:
        """Takes from IPAM the first free one of `wishes`: addresses, None, or a callable that names one."""
        known = self.table.of(self.client)
        if known is None:
            victim = self.table.victim(self.client.port)
            if isinstance(victim, Drop):
                return victim
            if victim is not None:
                self.engine._forget(victim, self.changes)
        for wish in wishes:
            address = wish() if callable(wish) else wish
            if address is not None and self.scope.usable(address) and self.addresses.reserve(address):
                if known is not None and known.address != address:
                    self.engine._forget(known, self.changes)
                return address
        return Drop.NO_ADDRESS

    def _lease(self, address: IPv4Address, state: State, known: Lease | None, expires_at: float) -> Lease:
        """This client's lease of an address; a bound one keeps `bound_at` through a later offer."""
        bound_at = known.bound_at if known is not None and known.client == self.client else 0.0
        return Lease(
            address, self.client.port, self.request.mac, self.request.client_id,
            self.ingress.hostname or self.request.hostname, state,
            self.now if state is State.BOUND else bound_at, expires_at, self.reserved,
        )

    def _bind(self, address: IPv4Address) -> Outcome:
        """ACK: the lease starts, or starts again."""
        lease_s = self._lease_s()
        expires_at = math.inf if lease_s == INFINITE_S else self.now + lease_s
        lease = self._lease(address, State.BOUND, self.table.at(address), expires_at)
        self.table.put(lease)
        self.changes.append(Put(lease))
        return self._outcome(self._grant(MessageType.ACK, address))

    def _grant(self, kind: MessageType, address: IPv4Address) -> Reply:
        return grant(self.scope, self.request, self.ingress, kind, address, self._lease_s())

    def _lease_s(self) -> int:
        """The network's lease time, or less if the client wishes so."""
        wished_s = self.scope.lease_s if self.request.lease_s is None else self.request.lease_s
        return max(MIN_LEASE_S, min(wished_s, self.scope.lease_s))

    def _refuse(self, wanted: IPv4Address) -> Outcome:
        if not self.scope.usable(wanted):
            why = f"{wanted} is no client address of {self.scope.subnet}"
        else:
            why = f"{wanted} is not leased to you"
        return self._outcome(refuse(self.scope, self.request, self.ingress, why), note=f"refused: {why}")

    def _own(self, address: IPv4Address | None) -> Lease | Drop:
        """The bound lease that a RELEASE or DECLINE is about."""
        if self.request.server is not None and self.request.server != self.scope.server:
            return Drop.OTHER_SERVER
        if address is None:
            return Drop.OPTIONS
        lease = self.table.of(self.client)
        if lease is None or lease.address != address or lease.state is not State.BOUND:
            return Drop.NOT_LEASED
        return lease

    def _decline(self) -> Outcome:
        """The client saw somebody else use its address."""
        lease = self._own(self.request.requested)
        if isinstance(lease, Drop):
            return self._outcome(drop=lease)
        declined = lease._replace(state=State.DECLINED, expires_at=self.now + DECLINE_S)
        self.table.put(declined)
        self.changes.append(Put(declined))
        return self._outcome(note=f"{lease.address} declined by {lease.mac.hex(':')}: somebody else uses it")

    def _release(self) -> Outcome:
        """The client gives its address back."""
        lease = self._own(self.request.ciaddr)
        if isinstance(lease, Drop):
            return self._outcome(drop=lease)
        self.engine._remember(lease, State.RELEASED, self.now, self.changes)
        return self._outcome()

    def _inform(self) -> Outcome:
        """The client has an address of its own and wants the settings (RFC 2131 §4.3.5)."""
        if self.request.ciaddr is None:
            return self._outcome(drop=Drop.OPTIONS)
        if not self.scope.usable(self.request.ciaddr):
            return self._outcome(drop=Drop.NOT_LEASED)
        return self._outcome(inform(self.scope, self.request, self.ingress))
