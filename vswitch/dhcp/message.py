# SPDX-License-Identifier: Apache-2.0
"""DHCP messages: bytes to values and back (RFC 2131 §2 and §4.1, RFC 3396; read them before changing this).

    op 1  htype 1  hlen 1  hops 1  xid 4  secs 2  flags 2  ciaddr 4  yiaddr 4  siaddr 4  giaddr 4
    chaddr 16  sname 64  file 128  magic 63 82 53 63  options…

An option is code, length, data; 0 is a pad without length, 255 ends its area. Option 52 says that `file` (1),
`sname` (2) or both (3) hold options too. The same code more than once is one long option, in the order
options, file, sname. Both are matters of transport: a `Message` holds every option once and whole, and never
holds 52.

Reading is lenient where real clients are sloppy (a missing end mark) and strict where leniency would mean
guessing (a length past the end of its area). An overload inside an overloaded area is ignored, so nothing can
loop.

Writing fills a buffer completely, up to MIN_MESSAGE_BYTES. With a limit, options that don't fit move to
`file`, then `sname`; one that fits nowhere whole is split over what room there is; one that doesn't fit even
so is left out, and named. The relay agent's option 82 stays in the options area and comes last (RFC 3046
§2.2).
"""
from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address
from typing import NamedTuple

from vswitch.dhcp.drop import Drop

BOOTREQUEST, BOOTREPLY = 1, 2
ETHERNET = 1
BROADCAST_FLAG = 0x8000
MAGIC = bytes.fromhex("63825363")
ANY = IPv4Address(0)

MIN_MESSAGE_BYTES = 300
"""What BOOTP messages measured (RFC 951); relays and old clients drop shorter ones."""
MAX_MESSAGE_BYTES = 2048
"""Longest message that is read: real ones stay below 600, and the time to parse grows with the length."""

PAD, OVERLOAD, RELAY_AGENT, END = 0, 52, 82, 255
FILE_OVERLOADED, SNAME_OVERLOADED = 1, 2
HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
FILE_BYTES, SNAME_BYTES = 128, 64


class MessageType(IntEnum):
    """Option 53 (RFC 2132 §9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Message(NamedTuple):
    """One message; `chaddr` has 6 bytes, `sname` and `file` no trailing zeros, `options` whole, by code."""

    op: int
    xid: int
    chaddr: bytes
    options: dict[int, bytes]
    hops: int = 0
    secs: int = 0
    flags: int = 0
    ciaddr: IPv4Address = ANY
    yiaddr: IPv4Address = ANY
    siaddr: IPv4Address = ANY
    giaddr: IPv4Address = ANY
    sname: bytes = b""
    file: bytes = b""


def parse(payload: bytes) -> Message | Drop:
    """The message in a UDP payload, or why there is none; never raises."""
    if len(payload) > MAX_MESSAGE_BYTES:
        return Drop.OVERSIZED
    if len(payload) < HEADER.size:
        return Drop.MALFORMED
    (op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr,
     chaddr, sname, file, magic) = HEADER.unpack_from(payload)
    if magic != MAGIC:
        return Drop.COOKIE
    if op not in (BOOTREQUEST, BOOTREPLY):
        return Drop.MALFORMED
    if htype != ETHERNET or hlen != 6:
        return Drop.HARDWARE
    options, overload = parse_options(payload[HEADER.size:], file, sname)
    if options is None:
        return Drop.OPTIONS
    return Message(
        op, xid, chaddr[:6], options, hops, secs, flags,
        IPv4Address(ciaddr), IPv4Address(yiaddr), IPv4Address(siaddr), IPv4Address(giaddr),
        b"" if overload & SNAME_OVERLOADED else sname.rstrip(b"\0"),
        b"" if overload & FILE_OVERLOADED else file.rstrip(b"\0"),
    )


def parse_options(area: bytes, file: bytes, sname: bytes) -> tuple[dict[int, bytes] | None, int]:
    """All options by code, joined over the three areas (RFC 3396 §7), and the overload; None if malformed."""
    options: dict[int, bytes] = {}
    if not _collect(area, options):
        return None, 0
    mark = options.pop(OVERLOAD, b"\0")
    if len(mark) != 1 or mark[0] > FILE_OVERLOADED | SNAME_OVERLOADED:
        return None, 0
    overload = mark[0]
    if overload & FILE_OVERLOADED and not _collect(file, options):
        return None, overload
    if overload & SNAME_OVERLOADED and not _collect(sname, options):
        return None, overload
    options.pop(OVERLOAD, None)   # overloading from within an overloaded area has no meaning
    return options, overload


def _collect(area: bytes, options: dict[int, bytes]) -> bool:
    """Adds the options of one area to `options`; False if one runs past the area's end."""
    at, end = 0, len(area)
    while at < end:
        code = area[at]
        if code == PAD:
            at += 1
            continue
        if code == END:
            return True
        start = at + 2
        if start > end or (stop := start + area[at + 1]) > end:
            return False
        options[code] = options.get(code, b"") + area[start:stop]
        at = stop
    return True


