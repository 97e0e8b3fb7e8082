from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, closing
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from enseada.storage.documents import sqlite as module
from enseada.storage.documents import sqlitefile
from enseada.storage.documents.base import Conflict, Document, DocumentError, Unavailable, prefix_range
from enseada.storage.documents.sqlite import SQLiteStore, UnusableFile
from tests.storage.document_suite import BACKENDS, CHECKS, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

CHILD = [sys.executable, "-W", "error", "-m", "tests.storage.sqlite_child"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("check", CHECKS)
def test_suite(check: Callable[[Any], Awaitable[None]], backend: str, tmp_path: Path) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[SQLiteStore]:
        async with await SQLiteStore.open(tmp_path / "documents") as store:
            yield store

    run(check, make, backend)
    assert sorted(os.listdir(tmp_path)) == ["documents", "documents-lock"]  # The log was merged.


# The file


async def test_the_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with await SQLiteStore.open(tmp_path / "documents") as store:
            await store.put(Document("a", {}))
            modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path)}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["documents", "documents-wal", "documents-shm", "documents-lock"], 0o600)


async def test_a_reopened_file_has_it_all(tmp_path: Path) -> None:
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        kept = await store.put(Document("a", {"n": 1}))
        await store.delete(await store.put(Document("b", {})))
        async with store.changes("") as changes:
            seqs = [(await anext(changes)).seq for _ in range(2)]
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        assert await store.get("a") == kept
        assert await store.get("b") is None
        c = await store.put(Document("c", {}))
        async with store.changes(seqs[-1]) as changes:
            assert (await anext(changes)).id == "c"
        async with store.changes("1000000") as changes:  # From a time that this file has not seen: all of it.
            assert [(await anext(changes)).id for _ in range(3)] == ["a", "b", "c"]
        with pytest.raises(ValueError, match="invalid literal"):
            async with store.changes("nonsense"):
                pass
        await store.put(Document("c", {"n": 2}, c.rev))


