# SPDX-License-Identifier: Apache-2.0
"""The leases of one network: values, by address and by client. Policy and IPAM stand in engine.py, bytes
nowhere here.

One record for each address, so that no address can have two holders, and at most one record for each client.
A client is its port first, then what it calls itself: two cloned machines with one client id are two clients,
since they sit on two ports. A port with an assigned address is one client whatever it says; its lease is
`reserved`.

Caps (scope.py says why these numbers): `max_leases` dynamic leases for the network, `max_per_port` for each
port, memories of ended leases included. Reserved leases are not counted: there is one for each port, and they
take nothing from anyone.

Who gives way when a cap is reached: of the port, its longest-ended lease, then its oldest offer; of the
network, the longest-ended lease of any port, then the asking port's own oldest offer. A bound lease and a
declined address never give way: the first is a promise, the second would be handed out again. So a port that
floods with made-up clients recycles its own offers and harms nobody else.
"""
from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from enum import StrEnum
from ipaddress import IPv4Address
from typing import NamedTuple

from vswitch.dhcp.drop import Drop


class State(StrEnum):
    """What a lease is, and what may happen to it. Each state ends by itself at `expires_at`."""

    OFFERED = "offered"
    """Held for a client that may take it. REQUEST: BOUND. Time, another server chosen, evicted: nothing, or
    EXPIRED if it was bound before. Never stored: a flood of DISCOVER costs no disk, and after a restart
    REQUEST is granted anyway."""
    BOUND = "bound"
    """The client uses the address. REQUEST: again. RELEASE, DECLINE: those states. Time: EXPIRED. Never
    evicted. Beware: DISCOVER leaves it as it is, the client may still be using it until it takes the
    offer."""
    DECLINED = "declined"
    """Somebody else was seen to use the address: no client gets it. Time: nothing. Never evicted, counts for
    its port. Beware: a dynamic one belongs to no client any more; a reserved one is offered again when its
    port asks, and stays DECLINED until a REQUEST takes it: an offer is no news for the store."""
    RELEASED = "released"
    """Given back, kept as a memory. IPAM may give the address to anyone; the same client gets it if it is
    still free. Time, eviction, another client at this address: nothing."""
    EXPIRED = "expired"
    """Ran out; a memory like RELEASED."""


HELD = frozenset({State.OFFERED, State.BOUND, State.DECLINED})
FIRM = frozenset({State.BOUND, State.DECLINED})
"""What an offer leaves as it is: the store holds it, and offers are not stored."""


class Client(NamedTuple):
    """Who holds a lease: a port, and who behind it (b"": the port itself, where an address is assigned)."""

    port: str
    identity: bytes


class Lease(NamedTuple):
    """One address and its last holder. Times are Unix seconds; `bound_at` is 0 if it was never bound."""

    address: IPv4Address
    port: str
    mac: bytes
    client_id: bytes | None
    hostname: str | None
    state: State
    bound_at: float
    expires_at: float
    reserved: bool

    @property
    def client(self) -> Client:
        return Client(self.port, identity(self.mac, self.client_id, self.reserved))

    @property
    def held(self) -> bool:
        """Whether the address may not go to anyone else."""
        return self.state in HELD

    @property
    def stored(self) -> bool:
        """Whether the store may know of it."""
        return self.state is not State.OFFERED or self.bound_at > 0

    def row(self) -> tuple:
        """For the store: text, bytes, numbers and None, in the order of LEASE_COLUMNS."""
        return (str(self.address), *self[1:5], str(self.state), *self[6:8], int(self.reserved))

    @classmethod
    def from_row(cls, row: Iterable) -> Lease:
        """A lease as `row` gave it."""
        address, port, mac, client_id, hostname, state, bound_at, expires_at, reserved = row
        return cls(
            IPv4Address(address), port, mac, client_id, hostname,
            State(state), bound_at, expires_at, bool(reserved),
        )


LEASE_COLUMNS = Lease._fields


def identity(mac: bytes, client_id: bytes | None, reserved: bool = False) -> bytes:
    """Who a client is behind its port: the client id, else hardware type and address (RFC 2131 §4.2)."""
    if reserved:
        return b""
    # The letter keeps a client id from passing for somebody's hardware address.
    return b"i" + client_id if client_id is not None else b"h\x01" + mac


class Put(NamedTuple):
    """The store must know this lease (by its address) from now on."""

    lease: Lease


