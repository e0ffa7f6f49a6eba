# SPDX-License-Identifier: Apache-2.0
"""The HTTP shell around the routes: bytes in, a decoded call to the switch, bytes out. It knows no noun of
the switch.

What enters is not trusted: a request that is no HTTP, no JSON, of the wrong shape or too large gets a 4xx and
`{"error": "one line"}`; a `Refused` of the switch gets its own status; anything else that goes wrong is our
bug, a 500 with one line for the client and the traceback in our log. Nothing that a client sends is ever an
exception that ends the server.

A client that goes away cancels its handler: a stream ends at once, a change is undone by the switch
(control/jobs.py). At level debug, changes are logged with who asked for them (SO_PEERCRED). Aiohttp's
low-level server is used, not its Application: the route table is ours anyway, since the OpenAPI document is
made from it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from vswitch import __version__
from vswitch.control.api.listen import peer
from vswitch.control.api.messages import API, Call, Context
from vswitch.control.api.routes import Route, find, refuse_unknown
from vswitch.model import Refused

log = logging.getLogger(__name__)

BODY_LIMIT_BYTES = (
    1024 * 1024
)  # the largest honest request, a container with a full environment, is below 300 KiB
CONNECTION_LIMIT = 1024  # each costs a descriptor and some 50 KiB; ports need their descriptors more
LINE_LIMIT_BYTES = 16 * 1024  # of a request line or header field
CLOSE_PATIENCE_S = 5.0  # for changes under way when the switch ends
HEADERS = {"Server": f"vswitch/{__version__}", "Vswitch-Version": __version__, "Vswitch-Api": str(API)}
encode = msgspec.json.Encoder().encode


class ApiServer:
    """Serves the routes for `context` (what handlers act on) at a listening socket, see listen.py."""

    def __init__(self, context: Context, listening: socket.socket):
        self.context = context
        self._listening = listening
        self._server: asyncio.Server | None = None
        self._web = _Web(self._answer)
        self._streams: set[asyncio.Task] = set()
        self._changes: set[asyncio.Task] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._web, sock=self._listening)

    async def close(self) -> None:
        """Take no more requests, end the streams, let changes end."""
        if self._server is not None:
            self._server.close()
        for stream in self._streams:
            stream.cancel()
        if self._changes:
            await asyncio.wait(self._changes, timeout=CLOSE_PATIENCE_S)
        self._web.pre_shutdown()
        await self._web.shutdown(CLOSE_PATIENCE_S)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request: never raises but for cancellation and a connection that broke."""
        try:
            route, call = await self._decode(request)
            if route.stream:
                return await self._stream(request, route, call)
            if request.method == "GET":
                return _json(await route.handler(call), route.status)
            return await self._change(request, route, call)
        except Refused as refusal:
            return _error(str(refusal), refusal.status)
        except web.HTTPException as refusal:
            return _error(_too_large() if refusal.status == 413 else refusal.reason, refusal.status)
        except web.RequestPayloadError:
            return _error("the request's body is broken off or badly framed", 400)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as bug:
            log.exception("%s %s failed", request.method, request.path)
            return _error(_bug(bug), 500)

    async def _decode(self, request: web.BaseRequest) -> tuple[Route, Call]:
        segments = [_unquote(part) for part in request.rel_url.raw_path.split("/")]
        route, names = find(request.method, segments)
        if route is None:
            raise refuse_unknown(request.method, segments)
        query = _decode_query(request, route)
        body = _decode_body(await request.read(), route) if route.body is not None else None
        return route, Call(self.context, names, query, body)

    async def _change(self, request: web.BaseRequest, route: Route, call: Call) -> web.Response:
        """A change, logged with who asked for it and what became of it."""
        task = asyncio.current_task()
        assert task is not None
        self._changes.add(task)
        what = f"{request.method} {request.path} by {_who(request)}"
        try:
            response = _json(await route.handler(call), route.status)
        except Refused as refusal:
            log.debug("%s: refused: %s", what, refusal)
            raise
        except asyncio.CancelledError:
            log.debug("%s: abandoned, the client has gone", what)
            raise
        finally:
            self._changes.discard(task)
        log.debug("%s", what)
        return response

    async def _stream(self, request: web.BaseRequest, route: Route, call: Call) -> web.StreamResponse:
        """Refusals come before the first byte.

        A stream's handler checks everything, then returns its iterator.
        """
        if request.method != "GET":
            log.debug("%s %s by %s", request.method, request.path, _who(request))
        pieces: AsyncIterator = await route.handler(call)
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": route.media})
        response.enable_chunked_encoding()
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            await response.prepare(request)
            async for piece in pieces:
                await response.write(piece if isinstance(piece, bytes) else encode(piece) + b"\n")
        finally:
            self._streams.discard(task)
            await pieces.aclose()
        return response


