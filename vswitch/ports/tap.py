# SPDX-License-Identifier: Apache-2.0
"""TAP devices: made, taken over from someone else, let go. Nothing here reads or writes a frame.

A TAP is an open /dev/net/tun bound by TUNSETIFF to an interface of the network namespace in which the node
was *opened*; the descriptor then works from anywhere. So `open_tap` is called inside the container's
namespace (see inside.py), and whoever gets the descriptor later may do everything else: no ioctl on a bound
descriptor asks for a capability.

Offloads. With IFF_VNET_HDR every frame is preceded by a virtio_net_hdr: 12 bytes here (`VNET_HEADER_BYTES`),
little endian, as QEMU and vhost have it. TUNSETOFFLOAD tells the kernel what *we* can digest; it governs
kernel → switch only. We ask for unfinished checksums, TCP super-frames of both families and UDP ones (USO,
since Linux 6.2, both families or none), and step down until the kernel agrees. `Tap.gso` says which
super-frames may be written to the port: the same ones, because a kernel that cannot make UDP super-frames
refuses them in a write (EINVAL) too. Without the header nothing may be offloaded, for nobody could tell what
is unfinished.

VSWITCH_DISABLE=uso and =vnet_hdr force the two fall-backs. A device that someone else opened keeps its
IFF_VNET_HDR, since only TUNSETIFF sets it; there vnet_hdr merely turns the offloads off.

Persistence. TUNSETPERSIST lets the interface, its addresses and its routes outlive every descriptor;
`release_tap` ends that, and the interface goes when the last descriptor is closed. The kernel's ring per
device is txqueuelen frames (interface.py).

Numbers: linux/if_tun.h; semantics: drivers/net/tun.c.
"""
from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import stat
import struct
from errno import EACCES, EBADFD, EBUSY, EINVAL, ENODEV, ENOENT, ENXIO, EPERM
from typing import NamedTuple

import pytun

from vswitch.model import Refused

KIND_TAP = "tap"
KIND_PACKET = "packet"

GSO_TCP4 = 1
GSO_TCP6 = 2
GSO_UDP = 4

VNET_HEADER_BYTES = 12
SNDBUF_UNLIMITED = 0x7FFFFFFF  # the kernel's own default; anything finite makes writes fail with EAGAIN

TUN_DEVICE = "/dev/net/tun"
TUN_DEVICE_NUMBER = os.makedev(10, 200)

TUNSETPERSIST = 0x400454CB
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNSETSNDBUF = 0x400454D4
TUNSETVNETHDRSZ = 0x400454D8
TUNSETVNETLE = 0x400454DC

SOCK_FPROG, SOCK_FILTER = struct.Struct("HP"), struct.Struct("=HBBI")
TUNATTACHFILTER = 0x400054D5 | SOCK_FPROG.size << 16
TUNDETACHFILTER = 0x400054D6 | SOCK_FPROG.size << 16
ACCEPT_ALL = SOCK_FILTER.pack(0x06, 0, 0, 0xFFFFFFFF)  # BPF_RET | BPF_K, the whole frame

IFF_PERSIST = 0x0800
IFREQ_BYTES = 40

TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
TCP_OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
# What to ask of TUNSETOFFLOAD, best first, and the super-frames that each brings.
OFFLOADS = (
    (TCP_OFFLOADS | TUN_F_USO4 | TUN_F_USO6, GSO_TCP4 | GSO_TCP6 | GSO_UDP),
    (TCP_OFFLOADS, GSO_TCP4 | GSO_TCP6),
    (TUN_F_CSUM, 0),
    (0, 0),
)

INTERFACE_NAME = re.compile(r"(?!\.{1,2}$)[!-$&-.0-9;-~]{1,15}")  # as dev_valid_name(), without "%d"

TUN_REMEDY = (
    f"as root run `chmod 0666 {TUN_DEVICE}`, and for good put KERNEL==\"tun\", MODE=\"0666\""
    " into /etc/udev/rules.d/60-tun.rules"
)
APPARMOR_SWITCH = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


