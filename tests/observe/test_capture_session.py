# SPDX-License-Identifier: Apache-2.0
"""Capture by itself: rounds, losses, interfaces, limited sections, what stays when the output fails."""
from __future__ import annotations

import errno
import os
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pcapng_reader import EPB, IDB, SHB, named_packets, packets, read_blocks

from vswitch.observe import pcapng
from vswitch.observe._pcapng import RING_BYTES, SNAPLEN_MAX, Capture, Outcome

HEADER = pcapng.section_header(hardware="h", system="s", application="a")
FRAME = bytes(range(60))


def description(port: int, name: str | None = None) -> bytes:
    return pcapng.interface_description(name or f"c{port}/eth0", snaplen=SNAPLEN_MAX)


def offer(capture: Capture, port: int = 1, packet_id: int = 0, frame: bytes = FRAME) -> bool:
    return capture.offer(frame, port=port, direction=1, time_ns=1, packet_id=packet_id)


def fill(capture: Capture, frame: bytes = FRAME) -> int:
    """Offers numbered records until one finds no room; returns how many did."""
    count = 0
    while offer(capture, packet_id=count, frame=frame):
        count += 1
    return count


class Output:
    """A file with a section open on it, and everything that was written so far."""

    def __init__(self, path, capture: Capture, max_bytes: int | None = None):
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.capture = capture
        capture.open_section(self.fd, HEADER, max_bytes)

    def raw(self) -> bytes:
        return os.pread(self.fd, 1 << 28, 0)

    def pump(self, **how) -> Outcome:
        """Like Capture.pump, with every port described as it turns up."""
        while (outcome := self.capture.pump(**how)) is Outcome.INTERFACE:
            self.capture.declare(self.capture.port, description(self.capture.port))
        return outcome


@pytest.fixture
def capture() -> Capture:
    return Capture(snaplen=128, ring_bytes=4096)


@pytest.fixture
def output(tmp_path, capture):
    output = Output(tmp_path / "x.pcapng", capture)
    yield output
    os.close(output.fd)


def test_a_port_is_described_when_its_first_record_turns_up(capture, output):
    for port in (7, 65535, 7):
        offer(capture, port)
    assert capture.pump() is Outcome.INTERFACE and capture.port == 7
    assert capture.declare(7, description(7)) == 0
    assert capture.pump() is Outcome.INTERFACE and capture.port == 65535
    assert capture.declare(65535, description(65535)) == 1
    assert capture.pump() is Outcome.DRAINED
    kinds = [block.kind for block in read_blocks(output.raw())]
    assert kinds == [SHB, IDB, EPB, IDB, EPB, EPB]
    assert [name for name, _ in named_packets(output.raw())] == ["c7/eth0", "c65535/eth0", "c7/eth0"]


def test_a_forgotten_port_is_described_anew(capture, output):
    offer(capture, packet_id=1)
    output.pump()
    capture.forget(1)
    offer(capture, packet_id=2)
    assert capture.pump() is Outcome.INTERFACE
    capture.declare(1, description(1, "other/eth0"))
    assert capture.pump() is Outcome.DRAINED
    assert named_packets(output.raw()) == [("c1/eth0", 1), ("other/eth0", 2)]


def test_the_next_section_describes_its_interfaces_itself(capture, output):
    offer(capture)
    output.pump()
    capture.open_section(output.fd, HEADER)
    offer(capture)
    assert capture.pump() is Outcome.INTERFACE
    output.pump()
    assert [block.kind for block in read_blocks(output.raw())] == [SHB, IDB, EPB] * 2


def test_what_finds_the_ring_full_is_dropped_counted_and_told_to_the_next_packet(capture, output):
    kept = fill(capture)
    assert not offer(capture) and not offer(capture)
    assert capture.dropped == 3
    output.pump()
    offer(capture, packet_id=kept)
    offer(capture, packet_id=kept + 1)
    output.pump()
    found = packets(output.raw())
    assert [packet.number(5) for packet in found] == list(range(kept + 2))
    assert [packet.number(4) for packet in found] == [None] * kept + [3, None]
    assert capture.written == kept + 2
    assert capture.interface_counts() == [(1, kept + 2, 3)]


