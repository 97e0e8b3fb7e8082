"""The file of a SQLite document store: its layout, how it is opened, and the changes made in one transaction.

One rule: nothing is done to a file that is not ours, or that a newer release wrote.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, TypeVar

from enseada.storage.documents import rules
from enseada.storage.documents.base import Conflict, Document, DocumentError
from enseada.storage.documents.filelock import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

APPLICATION_ID = 0x456E7364
"""Marks a database as ours ("Ensd"), in the file's head."""
LAYOUT = 1
"""The layout of the tables that this release writes, in the file's head (``user_version``)."""

LOCK_TIMEOUT = 10.0
"""Seconds that a batch waits for other processes' commits. Longer than any commit; a process may be stopped in one."""
BUSY_TIMEOUT = 5.0
"""Seconds that SQLite waits for locks that the lock file does not keep away (a backup, an administrator's shell)."""
DELETIONS = 100_000
"""For so many changes a deletion is remembered for those who follow. Older ones are forgotten: they are hints."""
WAL_BYTES = 64 * 1024 * 1024
"""A write-ahead log longer than that, which readers have kept from being reused, is cut as soon as they let it be;
that is tried whenever it has grown by so much."""

SCHEMA = f"""
CREATE TABLE documents (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, rev TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE deletions (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE state (seq INTEGER NOT NULL);
INSERT INTO state VALUES (0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {LAYOUT};
"""
# seq is the number of the last change of a document and, being the rowid, where its row lies: changes are a range of
# rows, and need no index. Text is compared by its bytes (the BINARY collation over UTF-8).


class UnusableFile(Exception):
    """The file is no document store that this release can use. The message is a sentence that says why."""


class Transaction:
    """One batch, under way in the thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        (seq,) = self._execute("SELECT seq FROM state").fetchone()
        self._first: int = seq
        self._seq: int = seq

    @property
    def changed(self) -> bool:
        """Whether there is anything to commit."""
        return self._seq != self._first

    def put(self, doc: Document, body: bytes) -> Document:
        """Store ``doc``, whose data ``body`` is. Raises Conflict, having done nothing."""
        rev = rules.new_token()
        self._seq += 1
        if doc.rev is None:
            cursor = self._execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", (self._seq, doc.id, rev, body)
            )
            if not cursor.rowcount:
                raise Conflict(doc.id, "the document exists")
            self._execute("DELETE FROM deletions WHERE id = ?", (doc.id,))
        else:
            cursor = self._execute(
                "UPDATE documents SET seq = ?, rev = ?, body = ? WHERE id = ? AND rev = ?",
                (self._seq, rev, body, doc.id, doc.rev),
            )
            if not cursor.rowcount:
                raise Conflict(doc.id, "the document was changed or deleted")
        return Document(doc.id, doc.data, rev)

    def delete(self, doc: Document) -> None:
        """Raises Conflict, having done nothing."""
        if not self._execute("DELETE FROM documents WHERE id = ? AND rev = ?", (doc.id, doc.rev)).rowcount:
            raise Conflict(doc.id, "the document was changed or deleted")
        self._seq += 1
        self._execute("INSERT INTO deletions VALUES (?, ?)", (self._seq, doc.id))
        self._execute("DELETE FROM deletions WHERE seq <= ?", (self._seq - DELETIONS,))

    def attempt(self, run: Callable[[Transaction], T]) -> T:
        """What ``run`` does happens whole, or, if it raises DocumentError, not at all."""
        before = self._seq
        self._execute("SAVEPOINT attempt")
        try:
            result = run(self)
        except DocumentError:
            self._execute("ROLLBACK TO attempt")
            self._execute("RELEASE attempt")
            self._seq = before
            raise
        self._execute("RELEASE attempt")
        return result

    def finish(self) -> None:
        """To be called before the commit."""
        if self.changed:
            self._execute("UPDATE state SET seq = ?", (self._seq,))


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code, or 0 where the error is Python's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def open_file(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection, FileLock]:
    """Open the file, or make it; return a connection for reading, one for writing, and the lock for writers.

    Blocks. Raises UnusableFile, OSError.
    """
    with ExitStack() as stack:
        lock = FileLock(f"{path}-lock")
        stack.callback(lock.close)
        if not lock.acquire(LOCK_TIMEOUT, threading.Event()):
            raise UnusableFile(f"{path} has been locked by another process for {LOCK_TIMEOUT} seconds.")
        _make(path)
        writer = stack.enter_context(closing(_connect(path, BUSY_TIMEOUT)))
        _prepare(path, writer)
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        reader = stack.enter_context(closing(_connect(path, 0)))
        reader.execute("PRAGMA query_only = ON")
        lock.release()
        stack.pop_all()
    return reader, writer, lock


def _make(path: Path) -> None:
    """Make the file where there is none. SQLite gives its companions (-wal, -shm) the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # Never open and close a database by hand: that drops the locks that this process may hold on it.
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    # No isolation level: Python begins no transaction of its own.
    try:
        return sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError as error:
        raise UnusableFile(f"{path} cannot be opened: {error}.") from error


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    """Check that the database is ours, or make it so if it is empty."""
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        empty = not (application or layout or tables)
        if not empty and application != APPLICATION_ID:
            raise UnusableFile(f"{path} is a database, but not one of Enseada's.")
        if not empty and layout != LAYOUT:
            raise UnusableFile(
                f"{path} has layout {layout}, and this release of Enseada uses layout {LAYOUT}: "
                f"{'a newer' if layout > LAYOUT else 'an older'} release wrote it."
            )
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise UnusableFile(f"{path} cannot have a write-ahead log here; SQLite answers {mode!r}.")
        if empty:
            connection.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        if primary_code(error) == sqlite3.SQLITE_NOTADB:
            raise UnusableFile(f"{path} is not a SQLite database.") from error
        raise UnusableFile(f"{path} cannot be used: {error}.") from error
