"""Documents in one SQLite file, for one machine: any number of processes may have it open.

One rule: reads are inline and see the newest commit of every process; writes of all tasks that wait go in one
transaction, in a thread, and are answered when it is on the disk (WAL, ``synchronous=FULL``).

Processes queue for writing on a lock file beside the database, because SQLite's own busy handler sleeps and lets
others pass. Everything that writes or checkpoints happens under that lock.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from enseada.storage.documents import rules
from enseada.storage.documents.base import Change, Document, DocumentError, Unavailable, Unknown
from enseada.storage.documents.groupcommit import GroupCommit
from enseada.storage.documents.recent import Recent
from enseada.storage.documents.sqlitefile import (
    BUSY_TIMEOUT,
    LOCK_TIMEOUT,
    WAL_BYTES,
    Transaction,
    UnusableFile,
    open_file,
    primary_code,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
    from types import TracebackType
    from typing import Self

    from enseada.storage.documents.filelock import FileLock
    from enseada.storage.documents.groupcommit import Entry, Take

T = TypeVar("T")

__all__ = ["SQLiteStore", "UnusableFile"]

TICK = 0.25
"""Seconds between two looks for other processes' commits, while somebody follows `SQLiteStore.changes`."""
BUSY_PAUSE = 0.005
"""Seconds until a read that found the file locked (another process recovers it after a crash) is tried again."""
CLOSE_TIMEOUT = 30.0
"""Seconds that closing waits for what is under way."""
PAGE_BYTES = 64 * 1024
"""Bytes of documents read at once, before other tasks have their turn."""
CHANGES = 256
"""Changes read at once."""

GET = "SELECT rev, body FROM documents WHERE id = ?"
SCAN = "SELECT id, rev, body FROM documents WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
SCAN_BACK = "SELECT id, rev, body FROM documents WHERE id >= ? AND id < ? ORDER BY id DESC LIMIT ?"
FOLLOW = """
SELECT seq, id, 0 FROM documents WHERE seq > :seq UNION ALL SELECT seq, id, 1 FROM deletions WHERE seq > :seq
ORDER BY seq LIMIT :limit
"""


@dataclass(frozen=True, slots=True)
class _Job:
    """What a task wants done in a transaction; ``id`` is named when the transaction fails."""

    id: str
    run: Callable[[Transaction], Any]


