# SPDX-License-Identifier: Apache-2.0
"""What holds whatever DHCPv6 clients do: nobody gets another's address, the store knows what the engine knows, no
bytes raise."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_dhcp6 import (
    CLIENTID,
    CLONE,
    DUID,
    IA_NA,
    IA_PD,
    IA_TA,
    IAADDR,
    IAID,
    MAC,
    NOW,
    ORO,
    OTHER,
    OWN,
    RAPID,
    SERVER,
    SERVERID,
    Answer,
    Store,
    engine,
    ia,
    ip,
    message,
    opt,
)

from vswitch.dhcp6.drop import Drop
from vswitch.dhcp6.scope import Ingress

PORTS = [Ingress("web", ip(OWN), MAC), Ingress("db", ip(OTHER), b"\2\0\0\0\0\7"), Ingress("bare", None, MAC)]
associations = st.builds(
    lambda code, iaid, addresses: ia(*addresses, iaid=iaid, code=code),
    st.sampled_from([IA_NA, IA_NA, IA_TA, IA_PD]),
    st.sampled_from([IAID, b"abcd"]),
    st.lists(st.sampled_from([OWN, OTHER, "fd00::7", "fe80::1"]), max_size=3),
)
messages = st.builds(
    lambda kind, client, server, parts, rapid: message(
        kind, *parts, *([opt(RAPID)] if rapid else []), client=client, server=server
    ),
    st.integers(1, 11),
    st.sampled_from([DUID, CLONE, None]),
    st.sampled_from([SERVER, SERVER, None]),
    st.lists(associations, max_size=3),
    st.booleans(),
)
inner = st.lists(st.tuples(st.sampled_from([IAADDR, 13, 5]), st.binary(max_size=30)), max_size=3)
broken = st.builds(
    lambda kind, parts: bytes([kind]) + b"abc" + b"".join(opt(code, data) for code, data in parts),
    st.integers(0, 255),
    st.lists(
        st.tuples(
            st.sampled_from([CLIENTID, SERVERID, IA_NA, IA_TA, ORO, RAPID, IA_PD]),
            st.binary(max_size=40) | inner.map(lambda pairs: bytes(12) + b"".join(opt(*pair) for pair in pairs)),
        ),
        max_size=6,
    ),
)
payloads = messages | broken | st.binary(max_size=200)
steps = st.tuples(
    payloads, st.sampled_from(PORTS), st.sampled_from([0.0, 1.0, 1800.0, 3601.0]), st.integers(0, 9), st.booleans()
)


@settings(max_examples=200)
@given(st.lists(steps, max_size=30))
def test_no_port_gets_anothers_address_and_the_store_knows_what_the_engine_knows(sequence):
    server, store, now = engine(), Store(), NOW
    for payload, port, wait_s, what, to_group in sequence:
        now += wait_s
        if what == 0:
            server = engine()
            store.apply(server.load(list(store.rows.values()), now))
        store.apply(server.expire(now))
        outcome = server.handle(payload, port, now, to_group=to_group or what > 3)
        store.apply(outcome.changes)
        assert (outcome.reply is None) == isinstance(outcome.drop, Drop)
        if outcome.reply is not None:
            assert len(outcome.reply) <= 1280 - 48 + 17 * 28 * 8
            for _, _, given_out, _ in Answer(outcome, transaction=payload[1:4]).associations:
                granted = {address for address, (_, valid_s) in given_out.items() if valid_s}
                assert granted <= ({str(port.address)} if port.address else set())
        assert {lease.address: lease.row() for lease in server.leases()} == store.rows
        assert all(lease.address == next(p.address for p in PORTS if p.port == lease.port) for lease in server.leases())
        assert server.next_expiry() == min((lease.expires_at for lease in server.leases()), default=None)


@given(st.integers(0, 60), st.binary(min_size=1, max_size=4))
def test_whatever_is_changed_in_a_request_has_an_outcome(at, value):
    whole = message(3, ia(OWN), opt(ORO, b"\0\x17\0\x18"), server=SERVER)
    outcome = engine().handle(whole[:at] + value + whole[at + len(value) :], PORTS[0], NOW)
    assert (outcome.reply is None) == isinstance(outcome.drop, Drop)
