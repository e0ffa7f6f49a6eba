# SPDX-License-Identifier: Apache-2.0
"""The lease table: indexes, caps, who gives way, and the agenda."""
from __future__ import annotations

import math
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_dhcp import MAC, OTHER_MAC, ip

from vswitch.dhcp.drop import Drop
from vswitch.dhcp.table import LEASE_COLUMNS, Client, Lease, State, Table


def lease(
    address: str, state: State = State.BOUND, *, port: str = "vm", mac: bytes = MAC, until: float = 100.0,
    reserved: bool = False, client_id: bytes | None = None,
) -> Lease:
    return Lease(ip(address), port, mac, client_id, "web", state, 1.0, until, reserved)


def numbered(number: int, state: State, port: str = "vm") -> Lease:
    """A lease of its own client at its own address."""
    high, low = divmod(number, 256)
    return lease(f"10.0.{high}.{low}", state, port=port, mac=bytes([2, 0, 0, 0, high, low]))


def filled(*leases: Lease, most: int = 100, per_port: int = 100) -> Table:
    table = Table(most, per_port)
    for each in leases:
        table.put(each)
    return table


def test_a_lease_is_found_by_its_address_and_by_its_client():
    table = filled(lease("10.0.0.2"))
    assert table.at(ip("10.0.0.2")) == table.of(Client("vm", b"h\x01" + MAC)) == lease("10.0.0.2")
    assert table.at(ip("10.0.0.3")) is None and table.of(Client("vm2", b"h\x01" + MAC)) is None


def test_a_client_id_names_a_client_where_there_is_one():
    with_id = lease("10.0.0.2", client_id=b"\1abc")
    assert filled(with_id).of(Client("vm", b"i\1abc")) == with_id


def test_a_client_id_cannot_pass_for_a_hardware_address():
    assert lease("10.0.0.2").client != lease("10.0.0.2", client_id=b"\1" + MAC).client


def test_a_reserved_lease_belongs_to_its_port_whoever_asks():
    reserved = lease("10.0.0.2", reserved=True, client_id=b"\1abc")
    assert filled(reserved).of(Client("vm", b"")) == reserved


def test_a_dynamic_declined_address_belongs_to_no_client():
    declined = lease("10.0.0.2", State.DECLINED)
    table = filled(declined)
    assert table.of(declined.client) is None and table.at(declined.address) == declined
    reserved = lease("10.0.0.3", State.DECLINED, reserved=True)
    assert filled(reserved).of(reserved.client) == reserved


def test_an_address_taken_by_another_client_is_no_longer_the_first_ones():
    first, second = lease("10.0.0.2", State.RELEASED), lease("10.0.0.2", mac=OTHER_MAC)
    table = filled(first, second)
    assert table.of(first.client) is None and table.of(second.client) == second and len(table) == 1


def test_every_lease_of_a_port_is_listed():
    mine = [lease("10.0.0.2"), lease("10.0.0.3", State.DECLINED), lease("10.0.0.4", reserved=True)]
    assert filled(*mine, lease("10.0.0.5", port="vm2")).of_port("vm") == mine


VICTIMS = {
    "nobody while there is room": ("bound", "", None),
    "the port's longest-ended lease first": ("bound offered expired released", "", 2),
    "then its oldest offer": ("bound offered declined offered", "", 1),
    "never what is bound or declined": ("bound declined", "", Drop.PORT_FULL),
    "of the network, any port's longest-ended lease": ("offered", "bound expired", 2),
    "but no other port's offer": ("bound", "offered offered", Drop.NETWORK_FULL),
    "rather the asking port's own": ("offered", "offered offered", 0),
}


@pytest.mark.parametrize("who", VICTIMS)
def test_who_gives_way_is(who):
    mine, others, expected = VICTIMS[who]
    leases = [numbered(n, State(state)) for n, state in enumerate(mine.split())]
    leases += [numbered(100 + n, State(state), "vm2") for n, state in enumerate(others.split())]
    roomy = who.startswith("nobody")
    full_network = bool(others)
    table = filled(*leases, most=len(leases) if full_network else 100,
                   per_port=100 if full_network or roomy else len(leases))
    victim = table.victim("vm")
    assert victim == (leases[expected] if isinstance(expected, int) else expected)


