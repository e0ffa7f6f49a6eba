# SPDX-License-Identifier: Apache-2.0
"""What Wireshark's programs and tcpdump make of a capture, frames of real kernels with offloads included."""
from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time

import pytest
from frames_for_capture import CSUM_OFFSET, TCP, UDP, csum_start, offloaded
from pcapng_reader import packets
from wireshark import BAD, BAD_SUM, CHECKED

from vswitch.observe.capture import CaptureWriter, Endpoint
from vswitch.observe.outputs import Stream

ENDPOINTS = {
    1: Endpoint("web/eth0", b"\2\x42\xac\x11\0\2", ("172.17.0.2/16", "fd00::2/64"), "network blue"),
    2: Endpoint("db/eth0", b"\2\x42\xac\x11\0\3", ("172.17.0.3/16",)),
}
GOOD = 1

pytestmark = pytest.mark.skipif(not shutil.which("tshark"), reason="tshark isn't installed")


def run(*command: str, **how) -> subprocess.CompletedProcess:
    return subprocess.run(command, timeout=60, check=True, **how)


def tshark(path, *arguments: str) -> list[str]:
    """Lines that tshark prints; it must have nothing to complain of."""
    done = run("tshark", "-n", "-r", str(path), *CHECKED, *arguments, capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "root" not in line]
    assert not complaints
    return done.stdout.splitlines()


def rows(path, *names: str, only: str = "frame") -> list[list[str]]:
    """The named fields of every frame that the display filter `only` lets through."""
    wanted = [part for name in names for part in ("-e", name)]
    return [line.split("\t") for line in tshark(path, "-Y", only, "-T", "fields", *wanted)]


def no_analyser_complains(path) -> None:
    bad = tshark(path, "-Y", BAD)
    assert not bad, "\n".join(bad)


