# SPDX-License-Identifier: Apache-2.0
"""The in-memory twin of a TAP: of an AF_UNIX SOCK_SEQPACKET pair one end is a port, the other the host.

It needs no privilege and keeps frame edges: one send is one frame. It carries no vnet header, so frames are
complete both ways. A full queue (SO_SNDBUF of the switch end, some hundred frames) makes the switch drop and
count, as a full TAP ring does. When the host closes its end, the switch sees the port go.
"""
from __future__ import annotations

import socket


def memory_pair() -> tuple[int, socket.socket]:
    """(descriptor for the switch: non-blocking, the caller's to close; the host's socket: blocking)."""
    switch, host = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    switch.setblocking(False)
    return switch.detach(), host
