# SPDX-License-Identifier: Apache-2.0
"""Clients without measure: what a port, a network and a pool give, and whom it costs."""
from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from simulated_dhcp import (
    ACK,
    FIRST,
    NOW,
    OFFER,
    OTHER_MAC,
    VM,
    WEB,
    Pool,
    Store,
    decline,
    discover,
    engine,
    ip,
    lease,
    option,
    release,
    renew,
    scope,
    select,
    strangers,
    yiaddr,
)

from vswitch.dhcp.drop import Drop
from vswitch.dhcp.scope import Ingress
from vswitch.dhcp.table import Delete, State


def test_a_flood_of_discovers_from_a_port_recycles_its_own_offers_and_costs_no_disk():
    pool = Pool()
    server = engine(pool)
    assert lease(server, "other") == FIRST
    for who in strangers(2000):
        assert server.handle(discover(**who), VM, NOW).changes == ()
    assert len(pool.taken) == len(server.leases()) == 1 + 32
    assert lease(server, "third") and server.handle(renew(FIRST), Ingress("other"), NOW).reply.kind is ACK


def test_a_flood_of_whole_exchanges_stops_at_the_ports_share():
    server = engine()
    granted = [server.handle(discover(extra=option(80, b""), **who), VM, NOW) for who in strangers(100)]
    assert [outcome.drop for outcome in granted] == [None] * 32 + [Drop.PORT_FULL] * 68
    assert server.handle(select("172.17.0.200", mac=OTHER_MAC), VM, NOW).drop is Drop.PORT_FULL
    assert lease(server, "other")


def test_a_flood_of_declines_stops_at_the_ports_share():
    server = engine()
    for who in strangers(100):
        offered = server.handle(discover(extra=option(80, b""), **who), VM, NOW)
        if offered.reply is not None:
            server.handle(decline(str(yiaddr(offered)), **who), VM, NOW)
    assert sum(held.state is State.DECLINED for held in server.leases()) == 32
    assert lease(server, "other")


def test_a_flood_of_releases_leaves_no_more_memories_than_the_share():
    server, store = engine(), Store()
    for who in strangers(200):
        offered = server.handle(discover(extra=option(80, b""), **who), VM, NOW)
        store.apply(offered.changes)
        store.apply(server.handle(release(str(yiaddr(offered)), **who), VM, NOW).changes)
    assert len(server.leases()) <= 32 and len(store.rows) <= 32


@pytest.mark.parametrize(("prefix", "share"), [(16, 32), (24, 32), (26, 16), (28, 4), (30, 4)])
def test_a_ports_share_is_a_quarter_of_the_subnet_within_bounds(prefix, share):
    assert scope(subnet=IPv4Network(f"172.17.0.0/{prefix}")).port_share == share


def test_a_full_network_refuses_new_clients_and_leaves_the_old_ones_alone():
    server = engine(max_leases=2)
    assert [lease(server, port) for port in ("a", "b")] == ["172.17.0.2", "172.17.0.3"]
    assert server.handle(discover(), VM, NOW).drop is Drop.NETWORK_FULL
    assert server.handle(discover(), WEB, NOW).reply.kind is OFFER
    server.handle(release("172.17.0.2"), Ingress("a"), NOW)
    assert server.handle(discover(), VM, NOW).changes == (Delete(ip("172.17.0.2")),)


def test_an_empty_pool_refuses_new_clients_and_leaves_the_old_ones_alone():
    server = engine(Pool(size=1))
    lease(server, "a")
    assert server.handle(discover(), VM, NOW).drop is Drop.NO_ADDRESS
    assert server.handle(renew(FIRST), Ingress("a"), NOW).reply.kind is ACK