def test_what_was_lost_after_the_last_packet_is_in_the_statistics(capture, output):
    kept = fill(capture)
    output.pump()
    assert capture.interface_counts() == [(1, kept, 0)]
    capture.settle()
    capture.settle()
    assert capture.interface_counts() == [(1, kept, 1)]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.binary(max_size=200), st.sampled_from([False] * 7 + [True])),
        max_size=200,
    ),
    st.sampled_from([512, 1024, 4096]),
)
def test_every_record_is_written_or_counted_in_order_whatever_the_rounds(tmp_path_factory, steps, ring_bytes):
    capture = Capture(snaplen=100, ring_bytes=ring_bytes)
    output = Output(tmp_path_factory.mktemp("rounds") / "x.pcapng", capture)
    accepted = []
    for number, (port, frame, pump) in enumerate(steps):
        if offer(capture, port, number, frame):
            accepted.append((f"c{port}/eth0", number))
        if pump:
            assert output.pump() is Outcome.DRAINED
    output.pump()
    capture.settle()
    assert named_packets(output.raw()) == accepted
    assert capture.written == len(accepted) == len(steps) - capture.dropped
    if accepted:
        assert sum(lost for _, _, lost in capture.interface_counts()) == capture.dropped
    os.close(output.fd)


def test_until_stops_at_a_place_in_the_ring(capture, output):
    offer(capture, packet_id=1)
    place = capture.produced
    offer(capture, packet_id=2)
    assert output.pump(until=place) is Outcome.DRAINED
    assert [packet.number(5) for packet in packets(output.raw())] == [1]
    assert output.pump(until=0) is Outcome.DRAINED and capture.written == 1
    output.pump()
    assert [packet.number(5) for packet in packets(output.raw())] == [1, 2]


def test_what_came_while_a_round_was_broken_off_is_written_too(capture, output):
    offer(capture, packet_id=1)
    assert capture.pump() is Outcome.INTERFACE
    capture.declare(1, description(1))
    offer(capture, packet_id=2)
    place = capture.produced
    offer(capture, packet_id=3)
    assert capture.pump(until=place) is Outcome.DRAINED
    assert [packet.number(5) for packet in packets(output.raw())] == [1, 2]


def test_a_call_comes_before_the_next_round_and_is_heeded_once(capture, output):
    offer(capture)
    capture.call()
    assert capture.pump() is Outcome.CALLED and capture.serve() is Outcome.CALLED
    assert capture.heed() and not capture.heed()
    assert output.pump() is Outcome.DRAINED and capture.written == 1


@pytest.mark.parametrize("max_bytes", [1000, 1001, 1500, 3000])
def test_a_limited_section_ends_in_time_for_its_statistics(tmp_path, max_bytes):
    capture = Capture(snaplen=128, ring_bytes=1 << 16)
    offered = [(f"c{number % 3}/eth0", number) for number in range(100)]
    for number in range(100):
        assert offer(capture, number % 3, number)
    found = []
    for section in range(100):
        output = Output(tmp_path / f"{section}", capture, max_bytes)
        outcome = output.pump()
        for interface, (_, received, lost) in enumerate(capture.interface_counts()):
            capture.append(pcapng.interface_statistics(
                interface, start_ns=0, end_ns=0, received=received, dropped=lost))
        assert capture.flush() is Outcome.DRAINED
        assert len(output.raw()) <= max_bytes
        found += named_packets(output.raw())
        os.close(output.fd)
        if outcome is Outcome.DRAINED:
            break
        assert outcome is Outcome.ROTATE
    assert found == offered


def test_a_section_takes_at_least_one_packet_however_small_its_limit(capture, tmp_path):
    offer(capture, packet_id=1)
    offer(capture, packet_id=2)
    output = Output(tmp_path / "x", capture, 1)
    assert output.pump() is Outcome.ROTATE
    capture.flush()
    assert [packet.number(5) for packet in packets(output.raw())] == [1]
    os.close(output.fd)


def test_a_section_with_all_the_interfaces_it_may_have_is_followed_by_another(capture, output):
    for _ in range(65536):
        capture.declare(1, b"")
    offer(capture, port=2)
    assert capture.pump() is Outcome.ROTATE
    with pytest.raises(RuntimeError, match="open the next one"):
        capture.declare(2, b"")
    assert capture.flush() is Outcome.DRAINED
    capture.open_section(output.fd, HEADER)
    assert capture.pump() is Outcome.INTERFACE


