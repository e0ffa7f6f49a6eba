# SPDX-License-Identifier: Apache-2.0
"""ARP and neighbour discovery answered by the gateway, for itself and for whom it knows; the table behind
it."""

from __future__ import annotations

import frames
import pytest
from frames import (
    ALL_NODES,
    advertisement,
    arp,
    is_at,
    mac,
    option,
    solicitation,
    who_has,
)
from hypothesis import given
from hypothesis import strategies as st
from memory_switch import GATEWAY, MemorySwitch
from street import A4, A6, B4, B6, GATEWAY4, GATEWAY6, STRANGER4, STRANGER6

# ---- ARP


def test_a_question_for_the_gateway_is_answered(street):
    a = street.a
    assert street.answers(who_has(a.mac, A4, GATEWAY4)) == [is_at(GATEWAY, GATEWAY4, A4, tha=a.mac, to=a.mac)]
    assert a.counters["answered"] == 1 and a.drops == {}


def test_a_question_for_a_known_address_is_answered_in_its_owners_name_and_leaves_on_no_port(street):
    a, b = street.a, street.b
    for question in (
        who_has(a.mac, A4, B4),
        who_has(a.mac, A4, B4, to=b.mac),
        who_has(a.mac, A4, B4, to=GATEWAY),
    ):
        assert street.answers(question) == [is_at(b.mac, B4, A4, tha=a.mac, to=a.mac)]


def test_the_bytes_of_an_arp_answer(street):
    question = bytes.fromhex(
        "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 ac110002 000000000000 ac110003"
    )
    assert street.answers(question) == [
        bytes.fromhex("020000000001 020000000002 0806 0001 0800 06 04 0002 020000000002 ac110003 020000000001 ac110002")
    ]


def test_a_question_for_an_unknown_address_goes_to_everybody_else(street):
    question = who_has(street.a.mac, A4, STRANGER4)
    assert street.switch.delivered(street.a, question) == {
        street.b.index: [question],
        street.watcher.index: [question],
    }


def test_a_duplicate_address_probe_from_the_owner_is_never_answered(street):
    street.dies(who_has(street.a.mac, "0.0.0.0", A4), "arp_own_address")
    street.dies(who_has(street.a.mac, A4, A4), "arp_own_address")
    street.dies(who_has(street.a.mac, A4, A4, to=GATEWAY), "arp_own_address")


def test_a_duplicate_address_probe_from_another_port_is_answered_with_the_owner(street):
    for asker in (street.a, street.watcher):
        assert street.answers(who_has(asker.mac, "0.0.0.0", B4), asker=asker) == [
            is_at(street.b.mac, B4, "0.0.0.0", tha=asker.mac, to=asker.mac)
        ]
    assert street.answers(who_has(street.a.mac, "0.0.0.0", GATEWAY4))[0][22:28] == GATEWAY


def test_a_binding_that_was_taken_back_is_answered_no_more(street):
    street.switch.unbind(B4)
    question = who_has(street.a.mac, A4, B4)
    assert set(street.switch.delivered(street.a, question)) == {street.b.index, street.watcher.index}


def test_a_changed_binding_is_answered_anew(street):
    street.switch.bind(B4, street.watcher)
    assert street.answers(who_has(street.a.mac, A4, B4))[0][22:28] == street.watcher.mac


def test_answers_to_others_are_carried(street):
    answer = is_at(street.a.mac, A4, B4, tha=street.b.mac, to=street.b.mac)
    assert street.switch.delivered(street.a, answer) == {street.b.index: [answer]}


def test_an_arp_answer_for_the_gateway_ends_there(street):
    street.dies(is_at(street.a.mac, A4, GATEWAY4, tha=GATEWAY, to=GATEWAY), "not_for_gateway")
    street.dies(arp(8, sha=street.a.mac, spa=A4, tpa=GATEWAY4, to=GATEWAY), "not_for_gateway")


# ---- neighbour discovery


def test_a_solicitation_for_the_gateway_is_answered_by_a_router(street):
    a = street.a
    assert street.answers(solicitation(a.mac, A6, GATEWAY6)) == [
        advertisement(GATEWAY, GATEWAY6, GATEWAY6, to=a.mac, dst=A6, flags=0xE0)
    ]


