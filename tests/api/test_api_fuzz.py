# SPDX-License-Identifier: Apache-2.0
"""Any bytes, any JSON, any path: an answer, or a refusal in one line.

Never a failure of the switch, never a hang.
"""

from __future__ import annotations

import json
import string

from hypothesis import given, settings
from hypothesis import strategies as st
from raw_http import Reply, ask, exchange
from served import Served

from vswitch.control.api.routes import ROUTES

NAMES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["default", "web", "10.0.0.0/8", "fd00::/64", "::", "0.0.0.0/0", "-1"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), NAMES)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
SUBNETS = st.lists(
    st.fixed_dictionaries(
        {"subnet": NAMES}, optional={"gateway": JSON, "ip_range": JSON, "aux_addresses": JSON}
    )
)
FIELDS = [  # of every body
    *("name", "driver", "mtu", "labels", "options", "ipv6", "internal", "spec", "origin", "token"),
    *("has_pidfd", "timeout", "exit_code", "networks", "containers", "snaplen", "command", "hostname"),
]
WORDS = {field: JSON for field in FIELDS} | {"subnets": SUBNETS}
NAMED = st.fixed_dictionaries({"name": st.text(string.ascii_lowercase, min_size=1, max_size=5)})
NEARLY = st.builds(
    lambda words, name: words | name, st.fixed_dictionaries({}, optional=WORDS), NAMED | st.just({})
)
# Streams are left out where a request may be granted: they would go on for ever.
TARGETS = [(route.method, route.path) for route in ROUTES if route.body is not None]
LISTINGS = [route.path for route in ROUTES if route.method == "GET" and not route.stream]
SEGMENT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def check(reply: Reply) -> None:
    assert reply.status < 500, reply
    if reply.status >= 400:
        assert reply.error


def quoted(text: str) -> str:
    return "".join(f"%{octet:02x}" for octet in text.encode())


@settings(max_examples=300)
@given(
    content=st.one_of(
        st.binary(max_size=200), st.text(max_size=100).map(lambda t: f"GET /v1/{t} HTTP/1.1\r\n\r\n".encode())
    )
)
def test_any_bytes_on_the_socket(served: Served, content):
    for reply in exchange(served.path, content, leave=True):
        check(reply)


@settings(max_examples=300)
@given(target=st.sampled_from(TARGETS), body=st.one_of(JSON, NEARLY))
def test_any_json_as_a_body(served: Served, target, body):
    method, path = target
    path = path.replace("{container}", "web").replace("{network}", "default")
    check(ask(served.path, method, path, json.dumps(body).encode()))


@settings(max_examples=150)
@given(target=st.sampled_from(TARGETS), body=st.binary(max_size=100))
def test_any_bytes_as_a_body(served: Served, target, body):
    method, path = target
    check(ask(served.path, method, path.replace("{container}", "web"), body))


@settings(max_examples=200)
@given(
    path=st.one_of(
        st.sampled_from(LISTINGS),
        st.lists(SEGMENT, max_size=4).map(lambda parts: "/v1/" + "/".join(map(quoted, parts))),
    ),
    query=st.lists(
        st.tuples(st.sampled_from(["network", "container", "all", "force", "x"]) | SEGMENT, SEGMENT),
        max_size=3,
    ),
)
def test_any_path_and_query(served: Served, path, query):
    pairs = "&".join(f"{quoted(name)}={quoted(value)}" for name, value in query)
    check(ask(served.path, "GET", f"{path.replace('{', '%7b').replace('}', '%7d')}?{pairs}"))


def test_the_switch_still_works_after_all_that(served: Served):
    served.client.post("/v1/networks/prune")
    assert [network["name"] for network in served.client.get("/v1/networks")] == ["default"]
    served.attach(name="last")
    assert [container["name"] for container in served.client.get("/v1/containers", all=1)] == ["last"]