def test_a_full_disk_is_a_value_and_nothing_is_lost_when_it_has_room_again(capture, output):
    instead = os.dup(output.fd)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, output.fd)
    offer(capture, packet_id=1)
    assert output.pump() is Outcome.FAILED and capture.error == errno.ENOSPC
    offer(capture, packet_id=2)
    assert capture.flush() is Outcome.FAILED
    os.dup2(instead, output.fd)
    assert output.pump() is Outcome.DRAINED
    assert [packet.number(5) for packet in packets(output.raw())] == [1, 2]
    os.close(instead)
    os.close(full)


def test_a_failing_output_leaves_the_ring_to_fill_and_the_batch_bounded(output, tmp_path):
    capture = Capture(snaplen=128, ring_bytes=1 << 20)
    full = os.open("/dev/full", os.O_WRONLY)
    capture.open_section(full, HEADER)
    capture.declare(1, description(1))
    offered = fill(capture)
    for _ in range(20):
        assert capture.pump() is Outcome.FAILED
    assert 1000 < capture.written < offered / 2
    capture.abandon()
    capture.abandon_ring()
    assert (capture.written, capture.abandoned) == (0, offered)
    os.close(full)


def test_a_reader_who_left_is_a_value(capture):
    reader, writer = os.pipe()
    capture.open_section(writer, HEADER)
    os.close(reader)
    assert capture.pump() is Outcome.FAILED and capture.error == errno.EPIPE
    os.close(writer)


def test_a_slow_pipe_is_waited_for_until_the_deadline(capture):
    reader, writer = os.pipe()
    assert os.get_blocking(writer)
    capture.open_section(writer, HEADER + b"".join(description(port) for port in range(2000)))
    before = time.monotonic_ns()
    assert capture.pump(deadline_ns=before + 30_000_000) is Outcome.BLOCKED
    assert 30_000_000 <= time.monotonic_ns() - before < 2_000_000_000
    capture.call()
    assert capture.flush() is Outcome.CALLED
    assert os.get_blocking(writer)
    os.close(reader)
    os.close(writer)


def test_a_block_cut_short_by_a_slow_reader_is_measured_and_its_packet_counted(capture):
    ours, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    capture = Capture(snaplen=SNAPLEN_MAX, ring_bytes=1 << 20)
    capture.open_section(ours.fileno(), HEADER)
    capture.declare(1, description(1))
    whole = len(HEADER) + len(description(1))
    frame = bytes(100_000)
    offer(capture, frame=frame)
    offer(capture, frame=frame)
    assert capture.pump(deadline_ns=1) is Outcome.BLOCKED
    assert capture.abandon() == capture.written_bytes - whole > 0
    assert (capture.written, capture.abandoned) == (0, 2)
    ours.close()
    assert len(reader.makefile("rb").read()) == capture.written_bytes
    reader.close()


def test_a_non_blocking_pipe_is_waited_for_too(capture):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    capture.open_section(writer, HEADER + b"".join(description(port) for port in range(2000)))
    assert capture.flush(time.monotonic_ns() + 10_000_000) is Outcome.BLOCKED
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("snaplen", [0, 13, SNAPLEN_MAX + 1])
def test_a_snaplen_out_of_range_is_refused(snaplen):
    with pytest.raises(ValueError, match="14 to 262144"):
        Capture(snaplen=snaplen)


@pytest.mark.parametrize("ring_bytes", [0, 4095, 3 << 20, 1 << 18, 1 << 31])
def test_a_ring_of_a_bad_size_is_refused(ring_bytes):
    with pytest.raises(ValueError, match="power of two"):
        Capture(ring_bytes=ring_bytes)


def test_the_default_ring_holds_a_hundred_super_frames_whole(tmp_path):
    capture = Capture()
    assert fill(capture, bytes(65226)) >= 100
    assert capture.produced <= RING_BYTES


def test_a_section_is_not_opened_over_what_is_still_unwritten(capture, output):
    with pytest.raises(RuntimeError, match="flush or abandon"):
        capture.open_section(output.fd, HEADER)


def test_captures_leave_no_descriptor_behind(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        Capture(snaplen=128, ring_bytes=4096)
        with pytest.raises(ValueError):
            Capture(snaplen=1)
    assert len(os.listdir("/proc/self/fd")) == before
