# SPDX-License-Identifier: Apache-2.0
"""The capture's thread: live changes of who is at a port, slow and broken outputs, idling, stopping."""
from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from pcapng_reader import EPB, IDB, ISB, SHB, named_packets, packets, read_blocks

from vswitch.observe.capture import CHANGES_CAP, CaptureWriter, Endpoint
from vswitch.observe.outputs import Folder, Rotation, Stream

FRAME = b"\xff" * 6 + bytes(range(54))
WEB, DATABASE = Endpoint("web/eth0", b"\2\0\0\0\0\1", ("172.17.0.2/16",)), Endpoint("db/eth0")


def until(condition, what: str, deadline_s: float = 10.0) -> None:
    """Polls; fails with `what` when the deadline passes."""
    give_up_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {deadline_s} s: {what}"
        time.sleep(0.001)


def offer(writer: CaptureWriter, port: int = 1, packet_id: int = 0, frame: bytes = FRAME) -> bool:
    return writer.capture.offer(frame, port=port, direction=1, time_ns=time.time_ns(), packet_id=packet_id)


class Recording:
    """A writer into a file, which `raw` reads."""

    def __init__(self, path, **settings):
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        settings = {"endpoints": {1: WEB, 2: DATABASE}} | settings
        self.writer = CaptureWriter(Stream(fd), label="test", **settings)

    def raw(self) -> bytes:
        return self.path.read_bytes()

    def packets(self) -> int:
        return self.writer.statistics().written


@pytest.fixture
def recording(tmp_path):
    recording = Recording(tmp_path / "x.pcapng")
    yield recording
    recording.writer.stop(0.1)


@pytest.fixture
def pipe():
    """A writer into a pipe whose reader only reads when told to, and the reader's end."""
    reader, writing_end = os.pipe()
    writer = CaptureWriter(Stream(writing_end), label="pipe", endpoints={1: WEB})
    yield writer, reader
    writer.stop(0.1)
    try:
        os.close(reader)
    except OSError:
        pass


def read_all(reader: int) -> bytes:
    chunks = []
    while chunk := os.read(reader, 1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)


def test_the_thread_is_named_after_its_capture(recording):
    recording.writer.start()
    assert "capture-test" in [thread.name for thread in threading.enumerate()]


def test_records_appear_while_the_capture_runs(recording):
    recording.writer.start()
    for number in range(3):
        assert offer(recording.writer, packet_id=number)
        until(lambda at=number: len(packets(recording.raw())) == at + 1, "the record is in the file")


def test_stop_writes_what_is_in_the_ring_and_every_interfaces_statistics(recording):
    recording.writer.start()
    for number in range(1000):
        offer(recording.writer, 1 + number % 2, number)
    before_ns = time.time_ns()
    statistics = recording.writer.stop()
    blocks = read_blocks(recording.raw())
    assert [block.number(5) for block in blocks if block.kind == EPB] == list(range(1000))
    ends = [block for block in blocks if block.kind == ISB]
    assert [(end.interface, end.number(4), end.number(5)) for end in ends] == [(0, 500, 0), (1, 500, 0)]
    assert all(before_ns <= end.time_ns <= time.time_ns() for end in ends)
    assert blocks[-2:] == ends
    assert (statistics.written, statistics.dropped, statistics.ended) == (1000, 0, "stopped")
    assert statistics.written_bytes == len(recording.raw())


def test_what_was_lost_after_the_last_packet_is_in_the_statistics_at_the_end(tmp_path):
    recording = Recording(tmp_path / "x.pcapng", snaplen=128, ring_bytes=1 << 16)
    kept = 0
    while offer(recording.writer, packet_id=kept):
        kept += 1
    recording.writer.stop()
    (end,) = [block for block in read_blocks(recording.raw()) if block.kind == ISB]
    assert (end.number(4), end.number(5)) == (kept + 1, 1)


def test_a_capture_without_a_packet_is_a_whole_file(recording):
    recording.writer.start()
    recording.writer.stop()
    assert [block.kind for block in read_blocks(recording.raw())] == [SHB]


def test_a_capture_that_was_never_started_still_writes_what_it_was_given(recording):
    offer(recording.writer)
    recording.writer.stop()
    assert len(packets(recording.raw())) == 1


def test_what_is_known_of_a_port_is_in_its_description(recording):
    offer(recording.writer)
    recording.writer.stop()
    description = next(block for block in read_blocks(recording.raw()) if block.kind == IDB)
    assert description.options == [
        (2, b"web/eth0"), (4, bytes([172, 17, 0, 2, 255, 255, 0, 0])), (6, b"\2\0\0\0\0\1"), (9, b"\x09")
    ]  # fmt: skip


