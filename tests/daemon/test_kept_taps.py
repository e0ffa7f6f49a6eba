# SPDX-License-Identifier: Apache-2.0
"""What control calls an endpoint is `tap.<endpoint>` at the service manager."""

from __future__ import annotations

import os

import pytest

from vswitch.daemon.kept import KeptTaps, returned_taps
from vswitch.daemon.notify import Inherited


class RememberingNotifier:
    """Of a Notifier, what is stored and forgotten."""

    def __init__(self) -> None:
        self.said: list[tuple] = []

    def store(self, name: str, fd: int) -> None:
        self.said.append(("store", name, fd))

    def forget(self, name: str) -> None:
        self.said.append(("forget", name))


def test_names_get_their_prefix():
    notifier = RememberingNotifier()
    kept = KeptTaps(notifier)
    kept.store("e1", 7)
    kept.forget("e1")
    assert notifier.said == [("store", "tap.e1", 7), ("forget", "tap.e1")]


def test_taps_come_back_by_endpoint_and_the_rest_is_closed_and_forgotten():
    notifier = RememberingNotifier()
    tap, again, other = (os.memfd_create("x") for _ in range(3))
    inherited = [Inherited("tap.e1", tap), Inherited("stored", other), Inherited("tap.e1", again)]
    assert returned_taps(inherited, notifier) == {"e1": tap}
    assert notifier.said == [("forget", "stored")]
    for fd in (again, other):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    os.close(tap)
