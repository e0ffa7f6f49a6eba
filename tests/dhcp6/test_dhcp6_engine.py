# SPDX-License-Identifier: Apache-2.0
"""The DHCPv6 server's behaviour, message by message (RFC 8415 section 18.3)."""

from __future__ import annotations

import math
import struct

import pytest
from simulated_dhcp6 import (
    ADVERTISE,
    CLIENTID,
    CLONE,
    CONFIRM,
    DECLINE,
    DNS,
    DUID,
    IA_NA,
    IA_PD,
    IA_TA,
    IAID,
    INFORM,
    MAC,
    NOW,
    NTP,
    ORO,
    OTHER,
    OWN,
    PREFERENCE,
    RAPID,
    REBIND,
    RECONFIGURE,
    REFRESH,
    RELEASE,
    RENEW,
    REPLY,
    REQUEST,
    SEARCH,
    SERVER,
    SOLICIT,
    WEB,
    Answer,
    Store,
    bound,
    engine,
    ia,
    ip,
    message,
    opt,
    options,
)

from vswitch._fastpath import limits
from vswitch.dhcp6.drop import Drop
from vswitch.dhcp6.engine import Delete, Put, State
from vswitch.dhcp6.scope import Ingress, Scope

ELSEWHERE = SERVER[:-1] + b"\x77"
GRANTED = {OWN: (3600, 3600)}


def test_a_port_is_advertised_its_own_address_with_the_highest_preference_and_nothing_is_remembered():
    server = engine()
    outcome = server.handle(message(SOLICIT, ia()), WEB, NOW)
    answer = Answer(outcome)
    assert (answer.kind, answer.options[CLIENTID], answer.options[PREFERENCE]) == (ADVERTISE, DUID, b"\xff")
    assert answer.associations == [(IA_NA, IAID, GRANTED, None)]
    assert outcome.changes == () and server.leases() == []


def test_a_request_binds_the_address_for_the_lease_time_with_renewal_at_half_and_rebinding_at_four_fifths():
    server = engine(lease_s=1000)
    outcome = server.handle(message(REQUEST, ia(), server=SERVER), WEB, NOW)
    answer = Answer(outcome)
    assert answer.kind == REPLY and answer.associations == [(IA_NA, IAID, {OWN: (1000, 1000)}, None)]
    assert struct.unpack("!II", answer.options[IA_NA][4:12]) == (500, 800)
    (change,) = outcome.changes
    lease = change.lease
    assert (lease.address, lease.port, lease.mac, lease.duid, lease.iaid, lease.state, lease.expires_at) == (
        ip(OWN), "web", MAC, DUID, IAID, State.BOUND, NOW + 1000,
    )  # fmt: skip


def test_rapid_commit_saves_the_second_exchange_where_both_want_it():
    solicit = message(SOLICIT, ia(), opt(RAPID))
    outcome = engine().handle(solicit, WEB, NOW)
    answer = Answer(outcome)
    assert (answer.kind, answer.options[RAPID], answer.associations[0][2]) == (REPLY, b"", GRANTED)
    assert isinstance(outcome.changes[0], Put)
    outcome = engine(rapid_commit=False).handle(solicit, WEB, NOW)
    assert Answer(outcome).kind == ADVERTISE and RAPID not in Answer(outcome).options and outcome.changes == ()


@pytest.mark.parametrize("kind", [RENEW, REBIND])
def test_renewing_extends_the_lease_also_where_a_restart_forgot_it_and_withdraws_what_is_not_the_ports(kind):
    for server in (bound(), engine()):
        ids = {"server": SERVER} if kind == RENEW else {}
        outcome = server.handle(message(kind, ia(OWN, OTHER), **ids), WEB, NOW + 1800)
        assert Answer(outcome).associations == [(IA_NA, IAID, {**GRANTED, OTHER: (0, 0)}, None)]
        assert outcome.changes[0].lease.expires_at == NOW + 5400