def test_a_solicitation_for_a_known_address_is_answered_in_its_owners_name(street):
    a, b = street.a, street.b
    for question in (
        solicitation(a.mac, A6, B6),
        solicitation(a.mac, A6, B6, dst=B6, to=b.mac),
        solicitation(a.mac, A6, B6, options=b""),
        solicitation(a.mac, A6, B6, options=option(14, bytes(6)) + option(1, a.mac)),
    ):
        assert street.answers(question) == [advertisement(b.mac, B6, B6, to=a.mac, dst=A6, flags=0x60)]


def test_a_solicitation_for_an_unknown_address_is_carried(street):
    question = solicitation(street.a.mac, A6, STRANGER6)
    assert set(street.switch.delivered(street.a, question)) == {street.b.index, street.watcher.index}


def test_an_ipv6_probe_from_the_owner_is_never_answered_and_from_another_it_is_to_all_nodes(street):
    street.dies(solicitation(street.a.mac, "::", A6), "nd_own_address")
    assert street.answers(solicitation(street.a.mac, "::", B6)) == [
        advertisement(street.b.mac, B6, B6, to=ALL_NODES, dst="ff02::1", flags=0x20)
    ]


def test_the_bytes_of_an_advertisement(street):
    question = solicitation(street.a.mac, A6, GATEWAY6)
    assert [answer.hex() for answer in street.answers(question)] == [
        "020000000001"
        "0242ac110001"
        "86dd"
        "60000000"
        "0020"
        "3a"
        "ff"
        "fd000000000000000000000000000001"
        "fd000000000000000000000000000002"
        "88"
        "00"
        "f047"
        "e0000000"
        "fd000000000000000000000000000001"
        "0201"
        "0242ac110001"
    ]


# ---- the table


def test_neighbours_show_what_control_said(street):
    assert sorted(street.switch.table(fdb=False), key=repr) == sorted(
        [
            (0, None, frames.ip(GATEWAY4), GATEWAY),
            (0, None, frames.ip(GATEWAY6), GATEWAY),
            *(
                (0, host.index, frames.ip(address), host.mac)
                for host, address in ((street.a, A4), (street.a, A6), (street.b, B4), (street.b, B6))
            ),
        ],
        key=repr,
    )


def test_a_full_neighbour_table_refuses_the_new_binding_and_keeps_the_old(switch):
    small = MemorySwitch(neighbour_capacity=2)
    small.network()
    host = small.host()
    small.bind("10.0.0.1", host)
    small.bind("10.0.0.2", host)
    with pytest.raises(LookupError, match="full"):
        small.bind("10.0.0.3", host)
    assert {row[2] for row in small.table(fdb=False)} == {frames.ip("10.0.0.1"), frames.ip("10.0.0.2")}
    small.unbind("10.0.0.1")
    small.bind("10.0.0.3", host)
    assert {row[2] for row in small.table(fdb=False)} == {frames.ip("10.0.0.2"), frames.ip("10.0.0.3")}
    small.close()


def test_the_bindings_of_a_network_go_with_it(switch):
    switch.network(1)
    switch.bind("10.0.0.1", network=1)
    switch.bind("10.0.0.1", network=0)
    switch.plane.post_network_remove(1)
    switch.step()
    assert [row[0] for row in switch.table(fdb=False)] == [0]
    switch.network(1)
    host = switch.host(network=1)
    assert switch.exchange(host, who_has(host.mac, "10.0.0.9", "10.0.0.1")) == []


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 1), st.integers(0, 30), st.integers(1, 5)), max_size=120),
    st.integers(0, 2**64 - 1),
)
def test_the_neighbour_table_is_a_dictionary(operations, seed):
    switch = MemorySwitch(mac_capacity=4, neighbour_capacity=64, seed=seed)
    switch.network(0)
    switch.network(1)
    expected = {}
    for add, network, number, owner in operations:
        address = f"10.0.0.{number}" if number % 2 else f"fd00::{number:x}"
        if add:
            switch.plane.post_neighbour(network, frames.ip(address), mac(owner), owner)
            expected[network, frames.ip(address)] = (owner, mac(owner))
        else:
            switch.plane.post_neighbour(network, frames.ip(address), None)
            expected.pop((network, frames.ip(address)), None)
        switch.step()
    assert {(network, address): (port, at) for network, port, address, at in switch.table(fdb=False)} == expected
    assert switch.totals["neighbours"] == len(expected)
    switch.close()
