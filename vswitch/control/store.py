# SPDX-License-Identifier: Apache-2.0
"""What outlives the process: documents under keys, in SQLite, written by a thread of its own.

    await write([Put(…), Delete(…)]) ──queue──→ thread: BEGIN, all changes that wait now, COMMIT ──→ futures

A write returns once its changes are on the disk (WAL with synchronous=FULL: one fsync per commit), all of
them or none. Writers that wait at the same moment share one transaction (group commit), so 500 containers
started at once cost a few dozen fsyncs and not a thousand. Changes reach the disk in the order in which
`write` was called, even where the caller has gone away meanwhile: whoever undoes a cancelled change just
writes its opposite.

A full disk, a read-only one or an I/O error refuses what was to be written, in one clear line, and the switch
goes on with what it has. At `open` the file is checked, and migrated step by step from the version in `PRAGMA
user_version`; a damaged file, or one of a newer version, is refused with what to do about it. The lock is
exclusive: two switches on one file would hand out the same addresses.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Sequence
from typing import Literal, NamedTuple

from vswitch.model import Refused

Table = Literal["networks", "containers", "leases", "cursors"]
TABLES: tuple[Table, ...] = ("networks", "containers", "leases", "cursors")

# Entry N takes a file from version N to version N + 1; entries are only ever added.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    tuple(
        f"CREATE TABLE {table} (key TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID"
        for table in TABLES
    ),
)

# One commit takes this many writes: more would make the first of them wait for the encoding of the last.
GROUP_LIMIT = 256
# Writes that may wait. Each is somebody's request: this many at once mean that the disk has stopped.
PENDING_LIMIT = 8192
LOCK_TIMEOUT_S = 5.0  # a predecessor that is just ending needs a moment to let go


class Put(NamedTuple):
    """Keep `document` under `key`, in place of what was there."""

    table: Table
    key: str
    document: bytes


class Delete(NamedTuple):
    """Keep nothing under `key`."""

    table: Table
    key: str


Change = Put | Delete


class StoreError(Exception):
    """Why the file cannot be used at all: one line, with what to do."""


class _Job(NamedTuple):
    changes: Sequence[Change]
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class Store:
    """The file at `path`; `:memory:` keeps nothing."""

    def __init__(self, path: str):
        self.path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending = 0
        self._connection: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None

    async def open(self) -> None:
        """Open or create the file, check it, migrate it and start the thread. StoreError if it cannot be
        used.
        """
        self._connection = await asyncio.to_thread(_open, self.path)
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    async def load(self) -> dict[Table, list[tuple[str, bytes]]]:
        """Every table's (key, document) rows; to be called before the first write."""
        return await asyncio.to_thread(_read, self._connection, self.path)

    async def write(self, changes: Sequence[Change]) -> None:
        """Return once all the changes are on the disk. Refused if they are not, and then none is."""
        if self._thread is None:
            raise Refused("the store is closed: the switch is ending", 500)
        if self._pending >= PENDING_LIMIT:
            raise Refused(
                f"the disk under {self.path} does not keep up: {self._pending} changes wait already", 507
            )
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._pending += 1
        self._jobs.put(_Job(tuple(changes), done, loop))
        await done

    async def close(self) -> None:
        """Write what is still waiting, then close the file."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    # ---- the thread

    def _run(self) -> None:
        going_on = True
        while going_on:
            group, going_on = self._next_group()
            if group:
                problem = self._commit([change for job in group for change in job.changes])
                group[0].loop.call_soon_threadsafe(self._answer, group, problem)
        self._connection.close()

    def _next_group(self) -> tuple[list[_Job], bool]:
        """Everybody who waits by now, at least one; and whether more may come."""
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) == GROUP_LIMIT:
                return group, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, changes: Sequence[Change]) -> Refused | None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for change in changes:
                self._connection.execute(*_statement(change))
            self._connection.execute("COMMIT")
            return None
        except sqlite3.Error as problem:
            self._roll_back()
            return _refusal(problem, self.path)

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # SQLite has rolled back by itself already (a full disk, an I/O error)

    # ---- back in the event loop

    def _answer(self, group: list[_Job], problem: Refused | None) -> None:
        self._pending -= len(group)
        for job in group:
            if job.done.done():
                continue
            if problem is None:
                job.done.set_result(None)
            else:
                job.done.set_exception(Refused(str(problem), problem.status))


def _open(path: str) -> sqlite3.Connection:
    try:
        if path != ":memory:":
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(
            path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
    except OSError as problem:
        raise StoreError(f"cannot open {path}: {problem.strerror}") from None
    except sqlite3.Error as problem:
        raise StoreError(f"cannot open {path}: {problem}") from None
    try:
        _prepare(connection, path)
    except sqlite3.Error as problem:
        connection.close()
        raise StoreError(_explanation(problem, path)) from None
    except StoreError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{path} is of a newer vswitch (version {version}, this one knows {len(MIGRATIONS)}): upgrade"
        )
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("database disk image is malformed")
    for step in range(version, len(MIGRATIONS)):
        connection.execute("BEGIN IMMEDIATE")
        for statement in MIGRATIONS[step]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {step + 1}")
        connection.execute("COMMIT")


def _read(connection: sqlite3.Connection, path: str) -> dict[Table, list[tuple[str, bytes]]]:
    try:
        return {
            table: connection.execute(f"SELECT key, document FROM {table} ORDER BY key").fetchall()
            for table in TABLES
        }
    except sqlite3.Error as problem:
        raise StoreError(_explanation(problem, path)) from None


def _statement(change: Change) -> tuple[str, tuple]:
    if isinstance(change, Delete):
        return f"DELETE FROM {change.table} WHERE key = ?", (change.key,)
    return (
        f"INSERT INTO {change.table} VALUES (?, ?)"
        " ON CONFLICT (key) DO UPDATE SET document = excluded.document",
        (change.key, change.document),
    )


def _explanation(problem: sqlite3.Error, path: str) -> str:
    """What is wrong with the file, and what to do."""
    code = getattr(problem, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    if primary == sqlite3.SQLITE_BUSY:
        return f"{path} is in use by another switch: stop that one, or give this one its own --state-dir"
    if primary == sqlite3.SQLITE_FULL:
        return f"the disk that holds {path} is full: free some space"
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"{path} cannot be written: make it and its folder writable for this user"
    if primary == sqlite3.SQLITE_IOERR:
        return f"the disk that holds {path} fails ({problem})"
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or type(problem) is sqlite3.DatabaseError:
        return f"{path} is damaged: restore it from a backup, or move it away and attach the containers again"
    return f"{path}: {problem}"


def _refusal(problem: sqlite3.Error, path: str) -> Refused:
    full = getattr(problem, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return Refused(f"nothing was changed: {_explanation(problem, path)}", 507 if full else 500)
