# SPDX-License-Identifier: Apache-2.0
"""rtnetlink requests byte by byte (struct layouts of linux/rtnetlink.h), and the kernel's answers."""
import errno
import struct
import subprocess

import pytest
from throwaway import ip

from vswitch.ports import rtnl
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.rtnl import NetlinkRefused, Rtnl, parse_acknowledgement


def body(change: rtnl.Change) -> str:
    """The message without its nlmsghdr, in hexadecimal."""
    data = rtnl.encoded(change, 7)
    assert struct.unpack_from("=IHHII", data) == (len(data), change.type, change.flags | 0x5, 7, 0)
    return data[16:].hex()


def ifinfomsg(index: int, flags: int = 0) -> str:
    return struct.pack("=BxHiII", 0, 0, index, flags, flags).hex()


def attribute(kind: int, payload: bytes) -> str:
    return (struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)).hex()


def test_links_are_set_up_by_flag_and_change_mask():
    assert body(rtnl.loopback_up()) == ifinfomsg(1, 1)
    assert body(rtnl.link_up(7)) == ifinfomsg(7, 1)


def test_link_settings_carry_mac_mtu_and_queue_length():
    settings = rtnl.link_settings(7, mac="02:42:ac:11:00:02", mtu=1500, txqueuelen=4096)
    expected = (
        attribute(1, bytes.fromhex("0242ac110002"))
        + attribute(4, struct.pack("=I", 1500))
        + attribute(13, struct.pack("=I", 4096))
    )
    assert body(settings) == ifinfomsg(7) + expected


def test_the_silent_link_has_address_generation_mode_none():
    mode = bytes.fromhex(attribute(8, b"\x01"))  # IFLA_INET6_ADDR_GEN_MODE
    af_inet6 = bytes.fromhex(attribute(10, mode))
    assert body(rtnl.silent6(7)) == ifinfomsg(7) + attribute(26, af_inet6)  # IFLA_AF_SPEC


def test_an_ipv4_address_has_local_address_and_broadcast():
    address, broadcast = bytes([172, 17, 0, 2]), bytes([172, 17, 255, 255])
    change = rtnl.address4(7, "172.17.0.2/16")
    header = struct.pack("=BBBBI", 2, 16, 0, 0, 7).hex()
    assert body(change) == header + attribute(2, address) + attribute(1, address) + attribute(4, broadcast)


@pytest.mark.parametrize("length", [31, 32])
def test_point_to_point_prefixes_have_no_broadcast(length):
    assert attribute(4, b"")[:8] not in body(rtnl.address4(7, f"10.0.0.2/{length}"))
    assert "IFA_BROADCAST" not in dict(rtnl.address4(7, f"10.0.0.2/{length}").message["attrs"])


def test_an_ipv6_address_is_never_tentative():
    change = rtnl.address6(7, "fd00::2/64")
    header = struct.pack("=BBBBI", 10, 64, 2, 0, 7).hex()  # IFA_F_NODAD
    assert body(change) == header + attribute(1, bytes.fromhex("fd" + "00" * 14 + "02"))


def test_default_routes_go_into_the_main_table():
    header4 = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0).hex()
    oif = attribute(4, struct.pack("=I", 7))
    assert body(rtnl.default_route4(7, "172.17.0.1")) == header4 + attribute(5, bytes([172, 17, 0, 1])) + oif
    header6 = struct.pack("=BBBBBBBBI", 10, 0, 0, 0, 254, 3, 0, 1, 0).hex()
    gateway6 = attribute(5, bytes.fromhex("fd" + "00" * 14 + "01"))
    metric = attribute(6, struct.pack("=I", 512))
    assert body(rtnl.default_route6(7, "fd00::1")) == header6 + gateway6 + oif + metric


def test_an_acknowledgement_is_success_or_an_errno():
    header = struct.pack("=IHHII", 32, 16, 5, 9, 0)
    assert parse_acknowledgement(0x100, struct.pack("=i", 0) + header)[0] == 0
    assert parse_acknowledgement(0x100, struct.pack("=i", -22) + header) == (22, "Invalid argument")


def test_an_extended_acknowledgement_gives_the_reason_whether_capped_or_not():
    header = struct.pack("=IHHII", 20, 16, 5, 9, 0)
    offset = struct.pack("=HHI", 8, 2, 77)  # NLMSGERR_ATTR_OFFS
    text = b"mtu greater than device maximum\0"
    message = struct.pack("=HH", 4 + len(text), 1) + text
    expected = (22, "Invalid argument (mtu greater than device maximum)")
    capped = struct.pack("=i", -22) + header + offset + message
    assert parse_acknowledgement(0x300, capped) == expected
    whole = struct.pack("=i", -22) + header + bytes(4) + offset + message
    assert parse_acknowledgement(0x200, whole) == expected


def try_a_batch_with_a_failure_in_the_middle():
    with Rtnl() as kernel:
        try:
            kernel.apply([rtnl.loopback_up(), rtnl.link_up(999), rtnl.address4(1, "127.1.2.3/32")])
        except NetlinkRefused as refusal:
            addresses = [address["local"] for address in ip("address", "show", "lo")[0]["addr_info"]]
            return refusal.errno, str(refusal), "127.1.2.3" in addresses
    return None


@pytest.mark.root
def test_a_failing_change_is_reported_and_stops_nothing(netns):
    code, text, tried = netns.inside(try_a_batch_with_a_failure_in_the_middle)
    assert code == errno.ENODEV
    assert text.startswith("cannot set the interface up: No such device")
    assert tried


def links():
    subprocess.run(["ip", "link", "add", "name", "one", "type", "veth", "peer", "name", "two"], check=True)
    with Rtnl() as kernel:
        return kernel.link("one").kind, kernel.link("lo"), kernel.link("three")


@pytest.mark.root
def test_links_are_found_by_name_with_their_kind(netns):
    assert netns.inside(links) == ("veth", (1, None), None)


def test_the_plan_is_decoded_strictly_and_has_the_documented_defaults():
    plan = InterfacePlan(mac="02:00:00:00:00:01")
    assert (plan.name, plan.mtu, plan.txqueuelen, plan.persist) == (None, 1500, 4096, True)
    assert (plan.ipv4, plan.ipv6, plan.gateway4, plan.gateway6) == ([], [], None, None)