def test_an_unknown_port_goes_by_its_number_until_it_is_named(recording):
    recording.writer.start()
    offer(recording.writer, 9, 1)
    recording.writer.update(9, Endpoint("late/eth0"))
    offer(recording.writer, 9, 2)
    recording.writer.update(9, None)
    offer(recording.writer, 9, 3)
    recording.writer.stop()
    assert named_packets(recording.raw()) == [("port-9", 1), ("late/eth0", 2), ("port-9", 3)]


@pytest.mark.parametrize("running", [True, False])
def test_an_update_divides_the_records_exactly_where_it_was_made(recording, running):
    if running:
        recording.writer.start()
    expected = []
    for number in range(3000):
        if number % 10 == 0:
            recording.writer.update(1, Endpoint(f"c{number}/eth0"))
        offer(recording.writer, 1, number)
        expected.append((f"c{number - number % 10}/eth0", number))
    recording.writer.stop()
    assert named_packets(recording.raw()) == expected


def test_an_update_that_changes_nothing_adds_no_interface(recording):
    recording.writer.start()
    for number in range(5):
        recording.writer.update(1, WEB)
        offer(recording.writer, 1, number)
    recording.writer.stop()
    assert [block.kind for block in read_blocks(recording.raw())].count(IDB) == 1


def test_updates_behind_a_reader_who_takes_nothing_are_capped(pipe):
    writer, _ = pipe
    while offer(writer, frame=bytes(60000)):
        pass
    writer.start()
    until(lambda: writer.capture.written > 0, "the pipe is full")
    for number in range(CHANGES_CAP + 100):
        writer.update(number, Endpoint(f"c{number}/eth0"))
    until(lambda: not writer._incoming and len(writer._changes) == CHANGES_CAP, "the cap holds")


def test_a_bad_address_is_refused_where_it_is_given(recording):
    with pytest.raises(ValueError, match="does not appear to be"):
        recording.writer.update(1, Endpoint("web/eth0", None, ("300.1.1.1/8",)))


def test_an_idle_capture_sleeps_and_uses_no_time(recording):
    recording.writer.start()
    offer(recording.writer)
    until(lambda: recording.packets() == 1 and recording.writer.capture.asleep, "it sleeps")
    task = next(task for task in tasks() if task not in TASKS_AT_START)
    settled_at = time.monotonic() + 0.1  # the second look is over
    until(lambda: time.monotonic() > settled_at, "time passes")
    before = switches(task)
    later = time.monotonic() + 0.3
    until(lambda: time.monotonic() > later, "time passes")
    assert switches(task) == before
    offer(recording.writer)
    until(lambda: recording.packets() == 2, "it wakes for the next record")


TASKS_AT_START: set[str] = set()


@pytest.fixture(autouse=True)
def note_tasks():
    TASKS_AT_START.clear()
    TASKS_AT_START.update(tasks())


def tasks() -> list[str]:
    return os.listdir("/proc/self/task")


def switches(task: str) -> int:
    """How often that thread went to sleep or was put aside."""
    with open(f"/proc/self/task/{task}/status") as status:
        return sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)


def test_records_are_written_while_python_is_busy(recording):
    recording.writer.start()
    offer(recording.writer)
    until(lambda: recording.packets() == 1 and recording.writer.capture.asleep, "it sleeps")
    before = recording.path.stat().st_mtime_ns
    offer(recording.writer)
    sum(range(40_000_000))  # one long call that never lets go of the GIL
    ended_ns = time.time_ns()
    assert before < recording.path.stat().st_mtime_ns < ended_ns - 100_000_000


def test_a_reader_at_the_other_end_of_a_pipe_sees_packets_live_and_the_end(pipe):
    writer, reader = pipe
    writer.start()
    offer(writer, packet_id=1)
    raw = b""
    while b"web/eth0" not in raw or len(packets(raw)) < 1:
        raw += os.read(reader, 1 << 16)
    writer.stop()
    raw += read_all(reader)
    assert [block.kind for block in read_blocks(raw)] == [SHB, IDB, EPB, ISB]


