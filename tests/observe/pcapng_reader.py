# SPDX-License-Identifier: Apache-2.0
"""A strict pcapng reader for tests: what the format doesn't allow is an AssertionError."""
from __future__ import annotations

import struct
from dataclasses import dataclass, field

SHB, IDB, ISB, EPB = 0x0A0D0D0A, 1, 5, 6


@dataclass
class Block:
    kind: int
    raw: bytes
    fields: tuple
    data: bytes = b""
    options: list[tuple[int, bytes]] = field(default_factory=list)

    def option(self, code: int) -> bytes | None:
        found = [value for at, value in self.options if at == code]
        assert len(found) <= 1, f"option {code} stands there {len(found)} times"
        return found[0] if found else None

    def number(self, code: int) -> int | None:
        value = self.option(code)
        return None if value is None else int.from_bytes(value, "little")

    @property
    def interface(self) -> int:
        return self.fields[0]

    @property
    def time_ns(self) -> int:
        return self.fields[1] << 32 | self.fields[2]

    @property
    def length(self) -> int:
        return self.fields[4]


def read_blocks(raw: bytes) -> list[Block]:
    """Every block of a capture; checks lengths, padding, options, interface ids and order."""
    blocks, at, interfaces = [], 0, 0
    while at < len(raw):
        kind, total = struct.unpack_from("<II", raw, at)
        assert total % 4 == 0 and 12 <= total <= len(raw) - at, f"{total} bytes at {at} of {len(raw)}"
        assert struct.unpack_from("<I", raw, at + total - 4)[0] == total
        block = read_block(kind, raw[at : at + total])
        assert blocks or kind == SHB, "a capture starts with a section header"
        interfaces = 0 if kind == SHB else interfaces + (kind == IDB)
        assert kind not in (ISB, EPB) or block.interface < interfaces, "interface without a description"
        blocks.append(block)
        at += total
    return blocks


def read_block(kind: int, raw: bytes) -> Block:
    body = raw[8:-4]
    layout = {SHB: "<IHHq", IDB: "<HHI", ISB: "<III", EPB: "<IIIII"}[kind]
    fields, rest = struct.unpack_from(layout, body), body[struct.calcsize(layout) :]
    data = b""
    if kind == EPB:
        data, padding = rest[: fields[3]], rest[fields[3] : (fields[3] + 3) & ~3]
        assert len(data) == fields[3] and not any(padding)
        rest = rest[len(data) + len(padding) :]
    return Block(kind, raw, fields, data, read_options(rest))


def read_options(rest: bytes) -> list[tuple[int, bytes]]:
    options = []
    while rest:
        code, length = struct.unpack_from("<HH", rest)
        value, padding = rest[4 : 4 + length], rest[4 + length : 4 + (length + 3 & ~3)]
        assert len(value) == length and not any(padding)
        rest = rest[4 + (length + 3 & ~3) :]
        if code == 0:
            assert length == 0 and not rest, "something follows the end of options"
            return options
        options.append((code, value))
    raise AssertionError("the option list isn't ended")


def packets(raw: bytes) -> list[Block]:
    return [block for block in read_blocks(raw) if block.kind == EPB]


def names(raw: bytes) -> list[str]:
    """if_name of every interface description, in order."""
    return [block.option(2).decode() for block in read_blocks(raw) if block.kind == IDB]


def named_packets(raw: bytes) -> list[tuple[str, int]]:
    """(if_name, packet id) of every packet, in order."""
    found, described = [], []
    for block in read_blocks(raw):
        if block.kind == SHB:
            described = []
        elif block.kind == IDB:
            described.append(block.option(2).decode())
        elif block.kind == EPB:
            found.append((described[block.interface], block.number(5)))
    return found
