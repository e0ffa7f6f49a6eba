# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 document, made from the route table and the types that decode and encode what crosses it.

It cannot be out of date.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import msgspec.structs

from vswitch import __version__
from vswitch.control.api.routes import JSON, JSON_LINES, ROUTES, Route

REFUSAL = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "One line."}},
}
DESCRIPTION = (
    'Served on a Unix socket. A refusal of any kind is a 4xx or 5xx with {"error": "one line"}. '
    "Where a request names a token, descriptors were sent under it before, on the neighbour socket SOCKET.fd."
)


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    types = {kind for route in ROUTES for kind in (route.body, route.answer) if kind is not None}
    ordered = sorted(types, key=str)
    schemas, components = msgspec.json.schema_components(
        ordered, schema_hook=_anything, ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vswitch",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                "Refusal": {"description": "Refused, in one line.", "content": {JSON: {"schema": REFUSAL}}}
            },
        },
    }


def _anything(kind: type) -> dict[str, Any]:
    """The schema of `object`: any JSON value."""
    if kind is not object:
        raise NotImplementedError
    return {"description": "Any JSON value."}


def _operation(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {
            str(route.expected_status): _answer(route, schema_of),
            "default": {"$ref": "#/components/responses/Refusal"},
        },
    }
    if route.body is not None:
        content = {JSON: {"schema": schema_of[route.body]}}
        operation["requestBody"] = {"required": not route.body_optional, "content": content}
    return operation


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": part[1:-1],
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            "description": "A name, an id, or the beginning of an id.",
        }
        for part in route.segments
        if part.startswith("{")
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": field.name, "in": "query", "required": field.required, "schema": _plain_schema(field.type)}
        for field in msgspec.structs.fields(route.query)
    ]


def _plain_schema(kind: Any) -> dict[str, Any]:
    """The schema of a query's field; a query cannot say null, only leave the field out."""
    schema = msgspec.json.schema(kind)
    if "anyOf" in schema:
        (schema,) = [option for option in schema["anyOf"] if option.get("type") != "null"]
    return schema


def _answer(route: Route, schema_of: dict[Any, Any]) -> dict[str, Any]:
    if route.answer is None and not route.stream:
        return {"description": "Done."}
    schema = {"type": "string"} if route.answer is None else schema_of[route.answer]
    what = "One JSON document per line, until either side ends it." if route.media == JSON_LINES else "Done."
    return {"description": what, "content": {route.media: {"schema": schema}}}
