# SPDX-License-Identifier: Apache-2.0
"""The server: what is granted, what is refused and how, and what a client that goes away leaves behind."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import eventually
from raw_http import ask, exchange
from served import Served

from vswitch import __version__
from vswitch.control.api.client import ClientError
from vswitch.control.api.server import BODY_LIMIT_BYTES, CONNECTION_LIMIT
from vswitch.ports.handover import offer

DEADLINE_S = 10


def test_every_answer_names_version_and_api(served: Served):
    for method, target in (("GET", "/v1/version"), ("GET", "/nothing"), ("GET", "/v1/networks/nope")):
        head = ask(served.path, method, target).head.lower()
        assert f"vswitch-version: {__version__}" in head
        assert "vswitch-api: 1" in head


def test_a_network_comes_is_shown_and_goes(served: Served):
    created = ask(
        served.path, "POST", "/v1/networks", b'{"name": "blue", "subnets": [{"subnet": "10.1.0.0/24"}]}'
    )
    assert created.status == 201
    assert created.json["subnets"][0]["gateway"] == "10.1.0.1"
    assert served.client.get("/v1/networks/blue") == created.json
    assert served.client.get(f"/v1/networks/{created.json['id'][:12]}") == created.json
    assert ask(served.path, "DELETE", "/v1/networks/blue").status == 204
    assert ask(served.path, "GET", "/v1/networks/blue").status == 404


def test_a_container_comes_and_goes_with_descriptors(served: Served):
    container = served.attach(name="web", labels={"a": "b"})
    assert served.client.get("/v1/containers/web")["labels"] == {"a": "b"}
    assert [row["container"] for row in served.client.get("/v1/fdb", container="web")] == ["web"]
    served.client.post(f"/v1/containers/{container['id']}/detach")
    with pytest.raises(ClientError) as refusal:
        served.client.get("/v1/containers/web")
    assert refusal.value.status == 404


@pytest.mark.parametrize(("method", "target", "body", "status", "line"), [
    ("GET", "/", b"", 404, "no such path"),
    ("GET", "/v2/networks", b"", 404, "no such path"),
    ("GET", "/v1/networks/", b"", 404, "no such path"),
    ("PUT", "/v1/networks", b"", 405, "PUT is not possible here: use GET or POST"),
    ("PATCH", "/v1/version", b"", 405, "use GET"),
    ("BREW", "/v1/version", b"", 400, "this is no HTTP request"),
    ("POST", "/v1/networks", b"", 400, "Input data was truncated"),
    ("POST", "/v1/networks", b"{", 400, "truncated"),
    ("POST", "/v1/networks", b"[]", 400, "Expected `object`, got `array`"),
    ("POST", "/v1/networks", b"{}", 400, "missing required field `name`"),
    ("POST", "/v1/networks", b'{"name": 7}', 400, "Expected `str`, got `int` - at `$.name`"),
    ("POST", "/v1/networks", b'{"name": "x", "icc": false}', 400, "unknown field `icc`"),
    ("POST", "/v1/networks", b'{"name": "\xff"}', 400, "not UTF-8"),
    ("POST", "/v1/networks", b'{"name": "\\ud800 \\ud800"}', 400, "surrogate"),
    ("POST", "/v1/networks", b'{"labels": {"a": ' + b"[" * 100_000, 400, "Expected `str`, got `array`"),
    ("POST", "/v1/networks", b'{"name": "-"}', 400, "network name '-' is invalid"),
    ("POST", "/v1/networks", b'{"name": "default"}', 409, "exists already"),
    ("GET", "/v1/networks/%ff", b"", 400, "the path is not UTF-8"),
    ("GET", "/v1/networks/a%2fb%0a", b"", 404, "no such network: 'a/b\\\\n'"),
    ("GET", "/v1/containers?all=perhaps", b"", 400, "Expected `bool`"),
    ("GET", "/v1/containers?all=1&all=0", b"", 400, "given twice"),
    ("GET", "/v1/containers?every=1", b"", 400, "unknown field `every`"),
    ("GET", "/v1/fdb?network=nope", b"", 404, "no such network: 'nope'"),
    ("POST", "/v1/containers/nope/stop", b'{"timeout": -1}', 404, "no such container"),
    ("POST", "/v1/containers/nope/stop", b'{"timeout": "soon"}', 400, "Expected `float`"),
    ("DELETE", "/v1/captures/nope", b"", 404, "no capture 'nope' is under way"),
])  # fmt: skip
def test_a_bad_request_is_refused_in_one_line_with_its_status(
    served: Served, method, target, body, status, line
):
    reply = ask(served.path, method, target, body)
    assert reply.status == status
    assert line.replace("\\\\", "\\") in reply.error


def test_a_stop_needs_no_body(served: Served):
    assert ask(served.path, "POST", "/v1/containers/nope/stop").status == 404


def test_a_body_over_the_limit_is_refused(served: Served):
    reply = ask(served.path, "POST", "/v1/networks", b" " * (BODY_LIMIT_BYTES + 1))
    assert reply.status == 413
    assert str(BODY_LIMIT_BYTES) in reply.error


def test_a_compressed_body_is_not_expanded(served: Served):
    import gzip

    reply = ask(
        served.path, "POST", "/v1/networks", gzip.compress(b" " * 10_000_000), "Content-Encoding: gzip"
    )
    assert reply.status == 400
    assert reply.error


@pytest.mark.parametrize("content", [
    b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v1/version HTTP/1.1\r\nContent-Length: minus\r\n\r\n", b"GET /v1/version HTTP/1.1\r\n bad\r\n\r\n",
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
    b"POST /v1/networks HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
])  # fmt: skip
def test_what_is_no_http_gets_one_line_too(served: Served, content):
    (reply,) = exchange(served.path, content)
    assert 400 <= reply.status < 500
    assert reply.error


@pytest.mark.parametrize(
    "content", [b"", b"GET", b"GET / HTTP/1.1\r\nHost", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_client_that_leaves_in_the_middle_is_no_trouble(served: Served, content, caplog):
    exchange(served.path, content, leave=True)
    assert ask(served.path, "GET", "/v1/version").status == 200
    assert "Traceback" not in caplog.text


def test_requests_in_a_row_are_answered_on_one_connection(served: Served):
    one = b"GET /v1/networks/nope HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert [reply.status for reply in exchange(served.path, one * 20 + last)] == [404] * 20 + [200]


def test_our_own_failure_is_one_line_and_a_traceback_in_the_log(served: Served, monkeypatch, caplog):
    monkeypatch.setattr(served.switch, "networks", lambda: 1 / 0)
    reply = ask(served.path, "GET", "/v1/networks")
    assert reply.status == 500
    assert reply.error == "the switch failed (ZeroDivisionError): its log has the details"
    assert "Traceback" in caplog.text


def test_a_busy_api_leaves_the_log_quiet(served: Served, caplog):
    with caplog.at_level(logging.INFO):
        ask(served.path, "POST", "/v1/networks/prune")
        ask(served.path, "POST", "/v1/networks", b'{"name": "default"}')
    assert "/v1" not in caplog.text


def test_changes_are_logged_for_debugging_with_who_asked(served: Served, caplog):
    with caplog.at_level(logging.DEBUG):
        ask(served.path, "POST", "/v1/networks/prune")
        ask(served.path, "POST", "/v1/networks", b'{"name": "default"}')
    who = f"by pid {os.getpid()}, uid {os.getuid()}"
    assert f"POST /v1/networks/prune {who}" in caplog.text
    assert f"POST /v1/networks {who}: refused: network default exists already" in caplog.text


def test_a_token_that_nobody_sent_is_refused(served: Served):
    with pytest.raises(ClientError, match="no descriptors wait under this token"):
        served.client.post("/v1/containers", {"spec": {}, "origin": {}, "token": "0" * 32})


@pytest.mark.parametrize(
    ("described", "line"),
    [
        ({"has_userns": True}, "1 descriptors came under the token; the request describes 2"),
        ({"has_pidfd": True, "extra": 1}, "is no pidfd"),
    ],
)
def test_descriptors_other_than_described_are_refused_and_closed(served: Served, described, line):
    before = os.listdir("/proc/self/fd")
    fds = [os.memfd_create("x") for _ in range(1 + described.pop("extra", 0))]
    token = offer(f"{served.path}.fd", fds)
    for fd in fds:
        os.close(fd)
    with pytest.raises(ClientError, match=line):
        served.client.post("/v1/containers", {"spec": {}, "origin": {}, "token": token, **described})
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(before), "the descriptors are closed")


def test_a_refused_container_leaves_nothing(served: Served):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ClientError, match="no such network"):
        served.attach(name="half", networks=[{"network": "default"}, {"network": "nope"}])
    assert served.client.get("/v1/containers", all=1) == []
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before, "the descriptors are closed")


def test_events_are_streamed_as_they_happen(served: Served):
    events = served.client.lines("GET", "/v1/events")
    eventually(lambda: len(served.switch.events.subscriptions) == 0, "nobody listens yet")
    first = _in_background(next, events)
    eventually(lambda: len(served.switch.events.subscriptions) == 1, "somebody listens")
    served.client.post("/v1/networks", {"name": "red"})
    event = first()
    assert (event["type"], event["action"], event["name"]) == ("network", "create", "red")
    events.close()
    eventually(lambda: len(served.switch.events.subscriptions) == 0, "a client that has gone listens no more")
    served.client.delete("/v1/networks/red")


def test_a_slow_reader_of_events_delays_nobody(served: Served):
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(served.path)
        reader.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: len(served.switch.events.subscriptions) == 1, "it listens")
        for number in range(100):
            served.client.post(
                "/v1/networks", {"name": f"n{number}", "subnets": [{"subnet": f"10.2.{number}.0/24"}]}
            )
        assert len(served.client.get("/v1/networks")) == 101
        served.client.post("/v1/networks/prune")
    eventually(lambda: len(served.switch.events.subscriptions) == 0, "it has gone")


def test_a_client_one_too_many_is_told_so(served: Served, monkeypatch):
    monkeypatch.setattr("vswitch.control.api.server.CONNECTION_LIMIT", 1)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(served.path)
        first.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        first.recv(1)
        (reply,) = exchange(served.path, b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert reply.status == 503
        assert "connections" in reply.error
    assert CONNECTION_LIMIT > 100


def test_a_capture_is_reported_and_stopped(served: Served, tmp_path):
    served.attach(name="seen")
    path = tmp_path / "x.pcapng"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    token = offer(f"{served.path}.fd", [fd])
    os.close(fd)
    reports = served.client.lines(
        "POST", "/v1/captures", {"token": token, "containers": ["seen"], "snaplen": 128}
    )
    first = next(reports)
    assert first["written"] == 0
    assert len(served.datapath.watched) == 1
    assert served.client.delete(f"/v1/captures/{first['id']}")["id"] == first["id"]
    assert list(reports)[-1]["trouble"] is None
    assert path.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
    assert served.datapath.watched == set()
    served.client.delete("/v1/containers/seen", force=1)


def test_a_capture_ends_with_its_client(served: Served, tmp_path):
    reports = captured(served, tmp_path / "x.pcapng")
    assert served.datapath.captures
    reports.close()
    eventually(lambda: not served.datapath.captures, "the capture is out of the dataplane")


def test_a_capture_sees_ports_that_come_later_and_only_those_it_asked_for(served: Served, tmp_path):
    served.client.post("/v1/networks", {"name": "green", "subnets": [{"subnet": "10.3.0.0/24"}]})
    reports = captured(served, tmp_path / "x.pcapng", networks=["green"])
    served.attach(name="elsewhere")
    assert served.datapath.watched == set()
    served.attach(name="here", networks=[{"network": "green"}])
    ((_, index),) = served.datapath.watched
    assert served.client.get("/v1/fdb", container="here")[0]["port"] == index
    reports.close()
    for name in ("elsewhere", "here"):
        served.client.delete(f"/v1/containers/{name}", force=1)
    served.client.post("/v1/networks/prune")


def test_a_capture_one_too_many_is_refused_and_leaves_nothing(served: Served, tmp_path):
    eventually(lambda: not served.datapath.captures, "earlier captures have ended")
    running = [captured(served, tmp_path / f"{number}") for number in range(8)]
    with pytest.raises(ClientError, match=r"8 captures are running.*: end one first") as refusal:
        captured(served, tmp_path / "ninth")
    assert refusal.value.status == 507
    assert len(served.datapath.captures) == 8
    for reports in running:
        reports.close()
    eventually(lambda: not served.datapath.captures, "all have ended")


def captured(served: Served, path: Path, **spec):
    """The reports of a capture that has begun."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    token = offer(f"{served.path}.fd", [fd])
    os.close(fd)
    reports = served.client.lines("POST", "/v1/captures", {"token": token, **spec})
    next(reports)
    return reports


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"snaplen": 3}, "snaplen 3 is out of range"),
        ({"networks": ["nope"]}, "no such network"),
        ({"containers": ["nope"]}, "no such container"),
    ],
)
def test_a_capture_that_cannot_be_is_refused_with_a_status(served: Served, spec, line):
    reading, writing = os.pipe()
    token = offer(f"{served.path}.fd", [writing])
    os.close(writing)
    with pytest.raises(ClientError, match=line) as refusal:
        list(served.client.lines("POST", "/v1/captures", {"token": token, **spec}))
    assert refusal.value.status in (400, 404)
    os.close(reading)


def test_logs_are_text_and_refused_where_there_are_none(served: Served):
    served.attach(name="quiet")
    with pytest.raises(ClientError, match="container quiet has no log"):
        list(served.client.stream("GET", "/v1/containers/quiet/logs"))
    served.client.delete("/v1/containers/quiet", force=1)


def test_json_is_what_is_answered(served: Served):
    reply = ask(served.path, "GET", "/v1/networks")
    assert "content-type: application/json" in reply.head.lower()
    assert json.loads(reply.body)[0]["name"] == "default"


def _in_background(work: Callable, *arguments) -> Callable[[], object]:
    """Starts work in a thread; the result is what that returns."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    future = pool.submit(work, *arguments)
    pool.shutdown(wait=False)
    return lambda: future.result(DEADLINE_S)
