# SPDX-License-Identifier: Apache-2.0
"""What stands inside DHCP options: golden bytes, both directions, and what is refused."""
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vswitch.dhcp.message import MessageType
from vswitch.dhcp.options import CODECS, Code, Fqdn, Route, decode, encode


def route(destination: str, gateway: str) -> Route:
    return Route(IPv4Network(destination), IPv4Address(gateway))


def ips(*addresses: str) -> tuple[IPv4Address, ...]:
    return tuple(map(IPv4Address, addresses))


GOLDEN = [
    (Code.SUBNET_MASK, IPv4Address("255.255.0.0"), "ffff0000"),
    (Code.ROUTER, ips("172.17.0.1"), "ac110001"),
    (Code.DOMAIN_SERVER, ips("172.17.0.1", "9.9.9.9"), "ac11000109090909"),
    (Code.HOSTNAME, "web", "776562"),
    (Code.DOMAIN_NAME, "lab.internal", "6c61622e696e7465726e616c"),
    (Code.MTU, 1500, "05dc"),
    (Code.BROADCAST, IPv4Address("172.17.255.255"), "ac11ffff"),
    (Code.NTP_SERVERS, ips("172.17.0.1"), "ac110001"),
    (Code.REQUESTED_ADDRESS, IPv4Address("172.17.0.9"), "ac110009"),
    (Code.LEASE_TIME, 3600, "00000e10"),
    (Code.MESSAGE_TYPE, MessageType.ACK, "05"),
    (Code.SERVER_ID, IPv4Address("172.17.0.1"), "ac110001"),
    (Code.PARAMETER_LIST, b"\x01\x03\x06", "010306"),
    (Code.MESSAGE, "no", "6e6f"),
    (Code.MAX_MESSAGE_SIZE, 1472, "05c0"),
    (Code.RENEWAL_TIME, 1800, "00000708"),
    (Code.REBINDING_TIME, 3150, "00000c4e"),
    (Code.VENDOR_CLASS, b"udhcp 1.36", "756468637020312e3336"),
    (Code.CLIENT_ID, bytes.fromhex("010242ac110009"), "010242ac110009"),
    (Code.RAPID_COMMIT, True, ""),
    (Code.CLIENT_FQDN, Fqdn(0x05, "web.lab."), "05ffff03776562036c616200"),
    (Code.CLIENT_FQDN, Fqdn(0x04, "web"), "04ffff03776562"),
    (Code.CLIENT_FQDN, Fqdn(0x01, "web.lab"), "01ffff7765622e6c6162"),
    (Code.CLIENT_FQDN, Fqdn(0x04, ""), "04ffff"),
    (Code.RELAY_AGENT, b"\x01\x01x", "010178"),
    (Code.IPV6_ONLY, 300, "0000012c"),
    # The example of RFC 3397 §2.
    (Code.DOMAIN_SEARCH, ("eng.apple.com", "marketing.apple.com"),
     "03656e67056170706c6503636f6d00" "096d61726b6574696e67c004"),
    (Code.DOMAIN_SEARCH, ("lab", "lab"), "036c616200c000"),
    (Code.CLASSLESS_ROUTES, (route("10.0.0.0/8", "192.168.0.1"), route("0.0.0.0/0", "192.168.0.1")),
     "080ac0a80001" "00c0a80001"),
    # The examples of RFC 3442, "Destination descriptor".
    (Code.CLASSLESS_ROUTES, (
        route("10.0.0.0/24", "1.2.3.4"), route("10.17.0.0/16", "1.2.3.4"), route("10.27.129.0/24", "1.2.3.4"),
        route("10.229.0.128/25", "1.2.3.4"), route("10.198.122.47/32", "0.0.0.0"),
    ), "180a000001020304" "100a1101020304" "180a1b8101020304" "190ae5008001020304" "200ac67a2f00000000"),
]


@pytest.mark.parametrize(("code", "value", "data"), GOLDEN, ids=lambda item: getattr(item, "name", None))
def test_an_option_says_exactly_this_both_ways(code, value, data):
    assert encode(code, value).hex() == data
    assert decode(code, bytes.fromhex(data)) == value


def test_every_option_with_a_codec_has_golden_bytes():
    assert {code for code, _, _ in GOLDEN} == set(CODECS)


def test_an_option_without_a_codec_is_opaque():
    assert decode(43, b"\1\2") == b"\1\2" and encode(43, b"\1\2") == b"\1\2"


def test_a_type_without_a_name_stays_a_number():
    assert decode(Code.MESSAGE_TYPE, b"\x0a") == 10 and not isinstance(decode(53, b"\x0a"), MessageType)


def test_a_final_zero_of_a_text_is_forgiven():
    assert decode(Code.HOSTNAME, b"web\0") == "web"


def test_a_client_id_of_one_byte_is_forgiven_and_one_of_255_is_the_longest():
    for length in (1, 255):
        assert decode(Code.CLIENT_ID, encode(Code.CLIENT_ID, b"x" * length)) == b"x" * length


