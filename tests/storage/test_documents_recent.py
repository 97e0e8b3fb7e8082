"""Documents that were read before are given again only while no process has committed anything."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from enseada.storage.documents import recent, walindex
from enseada.storage.documents.base import Conflict, Document
from enseada.storage.documents.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IDS = ("a", "b", "c")


def reads(store: SQLiteStore) -> list[str]:
    """From now on, the statements with which documents are read from the file."""
    statements: list[str] = []
    store._reader.set_trace_callback(statements.append)
    return statements


async def test_a_document_is_read_once_between_two_commits(tmp_path: Path) -> None:
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        doc = await store.put(Document("a", {"n": 1}))
        assert await store.get("a") == doc
        statements = reads(store)
        for _ in range(3):
            assert await store.get("a") == doc
        assert statements == []
        await store.put(Document("b", {}))
        assert await store.get("a") == doc
        assert len(statements) == 1
        assert await store.get("a") == doc
        assert len(statements) == 1


async def test_what_is_not_there_is_asked_for_again(tmp_path: Path) -> None:
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        statements = reads(store)
        for count in (1, 2, 3):
            assert await store.get("a") is None
            assert len(statements) == count


OTHER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    connection.execute("UPDATE documents SET body = ?, rev = ? WHERE id = 'a'", (line.encode(), line))
    print("done", flush=True)
"""


@contextmanager
def another_process(path: Path) -> Iterator[Callable[[int], None]]:
    """What makes a process of its own write a number into the document, and answer."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        given, answers = other.stdin, other.stdout
        assert given is not None
        assert answers is not None

        def write(number: int) -> None:
            given.write(f'{{"n": {number}}}\n')
            given.flush()
            assert answers.readline() == "done\n"

        with given:
            yield write


async def test_another_process_commits(tmp_path: Path) -> None:
    """What it has answered is seen by the next read, every time."""
    path = tmp_path / "documents"
    async with await SQLiteStore.open(path) as store:
        await store.put(Document("a", {}))
        with another_process(path) as write:
            for number in range(300):
                write(number)
                for _ in range(2):
                    found = await store.get("a")
                    assert found is not None
                    assert found.data == {"n": number}


STEPS = st.tuples(st.sampled_from(["get", "put", "delete", "cut"]), st.integers(0, 2), st.sampled_from(IDS))


@settings(max_examples=25)
@given(st.lists(STEPS, max_size=20))
def test_several_stores_agree_with_the_file(steps: list[tuple[str, int, str]]) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            path = folder / "documents"
            stores = [await stack.enter_async_context(await SQLiteStore.open(path)) for _ in range(3)]
            judge = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            for count, (what, which, id) in enumerate(steps):
                store = stores[which]
                found = await store.get(id)
                if what == "put":
                    await store.put(Document(id, {"n": count}, None if found is None else found.rev))
                elif what == "delete" and found is not None:
                    await store.delete(found)
                elif what == "cut":  # the log begins anew, and with it the counters in its index
                    judge.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                rows = dict(judge.execute("SELECT id, rev FROM documents").fetchall())
                for each in stores:
                    for name in IDS:
                        seen = await each.get(name)
                        assert (None if seen is None else seen.rev) == rows.get(name)

    trio.run(run)


async def test_only_so_much_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "CACHE_BYTES", 2000)
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        for number in range(10):
            await store.put(Document(f"d{number}", {"x": "y" * 500}))
        statements = reads(store)
        for _ in range(2):
            for number in range(10):
                assert await store.get(f"d{number}") is not None
        assert len(statements) == 20
        assert 1 <= len(store._recent._rows) <= 3
        assert await store.get("d9") is not None
        assert len(statements) == 20


async def test_those_of_a_few_bytes_take_no_more(tmp_path: Path) -> None:
    """Most of their memory is that of the objects."""
    ids = [f"d{number}" for number in range(8000)]
    most = 0
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        await store.put_many([Document(id, {}) for id in ids])
        for number, id in enumerate(ids):
            await store.get(id)
            if number % 100 == 0:
                most = max(most, memory_of(store._recent._rows))
    assert recent.CACHE_BYTES / 2 < most <= recent.CACHE_BYTES


def memory_of(rows: dict[str, recent.Row]) -> int:
    """What a dictionary of rows takes, with all that is in it."""
    return sys.getsizeof(rows) + sum(sum(map(sys.getsizeof, (id, row, *row))) for id, row in rows.items())


@pytest.mark.parametrize("why", ["no index", "no map", "another format"])
async def test_without_the_index_every_read_asks_the_file(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "documents"
    if why == "no index":
        assert walindex.watch(str(path)) is None
    monkeypatch.setattr(walindex, "_mapped_at", lambda path: None)
    if why == "another format":
        monkeypatch.undo()
        monkeypatch.setattr(walindex, "VERSION", walindex.VERSION + 1)
    async with await SQLiteStore.open(path) as store:
        doc = await store.put(Document("a", {"n": 1}))
        statements = reads(store)
        for count in (1, 2):
            assert await store.get("a") == doc
            assert len(statements) == count
        with pytest.raises(Conflict):
            await store.put(Document("a", {}))


async def test_it_is_really_had_here(tmp_path: Path) -> None:
    """On Linux, also where the path is not the shortest."""
    (tmp_path / "with space").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "with space")
    async with await SQLiteStore.open(tmp_path / "link" / "documents") as store:
        await store.put(Document("a", {}))
        assert store._recent._head is not None
        assert len(store._recent._head()) == walindex.HEAD_BYTES
