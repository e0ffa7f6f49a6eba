# SPDX-License-Identifier: Apache-2.0
"""Published ports with real clients, a neighbour of the host among them, and real servers in containers."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from living_switch import LivingSwitch, Namespace, eventually

pytestmark = pytest.mark.root

HOST4, CLIENT4 = "192.0.2.1", "192.0.2.9"
HOST6, CLIENT6 = "2001:db8::1", "2001:db8::9"
UDP_ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 53))
while True:
    data, who = s.recvfrom(65535)
    s.sendto(f"{who[0]} {who[1]} ".encode() + data, who)
"""


@contextlib.contextmanager
def web_server(container: Namespace, folder: Path, *, port: int = 80, bind: str = "0.0.0.0") -> Iterator[Path]:
    """A web server with an access log, which is yielded."""
    (folder / "page").write_text("hello from inside\n")
    log = folder / f"access{port}.log"
    with open(log, "w") as output:
        command = [sys.executable, "-u", "-m", "http.server", str(port), "--bind", bind, "--directory", str(folder)]
        server = container.start(*command, stdout=output, stderr=output)
        try:
            eventually(lambda: f":{port} " in container.run("ss", "-tln").stdout, "the server to listen")
            yield log
        finally:
            server.kill()
            server.wait()


def fetch(where: Namespace, address: str, port: int) -> str:
    return where.run("curl", "-sS", "--max-time", "10", f"http://{address}:{port}/page").stdout


def refused(where: Namespace, address: str, port: int) -> bool:
    done = where.run("curl", "-sS", "--max-time", "5", f"http://{address}:{port}/", check=False)
    return done.returncode == 7  # could not connect


def test_a_server_sees_its_clients_own_address(switch: LivingSwitch, client: Namespace, tmp_path: Path):
    web = switch.container("web", "-p", "8080:80")
    with web_server(web, tmp_path) as log:
        assert fetch(client, HOST4, 8080) == "hello from inside\n"
        assert f"{CLIENT4} - - " in log.read_text()
        assert fetch(switch.host, "127.0.0.1", 8080) == "hello from inside\n"
        eventually(lambda: "172.17.0.1 - - " in log.read_text(), "the host's loopback to appear as the gateway")


def test_over_ipv6_too(switch: LivingSwitch, client: Namespace, tmp_path: Path):
    switch("network", "create", "blue", "--ipv6")
    web = switch.container("web", "--network", "blue", "-p", "8080:80")
    with web_server(web, tmp_path, bind="::") as log:
        assert fetch(client, f"[{HOST6}]", 8080) == "hello from inside\n"
        eventually(lambda: CLIENT6 in log.read_text(), "the client's IPv6 address in the access log")
        assert fetch(client, HOST4, 8080) == "hello from inside\n"


def test_one_address_of_the_host_only(switch: LivingSwitch, client: Namespace, tmp_path: Path):
    web = switch.container("web", "-p", "127.0.0.1:8080:80", "-p", "[::1]:8081:80")
    with web_server(web, tmp_path):
        assert fetch(switch.host, "127.0.0.1", 8080) == "hello from inside\n"
        assert fetch(switch.host, "[::1]", 8081) == "hello from inside\n"
        assert refused(client, HOST4, 8080)


def test_udp_keeps_the_clients_address_and_answers_come_back(switch: LivingSwitch, client: Namespace):
    dns = switch.container("dns", "-p", "5353:53/udp")
    server = dns.start(sys.executable, "-c", UDP_ECHO)
    try:
        eventually(lambda: ":53 " in dns.run("ss", "-uln").stdout, "the server to listen")
        asked = ["socat", "-t", "3", "-", f"UDP4:{HOST4}:5353,sourceport=40404"]
        answer = client.run(*asked, input="question").stdout
        assert answer == f"{CLIENT4} 40404 question"
    finally:
        server.kill()
        server.wait()


def test_a_container_that_refuses_is_a_reset_for_the_client(switch: LivingSwitch, client: Namespace):
    switch.container("web", "-p", "8080:80")
    done = client.run("curl", "-sS", "--max-time", "5", f"http://{HOST4}:8080/", check=False)
    assert done.returncode in (7, 52, 55, 56), done.stdout  # not connected, empty reply, reset: and no time-out (28)


