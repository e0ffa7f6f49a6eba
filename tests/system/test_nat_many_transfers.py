# SPDX-License-Identifier: Apache-2.0
"""Hundreds of connections at once, out and in, with half-closes and resets: each byte arrives once, nothing is left."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import many_transfers
import pytest
from living_switch import LivingSwitch, Namespace, eventually

pytestmark = pytest.mark.root
PORT, BESIDE, HOST = "7000", "192.0.2.9", "192.0.2.1"
TRANSFERS = 1000


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[LivingSwitch]:
    """A switch that forgets closed connections soon."""
    settings = tmp_path / "vswitch.toml"
    settings.write_text("[nat]\ntcp_time_wait = 1\n")
    living = LivingSwitch(tmp_path, "--config", str(settings))
    try:
        living.start()
        yield living
    finally:
        living.close()


def program(*arguments: object) -> list[str]:
    return [sys.executable, many_transfers.__file__, *map(str, arguments)]


def reported(report: Path) -> dict[int, dict]:
    return {line["number"]: line for line in map(json.loads, report.read_text().splitlines())}


def test_every_byte_of_a_thousand_transfers_arrives_once(switch: LivingSwitch, client: Namespace, tmp_path: Path):
    container = switch.container("many", "-p", f"{PORT}:{PORT}")
    descriptors = f"/proc/{switch.process.pid}/fd"
    before = len(os.listdir(descriptors))
    reports = {name: tmp_path / name for name in ("served outside", "served inside", "asked outside", "asked inside")}
    with (
        client.serving(int(PORT), *program("serve", PORT, reports["served outside"])),
        container.serving(int(PORT), *program("serve", PORT, reports["served inside"])),
    ):
        half = TRANSFERS // 2
        asking = [
            container.start(*program("ask", BESIDE, PORT, half, 0, reports["asked inside"])),
            client.start(*program("ask", HOST, PORT, half, half, reports["asked outside"])),
        ]
        try:
            assert [process.wait(120) for process in asking] == [0, 0]
        finally:
            for process in asking:
                process.kill()
                process.wait()
        for asked, served in (("asked inside", "served outside"), ("asked outside", "served inside")):
            assert len(reported(reports[asked])) == half
            eventually(
                lambda served=served: len(reported(reports[served])) == half, f"{served}: every connection's end"
            )
    lines = [line for report in reports.values() for line in reported(report).values()]
    for line in lines:
        assert line["right"], line
        assert line["whole"] if line["ended"] == "end" else line["resets"], line
    assert sum(line["ended"] == "broken" for line in lines) > TRANSFERS // 5
    eventually(lambda: switch.json("flow", "ls") == [], "every flow to be forgotten")
    # fewer where the client that made the container was not quite gone when they were counted
    eventually(lambda: len(os.listdir(descriptors)) <= before, "every descriptor to be given back")
