# SPDX-License-Identifier: Apache-2.0
"""Containers of real engines, made without a network and attached by their pid."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from living_switch import LivingSwitch, eventually

pytestmark = [pytest.mark.root, pytest.mark.slow]

# no CAP_SYS_RESOURCE may be at hand to raise limits with, and cgroups may be mixed: runc takes both
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@pytest.fixture
def root_filesystem(tmp_path) -> Path:
    """A root file system of busybox."""
    root = tmp_path / "rootfs"
    for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "run"):
        (root / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in ("sh", "sleep", "ping", "ip", "udhcpc"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return root


def test_a_podman_container_without_network_joins_by_its_pid(switch: LivingSwitch, root_filesystem: Path, tmp_path):
    (tmp_path / "containers.conf").write_text(CONTAINERS_CONF)
    environment = {**os.environ, "CONTAINERS_CONF": str(tmp_path / "containers.conf")}
    podman = [
        "nsenter",
        f"--net={switch.host.path}",
        "podman",
        "--root",
        str(tmp_path / "storage"),
        "--runroot",
        f"/run/{switch.prefix}",
        "--storage-driver",
        "vfs",
    ]

    def engine(*arguments: str) -> str:
        done = subprocess.run([*podman, *arguments], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    container = engine("run", "-d", "--network=none", "--rootfs", str(root_filesystem), "sleep", "1000")
    try:
        pid = engine("inspect", "-f", "{{.State.Pid}}", container)
        switch.container("peer")
        switch("attach", "--pid", pid, "--name", "engine")
        engine("exec", container, "ping", "-c", "1", "-W", "2", switch.address("peer"))
        assert switch.address("engine") in engine("exec", container, "ip", "addr", "show", "eth0")
    finally:
        engine("rm", "-f", "-t", "0", container)
        shutil.rmtree(f"/run/{switch.prefix}", ignore_errors=True)
    eventually(lambda: [row["name"] for row in switch.json("ps", "-a")] == ["peer"], "the container's end is noticed")


def test_a_podman_container_joins_by_its_name_and_leaves_with_its_end(
    switch: LivingSwitch, root_filesystem: Path, tmp_path, monkeypatch
):
    (tmp_path / "containers.conf").write_text(CONTAINERS_CONF)
    monkeypatch.setenv("CONTAINERS_CONF", str(tmp_path / "containers.conf"))
    programs = tmp_path / "programs"
    programs.mkdir()
    # the real program, with a storage of the test's own and in the namespace that plays the host
    places = f"--root {tmp_path}/storage --runroot /run/{switch.prefix} --storage-driver vfs"
    (programs / "podman").write_text(
        f'#!/bin/sh\nexec nsenter --net={switch.host.path} {shutil.which("podman")} {places} "$@"\n'
    )
    (programs / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)

    def engine(*arguments: str) -> str:
        done = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    made = ["run", "-d", "--network=none", "--name", "theirs", "--rootfs", str(root_filesystem), "sleep", "1000"]
    container = engine(*made)
    try:
        switch.container("peer")
        switch("attach", "theirs", "--network", "default,ip=172.17.0.77,alias=db")
        engine("exec", "theirs", "ping", "-c", "1", "-W", "2", switch.address("peer"))
        (shown,) = switch.json("inspect", "theirs")
        assert shown["hostname"] == container[:12] and shown["networks"][0]["ipv4"] == "172.17.0.77/16"
        assert "detach it first" in switch("attach", "--podman", container[:12], check=False).stderr
        engine("stop", "-t", "0", "theirs")
        names = lambda: [row["name"] for row in switch.json("ps", "-a")]  # noqa: E731
        eventually(lambda: names() == ["peer"], "the container's end is noticed")
        assert "`podman start theirs` first" in switch("attach", "--podman", "theirs", check=False).stderr
        engine("start", "theirs")
        switch("attach", "--podman", "theirs")
        assert names() == ["peer", "theirs"]
    finally:
        engine("rm", "-f", "-t", "0", container)
        shutil.rmtree(f"/run/{switch.prefix}", ignore_errors=True)


def test_a_runc_container_without_network_joins_by_its_pid(switch: LivingSwitch, root_filesystem: Path, tmp_path):
    bundle = tmp_path
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["sleep", "1000"], rlimits=[])
    config["root"]["readonly"] = False
    (bundle / "config.json").write_text(json.dumps(config))
    name = f"{switch.prefix}runc"
    subprocess.run(
        ["runc", "--root", str(tmp_path / "runc"), "run", "-d", "-b", str(bundle), name],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        state = json.loads(
            subprocess.run(
                ["runc", "--root", str(tmp_path / "runc"), "state", name], check=True, capture_output=True
            ).stdout
        )
        peer = switch.container("peer")
        switch("attach", "--pid", str(state["pid"]), "--name", "engine")
        peer.run("ping", "-c", "1", "-W", "2", switch.address("engine"))
    finally:
        subprocess.run(["runc", "--root", str(tmp_path / "runc"), "delete", "--force", name], check=True)
    eventually(lambda: [row["name"] for row in switch.json("ps", "-a")] == ["peer"], "the container's end is noticed")
