# SPDX-License-Identifier: Apache-2.0
"""Containers come and go, and the switch outlives itself, seen from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time

import pytest
from living_switch import LivingSwitch, eventually

pytestmark = pytest.mark.root


def network_namespaces() -> int:
    """How many network namespaces the kernel keeps, those that only a descriptor holds included."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.add(os.stat(f"/proc/{pid}/ns/net").st_ino)
        except OSError:
            continue
    return len(found)


def gone(inode: int) -> bool:
    """Whether no process and no descriptor of the switch refers to a namespace any more."""
    held = subprocess.run(["lsns", "-t", "net", "-n", "-o", "NS"], capture_output=True, text=True, check=True).stdout
    return str(inode) not in held.split()


def names(switch: LivingSwitch, *options: str) -> list[str]:
    return [row["name"] for row in switch.json("ps", *options)]


def test_a_deleted_namespace_is_noticed_and_not_kept_alive(switch: LivingSwitch):
    a = switch.container("a")
    inode = os.stat(a.path).st_ino
    a.remove()
    eventually(lambda: names(switch) == [], "the container is gone from the list")
    eventually(lambda: gone(inode), "the kernel has let the namespace go")
    b = switch.container("b")
    assert switch.address("b") != "" and b


def test_an_attached_process_that_ends_takes_its_container_with_it(switch: LivingSwitch):
    process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    eventually(
        lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino,
        "the namespace is there",
    )
    inode = os.stat(f"/proc/{process.pid}/ns/net").st_ino
    switch("attach", "--pid", str(process.pid), "--name", "p")
    assert names(switch) == ["p"]
    process.kill()
    process.wait()
    eventually(lambda: names(switch, "-a") == [], "the container is gone")
    eventually(lambda: gone(inode), "the kernel has let the namespace go")


def test_run_gives_a_program_a_network_and_hands_back_its_exit_status(switch: LivingSwitch):
    done = switch("run", "--name", "once", "--", "sh", "-c", "ip -4 -br addr show eth0; hostname; exit 7", check=False)
    assert done.returncode == 7, done.stderr
    assert "172.17.0.2/16" in done.stdout and re.search(r"^[0-9a-f]{12}$", done.stdout, re.M)
    assert names(switch, "-a") == []


def test_a_detached_container_is_logged_stopped_started_and_removed(switch: LivingSwitch):
    switch("run", "-d", "--name", "worker", "--", "sh", "-c", "echo hello; exec sleep infinity")
    eventually(lambda: "hello" in switch("logs", "worker").stdout, "its output is in the log")
    address = switch.address("worker")
    assert switch("exec", "worker", "--", "sh", "-c", "exit 3", check=False).returncode == 3
    switch("stop", "worker")
    assert [(row["name"], row["state"]) for row in switch.json("ps", "-a")] == [("worker", "exited")]
    switch.container("other")
    assert switch.address("other") != address, "a stopped container's address was given away"
    switch("start", "worker")
    assert switch.address("worker") == address
    switch("exec", "worker", "--", "ping", "-c", "1", "-W", "2", switch.address("other"))
    assert "running" in switch("rm", "worker", check=False).stderr
    switch("rm", "--force", "worker")
    assert names(switch, "-a") == ["other"]


def test_detach_takes_the_interface_out_of_a_living_namespace(switch: LivingSwitch):
    a = switch.container("a")
    switch("detach", "a")
    assert "eth0" not in a.run("ip", "-br", "link").stdout
    assert names(switch, "-a") == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_containers_outlive_the_switch_and_traffic_goes_on(switch: LivingSwitch, how: signal.Signals):
    a, b = switch.container("a"), switch.container("b")
    switch("run", "-d", "--name", "r", "--", "sleep", "infinity")
    before = a.run("ip", "-j", "addr", "show", "eth0").stdout, a.run("ip", "route").stdout
    ping = b.start("ping", "-i", "0.1", "-W", "1", switch.address("a"), stdout=subprocess.PIPE)
    assert "PING" in ping.stdout.readline()
    switch.kill(how)
    assert re.sub("linkdown ?", "", a.run("ip", "route").stdout).split() == before[1].split()
    switch.start()
    after = json.loads(a.run("ip", "-j", "addr", "show", "eth0").stdout)[0]
    assert [row["local"] for row in after["addr_info"]] == [switch.address("a")]
    assert sorted(names(switch)) == ["a", "b", "r"]
    answered = eventually(
        lambda: "bytes from" in ping.stdout.readline(), "the ping that ran all the time is answered again"
    )
    assert answered
    ping.terminate()
    ping.wait()
    a.run("ping", "-c", "1", "-W", "2", switch.address("r"))
    assert a.run("ip", "route").stdout.split() == before[1].split()