def test_what_is_asked_for_beyond_one_address_is_told_that_there_is_nothing():
    second = b"\0\0\0\x08"
    wishes = (ia(iaid=second, code=IA_TA), ia(), ia(iaid=second), ia(code=IA_PD))
    for kind, ids in ((SOLICIT, {}), (REQUEST, {"server": SERVER})):
        answer = Answer(engine().handle(message(kind, *wishes, **ids), WEB, NOW))
        assert answer.associations == [
            (IA_TA, second, {}, 2), (IA_NA, IAID, GRANTED, None), (IA_NA, second, {}, 2), (IA_PD, IAID, {}, 6),
        ]  # fmt: skip
    answer = Answer(bound().handle(message(RENEW, ia(OTHER, iaid=second), ia(OWN), server=SERVER), WEB, NOW))
    assert answer.associations == [(IA_NA, second, {OTHER: (0, 0)}, None), (IA_NA, IAID, GRANTED, None)]


def test_a_port_without_an_address_is_told_so_and_a_request_for_none_is_answered():
    nobody = Ingress("vm", None, MAC)
    outcome = engine().handle(message(REQUEST, ia(), server=SERVER), nobody, NOW)
    assert Answer(outcome).associations == [(IA_NA, IAID, {}, 2)] and outcome.changes == ()
    outcome = engine().handle(message(REQUEST, server=SERVER), WEB, NOW)
    assert Answer(outcome).associations == [] and outcome.changes == ()


def test_another_client_of_the_same_port_takes_the_lease_over():
    server = bound()
    outcome = server.handle(message(REQUEST, ia(iaid=b"abcd"), client=CLONE, server=SERVER), WEB, NOW + 1)
    assert Answer(outcome).associations == [(IA_NA, b"abcd", GRANTED, None)]
    (lease,) = server.leases()
    assert (lease.duid, lease.iaid) == (CLONE, b"abcd")


@pytest.mark.parametrize(
    ("addresses", "status"), [((OWN,), 0), ((OWN, OTHER), 0), (("fd01::2",), 4), ((OWN, "fe80::1"), 4)]
)
def test_confirm_says_whether_addresses_are_of_this_link(addresses, status):
    answer = Answer(engine().handle(message(CONFIRM, ia(*addresses)), WEB, NOW))
    assert (answer.kind, answer.status, answer.associations) == (REPLY, status, [])


def test_a_release_ends_the_lease_and_one_of_nothing_is_told_so():
    server = bound()
    outcome = server.handle(message(RELEASE, ia(OWN), server=SERVER), WEB, NOW)
    assert (Answer(outcome).status, Answer(outcome).associations) == (0, [])
    assert outcome.changes == (Delete(ip(OWN)),) and server.leases() == []
    outcome = server.handle(message(RELEASE, ia(OWN), server=SERVER), WEB, NOW)
    assert (Answer(outcome).status, Answer(outcome).associations) == (0, [(IA_NA, IAID, {}, 3)])
    assert outcome.changes == ()


def test_one_gives_up_only_what_is_ones_own():
    for kind in (RELEASE, DECLINE):
        server = bound()
        for wrong in (
            message(kind, ia(OTHER), server=SERVER),
            message(kind, ia(OWN, iaid=b"abcd"), server=SERVER),
            message(kind, ia(OWN), client=CLONE, server=SERVER),
            message(kind, ia(OWN, code=IA_TA), server=SERVER),
        ):
            assert server.handle(wrong, WEB, NOW).changes == ()
        assert server.handle(message(kind, ia(OWN), server=SERVER), Ingress("db", ip(OTHER), MAC), NOW).changes == ()
        assert [lease.state for lease in server.leases()] == [State.BOUND]


def test_a_declined_address_is_shown_as_such_until_it_is_asked_for_again():
    server = bound()
    outcome = server.handle(message(DECLINE, ia(OWN), server=SERVER), WEB, NOW)
    assert outcome.note == "fd00::2 declined by 02:42:ac:11:00:02: somebody else uses it"
    assert [lease.state for lease in server.leases()] == [State.DECLINED] and Answer(outcome).status == 0
    assert server.handle(message(SOLICIT, ia()), WEB, NOW).changes == ()
    server.handle(message(REQUEST, ia(), server=SERVER), WEB, NOW)
    assert [lease.state for lease in server.leases()] == [State.BOUND]