async def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "documents"
    async with await SQLiteStore.open(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    content = path.read_bytes()
    with pytest.raises(UnusableFile, match=r"has layout 2, and this release of Enseada uses layout 1: a newer release"):
        await SQLiteStore.open(path)
    assert path.read_bytes() == content


async def test_what_is_not_ours_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("Not a database. " * 100)
    with pytest.raises(UnusableFile, match="is not a SQLite database"):
        await SQLiteStore.open(text)
    assert text.read_text() == "Not a database. " * 100
    foreign = tmp_path / "foreign"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()
    content = foreign.read_bytes()
    with pytest.raises(UnusableFile, match="not one of Enseada's"):
        await SQLiteStore.open(foreign)
    assert foreign.read_bytes() == content
    with pytest.raises(FileNotFoundError):
        await SQLiteStore.open(tmp_path / "none" / "documents")
    (tmp_path / "folder-lock").mkdir()
    with pytest.raises(OSError, match="directory"):
        await SQLiteStore.open(tmp_path / "folder")
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(UnusableFile):
            await SQLiteStore.open(foreign)
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_an_empty_file_is_made_a_store(tmp_path: Path) -> None:
    # What a crash between making the file and its tables leaves.
    (tmp_path / "documents").touch()
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        await store.put(Document("a", {}))


async def test_two_stores_on_one_file_in_one_process(tmp_path: Path) -> None:
    path = tmp_path / "documents"
    async with await SQLiteStore.open(path) as first:
        async with await SQLiteStore.open(path) as second:
            doc = await first.put(Document("a", {}))
            assert await second.get("a") == doc
        doc = await first.put(Document("a", {"n": 1}, doc.rev))
        async with await SQLiteStore.open(path) as third:
            assert await third.get("a") == doc


# Commits


async def test_writers_that_wait_share_a_commit(tmp_path: Path, hold: Hold) -> None:
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        before = store.commits
        async with anyio.create_task_group() as group:
            with hold(tmp_path):
                for number in range(100):
                    group.start_soon(store.put, Document(f"id-{number}", {}))
                await anyio.wait_all_tasks_blocked()
        assert store.commits == before + 1
        assert len(await store.scan(*prefix_range("id-"), 1000)) == 100
        with pytest.raises(Conflict):
            await store.put(Document("id-1", {}))
        assert store.commits == before + 1  # Nothing was changed, nothing is committed.


async def test_a_conflict_fails_alone(tmp_path: Path, hold: Hold) -> None:
    results: dict[int, object] = {}
    async with await SQLiteStore.open(tmp_path / "documents") as store:

        async def put_three(number: int) -> None:
            ids = [f"own-{number}", "shared", f"last-{number}"]
            try:
                results[number] = await store.put_in_order([Document(id, {"n": number}) for id in ids])
            except DocumentError as error:
                results[number] = error

        async with anyio.create_task_group() as group:
            with hold(tmp_path):
                for number in range(10):
                    group.start_soon(put_three, number)
                await anyio.wait_all_tasks_blocked()
        assert store.commits == 1
        shared = await store.get("shared")
        assert shared is not None
        winner = shared.data["n"]
        docs = await store.scan(" ", "~", 100)
        assert [doc.id for doc in docs] == [f"last-{winner}", f"own-{winner}", "shared"]
        assert [number for number, result in results.items() if not isinstance(result, Conflict)] == [winner]
        # What failed took no numbers: changes have no holes that somebody could wait for.
        async with store.changes("") as changes:
            assert [(await anext(changes)).seq for _ in range(3)] == ["1", "2", "3"]


async def test_waiting_for_other_processes_can_be_cancelled(tmp_path: Path, hold: Hold) -> None:
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        async with anyio.create_task_group() as group:
            with hold(tmp_path):
                for id in ("leader", "follower"):
                    async with anyio.create_task_group() as cancelled:
                        cancelled.start_soon(store.put, Document(id, {}))
                        await anyio.wait_all_tasks_blocked()
                        group.start_soon(store.put, Document(f"kept-{id}", {}))
                        await anyio.wait_all_tasks_blocked()
                        cancelled.cancel_scope.cancel()
        assert [doc.id for doc in await store.scan(" ", "~", 100)] == ["kept-follower", "kept-leader"]


async def test_a_process_that_never_lets_go(tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.01)
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        with hold(tmp_path):
            with pytest.raises(Unavailable, match="a: no turn to write"):
                await store.put(Document("a", {}))
            [failed, other] = await store.put_many([Document("a", {}), Document("b", {})])
            assert isinstance(failed, Unavailable)
            assert isinstance(other, Unavailable)
            assert (failed.id, other.id) == ("a", "b")
            assert await store.get("a") is None  # Reading goes on.
        await store.put(Document("a", {}))


async def test_closing_finishes_what_waits(tmp_path: Path, hold: Hold) -> None:
    store = await SQLiteStore.open(tmp_path / "documents")
    async with anyio.create_task_group() as group:
        with hold(tmp_path):
            for number in range(3):
                group.start_soon(store.put, Document(f"id-{number}", {}))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(store.aclose)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.ClosedResourceError):
                await store.put(Document("late", {}))
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        assert len(await store.scan(*prefix_range("id-"), 10)) == 3


async def test_a_mistake_of_ours_hangs_nobody(tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise LookupError("a mistake")

    errors = []
    async with await SQLiteStore.open(tmp_path / "documents") as store:

        async def put(id: str) -> None:
            try:
                await store.put(Document(id, {}))
            except LookupError as error:
                errors.append(error)

        with monkeypatch.context() as patch:
            patch.setattr(sqlitefile.Transaction, "finish", broken)
            async with anyio.create_task_group() as group:
                with hold(tmp_path):
                    for number in range(3):
                        group.start_soon(put, f"id-{number}")
                    await anyio.wait_all_tasks_blocked()
        assert len(errors) == 3
        assert await store.scan(" ", "~", 10) == []
        await store.put(Document("a", {}))


async def test_deletions_are_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlitefile, "DELETIONS", 10)
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        for number in range(30):
            await store.delete(await store.put(Document(f"id-{number}", {})))
        await store.put(Document("last", {}))
        ids = []
        async with store.changes("") as changes:
            async for change in changes:
                ids.append(change.id)
                if change.id == "last":
                    break
        assert ids == [*(f"id-{number}" for number in range(25, 30)), "last"]


