# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the API tests."""
from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import Served, serve


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    """A switch in memory behind a real API, shared by a module's tests."""
    with serve(str(tmp_path_factory.mktemp("api"))) as running:
        yield running
