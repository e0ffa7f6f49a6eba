# SPDX-License-Identifier: Apache-2.0
"""Which address a container gets. Pure values in and out (DESIGN 7).

An AddressPool knows who holds which address of one subnet, by a name that a refusal can show ("in use by
web"). It hands out the lowest free address above the one it handed out last and wraps around at the end of
its range, as Docker does: an address that has just become free is not given at once to somebody else, whose
neighbours still know its old owner. What is held stays held until `release`: a stopped container's address is
never handed out.

The free part of the range is kept as sorted gaps between held addresses, never as one entry per address: a /8
costs what a /24 costs, and the next free address is one binary search away. A pool is rebuilt after a restart
by reserving every stored address and handing in the stored `last`; it then goes on as if there had been no
restart.
"""

from __future__ import annotations

from bisect import bisect_right

from vswitch.control.subnets import Address, SubnetPlan, refuse_unusable, usable_span
from vswitch.model import Refused


class AddressPool:
    """The addresses of one subnet. Not thread-safe: it belongs to the event loop."""

    def __init__(self, plan: SubnetPlan, last: Address | None = None):
        """`last` is what was handed out last before a restart."""
        self.plan = plan
        self._kind = type(plan.gateway)
        self._first, self._end = _range(plan)
        self._starts: list[int] = []  # of the gaps, sorted
        self._ends: dict[int, int] = {}  # a gap's start → its last address
        if self._first <= self._end:
            self._starts, self._ends = [self._first], {self._first: self._end}
        self._holders: dict[int, str] = {}
        self._last = self._first - 1 if last is None else int(last)
        self.reserve(plan.gateway, "the gateway")
        for name, address in plan.aux_addresses.items():
            self.reserve(address, f"aux address {name}")

    @property
    def last(self) -> Address | None:
        """What was handed out last: to be stored, and handed in after a restart."""
        return self._kind(self._last) if self._last >= self._first else None

    @property
    def held(self) -> int:
        """How many addresses are held, the gateway's included."""
        return len(self._holders)

    @property
    def full(self) -> bool:
        """Whether `allocate` would be refused."""
        return not self._starts

    def allocate(self, holder: str) -> Address:
        """The next free address, now held by `holder`. Refused with 507 if there is none."""
        if self.full:
            raise Refused(f"no address is free in {self}: remove a container or use another network", 507)
        index, number = self._next()
        self._take(index, number)
        self._holders[number] = holder
        self._last = number
        return self._kind(number)

    def peek(self) -> Address | None:
        """What `allocate` would hand out; None if there is nothing."""
        return None if self.full else self._kind(self._next()[1])

    def hands_out(self, address: Address) -> bool:
        """Whether `allocate` could ever give this address."""
        return self._first <= int(address) <= self._end

    def reserve(self, address: Address, holder: str) -> None:
        """Hold one particular address. Refused if nobody can hold it or another does."""
        refuse_unusable(address, self.plan.subnet, "address")
        number = int(address)
        if (other := self._holders.get(number)) is not None:
            raise Refused(f"address {address} is in use by {other}: choose another", 409)
        index = self._gap_of(number)
        if index is not None:
            self._take(index, number)
        self._holders[number] = holder

    def release(self, address: Address) -> None:
        """Let nobody hold it any more; a second time changes nothing."""
        number = int(address)
        if self._holders.pop(number, None) is not None and self._first <= number <= self._end:
            self._give_back(number)

    def replan(self, plan: SubnetPlan) -> None:
        """Another range, or other reserved addresses, of the same subnet and gateway; what is held stays held.

        Refused if somebody has an address that shall be reserved; then nothing has changed.
        """
        reserved = {int(address): f"aux address {name}" for name, address in plan.aux_addresses.items()}
        former = {int(address) for address in self.plan.aux_addresses.values()}
        for number in reserved:
            if number not in former and (other := self._holders.get(number)) is not None:
                raise Refused(f"address {self._kind(number)} is in use by {other}: choose another", 409)
        for number in former:
            self._holders.pop(number, None)
        self._holders.update(reserved)
        self.plan = plan
        self._first, self._end = _range(plan)
        self._starts, self._ends = [], {}
        start = self._first
        for number in sorted(number for number in self._holders if self._first <= number <= self._end):
            self._add_gap(start, number - 1)
            start = number + 1
        self._add_gap(start, self._end)

    def _add_gap(self, start: int, end: int) -> None:
        if start <= end:
            self._starts.append(start)
            self._ends[start] = end

    def holder(self, address: Address) -> str | None:
        """Who holds it."""
        return self._holders.get(int(address))

    def held_by(self, holder: str) -> list[Address]:
        """What it holds."""
        return [self._kind(number) for number, other in self._holders.items() if other == holder]

    def __str__(self) -> str:
        if (self._first, self._end) == usable_span(self.plan.subnet):
            return str(self.plan.subnet)
        return f"{self.plan.ip_range} of {self.plan.subnet}"

    def _next(self) -> tuple[int, int]:
        """(gap, address) of the lowest free address above the last one, from the range's start if there is
        none.
        """
        after = self._last + 1
        index = self._gap_of(after)
        if index is not None:
            return index, after
        index = bisect_right(self._starts, after) % len(self._starts)
        return index, self._starts[index]

    def _gap_of(self, number: int) -> int | None:
        index = bisect_right(self._starts, number) - 1
        return index if index >= 0 and number <= self._ends[self._starts[index]] else None

    def _take(self, index: int, number: int) -> None:
        """Cut `number` out of the gap at `index`."""
        start = self._starts[index]
        end = self._ends.pop(start)
        rest = []
        if start < number:
            rest.append(start)
            self._ends[start] = number - 1
        if number < end:
            rest.append(number + 1)
            self._ends[number + 1] = end
        self._starts[index : index + 1] = rest

    def _give_back(self, number: int) -> None:
        """Make `number` a gap again, joined with the gaps that touch it."""
        low = high = bisect_right(self._starts, number)
        start = end = number
        if low and self._ends[self._starts[low - 1]] == number - 1:
            low, start = low - 1, self._starts[low - 1]
        if high < len(self._starts) and self._starts[high] == number + 1:
            high, end = high + 1, self._ends.pop(number + 1)
        self._starts[low:high] = [start]
        self._ends[start] = end


def _range(plan: SubnetPlan) -> tuple[int, int]:
    """First and last address to hand out."""
    first, last = usable_span(plan.subnet)
    if plan.ip_range is None:
        return first, last
    return max(first, int(plan.ip_range.network_address)), min(last, int(plan.ip_range.broadcast_address))
