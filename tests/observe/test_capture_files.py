# SPDX-License-Identifier: Apache-2.0
"""The folder of rotating files: names, order, how much stays, and who else may write there."""
from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.observe.outputs import Folder, Rotation, Stream, begun_at, file_name

NOON_NS = 1_735_732_800_123_456_789
NOON_NAME = "vswitch-20250101T120000.123456Z.pcapng"


def write_one(folder: Folder, now_ns: int, content: bytes = b"x") -> str:
    fd = folder.open_next(now_ns)
    os.write(fd, content)
    folder.end_section(fd, 0)
    return os.path.basename(folder.path)


@pytest.fixture
def folder(tmp_path):
    folder = Folder(str(tmp_path / "log"), Rotation(1 << 20, 3))
    yield folder
    folder.close()


def test_a_file_is_named_by_its_first_moment_and_private(folder):
    assert write_one(folder, NOON_NS) == NOON_NAME
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(folder.folder).st_mode) == 0o700


def test_the_oldest_files_make_room_for_the_newest(folder):
    made = [write_one(folder, NOON_NS + number * 10**9) for number in range(7)]
    assert folder.files() == made[-3:]


def test_files_of_earlier_runs_count_too(tmp_path, folder):
    for number in range(5):
        write_one(folder, NOON_NS + number * 10**9)
    folder.close()
    again = Folder(folder.folder, Rotation(1 << 20, 2))
    newest = write_one(again, NOON_NS + 10**12)
    assert len(again.files()) == 2 and again.files()[-1] == newest
    again.close()
    folder._lock = os.open(tmp_path, os.O_RDONLY)  # what the fixture closes


def test_names_stay_in_order_when_the_clock_is_set_back(folder):
    made = [write_one(folder, NOON_NS - number * 10**12) for number in range(10)]
    assert made == sorted(made) and folder.files() == made[-3:]


@given(st.integers(0, 4 * 10**18), st.none() | st.integers(0, 4 * 10**18))
def test_a_name_tells_its_time_and_comes_after_the_newest(now_ns, newest_ns):
    newest = None if newest_ns is None else file_name(newest_ns, None)
    name = file_name(now_ns, newest)
    assert newest is None or name > newest
    if newest_ns is None or newest_ns // 1000 < now_ns // 1000:
        began = begun_at(name)
        assert int(began.timestamp()) * 10**6 + began.microsecond == now_ns // 1000


def test_what_isnt_ours_is_left_alone(folder):
    os.makedirs(os.path.join(folder.folder, "vswitch-20200101T000000.000000Z.pcapng"))
    others = ["notes", "vswitch-20201301T000000.000000Z.pcapng", "vswitch-20200101T000000.000000Z.pcapng.gz"]
    for name in others:
        open(os.path.join(folder.folder, name), "w").close()
    for number in range(5):
        write_one(folder, NOON_NS + number * 10**9)
    assert len(folder.files()) == 3
    assert set(others) < set(os.listdir(folder.folder))


def test_a_folder_that_was_removed_is_made_again(folder):
    os.rmdir(folder.folder)
    assert write_one(folder, NOON_NS) == NOON_NAME


def test_a_second_capture_into_the_same_folder_is_refused(folder):
    with pytest.raises(BlockingIOError, match="another capture writes here: name another folder"):
        Folder(folder.folder)


def test_a_folder_is_free_again_after_its_capture(tmp_path):
    Folder(str(tmp_path)).close()
    Folder(str(tmp_path)).close()


def test_a_folder_that_is_a_file_is_refused_and_leaves_no_descriptor(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        Folder(str(tmp_path / "file"))
    Folder(str(tmp_path)).close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_unfinished_block_is_taken_off_again(folder, tmp_path):
    fd = folder.open_next(NOON_NS)
    os.write(fd, b"whole blocks and a ha")
    folder.end_section(fd, 4)
    with open(folder.path, "rb") as file:
        assert file.read() == b"whole blocks and "
    stream = Stream(os.open(tmp_path / "stream", os.O_RDWR | os.O_CREAT))
    fd = stream.open_next(NOON_NS)
    os.write(fd, b"whole blocks and a ha")
    stream.end_section(fd, 4)
    stream.close()
    assert (tmp_path / "stream").read_bytes() == b"whole blocks and "


@pytest.mark.parametrize(
    ("text", "rotation"),
    [
        ("100Mx10", Rotation(100 << 20, 10)),
        ("1Gx1", Rotation(1 << 30, 1)),
        ("2048kx5", Rotation(2 << 20, 5)),
        ("1048576x2", Rotation(1 << 20, 2)),
    ],
)
def test_a_rotation_reads_as_size_times_count(text, rotation):
    assert Rotation.parse(text) == rotation


@pytest.mark.parametrize(
    "text", ["", "100M", "x10", "100Mx", "100mx10", "-1Mx3", "1.5Gx2", "1Mx1 ", "٣Mx٣", "1TBx1"]
)
def test_nonsense_is_no_rotation(text):
    with pytest.raises(ValueError, match="write 100Mx10"):
        Rotation.parse(text)


@pytest.mark.parametrize("text", ["1023kx10", "1Mx0", "0Mx1"])
def test_a_rotation_can_be_too_small(text):
    with pytest.raises(ValueError, match="too small: 1Mx1"):
        Rotation.parse(text)