def test_ports_come_and_go_while_a_transfer_runs(switch: LivingSwitch, client: Namespace, tmp_path: Path):
    web = switch.container("web", "-p", "8080:80")
    (tmp_path / "large").write_bytes(bytes(200_000_000))
    with web_server(web, tmp_path):
        slowly = ["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", "--limit-rate", "60M"]
        transfer = client.start(*slowly, f"http://{HOST4}:8080/large", stdout=subprocess.PIPE)
        for port in range(9000, 9010):
            assert switch("port", "add", "web", f"{port}:80").stdout == f"*:{port}->80/tcp\n"
            assert fetch(client, HOST4, port) == "hello from inside\n"
            switch("port", "rm", "web", f"{port}:80")
            assert refused(client, HOST4, port)
        assert transfer.communicate(timeout=60)[0] == "200000000"


def test_a_taken_port_is_refused_whole(switch: LivingSwitch, client: Namespace):
    other = switch.host.start("socat", "TCP-LISTEN:9001,fork", "STDOUT")
    try:
        eventually(lambda: ":9001 " in switch.host.run("ss", "-tln").stdout, "the other program to listen")
        namespace = switch.namespace()
        done = switch("attach", "--netns", namespace.name, "--name", "web", "-p", "9000-9003:80-83", check=False)
        assert done.returncode == 1 and "9001/tcp is taken by another program" in done.stderr
        assert ":9000 " not in switch.host.run("ss", "-tln").stdout
        assert switch.json("ps", "-a") == [] and "eth0" not in namespace.run("ip", "link").stdout
    finally:
        other.kill()
        other.wait()


def test_an_address_that_is_not_the_hosts_is_refused(switch: LivingSwitch):
    namespace = switch.namespace()
    done = switch("attach", "--netns", namespace.name, "-p", "203.0.113.1:80:80", check=False)
    assert "203.0.113.1 is no address of this host" in done.stderr


def test_ten_thousand_ports_are_published_and_taken_back(switch: LivingSwitch, client: Namespace, tmp_path: Path):
    web = switch.container("web")
    assert switch("port", "add", "web", "20000-29999:20000-29999").stdout == "*:20000-29999->20000-29999/tcp\n"
    with web_server(web, tmp_path, port=29999):
        assert fetch(client, HOST4, 29999) == "hello from inside\n"
    switch("port", "rm", "web", "20000-29999:20000-29999")
    assert refused(client, HOST4, 29999)


def test_ports_are_there_again_after_the_switch_was_killed(switch: LivingSwitch, client: Namespace, tmp_path: Path):
    web = switch.container("web", "-p", "8080:80", "-p", "81")
    before = switch.json("port", "ls")
    with web_server(web, tmp_path):
        switch.kill()
        switch.start()
        assert switch.json("port", "ls") == before
        assert fetch(client, HOST4, 8080) == "hello from inside\n"


def test_flows_are_shown_and_killed(switch: LivingSwitch, client: Namespace):
    web = switch.container("web", "-p", "8080:80")
    server = web.start("socat", "-u", "TCP-LISTEN:80,fork", "OPEN:/dev/null")
    eventually(lambda: ":80 " in web.run("ss", "-tln").stdout, "the server to listen")
    talking = client.start("socat", "-u", "-", f"TCP:{HOST4}:8080", stdin=subprocess.PIPE)
    try:
        talking.stdin.write("x")
        talking.stdin.flush()
        (flow,) = eventually(lambda: switch.json("flow", "ls", "container=web", "state=established"), "the flow")
        assert (flow["direction"], flow["protocol"], flow["outside"]) == ("in", "tcp", CLIENT4)
        assert (flow["inside"], flow["inside_port"], flow["in_bytes"]) == (switch.address("web"), 80, 1)
        assert switch("flow", "kill", "container=web", "dport=80").stdout == "1\n"
        eventually(lambda: switch.json("flow", "ls", "state=established") == [], "the flow to go")
        eventually(lambda: "ESTAB" not in client.run("ss", "-tn").stdout, "the client to be reset")
    finally:
        for process in (talking, server):
            process.kill()
            process.wait()
