# SPDX-License-Identifier: Apache-2.0
"""One network with two neighbours whom the gateway knows, and what it says to them."""

from __future__ import annotations

import reference
from frames import Frame
from memory_switch import MemoryHost, MemorySwitch

A4, B4, GATEWAY4, STRANGER4, OUTSIDE4 = "172.17.0.2", "172.17.0.3", "172.17.0.1", "172.17.0.99", "192.0.2.1"
A6, B6, GATEWAY6, STRANGER6, OUTSIDE6 = "fd00::2", "fd00::3", "fd00::1", "fd00::99", "2001:db8::1"
LINK_LOCAL = "fe80::42:acff:fe11:1"  # of memory_switch.GATEWAY


class Street:
    """Assigned hosts `a` and `b` with their addresses bound, and a `watcher` that may have any."""

    def __init__(self, switch: MemorySwitch):
        self.switch = switch
        self.a, self.b = switch.host(assigned=True), switch.host(assigned=True)
        self.watcher = switch.host()
        for host, addresses in ((None, (GATEWAY4, GATEWAY6)), (self.a, (A4, A6)), (self.b, (B4, B6))):
            for address in addresses:
                switch.bind(address, host)

    def answers(self, frame: bytes, *, asker: MemoryHost | None = None) -> list[Frame]:
        """What came back to the asker; nobody else got anything, and every checksum is right."""
        asker = asker or self.a
        got = self.switch.delivered(asker, frame)
        assert set(got) <= {asker.index}, got
        for answer in got.get(asker.index, []):
            assert reference.wrong_checksums(answer) == []
            assert answer[6:12] != asker.mac
        return got.get(asker.index, [])

    def dies(
        self, frame: bytes, reason: str, *, asker: MemoryHost | None = None, answers: int = 0
    ) -> list[Frame]:
        """The answers to a frame that is dropped for `reason`."""
        asker = asker or self.a
        before = asker.drops.get(reason, 0)
        got = self.answers(frame, asker=asker)
        assert len(got) == answers and asker.drops.get(reason, 0) == before + 1, (got, asker.drops)
        return got
