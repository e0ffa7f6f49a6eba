# SPDX-License-Identifier: Apache-2.0
"""Leases over time: offers lapse, leases end, memories fade, and a restart loses nothing."""
from __future__ import annotations

from ipaddress import IPv4Network

from simulated_dhcp import (
    ACK,
    FIRST,
    MAC,
    NAK,
    NOW,
    OTHER_MAC,
    VM,
    WEB,
    Pool,
    Store,
    bound,
    decline,
    discover,
    engine,
    ip,
    lease,
    reboot,
    release,
    renew,
    scope,
    select,
    state_of,
    strangers,
    yiaddr,
)

from vswitch.dhcp.drop import Drop
from vswitch.dhcp.engine import DECLINE_S, EXPIRE_BATCH, OFFER_S, REMEMBER_S, Engine
from vswitch.dhcp.scope import Ingress
from vswitch.dhcp.table import Delete, State


def test_an_offer_that_nobody_takes_lapses_and_the_address_is_free():
    pool = Pool()
    server = engine(pool)
    server.handle(discover(), VM, NOW)
    assert server.next_expiry() == NOW + OFFER_S
    assert server.expire(NOW + OFFER_S - 0.1) == () and pool.taken == {ip(FIRST)}
    assert server.expire(NOW + OFFER_S) == () and pool.taken == set()
    assert server.next_expiry() is None and server.leases() == []


def test_a_lease_that_is_not_renewed_becomes_a_memory_and_then_nothing():
    pool = Pool()
    server = engine(pool)
    lease(server, VM)
    end = NOW + 3600
    assert server.next_expiry() == end
    (change,) = server.expire(end)
    assert change.lease.state is State.EXPIRED and pool.taken == set()
    assert server.next_expiry() == end + REMEMBER_S
    assert server.expire(end + REMEMBER_S) == (Delete(ip(FIRST)),)
    assert server.next_expiry() is None


def test_a_renewed_lease_ends_an_hour_after_it_was_renewed():
    server = bound()
    server.handle(renew(FIRST), VM, NOW + 1800)
    server.expire(NOW + 5399)
    assert state_of(server) is State.BOUND
    server.expire(NOW + 5400)
    assert state_of(server) is State.EXPIRED


def test_a_client_that_comes_back_gets_its_old_address_if_it_is_free():
    pool = Pool()
    server = engine(pool)
    assert [lease(server, port) for port in ("vm", "vm2")] == ["172.17.0.2", "172.17.0.3"]
    server.expire(NOW + 3600)
    assert lease(server, "vm2", now=NOW + 3601) == "172.17.0.3"
    assert lease(server, "vm", now=NOW + 3601) == "172.17.0.2"


def test_a_memory_gives_way_to_whoever_the_ipam_gives_the_address():
    server = engine(Pool(size=1))
    store = Store()
    assert lease(server, "vm") == FIRST
    store.apply(server.expire(NOW + 3600))
    assert lease(server, "vm2", now=NOW + 3601) == FIRST
    assert server.handle(discover(), VM, NOW + 3602).drop is Drop.NO_ADDRESS
    assert server.handle(reboot(FIRST), VM, NOW + 3602).reply.kind is NAK


def test_a_client_that_moves_on_leaves_no_memory_at_its_old_address():
    pool = Pool(size=2)
    server = engine(pool)
    lease(server, "vm")
    server.handle(release(FIRST), VM, NOW)
    pool.taken.add(ip(FIRST))   # IPAM gave it to somebody else
    offered = server.handle(discover(), VM, NOW)
    assert yiaddr(offered) == ip("172.17.0.3") and offered.changes == (Delete(ip(FIRST)),)
    assert len(server.leases()) == 1


def test_an_offer_after_a_lease_falls_back_to_the_memory():
    server = engine()
    lease(server, VM)
    server.expire(NOW + 3600)
    server.handle(discover(), VM, NOW + 4000)
    (change,) = server.expire(NOW + 4000 + OFFER_S)
    assert change.lease.state is State.EXPIRED and state_of(server) is State.EXPIRED


