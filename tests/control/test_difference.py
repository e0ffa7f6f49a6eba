# SPDX-License-Identifier: Apache-2.0
"""What must be done so that what is becomes what shall be: applied, it is so, and nothing is done twice."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from vswitch.control.difference import (
    ConfigureInterface,
    NetworkShape,
    Resolving,
    SetIsolated,
    SetMtu,
    SettleContainers,
    SetWayOut,
    apply_interfaces,
    apply_network,
    interface_actions,
    network_actions,
)
from vswitch.control.subnets import SubnetPlan
from vswitch.control.wayout import WayOut
from vswitch.ports.interface import InterfacePlan

ways_out = st.none() | st.builds(WayOut, host_loopback=st.booleans(), device=st.sampled_from([None, "eth0", "eth1"]))
words = st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2"]), unique=True).map(tuple)


@st.composite
def subnet_plans(draw) -> SubnetPlan:
    subnet = IPv4Network((0x0A000000 + draw(st.integers(0, 5)) * 256, 24))
    ip_range = draw(st.sampled_from([None, subnet, IPv4Network((int(subnet[128]), 25))]))
    return SubnetPlan(subnet, subnet[1], ip_range, draw(st.sampled_from([{}, {"printer": subnet[9]}])))


shapes = st.builds(
    NetworkShape,
    mtu=st.sampled_from([1300, 1500, 9000]),
    isolated=st.booleans(),
    way_out=ways_out,
    subnets=st.lists(subnet_plans(), max_size=5, unique_by=lambda plan: plan.subnet).map(tuple),
    resolving=st.builds(Resolving, names=st.booleans(), servers=words),
)
plans = st.builds(
    InterfacePlan,
    name=st.sampled_from(["eth0", "eth1"]),
    mac=st.just("02:42:00:00:00:01"),
    mtu=st.sampled_from([1300, 1500]),
    gateway4=st.sampled_from([None, "10.0.0.1"]),
    routes=st.lists(st.sampled_from(["10.1.0.0/24", "10.2.0.0/24"]), unique=True),
)
endpoints = st.dictionaries(st.sampled_from("abcdef"), plans)


def as_sets(shape: NetworkShape) -> tuple:
    """The order of subnets is theirs who were there first."""
    return shape.mtu, shape.isolated, shape.way_out, {p.subnet: p for p in shape.subnets}, shape.resolving


@given(shapes, shapes)
def test_carrying_out_the_difference_of_networks_leads_to_what_is_desired(desired, current):
    assert as_sets(apply_network(current, network_actions(desired, current))) == as_sets(desired)


@given(shapes, shapes)
def test_the_way_back_leads_back_from_wherever_a_change_was_interrupted(desired, current):
    actions = network_actions(desired, current)
    for done in range(len(actions) + 1):
        reached = apply_network(current, actions[:done])
        back = network_actions(current, desired)
        assert as_sets(apply_network(reached, back + network_actions(current, reached))) == as_sets(current)


@given(shapes)
def test_a_network_that_is_as_desired_needs_nothing(shape):
    assert network_actions(shape, shape) == []


@given(shapes, shapes)
def test_nobody_may_send_more_than_the_dataplane_lets_through(desired, current):
    actions = network_actions(desired, current)
    if desired.mtu != current.mtu:
        dataplane, interfaces = actions.index(SetMtu(desired.mtu)), actions.index(SettleContainers())
        assert (dataplane < interfaces) == (desired.mtu > current.mtu)


@given(shapes, shapes)
def test_a_way_out_closes_only_when_default_routes_have_moved(desired, current):
    actions = network_actions(desired, current)
    if current.way_out is not None and desired.way_out is None:
        assert actions.index(SettleContainers()) < actions.index(SetWayOut(None))


@given(shapes)
def test_what_no_container_notices_leaves_their_interfaces_alone(shape):
    from msgspec.structs import replace

    other = replace(shape, isolated=not shape.isolated)
    assert network_actions(other, shape) == [SetIsolated(other.isolated)]


@given(endpoints, endpoints)
def test_carrying_out_the_difference_of_interfaces_leads_to_what_is_desired(desired, current):
    assert apply_interfaces(current, interface_actions(desired, current)) == desired


@given(endpoints)
def test_interfaces_that_are_as_desired_need_nothing(current):
    assert interface_actions(current, current) == []


@given(endpoints)
def test_an_interface_that_nobody_knows_is_configured(current):
    unknown = dict.fromkeys(current)
    actions = interface_actions(current, unknown)
    assert len(actions) == len(current) and all(isinstance(action, ConfigureInterface) for action in actions)


@given(endpoints, endpoints)
def test_a_default_route_is_set_before_it_is_taken_elsewhere(desired, current):
    configured = [a for a in interface_actions(desired, current) if isinstance(a, ConfigureInterface)]
    routed = [bool(action.plan.gateway4) for action in configured]
    assert routed == sorted(routed, reverse=True)
