# SPDX-License-Identifier: Apache-2.0
"""What names there are: by network, and for each container what it alone knows (--add-host).

A name belongs to a **scope**: a network, or one container. A question is looked up in the scopes that its asker
sees and in no other, so that nobody learns a name of a network he isn't in. In his own scope first, and what
stands there is the whole answer, as /etc/hosts is; then in all his networks together, since a name may have a
holder in each.

An **owner** (an endpoint, or whatever control calls a set of names) brings names and addresses: each name gets an A
or AAAA record for each address, in a network also NAME.NETWORK; each address gets a PTR record to the owner's first
name. Several owners may hold one name: answers begin with another holder each time, round and round.

Costs: a look-up is one dictionary access for each scope, an addition or removal one for each name and address,
however many names there are and however many hold the same one. An answer takes no more records out than fit.

Names that vanish are gone with the call that removes them: records have TTL 0 and so have denials, because the
container may be back, elsewhere, a moment later, and asking us again costs microseconds.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from vswitch.dns import names
from vswitch.dns.codec import record

TTL_S = 0
MAPPED = bytes(10) + b"\xff\xff"
LABEL_OF_FAMILY = {4: names.A, 16: names.AAAA}


class Holders:
    """The records of one name and type, in an order that turns by one with each answer."""

    __slots__ = ("_places", "_records", "_turn")

    def __init__(self) -> None:
        self._records: list[tuple[tuple[str, bytes], bytes]] = []
        self._places: dict[tuple[str, bytes], int] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, owner: str, rtype: int, rdata: bytes) -> None:
        """One more; the same one of the same owner is there once."""
        holder = owner, rdata
        if holder not in self._places:
            self._places[holder] = len(self._records)
            self._records.append((holder, record(rtype, TTL_S, rdata)))

    def remove(self, owner: str, rdata: bytes) -> None:
        """Takes one out; the last takes its place, so that this costs the same for a thousand holders."""
        at = self._places.pop((owner, rdata), None)
        if at is None:
            return
        last = self._records.pop()
        if at < len(self._records):
            self._records[at] = last
            self._places[last[0]] = at

    def next(self, most: int) -> list[bytes]:
        """Up to `most` records; the next call begins with the record after this one's first."""
        records = self._records
        if len(records) == 1:
            return [records[0][1]]
        start = self._turn % len(records)
        self._turn = start + 1
        taken = records[start:start + most]
        taken += records[:min(start, most - len(taken))]
        return [whole for _, whole in taken]


Entry = dict[int, Holders]
"""The records of one name, by type. Never empty of holders: a name without records is no name."""


class Held(NamedTuple):
    """What an owner brought into a scope: (key, type, rdata) of each record."""

    records: tuple[tuple[bytes, int, bytes], ...]


def _parents(key: bytes) -> Iterable[bytes]:
    """All names above a name; none of a reverse name, whose parts the engine denies with NODATA anyway."""
    if key.endswith((names.V4_REVERSE, names.V6_REVERSE)):
        return ()
    return list(names.suffixes(key))[1:]


class Scope:
    """The names of one network or of one container. `parents` counts the names that stand below each name."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.parents: Counter[bytes] = Counter()
        self._owners: dict[str, Held] = {}

    def put(self, owner: str, records: Iterable[tuple[bytes, int, bytes]]) -> None:
        """Sets what an owner has here, in place of what he had."""
        self.drop(owner)
        held = Held(tuple(dict.fromkeys(records)))
        if not held.records:
            return
        self._owners[owner] = held
        for key, rtype, rdata in held.records:
            entry = self.entries.get(key)
            if entry is None:
                entry = self.entries[key] = {}
                for parent in _parents(key):
                    self.parents[parent] += 1
            if rtype not in entry:
                entry[rtype] = Holders()
            entry[rtype].add(owner, rtype, rdata)

    def drop(self, owner: str) -> None:
        """Takes away all that an owner has here."""
        held = self._owners.pop(owner, None)
        for key, rtype, rdata in held.records if held else ():
            entry = self.entries[key]
            holders = entry[rtype]
            holders.remove(owner, rdata)
            if not holders:
                del entry[rtype]
                if not entry:
                    del self.entries[key]
                    for parent in _parents(key):
                        self.parents[parent] -= 1
                        if not self.parents[parent]:
                            del self.parents[parent]


    def clear(self) -> None:
        """Takes away everything, for whoever still looks here."""
        self.entries.clear()
        self.parents.clear()
        self._owners.clear()


class _Network(NamedTuple):
    suffix: bytes
    scope: Scope
    reverse: tuple[bytes, ...]
    subnets: tuple[tuple[int, int, int], ...]


class Sight(NamedTuple):
    """What one asker sees: his own scope, those of his networks, and these networks' names as keys."""

    own: Scope
    networks: tuple[Scope, ...]
    suffixes: frozenset[bytes]

    def below(self, key: bytes) -> bool:
        """Whether there are names below this one: then it is there too, without records (RFC 8020)."""
        return key in self.own.parents or any(key in scope.parents for scope in self.networks)

    def keeps(self, key: bytes) -> bool:
        """Whether a name is that of one of the asker's networks, or stands below one: his network answers for it, and
        nobody else. Of networks he isn't in he can't tell their names from any others.
        """
        return any(suffix in self.suffixes for suffix in names.suffixes(key))


