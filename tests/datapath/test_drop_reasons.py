# SPDX-License-Identifier: Apache-2.0
"""Every reason for which a frame can die has a name, an explanation, and here one frame that dies of it."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import frames
import pytest
from frames import BROADCAST, C_TAG, echo, experimental, mac, tagged, vnet
from memory_switch import GATEWAY, MemorySwitch
from vswitch.datapath._drops import NAMES, Drop

from vswitch import drops
from vswitch.dhcp.drop import Drop as DhcpDrop
from vswitch.dhcp6.drop import Drop as Dhcp6Drop
from vswitch.dns.drop import Drop as DnsDrop
from vswitch.ra.drop import Drop as RouterDrop

A4, B4, GATEWAY4, OUTSIDE4 = "172.17.0.2", "172.17.0.3", "172.17.0.1", "192.0.2.1"
A6, B6, GATEWAY6 = "fd00::2", "fd00::3", "fd00::1"


def test_the_names_in_python_are_those_of_the_dataplane_in_the_same_order():
    assert tuple(drops.EXPLANATIONS) == NAMES
    assert [Drop[name.upper()].value for name in NAMES] == list(range(1, len(NAMES) + 1))


def test_every_reason_is_explained_in_one_line():
    assert set(drops.CONTROL_EXPLANATIONS) == {*DhcpDrop, *Dhcp6Drop, *RouterDrop, *DnsDrop}
    for name, explanation in (drops.EXPLANATIONS | drops.CONTROL_EXPLANATIONS).items():
        assert drops.explanation(name) == explanation
        assert name == name.lower() and explanation and "\n" not in explanation and not explanation.endswith(".")


class Scene:
    """A guarded sender `a` with offload headers, a guarded `b`, an open `c`; what `frame` (and header) of
    `a` dies of."""

    def __init__(self, switch: MemorySwitch):
        self.switch = switch
        self.a, self.b = switch.host(assigned=True, vnet=True), switch.host(assigned=True)
        self.c = switch.host()
        for address, host in (
            (GATEWAY4, None),
            (GATEWAY6, None),
            (A4, self.a),
            (A6, self.a),
            (B4, self.b),
            (B6, self.b),
        ):
            switch.bind(address, host)

    def sent(self, frame: bytes, header: bytes | None = None, *, times: int = 1) -> dict:
        for _ in range(times):
            self.a.send(frame, header)
        self.switch.step()
        return self.a.drops


def open_sender(scene: Scene, frame: bytes) -> dict:
    """What an unguarded port's frame dies of."""
    scene.c.send(frame)
    scene.switch.step()
    return scene.c.drops


def refusing_receiver(scene: Scene, make_fd) -> dict:
    """What a broadcast dies of at a port on a descriptor that takes no frames."""
    index = scene.switch.port_on(make_fd())
    scene.sent(experimental(BROADCAST, scene.a.mac))
    return scene.switch.plane.port_counters(index)["drops"]


def unwritable() -> int:
    """A descriptor that can be polled, and of which the kernel says EINVAL to a write: a timer."""
    import ctypes

    fd = ctypes.CDLL(None).timerfd_create(1, os.O_CLOEXEC | os.O_NONBLOCK)
    assert fd >= 0
    return fd


def full_receiver(scene: Scene) -> dict:
    scene.sent(experimental(scene.b.mac, scene.a.mac), times=50)
    for _ in range(20):
        scene.sent(experimental(scene.b.mac, scene.a.mac), times=50)
    return {"tx_full": min(1, scene.b.drops["tx_full"])}


def too_small_receiver(scene: Scene) -> dict:
    scene.switch.plane.post_network_mtu(0, 65520)
    scene.b.port.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    scene.sent(experimental(scene.b.mac, scene.a.mac, bytes(60_000)))
    return scene.b.drops


def unheard_questions(scene: Scene) -> dict:
    question = frames.dhcp(scene.a.mac, padding=1000)
    while "punt_full" not in scene.a.drops:
        scene.switch.step(after_s=2)
        scene.sent(question, times=20)
    return {"punt_full": min(1, scene.a.drops["punt_full"])}