def test_a_declined_address_rests_and_then_is_free_again():
    pool = Pool(size=1)
    server = engine(pool)
    lease(server, VM)
    (change,) = server.handle(decline(FIRST), VM, NOW).changes
    assert change.lease.state is State.DECLINED
    assert server.handle(discover(), VM, NOW + DECLINE_S - 1).drop is Drop.NO_ADDRESS
    assert server.expire(NOW + DECLINE_S) == (Delete(ip(FIRST)),)
    assert yiaddr(server.handle(discover(), VM, NOW + DECLINE_S)) == ip(FIRST)


def test_a_lease_whose_end_was_not_yet_noticed_is_still_its_clients():
    server = bound()
    assert server.handle(renew(FIRST), VM, NOW + 9999).reply.kind is ACK


def test_many_ends_at_once_are_taken_in_portions():
    subnet = IPv4Network("172.17.0.0/22")
    server = Engine(scope(subnet=subnet, max_leases_per_port=1000), Pool(subnet))
    for number in range(EXPIRE_BATCH + 10):
        server.handle(reboot(f"172.17.{1 + number // 200}.{number % 200}", client_id=b"%d" % number), VM, NOW)
    assert len(server.expire(NOW + 3600)) == EXPIRE_BATCH
    assert server.next_expiry() == NOW + 3600
    assert len(server.expire(NOW + 3600)) == 10


def test_a_port_that_is_gone_takes_its_leases_along():
    pool = Pool(assigned={WEB.address})
    server = engine(pool)
    lease(server, VM)
    server.handle(discover(mac=OTHER_MAC), VM, NOW)
    lease(server, WEB)
    assert server.forget_port("vm") == (Delete(ip(FIRST)),)
    assert pool.taken == set() and [held.port for held in server.leases()] == ["web"]
    assert server.forget_port("web") == (Delete(WEB.address),)
    assert server.forget_port("never was") == ()


def test_leases_survive_a_restart_and_offers_need_not():
    before = engine(Pool(assigned={WEB.address}))
    lease(before, VM)
    lease(before, WEB)
    before.handle(discover(mac=OTHER_MAC), VM, NOW)
    rows = before.rows()
    pool = Pool(assigned={WEB.address})
    after = engine(pool)
    assert after.load(rows, NOW + 10) == ()
    assert after.rows() == rows and pool.taken == {ip(FIRST)}
    assert after.handle(renew(FIRST), VM, NOW + 20).reply.kind is ACK
    assert after.handle(select("172.17.0.3", mac=OTHER_MAC), VM, NOW + 20).reply.kind is ACK
    assert yiaddr(after.handle(discover(), Ingress("new"), NOW + 20)) == ip("172.17.0.4")


def test_what_ended_while_we_were_away_has_ended():
    before = engine()
    lease(before, VM)
    pool = Pool()
    after = engine(pool)
    (change,) = after.load(before.rows(), NOW + 3600)
    assert change.lease.state is State.EXPIRED and pool.taken == set()


def test_rows_that_no_longer_fit_are_deleted():
    before = engine()
    lease(before, VM)
    lease(before, "b")
    rows = [*before.rows(), ("10.9.9.9", *before.rows()[0][1:])]
    after = engine(Pool(assigned={ip(FIRST)}))
    assert set(after.load(rows, NOW)) == {Delete(ip("10.9.9.9")), Delete(ip(FIRST))}
    assert [str(held.address) for held in after.leases()] == ["172.17.0.3"]


def test_of_two_rows_of_one_client_the_held_one_stays():
    row = ("172.17.0.2", "vm", MAC, None, None, "expired", NOW, NOW + 9e4, 0)
    held = ("172.17.0.3", "vm", MAC, None, None, "bound", NOW, NOW + 3600, 0)
    after = engine()
    assert after.load([row, held], NOW) == (Delete(ip("172.17.0.2")),)
    assert after.rows() == [held]


def test_memories_above_a_lowered_cap_go_and_held_leases_stay():
    before = engine()
    for who in strangers(6):
        lease(before, VM, **who)
    for address, who in zip(("172.17.0.2", "172.17.0.3"), strangers(6), strict=False):
        before.handle(release(address, **who), VM, NOW)
    after = engine(max_leases_per_port=3)
    assert set(after.load(before.rows(), NOW)) == {Delete(ip("172.17.0.2")), Delete(ip("172.17.0.3"))}
    assert len(after.rows()) == 4