def test_host_bits_of_a_route_are_masked():
    routes = decode(Code.CLASSLESS_ROUTES, bytes.fromhex("090aff" "01020304"))
    assert routes == (route("10.128.0.0/9", "1.2.3.4"),)


MALFORMED = [
    (Code.SUBNET_MASK, "ffffff"),
    (Code.ROUTER, ""),
    (Code.DOMAIN_SERVER, "ac1100010909"),
    (Code.HOSTNAME, ""),
    (Code.HOSTNAME, "0000"),
    (Code.HOSTNAME, "ff"),
    (Code.DOMAIN_NAME, "612e2e62"),
    (Code.DOMAIN_NAME, "c3bc"),
    (Code.MTU, "0043"),
    (Code.MTU, "05"),
    (Code.LEASE_TIME, "000e10"),
    (Code.MESSAGE_TYPE, ""),
    (Code.MESSAGE_TYPE, "0101"),
    (Code.CLIENT_ID, ""),
    (Code.CLIENT_ID, "00" * 256),
    (Code.RAPID_COMMIT, "00"),
    (Code.CLIENT_FQDN, "00ff"),
    (Code.CLIENT_FQDN, "00ffffff"),
    (Code.CLIENT_FQDN, "04ffff05776562"),
    (Code.CLIENT_FQDN, "04ffff03776562" "00036c616200"),
    (Code.CLIENT_FQDN, "04ffffc000"),
    (Code.DOMAIN_SEARCH, ""),
    (Code.DOMAIN_SEARCH, "00"),
    (Code.DOMAIN_SEARCH, "036c6162"),
    (Code.DOMAIN_SEARCH, "c000"),
    (Code.DOMAIN_SEARCH, "036c6162c0"),
    (Code.DOMAIN_SEARCH, "036c6162c00a"),
    (Code.DOMAIN_SEARCH, "036c616200" "c005"),
    (Code.DOMAIN_SEARCH, "4061" + "61" * 64),
    (Code.DOMAIN_SEARCH, "03612e6200"),
    (Code.DOMAIN_SEARCH, ("3f" + "61" * 63) * 4 + "00"),
    (Code.CLASSLESS_ROUTES, ""),
    (Code.CLASSLESS_ROUTES, "210a00000001020304"),
    (Code.CLASSLESS_ROUTES, "180a0000010203"),
    (Code.CLASSLESS_ROUTES, "00010203"),
]


@pytest.mark.parametrize(("code", "data"), MALFORMED)
def test_a_malformed_option_is_none(code, data):
    assert decode(code, bytes.fromhex(data)) is None


UNSAYABLE = [
    (Code.MTU, 67),
    (Code.MTU, 65536),
    (Code.LEASE_TIME, -1),
    (Code.LEASE_TIME, 2**32),
    (Code.ROUTER, ()),
    (Code.HOSTNAME, ""),
    (Code.HOSTNAME, "a\0"),
    (Code.DOMAIN_NAME, "a..b"),
    (Code.DOMAIN_NAME, "bücher.example"),
    (Code.RAPID_COMMIT, False),
    (Code.CLIENT_ID, b""),
    (Code.DOMAIN_SEARCH, ()),
    (Code.DOMAIN_SEARCH, ("a" * 64,)),
    (Code.DOMAIN_SEARCH, (".".join(["a" * 63] * 4),)),
    (Code.CLASSLESS_ROUTES, ()),
]


@pytest.mark.parametrize(("code", "value"), UNSAYABLE)
def test_a_setting_that_an_option_cannot_say_is_refused(code, value):
    with pytest.raises(ValueError):
        encode(code, value)


addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: IPv4Network(pair, strict=False)
)
labels = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789-_", min_size=1, max_size=20)
names = st.lists(labels, min_size=1, max_size=5).map(".".join)


@settings(deadline=None)
@given(st.lists(names, min_size=1, max_size=12).map(tuple))
def test_search_lists_survive_their_compression(search):
    assert decode(Code.DOMAIN_SEARCH, encode(Code.DOMAIN_SEARCH, search)) == search


@settings(deadline=None)
@given(st.lists(st.builds(Route, networks, addresses), min_size=1).map(tuple))
def test_routes_survive_their_encoding(routes):
    assert decode(Code.CLASSLESS_ROUTES, encode(Code.CLASSLESS_ROUTES, routes)) == routes


@settings(deadline=None)
@given(st.builds(Fqdn, st.integers(0, 15), names | names.map(lambda name: name + ".") | st.just("")))
def test_a_clients_name_survives_its_encoding(fqdn):
    assert decode(Code.CLIENT_FQDN, encode(Code.CLIENT_FQDN, fqdn)) == fqdn


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(CODECS)), st.binary(max_size=80) | st.text(max_size=40).map(str.encode))
def test_any_data_is_a_value_that_says_itself_again_or_none(code, data):
    value = decode(code, data)
    if value is not None:
        assert decode(code, encode(code, value)) == value