async def test_changes_need_no_sorting(tmp_path: Path) -> None:
    async with await SQLiteStore.open(tmp_path / "documents"):
        with closing(sqlite3.connect(tmp_path / "documents")) as connection:
            plan = str(connection.execute("EXPLAIN QUERY PLAN " + module.FOLLOW, {"seq": 0, "limit": 1}).fetchall())
    assert "TEMP B-TREE" not in plan
    assert plan.count("USING INTEGER PRIMARY KEY") == 2


async def test_a_full_disk(tmp_path: Path) -> None:
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        kept = await store.put(Document("kept", {"n": 1}))
        (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
        store._writer.execute(f"PRAGMA max_page_count = {pages + 4}")
        big = {"x": "x" * 100_000}
        with pytest.raises(Unavailable, match="full"):
            await store.put(Document("big", big))
        results = await store.put_many([Document("small", {}), Document("big", big), Document("kept", {})])
        # One failure of the disk takes the batch with it; nobody is told Conflict by what never happened.
        assert [type(result) for result in results] == [Unavailable] * 3
        assert await store.get_many(["big", "small", "kept"]) == [None, None, kept]
        small = await store.put(Document("small", {}))
        store._writer.execute("PRAGMA max_page_count = 1000000")
        await store.put(Document("big", big, None))
        assert await store.get("small") == small


async def test_a_full_disk_makes_no_conflicts(tmp_path: Path, hold: Hold) -> None:
    """A conflict with what was rolled back with the whole batch is none."""
    results: list[object] = []

    async with await SQLiteStore.open(tmp_path / "documents") as store:

        async def put(id: str, length: int) -> None:
            try:
                results.append(await store.put(Document(id, {"x": "x" * length})))
            except DocumentError as error:
                results.append(type(error))

        (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
        store._writer.execute(f"PRAGMA max_page_count = {pages + 4}")
        async with anyio.create_task_group() as group:
            with hold(tmp_path):
                for id, length in [("same", 1), ("same", 1), ("big", 100_000)]:
                    group.start_soon(put, id, length)
                await anyio.wait_all_tasks_blocked()
        assert results == [Unavailable] * 3
        assert await store.get("same") is None


async def test_our_own_commits_wake_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK", 1000.0)
    async with await SQLiteStore.open(tmp_path / "documents") as store, store.changes("now") as changes:

        async def follow() -> None:
            assert (await anext(changes)).id == "a"

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(follow)
                await anyio.wait_all_tasks_blocked()
                await store.put(Document("a", {}))


async def test_a_reader_that_keeps_the_log_from_being_cut_keeps_no_writer_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 200_000
    for place in (module, sqlitefile):
        monkeypatch.setattr(place, "WAL_BYTES", limit)
    path = tmp_path / "documents"
    log = tmp_path / "documents-wal"
    statements: list[str] = []

    def tries() -> int:
        return sum("wal_checkpoint" in statement for statement in statements)

    async with await SQLiteStore.open(path) as store:
        doc = await store.put(Document("a", {}))
        store._writer.execute("PRAGMA wal_autocheckpoint = 10")  # as far below the limit as the default is
        store._writer.set_trace_callback(statements.append)
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM documents").fetchall()
            for number in range(100):
                begun = monotonic()
                doc = await store.put(Document("a", {"x": f"{number:09}" * 1000}, doc.rev))
                assert monotonic() - begun < sqlitefile.BUSY_TIMEOUT
            assert log.stat().st_size > 3 * limit, "the reader keeps the log"
            assert 2 <= tries() <= log.stat().st_size // limit, "tried once for each growth"
            before = tries()
            assert store._writer.execute("PRAGMA busy_timeout").fetchone() == (sqlitefile.BUSY_TIMEOUT * 1000,)
        for number in range(2):
            doc = await store.put(Document("a", {"n": number}, doc.rev))
        assert log.stat().st_size <= limit, "nobody keeps it"
        assert tries() == before
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM documents").fetchall()
            while tries() == before:
                doc = await store.put(Document("a", {"x": "x" * 10_000}, doc.rev))
            assert log.stat().st_size < 1.5 * limit, "begun anew, it has its first limit again"


async def test_a_log_that_nobody_keeps_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAL_BYTES", 200_000)
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        await store.put(Document("a", {"x": "x" * 300_000}))
        assert (tmp_path / "documents-wal").stat().st_size == 0


# Several processes


async def test_two_processes_see_each_other_at_once(tmp_path: Path) -> None:
    path = tmp_path / "documents"
    async with await SQLiteStore.open(path) as store:
        with _child("echo", path) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            doc = await store.put(Document("ping", {"n": 0}))
            for number in range(20):
                doc = await store.put(Document("ping", {"n": number}, doc.rev))
                child.stdin.write(f"{doc.rev}\n")
                child.stdin.flush()
                answer = json.loads(await anyio.to_thread.run_sync(child.stdout.readline))
                assert answer == {"ping": {"n": number}, "rev": doc.rev}
                pong = await store.get("pong")
                assert pong is not None
                assert pong.data == {"n": number}
            child.stdin.close()
            assert child.wait(10) == 0


async def test_changes_of_another_process_come(tmp_path: Path) -> None:
    path = tmp_path / "documents"
    async with await SQLiteStore.open(path) as store:
        async with store.changes("now") as changes:
            with _child("increment", path, "3", "other") as child:
                with anyio.fail_after(20):
                    change = await anext(changes)
                assert change.id == "other"
                assert await anyio.to_thread.run_sync(child.wait) == 0
        assert await store.get("other") is not None


async def test_no_increment_of_four_processes_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "documents"
    async with await SQLiteStore.open(path) as store:
        children = [_child("increment", path, "200", "counter") for _ in range(4)]
        waits = []
        for child in children:
            with child:
                output, _ = await anyio.to_thread.run_sync(child.communicate)
            assert child.returncode == 0
            waits.append(json.loads(output)["longest"])
        doc = await store.get("counter")
        assert doc is not None
        assert doc.data == {"n": 800}
        assert max(waits) < sqlitefile.BUSY_TIMEOUT


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "documents"
    acknowledged: set[str] = set()
    for round in range(6):
        with _child("write", path, str(round)) as child:
            assert child.stdout is not None
            for _ in range(5 + 7 * round):
                acknowledged.add((await anyio.to_thread.run_sync(child.stdout.readline)).strip())
            child.send_signal(signal.SIGKILL)
            for line in await anyio.to_thread.run_sync(child.stdout.readlines):
                if line.endswith("\n"):
                    acknowledged.add(line.strip())
        assert child.returncode == -signal.SIGKILL
        async with await SQLiteStore.open(path) as store:
            there = {doc.id for doc in await store.scan(*prefix_range("id-"), 1_000_000)}
            assert acknowledged <= there
            await store.put(Document(f"after-{round}", {}))
    assert len(acknowledged) >= 6 * 5
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The kernel refuses to write, as with a full disk or a quota: the child's files have a limit (RLIMIT_FSIZE)."""
    with _child("limited", tmp_path / "documents") as child:
        output, _ = await anyio.to_thread.run_sync(child.communicate)
    assert child.returncode == 0
    told = json.loads(output)
    assert told["failed"] in ("Unavailable", "Unknown")
    assert told["stored"] >= 1
    assert told["read"] == told["stored"]
    assert told["afterwards"] == "done"
    async with await SQLiteStore.open(tmp_path / "documents") as store:
        found = [doc.id for doc in await store.scan(*prefix_range("id-"), 1000)]
        assert found == [f"id-{number:03}" for number in range(told["stored"])]
        assert await store.get("small") is not None


def _child(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CHILD, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )


class Hold:
    """Holds the lock for writers, as another process would."""

    def __call__(self, folder: Path) -> Hold:
        self._file = os.open(folder / "documents-lock", os.O_RDWR)
        return self

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        os.close(self._file)


@pytest.fixture
def hold() -> Iterator[Hold]:
    threads = threading.active_count()
    yield Hold()
    assert threading.active_count() <= threads + 2  # Idle workers of the event loop's, no crowd of our own.