class Zone:
    """All scopes."""

    def __init__(self) -> None:
        self._networks: dict[str, _Network] = {}
        # (bits of an address, prefix length, prefix), and how many there are of each length
        self._subnets: Counter[tuple[int, int, int]] = Counter()
        self._lengths: Counter[tuple[int, int]] = Counter()
        self._reverse: Counter[bytes] = Counter()

    def add_network(
        self, network: str, name: str, subnets: Sequence[IPv4Network | IPv6Network] = ()
    ) -> None:
        """A network by its id; again: its name and subnets as they are now, its containers' names stay.

        ValueError if the name can't stand in DNS.
        """
        suffix = names.key_of(name)
        reverse = tuple(zone for subnet in subnets for zone in names.reverse_zones(subnet))
        known = self._networks.get(network)
        if known is not None and known.suffix != suffix and known.scope.entries:
            raise ValueError(f"network {name} has names under another name: take them out first")
        scope = known.scope if known is not None else Scope()
        self._unlist(known)
        self._networks[network] = fresh = _Network(suffix, scope, reverse, tuple(map(_prefix, subnets)))
        self._reverse.update(fresh.reverse)
        self._subnets.update(fresh.subnets)
        self._lengths.update(prefix[:2] for prefix in fresh.subnets)

    def remove_network(self, network: str) -> None:
        """A network with all its names; nothing if there is none."""
        gone = self._networks.pop(network, None)
        self._unlist(gone)
        if gone is not None:
            gone.scope.clear()

    def _unlist(self, network: _Network | None) -> None:
        if network is None:
            return
        lengths = [prefix[:2] for prefix in network.subnets]
        for counter, listed in (
            (self._reverse, network.reverse), (self._subnets, network.subnets), (self._lengths, lengths),
        ):
            for one in listed:
                counter[one] -= 1
                if not counter[one]:
                    del counter[one]

    def add(
        self, network: str, owner: str, labels: Sequence[str], addresses: Iterable[bytes], *, qualified: bool = True
    ) -> None:
        """An owner's names and addresses (4 or 16 octets) in a network, in place of what he had there.

        Not `qualified`: without NAME.NETWORK and without PTR records (host.vswitch.internal and its like).
        ValueError, and nothing changed, if a name can't stand in DNS; KeyError if there is no such network.
        """
        here = self._networks[network]
        wires = [names.wire(label) for label in labels]
        keys = [wire.lower() for wire in wires]
        records = []
        for packed in addresses:
            rtype = LABEL_OF_FAMILY[len(packed)]
            records += [(key, rtype, packed) for key in keys]
            if qualified and keys:
                records += [(key[:-1] + here.suffix, rtype, packed) for key in keys]
                pointed = wires[0][:-1] + here.suffix
                records.append((names.reverse_key(packed), names.PTR, pointed))
        if any(len(key) > names.NAME_BYTES for key, _, _ in records):
            raise ValueError(f"{labels[0][:80]!r} and its network's name are longer than a DNS name together")
        here.scope.put(owner, records)

    def remove(self, network: str, owner: str) -> None:
        """All names of an owner in a network; nothing if there are none."""
        if (here := self._networks.get(network)) is not None:
            here.scope.drop(owner)

    def sight(self, own: Scope, networks: Iterable[str]) -> Sight:
        """What an asker in these networks sees; networks that aren't there are left out."""
        known = [here for network in networks if (here := self._networks.get(network)) is not None]
        return Sight(own, tuple(here.scope for here in known), frozenset(here.suffix for here in known))

    def in_subnets(self, key: bytes) -> bool:
        """Whether a reverse name belongs to a subnet of any network: asked for by nobody else, and no one
        else's business.
        """
        if not key.endswith((names.V4_REVERSE, names.V6_REVERSE)):
            return False
        return any(suffix in self._reverse for suffix in names.suffixes(key))

    def owns(self, packed: bytes) -> bool:
        """Whether an address (4 or 16 octets, IPv4-mapped ones included) lies in a subnet of any network."""
        if packed.startswith(MAPPED) and len(packed) == 16:
            packed = packed[12:]
        bits, number = len(packed) * 8, int.from_bytes(packed, "big")
        lengths = [length for width, length in self._lengths if width == bits]
        return any((bits, length, number >> bits - length) in self._subnets for length in lengths)


def _prefix(subnet: IPv4Network | IPv6Network) -> tuple[int, int, int]:
    bits, length = subnet.max_prefixlen, subnet.prefixlen
    return bits, length, int(subnet.network_address) >> bits - length


def hosts(pairs: Iterable[tuple[str, bytes]]) -> Scope:
    """A container's own scope from --add-host: names and addresses. ValueError if a name can't stand in DNS."""
    scope = Scope()
    by_name: dict[bytes, list[bytes]] = {}
    for name, packed in pairs:
        by_name.setdefault(names.key_of(name), []).append(packed)
    scope.put("hosts", (
        (key, LABEL_OF_FAMILY[len(packed)], packed) for key, addresses in by_name.items() for packed in addresses
    ))
    return scope


def find(sight: Sight, key: bytes) -> list[Entry]:
    """All that an asker sees under a name; empty if there is no such name for him."""
    if (entry := sight.own.entries.get(key)) is not None:
        return [entry]
    return [entry for scope in sight.networks if (entry := scope.entries.get(key)) is not None]


def records(entries: Sequence[Entry], qtype: int, most: int) -> list[bytes]:
    """The records of a type under a name, up to `most`, in turning order; empty: NODATA."""
    if len(entries) == 1:
        holders = entries[0].get(qtype)
        return holders.next(most) if holders is not None else []
    found: dict[bytes, None] = {}
    for entry in entries:
        if (holders := entry.get(qtype)) is not None:
            found.update(dict.fromkeys(holders.next(most)))
    return list(found)[:most]
