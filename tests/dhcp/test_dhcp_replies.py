# SPDX-License-Identifier: Apache-2.0
"""The server's answers: where they go, which options in which order, how long."""
from __future__ import annotations

import math
from ipaddress import IPv4Network

import pytest
from simulated_dhcp import (
    ACK,
    FIRST,
    GATEWAY,
    MAC,
    NOW,
    OFFER,
    OTHER_MAC,
    VM,
    WEB,
    bound,
    discover,
    engine,
    inform,
    ip,
    option,
    options_of,
    reboot,
    renew,
    scope,
    select,
)

from vswitch.dhcp.drop import Drop
from vswitch.dhcp.options import Route
from vswitch.dhcp.scope import INFINITE_S, Scope
from vswitch.dhcp.table import State

DESTINATIONS = {
    "an OFFER": (discover(), FIRST, MAC),
    "an OFFER to one that can't take unicast": (discover(flags=0x8000), "255.255.255.255", b"\xff" * 6),
    "an ACK to one that renews": (renew(FIRST), FIRST, MAC),
    "an ACK to one that renews, flag or not": (renew(FIRST, flags=0x8000), FIRST, MAC),
    "an ACK to an INFORM": (inform("172.17.0.50"), "172.17.0.50", MAC),
    "a NAK": (renew("172.17.0.50"), "255.255.255.255", b"\xff" * 6),
}


@pytest.mark.parametrize("what", DESTINATIONS)
def test_where_it_goes_to(what):
    payload, address, mac = DESTINATIONS[what]
    reply = bound().handle(payload, VM, NOW).reply
    assert (reply.ip, reply.mac, reply.dport, reply.broadcast) == (ip(address), mac, 68, mac == b"\xff" * 6)


def test_options_come_in_the_order_of_the_clients_list_after_those_that_must_be():
    route = Route(IPv4Network("10.0.0.0/8"), ip("172.17.0.3"))
    server = engine(search=("lab.internal",), ntp=(GATEWAY,), routes=(route,))
    asked = bytes([121, 119, 42, 28, 26, 15, 12, 6, 3, 1, 99, 3])
    outcome = server.handle(discover(asks=asked, client_id=b"\0x", extra=option(82, b"\1\1p")), VM, NOW)
    codes = [code for code, _ in options_of(outcome)]
    assert codes == [53, 54, 51, 58, 59, 1, 121, 119, 42, 28, 26, 15, 6, 3, 61, 82]
    assert dict(options_of(outcome))[121].hex() == "080aac110003" "00ac110001"


def test_a_client_that_asks_for_nothing_gets_the_usual():
    outcome = engine().handle(discover(), WEB, NOW)
    assert [code for code, _ in options_of(outcome)] == [53, 54, 51, 58, 59, 1, 3, 6, 12, 15, 26, 28, 121]


def test_an_internal_network_has_no_router_and_no_default_route():
    codes = dict(options_of(engine(router=None).handle(discover(), VM, NOW)))
    assert 3 not in codes and 121 not in codes and 6 in codes


def test_a_router_outside_the_subnet_is_reached_over_a_route_of_its_own():
    outcome = engine(router=ip("10.255.0.1")).handle(discover(), VM, NOW)
    assert dict(options_of(outcome))[121].hex() == "200aff000100000000" "000aff0001"


def test_a_default_route_of_the_settings_replaces_the_routers():
    own = Route(IPv4Network("0.0.0.0/0"), ip("172.17.0.3"))
    assert dict(options_of(engine(routes=(own,)).handle(discover(), VM, NOW)))[121].hex() == "00ac110003"


@pytest.mark.parametrize(("payload", "codes"), [
    (inform("172.17.0.50", asks=b"\3", client_id=b"\0x"), [53, 54, 1, 3, 61]),
    (reboot("10.0.0.1", asks=b"\3", client_id=b"\0x", extra=option(82, b"\1\1p")), [53, 54, 56, 61, 82]),
])
def test_neither_inform_nor_nak_speaks_of_a_lease(payload, codes):
    outcome = engine().handle(payload, VM, NOW)
    assert [code for code, _ in options_of(outcome)] == codes
    assert engine().leases() == []


LEASE_TIMES = [
    (3600, None, 3600, 1800, 3150),
    (3600, 600, 600, 300, 525),
    (3600, 5, 60, 30, 52),
    (3600, 0, 60, 30, 52),
    (3600, 7200, 3600, 1800, 3150),
    (3600, INFINITE_S, 3600, 1800, 3150),
    (INFINITE_S, None, INFINITE_S, None, None),
    (INFINITE_S, 600, 600, 300, 525),
]


@pytest.mark.parametrize(("ours", "wished", "granted", "renewal", "rebinding"), LEASE_TIMES)
def test_a_lease_is_as_long_as_the_network_says_or_as_wished(ours, wished, granted, renewal, rebinding):
    extra = b"" if wished is None else option(51, wished.to_bytes(4, "big"))
    outcome = engine(lease_s=ours).handle(select(FIRST, extra=extra), VM, NOW)
    said = {code: int.from_bytes(data, "big") for code, data in options_of(outcome)}
    assert (said[51], said.get(58), said.get(59)) == (granted, renewal, rebinding)
    assert outcome.changes[0].lease.expires_at == (math.inf if granted == INFINITE_S else NOW + granted)


def test_rapid_commit_leases_at_once_where_the_network_allows_it():
    outcome = engine().handle(discover(extra=option(80, b"")), VM, NOW)
    assert outcome.reply.kind is ACK and (80, b"") in options_of(outcome)
    assert outcome.changes[0].lease.state is State.BOUND
    slow = engine(rapid_commit=False).handle(discover(extra=option(80, b"")), VM, NOW)
    assert slow.reply.kind is OFFER and slow.changes == () and 80 not in dict(options_of(slow))


