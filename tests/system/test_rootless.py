# SPDX-License-Identifier: Apache-2.0
"""The whole product as an ordinary user: no capability, no root, no setuid helper.

/dev/net/tun has mode 0666 on distributions; these tests set it themselves and put the old mode back.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from living_switch import eventually
from rootless_switch import UID, RootlessSwitch, rootless_switch

pytestmark = pytest.mark.root


@pytest.fixture
def user() -> Iterator[RootlessSwitch]:
    with rootless_switch() as switch:
        yield switch


def test_a_users_containers_reach_each_other_and_outlive_the_users_switch(user: RootlessSwitch):
    user("run", "-d", "--name", "a", "--", "sleep", "infinity")
    user("run", "-d", "--name", "b", "--", "sleep", "infinity")
    user("exec", "b", "--", "ping", "-c", "1", "-W", "2", "172.17.0.2")
    assert user("exec", "b", "--", "id", "-u").stdout.strip() == "0"
    assert user("exec", "b", "--", "getent", "hosts", "a").stdout.split() == ["172.17.0.2", "a"]
    assert "nameserver 127.0.0.11\n" in user("exec", "b", "--", "cat", "/etc/resolv.conf").stdout
    user.process.send_signal(signal.SIGKILL)
    user.process.wait()
    user.start()
    assert sorted(user.names()) == ["a", "b"]
    assert user("exec", "b", "--", "dig", "+short", "+tcp", "a.default").stdout == "172.17.0.2\n"
    assert user("exec", "b", "--", "dig", "+short", "+tcp", "@172.17.0.1", "-x", "172.17.0.2").stdout == "a.default.\n"
    user("exec", "b", "--", "ping", "-c", "2", "-i", "0.3", "-W", "2", "172.17.0.2")
    user("rm", "--force", "a", "b")
    assert user.names() == []


def test_a_user_publishes_ports_and_is_told_which_need_privilege(user: RootlessSwitch):
    server = ["socat", "TCP-LISTEN:8000,fork,reuseaddr", "SYSTEM:echo hello $SOCAT_PEERADDR"]
    user("run", "-d", "--name", "web", "-p", "127.0.0.1::8000", "--", *server)
    (port,) = json.loads(user("port", "ls", "--json").stdout)
    fetch = ["socat", "-u", f"TCP:127.0.0.1:{port['host_port']},connect-timeout=2", "-"]
    greeting = "hello 172.17.0.1\n"
    eventually(lambda: subprocess.run(fetch, capture_output=True, text=True).stdout == greeting, "the server's answer")
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as first:
        if int(first.read()) > 443:
            refused = user("port", "add", "web", "127.0.0.1:443:8000", check=False)
            assert refused.returncode == 1 and "net.ipv4.ip_unprivileged_port_start=443" in refused.stderr


def test_a_user_runs_a_program_in_the_foreground_and_gets_its_status(user: RootlessSwitch):
    done = user(
        "run",
        "--",
        "sh",
        "-c",
        "ip -4 -br addr show eth0; busybox udhcpc -i eth0 -f -n -q -s /bin/true; exit 9",
        check=False,
    )
    assert done.returncode == 9, done.stdout + done.stderr
    assert "172.17.0.2/16" in done.stdout and "lease of 172.17.0.2" in done.stdout + done.stderr


def test_a_user_attaches_a_process_in_namespaces_of_its_own(user: RootlessSwitch):
    there = subprocess.Popen(
        ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "unshare", "-Urn", "sleep", "infinity"]
    )
    eventually(
        lambda: os.stat(f"/proc/{there.pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino,
        "its namespace is there",
    )
    try:
        user("attach", "--pid", str(there.pid), "--name", "p")
        user("exec", "p", "--", "ping", "-c", "1", "-W", "2", "172.17.0.1")
    finally:
        there.kill()
        there.wait()
    eventually(lambda: user.names() == [], "its end is noticed")


def test_a_user_can_not_attach_what_is_somebody_elses(user: RootlessSwitch):
    subprocess.run(["ip", "netns", "add", "vt-roots-own"], check=True)
    try:
        done = user("attach", "--netns", "vt-roots-own", check=False)
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert user.names() == []
    finally:
        subprocess.run(["ip", "netns", "del", "vt-roots-own"], check=True)


def test_without_a_usable_tun_device_the_user_is_told_what_to_do(user: RootlessSwitch):
    os.chmod("/dev/net/tun", 0o600)
    done = user("run", "--", "true", check=False)
    assert done.returncode == 125 and len(done.stderr.strip().splitlines()) == 1 and "/dev/net/tun" in done.stderr, (
        done.stderr
    )
    assert user.names() == []
