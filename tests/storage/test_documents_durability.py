"""What SQLite is asked for before a write is acknowledged: a write-ahead log, synced to the disk by every commit.

One rule: the very connection that commits is asked, on a SQLite that would not do it by itself. Builds differ in what
``synchronous`` is for a write-ahead log where nobody says it (SQLITE_DEFAULT_WAL_SYNCHRONOUS).
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from enseada.build import open_stores
from enseada.config import Settings
from enseada.storage.documents.base import Document
from enseada.storage.documents.sqlite import SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path

FULL = 2
"""``PRAGMA synchronous``: with a write-ahead log, sync it at every commit."""


class Recorded(sqlite3.Connection):
    """A connection of a SQLite that does not sync by itself; it remembers what it was asked to do."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous = OFF")
        self.statements: list[str] = []
        self.set_trace_callback(self.statements.append)

    def asked(self, statement: str) -> bool:
        """Whether it was, since this was asked last."""
        found = any(each.upper().startswith(statement) for each in self.statements)
        self.statements.clear()
        return found

    def value(self, pragma: str) -> object:
        """What a pragma says on this connection."""
        return self.execute(f"PRAGMA {pragma}").fetchone()[0]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """All connections that are opened."""
    opened: list[Recorded] = []
    connect = sqlite3.connect

    def recorded(*args: Any, **kwargs: Any) -> Recorded:
        opened.append(connect(*args, **kwargs, factory=Recorded))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", recorded)
    return opened


def check_committed(connections: list[Recorded]) -> None:
    """One connection has committed; what it committed is on the disk when COMMIT returns, in a log for readers."""
    [writer] = [each for each in connections if each.asked("COMMIT")]
    assert writer.value("synchronous") == FULL
    assert writer.value("journal_mode") == "wal"
    for other in connections:
        assert other is writer or other.value("query_only") == 1


async def test_what_is_acknowledged_was_synced(tmp_path: Path, connections: list[Recorded]) -> None:
    path = tmp_path / "documents.sqlite"
    async with await SQLiteStore.open(path) as store:
        check_committed(connections)  # the tables
        doc = await store.put(Document("a", {"n": 1}))
        check_committed(connections)
        doc = await store.put(Document("a", {"n": 2}, doc.rev))
        check_committed(connections)
        await store.create_once(Document("b", {}))
        check_committed(connections)
        await store.put_many([Document("c", {}), Document("d", {})])
        check_committed(connections)
        await store.put_in_order([Document("e", {}), Document("f", {})])
        check_committed(connections)
        await store.delete(doc)
        check_committed(connections)


async def test_also_in_a_file_that_was_there(tmp_path: Path, connections: list[Recorded]) -> None:
    path = tmp_path / "documents.sqlite"
    async with await SQLiteStore.open(path):
        pass
    connections.clear()  # they are closed
    async with await SQLiteStore.open(path) as store, await SQLiteStore.open(path) as other:
        first, second = connections[:2], connections[2:]
        await store.put(Document("a", {}))
        check_committed(first)
        await other.put(Document("b", {}))
        check_committed(second)


async def test_also_in_a_servers_folder(tmp_path: Path, connections: list[Recorded]) -> None:
    async with open_stores(Settings(data=tmp_path / "data")) as (documents, _):
        check_committed(connections)
        await documents.put(Document("a", {}))
        check_committed(connections)
