# SPDX-License-Identifier: Apache-2.0
"""Anything at all from a container towards UDP and echo: nothing crashes, nothing hangs, nothing is left behind."""

from __future__ import annotations

import socket
import struct

import frames
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_switch import GATEWAY
from way_out import GATEWAY4, GATEWAY6, INSIDE4, INSIDE6, WayOut, descriptors, heard, loopback

PORTS = st.sampled_from([0, 1, 53, 4000, 65535, "server"])
LENGTHS = st.integers(0, 65535)


@st.composite
def damaged(draw, server_port: int):
    """A frame that once was a datagram, an echo request or a fragment of one."""
    v6 = draw(st.booleans())
    ends = (INSIDE6, GATEWAY6) if v6 else (INSIDE4, GATEWAY4)
    port = draw(PORTS)
    dport = server_port if port == "server" else port
    l4 = struct.pack(">HHHH", draw(st.integers(0, 3)), dport, 0, 0) + draw(st.binary(max_size=64))
    l4 = l4[:4] + struct.pack(">H", draw(LENGTHS) if draw(st.booleans()) else len(l4)) + l4[6:]
    protocol = draw(st.sampled_from([17, 17, 17, 58 if v6 else 1, 6]))
    if draw(st.booleans()):
        at, more = draw(st.integers(0, 8191)) & draw(st.sampled_from([0, 1, 3, 8191])), draw(st.booleans())
        if v6:
            l4, protocol = struct.pack(">BBHI", protocol, 0, at << 3 | more, draw(st.integers(0, 2))) + l4, 44
            frame = frames.ipv6(GATEWAY, b"\2\0\0\0\0\1", *ends, protocol, l4)
        else:
            fields = {"offset": at * 8, "more": more, "id": draw(st.integers(0, 2))}
            frame = frames.ipv4(GATEWAY, b"\2\0\0\0\0\1", *ends, protocol, l4, **fields)
    else:
        build = frames.ipv6 if v6 else frames.ipv4
        frame = build(GATEWAY, b"\2\0\0\0\0\1", *ends, protocol, l4)
    header = frames.vnet()
    if protocol == 17 and reference.l4_of(frame) and draw(st.booleans()):
        frame = reference.finished(frame)
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(14, len(frame) - 1))
        frame = frame[:at] + bytes([draw(st.integers(0, 255))]) + frame[at + 1 :]
    if draw(st.booleans()):
        start = 54 if v6 else 34
        header = frames.vnet(1, draw(st.sampled_from([0, 5])), 0, draw(st.integers(0, 80)), start, 6)
    return bytes(frame[: draw(st.integers(14, len(frame)))]) if draw(st.integers(0, 5)) == 0 else bytes(
        frame
    ), header


@settings(max_examples=150)
@given(st.data())
def test_any_datagrams_leave_nothing_behind(data):
    way_out = WayOut(max_flows=64, max_descriptors=12)
    host = way_out.container(index=1)
    before = descriptors()
    with loopback() as server:
        server.settimeout(0)
        clients = set()
        for frame, header in data.draw(st.lists(damaged(server.getsockname()[1]), max_size=30)):
            host.send(frame, header)
            if data.draw(st.booleans()):
                host.switch.step(after_s=data.draw(st.sampled_from([0, 0, 1, 40])))
            try:
                clients.add(server.recvfrom(70_000)[1])
            except BlockingIOError:
                pass
            for client in clients:
                server.sendto(b"x" * data.draw(st.sampled_from([0, 1, 2000])), client)
        host.switch.step()
        heard(host)
        assert len(way_out.flows()) <= 64
    way_out.switch.step(after_s=200)
    way_out.switch.step(after_s=200)
    assert way_out.flows() == [] and descriptors() == before
    way_out.close()


def test_forged_echo_replies_and_other_messages_go_nowhere():
    way_out = WayOut()
    host = way_out.container()
    for kind in (0, 3, 5, 8, 13):
        message = struct.pack(">BBHI", kind, 0, 0, 1) + bytes(28)
        message = message[:2] + struct.pack(">H", reference.internet_checksum(message)) + message[4:]
        host.send(frames.ipv4(GATEWAY, host.mac, INSIDE4, "192.0.2.77", socket.IPPROTO_ICMP, message))
    host.switch.step()
    assert len(way_out.flows()) <= 1
    way_out.close()
