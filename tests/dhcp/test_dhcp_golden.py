# SPDX-License-Identifier: Apache-2.0
"""Every message type in bytes, both ways: what clients send, and the whole frame that answers it.

The DISCOVER is what busybox udhcpc 1.35 puts on the wire.
"""
from __future__ import annotations

import dpkt
import pytest
from simulated_dhcp import GATEWAY, NOW, Pool, ip, scope

from vswitch.dhcp.engine import Engine
from vswitch.dhcp.message import Message, emit, parse
from vswitch.dhcp.packet import emit_frame
from vswitch.dhcp.scope import Ingress

GATEWAY_MAC = bytes.fromhex("0242ac110001")
MAC = bytes.fromhex("92810d323f6d")
XID = 0x2BC1B051
ZERO = "00000000"
COOKIE = "63825363"


def fixed(op: str, *, flags: str = "0000", ciaddr: str = ZERO, yiaddr: str = ZERO, secs: str = "0000") -> str:
    """The 240 bytes up to the options; siaddr, giaddr, sname and file are zero."""
    head = op + "010600" + "2bc1b051" + secs + flags + ciaddr + yiaddr + ZERO + ZERO
    return head + "92810d323f6d" + "00" * 10 + "00" * 192 + COOKIE


def padded(text: str) -> bytes:
    return bytes.fromhex(text).ljust(300, b"\0")


OURS = "ac110001"
NINE = "ac110009"

CLIENT = {
    "DISCOVER": (
        padded(
            fixed("01") + "350101" "39020240" "370a0103060c0f1a1c2a7779" "3c0c756468637020312e33352e30"
            "3d070192810d323f6d" "ff"),
        Message(1, XID, MAC, {
            53: b"\1", 57: b"\2\x40", 55: bytes([1, 3, 6, 12, 15, 26, 28, 42, 119, 121]), 60: b"udhcp 1.35.0",
            61: b"\1" + MAC,
        }),
    ),
    "REQUEST": (
        padded(
            fixed("01", flags="8000") + "350103" "3204" + NINE + "3604" + OURS + "3d070192810d323f6d" "ff"),
        Message(
            1, XID, MAC, {53: b"\3", 50: ip("172.17.0.9").packed, 54: GATEWAY.packed, 61: b"\1" + MAC},
            flags=0x8000,
        ),
    ),
    "renewing REQUEST": (
        padded(fixed("01", ciaddr=NINE, secs="0007") + "350103" "3304" "00000258" "ff"),
        Message(1, XID, MAC, {53: b"\3", 51: b"\0\0\2\x58"}, ciaddr=ip("172.17.0.9"), secs=7),
    ),
    "DECLINE": (
        padded(fixed("01") + "350104" "3204" + NINE + "3604" + OURS + "ff"),
        Message(1, XID, MAC, {53: b"\4", 50: ip("172.17.0.9").packed, 54: GATEWAY.packed}),
    ),
    "RELEASE": (
        padded(fixed("01", ciaddr=NINE) + "350107" "3604" + OURS + "3d070192810d323f6d" "ff"),
        Message(1, XID, MAC, {53: b"\7", 54: GATEWAY.packed, 61: b"\1" + MAC}, ciaddr=ip("172.17.0.9")),
    ),
    "INFORM": (
        padded(fixed("01", ciaddr=NINE) + "350108" "37020306" "ff"),
        Message(1, XID, MAC, {53: b"\x08", 55: b"\3\6"}, ciaddr=ip("172.17.0.9")),
    ),
}


@pytest.mark.parametrize("kind", CLIENT)
def test_a_clients_message_in_bytes(kind):
    payload, message = CLIENT[kind]
    assert parse(payload) == message
    assert emit(message) == payload


SETTINGS = (
    "0104ffffff00" "0304" + OURS + "0604" + OURS + "0c03776562" "0f0c6c61622e696e7465726e616c" "1a0205dc"
    "1c04ac1100ff" "2a04" + OURS + "770e036c616208696e7465726e616c00" "790500" + OURS
)
TIMES = "330400000e10" "3a0400000708" "3b0400000c4e"
ECHO = "3d070192810d323f6d"
BROADCAST = "ffffffffffff", "ffffffff"
TO_CLIENT = "92810d323f6d", NINE

# The client's message; MAC and IP of the target; lengths and checksums of IP and UDP; the payload.
SERVER = {
    "OFFER": (
        CLIENT["DISCOVER"][0], TO_CLIENT, "017d", "2144", "0169", "d04b",
        fixed("02", yiaddr=NINE) + "350102" "3604" + OURS + TIMES + SETTINGS + ECHO + "ff"),
    "ACK": (
        CLIENT["REQUEST"][0], BROADCAST, "0177", "cd64", "0163", "cf88",
        fixed("02", flags="8000", yiaddr=NINE) + "350105" "3604" + OURS + TIMES
        + "0104ffffff00" "0304" + OURS + "0604" + OURS + "0c03776562" "0f0c6c61622e696e7465726e616c"
        "1a0205dc" "1c04ac1100ff" "770e036c616208696e7465726e616c00" "790500" + OURS + ECHO + "ff"),
    "ACK to a renewing REQUEST": (
        CLIENT["renewing REQUEST"][0], TO_CLIENT, "016e", "2153", "015a", "b0e2",
        fixed("02", ciaddr=NINE, yiaddr=NINE) + "350105" "3604" + OURS
        + "330400000258" "3a040000012c" "3b040000020d"
        "0104ffffff00" "0304" + OURS + "0604" + OURS + "0c03776562" "0f0c6c61622e696e7465726e616c"
        "1a0205dc" "1c04ac1100ff" "770e036c616208696e7465726e616c00" "790500" + OURS + "ff"),
    "ACK to an INFORM": (
        CLIENT["INFORM"][0], TO_CLIENT, "0148", "2179", "0134", "fa59",
        fixed("02", ciaddr=NINE) + "350105" "3604" + OURS
        + "0104ffffff00" "0304" + OURS + "0604" + OURS + "ff"),
    "NAK": (
        padded(fixed("01") + "350103" "3204" "ac110032" "ff"), BROADCAST, "0148", "cd93", "0134", "3a3c",
        fixed("02") + "350106" "3604" + OURS
        + "3820" + b"172.17.0.50 is not leased to you".hex() + "ff"),
    "ACK to a DISCOVER with rapid commit": (
        padded(fixed("01") + "350101" "5000" "370103" "ff"), TO_CLIENT, "0148", "2179", "0134", "9df2",
        fixed("02", yiaddr=NINE) + "350105" "3604" + OURS + TIMES
        + "5000" "0104ffffff00" "0304" + OURS + "ff"),
}


@pytest.mark.parametrize("kind", SERVER)
def test_the_servers_answer_in_bytes(kind):
    asked, (mac, address), total, ip_check, length, udp_check, payload = SERVER[kind]
    web = Ingress("web", address=ip("172.17.0.9"), hostname="web")
    server = Engine(scope(search=("lab.internal",), ntp=(GATEWAY,)), Pool(assigned={web.address}))
    outcome = server.handle(asked, web, NOW)
    frame = emit_frame(outcome.reply, GATEWAY_MAC, GATEWAY)
    expected = bytes.fromhex(
        mac + "0242ac110001" "0800" "4500" + total + "00000000" "4011" + ip_check + OURS + address
        + "00430044" + length + udp_check
    ) + padded(payload)
    assert frame.hex() == expected.hex(), repr(dpkt.ethernet.Ethernet(frame))
