# SPDX-License-Identifier: Apache-2.0
"""Which subnet a network gets: never one that overlaps anything, and none left out."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vswitch.control.subnets import (
    SubnetPool,
    free_subnet,
    overlapping,
    parse_address,
    parse_subnet,
    plan_subnet,
    random_local_subnet,
)
from vswitch.model import Refused, SubnetSpec

POOL = IPv4Network("10.0.0.0/24")
PARTS = st.builds(
    lambda address, prefix: IPv4Network((address & ~((1 << 32 - prefix) - 1), prefix)),
    st.integers(0x09FFFF00, 0x0A0001FF),
    st.integers(22, 32),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PARTS, max_size=12), st.integers(24, 30))
def test_the_first_free_subnet_is_found_if_there_is_one(taken, size):
    plain = next(
        (s for s in POOL.subnets(new_prefix=size) if not any(s.overlaps(other) for other in taken)), None
    )
    assert free_subnet([SubnetPool(POOL, size)], taken) == plain


def test_pools_are_tried_in_their_order_and_families_do_not_mix():
    pools = [SubnetPool(IPv4Network("10.0.0.0/24"), 24), SubnetPool(IPv4Network("10.9.0.0/24"), 25)]
    taken = [IPv4Network("10.0.0.128/25"), IPv6Network("::/0")]
    assert free_subnet(pools, taken) == IPv4Network("10.9.0.0/25")
    assert free_subnet(pools, [*taken, IPv4Network("0.0.0.0/0")]) is None


def test_random_local_subnets_are_64s_that_avoid_what_is_taken():
    first = random_local_subnet(Random(1), [])
    second = random_local_subnet(Random(1), [first])
    assert first != second and overlapping(first, [second]) is None
    assert {subnet.prefixlen for subnet in (first, second)} == {64}
    assert all(subnet.network_address.packed[0] == 0xFD for subnet in (first, second))


@given(st.text(max_size=40))
def test_any_text_as_a_subnet_or_an_address_is_a_value_or_one_line(text):
    for reading in (
        lambda: plan_subnet(SubnetSpec(subnet=text)),
        lambda: parse_address(text, "ip"),
        lambda: parse_subnet(text, "x"),
        lambda: plan_subnet(SubnetSpec(subnet="10.0.0.0/24", gateway=text, ip_range=text)),
    ):
        try:
            reading()
        except Refused as refusal:
            assert "\n" not in str(refusal)


def test_a_zone_is_refused():
    with pytest.raises(Refused, match="zone"):
        parse_address("fe80::1%eth0", "ip")


def test_names_of_aux_addresses_are_said_in_a_refusal():
    with pytest.raises(Refused, match=r"aux address b 10\.0\.0\.9 is the aux address a too"):
        plan_subnet(SubnetSpec(subnet="10.0.0.0/24", aux_addresses={"a": "10.0.0.9", "b": "10.0.0.9"}))
