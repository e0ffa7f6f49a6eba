# SPDX-License-Identifier: Apache-2.0
"""What a capture sees of frames that live, die, are answered, punted, injected and segmented."""

from __future__ import annotations

import os
import struct

import frames
import pytest
import reference
from frames import BROADCAST, Frame, dhcp, experimental, mac, who_has
from memory_switch import GATEWAY

from vswitch.observe import pcapng
from vswitch.observe._pcapng import Capture, Outcome


@pytest.fixture
def captured(switch, tmp_path):
    """A function that gives what a capture of some hosts has seen: (host name, frame, direction, drop), and
    starts anew."""
    fd = os.open(tmp_path / "x.pcapng", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    capture = Capture(snaplen=262144, reasons={})
    capture.open_section(fd, pcapng.section_header(hardware="h", system="s", application="a"))
    switch.plane.post_capture(0, capture.address)

    def seen() -> list[tuple[int, int, Frame]]:
        while capture.pump() is Outcome.INTERFACE:
            capture.declare(capture.port, pcapng.interface_description(f"p{capture.port}/eth0", snaplen=262144))
        capture.flush()
        raw = os.pread(fd, 1 << 24, 0)
        os.ftruncate(fd, 0)
        return packets_of(raw, seen.ports)

    seen.ports = []
    yield seen
    switch.plane.post_capture(0, 0)
    switch.step()
    os.close(fd)


def packets_of(raw: bytes, ports: list[int]) -> list[tuple[int, int, Frame]]:
    """(port, direction, frame) of every packet block; `ports` remembers the interfaces from call to call."""
    found, at = [], 0
    while at < len(raw):
        kind, total = struct.unpack_from("<II", raw, at)
        block = raw[at : at + total]
        if kind == 1:
            ports.append(int(block[block.index(b"p") + 1 :].split(b"/")[0]))
        if kind == 6:
            interface, _, _, captured = struct.unpack_from("<IIII", block, 8)
            options = block[28 + (captured + 3) // 4 * 4 :]
            found.append(
                (
                    ports[interface],
                    struct.unpack_from("<HHI", options)[2] & 3,
                    Frame(block[28 : 28 + captured]),
                )
            )
        at += total
    return found


INTO, OUT_OF = 1, 2


def watch(switch, *hosts) -> None:
    for host in hosts:
        switch.plane.post_capture_port(host.index, 1)
    switch.step()


def test_a_capture_sees_every_crossing_of_a_frame_once(switch, captured):
    a, b, c = (switch.host() for _ in range(3))
    watch(switch, a, b, c)
    flooded = experimental(BROADCAST, a.mac)
    a.send(flooded)
    switch.step()
    assert captured() == [(a.index, INTO, flooded), (b.index, OUT_OF, flooded), (c.index, OUT_OF, flooded)]
    unicast = experimental(a.mac, b.mac)
    b.send(unicast)
    switch.step()
    assert captured() == [(b.index, INTO, unicast), (a.index, OUT_OF, unicast)]


def test_a_capture_sees_dropped_answered_punted_and_injected_frames(switch, captured):
    a, b = switch.host(assigned=True), switch.host()
    switch.bind("172.17.0.1")
    watch(switch, a)
    spoofed, question = experimental(BROADCAST, b.mac), who_has(a.mac, "172.17.0.2", "172.17.0.1")
    asked, injected = dhcp(a.mac), experimental(a.mac, GATEWAY)
    for frame in (b"short", spoofed, question, asked, experimental(mac(4711), a.mac)):
        a.send(frame)
    switch.inject(injected, 0, port=a.index)
    switch.step()
    answer = frames.is_at(GATEWAY, "172.17.0.1", "172.17.0.2", tha=a.mac, to=a.mac)
    assert captured() == [
        (a.index, OUT_OF, injected),
        (a.index, INTO, b"short"),
        (a.index, INTO, spoofed),
        (a.index, INTO, question),
        (a.index, OUT_OF, answer),
        (a.index, INTO, asked),
        (a.index, INTO, experimental(mac(4711), a.mac)),
    ]


def test_a_capture_sees_segments_where_a_frame_leaves_in_segments_and_checksums_are_finished(switch, captured):
    a, b = switch.host(vnet=True, gso=7), switch.host()
    watch(switch, a, b)
    frame = reference.unfinished(frames.tcp(BROADCAST, a.mac, "10.0.0.1", "10.0.0.2", bytes(3000)))
    a.send(frame, frames.offload_header(frame, frames.GSO_TCPV4, 1400))
    switch.step()
    assert captured() == [
        (a.index, INTO, reference.finished(frame)),
        *((b.index, OUT_OF, one) for one in reference.segments(frame, 1400)),
    ]


def test_a_lying_offload_header_does_not_confuse_a_capture(switch, captured):
    a = switch.host(vnet=True)
    watch(switch, a)
    frame = experimental(BROADCAST, a.mac)
    for header in (
        frames.vnet(1, 1, 1, 1, 65535, 65535),
        frames.vnet(1, 0, 0, 0, 0, 0),
        frames.vnet(255, 255, 65535, 0, 12, 1),
    ):
        a.send(frame, header)
        a.send(frame[:13], header)
    switch.step()
    assert captured() == [(a.index, INTO, frame), (a.index, INTO, frame[:13])] * 3


def test_ports_that_are_not_watched_are_not_captured(switch, captured):
    a, b = switch.host(), switch.host()
    watch(switch, b)
    a.send(experimental(BROADCAST, a.mac))
    switch.plane.post_capture_port(9999, 1)
    switch.step()
    assert [port for port, *_ in captured()] == [b.index]
    switch.plane.post_capture_port(b.index, 0)
    a.send(experimental(BROADCAST, a.mac))
    switch.step()
    assert captured() == []