def filled(scene: Scene) -> None:
    """Nearly all addresses that the neighbour table has room for."""
    for number in range(131072 * 3 // 4):
        while scene.switch.plane.post_neighbour(0, (0xFD << 120 | number << 8).to_bytes(16, "big"), GATEWAY) is None:
            scene.switch.step()
    scene.switch.step()


def patched(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


def from_a(make) -> object:
    """A scene in which `a` sends what make(a's MAC) returns."""
    return lambda scene: scene.sent(make(scene.a.mac))


SCENES = {
    "runt": from_a(lambda a: b"short"),
    "oversized": from_a(lambda a: experimental(BROADCAST, a, bytes(2000))),
    "bad_vnet_header": lambda scene: scene.sent(experimental(BROADCAST, scene.a.mac), vnet(flags=1, csum_start=9999)),
    "bad_source_mac": lambda scene: open_sender(scene, experimental(BROADCAST, BROADCAST)),
    "gateway_spoof": from_a(lambda a: experimental(BROADCAST, GATEWAY)),
    "mac_spoof": from_a(lambda a: experimental(BROADCAST, mac(99))),
    "reserved_group": from_a(lambda a: experimental(bytes.fromhex("0180c200000e"), a)),
    "same_port": from_a(lambda a: experimental(a, a)),
    "unknown_unicast": lambda scene: (scene.c.leave(), scene.sent(experimental(mac(99), scene.a.mac)))[1],
    "arp_malformed": from_a(lambda a: frames.who_has(a, A4, B4)[:30]),
    "arp_spoof": from_a(lambda a: frames.is_at(a, B4, A4)),
    "arp_own_address": from_a(lambda a: frames.who_has(a, "0.0.0.0", A4)),
    "nd_malformed": from_a(lambda a: frames.solicitation(a, A6, B6, hop_limit=1)),
    "nd_spoof": from_a(lambda a: frames.advertisement(a, A6, B6)),
    "nd_own_address": from_a(lambda a: frames.solicitation(a, "::", A6)),
    "ip_malformed": from_a(lambda a: echo(GATEWAY, a, A4, GATEWAY4)[:30]),
    "ip_checksum": from_a(lambda a: patched(echo(GATEWAY, a, A4, GATEWAY4), 22, b"\x01")),
    "icmp_malformed": from_a(lambda a: patched(echo(GATEWAY, a, A4, GATEWAY4), 36, b"\0\0")),
    "vlan_to_gateway": from_a(lambda a: tagged(echo(GATEWAY, a, A4, GATEWAY4), (C_TAG, 5))),
    "not_for_gateway": from_a(lambda a: experimental(GATEWAY, a)),
    "no_route": from_a(lambda a: frames.udp(GATEWAY, a, A4, OUTSIDE4)),
    "no_listener": from_a(lambda a: frames.udp(GATEWAY, a, A4, GATEWAY4)),
    "rogue_dhcp": from_a(lambda a: frames.udp(BROADCAST, a, A4, "255.255.255.255", sport=67, dport=68)),
    "rogue_dhcpv6": from_a(lambda a: frames.udp(mac(2), a, A6, B6, sport=547, dport=546)),
    "rogue_ra": from_a(
        lambda a: frames.packet(frames.ALL_NODES, a, A6, "ff02::1", 58, b"\x86" + bytes(15), hop_limit=255)
    ),
    "header_chain": from_a(lambda a: frames.ipv6(mac(2), a, A6, B6, 44, b"\x11\0\0\1\0\0\0\1")),
    "claims_full": lambda scene: (filled(scene), scene.sent(frames.solicitation(scene.a.mac, "::", "fe80::99")))[1],
    "punt_rate": lambda scene: scene.sent(frames.dhcp(scene.a.mac), times=21),
    "punt_full": unheard_questions,
    "punt_oversized": lambda scene: (
        scene.switch.plane.post_network_mtu(0, 9000),
        scene.sent(frames.dhcp(scene.a.mac, padding=3000)),
    )[1],
    "isolated": lambda scene: (
        scene.switch.plane.post_network_isolated(0, True),
        scene.sent(experimental(scene.b.mac, scene.a.mac)),
    )[1],
    "tx_full": full_receiver,
    "tx_refused": lambda scene: refusing_receiver(scene, unwritable),
    "tx_error": too_small_receiver,
}
NEEDS_ROOT = {"tx_link_down"}  # a TAP whose interface is down: test_real_taps.py
TRANSLATION = {name for name in NAMES if name.startswith(("nat_", "fragment_"))}
TRANSLATION |= {"ip_spoof", "ttl_expired", "l4_checksum"}


def test_every_reason_has_a_scene():
    assert set(SCENES) | NEEDS_ROOT | TRANSLATION == set(NAMES)


@pytest.mark.parametrize("reason", sorted(TRANSLATION))
def test_every_reason_of_translation_is_met_in_its_own_tests(reason):
    scenes = (Path(__file__).parents[1] / "nat").glob("test_*.py")
    assert any(f'"{reason}"' in scene.read_text() for scene in scenes)


@pytest.mark.parametrize("reason", SCENES)
def test_a_frame_dies_of(switch, reason):
    scene = Scene(switch)
    assert SCENES[reason](scene) == {reason: 1}
    assert switch.plane.network_drops(0).get(reason, 0) >= 1
    assert switch.plane.network_drops(0).keys() == {reason}


def test_drops_of_a_thousand_kinds_of_frames_are_all_known_reasons(switch):
    scene = Scene(switch)
    for number in range(1000):
        scene.sent(struct.pack(">I", number * 2654435761 & 0xFFFFFFFF) * (number % 20))
    assert set(scene.a.drops) <= set(NAMES) and sum(scene.a.drops.values()) == scene.a.counters["rx_frames"]