class Tap(NamedTuple):
    """A ready TAP: `fd` is non-blocking and CLOEXEC and belongs to the receiver; `gso` is a mask of GSO_*."""

    fd: int
    name: str
    vnet_header: bool
    gso: int


def disabled() -> frozenset[str]:
    """The newer kernel features that VSWITCH_DISABLE (comma separated) says not to use."""
    return frozenset(word.strip() for word in os.environ.get("VSWITCH_DISABLE", "").split(","))


def open_tap(name: str, *, persist: bool, exclusive: bool = True, uid: int | None = None) -> Tap:
    """Make TAP `name` in the current network namespace; not `exclusive` takes one that is there. Refused.

    `uid` is who a refusal names: the one outside, where a user namespace has been entered that calls us 0.
    """
    if not INTERFACE_NAME.fullmatch(name):
        raise Refused(f"{name!r} is no interface name: 1 to 15 characters, none of them a space or / : %")
    flags = pytun.IFF_TAP | pytun.IFF_NO_PI
    if exclusive:
        flags |= pytun.IFF_TUN_EXCL
    if "vnet_hdr" not in disabled():
        flags |= pytun.IFF_VNET_HDR
    try:
        fd = _create(name, flags)
    except OSError as error:
        raise _explained(error, name, exclusive, os.geteuid() if uid is None else uid) from None
    try:
        tap = _prepared(fd)
        if persist:
            persist_tap(fd)
    except BaseException:
        os.close(fd)
        raise
    return tap


def adopt_tap(fd: int) -> Tap:
    """Verify a TAP descriptor that someone handed us, and set it up as ours are. Refused; fd stays open."""
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != TUN_DEVICE_NUMBER:
        raise Refused(f"descriptor {fd} is no TAP: open {TUN_DEVICE} and TUNSETIFF it first")
    try:
        name, flags = identify_tap(fd)
    except OSError as error:
        raise Refused(f"descriptor {fd} is bound to no TAP ({error.strerror}): TUNSETIFF it first") from None
    if not flags & pytun.IFF_TAP:
        raise Refused(f"{name} is a TUN (packets), not a TAP (frames): make it with IFF_TAP")
    if _has_packet_information(fd):
        raise Refused(f"{name} puts 4 bytes of packet information before each frame: make it with IFF_NO_PI")
    if flags & pytun.IFF_MULTI_QUEUE:
        raise Refused(f"{name} has several queues, so we would miss frames: make it without IFF_MULTI_QUEUE")
    return _prepared(fd)