def test_a_reader_at_the_other_end_of_a_socket_works_too():
    ours, theirs = socket.socketpair()
    writer = CaptureWriter(Stream(ours.detach()), label="socket")
    writer.start()
    for number in range(2000):
        offer(writer, packet_id=number)
    received = bytearray()
    taker = threading.Thread(target=lambda: received.extend(theirs.makefile("rb").read()))
    taker.start()
    writer.stop()
    taker.join()
    assert [packet.number(5) for packet in packets(bytes(received))] == list(range(2000))
    theirs.close()


def test_a_reader_who_takes_nothing_holds_up_neither_the_producer_nor_the_stop(pipe):
    writer, _ = pipe
    writer.start()
    offered = 0
    while writer.capture.dropped < 1000:
        offered += 1
        offer(writer, frame=bytes(1500))
    began = time.monotonic()
    statistics = writer.stop(grace_s=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert statistics.ended == "stopped before everything was written"
    assert 0 < statistics.written < offered
    assert statistics.written + statistics.dropped == offered


def test_a_slow_reader_gets_everything_within_the_grace(pipe):
    writer, reader = pipe
    offered = 3000
    for number in range(offered):
        assert offer(writer, packet_id=number, frame=bytes(2000))
    writer.start()
    until(lambda: writer.capture.written > 100, "the pipe is full")
    received = bytearray()
    taker = threading.Thread(target=lambda: received.extend(read_all(reader)))
    taker.start()
    statistics = writer.stop(grace_s=10)
    taker.join()
    assert statistics.ended == "stopped"
    assert [packet.number(5) for packet in packets(bytes(received))] == list(range(offered))


@pytest.mark.parametrize("busy", [False, True])
def test_a_reader_who_leaves_ends_the_capture_even_when_nothing_is_sent(busy):
    reader, writing_end = os.pipe()
    told = []
    writer = CaptureWriter(Stream(writing_end), label="pipe", on_end=told.append)
    writer.start()
    until(lambda: writer.statistics().written_bytes > 0, "the header is written")
    if not busy:
        until(lambda: writer.capture.asleep, "it sleeps")
    os.close(reader)
    if busy:
        offer(writer)
    until(lambda: told, "somebody is told")
    assert told == ["the reader has gone"]
    writer.update(1, WEB)
    assert writer.stop().ended == "the reader has gone"


def test_control_isnt_told_of_an_end_that_it_asked_for(tmp_path):
    told = []
    recording = Recording(tmp_path / "x", on_end=told.append)
    recording.writer.start()
    recording.writer.stop()
    assert told == []


def test_a_full_disk_drops_counts_says_so_once_and_goes_on_when_there_is_room(tmp_path, caplog):
    path = tmp_path / "x.pcapng"
    place = os.open(path, os.O_RDWR | os.O_CREAT)
    room = os.dup(place)
    writer = CaptureWriter(Stream(place), label="disk", snaplen=128, ring_bytes=1 << 16, retry_s=0.01)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, place)
    with caplog.at_level(logging.INFO):
        writer.start()
        until(lambda: writer.statistics().trouble, "it notices")
        assert writer.statistics().trouble == "No space left on device"
        offered = 0
        while writer.statistics().dropped < 500:
            offered += 1
            offer(writer, packet_id=offered)
        os.dup2(room, place)
        until(lambda: writer.statistics().trouble is None, "it goes on")
        offered += 1
        assert offer(writer, packet_id=offered)
        statistics = writer.stop()
    assert len(caplog.records) == 2 and "No space left" in caplog.text and "goes on" in caplog.text
    assert statistics.written + statistics.dropped == offered
    found = packets(path.read_bytes())
    assert found[-1].number(5) == offered and len(found) == statistics.written
    assert sum(packet.number(4) or 0 for packet in found) == statistics.dropped
    os.close(full)
    os.close(room)


def test_stop_doesnt_wait_for_a_full_disk(tmp_path):
    writer = CaptureWriter(Stream(os.open("/dev/full", os.O_WRONLY)), label="disk", retry_s=60)
    writer.start()
    offer(writer)
    until(lambda: writer.statistics().trouble, "it notices")
    began = time.monotonic()
    statistics = writer.stop(grace_s=30)
    assert time.monotonic() - began < 5
    assert (statistics.written, statistics.dropped) == (0, 1)
    assert statistics.ended == "stopped before everything was written"


