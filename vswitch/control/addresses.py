# SPDX-License-Identifier: Apache-2.0
"""The address pool of a subnet as the DHCP engine sees it (dhcp.scope.Addresses): one judge of who has an
address for both.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from vswitch.control.ipam import AddressPool
from vswitch.model import Refused

HOLDER = "a DHCP lease"


class LeasableAddresses:
    """What clients that no address is assigned to may get: whatever is free in the pool's range."""

    def __init__(self, pool: AddressPool):
        self._pool = pool

    def peek(self) -> IPv4Address | None:
        """The address the pool would hand out next."""
        return self._pool.peek()  # type: ignore[return-value]

    def reserve(self, address: IPv4Address) -> bool:
        """Hold an address; False if somebody holds it, or the pool hands out no such address."""
        if address == self._pool.peek():
            self._pool.allocate(HOLDER)
            return True
        if not self._pool.hands_out(address):
            return False
        try:
            self._pool.reserve(address, HOLDER)
        except Refused:
            return False
        return True

    def release(self, address: IPv4Address) -> None:
        """Give back what `reserve` took; what anybody else holds stays held."""
        if self._pool.holder(address) == HOLDER:
            self._pool.release(address)