def adopt_packet_socket(fd: int) -> int:
    """Verify one end of an AF_UNIX SOCK_SEQPACKET pair, and make it non-blocking. Refused; fd stays open."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise Refused(f"descriptor {fd} is no socket: hand over one end of an AF_UNIX SOCK_SEQPACKET pair")
    with socket.socket(fileno=os.dup(fd)) as view:
        if view.family != socket.AF_UNIX or view.type != socket.SOCK_SEQPACKET:
            raise Refused("a packet port must be an AF_UNIX SOCK_SEQPACKET socket, which keeps frame edges")
        try:
            view.getpeername()
        except OSError:
            raise Refused("the packet port is not connected: hand over one end of a socketpair") from None
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)
    return fd


def persist_tap(fd: int) -> None:
    """Let the interface outlive its descriptors."""
    fcntl.ioctl(fd, TUNSETPERSIST, 1)


def release_tap(fd: int) -> None:
    """Let the interface go when its last descriptor is closed (by the caller); gone already is fine."""
    try:
        fcntl.ioctl(fd, TUNSETPERSIST, 0)
    except OSError as error:
        if error.errno != EBADFD:
            raise


def identify_tap(fd: int) -> tuple[str, int]:
    """Interface name and flags (IFF_NO_PI aside) of a bound descriptor. OSError EBADFD if that is gone."""
    request = bytearray(IFREQ_BYTES)
    fcntl.ioctl(fd, TUNGETIFF, request)
    name, flags = struct.unpack_from("16sH", request)
    return name.rstrip(b"\0").decode(errors="replace"), flags


def _has_packet_information(fd: int) -> bool:
    """Whether IFF_NO_PI is missing. Takes off a filter that someone put on, which would hide frames from us.

    In TUNGETIFF's answer the same bit means "no filter", so it says something only while there is one.
    """
    program = ctypes.create_string_buffer(ACCEPT_ALL)
    request = SOCK_FPROG.pack(1, ctypes.addressof(program))
    fcntl.ioctl(fd, TUNATTACHFILTER, request)
    try:
        return not identify_tap(fd)[1] & pytun.IFF_NO_PI
    finally:
        fcntl.ioctl(fd, TUNDETACHFILTER, request)


def _create(name: str, flags: int) -> int:
    """A CLOEXEC descriptor of our own: pytun's is inheritable, and closed with its object."""
    device = pytun.TunTapDevice(name=name, flags=flags)
    try:
        fd = fcntl.fcntl(device.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        device.close()
    return fd


def _prepared(fd: int) -> Tap:
    """Bring a bound descriptor into the state that the dataplane expects, whatever state it was in."""
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)
    name, flags = identify_tap(fd)
    vnet_header = bool(flags & pytun.IFF_VNET_HDR)
    if vnet_header:
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))
        fcntl.ioctl(fd, TUNSETVNETLE, struct.pack("i", 1))
    gso = _offload(fd, wanted=vnet_header)
    fcntl.ioctl(fd, TUNSETSNDBUF, struct.pack("i", SNDBUF_UNLIMITED))
    return Tap(fd, name, vnet_header, gso)


def _offload(fd: int, *, wanted: bool) -> int:
    """Ask for the best set of offloads that this kernel has; the super-frames (GSO_*) that come with it."""
    avoided = disabled()
    for features, gso in OFFLOADS:
        if features and (not wanted or "vnet_hdr" in avoided):
            continue
        if gso & GSO_UDP and "uso" in avoided:
            continue
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, features)
        except OSError as error:
            if error.errno != EINVAL or not features:
                raise
        else:
            return gso
    raise AssertionError("unreachable: the last set is empty and either accepted or raised")


def _explained(error: OSError, name: str, exclusive: bool, uid: int) -> Refused:
    """What failed in opening the node or in TUNSETIFF, as one line with its remedy."""
    code = error.errno
    if code == ENOENT:
        return Refused(f"{TUN_DEVICE} is missing: run `modprobe tun` as root, or pass it in", 500)
    if code in (ENODEV, ENXIO):
        return Refused("the kernel has no TAP driver: run `modprobe tun` as root", 500)
    if code in (EPERM, EACCES):
        return Refused(_open_remedy(uid) or f"no right to make interface {name} here: {_right_remedy()}", 403)
    if code == EBUSY and exclusive:
        return Refused(f"there is an interface {name} already: choose another name, or leave it out", 409)
    if code == EBUSY:
        return Refused(f"another process holds interface {name}: end that process first", 409)
    if code == EINVAL and not exclusive:
        return Refused(f"interface {name} is no TAP of a single queue, so not ours: choose another name", 409)
    return Refused(f"cannot make interface {name}: {error.strerror or error}", 500)


def _open_remedy(uid: int) -> str | None:
    """How to let us open the node, if file mode or device cgroup forbid it; None if TUNSETIFF failed."""
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return f"uid {uid} may not open {TUN_DEVICE} ({error.strerror}): {TUN_REMEDY}"
    return None


def _right_remedy() -> str:
    """Who may make interfaces, with the AppArmor switch where a distribution uses it."""
    try:
        with open(APPARMOR_SWITCH) as switch:
            restricted = switch.read().strip() == "1"
    except OSError:
        restricted = False
    if restricted:
        return "AppArmor restricts user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    return "it takes CAP_NET_ADMIN in the namespace's user namespace; run as its owner or as root"