def test_settings_go_to_whoever_asks_for_them():
    server = engine(search=("lab.internal", "x"), ntp=(ip("fd00::123"),))
    wanted = opt(ORO, struct.pack("!4H", DNS, SEARCH, NTP, 999))
    for text in (message(INFORM, wanted), message(INFORM, wanted, client=None), message(SOLICIT, ia(), wanted)):
        answer = Answer(server.handle(text, WEB, NOW))
        assert answer.options[DNS] == ip("fd00::53").packed
        assert answer.options[SEARCH] == b"\3lab\x08internal\0\1x\0"
        assert options(answer.options[NTP]) == [(1, ip("fd00::123").packed)]
    answer = Answer(server.handle(message(INFORM), WEB, NOW))
    assert answer.options[REFRESH] == (3600).to_bytes(4, "big") and DNS not in answer.options


DROPPED = {
    "no transaction": (b"\1ab", Drop.MALFORMED),
    "nothing": (b"", Drop.MALFORMED),
    "a server's type": (message(ADVERTISE, ia()), Drop.TYPE),
    "a reply": (message(REPLY, ia()), Drop.TYPE),
    "reconfigure": (message(RECONFIGURE), Drop.TYPE),
    "an unknown type": (message(200), Drop.TYPE),
    "type 0": (message(0), Drop.TYPE),
    "through a relay": (b"\x0c" + bytes(40), Drop.RELAYED),
    "solicit without a client": (message(SOLICIT, ia(), client=None), Drop.OPTIONS),
    "solicit to a server": (message(SOLICIT, ia(), server=SERVER), Drop.OPTIONS),
    "request to no server": (message(REQUEST, ia()), Drop.OPTIONS),
    "request to another": (message(REQUEST, ia(), server=ELSEWHERE), Drop.OTHER_SERVER),
    "renew to no server": (message(RENEW, ia()), Drop.OPTIONS),
    "rebind to a server": (message(REBIND, ia(), server=SERVER), Drop.OPTIONS),
    "confirm to a server": (message(CONFIRM, ia(OWN), server=SERVER), Drop.OPTIONS),
    "confirm of nothing": (message(CONFIRM, ia()), Drop.NO_QUESTION),
    "information for an address": (message(INFORM, ia()), Drop.OPTIONS),
    "information from another": (message(INFORM, server=ELSEWHERE), Drop.OTHER_SERVER),
    "empty identity": (message(SOLICIT, ia(), client=b""), Drop.OPTIONS),
    "huge identity": (message(SOLICIT, ia(), client=bytes(131)), Drop.OPTIONS),
    "two identities": (message(SOLICIT, ia(), opt(CLIENTID, CLONE)), Drop.OPTIONS),
    "odd wishes": (message(SOLICIT, ia(), opt(ORO, b"\0\x17\0")), Drop.OPTIONS),
    "a commit with content": (message(SOLICIT, ia(), opt(RAPID, b"x")), Drop.OPTIONS),
    "an option past the end": (message(SOLICIT, b"\0\3\0\x0d" + bytes(12)), Drop.MALFORMED),
    "half an option": (message(SOLICIT, b"\0\3\0"), Drop.MALFORMED),
    "a short association": (message(SOLICIT, opt(IA_NA, bytes(11))), Drop.MALFORMED),
    "a short address": (message(SOLICIT, opt(IA_NA, bytes(12) + opt(5, bytes(23)))), Drop.MALFORMED),
    "nonsense behind an address": (message(SOLICIT, opt(IA_NA, bytes(12) + opt(5, bytes(27)))), Drop.MALFORMED),
    "too many associations": (message(SOLICIT, *[ia()] * 9), Drop.OVERSIZED),
    "too many addresses": (message(SOLICIT, ia(*[OWN] * 17)), Drop.OVERSIZED),
    "too long": (message(SOLICIT, ia(), opt(999, bytes(1500))), Drop.OVERSIZED),
}


