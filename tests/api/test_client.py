# SPDX-License-Identifier: Apache-2.0
"""The client against servers that send canned bytes: good ones, strange ones, none at all."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vswitch import __version__
from vswitch.control.api.client import Client, ClientError, NoSwitch, segment

OURS = f"Vswitch-Version: {__version__}\r\nVswitch-Api: 1\r\n".encode()


def answer(status: str, body: bytes, *headers: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status}".encode(), f"Content-Length: {len(body)}".encode(), *headers]
    return b"\r\n".join(lines) + b"\r\n" + OURS + b"\r\n" + body


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Callable[[bytes], Client]]:
    """`server(bytes)` is a client whose next request is answered with these bytes and a closed connection."""
    path = str(tmp_path_factory.mktemp("canned") / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve(content: bytes) -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(5)
                connection.recv(65536)
                try:
                    connection.sendall(content)
                except OSError:
                    pass

        def client_for(content: bytes) -> Client:
            threading.Thread(target=serve, args=(content,), daemon=True).start()
            return Client(path, timeout_s=5)

        yield client_for


def test_a_counted_body_is_read(server):
    assert server(answer("200 OK", b'{"a": [1]}')).get("/v1/x") == {"a": [1]}


def test_no_content_is_none(server):
    assert server(b"HTTP/1.1 204 No Content\r\n" + OURS + b"\r\n").delete("/v1/x") is None


def test_chunks_are_put_together(server):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + OURS + b"\r\n"
    assert server(head + b'3\r\n{"a\r\n5;ext\r\n": 1}\r\n0\r\n\r\n').get("/v1/x") == {"a": 1}


def test_lines_come_one_by_one_across_chunks(server):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + OURS + b"\r\n"
    client = server(head + b'6\r\n{"n":1\r\n9\r\n}\n{"n":2}\r\n1\r\n\n\r\n0\r\n\r\n')
    assert list(client.lines("GET", "/v1/events")) == [{"n": 1}, {"n": 2}]


def test_a_refusal_is_its_line_with_its_status(server):
    with pytest.raises(ClientError, match=r"^no such network: blue$") as refusal:
        server(answer("404 Not Found", b'{"error": "no such network: blue"}')).get("/v1/networks/blue")
    assert refusal.value.status == 404


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error"'])
def test_a_refusal_without_a_line_still_says_something(server, body):
    with pytest.raises(ClientError, match="status 500"):
        server(answer("500 X", body)).get("/v1/x")


def test_another_kind_of_server_is_told_from_a_switch(server):
    with pytest.raises(ClientError, match=r"is no switch$"):
        server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").get("/v1/x")


def test_a_switch_of_another_api_is_named_with_both_versions(server):
    head = b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nVswitch-Version: 9.1\r\nVswitch-Api: 7\r\n\r\n"
    with pytest.raises(
        ClientError, match=f"version 9.1 and speaks API 7, this vswitch is {__version__} and speaks API 1"
    ):
        server(head).get("/v1/x")


def test_a_refusal_of_another_version_names_both(server):
    body = b'{"error": "no such path"}'
    head = b"HTTP/1.1 404 X\r\nContent-Length: %d\r\nVswitch-Version: 0.0.9\r\nVswitch-Api: 1\r\n\r\n" % len(
        body
    )
    with pytest.raises(
        ClientError, match=f"no such path .the switch is version 0.0.9, this vswitch {__version__}"
    ):
        server(head + body).get("/v1/new")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\n" + OURS + b"Content-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + OURS + b"\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + OURS + b"Content-Length: -5\r\n\r\n",
    ],
)
def test_a_broken_answer_is_one_line(server, content):
    with pytest.raises(ClientError, match="broke off its answer"):
        server(content).get("/v1/x")


def test_what_is_no_json_is_one_line(server):
    with pytest.raises(ClientError, match="sent no JSON"):
        server(answer("200 OK", b"hello")).get("/v1/x")


@settings(max_examples=150, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=300), st.binary(max_size=200).map(lambda b: b"HTTP/1.1 200 OK\r\n" + OURS + b)
    )
)
def test_any_bytes_are_an_answer_or_one_line(server, content):
    try:
        server(content).get("/v1/x")
    except ClientError as problem:
        assert "\n" not in str(problem)


def test_nobody_there_says_how_to_start_a_switch(tmp_path):
    with pytest.raises(
        NoSwitch, match=r"no switch is running at .*/nothing: start one with `vswitch-run` or `systemctl"
    ):
        Client(str(tmp_path / "nothing")).get("/v1/version")


def test_a_dead_switch_is_nobody_there(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with pytest.raises(NoSwitch):
        Client(str(tmp_path / "s")).get("/v1/version")


def test_a_switch_that_hangs_is_given_up_on(tmp_path):
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / "s"))
        hanging.listen()
        with pytest.raises(ClientError, match="does not answer"):
            Client(str(tmp_path / "s"), timeout_s=0.05).get("/v1/version")


@pytest.mark.root
def test_a_socket_of_others_is_named_with_its_owner(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as private:
        private.bind(str(path))
        private.listen()
        path.chmod(0o600)
        for folder in (tmp_path, *tmp_path.parents):
            if (
                folder.stat().st_uid == 0
                and folder.is_relative_to("/tmp")
                and folder != folder.parent
                and str(folder) != "/tmp"
            ):
                folder.chmod(0o755)
        said = _said_by_nobody(str(path))
        assert said.startswith(f"no permission to use {path}, which is for user root only: use its owner's rights")
        assert "no switch is running" not in said and "--socket-group" in said
        tmp_path.chmod(0o700)
        assert "which lies in a folder that is closed to you" in _said_by_nobody(str(path))


def _said_by_nobody(path: str) -> str:
    """What a client that runs as uid 65534 is told."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            Client(path).get("/v1/version")
        except ClientError as problem:
            os.write(writing, str(problem).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as said:
        return said.read()


def test_a_name_is_quoted_where_a_path_needs_it():
    assert segment("web_1.a-b") == "web_1.a-b"
    assert segment("a/b?c#d e%") == "a%2Fb%3Fc%23d%20e%25"
    assert segment("fd00::2") == "fd00::2"
    assert segment("ü") == "%C3%BC"
    with pytest.raises(ClientError, match="'' names nothing"):
        segment("")