def test_files_take_turns_and_each_is_whole(tmp_path):
    folder = Folder(str(tmp_path / "log"), Rotation(1 << 20, 3))
    writer = CaptureWriter(folder, label="turns", endpoints={1: WEB, 2: DATABASE})
    writer.start()
    offered = 0
    for _ in range(50):
        for _ in range(1000):
            offered += 1
            while not offer(writer, 1 + offered % 2, offered):
                pass
    statistics = writer.stop()
    files = sorted((tmp_path / "log").iterdir())
    assert len(files) == 3 and statistics.file == str(files[-1])
    found = []
    for path in files:
        raw = path.read_bytes()
        assert len(raw) <= 1 << 20
        blocks = read_blocks(raw)
        assert [block.kind for block in blocks].count(SHB) == 1
        ends = [block for block in blocks if block.kind == ISB]
        assert sum(end.number(4) - end.number(5) for end in ends) == len(packets(raw))
        found += named_packets(raw)
    first = offered - len(found) + 1
    assert found == [("db/eth0" if at % 2 else "web/eth0", at) for at in range(first, offered + 1)]


def test_a_folder_that_cant_be_written_is_tried_again(tmp_path, caplog):
    place = tmp_path / "log"
    folder = Folder(str(place), Rotation(1 << 20, 3))
    place.rmdir()
    place.write_text("in the way")
    writer = CaptureWriter(folder, label="folder", retry_s=0.01)
    writer.start()
    assert offer(writer)
    until(lambda: writer.statistics().trouble, "it notices")
    place.unlink()
    until(lambda: writer.statistics().written, "it goes on")
    writer.stop()
    (path,) = place.iterdir()
    assert len(packets(path.read_bytes())) == 1


PARTIAL_WRITES = """
import os, resource, sys, time
from vswitch.observe.capture import CaptureWriter
from vswitch.observe.outputs import Stream
path, then_stop = sys.argv[1], sys.argv[2] == "stop"
resource.setrlimit(resource.RLIMIT_FSIZE, (100_001, resource.RLIM_INFINITY))
writer = CaptureWriter(Stream(os.open(path, os.O_RDWR | os.O_CREAT)), label="x", retry_s=0.01)
for number in range(2000):
    assert writer.capture.offer(bytes(500), port=1, direction=1, time_ns=1, packet_id=number)
writer.start()
while writer.statistics().trouble is None:
    time.sleep(0.001)
assert os.stat(path).st_size == 100_001
if not then_stop:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
statistics = writer.stop()
print(statistics.written, statistics.dropped)
"""


@pytest.mark.parametrize("then", ["stop", "room"])
def test_a_block_that_only_half_fits_is_finished_later_or_taken_off(tmp_path, then):
    path = tmp_path / "x.pcapng"
    program = [sys.executable, "-c", PARTIAL_WRITES, str(path), then]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    written, dropped = map(int, done.stdout.split())
    found = packets(path.read_bytes())
    assert written + dropped == 2000 and [packet.number(5) for packet in found] == list(range(written))
    assert (written == 2000) == (then == "room")


FULL_DISK = """
import os, sys, time
from vswitch.observe.capture import CaptureWriter
from vswitch.observe.outputs import Folder, Rotation
place = sys.argv[1]
with open(f"{place}/filler", "wb") as filler:
    filler.write(bytes(1 << 20))
writer = CaptureWriter(Folder(f"{place}/log", Rotation(1 << 20, 2)), label="x", retry_s=0.01)
writer.start()
offered = 0
while writer.statistics().trouble is None or writer.statistics().dropped < 100:
    offered += 1
    writer.capture.offer(bytes(1000), port=1, direction=1, time_ns=1, packet_id=offered)
assert writer.statistics().trouble == "No space left on device"
os.unlink(f"{place}/filler")
while writer.statistics().trouble:
    time.sleep(0.001)
offered += 1
assert writer.capture.offer(bytes(1000), port=1, direction=1, time_ns=1, packet_id=offered)
statistics = writer.stop()
assert statistics.written + statistics.dropped == offered, (statistics, offered)
os.system(f"cp {place}/log/* {sys.argv[2]}")
"""


@pytest.mark.root
def test_a_disk_that_really_is_full_leaves_whole_files(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "copies").mkdir()
    mount = 'mount -t tmpfs -o size=2M vswitch-test "$1" && exec "$3" -c "$4" "$1" "$2"'
    arguments = [str(tmp_path / "disk"), str(tmp_path / "copies"), sys.executable, FULL_DISK]
    subprocess.run(["unshare", "-m", "sh", "-ec", mount, "sh", *arguments], timeout=60, check=True)
    copies = sorted((tmp_path / "copies").iterdir())
    assert copies
    found = [packet.number(5) for path in copies for packet in packets(path.read_bytes())]
    assert found == sorted(found) and len(found) > 500