@pytest.mark.parametrize("what", DROPPED)
def test_what_is_against_the_rules_is_dropped_by_name(what):
    payload, reason = DROPPED[what]
    outcome = engine().handle(payload, WEB, NOW)
    assert (outcome.drop, outcome.reply, outcome.changes) == (reason, None, ())


def test_the_longest_answer_with_the_most_settings_is_a_frame_that_control_may_send():
    server = engine(search=tuple(f"{'a' * 56}.{n:02}" for n in range(14)))
    assert sum(map(len, server.scope.encoded.values())) > 870
    addresses, asked = 1, b""
    while (outcome := server.handle(asked or message(INFORM), WEB, NOW)).reply is not None:
        longest, addresses = outcome.reply, addresses + 1
        held = [[f"fd00:1::{n:x}:{k:x}" for k in range(addresses // 8 + 1)] for n in range(8)]
        asked = message(REBIND, opt(ORO, struct.pack("!2H", DNS, SEARCH)), *map(lambda some: ia(*some), held))
    assert outcome.drop is Drop.OVERSIZED and 1000 < len(longest) <= limits()["punt_bytes"] - 62


def test_to_the_servers_own_address_only_the_hint_to_use_the_group_is_answered():
    server = bound()
    for kind in (REQUEST, RENEW, RELEASE, DECLINE):
        outcome = server.handle(message(kind, ia(OWN), server=SERVER), WEB, NOW, to_group=False)
        assert (Answer(outcome).status, Answer(outcome).associations, outcome.changes) == (5, [], ())
    for text in (message(SOLICIT, ia()), message(REBIND, ia()), message(CONFIRM, ia(OWN)), message(INFORM)):
        assert server.handle(text, WEB, NOW, to_group=False).drop is Drop.UNICAST


# ---- time, restarts, settings


def test_a_lease_ends_when_its_time_is_over_and_an_infinite_one_never():
    server = bound()
    assert server.next_expiry() == NOW + 3600
    assert server.expire(NOW + 3599) == () and server.expire(NOW + 3600) == (Delete(ip(OWN)),)
    assert server.next_expiry() is None
    server = engine(lease_s=0xFFFFFFFF)
    outcome = server.handle(message(REQUEST, ia(), server=SERVER), WEB, NOW)
    assert Answer(outcome).associations[0][2] == {OWN: (0xFFFFFFFF, 0xFFFFFFFF)}
    assert struct.unpack("!II", Answer(outcome).options[IA_NA][4:12]) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert server.next_expiry() is None and server.leases()[0].expires_at == math.inf


def test_a_restart_brings_back_what_was_stored_and_forgets_what_has_ended_or_is_elsewhere():
    server, store = engine(), Store()
    store.apply(server.handle(message(REQUEST, ia(), server=SERVER), WEB, NOW).changes)
    again = engine()
    assert again.load(store.rows.values(), NOW + 10) == () and again.leases() == server.leases()
    assert engine().load(store.rows.values(), NOW + 9999) == (Delete(ip(OWN)),)
    elsewhere = engine(subnet=type(server.scope.subnet)("fd01::/64"))
    assert elsewhere.load(store.rows.values(), NOW) == (Delete(ip(OWN)),) and elsewhere.leases() == []


def test_a_port_that_goes_takes_its_lease_with_it_and_one_whose_address_changed_swaps_it():
    server = bound()
    moved = WEB._replace(address=ip(OTHER))
    outcome = server.handle(message(RENEW, ia(OWN), server=SERVER), moved, NOW)
    assert Answer(outcome).associations[0][2] == {OTHER: (3600, 3600), OWN: (0, 0)}
    assert [type(change) for change in outcome.changes] == [Delete, Put]
    assert server.forget_port("web") == (Delete(ip(OTHER)),) and server.forget_port("web") == ()


def test_settings_that_cannot_be_said_are_refused():
    for wrong in ({"lease_s": 59}, {"search": ("a..b",)}, {"dns": (ip("fd00::1"),) * 60}):
        with pytest.raises(ValueError):
            engine(**wrong)
    with pytest.raises(ValueError):
        bound().reconfigure(Scope(server_mac=MAC, subnet=type(engine().scope.subnet)("fd01::/64")))
