# SPDX-License-Identifier: Apache-2.0
"""TAP devices as the kernel really makes them."""
import array
import errno
import fcntl
import os
import socket
import struct
import subprocess

import pytest
import pytun
from hypothesis import given
from hypothesis import strategies as st
from throwaway import eventually, ip, tun_node

from vswitch.model import Refused
from vswitch.ports import tap
from vswitch.ports.tap import GSO_TCP4, GSO_TCP6, GSO_UDP, adopt_tap, open_tap, release_tap

ALL_GSO = GSO_TCP4 | GSO_TCP6 | GSO_UDP
TUNGETSNDBUF, TUNGETVNETHDRSZ, TUNGETVNETLE = 0x800454D3, 0x800454D7, 0x800454DD
TUNSETVNETBE, TUNSETIFF = 0x400454DE, 0x400454CA
SIOCETHTOOL, ETHTOOL_GTXCSUM, ETHTOOL_GTSO = 0x8946, 0x16, 0x1E
SOL_UDP, UDP_SEGMENT = 17, 103
TAP_FLAGS = pytun.IFF_TAP | pytun.IFF_NO_PI


def integer(fd: int, request: int) -> int:
    buffer = bytearray(4)
    fcntl.ioctl(fd, request, buffer)
    return struct.unpack("i", buffer)[0]


def ethtool(name: str, command: int) -> int:
    """A value of `struct ethtool_value` for an interface."""
    value = array.array("I", [command, 0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), value.buffer_info()[0]))
    return value[1]