def test_a_container_that_ended_while_the_switch_was_away_is_cleared_up(switch: LivingSwitch):
    a = switch.container("a")
    switch.container("b")
    switch.kill()
    a.remove()
    switch.start()
    eventually(lambda: names(switch, "-a") == ["b"], "only the living one is left")


def test_a_second_switch_on_the_same_socket_is_refused_and_a_dead_ones_socket_replaced(switch: LivingSwitch):
    from living_switch import BIN

    second = subprocess.run(
        [str(BIN / "vswitch-run"), "--socket", switch.socket, "--state-dir", str(switch.scratch / "other")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert second.returncode == 1 and len(second.stderr.strip().splitlines()) == 1, second.stderr
    switch.kill()
    assert os.path.exists(switch.socket)
    switch.start()


def test_everything_is_refused_in_one_line(switch: LivingSwitch):
    switch("network", "create", "blue", "--subnet", "10.9.0.0/24")
    a = switch.container("a", "--network", "blue")
    refusals = {
        ("network", "create", "blue"): "blue",
        ("network", "create", "red", "--subnet", "10.9.0.128/25"): "overlap",
        ("network", "create", "red", "--subnet", "10.9.1.7/24"): "10.9.1.0/24",
        ("network", "create", "red", "--subnet", "10.8.0.0/24", "--gateway", "10.7.0.1"): "10.7.0.1",
        ("network", "rm", "blue"): "a",
        ("network", "rm", "none-such"): "none-such",
        ("network", "inspect", "none-such"): "none-such",
        ("attach", "--netns", switch.namespace().name, "--name", "a"): "a",
        ("attach", "--netns", switch.namespace().name, "--network", "none-such"): "none-such",
        ("attach", "--netns", switch.namespace().name, "--network", "blue,ip=10.9.0.2"): "10.9.0.2",
        ("attach", "--netns", switch.namespace().name, "--network", "blue", "--ip", "10.10.0.2"): "10.10.0.2",
        ("attach", "--netns", "none-such"): "none-such",
        ("attach", "--pid", "999999999"): "999999999",
        ("detach", "none-such"): "none-such",
        ("exec", "none-such", "--", "true"): "none-such",
    }
    for arguments, mentions in refusals.items():
        done = switch(*arguments, check=False)
        lines = done.stderr.strip().splitlines()
        assert done.returncode in (1, 2, 125) and len(lines) == 1 and mentions in lines[0], (
            arguments,
            done.returncode,
            done.stderr,
        )
    assert names(switch, "-a") == ["a"]
    assert sorted(row["name"] for row in switch.json("network", "ls")) == ["blue", "default"], "half-made"
    a.run("ping", "-c", "1", "-W", "2", "10.9.0.1")


def test_an_interface_name_taken_by_somebody_else_is_left_alone(switch: LivingSwitch):
    namespace = switch.namespace()
    namespace.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0peer")
    done = switch("attach", "--netns", namespace.name, "--name", "taken", check=False)
    interfaces = namespace.run("ip", "-br", "link").stdout
    if done.returncode == 0:
        assert switch.json("inspect", "taken")[0]["networks"][0]["interface"] != "eth0"
    else:
        assert "eth0" in done.stderr and names(switch, "-a") == []
    assert "eth0peer" in interfaces


def test_an_idle_switch_does_not_wake_up(switch: LivingSwitch):
    switch.container("a")
    switch.container("b")

    def settled() -> bool:
        first = switch.json("stats")["wakeups"]
        time.sleep(0.5)  # the measured interval itself
        return switch.json("stats")["wakeups"] - first <= 2

    eventually(settled, "half a second passes with no wake-up but those of the question itself")


def test_containers_are_killed_signalled_waited_for_and_restarted(switch: LivingSwitch):
    script = "trap 'echo hup' HUP; echo one; echo two; while :; do sleep 0.05; done"
    switch("run", "-d", "--name", "worker", "--", "sh", "-c", script)
    eventually(lambda: switch("logs", "--tail", "1", "worker").stdout == "two\n", "the last line of its log")
    switch("kill", "-s", "HUP", "worker")
    eventually(lambda: switch("logs", "-n", "1", "worker").stdout == "hup\n", "its signal")
    waiting = switch.popen("wait", "worker", stdout=subprocess.PIPE)
    switch("run", "--", "true")  # somebody else's end is not waited for
    address = switch.address("worker")
    switch("kill", "worker")
    assert waiting.communicate(timeout=15)[0] == "137\n"
    assert switch("wait", "worker").stdout == "137\n" and "not running" in switch("kill", "worker", check=False).stderr
    switch("restart", "worker")
    first = switch.json("inspect", "worker")[0]["pid"]
    switch("restart", "-t", "0", "worker")
    assert switch.json("inspect", "worker")[0]["pid"] != first and switch.address("worker") == address