def recorded(path, *records: dict, **settings) -> None:
    """A capture of these records (arguments of Capture.offer)."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    writer = CaptureWriter(Stream(fd), label="shark", **{"endpoints": ENDPOINTS} | settings)
    for number, record in enumerate(records):
        time_ns = 1_700_000_000_123_456_789 + number
        defaults = {"port": 1, "direction": 1, "time_ns": time_ns, "packet_id": number}
        assert writer.capture.offer(**defaults | record)
    writer.stop()


def unfinished(protocol: int, payload_bytes: int, gso_type: int = 0, **addresses) -> dict:
    frame = offloaded(protocol, bytes(payload_bytes), **addresses)
    return {
        "frame": frame,
        "vnet_flags": 1,
        "gso_type": gso_type,
        "csum_start": csum_start(frame),
        "csum_offset": CSUM_OFFSET[protocol],
    }


V6 = {"source": "fd00::2", "destination": "fd00::3"}


def test_tshark_finds_every_finished_checksum_right(tmp_path):
    path = tmp_path / "x.pcapng"
    sizes = (0, 1, 1000, 1460, 60000)
    records = [
        unfinished(protocol, size, gso_type=1 if size > 1460 else 0, **addresses)
        for protocol in (TCP, UDP) for size in sizes for addresses in ({}, V6)
    ]  # fmt: skip
    recorded(path, *records)
    no_analyser_complains(path)
    states = rows(path, "frame.len", "tcp.checksum.status", "udp.checksum.status")
    assert [row[0] for row in states] == [str(len(record["frame"])) for record in records]
    assert all(row[1] + row[2] == str(GOOD) for row in states)


def test_tshark_would_see_a_checksum_left_unfinished(tmp_path):
    path = tmp_path / "x.pcapng"
    recorded(path, {"frame": offloaded(TCP, b"1234")})
    assert len(tshark(path, "-Y", BAD)) == 1


def test_tshark_has_no_complaint_about_frames_cut_short(tmp_path):
    path = tmp_path / "x.pcapng"
    recorded(path, unfinished(TCP, 60000, gso_type=1), unfinished(UDP, 1400, **V6), snaplen=128)
    assert not tshark(path, "-Y", BAD_SUM)
    assert rows(path, "frame.len", "frame.cap_len") == [["60054", "128"], ["1462", "128"]]


def test_wireshark_shows_names_directions_ids_and_drop_reasons(tmp_path):
    path = tmp_path / "x.pcapng"
    recorded(
        path,
        unfinished(UDP, 10) | {"packet_id": 7, "port": 1, "direction": 1},
        unfinished(UDP, 10) | {"packet_id": 7, "port": 2, "direction": 2},
        {"frame": b"\xff" * 60, "packet_id": 8, "drop": 6},
        reasons={6: "mac_spoof"},
    )
    names = (
        "interface_name", "interface_description", "packet_flags_direction", "packet_flags_reception_type",
        "packet_id", "time_epoch", "comment",
    )  # fmt: skip
    assert rows(path, *(f"frame.{name}" for name in names)) == [
        ["web/eth0", "network blue", "0x00000001", "1", "7", "1700000000.123456789", ""],
        ["db/eth0", "", "0x00000002", "1", "7", "1700000000.123456790", ""],
        ["web/eth0", "network blue", "0x00000001", "3", "8", "1700000000.123456791", "drop: mac_spoof"],
    ]
    assert rows(path, "frame.number", only="frame.verdict.hw") == [["3"]]


def test_capinfos_counts_packets_interfaces_and_statistics(tmp_path):
    path = tmp_path / "x.pcapng"
    recorded(path, *({"frame": bytes(60), "port": 1 + number % 2} for number in range(10)))
    done = run("capinfos", str(path), capture_output=True, text=True)
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "Number of interfaces in file: 2" in lines
    assert lines.count("Number of packets = 5") == 2 and lines.count("Number of stat entries = 1") == 2
    assert "Name = web/eth0" in lines and "Name = db/eth0" in lines
    assert "File timestamp precision:  nanoseconds (9)" in lines


def test_capinfos_takes_a_capture_without_a_packet(tmp_path):
    path = tmp_path / "x.pcapng"
    recorded(path)
    done = run("capinfos", "-c", str(path), capture_output=True, text=True)
    assert "Number of packets:   0" in done.stdout


def test_several_sections_in_one_file_are_read_through(tmp_path):
    path = tmp_path / "x.pcapng"
    for number in range(3):
        one = tmp_path / f"{number}"
        recorded(one, {"frame": bytes(60), "packet_id": number})
        with open(path, "ab") as file:
            file.write(one.read_bytes())
    assert [row[0] for row in rows(path, "frame.packet_id")] == ["0", "1", "2"]


@pytest.mark.skipif(not shutil.which("tcpdump"), reason="tcpdump isn't installed")
def test_libpcap_reads_it_with_many_interfaces(tmp_path):
    path = tmp_path / "x.pcapng"
    recorded(path, *({"frame": offloaded(UDP, b"x"), "port": port} for port in range(300)), snaplen=262144)
    done = run("tcpdump", "-nr", str(path), capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 300


def test_tshark_reads_a_capture_live_from_a_pipe(tmp_path):
    reader, writing_end = os.pipe()
    # an empty extcap folder: some of Wireshark's own helpers hang now and then, and none is needed for a pipe
    shark = subprocess.Popen(
        ["tshark", "-l", "-n", "-i", "-", "-T", "fields", "-e", "frame.packet_id"],
        stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=os.environ | {"WIRESHARK_EXTCAP_DIR": str(tmp_path)},
    )  # fmt: skip
    os.close(reader)
    writer = CaptureWriter(Stream(writing_end), label="live", endpoints=ENDPOINTS)
    writer.start()
    try:
        for number in range(5):
            frame = offloaded(UDP, b"x")
            assert writer.capture.offer(frame, port=1, direction=1, time_ns=time.time_ns(), packet_id=number)
        assert lines_within(30, shark.stdout.fileno(), 5) == ["0", "1", "2", "3", "4"]
    finally:
        writer.stop()
        reap(shark)


def lines_within(deadline_s: float, fd: int, count: int) -> list[str]:
    """The first `count` lines that come out of a pipe."""
    give_up_at = time.monotonic() + deadline_s
    raw = b""
    while raw.count(b"\n") < count:
        ready = select.select([fd], [], [], max(0.0, give_up_at - time.monotonic()))[0]
        assert ready, f"not within {deadline_s} s: {count} lines, only {raw!r}"
        chunk = os.read(fd, 65536)
        assert chunk, f"ended after {raw!r}"
        raw += chunk
    return raw.decode().splitlines()[:count]


def reap(process: subprocess.Popen) -> int:
    """The exit status of a program that is about to end; one that doesn't is killed."""
    try:
        return process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


# -- real kernels: two namespaces, each with a TAP that leaves checksums and segmentation to us

TUNSETIFF, TUNSETVNETHDRSZ, TUNSETOFFLOAD = 0x400454CA, 0x400454D8, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000
OFFLOADS = 0x1 | 0x2 | 0x4  # checksums, TCP segmentation over IPv4 and IPv6
UDP_SEGMENTS = (
    "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
    "s.setsockopt(17, 103, 1400);"
    "s.sendto(bytes(14000), ('10.77.0.2', 5003)); s.sendto(b'odd', ('10.77.0.2', 5003))"
)


def ip(*words: str) -> None:
    run("ip", *words)


