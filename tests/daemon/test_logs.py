# SPDX-License-Identifier: Apache-2.0
"""How log lines look, and what they never contain."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator

import pytest

from vswitch.daemon import logs


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(style: str, write) -> list[str]:
    stream = io.StringIO()
    logs.set_up("info", style, stream)
    write(logging.getLogger("vswitch.test"))
    return stream.getvalue().splitlines()


def test_a_pipe_gets_one_json_object_per_line():
    (line,) = lines("auto", lambda log: log.warning("network %s is full", "blue"))
    fields = json.loads(line)
    assert (fields["level"], fields["logger"], fields["message"]) == (
        "warning",
        "vswitch.test",
        "network blue is full",
    )
    assert fields["time"].endswith("Z")


def test_text_has_time_level_and_message():
    (line,) = lines("text", lambda log: log.info("up"))
    clock, level, message = line.split()
    assert (len(clock), level, message) == (12, "info", "up")


def test_a_traceback_stays_with_its_line():
    def fail(log: logging.Logger) -> None:
        try:
            raise ValueError("broken\nin two")
        except ValueError:
            log.exception("it failed")

    (line,) = lines("json", fail)
    assert "ValueError: broken" in json.loads(line)["traceback"]
    first, *rest = lines("text", fail)
    assert first.endswith("it failed")
    assert rest
    assert all(row.startswith("    ") for row in rest)


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_peer_can_forge_a_line_or_steer_a_terminal(style):
    (line,) = lines(style, lambda log: log.info("name %s", "web\n12:00:00 error all lost\x1b[2J\u202e"))
    assert line.isprintable()
    assert "\\x1b" in line


def test_lower_levels_are_left_out():
    assert lines("text", lambda log: log.debug("noise")) == []


def test_the_level_can_be_changed_later():
    def write(log: logging.Logger) -> None:
        logs.set_level("debug")
        log.debug("now heard")

    assert len(lines("text", write)) == 1


def test_the_journal_gets_priorities(tmp_path, monkeypatch):
    with (tmp_path / "journal").open("w+") as stream:
        info = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
        logs.set_up("info", "json", stream)
        logging.getLogger("vswitch.test").error("broken")
        stream.seek(0)
        assert stream.read().startswith('<3>{"time"')
