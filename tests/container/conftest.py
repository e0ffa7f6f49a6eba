# SPDX-License-Identifier: Apache-2.0
"""Fixtures: containers by root, by an ordinary user, or by both in turn; what was started is ended."""
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mini_containers import AS_ORDINARY, Containers


def _containers(prefix: list[str]) -> Iterator[Containers]:
    folder = Path(tempfile.mkdtemp(prefix="vt-container-"))
    folder.chmod(0o777)
    containers = Containers(folder, prefix)
    if prefix:
        probe = subprocess.run(
            [*prefix, sys.executable, "-c", "import vswitch.container._linux, vswitch.model"],
            env=containers.environment(), capture_output=True,
        )  # fmt: skip
        if probe.returncode:
            containers.show_source()
    yield containers
    containers.close()
    shutil.rmtree(folder)


@pytest.fixture
def by_root() -> Iterator[Containers]:
    yield from _containers([])


@pytest.fixture
def as_ordinary() -> Iterator[Containers]:
    yield from _containers(AS_ORDINARY)


@pytest.fixture(params=["root", "ordinary"])
def containers(request: pytest.FixtureRequest) -> Iterator[Containers]:
    yield from _containers(AS_ORDINARY if request.param == "ordinary" else [])
