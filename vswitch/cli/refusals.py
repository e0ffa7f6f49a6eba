# SPDX-License-Identifier: Apache-2.0
"""What our own hands could not do (open a namespace, make a container), said like what the switch refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from vswitch.control.api.client import ClientError
from vswitch.model import Refused


class Failed(click.ClickException):
    """A line and an exit status other than 1."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def as_client_errors() -> Iterator[None]:
    """Refusals of our own and of the kernel become ClientErrors."""
    try:
        yield
    except Refused as refusal:
        raise ClientError(str(refusal), refusal.status) from None
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        raise ClientError(f"{where}{problem.strerror or problem}") from None


@contextmanager
def failing_with(exit_code: int) -> Iterator[None]:
    """Whatever is refused inside ends the program with `exit_code`."""
    try:
        with as_client_errors():
            yield
    except ClientError as refusal:
        raise Failed(str(refusal), exit_code) from None