class _Web(web.Server):
    """Aiohttp's server with a limit on connections and our way of saying what is wrong."""

    def __init__(self, handler: Any):
        super().__init__(handler, request_factory=_request, handler_cancellation=True)

    def __call__(self) -> asyncio.Protocol:
        if len(self.connections) >= CONNECTION_LIMIT:
            return _Full()
        return _Protocol(
            self,
            loop=self._loop,
            access_log=None,
            logger=log,
            tcp_keepalive=False,
            auto_decompress=False,
            max_line_size=LINE_LIMIT_BYTES,
            max_field_size=LINE_LIMIT_BYTES,
        )


class _Protocol(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self, request: Any, status: int = 500, exc: Any = None, message: str | None = None
    ) -> web.Response:
        """What aiohttp itself found wrong: bytes that are no HTTP (400), or a bug of ours (500)."""
        if status < 500:
            log.debug("a client sent no HTTP: %s", exc)
            response = _error("this is no HTTP request: " + _first_line(message), status)
        else:
            log.error("a request failed outside its handler", exc_info=exc)
            response = _error(_bug(exc), status)
        response.force_close()
        return response


class _Full(asyncio.Protocol):
    """Tells one client too many so, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        body = json.dumps(
            {"error": f"the switch has {CONNECTION_LIMIT} connections, its limit: close some"}
        ).encode()
        lines = [
            "HTTP/1.1 503 Service Unavailable",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in HEADERS.items()),
            "",
            "",
        ]
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write("\r\n".join(lines).encode() + body)
        transport.close()


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_LIMIT_BYTES)


def _decode_body(content: bytes, route: Route) -> Any:
    if not content and route.body_optional:
        return route.body()
    try:
        return msgspec.json.decode(content, type=route.body)
    except ValueError as problem:
        raise Refused(_malformed(problem)) from None


def _decode_query(request: web.BaseRequest, route: Route) -> Any:
    lists = route.query_lists
    values: dict[str, Any] = {}
    for name, value in request.rel_url.query.items():
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise Refused(f"{_first_line(name)} is given twice in the query; it takes one value")
        else:
            values[name] = value
    try:
        return msgspec.convert(values, type=route.query, strict=False)
    except ValueError as problem:
        raise Refused(_malformed(problem)) from None


def _malformed(problem: Exception) -> str:
    if isinstance(problem, UnicodeError):
        return "the JSON is not UTF-8"
    return _first_line(str(problem))


def _unquote(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise Refused("the path is not UTF-8", 400) from None


def _who(request: web.BaseRequest) -> str:
    connected = request.transport and request.transport.get_extra_info("socket")
    if connected is None:
        return "a client that has gone"
    try:
        pid, uid, _ = peer(connected)
    except OSError:
        return "a client that has gone"
    return f"pid {pid}, uid {uid}"


def _json(value: Any, status: int) -> web.Response:
    body = None if value is None else encode(value)
    status = 204 if value is None else status
    return web.Response(body=body, status=status, headers=HEADERS, content_type="application/json")


def _error(message: str, status: int) -> web.Response:
    body = json.dumps({"error": _first_line(message)}).encode()
    return web.Response(body=body, status=status, headers=HEADERS, content_type="application/json")


def _too_large() -> str:
    return f"the request's body has more than {BODY_LIMIT_BYTES} bytes, the most that is taken"


def _bug(bug: BaseException | None) -> str:
    return f"the switch failed ({type(bug).__name__}): its log has the details"


def _first_line(text: str | None) -> str:
    """One printable line of at most 1000 characters, whatever `text` holds."""
    line = " ".join((text or "").split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)[:1000]
