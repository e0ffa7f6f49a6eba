# SPDX-License-Identifier: Apache-2.0
"""A network's options with real programs: where packets leave, what of the host is reached, who appears as whom."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from living_switch import LivingSwitch, Namespace, eventually

pytestmark = pytest.mark.root

WHO = """
import socket, sys
s = socket.create_server((sys.argv[1], 7000), family=socket.AF_INET)
while True:
    connection, who = s.accept()
    connection.sendall(who[0].encode())
    connection.close()
"""


@pytest.fixture
def outside(client: Namespace) -> Iterator[Namespace]:
    """The machine beside the host; it tells everybody on port 7000 who they are."""
    server = telling(client, "0.0.0.0")
    yield client
    server.kill()
    server.wait()


def telling(where: Namespace, address: str) -> subprocess.Popen:
    """The server that tells who its clients are."""
    server = where.start(sys.executable, "-c", WHO, address)
    eventually(lambda: ":7000 " in where.run("ss", "-tln").stdout, "the server to listen")
    return server


def who_am_i(container: Namespace, address: str = "192.0.2.9", port: int = 7000) -> str:
    asked = container.run("socat", "-u", f"TCP:{address}:{port},connect-timeout=3", "-", check=False, timeout=10)
    return asked.stdout if asked.returncode == 0 else ""


def test_packets_leave_with_the_address_that_was_chosen(switch: LivingSwitch, outside: Namespace):
    switch("network", "create", "second", "--opt", "com.docker.network.host_ipv4=192.0.2.2")
    plain, chosen = switch.container("plain"), switch.container("chosen", "--network", "second")
    assert who_am_i(plain) == "192.0.2.1"
    assert who_am_i(chosen) == "192.0.2.2"
    switch.kill()
    switch.start()
    assert who_am_i(chosen) == "192.0.2.2", "the option survives a restart"


def test_a_server_that_speaks_and_closes_at_once_is_heard_to_its_end(switch: LivingSwitch, outside: Namespace):
    container = switch.container("many")
    for _ in range(60):  # data and end come together or apart, as it happens
        assert who_am_i(container) == "192.0.2.1"


def test_an_address_that_the_host_does_not_have_is_refused(switch: LivingSwitch, outside: Namespace):
    refused = switch("network", "create", "x", "--opt", "host_ipv4=192.0.2.77", check=False)
    assert refused.returncode == 1 and "the host has no address 192.0.2.77" in refused.stderr
    switch.host.run("ip", "addr", "add", "192.0.2.77/24", "dev", "lo")
    eventually(
        lambda: switch("network", "create", "x", "--opt", "host_ipv4=192.0.2.77", check=False).returncode == 0,
        "the new address to be known",
    )


def test_packets_leave_by_the_interface_that_was_chosen(switch: LivingSwitch, outside: Namespace):
    switch("network", "create", "wired", "--opt", f"host_interface={switch.wire}")
    switch("network", "create", "astray", "--opt", "host_interface=lo")
    wired, astray = switch.container("wired", "--network", "wired"), switch.container("astray", "--network", "astray")
    assert who_am_i(wired) == "192.0.2.1"
    assert who_am_i(astray) == ""


def test_an_internal_network_has_no_way_out(switch: LivingSwitch, outside: Namespace):
    switch("network", "create", "inner", "--internal")
    assert who_am_i(switch.container("inner", "--network", "inner")) == ""


def test_the_hosts_loopback_is_reached_only_where_that_was_asked_for(switch: LivingSwitch, outside: Namespace):
    server = telling(switch.host, "127.0.0.1")
    try:
        switch("network", "create", "open", "--opt", "host_loopback=true")
        opened, closed = switch.container("opened", "--network", "open"), switch.container("closed")
        assert who_am_i(opened, "172.18.0.1") == "127.0.0.1"
        assert who_am_i(closed, "172.17.0.1") == ""
        hosts = switch("run", "--network", "open", "--", "cat", "/etc/hosts").stdout
        assert "172.18.0.1\thost.vswitch.internal\n" in hosts
    finally:
        server.kill()
        server.wait()


def test_a_published_port_is_reached_from_containers_through_the_hosts_address(
    switch: LivingSwitch, outside: Namespace
):
    web, other = switch.container("web", "-p", "7000:7000"), switch.container("other")
    server = telling(web, "0.0.0.0")
    try:
        assert who_am_i(outside, "192.0.2.1") == "192.0.2.9"
        assert who_am_i(other, "192.0.2.1") == "172.17.0.1", "the target sees the gateway"
        assert who_am_i(web, "192.0.2.1") == "172.17.0.1"
        switch.host.run("ip", "addr", "add", "198.51.100.1/32", "dev", "lo")
        told = "192.0.2.1 is one of the host's, and so is 198.51.100.1 from now on"
        eventually(lambda: who_am_i(switch.host, "198.51.100.1") == "172.17.0.1", told)
    finally:
        server.kill()
        server.wait()


def test_limits_of_flows_come_from_the_settings(tmp_path: Path):
    settings = tmp_path / "vswitch.toml"
    settings.write_text("[nat]\nmax_flows = 1024\nudp = 1\n")
    switch = LivingSwitch(tmp_path, "--config", str(settings))
    try:
        switch.start()
        assert switch.json("stats")["tables"]["flows"] == {"size": 0, "capacity": 1024}
        settings.write_text("[nat]\nmax_flows = 2048\n")
        switch.process.send_signal(signal.SIGHUP)
        line = "setting nat.max_flows is now 2048, with the next start"
        eventually(lambda: line in switch.log.read_text(), "the log to say when it applies")
        assert switch.json("stats")["tables"]["flows"]["capacity"] == 1024
    finally:
        switch.close()