def up(name: str) -> None:
    subprocess.run(["ip", "address", "add", "10.9.0.2/24", "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    neighbour = "10.9.0.1 lladdr 02:00:00:00:00:01 nud permanent dev"
    subprocess.run(["ip", "neigh", "add", *neighbour.split(), name], check=True)


def udp_frames(fd: int, header_bytes: int) -> list[tuple[bytes, bytes]]:
    """(vnet header, frame) of each IPv4 frame that 14000 bytes sent with UDP_SEGMENT 1400 become."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(SOL_UDP, UDP_SEGMENT, 1400)
        sender.sendto(bytes(14000), ("10.9.0.1", 9))
    found = []
    while True:
        try:
            data = os.read(fd, 70000)
        except BlockingIOError:
            return found
        header, frame = data[:header_bytes], data[header_bytes:]
        if frame[12:14] == b"\x08\x00":
            found.append((header, frame))


def sum16(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def udp_checksum_is_complete(frame: bytes) -> bool:
    pseudo = frame[26:34] + struct.pack("!HH", 17, len(frame) - 34)
    return sum16(pseudo + frame[34:]) == 0xFFFF


def raw_tap(name: str, flags: int) -> int:
    """A descriptor as some other program would make it."""
    device = pytun.TunTapDevice(name=name, flags=flags)
    fd = os.dup(device.fileno())
    device.close()
    os.set_blocking(fd, True)
    os.set_inheritable(fd, True)
    return fd


# ---- names and errors, without a device


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "a:b", "eth%d", "x" * 16, "a\t", "é", "a\n"])
def test_a_bad_interface_name_is_refused_before_the_kernel_sees_it(name):
    with pytest.raises(Refused, match="no interface name"):
        open_tap(name, persist=False)


@given(st.text(max_size=20))
def test_a_name_that_passes_is_short_ascii_without_separators(name):
    if tap.INTERFACE_NAME.fullmatch(name):
        assert 1 <= len(name.encode()) <= 15
        assert not set(name) & set("/:% \t\n\0")
        assert name not in (".", "..")


@pytest.mark.parametrize(
    ("code", "exclusive", "status", "words"),
    [
        (errno.ENOENT, True, 500, "modprobe tun"),
        (errno.ENODEV, True, 500, "modprobe tun"),
        (errno.EBUSY, True, 409, "an interface eth0 already"),
        (errno.EBUSY, False, 409, "another process holds interface eth0"),
        (errno.EINVAL, False, 409, "no TAP of a single queue"),
        (errno.ENFILE, True, 500, "Too many open files in system"),
    ],
)
def test_each_failure_is_one_line_with_its_remedy(monkeypatch, code, exclusive, status, words):
    def fail(name, flags):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tap, "_create", fail)
    with pytest.raises(Refused) as caught:
        open_tap("eth0", persist=False, exclusive=exclusive)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.status == status


@pytest.mark.parametrize("path", ["/dev/null", "/etc/passwd"])
def test_what_is_no_tap_is_not_adopted(path):
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(Refused, match="is no TAP"):
        adopt_tap(fd)
    os.close(fd)


# ---- as the kernel has it


def state_of_a_new_tap():
    ours = open_tap("eth0", persist=False)
    up("eth0")
    return (
        (ours.name, ours.vnet_header, ours.gso),
        (os.get_blocking(ours.fd), os.get_inheritable(ours.fd)),
        (integer(ours.fd, TUNGETVNETHDRSZ), integer(ours.fd, TUNGETVNETLE)),
        (ethtool("eth0", ETHTOOL_GTXCSUM), ethtool("eth0", ETHTOOL_GTSO)),
        [(len(frame), header) for header, frame in udp_frames(ours.fd, 12)],
    )


@pytest.mark.root
def test_a_new_tap_has_every_offload(netns):
    named, modes, header, offloads, frames = netns.inside(state_of_a_new_tap)
    assert named == ("eth0", True, ALL_GSO)
    assert modes == (False, False)
    assert header == (12, 1)
    assert offloads == (1, 1)
    # flags NEEDS_CSUM, type UDP_L4, hdr_len 42, gso_size 1400, csum_start 34, csum_offset 6, num_buffers 0
    assert frames == [(14042, struct.pack("<BBHHHHH", 1, 5, 42, 1400, 34, 6, 0))]


@pytest.mark.root
def test_without_uso_datagrams_come_one_by_one(netns, monkeypatch):
    monkeypatch.setenv("VSWITCH_DISABLE", "peek_off, uso")
    named, _, _, offloads, frames = netns.inside(state_of_a_new_tap)
    assert named == ("eth0", True, GSO_TCP4 | GSO_TCP6)
    assert offloads == (1, 1)
    assert [(size, header[:2]) for size, header in frames] == [(1442, b"\x01\x00")] * 10


def frames_without_header():
    ours = open_tap("eth0", persist=False)
    up("eth0")
    return ours[1:], [udp_checksum_is_complete(frame) for _, frame in udp_frames(ours.fd, 0)]


@pytest.mark.root
def test_without_vnet_header_frames_are_bare_and_finished(netns, monkeypatch):
    monkeypatch.setenv("VSWITCH_DISABLE", "vnet_hdr")
    named, complete = netns.inside(frames_without_header)
    assert named == ("eth0", False, 0)
    assert complete == [True] * 10


def opened_on_a_kernel_without(missing: int):
    real = fcntl.ioctl

    def older(fd, request, *argument):
        if request == tap.TUNSETOFFLOAD and argument[0] & missing:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, request, *argument)

    tap.fcntl.ioctl = older
    ours = open_tap("eth0", persist=False)
    return ours.gso, ethtool("eth0", ETHTOOL_GTXCSUM), ethtool("eth0", ETHTOOL_GTSO)


@pytest.mark.root
@pytest.mark.parametrize(
    ("missing", "offers"),
    [
        (tap.TUN_F_USO4, (GSO_TCP4 | GSO_TCP6, 1, 1)),
        (tap.TUN_F_TSO4, (0, 1, 0)),
        (tap.TUN_F_CSUM, (0, 0, 0)),
    ],
)
def test_an_older_kernel_gets_what_it_has(netns, missing, offers):
    assert netns.inside(opened_on_a_kernel_without, missing) == offers


def open_twice(first_flags: dict, second_flags: dict):
    first = open_tap("eth0", persist=False, **first_flags)
    try:
        open_tap("eth0", persist=False, **second_flags)
    finally:
        os.close(first.fd)


@pytest.mark.root
def test_a_taken_name_is_refused(netns):
    with pytest.raises(Refused, match="an interface eth0 already") as caught:
        netns.inside(open_twice, {}, {})
    assert caught.value.status == 409


def open_over_a_waiting_tap():
    os.close(open_tap("eth0", persist=True).fd)
    open_tap("eth0", persist=False)


@pytest.mark.root
def test_a_new_tap_is_never_one_that_was_left_there(netns):
    with pytest.raises(Refused, match="an interface eth0 already"):
        netns.inside(open_over_a_waiting_tap)


@pytest.mark.root
def test_an_interface_that_another_process_holds_is_refused(netns):
    with pytest.raises(Refused, match="another process holds interface eth0"):
        netns.inside(open_twice, {}, {"exclusive": False})


def open_over_a_veth():
    subprocess.run(["ip", "link", "add", "name", "eth0", "type", "veth", "peer", "name", "other"], check=True)
    open_tap("eth0", persist=False, exclusive=False)


@pytest.mark.root
def test_an_interface_of_another_kind_is_refused(netns):
    with pytest.raises(Refused, match="no TAP of a single queue"):
        netns.inside(open_over_a_veth)


def present(name: str) -> bool:
    return name in [link["ifname"] for link in ip("link")]


def persistence():
    ours = open_tap("eth0", persist=True)
    os.close(ours.fd)
    stayed = present("eth0")
    again = open_tap("eth0", persist=False, exclusive=False)
    release_tap(again.fd)
    held = present("eth0")
    os.close(again.fd)
    eventually(lambda: not present("eth0"), "eth0 went with its last descriptor")
    fleeting = open_tap("eth0", persist=False)
    os.close(fleeting.fd)
    eventually(lambda: not present("eth0"), "the interface that was not persistent went")
    return stayed, held


@pytest.mark.root
def test_a_persistent_tap_stays_until_it_is_released(netns):
    assert netns.inside(persistence) == (True, True)


def release_after_removal():
    ours = open_tap("eth0", persist=True)
    subprocess.run(["ip", "link", "delete", "eth0"], check=True)
    release_tap(ours.fd)


@pytest.mark.root
def test_releasing_an_interface_that_is_gone_is_fine(netns):
    netns.inside(release_after_removal)


# ---- descriptors of others


def adopt_a_misused_tap():
    fd = raw_tap("tap7", TAP_FLAGS | pytun.IFF_VNET_HDR)
    fcntl.ioctl(fd, tap.TUNSETSNDBUF, struct.pack("i", 5000))
    fcntl.ioctl(fd, tap.TUNSETVNETHDRSZ, struct.pack("i", 20))
    try:
        fcntl.ioctl(fd, TUNSETVNETBE, struct.pack("i", 1))
    except OSError as error:
        assert error.errno == errno.EINVAL  # a kernel without CONFIG_TUN_VNET_CROSS_LE
    ours = adopt_tap(fd)
    assert ours.fd == fd
    return (
        ours[1:],
        (integer(fd, TUNGETVNETHDRSZ), integer(fd, TUNGETVNETLE), integer(fd, TUNGETSNDBUF)),
        (ethtool("tap7", ETHTOOL_GTXCSUM), ethtool("tap7", ETHTOOL_GTSO)),
        (os.get_blocking(fd), os.get_inheritable(fd)),
    )


@pytest.mark.root
def test_an_adopted_tap_is_set_up_as_ours_are(netns):
    named, settings, offloads, modes = netns.inside(adopt_a_misused_tap)
    assert named == ("tap7", True, ALL_GSO)
    assert settings == (12, 1, 0x7FFFFFFF)
    assert offloads == (1, 1)
    assert modes == (False, False)


def adopt_a_headerless_tap():
    fd = raw_tap("tap7", TAP_FLAGS)
    fcntl.ioctl(fd, tap.TUNSETOFFLOAD, tap.TCP_OFFLOADS)  # a mistake: nobody could finish such frames
    ours = adopt_tap(fd)
    return ours[1:], (ethtool("tap7", ETHTOOL_GTXCSUM), ethtool("tap7", ETHTOOL_GTSO))


@pytest.mark.root
def test_an_adopted_tap_without_header_has_no_offloads(netns):
    assert netns.inside(adopt_a_headerless_tap) == (("tap7", False, 0), (0, 0))


def adopt_with_header_unwanted():
    ours = adopt_tap(raw_tap("tap7", TAP_FLAGS | pytun.IFF_VNET_HDR))
    return ours[1:], ethtool("tap7", ETHTOOL_GTXCSUM)


@pytest.mark.root
def test_the_header_of_an_adopted_tap_stays_though_disabled_but_its_frames_are_finished(netns, monkeypatch):
    monkeypatch.setenv("VSWITCH_DISABLE", "vnet_hdr")
    assert netns.inside(adopt_with_header_unwanted) == (("tap7", True, 0), 0)


def adopt_a_filtered_tap():
    """Frames that get through before and after, with a filter on that drops everything."""
    fd = raw_tap("tap7", TAP_FLAGS | pytun.IFF_VNET_HDR)
    fcntl.ioctl(fd, tap.TUNSETVNETHDRSZ, struct.pack("i", 12))
    os.set_blocking(fd, False)
    drop_all = array.array("Q", [0x06])
    fcntl.ioctl(fd, tap.TUNATTACHFILTER, tap.SOCK_FPROG.pack(1, drop_all.buffer_info()[0]))
    up("tap7")
    before = len(udp_frames(fd, 12))
    adopt_tap(fd)
    return before, len(udp_frames(fd, 12))


@pytest.mark.root
def test_a_filter_on_an_adopted_tap_hides_nothing_any_more(netns):
    assert netns.inside(adopt_a_filtered_tap) == (0, 1)


def adopt_with_flags(flags: int):
    adopt_tap(raw_tap("dev7", flags))


@pytest.mark.root
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (pytun.IFF_TUN | pytun.IFF_NO_PI, "is a TUN"),
        (pytun.IFF_TAP, "IFF_NO_PI"),
        (TAP_FLAGS | pytun.IFF_MULTI_QUEUE, "IFF_MULTI_QUEUE"),
    ],
)
def test_a_device_of_the_wrong_shape_is_not_adopted(netns, flags, words):
    with pytest.raises(Refused, match=words):
        netns.inside(adopt_with_flags, flags)


def adopt_unbound():
    adopt_tap(os.open(tap.TUN_DEVICE, os.O_RDWR))


def adopt_removed():
    fd = raw_tap("tap7", TAP_FLAGS)
    subprocess.run(["ip", "link", "delete", "tap7"], check=True)
    adopt_tap(fd)


@pytest.mark.root
@pytest.mark.parametrize("adopt", [adopt_unbound, adopt_removed])
def test_a_descriptor_without_interface_is_not_adopted(netns, adopt):
    with pytest.raises(Refused, match="bound to no TAP"):
        netns.inside(adopt)


# ---- rights


def open_without_rights():
    os.setgroups([])
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
    open_tap("eth0", persist=False)


@pytest.mark.root
def test_a_node_that_may_not_be_opened_names_chmod_and_the_udev_rule(netns):
    with tun_node(0o600), pytest.raises(Refused) as caught:
        netns.inside(open_without_rights)
    assert caught.value.status == 403
    assert "uid 54321 may not open /dev/net/tun (Permission denied)" in str(caught.value)
    assert "chmod 0666 /dev/net/tun" in str(caught.value)
    assert 'KERNEL=="tun", MODE="0666"' in str(caught.value)


@pytest.mark.root
def test_a_namespace_of_others_is_told_apart_from_a_closed_node(netns):
    with tun_node(0o666), pytest.raises(Refused) as caught:  # /dev/net/tun is 0666 for this test only
        netns.inside(open_without_rights)
    assert caught.value.status == 403
    assert "no right to make interface eth0 here" in str(caught.value)


def test_the_apparmor_switch_is_named_where_it_is_on(monkeypatch, tmp_path):
    switch = tmp_path / "switch"
    switch.write_text("1\n")
    monkeypatch.setattr(tap, "APPARMOR_SWITCH", str(switch))
    assert "kernel.apparmor_restrict_unprivileged_userns=0" in tap._right_remedy()
    switch.write_text("0\n")
    assert "CAP_NET_ADMIN" in tap._right_remedy()
