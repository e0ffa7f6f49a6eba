# SPDX-License-Identifier: Apache-2.0
"""The C programs of tools/yardsticks, compiled into the scratch folder the first time one is asked for."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sandbox import Sandbox

SOURCES = Path(__file__).resolve().parents[1] / "yardsticks"
FLAGS = ["-O2", "-Wall", "-Wextra"]


def yardstick(sandbox: Sandbox, name: str) -> Path:
    """The program of that name, ready to run."""
    program = sandbox.scratch / f"yardstick-{name}"
    if not program.exists():
        sandbox.run(["gcc", *FLAGS, "-o", program, SOURCES / f"{name}.c"])
    return program
