# SPDX-License-Identifier: Apache-2.0
"""`vswitch run --network none | host | container:NAME` with real namespaces, as root and as an ordinary user."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from living_switch import BIN, LivingSwitch, Namespace, eventually
from rootless_switch import RootlessSwitch, rootless_switch

pytestmark = pytest.mark.root

LOOPBACK = ["sh", "-c", "ip -br addr; ping -c1 -W1 127.0.0.1"]
INTERFACES = ["ip", "-br", "link"]


@pytest.fixture
def user() -> Iterator[RootlessSwitch]:
    """An ordinary user's switch, on a host of its own with a mark on it."""
    host = Namespace(f"vt{os.getpid()}modes")
    try:
        subprocess.run(["ip", "-n", host.name, "link", "add", "mark0", "type", "veth", "peer", "mark1"], check=True)
        with rootless_switch(host) as switch:
            yield switch
    finally:
        host.remove()


def interfaces(text: str) -> set[str]:
    return {line.split()[0].partition("@")[0] for line in text.splitlines()}


def modes(switch) -> dict[str, str]:
    return {row["name"]: row["network_mode"] for row in switch.json("ps", "-a")}


def test_none_has_a_loopback_that_is_up_and_nothing_else(switch: LivingSwitch):
    done = switch("run", "--network", "none", "--name", "alone", "--", *LOOPBACK)
    assert interfaces(done.stdout.partition("PING")[0]) == {"lo"} and "1 received" in done.stdout
    switch("run", "-d", "--network", "none", "--name", "alone", "--", "sleep", "infinity")
    assert modes(switch) == {"alone": "none"} and " none " in switch("ps").stdout
    (shown,) = switch.json("inspect", "alone")
    assert shown["networks"] == [] and shown["network_mode"] == "none"
    refused = switch("port", "add", "alone", "8080:80", check=False)
    assert refused.returncode == 1 and "is on no network" in refused.stderr


def test_host_is_the_network_of_whoever_runs_it_and_changes_nothing_there(switch: LivingSwitch):
    switch.host.run("ip", "link", "add", "mark0", "type", "veth", "peer", "mark1")
    switch.host.run("sysctl", "-qw", "net.ipv4.ping_group_range=1 0")
    run = [str(BIN / "vswitch"), "--socket", switch.socket, "run", "--network=host", "--add-host=db:192.0.2.7", "--"]
    script = f"{' '.join(INTERFACES)}; hostname; cat /etc/hosts; cat /etc/resolv.conf"
    done = switch.host.run(*run, "sh", "-c", script)
    with open("/etc/hosts") as hosts, open("/etc/resolv.conf") as resolvers:
        assert hosts.read() + "192.0.2.7\tdb\n" + resolvers.read() in done.stdout
    assert "mark0" in done.stdout and f"\n{os.uname().nodename}\n" in done.stdout
    assert switch.host.run("sysctl", "-n", "net.ipv4.ping_group_range").stdout.split() == ["1", "0"]


def test_a_container_shares_anothers_network_and_outlives_it(switch: LivingSwitch):
    switch("run", "-d", "--name", "web", "--hostname", "front", "--", "sleep", "infinity")
    share = ["--network", "container:web", "--"]
    done = switch("run", *share, "sh", "-c", "ip -4 -br addr show eth0; hostname; cat /etc/hosts")
    address = switch.address("web")
    assert f"{address}/16" in done.stdout and "\nfront\n" in done.stdout and f"{address}\tfront web" in done.stdout
    switch("run", "-d", "--name", "side", *share, "sleep", "infinity")
    assert modes(switch) == {"web": "bridge", "side": "container:web"}
    assert address in switch("exec", "side", "--", "ip", "addr").stdout
    switch("stop", "-t", "0", "web")
    remaining = eventually(
        lambda: interfaces(switch("exec", "side", "--", *INTERFACES).stdout) == {"lo"}, "eth0 goes with its owner"
    )
    assert remaining and modes(switch)["side"] == "container:web"
    refused = switch("run", "--network", "container:web", "--", "true", check=False)
    assert refused.returncode == 125 and "vswitch start web" in refused.stderr
    switch("stop", "-t", "0", "side")
    assert "vswitch start web" in switch("start", "side", check=False).stderr
    switch("start", "web", "side")
    assert address in switch("exec", "side", "--", "ip", "addr").stdout
    switch("rm", "-f", "web")
    switch("stop", "-t", "0", "side")
    assert "gone" in switch("start", "side", check=False).stderr


def test_a_namespace_comes_back_while_another_container_still_shares_it(switch: LivingSwitch):
    namespace = switch.container("a")
    switch("run", "-d", "--name", "side", "--network", "container:a", "--", "sleep", "infinity")
    switch("detach", "a")
    switch("attach", "--netns", namespace.name, "--name", "a")
    assert switch.address("a") in switch("exec", "side", "--", "ip", "addr").stdout


def test_modes_outlive_the_switch_and_a_stop(switch: LivingSwitch):
    for name, mode in (("alone", "none"), ("bare", "host"), ("web", "default"), ("side", "container:web")):
        switch("run", "-d", "--name", name, "--network", mode, "--", "sleep", "infinity")
    before = modes(switch)
    switch.kill()
    switch.start()
    assert modes(switch) == before and {row["state"] for row in switch.json("ps", "-a")} == {"running"}
    for name in ("alone", "bare"):
        switch("stop", "-t", "0", name)
        switch("start", name)
    assert modes(switch) == before
    assert interfaces(switch("exec", "alone", "--", *INTERFACES).stdout) == {"lo"}


def test_a_user_has_the_same_modes(user: RootlessSwitch):
    assert interfaces(user("run", "--network", "none", "--", *INTERFACES).stdout) == {"lo"}
    assert "mark0" in user("run", "--network", "host", "--", *INTERFACES).stdout
    user("run", "-d", "--name", "bare", "--network", "host", "--", "sleep", "infinity")
    assert "mark0" in user("exec", "bare", "--", *INTERFACES).stdout
    user("run", "-d", "--name", "web", "--", "sleep", "infinity")
    assert interfaces(user("run", "--network", "container:web", "--", *INTERFACES).stdout) == {"lo", "eth0"}
    user("run", "-d", "--name", "side", "--network", "container:web", "--", "sleep", "infinity")
    assert "172.17.0.2/16" in user("exec", "side", "--", "ip", "-br", "addr").stdout
