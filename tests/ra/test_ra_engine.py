# SPDX-License-Identifier: Apache-2.0
"""When a router advertises: RFC 4861 section 6.2.4 to 6.2.6."""

from __future__ import annotations

from ipaddress import IPv6Address
from itertools import pairwise
from random import Random

from frames import mac
from hypothesis import given
from hypothesis import strategies as st

from vswitch.ra.engine import Advertiser
from vswitch.ra.message import Router, Solicitation

NOW = 1000.0
ROUTER = Router(mac=mac(1), address=IPv6Address("fe80::1"), mtu=1500)
OTHER = Router(mac=mac(1), address=IPv6Address("fe80::1"), mtu=9000)
ASKED, NOBODY = Solicitation(mac(9), IPv6Address("fe80::9")), Solicitation(mac(8), IPv6Address("::"))


def times(advertiser: Advertiser, count: int) -> list[float]:
    """When the next unasked advertisements go out."""
    found = []
    while len(found) < count:
        at = advertiser.next_at()
        assert advertiser.due(at - 0.001) == []
        assert [sending.port for sending in advertiser.due(at)] == [None]
        found.append(at)
    return found


@given(st.integers(0, 10_000))
def test_the_first_three_come_soon_and_the_rest_every_200_to_600_seconds(seed):
    at = times(Advertiser(ROUTER, Random(seed), NOW), 20)
    gaps = [after - before for before, after in pairwise(at)]
    assert at[0] == NOW and all(0 < gap <= 16 for gap in gaps[:2])
    assert all(200 <= gap <= 600 for gap in gaps[2:]) and len(set(gaps[2:])) > 10


def test_a_change_of_settings_is_told_at_once_and_three_times():
    advertiser = Advertiser(ROUTER, Random(1), NOW)
    times(advertiser, 5)
    advertiser.reconfigure(OTHER, NOW + 5000)
    assert advertiser.next_at() == NOW + 5000
    assert advertiser.due(NOW + 5000)[0].frame == OTHER.advertisement()
    assert advertiser.next_at() <= NOW + 5016


@given(st.integers(0, 10_000))
def test_who_asks_is_answered_alone_within_half_a_second_of_his_first_question(seed):
    advertiser = Advertiser(ROUTER, Random(seed), NOW)
    times(advertiser, 4)
    now = advertiser.next_at() - 100
    for step in range(50):
        advertiser.solicited(ASKED if step % 2 else NOBODY, "web", now + step / 100)
    at = advertiser.next_at()
    assert now <= at <= now + 0.5
    (sending,) = advertiser.due(at)
    assert sending == ("web", ROUTER.advertisement(NOBODY))
    assert advertiser.next_at() == now + 100


def test_each_port_has_its_own_answer_and_one_that_has_gone_gets_none():
    advertiser = Advertiser(ROUTER, Random(2), NOW)
    advertiser.due(NOW)
    for port in ("a", "b", "c"):
        advertiser.solicited(ASKED, port, NOW)
    advertiser.forget_port("b")
    assert sorted(sending.port for sending in advertiser.due(NOW + 0.5)) == ["a", "c"]
    assert advertiser.due(NOW + 0.6) == []
