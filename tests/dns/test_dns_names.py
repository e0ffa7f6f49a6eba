# SPDX-License-Identifier: Apache-2.0
"""Names as keys, reverse names, and which names are whose."""

from __future__ import annotations

from ipaddress import ip_network

import dns.name
import dns.reversename
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vswitch.dns import names
from vswitch.dns.names import Place, key_of, place, text_of


@pytest.mark.parametrize("text", ["web", "Web.Backend", "a.b.c.", "_srv.x", "x" * 63, ".".join(["y" * 61] * 4)])
def test_a_name_is_its_wire_form_in_lower_case(text):
    assert names.wire(text) == dns.name.from_text(text).to_wire()
    assert key_of(text) == dns.name.from_text(text.lower()).to_wire()
    assert text_of(names.wire(text)) == text.removesuffix(".")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty label"),
        (".", "empty label"),
        ("a..b", "empty label"),
        (".a", "empty label"),
        ("x" * 64, "64 characters"),
        (".".join(["y" * 62] * 4 + ["zz"]), "bytes, 255 fit"),
        ("gar\u00e7on", "only ASCII"),
        ("a b", "blanks"),
        ("a\n", "blanks"),
        ("a\x7f", "blanks"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        key_of(text)


def test_odd_bytes_are_shown_and_not_printed():
    assert text_of(b"\x04a.\\\n\x01b\0") == "a\\046\\092\\010.b"
    assert text_of(b"\0") == "."


@given(st.ip_addresses())
def test_a_reverse_name_is_the_one_that_dnspython_makes(address):
    assume(getattr(address, "ipv4_mapped", None) is None)  # dnspython takes the IPv4 address out of these
    assert names.reverse_key(address.packed) == dns.reversename.from_address(str(address)).to_wire()
    assert names.whole_reverse(names.reverse_key(address.packed))


@pytest.mark.parametrize(
    ("subnet", "zones"),
    [
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
        ("172.18.0.0/16", ["18.172.in-addr.arpa"]),
        ("172.16.0.0/15", ["16.172.in-addr.arpa", "17.172.in-addr.arpa"]),
        ("192.0.2.4/31", ["4.2.0.192.in-addr.arpa", "5.2.0.192.in-addr.arpa"]),
        ("192.0.2.4/32", ["4.2.0.192.in-addr.arpa"]),
        ("0.0.0.0/0", ["in-addr.arpa"]),
        ("fd00:1::/64", ["0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa"]),
        ("fc00::/7", ["c.f.ip6.arpa", "d.f.ip6.arpa"]),
    ],
)
def test_a_subnets_reverse_zones(subnet, zones):
    assert [text_of(zone) for zone in names.reverse_zones(ip_network(subnet))] == zones


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_an_address_is_below_a_subnets_reverse_zones_if_it_is_in_the_subnet_rounded_to_labels(base, prefix, address):
    step = 8 if base.version == 4 else 4
    subnet = ip_network((base, min(prefix, base.max_prefixlen)), strict=False)
    zones = names.reverse_zones(subnet)
    assert len(zones) <= 1 << step - 1
    inside = subnet[int(address) % subnet.num_addresses]
    for candidate in (address, inside):
        below = any(suffix in zones for suffix in names.suffixes(names.reverse_key(candidate.packed)))
        assert below == (candidate.version == subnet.version and candidate in subnet)


@pytest.mark.parametrize(
    ("name", "rtype", "whose"),
    [
        ("localhost", 1, Place.LOOPBACK),
        ("a.localhost", 28, Place.LOOPBACK),
        ("x.invalid", 1, Place.DENIED),
        ("x.onion", 1, Place.DENIED),
        ("x.alt", 1, Place.DENIED),
        ("_dns.resolver.arpa", 64, Place.EMPTY),
        ("use-application-dns.net", 1, Place.DENIED),
        ("host.docker.internal", 1, Place.DENIED),
        ("metadata.google.internal", 1, Place.WORLD),
        ("nas.home.arpa", 1, Place.WORLD),
        ("ipv4only.arpa", 28, Place.WORLD),
        ("printer.local", 1, Place.SITE),
        ("shop.test", 1, Place.SITE),
        ("1.1.168.192.in-addr.arpa", 12, Place.SITE),
        ("168.192.in-addr.arpa", 12, Place.SITE),
        ("192.in-addr.arpa", 12, Place.WORLD),
        ("1.1.31.172.in-addr.arpa", 12, Place.SITE),
        ("1.1.32.172.in-addr.arpa", 12, Place.WORLD),
        ("1.0.64.100.in-addr.arpa", 12, Place.SITE),
        ("1.0.128.100.in-addr.arpa", 12, Place.WORLD),
        ("9.9.9.9.in-addr.arpa", 12, Place.WORLD),
        ("1.0.0.127.in-addr.arpa", 12, Place.DENIED),
        ("1.254.169.in-addr.arpa", 12, Place.DENIED),
        ("1.d.f.ip6.arpa", 12, Place.SITE),
        ("1.a.e.f.ip6.arpa", 12, Place.DENIED),
        ("1.0.0.2.ip6.arpa", 12, Place.WORLD),
        ("db", 1, Place.SINGLE),
        ("db", 16, Place.SINGLE),
        ("com", 2, Place.WORLD),
        ("com", 43, Place.WORLD),
        ("example.com", 1, Place.WORLD),
        ("notlocalhost", 1, Place.SINGLE),
        ("xlocal.com", 1, Place.WORLD),
    ],
)
def test_whose_a_name_is(name, rtype, whose):
    assert place(key_of(name), rtype) is whose


def test_the_root_is_the_worlds():
    assert place(b"\0", 2) is Place.WORLD


@pytest.mark.parametrize(
    ("server", "ours"),
    [
        ("127.0.0.53", True),
        ("10.0.0.1", True),
        ("172.16.0.1", True),
        ("172.32.0.1", False),
        ("192.168.0.1", True),
        ("100.64.0.1", True),
        ("169.254.169.254", True),
        ("9.9.9.9", False),
        ("::1", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("2620:fe::fe", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:8.8.8.8", False),
    ],
)
def test_private_upstreams_are_told_from_public_ones(server, ours):
    assert names.private(server) is ours