def open_tap(name: str, namespace: str, address: str) -> int:
    """A TAP with offloads, whose interface is up in the namespace."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", 12))
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS | 0x60)  # UDP segmentation too, from Linux 6.2 on
    except OSError:
        fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOADS)
    ip("link", "set", name, "netns", namespace)
    ip("-n", namespace, "addr", "add", f"10.77.0.{address}/24", "dev", name)
    ip("-n", namespace, "addr", "add", f"fd77::{address}/64", "dev", name, "nodad")
    ip("-n", namespace, "link", "set", name, "up")
    return fd


@contextlib.contextmanager
def namespaces():
    names = [f"vswobs-{os.getpid()}-{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], timeout=20, check=False)


def relay(taps: list[int], writer: CaptureWriter, ended: threading.Event) -> None:
    """Carries frames between the two TAPs, recording both crossings of each, until told to end."""
    packet_id = 0
    while not ended.is_set():
        for fd in select.select(taps, [], [], 0.05)[0]:
            with contextlib.suppress(BlockingIOError):
                frame = os.read(fd, 70000)
                packet_id += 1
                flags, gso_type, _, _, start, offset = struct.unpack_from("<BBHHHH", frame)
                for direction, tap in ((1, fd), (2, taps[1 - taps.index(fd)])):
                    writer.capture.offer(
                        frame[12:], port=1 + taps.index(tap), direction=direction, packet_id=packet_id,
                        time_ns=time.time_ns(), vnet_flags=flags, gso_type=gso_type, csum_start=start,
                        csum_offset=offset,
                    )  # fmt: skip
                os.write(taps[1 - taps.index(fd)], frame)


def traffic(a: str, b: str) -> None:
    """TCP both families, small and segmented UDP, echo both families."""
    in_a, in_b = ("ip", "netns", "exec", a), ("ip", "netns", "exec", b)
    for family, address, port in (("TCP4", "10.77.0.2", "5001"), ("TCP6", "[fd77::2]", "5002")):
        sink = subprocess.Popen([*in_b, "socat", "-u", f"{family}-LISTEN:{port}", "OPEN:/dev/null"])
        try:
            source = f"{family}:{address}:{port},retry=50,interval=0.1"
            run(*in_a, "socat", "-b", "65536", "-u", "-", source, input=bytes(3_000_000))
        finally:
            assert reap(sink) == 0
    # somebody listens: an ICMP error would quote the datagram as the kernel has it, unfinished
    sink = subprocess.Popen([*in_b, "socat", "-u", "UDP4-RECV:5003", "OPEN:/dev/null"])
    try:
        until_bound(in_b, "5003")
        run(*in_a, sys.executable, "-c", UDP_SEGMENTS)
    finally:
        sink.terminate()
        reap(sink)
    for address in ("10.77.0.2", "fd77::2"):
        run(*in_a, "ping", "-c", "2", "-i", "0.2", address, stdout=subprocess.DEVNULL)


def until_bound(inside: tuple[str, ...], port: str) -> None:
    """Waits for a UDP socket at that port."""
    give_up_at = time.monotonic() + 10
    while f":{port} " not in run(*inside, "ss", "-Hlun", capture_output=True, text=True).stdout:
        assert time.monotonic() < give_up_at, f"nobody listens on UDP port {port}"


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("socat"), reason="socat isn't installed")
def test_tshark_has_no_complaint_about_what_real_kernels_send(tmp_path):
    path = tmp_path / "x.pcapng"
    writer = CaptureWriter(Stream(os.open(path, os.O_RDWR | os.O_CREAT)), label="real", endpoints=ENDPOINTS)
    writer.start()
    ended = threading.Event()
    with namespaces() as (a, b):
        taps = [open_tap(f"vswo{os.getpid()}{at}", name, at) for name, at in ((a, "1"), (b, "2"))]
        carrier = threading.Thread(target=relay, args=(taps, writer, ended))
        carrier.start()
        try:
            traffic(a, b)
        finally:
            ended.set()
            carrier.join()
            for fd in taps:
                os.close(fd)
    statistics = writer.stop()
    assert statistics.dropped == 0
    no_analyser_complains(path)
    for layer, least in (("tcp", 100), ("udp", 4), ("icmpv6", 4)):
        assert len(tshark(path, "-Y", f"{layer}.checksum.status == {GOOD}")) >= least
    super_frames = tshark(path, "-Y", f"frame.len > 1514 && tcp.checksum.status == {GOOD}")
    assert len(super_frames) > 10, "the kernels' own segmentation was to be left to us"
    crossings = [packet.number(5) for packet in packets(path.read_bytes())]
    assert all(crossings.count(packet_id) == 2 for packet_id in set(crossings))
