# SPDX-License-Identifier: Apache-2.0
"""The in-memory port, and the check of a packet socket that someone hands over."""
import os
import socket

import pytest

from vswitch.model import Refused
from vswitch.ports.memory import memory_pair
from vswitch.ports.tap import adopt_packet_socket


@pytest.fixture
def pair():
    switch, host = memory_pair()
    yield switch, host
    host.close()
    os.close(switch)


def test_one_send_is_one_frame_in_both_directions(pair):
    switch, host = pair
    frames = [bytes([number]) * size for number, size in enumerate((14, 60, 1514, 65549))]
    for frame in frames:
        host.send(frame)
        assert os.read(switch, 70000) == frame
        os.write(switch, frame)
        assert host.recv(70000) == frame


def test_the_switch_end_never_blocks(pair):
    switch, _ = pair
    with pytest.raises(BlockingIOError):
        os.read(switch, 100)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(switch, bytes(1514))


def test_the_switch_sees_the_host_go():
    switch, host = memory_pair()
    host.close()
    assert os.read(switch, 100) == b""
    os.close(switch)


def test_a_packet_socket_is_adopted_and_made_non_blocking():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.set_inheritable(True)
        assert adopt_packet_socket(ours.fileno()) == ours.fileno()
        assert not os.get_blocking(ours.fileno())
        assert not ours.get_inheritable()
        theirs.send(b"frame")
        assert os.read(ours.fileno(), 100) == b"frame"


def refusal_of(fd: int) -> str:
    with pytest.raises(Refused) as caught:
        adopt_packet_socket(fd)
    os.fstat(fd)  # still open
    return str(caught.value)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_DGRAM),
    ],
)
def test_other_sockets_are_refused(family, kind):
    with socket.socket(family, kind) as other:
        assert "SOCK_SEQPACKET" in refusal_of(other.fileno())


def test_what_is_no_socket_is_refused():
    reading, writing = os.pipe()
    assert "no socket" in refusal_of(reading)
    os.close(reading)
    os.close(writing)


def test_an_unconnected_socket_is_refused(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        assert "not connected" in refusal_of(listener.fileno())
        listener.bind(str(tmp_path / "listener"))
        listener.listen()
        assert "not connected" in refusal_of(listener.fileno())