class Delete(NamedTuple):
    """The store must forget the lease of this address."""

    address: IPv4Address


Change = Put | Delete


class Table:
    """The leases of one network; `put` and `remove` are the only ways in and out."""

    def __init__(self, max_leases: int, max_per_port: int):
        self.max_leases = max_leases
        self.max_per_port = max_per_port
        self._leases: dict[IPv4Address, Lease] = {}
        self._clients: dict[Client, IPv4Address] = {}
        # Addresses of dynamic leases, the longest unchanged first: by port, and those that are memories.
        self._ports: dict[str, dict[IPv4Address, None]] = {}
        self._memories: dict[IPv4Address, None] = {}
        self._dynamic = 0
        # (expires_at, address as a number); an entry whose lease has changed since is stale and skipped.
        self._agenda: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def at(self, address: IPv4Address) -> Lease | None:
        """The lease of an address."""
        return self._leases.get(address)

    def of(self, client: Client) -> Lease | None:
        """The lease of a client, held or remembered."""
        address = self._clients.get(client)
        return None if address is None else self._leases[address]

    def of_port(self, port: str) -> list[Lease]:
        """Every lease of a port, its reserved one included."""
        dynamic = [self._leases[address] for address in self._ports.get(port, ())]
        own = self.of(Client(port, b""))
        return dynamic if own is None else [*dynamic, own]

    def victim(self, port: str) -> Lease | Drop | None:
        """What must go before `port` has one more dynamic lease: nothing, a lease, or why nothing may go."""
        if len(self._ports.get(port, ())) >= self.max_per_port:
            return self._oldest_idle(port) or Drop.PORT_FULL
        if self._dynamic >= self.max_leases:
            memory = next(iter(self._memories), None)
            return self._leases[memory] if memory else self._oldest_idle(port) or Drop.NETWORK_FULL
        return None

    def _oldest_idle(self, port: str) -> Lease | None:
        """The port's lease that is missed least: an ended one, else an offer."""
        leases = [self._leases[address] for address in self._ports.get(port, ())]
        ended = (lease for lease in leases if not lease.held)
        offers = (lease for lease in leases if lease.state is State.OFFERED)
        return next(ended, None) or next(offers, None)

    def put(self, lease: Lease) -> None:
        """Sets the lease of an address, whatever it was; the client must not have one at another address."""
        self.remove(lease.address)
        self._leases[lease.address] = lease
        if lease.reserved or lease.state is not State.DECLINED:
            self._clients[lease.client] = lease.address
        if not lease.reserved:
            self._ports.setdefault(lease.port, {})[lease.address] = None
            self._dynamic += 1
            if not lease.held:
                self._memories[lease.address] = None
        self._schedule(lease)

    def remove(self, address: IPv4Address) -> Lease | None:
        """Forgets an address; returns what was known of it."""
        lease = self._leases.pop(address, None)
        if lease is None:
            return None
        if self._clients.get(lease.client) == address:
            del self._clients[lease.client]
        if not lease.reserved:
            self._dynamic -= 1
            self._memories.pop(address, None)
            mine = self._ports[lease.port]
            del mine[address]
            if not mine:
                del self._ports[lease.port]
        return lease

    def _schedule(self, lease: Lease) -> None:
        """Notes when the lease's state ends; the agenda never grows beyond twice the table."""
        if lease.expires_at == math.inf:
            return
        if len(self._agenda) > 2 * len(self._leases) + 64:
            self._agenda = [
                (other.expires_at, int(other.address)) for other in self if other.expires_at != math.inf
            ]
            heapq.heapify(self._agenda)
        else:
            heapq.heappush(self._agenda, (lease.expires_at, int(lease.address)))

    def next_expiry(self) -> float | None:
        """When the next state ends by itself, None if none will."""
        while self._agenda:
            expires_at, number = self._agenda[0]
            lease = self._leases.get(IPv4Address(number))
            if lease is not None and lease.expires_at == expires_at:
                return expires_at
            heapq.heappop(self._agenda)
        return None

    def next_due(self, now: float) -> Lease | None:
        """A lease whose state has ended by `now`; the caller must put or remove it before asking again."""
        expires_at = self.next_expiry()
        if expires_at is None or expires_at > now:
            return None
        return self._leases[IPv4Address(self._agenda[0][1])]
