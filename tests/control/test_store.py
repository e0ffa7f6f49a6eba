# SPDX-License-Identifier: Apache-2.0
"""The store: what was acknowledged is there after kill -9, and a bad disk is a refusal, never an end."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
from switchbox import simulated

from vswitch.control.store import MIGRATIONS, Delete, Put, Store, StoreError
from vswitch.model import Refused


async def opened(path) -> Store:
    store = Store(str(path))
    await store.open()
    return store


@simulated
async def test_what_is_written_is_there_after_opening_again(tmp_path):
    store = await opened(tmp_path / "db")
    await store.write([Put("networks", "a", b"1"), Put("leases", "x", b"\0\xff"), Put("networks", "b", b"2")])
    await store.write([Put("networks", "a", b"3"), Delete("networks", "b"), Delete("containers", "nothing")])
    await store.close()
    store = await opened(tmp_path / "db")
    assert await store.load() == {
        "networks": [("a", b"3")],
        "containers": [],
        "leases": [("x", b"\0\xff")],
        "cursors": [],
    }
    assert os.stat(tmp_path / "db").st_mode & 0o777 == 0o600
    await store.close()


@simulated
async def test_writers_that_wait_at_the_same_moment_share_commits(tmp_path):
    store = await opened(tmp_path / "db")
    commits = []
    commit = store._commit
    store._commit = lambda changes: commits.append(len(changes)) or commit(changes)
    await asyncio.gather(*(store.write([Put("leases", str(n), b"")]) for n in range(500)))
    assert sum(commits) == 500 and len(commits) < 60
    await store.close()


@simulated
async def test_changes_reach_the_disk_in_order_even_if_the_writer_has_gone(tmp_path):
    store = await opened(tmp_path / "db")
    for number in range(50):
        writer = asyncio.ensure_future(store.write([Put("networks", str(number), b"")]))
        await asyncio.sleep(0)
        writer.cancel()
        await store.write([Delete("networks", str(number))])
    assert (await store.load())["networks"] == []
    await store.close()


WRITER = """
import asyncio, sys
from vswitch.control.store import Put, Store

async def one(store, writer):
    for number in range(100000):
        key = f"{writer}-{number}"
        await store.write([Put("containers", key, b"x" * 500), Put("leases", key, b"")])
        print(key, flush=True)

async def main():
    store = Store(sys.argv[1])
    await store.open()
    await asyncio.gather(*(one(store, writer) for writer in range(4)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 57, 300])
def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path, lines):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "db")], stdout=subprocess.PIPE, text=True
    )
    acknowledged = [writer.stdout.readline().strip() for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += writer.stdout.read().split("\n")[:-1]
    writer.wait()
    writer.stdout.close()

    async def keys():
        store = await opened(tmp_path / "db")
        tables = await store.load()
        await store.close()
        return [{key for key, _ in tables[table]} for table in ("containers", "leases")]

    containers, leases = asyncio.run(keys())
    assert set(acknowledged) <= containers and containers == leases


@simulated
async def test_a_second_switch_on_the_same_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("vswitch.control.store.LOCK_TIMEOUT_S", 0.05)
    store = await opened(tmp_path / "db")
    with pytest.raises(StoreError, match="in use by another switch"):
        await opened(tmp_path / "db")
    await store.close()


@simulated
async def test_a_newer_file_is_refused_and_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StoreError, match="newer vswitch"):
        await opened(tmp_path / "db")


@pytest.mark.parametrize("garbage", [b"not a database at all, " * 500, b"SQLite format 3\0" + b"\xa5" * 8000])
@simulated
async def test_a_damaged_file_is_refused_with_what_to_do(tmp_path, garbage):
    (tmp_path / "db").write_bytes(garbage)
    with pytest.raises(StoreError, match=r"is damaged: restore|cannot|db") as refusal:
        await opened(tmp_path / "db")
    assert "\n" not in str(refusal.value) and (tmp_path / "db").read_bytes() == garbage


@simulated
async def test_damage_in_the_middle_is_found_at_the_start(tmp_path):
    store = await opened(tmp_path / "db")
    await store.write([Put("networks", f"{n:05}", os.urandom(900)) for n in range(200)])
    await store.close()
    content = bytearray((tmp_path / "db").read_bytes())
    content[4096 * 4 : 4096 * 12] = b"\xa5" * 4096 * 8
    (tmp_path / "db").write_bytes(content)
    with pytest.raises(StoreError, match="is damaged: restore it from a backup"):
        await opened(tmp_path / "db")


@simulated
async def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"cannot open .*No such file"):
        await opened(tmp_path / "nowhere" / "db")


@simulated
async def test_a_full_disk_refuses_the_change_and_the_next_one_succeeds(tmp_path):
    store = await opened(tmp_path / "db")
    await store.write([Put("networks", "a", b"1")])
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
    try:
        with pytest.raises(Refused, match="nothing was changed: ") as refusal:
            await store.write([Put("networks", "b", b"x" * 1_000_000), Put("networks", "a", b"2")])
        assert refusal.value.status in (500, 507) and "\n" not in str(refusal.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    await store.write([Put("networks", "c", b"3")])
    await store.close()
    store = await opened(tmp_path / "db")
    assert (await store.load())["networks"] == [("a", b"1"), ("c", b"3")]
    await store.close()


@simulated
async def test_a_database_at_its_size_limit_is_a_full_disk(tmp_path):
    store = await opened(tmp_path / "db")
    store._connection.execute("PRAGMA max_page_count = 20")
    with pytest.raises(Refused, match="is full: free some space") as refusal:
        await store.write([Put("networks", "b", b"x" * 200_000)])
    assert refusal.value.status == 507
    await store.write([Put("networks", "a", b"1")])
    assert (await store.load())["networks"] == [("a", b"1")]
    await store.close()


@simulated
async def test_a_read_only_database_refuses_changes(tmp_path):
    store = await opened(tmp_path / "db")
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(Refused, match="cannot be written: make it"):
        await store.write([Put("networks", "b", b"")])
    await store.close()


@simulated
async def test_too_many_waiting_changes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("vswitch.control.store.PENDING_LIMIT", 3)
    store = await opened(tmp_path / "db")
    gate = threading.Event()
    commit = store._commit
    store._commit = lambda changes: gate.wait(10) and commit(changes)
    waiting = [asyncio.ensure_future(store.write([Put("leases", str(n), b"")])) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Refused, match="does not keep up") as refusal:
        await store.write([Put("leases", "x", b"")])
    assert refusal.value.status == 507
    gate.set()
    await asyncio.gather(*waiting)
    await store.write([Put("leases", "x", b"")])
    await store.close()


@simulated
async def test_what_waits_at_the_end_is_still_written_and_nothing_after_it(tmp_path):
    store = await opened(tmp_path / "db")
    waiting = [asyncio.ensure_future(store.write([Put("leases", str(n), b"")])) for n in range(300)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*waiting)
    with pytest.raises(Refused, match="closed"):
        await store.write([Put("leases", "late", b"")])
    store = await opened(tmp_path / "db")
    assert len((await store.load())["leases"]) == 300
    await store.close()
