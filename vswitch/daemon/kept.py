# SPDX-License-Identifier: Apache-2.0
"""TAPs in the service manager's store.

What control calls an endpoint's descriptor is `tap.<endpoint id>` there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from vswitch.daemon.notify import Inherited, Notifier

log = logging.getLogger(__name__)
PREFIX = "tap."


class KeptTaps:
    """control.edges.Keeper.

    Every attached TAP is kept twice, here and by the manager, until it is let go on purpose.
    """

    def __init__(self, notifier: Notifier):
        self._notifier = notifier

    def store(self, name: str, fd: int) -> None:
        """Have the TAP of the endpoint `name` kept."""
        self._notifier.store(PREFIX + name, fd)

    def forget(self, name: str) -> None:
        """Have it kept no more."""
        self._notifier.forget(PREFIX + name)


def returned_taps(inherited: Iterable[Inherited], notifier: Notifier) -> dict[str, int]:
    """endpoint id → descriptor of what the manager gave back.

    Anything else is closed and forgotten there too.
    """
    taps: dict[str, int] = {}
    for name, fd in inherited:
        endpoint = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and endpoint not in taps:
            taps[endpoint] = fd
            continue
        log.warning("the service manager kept a descriptor named %s, which is no use", name)
        os.close(fd)
        if not name.startswith(PREFIX):
            notifier.forget(name)
    return taps