class Layout(NamedTuple):
    """Where a message's options go: three areas (None = the field is no area), and what found no room."""

    options: bytes
    file: bytes | None = None
    sname: bytes | None = None
    left_out: tuple[int, ...] = ()


def lay_out(message: Message, limit_bytes: int | None = None) -> Layout:
    """Distributes the options so that the UDP payload stays within `limit_bytes` (None = no limit)."""
    whole = b"".join(_encode(code, data) for code, data in message.options.items()) + bytes([END])
    if limit_bytes is None or HEADER.size + len(whole) <= limit_bytes:
        return Layout(whole)
    return _overloaded(message, limit_bytes - HEADER.size)


class _Area:
    """Room for options in one field."""

    def __init__(self, room_bytes: int):
        self.room_bytes = room_bytes
        self.data = b""

    def add(self, encoded: bytes) -> None:
        self.data += encoded
        self.room_bytes -= len(encoded)


def _overloaded(message: Message, room_bytes: int) -> Layout:
    """A layout that uses `file` and `sname` where they are free."""
    room_bytes -= len((END, OVERLOAD, 1, 0))
    relay = b"".join(_encode(code, data) for code, data in message.options.items() if code == RELAY_AGENT)
    left_out = []
    if len(relay) > room_bytes:
        relay = b""
        left_out.append(RELAY_AGENT)
    main = _Area(room_bytes - len(relay))
    file, sname = _Area(0 if message.file else FILE_BYTES - 1), _Area(0 if message.sname else SNAME_BYTES - 1)
    for code, data in message.options.items():
        if code != RELAY_AGENT and not _place(code, data, (main, file, sname)):
            left_out.append(code)
    overload = (FILE_OVERLOADED if file.data else 0) | (SNAME_OVERLOADED if sname.data else 0)
    mark = bytes([OVERLOAD, 1, overload]) if overload else b""
    return Layout(
        main.data + mark + relay + bytes([END]),
        file.data + bytes([END]) if file.data else None,
        sname.data + bytes([END]) if sname.data else None,
        tuple(left_out),
    )


def _place(code: int, data: bytes, areas: tuple[_Area, ...]) -> bool:
    """Puts an option whole into the first area with room, else in pieces over all; False if impossible."""
    encoded = _encode(code, data)
    for area in areas:
        if len(encoded) <= area.room_bytes:
            area.add(encoded)
            return True
    cuts, rest = [], data
    for area in areas:
        room_bytes = area.room_bytes
        while rest and room_bytes > 2:
            piece = rest[:min(255, room_bytes - 2)]
            cuts.append((area, piece))
            rest = rest[len(piece):]
            room_bytes -= 2 + len(piece)
    if rest or not data:
        return False
    for area, piece in cuts:
        area.add(_encode(code, piece))
    return True


def _encode(code: int, data: bytes) -> bytes:
    """An option with its header, in pieces of at most 255 bytes (RFC 3396 §5)."""
    if len(data) <= 255:
        return bytes((code, len(data))) + data
    pieces = [data[at:at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes((code, len(piece))) + piece for piece in pieces)


def emit_into(buffer: bytearray, message: Message, layout: Layout) -> int:
    """Writes the message, every byte of it, into `buffer`; returns its length. ValueError if too short."""
    end = HEADER.size + len(layout.options)
    length = max(end, MIN_MESSAGE_BYTES)
    if length > len(buffer):
        raise ValueError(f"a message of {length} bytes doesn't fit into a buffer of {len(buffer)}")
    sname = message.sname if layout.sname is None else layout.sname
    file = message.file if layout.file is None else layout.file
    HEADER.pack_into(
        buffer, 0, message.op, ETHERNET, 6, message.hops, message.xid, message.secs, message.flags,
        message.ciaddr.packed, message.yiaddr.packed, message.siaddr.packed, message.giaddr.packed,
        message.chaddr, sname, file, MAGIC,
    )
    buffer[HEADER.size:end] = layout.options
    buffer[end:length] = bytes(length - end)
    return length


def emit(message: Message, limit_bytes: int | None = None) -> bytes:
    """The message as a UDP payload, MIN_MESSAGE_BYTES at least; what exceeds `limit_bytes` is left out."""
    return emit_laid_out(message, lay_out(message, limit_bytes))


def emit_laid_out(message: Message, layout: Layout) -> bytes:
    """The message as a UDP payload, its options where `layout` puts them."""
    buffer = bytearray(max(HEADER.size + len(layout.options), MIN_MESSAGE_BYTES))
    emit_into(buffer, message, layout)
    return bytes(buffer)
