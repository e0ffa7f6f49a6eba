# SPDX-License-Identifier: Apache-2.0
"""Whole-product tests: vswitch-run, the client, real namespaces, real programs. They need root."""
from __future__ import annotations

from collections.abc import Iterator

import pytest
from living_switch import LivingSwitch


@pytest.fixture
def switch(tmp_path) -> Iterator[LivingSwitch]:
    """A running switch with its default network."""
    living = LivingSwitch(tmp_path)
    try:
        living.start()
        yield living
    finally:
        living.close()
