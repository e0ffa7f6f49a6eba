# SPDX-License-Identifier: Apache-2.0
"""Address pools: nothing is handed out twice, in any order of requests; a restart changes nothing."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vswitch.control.ipam import AddressPool
from vswitch.control.subnets import plan_subnet
from vswitch.model import Refused, SubnetSpec


def pool(subnet: str, **rest) -> AddressPool:
    return AddressPool(plan_subnet(SubnetSpec(subnet=subnet, **rest)))


def taken(pool: AddressPool, count: int) -> list[str]:
    return [str(pool.allocate(f"c{number}")) for number in range(count)]


def test_addresses_are_handed_out_in_order_without_the_subnets_gateways_and_broadcast_ones():
    assert taken(pool("10.0.0.0/29"), 5) == [f"10.0.0.{n}" for n in range(2, 7)]
    assert taken(pool("10.0.0.0/29", gateway="10.0.0.4"), 5) == [f"10.0.0.{n}" for n in (1, 2, 3, 5, 6)]


def test_an_ipv6_subnet_has_no_broadcast_address():
    assert taken(pool("fd00::/126"), 2) == ["fd00::2", "fd00::3"]


def test_a_full_pool_says_so_with_507():
    full = pool("10.0.0.0/30")
    taken(full, 1)
    with pytest.raises(Refused, match=r"no address is free in 10.0.0.0/30") as refusal:
        full.allocate("x")
    assert refusal.value.status == 507 and full.full and full.peek() is None


def test_what_was_just_freed_comes_last():
    small = pool("10.0.0.0/29")
    taken(small, 2)
    small.release(IPv4Address("10.0.0.2"))
    assert taken(small, 4) == ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]


def test_the_range_bounds_what_is_handed_out_but_not_what_is_asked_for():
    ranged = pool("10.0.0.0/24", ip_range="10.0.0.64/30", aux_addresses={"printer": "10.0.0.65"})
    ranged.reserve(IPv4Address("10.0.0.9"), "web")
    assert taken(ranged, 3) == ["10.0.0.64", "10.0.0.66", "10.0.0.67"]
    ranged.release(IPv4Address("10.0.0.9"))
    with pytest.raises(Refused, match=r"10.0.0.64/30 of 10.0.0.0/24"):
        ranged.allocate("x")


def test_a_range_at_the_subnets_ends_leaves_its_own_and_broadcast_address_out():
    assert taken(pool("10.0.0.0/24", ip_range="10.0.0.0/30", gateway="10.0.0.99"), 3) == [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
    ]
    assert taken(pool("10.0.0.0/24", ip_range="10.0.0.252/30"), 3) == [
        "10.0.0.252",
        "10.0.0.253",
        "10.0.0.254",
    ]


@pytest.mark.parametrize(
    ("address", "words", "status"),
    [
        ("10.0.1.1", "outside", 400),
        ("10.0.0.0", "subnet address", 400),
        ("10.0.0.255", "broadcast", 400),
        ("10.0.0.1", "in use by the gateway", 409),
        ("10.0.0.7", "in use by web", 409),
        ("fd00::1", "outside", 400),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_with_who_has_it(address, words, status):
    small = pool("10.0.0.0/24")
    small.reserve(IPv4Address("10.0.0.7"), "web")
    with pytest.raises(Refused, match=words) as refusal:
        small.reserve(ip_address(address), "x")
    assert refusal.value.status == status


def test_releasing_what_nobody_holds_changes_nothing():
    small = pool("10.0.0.0/29")
    for _ in range(2):
        small.release(IPv4Address("10.0.0.5"))
    assert taken(small, 5) == [f"10.0.0.{n}" for n in range(2, 7)]


def test_a_full_pool_of_65_000_is_as_quick_as_an_empty_one():
    large = pool("10.0.0.0/16")
    for _ in range(65_533):
        large.allocate("x")
    for number in range(0, 65_000, 2):  # the worst case: every gap is one address
        large.release(IPv4Address(0x0A000002 + number))
    started = time.perf_counter()
    for _ in range(2_000):
        large.release(large.allocate("x"))
    assert time.perf_counter() - started < 15, "20 ms; to look through all gaps each time takes minutes"
    assert pool("10.0.0.0/8").allocate("x") == IPv4Address("10.0.0.2")
    assert pool("fc00::/7", gateway="fd00::1").allocate("x") == IPv6Address("fc00::1")


SUBNETS = ["10.0.0.0/28", "10.0.0.0/26", "fd00::/124", "fd00::/64"]
REQUESTS = st.lists(
    st.tuples(st.sampled_from(["allocate", "reserve", "release", "restart"]), st.integers(0, 70)), max_size=80
)


class Model:
    """The plainest pool there is: a list of all addresses."""

    def __init__(self, subnet: str, ip_range: str | None):
        network = ip_network(subnet)
        whole = [network[n] for n in range(1, min(network.num_addresses - (network.version == 4), 80))]
        part = ip_network(ip_range) if ip_range else network
        self.usable = whole
        self.order = [address for address in whole if address in part]
        self.held = {whole[0]}
        self.next = 0

    def allocate(self):
        for step in range(len(self.order)):
            place = (self.next + step) % len(self.order)
            if self.order[place] not in self.held:
                self.next = place + 1
                self.held.add(self.order[place])
                return self.order[place]
        return None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SUBNETS), st.booleans(), REQUESTS)
def test_a_pool_does_what_the_plainest_pool_does_restarts_included(subnet, ranged, requests):
    ip_range = f"{ip_network(subnet)[8]}/{ip_network(subnet).max_prefixlen - 3}" if ranged else None
    plan = plan_subnet(SubnetSpec(subnet=subnet, ip_range=ip_range))
    real, model = AddressPool(plan), Model(subnet, ip_range)
    for what, number in requests:
        address = model.usable[number % len(model.usable)]
        if what == "allocate":
            given_out = None if real.full else real.allocate("x")
            if ranged or ip_network(subnet).num_addresses < 100:
                assert given_out == model.allocate()
            else:
                assert given_out not in model.held
                model.held.add(given_out)
        elif what == "reserve" and address not in model.held:
            real.reserve(address, "x")
            model.held.add(address)
        elif what == "release" and address != model.usable[0]:
            real.release(address)
            model.held.discard(address)
        elif what == "restart":
            again = AddressPool(plan, real.last)
            for held in model.held - {model.usable[0]}:
                again.reserve(held, "x")
            assert again.peek() == real.peek()
            real = again
        assert real.held == len(model.held)
        assert all(real.holder(held) is not None for held in model.held)


@given(
    st.sets(st.integers(2, 30)),
    st.sampled_from([None, "10.0.0.16/28", "10.0.0.0/29", "10.0.0.8/30"]),
    st.sets(st.integers(2, 30), max_size=3),
    st.sets(st.integers(2, 30), max_size=5),
)
def test_a_pool_with_another_range_is_as_one_that_was_made_so(held, ip_range, reserved, released):
    """What was handed out before stays held, the range and reserved addresses are the new ones."""
    before = pool("10.0.0.0/27", ip_range="10.0.0.4/30", aux_addresses={"old": "10.0.0.3"})
    address = {number: IPv4Address(f"10.0.0.{number}") for number in range(32)}
    held = held - reserved - {3}
    for number in held:
        before.reserve(address[number], "c")
    aux = {f"a{number}": str(address[number]) for number in reserved}
    anew = pool("10.0.0.0/27", ip_range=ip_range, aux_addresses=aux)
    for number in held:
        anew.reserve(address[number], "c")
    before.replan(anew.plan)
    for number in held & released:
        for one in (before, anew):
            one.release(address[number])
    assert before._holders == anew._holders
    left = []
    while not anew.full:
        left.append(anew.allocate("d"))
    assert {before.allocate("d") for _ in left} == set(left) and before.full


def test_an_address_in_use_is_not_reserved_by_another_range():
    used = pool("10.0.0.0/27")
    taken(used, 3)
    plan = plan_subnet(SubnetSpec(subnet="10.0.0.0/27", aux_addresses={"nas": "10.0.0.3"}))
    with pytest.raises(Refused, match=r"10\.0\.0\.3 is in use by c1"):
        used.replan(plan)
    assert taken(used, 1) == ["10.0.0.5"]