def test_a_state_renewed_is_the_youngest_again():
    old, young = numbered(1, State.OFFERED), numbered(2, State.OFFERED)
    table = filled(old, young, old, per_port=2)
    assert table.victim("vm") == young


def test_reserved_leases_count_for_no_cap():
    reserved = [lease(f"10.0.0.{n}", port=f"c{n}", reserved=True) for n in range(2, 50)]
    table = filled(*reserved, most=1, per_port=1)
    assert table.victim("vm") is None and table.victim("c2") is None


def test_the_next_expiry_is_that_of_the_state_a_lease_has_now():
    table = filled(lease("10.0.0.2", until=50), lease("10.0.0.3", until=30, mac=OTHER_MAC))
    assert table.next_expiry() == 30
    table.put(lease("10.0.0.3", until=70, mac=OTHER_MAC))
    assert table.next_expiry() == 50
    table.remove(ip("10.0.0.2"))
    assert table.next_expiry() == 70
    table.remove(ip("10.0.0.3"))
    assert table.next_expiry() is None


def test_a_lease_is_due_at_its_end_and_not_before():
    table = filled(lease("10.0.0.2", until=50))
    assert table.next_due(49.9) is None and table.next_due(50) == lease("10.0.0.2", until=50)


def test_a_lease_for_ever_is_never_due():
    assert filled(lease("10.0.0.2", until=math.inf)).next_due(1e18) is None


def test_renewing_without_end_does_not_make_the_agenda_grow():
    table = filled(*(numbered(n, State.BOUND) for n in range(100)))
    for until in range(10_000):
        table.put(numbered(7, State.BOUND)._replace(expires_at=float(until)))
    assert len(table._agenda) < 300
    table.put(numbered(7, State.BOUND)._replace(expires_at=5.0))
    assert table.next_due(6.0) == numbered(7, State.BOUND)._replace(expires_at=5.0)


leases = st.builds(
    Lease, st.integers(0, 30).map(lambda n: ip("10.0.0.0") + n), st.sampled_from(["a", "b"]),
    st.sampled_from([MAC, OTHER_MAC]), st.none() | st.binary(min_size=1, max_size=3),
    st.none() | st.text(max_size=5), st.sampled_from(State),
    st.floats(0, 1e10), st.floats(0, 1e10) | st.just(math.inf), st.booleans(),
)


@settings(deadline=None)
@given(leases)
def test_a_lease_survives_its_row_and_a_database(lease):
    database = sqlite3.connect(":memory:")
    database.execute(f"CREATE TABLE lease ({', '.join(LEASE_COLUMNS)})")
    database.execute(f"INSERT INTO lease VALUES ({', '.join('?' * len(LEASE_COLUMNS))})", lease.row())
    (row,) = database.execute("SELECT * FROM lease").fetchall()
    database.close()
    assert Lease.from_row(row) == lease


@settings(deadline=None)
@given(st.lists(leases, max_size=40), st.lists(st.integers(0, 30), max_size=20))
def test_the_indexes_always_agree(sequence, removed):
    table = Table(1000, 1000)
    for each in sequence:
        known = table.of(each.client)
        if known is not None and known.address != each.address:
            table.remove(known.address)
        table.put(each)
    for number in removed:
        table.remove(ip("10.0.0.0") + number)
    everything = list(table)
    assert all(table.at(each.address) == each for each in everything)
    owned = [each for each in everything if each.reserved or each.state is not State.DECLINED]
    assert all(table.of(each.client) == each for each in owned)
    assert len({each.client for each in owned}) == len(owned)
    ends = [each.expires_at for each in everything if each.expires_at != math.inf]
    assert table.next_expiry() == min(ends, default=None)
    for port in ("a", "b"):
        mine = [each for each in everything if each.port == port]
        assert sorted(table.of_port(port), key=str) == sorted(mine, key=str)
    assert table._dynamic == sum(not each.reserved for each in everything)
