# SPDX-License-Identifier: Apache-2.0
"""Whole-product tests: vswitch-run, the client, real namespaces, real programs. They need root."""
from __future__ import annotations

from collections.abc import Iterator

import pytest
from living_switch import LivingSwitch, Namespace, machine_beside


@pytest.fixture
def switch(tmp_path) -> Iterator[LivingSwitch]:
    """A running switch with its default network."""
    living = LivingSwitch(tmp_path)
    try:
        living.start()
        yield living
    finally:
        living.close()


@pytest.fixture
def client(switch: LivingSwitch) -> Iterator[Namespace]:
    """A machine beside the host (`machine_beside`)."""
    with machine_beside(switch.host, switch.wire) as namespace:
        yield namespace
