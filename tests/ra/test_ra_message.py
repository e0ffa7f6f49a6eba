# SPDX-License-Identifier: Apache-2.0
"""What a router advertisement says, byte for byte, and which solicitations are answered."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, IPv6Network

import frames
import pytest
import reference
from frames import ICMPV6, group_mac, option, packet
from hypothesis import given
from hypothesis import strategies as st

from vswitch.ra.drop import Drop
from vswitch.ra.message import Prefix, Router, Solicitation, parse_solicitation

MAC = bytes.fromhex("0242ac110001")
ADDRESS = IPv6Address("fe80::42:acff:fe11:1")
HOST = frames.mac(9)
PREFIX = IPv6Network("fd12:3456:789a::/64")


def router(**settings) -> Router:
    return Router(**{"mac": MAC, "address": ADDRESS, "mtu": 1500, "prefixes": (Prefix(PREFIX, False),), **settings})


def solicit(src: str = "fe80::9", options: bytes | None = None, *, code: int = 0, **fields) -> bytes:
    options = (b"" if src == "::" else option(1, HOST)) if options is None else options
    message = struct.pack(">BBHI", 133, code, 0, 0) + options
    where = {"hop_limit": 255, **fields}
    return bytes(packet(group_mac("ff02::2"), HOST, src, "ff02::2", ICMPV6, message, **where))


GOLDEN = bytes.fromhex(
    "333300000001 0242ac110001 86dd 60000000 0078 3a ff"
    "fe800000000000000042acfffe110001 ff020000000000000000000000000001"
    "86 00 0000 40 c0 0708 00000000 00000000"
    "01 01 0242ac110001"
    "05 01 0000 000005dc"
    "03 04 40 80 00278d00 00093a80 00000000 fd123456789a00000000000000000000"
    "19 03 0000 00000708 fd123456789a00000000000000000053"
    "1f 04 0000 00000708 036c616208696e7465726e616c00 036c616200 0000000000"
)


def test_an_advertisement_is_written_as_rfc_4861_and_8106_draw_it():
    full = router(managed=True, other=True, dns=(IPv6Address("fd12:3456:789a::53"),), search=("lab.internal", "lab"))
    written = full.advertisement()
    assert reference.wrong_checksums(written) == []
    assert written[:56] + b"\0\0" + written[58:] == GOLDEN


@pytest.mark.parametrize(
    ("settings", "flags", "lifetime_s", "prefix_flags"),
    [
        ({}, 0, 1800, 0x80),
        ({"managed": True, "other": True}, 0xC0, 1800, 0x80),
        ({"other": True, "prefixes": (Prefix(PREFIX, True),)}, 0x40, 1800, 0xC0),
        ({"default": False}, 0, 0, 0x80),
        ({"prefixes": (Prefix(IPv6Network("fd00::/80"), True),)}, 0, 1800, 0x80),
    ],
)
def test_flags_and_lifetimes_follow_the_settings(settings, flags, lifetime_s, prefix_flags):
    message = router(**settings).advertisement()[54:]
    assert (message[5], int.from_bytes(message[6:8], "big"), message[16 + 8 + 8 + 3]) == (
        flags,
        lifetime_s,
        prefix_flags,
    )


def test_whoever_has_an_address_is_answered_there_and_the_rest_at_all_nodes():
    one = router()
    answer = one.advertisement(Solicitation(HOST, IPv6Address("fe80::9")))
    assert answer[:6] == HOST and answer[38:54] == frames.ip("fe80::9") and reference.wrong_checksums(answer) == []
    assert one.advertisement(Solicitation(HOST, IPv6Address("::"))) == one.advertisement()
    assert one.farewell()[60:62] == b"\0\0" and one.farewell()[62:] == one.advertisement()[62:]


def test_what_cannot_be_said_is_refused():
    with pytest.raises(ValueError, match="leave some out"):
        router(prefixes=tuple(Prefix(IPv6Network((0xFD << 120 | n << 64, 64)), False) for n in range(40)))
    with pytest.raises(ValueError, match="not a domain name"):
        router(search=("a..b",))
    with pytest.raises(ValueError, match="too long"):
        router(search=("x" * 63 + "." + "y" * 63,) * 12)


@pytest.mark.parametrize(
    "src, options", [("fe80::9", None), ("::", None), ("fe80::9", b""), ("fd00::9", option(1, HOST) * 2)]
)
def test_a_solicitation_is_read(src, options):
    assert parse_solicitation(solicit(src, options)) == Solicitation(HOST, IPv6Address(src))


BROKEN = {
    "hop limit": (solicit(hop_limit=254), Drop.MALFORMED),
    "code": (solicit(code=1), Drop.MALFORMED),
    "source option without a source": (solicit("::", option(1, HOST)), Drop.MALFORMED),
    "option of length 0": (solicit(options=b"\1\0" + HOST), Drop.MALFORMED),
    "option past the end": (solicit(options=b"\1\2" + HOST), Drop.MALFORMED),
    "half an option": (solicit(options=b"\1"), Drop.MALFORMED),
    "cut short": (solicit()[:-1], Drop.MALFORMED),
    "no message": (solicit()[:57], Drop.MALFORMED),
    "checksum": (solicit()[:-1] + b"\xff", Drop.CHECKSUM),
    "another message": (bytes(frames.solicitation(HOST, "fe80::9", "fe80::1")), Drop.NOT_SOLICITATION),
    "another protocol": (bytes(frames.udp(HOST, HOST, "fe80::9", "ff02::2")), Drop.NOT_SOLICITATION),
    "IPv4": (bytes(frames.udp(HOST, HOST, "10.0.0.1", "10.0.0.2", bytes(40))), Drop.NOT_SOLICITATION),
    "nothing": (b"", Drop.MALFORMED),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_solicitation_that_is_not_valid_is_dropped_by_name(what):
    frame, reason = BROKEN[what]
    assert parse_solicitation(frame) is reason


@given(st.integers(0, 77), st.binary(min_size=1, max_size=3), st.integers(0, 78))
def test_whatever_is_changed_in_a_solicitation_it_is_read_or_dropped(at, value, length):
    frame = solicit()
    changed = (frame[:at] + value + frame[at + len(value) :])[:length]
    assert isinstance(parse_solicitation(changed), (Solicitation, Drop))


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_dropped(body):
    assert isinstance(parse_solicitation(body), (Solicitation, Drop))
    assert isinstance(parse_solicitation(HOST + HOST + b"\x86\xdd" + body), (Solicitation, Drop))
