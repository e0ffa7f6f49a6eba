# SPDX-License-Identifier: Apache-2.0
"""Many transfers at once between two machines; a program, to run on both.

    many_transfers.py serve PORT REPORT                   until it is killed
    many_transfers.py ask HOST PORT COUNT SEED REPORT     opens all connections, then moves all

What a connection carries and how it ends follows from its number, which the client sends first: so each end knows what
it must receive. Each writes one JSON line per connection: what it received, held against that, and how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import resource
import socket
import struct
import sys
from typing import NamedTuple

LARGEST_BYTES, PIECE = 1 << 21, 32768
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Plan(NamedTuple):
    """One connection. `first` ends its stream before the other begins, unless it is "both"; `resetter` breaks the
    connection after it has received `reset_at` bytes.
    """

    number: int
    sizes: dict[str, int]
    first: str
    resetter: str
    reset_at: int

    def stream(self, sender: str) -> bytes:
        return random.Random(f"{self.number} {sender}").randbytes(self.sizes[sender])


def plan(number: int) -> Plan:
    chance = random.Random(number)
    sizes = {end: int(LARGEST_BYTES ** chance.random()) - 1 for end in ("client", "server")}
    resetter = chance.choice(["client", "server", "nobody", "nobody", "nobody"])
    other = {"client": "server", "server": "client"}.get(resetter)
    reset_at = chance.randrange(sizes[other] + 1) if other else 0
    return Plan(number, sizes, chance.choice(["client", "server", "both"]), resetter, reset_at)


class Connection:
    """One end of a connection that follows a plan."""

    def __init__(self, end: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.end, self.other = end, "server" if end == "client" else "client"
        self.reader, self.writer = reader, writer
        self.received = bytearray()

    async def follow(self, what: Plan) -> dict:
        """Moves the streams; the line for the report."""
        ended = "end"
        try:
            if what.first == self.other:
                await self.receive(what)
                await self.send(what)
            elif what.first == self.end:
                await self.send(what)
                await self.receive(what)
            else:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self.send(what))
                    both.create_task(self.receive(what))
        except* OSError:  # reset, or no longer connected
            ended = "broken"
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()
        sent = what.stream(self.other)
        right = hashlib.sha256(self.received).digest() == hashlib.sha256(sent[: len(self.received)]).digest()
        return {
            "number": what.number,
            "end": self.end,
            "ended": ended,
            "right": right,
            "whole": len(self.received) == len(sent),
            "resets": what.resetter != "nobody",
        }

    async def send(self, what: Plan) -> None:
        data = what.stream(self.end)
        for at in range(0, len(data), PIECE):
            self.writer.write(data[at : at + PIECE])
            await self.writer.drain()
        self.writer.write_eof()

    async def receive(self, what: Plan) -> None:
        while True:
            if what.resetter == self.end and len(self.received) >= what.reset_at:
                self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                self.writer.transport.abort()
                raise ConnectionAbortedError
            data = await self.reader.read(PIECE)
            if not data:
                return
            self.received += data


async def serve(port: int, report) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            number = int.from_bytes(await reader.readexactly(8), "big")
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return
        line = await Connection("server", reader, writer).follow(plan(number))
        print(json.dumps(line), file=report, flush=True)

    server = await asyncio.start_server(answer, "0.0.0.0", port, backlog=4096)
    await server.serve_forever()


async def ask(host: str, port: int, count: int, seed: int, report) -> None:
    opened = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(count)))

    async def one(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(number.to_bytes(8, "big"))
        line = await Connection("client", reader, writer).follow(plan(number))
        print(json.dumps(line), file=report, flush=True)

    await asyncio.gather(*(one(seed + number, *streams) for number, streams in enumerate(opened)))


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    what, *arguments, report = sys.argv[1:]
    with open(report, "w") as file:
        if what == "serve":
            asyncio.run(serve(int(arguments[0]), file))
        else:
            asyncio.run(ask(arguments[0], *map(int, arguments[1:]), file))


if __name__ == "__main__":
    main()
