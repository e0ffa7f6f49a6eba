# SPDX-License-Identifier: Apache-2.0
"""vswitch-run as a service under a real systemd."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from living_switch import eventually
from systemd_machine import PACKAGED, SystemdMachine

pytestmark = pytest.mark.root


@pytest.fixture
def machine(tmp_path) -> Iterator[SystemdMachine]:
    made = SystemdMachine(tmp_path, "WatchdogSec=2", "TimeoutAbortSec=1")
    try:
        yield made
    finally:
        made.close()


def with_two_containers(machine: SystemdMachine) -> None:
    machine("systemctl", "start", "vswitch")
    for name in "ab":
        machine("ip", "netns", "add", name)
        machine.vswitch("attach", "--netns", name, "--name", name)
    ping(machine)


def ping(machine: SystemdMachine) -> None:
    machine("nsenter", "--net=/run/netns/a", "ping", "-c", "1", "-W", "3", "172.17.0.3")


def restarted(machine: SystemdMachine, before: str) -> bool:
    return machine.show("ActiveState") == "active" and machine.show("MainPID") not in ("0", before)


def test_the_service_is_ready_when_start_returns_and_reloads(machine: SystemdMachine):
    machine("systemctl", "start", "vswitch")
    assert "client" in machine.vswitch("version")
    machine("systemctl", "reload", "vswitch")
    assert machine.show("ActiveState") == "active"


def test_containers_keep_their_interfaces_when_the_service_is_killed(machine: SystemdMachine):
    with_two_containers(machine)
    eventually(lambda: machine.show("NFileDescriptorStore") == "2", "both TAPs are in the store")
    before = machine.show("MainPID")
    machine("kill", "-KILL", before)
    eventually(lambda: restarted(machine, before), "systemd has started it again")
    ping(machine)
    assert machine.show("NFileDescriptorStore") == "2"
    machine.vswitch("detach", "a")
    eventually(lambda: machine.show("NFileDescriptorStore") == "1", "a detached container's TAP leaves the store")
    assert "eth0" not in machine("ip", "-n", "a", "-br", "link")


def test_containers_keep_their_interfaces_over_a_stop_and_start(machine: SystemdMachine):
    with_two_containers(machine)
    machine("systemctl", "stop", "vswitch")
    assert "172.17.0.2" in machine("ip", "-n", "a", "addr", "show", "eth0")
    machine("systemctl", "start", "vswitch")
    ping(machine)


def test_the_watchdog_restarts_a_switch_that_hangs(machine: SystemdMachine):
    with_two_containers(machine)
    before = machine.show("MainPID")
    machine("kill", "-STOP", before)
    eventually(lambda: restarted(machine, before), "the watchdog has bitten", 30)
    ping(machine)


def test_the_units_are_without_complaint_and_well_confined(tmp_path):
    for unit in (PACKAGED / "vswitch.service", PACKAGED / "user" / "vswitch.service"):
        text = unit.read_text().replace("ExecStart=vswitch-run", "ExecStart=/bin/true")
        (tmp_path / unit.name).write_text(text)
        done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / unit.name)], capture_output=True, text=True)
        assert done.returncode == 0 and str(tmp_path) not in done.stderr, done.stderr
    (tmp_path / "vswitch.service").write_text(
        (PACKAGED / "vswitch.service").read_text().replace("ExecStart=vswitch-run", "ExecStart=/bin/true")
    )
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=46", str(tmp_path / "vswitch.service")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