class SQLiteStore:
    """A `DocumentStore` in one file. Made by `open`; an async context manager that closes itself.

    Not for use before a fork and after it.
    """

    commits: int
    """Transactions that this object has committed."""

    def __init__(self, path: Path, reader: sqlite3.Connection, writer: sqlite3.Connection, lock: FileLock) -> None:
        """For `open` alone."""
        self.commits = 0
        self._reader = reader
        self._writer = writer
        self._lock = lock
        self._wal = f"{path}-wal"
        self._cut_beyond = WAL_BYTES
        self._group: GroupCommit[_Job] = GroupCommit(self._commit, self._announce)
        self._closed = False
        self._recent = Recent(str(path))
        self._news = anyio.Event()
        self._version = -1
        self._asked = anyio.current_time()

    @classmethod
    async def open(cls, path: str | os.PathLike[str]) -> SQLiteStore:
        """Open the file, or make it with mode 600. Its folder must exist.

        Raises UnusableFile, OSError. Cancelled: nothing is held, but the file may have been made.
        """
        path = Path(path)
        return cls(path, *await anyio.to_thread.run_sync(open_file, path))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish the writes under way, merge the log into the file, close it. Safe any number of times.

        Cancelled: it does that nevertheless (at most `CLOSE_TIMEOUT`).
        """
        if self._closed:
            return
        self._closed = True
        self._announce()
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self._group.aclose()
            await anyio.to_thread.run_sync(self._close)

    async def get(self, id: str) -> Document | None:
        """See `DocumentStore.get`. Inline: it takes microseconds and gives no other task its turn."""
        if self._closed:
            raise anyio.ClosedResourceError
        row = self._recent.get(id)
        if row is None:
            rules.check_id(id)
            try:
                rows = self._reader.execute(GET, (id,)).fetchall()
            except sqlite3.DatabaseError:
                rows = await self._read(id, lambda: self._reader.execute(GET, (id,)).fetchall())
            if not rows:
                return None
            row = rows[0]
            self._recent.add(id, row)
        rev, body = row
        return Document(id, rules.decode(body), rev)

    async def get_many(self, ids: Sequence[str]) -> Sequence[Document | None]:
        """See `DocumentStore.get_many`."""
        found = []
        for count, id in enumerate(ids, 1):
            found.append(await self.get(id))
            if count % 64 == 0:
                await anyio.lowlevel.checkpoint()
        return found

    async def put(self, doc: Document) -> Document:
        """See `DocumentStore.put`."""
        rules.check_id(doc.id)
        body = rules.encode(doc.data)
        result: Document = await self._group.submit(_Job(doc.id, lambda transaction: transaction.put(doc, body)))
        return result

    async def put_many(self, docs: Sequence[Document]) -> Sequence[Document | DocumentError]:
        """See `DocumentStore.put_many`. One commit."""
        puts = _puts(docs)

        def run(transaction: Transaction) -> list[Document | DocumentError]:
            results: list[Document | DocumentError] = []
            for put in puts:
                try:
                    results.append(transaction.attempt(put))
                except DocumentError as error:
                    results.append(error)
            return results

        if not docs:
            return []
        try:
            many: list[Document | DocumentError] = await self._group.submit(_Job(docs[0].id, run))
        except DocumentError as error:
            return [type(error)(doc.id, f"in one batch with {error}") for doc in docs]
        return many

    async def put_in_order(self, docs: Sequence[Document]) -> Sequence[Document]:
        """See `DocumentStore.put_in_order`. One transaction and one commit: all or nothing."""
        rules.check_different(docs)
        puts = _puts(docs)
        if not docs:
            return []

        def run(transaction: Transaction) -> list[Document]:
            return [put(transaction) for put in puts]

        result: list[Document] = await self._group.submit(_Job(docs[0].id, run))
        return result

    async def create_once(self, doc: Document) -> Document:
        """See `DocumentStore.create_once`. One insert."""
        if doc.rev is not None:
            raise ValueError(f"{doc.id} was stored before")
        return await self.put(doc)

    async def delete(self, doc: Document) -> None:
        """See `DocumentStore.delete`."""
        rules.check_id(doc.id)
        if doc.rev is None:
            raise ValueError(f"{doc.id} was never stored")
        await self._group.submit(_Job(doc.id, lambda transaction: transaction.delete(doc)))

    async def leaves(self, id: str) -> Sequence[Document]:
        """See `DocumentStore.leaves`. Here there is never more than one."""
        doc = await self.get(id)
        return [] if doc is None else [doc]

    async def scan(self, start: str, stop: str, limit: int, *, descending: bool = False) -> Sequence[Document]:
        """See `DocumentStore.scan`. What is long is read a page at a time, and is no snapshot of one moment."""
        found: list[Document] = []
        while len(found) < limit:
            page, more = await self._read(start, partial(self._page, start, stop, limit - len(found), descending))
            found += page
            if not more:
                break
            if descending:
                stop = page[-1].id
            else:
                start = page[-1].id + "\0"
            await anyio.lowlevel.checkpoint()
        return found

    @asynccontextmanager
    async def changes(self, since: str) -> AsyncIterator[AsyncIterator[Change]]:
        """See `DocumentStore.changes`. In order, each document's last change only.

        Another process's come within `TICK`. Deletions are forgotten after `sqlitefile.DELETIONS` changes. Raises
        ValueError for a ``since`` that never was a seq, anyio.ClosedResourceError once the store is closed.
        """
        [(newest,)] = await self._read("changes", lambda: self._reader.execute("SELECT seq FROM state").fetchall())
        if since == "now":
            seq = newest
        else:
            seq = int(since or "0")
        if seq > newest:
            seq = 0  # The file was put back from a backup. Everything may be new.
        changes = self._follow(seq)
        try:
            yield changes
        finally:
            await changes.aclose()

    async def _follow(self, seq: int) -> AsyncGenerator[Change, None]:
        while True:
            news = self._news
            rows = await self._read("changes", partial(self._changes_after, seq))
            for row in rows:
                yield Change(str(row[0]), row[1], bool(row[2]))
            if rows:
                seq = rows[-1][0]
                await anyio.lowlevel.checkpoint()
                continue
            while not news.is_set():
                with anyio.move_on_after(TICK):
                    await news.wait()
                self._ask()

    def _changes_after(self, seq: int) -> list[tuple[int, str, int]]:
        return self._reader.execute(FOLLOW, {"seq": seq, "limit": CHANGES}).fetchall()

    def _ask(self) -> None:
        """Ask whether another process has committed something, unless somebody has asked in this tick."""
        now = anyio.current_time()
        if self._closed or now - self._asked < TICK:
            return
        self._asked = now
        with suppress(sqlite3.Error):
            (version,) = self._reader.execute("PRAGMA data_version").fetchone()
            if version != self._version:
                self._version = version
                self._announce()

    def _announce(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def _page(self, start: str, stop: str, limit: int, descending: bool) -> tuple[list[Document], bool]:
        page: list[Document] = []
        size = 0
        with closing(self._reader.execute(SCAN_BACK if descending else SCAN, (start, stop, limit))) as rows:
            for id, rev, body in rows:
                page.append(Document(id, rules.decode(body), rev))
                size += len(body) + len(id)
                if size >= PAGE_BYTES:
                    return page, True
        return page, False

    async def _read(self, id: str, read: Callable[[], T]) -> T:
        deadline = None
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            try:
                return read()
            except sqlite3.DatabaseError as error:
                now = anyio.current_time()
                deadline = deadline or now + BUSY_TIMEOUT
                if primary_code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or now >= deadline:
                    raise Unavailable(id, f"reading failed: {error}") from error
            await anyio.sleep(BUSY_PAUSE)

    # What follows runs in a thread, one call at a time.

    def _commit(self, take: Take[_Job], stop: threading.Event) -> None:
        if not self._lock.acquire(LOCK_TIMEOUT, stop):
            if not stop.is_set():
                for entry in take():
                    entry.error = Unavailable(entry.job.id, f"no turn to write in {LOCK_TIMEOUT} s")
            return
        try:
            entries = take()
            if entries:
                self._transact(entries)
        finally:
            self._lock.release()

    def _transact(self, entries: Sequence[Entry[_Job]]) -> None:
        failure: type[DocumentError] = Unavailable
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._writer)
            for entry in entries:
                try:
                    entry.result = transaction.attempt(entry.job.run)
                except DocumentError as error:
                    entry.error = error
            transaction.finish()
            # If writing the commit fails for want of space it is not there. After another failure (of fsync) it may
            # be found in the log after a crash.
            failure = Unknown
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            if primary_code(error) == sqlite3.SQLITE_FULL:
                failure = Unavailable
            for entry in entries:
                entry.error = failure(entry.job.id, f"writing failed: {error}")
        else:
            if transaction.changed:
                self.commits += 1
                self._cut_log()
        finally:
            if self._writer.in_transaction:
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")

    def _cut_log(self) -> None:
        # SQLite merges the log into the file by itself, but begins it anew only when no reader is at work just then.
        # Here we are in the way of all writers: so it is tried and not waited for, and tried again only when the log
        # has grown as much once more. A try that finds a reader merges what it can, as a passive checkpoint does.
        with suppress(OSError, sqlite3.Error):
            size = os.stat(self._wal).st_size
            if size <= WAL_BYTES:
                self._cut_beyond = WAL_BYTES
            elif size > self._cut_beyond:
                self._cut_beyond = size + WAL_BYTES
                self._writer.execute("PRAGMA busy_timeout = 0")
                try:
                    self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    self._writer.execute(f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT * 1000)}")

    def _close(self) -> None:
        # The last connection merges the log into the file when it is closed: that too is done under the lock.
        self._lock.acquire(LOCK_TIMEOUT, threading.Event())
        try:
            with suppress(sqlite3.Error):
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._reader.close()
            self._writer.close()
        finally:
            self._lock.close()


def _puts(docs: Sequence[Document]) -> list[Callable[[Transaction], Document]]:
    puts: list[Callable[[Transaction], Document]] = []
    for doc in docs:
        rules.check_id(doc.id)
        puts.append(partial(Transaction.put, doc=doc, body=rules.encode(doc.data)))
    return puts