def test_a_host_name_is_sent_where_one_is_assigned_and_asked_for():
    assert dict(options_of(engine().handle(discover(asks=b"\x0c"), WEB, NOW)))[12] == b"web"
    assert 12 not in dict(options_of(engine().handle(discover(asks=b"\x03"), WEB, NOW)))
    assert 12 not in dict(options_of(engine().handle(discover(asks=b"\x0c"), VM, NOW)))


HOST_NAMES = {
    b"vm-1": "vm-1",
    b"vm-1.lab.": "vm-1.lab",
    b"vm\0": "vm",
    b"": None,
    b"-vm": None,
    b"a b": None,
    b"a..b": None,
    b"\xff\xfe": None,
    b"x" * 64: None,
    b"'; DROP TABLE lease": None,
    b".".join([b"x" * 60] * 5)[:254]: None,
}


@pytest.mark.parametrize("said", HOST_NAMES)
def test_a_clients_name_is_kept_if_it_is_a_host_name(said):
    outcome = engine().handle(select(FIRST, extra=option(12, said)), VM, NOW)
    assert outcome.changes[0].lease.hostname == HOST_NAMES[said]


def test_an_assigned_name_is_kept_whatever_the_client_says():
    outcome = engine().handle(select("172.17.0.9", extra=option(12, b"liar")), WEB, NOW)
    assert outcome.changes[0].lease.hostname == "web"


FQDNS = {
    "assigned, wished": (WEB, "05ffff" "02766d00", "05ffff" "03776562036c616208696e7465726e616c00"),
    "assigned, not wished": (WEB, "04ffff", "07ffff" "03776562036c616208696e7465726e616c00"),
    "assigned, forbidden": (WEB, "0cffff", "0cffff" "03776562036c616208696e7465726e616c00"),
    "dynamic, wished": (VM, "05ffff" "02766d00", "0effff" "02766d00"),
    "dynamic, not wished": (VM, "04ffff" "02766d", "0cffff" "02766d"),
    "dynamic, in plain text": (VM, "00ffff" + b"vm.lab".hex(), "08ffff" + b"vm.lab".hex()),
    "an assigned name that is none": (
        WEB._replace(hostname="no such name!"), "04ffff" "02766d", "0cffff" "02766d"),
}


@pytest.mark.parametrize("case", FQDNS)
def test_option_81_says_who_serves_the_name(case):
    port, said, answered = FQDNS[case]
    outcome = engine().handle(discover(extra=option(81, bytes.fromhex(said))), port, NOW)
    assert dict(options_of(outcome))[81].hex() == answered


def test_option_108_is_sent_to_whoever_asks_where_it_is_set():
    asking = discover(asks=b"\x6c")
    assert dict(options_of(engine(ipv6_only_s=900).handle(asking, VM, NOW)))[108].hex() == "00000384"
    assert 108 not in dict(options_of(engine(ipv6_only_s=900).handle(discover(), VM, NOW)))
    assert 108 not in dict(options_of(engine().handle(asking, VM, NOW)))


LONG_SEARCH = tuple(f"department-{n}.of.some.organisation-{n}.example" for n in range(16))


@pytest.mark.parametrize(("said", "mtu", "limit_bytes"), [
    (None, 1500, 548), (100, 1500, 548), (576, 1500, 548), (1200, 1500, 1172), (65535, 1500, 1472),
    (65535, 9000, 8972), (65535, 600, 572), (None, 300, 300),
])
def test_an_answer_is_no_longer_than_the_client_and_the_network_take(said, mtu, limit_bytes):
    server = engine(search=LONG_SEARCH, mtu=mtu)
    extra = b"" if said is None else option(57, said.to_bytes(2, "big"))
    outcome = server.handle(discover(asks=bytes([119, 3, 6]), extra=extra), VM, NOW)
    assert len(outcome.reply.payload) <= limit_bytes
    assert (outcome.note is None) == (limit_bytes > 1000)
    if limit_bytes < 1000:
        assert outcome.note == "options 119 don't fit into the client's message size"
    assert {3, 6} <= dict(options_of(outcome)).keys()


WRONG_SETTINGS = {
    "DHCP option mtu: 67 is not between 68 and 65535": {"mtu": 67},
    "DHCP option domain_name: 'a..b' is not a domain name": {"domain": "a..b"},
    "DHCP option domain_search: ": {"search": ("ü.example",)},
    "lease_s 59 is not from 60 to 4294967295": {"lease_s": 59},
    "the DHCP server's address 10.0.0.1 must be inside 172.17.0.0/24": {"server": ip("10.0.0.1")},
}


@pytest.mark.parametrize("message", WRONG_SETTINGS)
def test_a_setting_that_cannot_be_said_is_refused_with_one_line(message):
    with pytest.raises(ValueError) as refusal:
        scope(**WRONG_SETTINGS[message])
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)


def test_new_settings_reach_clients_when_they_renew():
    server = bound()
    server.reconfigure(scope(mtu=9000, max_leases_per_port=1))
    assert dict(options_of(server.handle(renew(FIRST), VM, NOW)))[26] == b"\x23\x28"
    assert server.handle(discover(mac=OTHER_MAC), VM, NOW).drop is Drop.PORT_FULL
    with pytest.raises(ValueError, match="make a new engine"):
        server.reconfigure(Scope(server=ip("10.0.0.1"), subnet=IPv4Network("10.0.0.0/24")))
