# SPDX-License-Identifier: Apache-2.0
"""Captures of living switches, read back by Wireshark's command-line program."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from living_switch import LivingSwitch, eventually
from wireshark import BAD, CHECKED

pytestmark = pytest.mark.root


def tshark(path, *options: str) -> str:
    return subprocess.run(
        ["tshark", "-r", str(path), *CHECKED, *options], capture_output=True, text=True, check=True
    ).stdout


def started(switch: LivingSwitch, path, *options: str) -> subprocess.Popen:
    """`vswitch capture -w PATH`, once the file has its header."""
    process = switch.popen("capture", "-w", str(path), *options, stderr=subprocess.PIPE)
    eventually(lambda: os.path.exists(path) and os.path.getsize(path) > 0, "the capture has begun")
    return process


def ended(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 0, process.stderr.read()


def transfer(switch: LivingSwitch, a, b, *options: str) -> None:
    """Some TCP from a to b."""
    server = b.start("iperf3", "-s", "-1", stdout=subprocess.DEVNULL)
    eventually(lambda: "LISTEN" in b.run("ss", "-tln").stdout, "iperf3 listens")
    a.run("iperf3", "-c", switch.address("b"), "-n", "3M", *options)
    server.wait(10)


def test_a_capture_holds_every_crossing_with_names_directions_and_right_checksums(switch: LivingSwitch, tmp_path):
    a, b = switch.container("a"), switch.container("b")
    path = tmp_path / "all.pcapng"
    capture = started(switch, path)
    a.run("ping", "-c", "2", "-i", "0.2", switch.address("b"))
    transfer(switch, a, b)
    a.run("ping", "-c", "1", "-W", "1", "192.0.2.1", check=False)
    ended(capture)
    interfaces = set(tshark(path, "-T", "fields", "-e", "frame.interface_name").split())
    assert interfaces == {"a/eth0", "b/eth0"}
    echo = tshark(
        path,
        "-Y",
        "icmp.type==8 && ip.dst==172.17.0.3",
        "-T",
        "fields",
        "-e",
        "frame.interface_name",
        "-e",
        "frame.packet_flags_direction",
    )
    assert [line.split() for line in echo.splitlines()][:2] == [["a/eth0", "0x00000001"], ["b/eth0", "0x00000002"]]
    assert tshark(path, "-Y", BAD) == ""
    assert int(tshark(path, "-Y", "tcp.len > 10000", "-T", "fields", "-e", "frame.number").count("\n")) > 10
    assert "nat_unreachable" in tshark(path, "-Y", "frame.comment", "-T", "fields", "-e", "frame.comment")


def test_a_capture_of_one_network_shows_nothing_of_another_and_its_snaplen_cuts(switch: LivingSwitch, tmp_path):
    switch("network", "create", "blue")
    a, b, c = switch.container("a"), switch.container("b"), switch.container("c", "--network", "blue")
    path = tmp_path / "default.pcapng"
    capture = started(switch, path, "--network", "default", "--snaplen", "128")
    c.run("ping", "-c", "1", switch.json("inspect", "c")[0]["networks"][0]["gateway"])
    transfer(switch, a, b)
    ended(capture)
    assert set(tshark(path, "-T", "fields", "-e", "frame.interface_name").split()) == {"a/eth0", "b/eth0"}
    assert max(map(int, tshark(path, "-T", "fields", "-e", "frame.cap_len").split())) == 128
    assert max(map(int, tshark(path, "-T", "fields", "-e", "frame.len").split())) > 10000


def test_a_container_that_comes_during_a_capture_is_in_it(switch: LivingSwitch, tmp_path):
    switch.container("a")
    path = tmp_path / "late.pcapng"
    capture = started(switch, path)
    late = switch.container("late")
    late.run("ping", "-c", "1", switch.address("a"))
    ended(capture)
    assert "late/eth0" in tshark(path, "-T", "fields", "-e", "frame.interface_name")


def test_a_capture_to_stdout_can_be_read_while_it_runs(switch: LivingSwitch):
    a = switch.container("a")
    capture = switch.popen("capture", "-w", "-", stdout=subprocess.PIPE)
    reader = subprocess.Popen(
        ["tshark", "-l", "-c", "2", "-r", "-", "-T", "fields", "-e", "_ws.col.Protocol"],
        stdin=capture.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    eventually(
        lambda: (a.run("ping", "-c", "1", "172.17.0.1"), reader.poll() is not None)[1], "tshark has seen two frames"
    )
    assert "ICMP" in reader.stdout.read()
    capture.stdout.close()
    capture.send_signal(signal.SIGINT)
    capture.wait(15)


def test_a_switch_that_logs_packets_writes_complete_files(tmp_path):
    logs = tmp_path / "packets"
    logs.mkdir()
    switch = LivingSwitch(tmp_path, "--log-packets", str(logs))
    try:
        switch.start()
        a = switch.container("a")
        a.run("ping", "-c", "1", "172.17.0.1")
        switch.kill(signal.SIGTERM)
        files = list(logs.iterdir())
        assert len(files) == 1
        assert "ICMP" in tshark(files[0])
    finally:
        switch.close()


def test_a_full_disk_loses_records_and_no_traffic(switch: LivingSwitch):
    a, b = switch.container("a"), switch.container("b")
    capture = switch.popen("capture", "-w", "/dev/full", stderr=subprocess.PIPE)
    a.run("ping", "-c", "3", "-i", "0.1", "-W", "2", switch.address("b"))
    b.run("ping", "-c", "1", "-W", "2", "172.17.0.1")
    capture.send_signal(signal.SIGINT)
    capture.wait(15)
