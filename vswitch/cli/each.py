# SPDX-License-Identifier: Apache-2.0
"""One request for each of several names.

A name that is refused does not keep the others from being served.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from vswitch.control.api.client import ClientError, NoSwitch


def each(names: Iterable[str], request: Callable[[str], Any]) -> tuple[list[Any], int]:
    """What `request` answered for the names that were granted, and the exit status.

    Refusals are said at once.
    """
    answers, status = [], 0
    for name in names:
        try:
            answers.append(request(name))
        except NoSwitch:
            raise
        except ClientError as refusal:
            print(f"vswitch: {refusal}", file=sys.stderr)
            status = 1
    return answers, status


def each_named(names: Iterable[str], request: Callable[[str], Any]) -> int:
    """`each`, printing every name whose request was granted; the exit status."""

    def request_and_say(name: str) -> None:
        request(name)
        print(name)

    return each(names, request_and_say)[1]
