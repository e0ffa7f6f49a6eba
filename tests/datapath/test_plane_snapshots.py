# SPDX-License-Identifier: Apache-2.0
"""Tables copied in slices while they change."""

from __future__ import annotations

import gc

import pytest
from frames import BROADCAST, experimental, mac
from memory_switch import MemorySwitch

from vswitch._fastpath import limits


def filled(per_port: int = 1000, ports: int = 5) -> tuple[MemorySwitch, list]:
    """A switch whose ports have shown `per_port` addresses each."""
    switch = MemorySwitch(mac_share=4096)
    switch.network()
    hosts = [switch.host() for _ in range(ports)]
    for number, host in enumerate(hosts):
        for start in range(0, per_port, 100):
            for at in range(start, start + 100):
                host.send(experimental(host.mac, mac(100_000 * (number + 1) + at)))
            switch.step()
    return switch, hosts


def test_a_big_table_is_copied_whole_in_slices(switch):
    switch, hosts = filled()
    rows = switch.table()
    assert len(rows) == len({row[:3] for row in rows}) == 5000
    assert {(row[1], row[2]) for row in rows} == {
        (host.index, mac(100_000 * (number + 1) + at)) for number, host in enumerate(hosts) for at in range(1000)
    }
    switch.close()


def test_no_more_than_a_slice_is_copied_between_two_batches():
    switch, _ = filled(500, 4)
    wakeups = switch.totals["wakeups"]
    assert len(switch.table()) == 2000
    assert switch.totals["wakeups"] - wakeups >= 2000 // limits()["snapshot_rows"]
    switch.close()


def test_rows_that_live_throughout_appear_once_though_the_table_changes_meanwhile():
    switch, (first, second, *_) = filled()
    _, table = switch.plane.post_snapshot("fdb")
    for at in range(150):
        first.send(experimental(BROADCAST, mac(200_000 + 7 * at)))  # they move from `second`
        second.send(experimental(BROADCAST, mac(900_000 + at)))  # these are new
    switch.step()
    rows = {}
    for _, port, address, _, _ in table.rows():
        assert address not in rows
        rows[address] = port
    moved = {mac(200_000 + 7 * at) for at in range(150)}
    for number, host in enumerate(switch.hosts):
        for address in {mac(100_000 * (number + 1) + at) for at in range(1000)} - moved:
            assert rows[address] == host.index
    assert all(rows[address] in (first.index, second.index) for address in moved)
    switch.close()


def test_several_snapshots_at_once_are_all_finished():
    switch, _ = filled(300, 2)
    tables = [switch.plane.post_snapshot(what)[1] for what in ("fdb", "neighbours", "fdb")]
    assert [table.done for table in tables] == [False] * 3
    with pytest.raises(RuntimeError, match="still"):
        tables[0].rows()
    switch.step()
    assert [len(table.rows()) for table in tables] == [600, 0, 600]
    switch.close()


def test_a_snapshot_that_nobody_waits_for_does_no_harm():
    switch, _ = filled(300, 2)
    switch.plane.post_snapshot("fdb")
    gc.collect()
    switch.step()
    assert len(switch.table()) == 600
    switch.close()
