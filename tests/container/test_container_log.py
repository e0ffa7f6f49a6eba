# SPDX-License-Identifier: Apache-2.0
"""The log of a detached container: cap, rotation, and a disk that takes no more."""
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.container.log import LogFile, Pump


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.log"


def test_it_appends_to_what_is_there(path: Path):
    path.write_text("before\n")
    log = LogFile(str(path))
    log.append(b"after\n")
    assert path.read_text() == "before\nafter\n"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_new_log_is_the_owners_alone(path: Path):
    LogFile(str(path)).append(b"x")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_file_becomes_the_older_generation_at_a_lines_end(path: Path):
    log = LogFile(str(path), cap_bytes=20)
    log.append(b"first line\nsecond line\nthird\n")
    assert Path(f"{path}.1").read_text() == "first line\n"
    assert path.read_text() == "second line\nthird\n"


def test_only_one_older_generation_is_kept(path: Path):
    log = LogFile(str(path), cap_bytes=10)
    for number in range(9):
        log.append(b"line %d\n" % number)
    assert (Path(f"{path}.1").read_text(), path.read_text()) == ("line 7\n", "line 8\n")
    assert sorted(p.name for p in path.parent.iterdir()) == ["c.log", "c.log.1"]


def test_a_log_that_is_full_already_rotates_first(path: Path):
    path.write_text("x" * 30 + "\n")
    LogFile(str(path), cap_bytes=20).append(b"new\n")
    assert path.read_text() == "new\n"


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_the_two_generations_end_with_what_was_written_last(tmp_path_factory, pieces: list[bytes]):
    path = tmp_path_factory.mktemp("log") / "c.log"
    log = LogFile(str(path), cap_bytes=50)
    for piece in pieces:
        log.append(piece)
    log.close()
    older = Path(f"{path}.1")
    kept = (older.read_bytes() if older.exists() else b"") + path.read_bytes()
    assert b"".join(pieces).endswith(kept)
    assert len(kept) >= min(50, len(b"".join(pieces))) - 40
    assert path.stat().st_size <= 50 and (not older.exists() or older.stat().st_size <= 50)


def test_a_disk_that_is_full_loses_text_and_says_so_afterwards(path: Path):
    log = LogFile(str(path))
    log.append(b"kept\n")
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        log.append(b"1234567\n")
        log.append(b"lost\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.append(b"back\n")
    assert path.read_text() == (
        "kept\n123[vswitch: 10 bytes of output are missing here: File too large]\nback\n"
    )


def test_a_folder_that_is_missing_is_survived_and_used_once_it_is_there(tmp_path: Path):
    log = LogFile(str(tmp_path / "later" / "c.log"))
    log.append(b"lost\n")
    (tmp_path / "later").mkdir()
    log.append(b"kept\n")
    text = (tmp_path / "later" / "c.log").read_text()
    assert text == "[vswitch: 5 bytes of output are missing here: No such file or directory]\nkept\n"


def test_dev_full_takes_everything_without_a_word():
    log = LogFile("/dev/full")
    for _ in range(100):
        log.append(b"x" * 1000)
    log.close()


def test_the_pump_moves_what_is_there_and_sees_the_end(path: Path):
    reading, writing = os.pipe()
    pump = Pump(reading, LogFile(str(path)))
    assert pump.pump()  # nothing yet
    os.write(writing, b"hello\n")
    assert pump.pump()
    os.close(writing)
    assert not pump.pump()
    os.close(reading)
    assert path.read_text() == "hello\n"


def test_the_supervisors_own_words_go_there_too(path: Path):
    log = LogFile(str(path))
    print("vswitch: a word", file=log, flush=True)
    assert path.read_text() == "vswitch: a word\n"
