# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document holds every route, and what the switch answers has the shape that it promises."""

from __future__ import annotations

from typing import Any

import pytest
from served import Served

from vswitch.control.api.openapi import document
from vswitch.control.api.routes import ROUTES
from vswitch.datapath.plane import FlowRow

KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def complaint(value: Any, schema: dict[str, Any], place: str = "$") -> str | None:
    """What is wrong with `value` by a schema of the kinds that our document has; None for nothing."""
    if "$ref" in schema:
        return complaint(value, document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]], place)
    if "anyOf" in schema:
        complaints = [complaint(value, option, place) for option in schema["anyOf"]]
        return None if None in complaints else "; ".join(map(str, complaints))
    if "enum" in schema and value not in schema["enum"]:
        return f"{place}: {value!r} is none of {schema['enum']}"
    kind = schema.get("type")
    if kind in ("integer", "number"):
        fits = isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
        return None if fits else f"{place}: {value!r} is no {kind}"
    if kind is not None and not isinstance(value, KINDS[kind]):
        return f"{place}: {value!r} is no {kind}"
    if kind == "array":
        return next(
            filter(None, (complaint(v, schema["items"], f"{place}[{i}]") for i, v in enumerate(value))), None
        )
    return _object_complaint(value, schema, place) if kind == "object" else None


def _object_complaint(value: dict, schema: dict[str, Any], place: str) -> str | None:
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        return f"{place}: no {missing}"
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for name, inner in value.items():
        if properties and name not in properties:
            return f"{place}: {name} is not in the document"
        rule = properties.get(name, others)
        if rule and (found := complaint(inner, rule, f"{place}.{name}")):
            return found
    return None


@pytest.fixture(scope="module")
def busy(served: Served) -> Served:
    """A switch that has something of everything to show."""
    served.client.post("/v1/networks", {"name": "blue", "ipv6": True, "labels": {"a": "b"}})
    served.attach(name="web", networks=[{"network": "blue", "aliases": ["www"]}, {"network": "default"}],
                  ports=["8080:80"])
    addresses = [bytes(10) + b"\xff\xff" + bytes([10, 0, 0, n]) for n in (1, 2, 3)]
    ends = (addresses[0], 1, addresses[1], 2, addresses[2])
    served.datapath.flow_rows = [FlowRow(0, 0, "tcp", "out", "established", *ends, 1, 2, 3, 4, 5, 6, 7, 8)]
    served.datapath.port_drops[next(iter(served.datapath.ports))] = {"runt": 3}
    return served


def test_the_document_is_served(busy: Served):
    assert busy.client.get("/v1/openapi.json") == document()


def test_every_route_is_in_the_document_and_nothing_else():
    documented = {
        (method.upper(), path) for path, methods in document()["paths"].items() for method in methods
    }
    assert documented == {(route.method, route.path) for route in ROUTES}
    assert len(documented) == len(ROUTES)


def test_operations_have_names_of_their_own():
    names = [
        operation["operationId"] for methods in document()["paths"].values() for operation in methods.values()
    ]
    assert len(set(names)) == len(names)


def test_every_reference_leads_somewhere():
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            inner = set().union(*(references(v) for v in value.values()))
            return inner | ({value["$ref"]} if "$ref" in value else set())
        return set().union(*(references(v) for v in value)) if isinstance(value, list) else set()

    for reference in references(document()):
        found: Any = document()
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_every_variable_of_a_path_is_described():
    for path, methods in document()["paths"].items():
        for operation in methods.values():
            described = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert described == {part[1:-1] for part in path.split("/") if part.startswith("{")}


@pytest.mark.parametrize(
    "path", [route.path for route in ROUTES if route.method == "GET" and not route.stream]
)
def test_answers_have_the_shape_that_the_document_promises(busy: Served, path):
    operation = document()["paths"][path]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    answer = busy.client.get(path.replace("{container}", "web").replace("{network}", "blue"))
    assert complaint(answer, schema) is None
    if isinstance(answer, list) and "leases" not in path:
        assert answer, "an empty list shows nothing"


def test_the_check_itself_complains(busy: Served):
    schema = document()["paths"]["/v1/networks"]["get"]["responses"]["200"]["content"]["application/json"][
        "schema"
    ]
    (network, *_) = busy.client.get("/v1/networks")
    assert complaint([network | {"mtu": "1500"}], schema)
    assert complaint([network | {"extra": 1}], schema)
    assert complaint([{name: value for name, value in network.items() if name != "id"}], schema)
    assert complaint({}, schema)
