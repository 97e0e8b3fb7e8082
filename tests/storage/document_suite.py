"""What every document store keeps, as tests: a store's own test module runs them all on it.

One rule: nothing here knows which store it is looking at. What a cluster cannot promise at once is awaited
(`settle`), never assumed.

Use: a test that is parametrized over "backend" (`BACKENDS`) and "check" (`CHECKS`) calls ``run(check, make, backend)``;
``make()`` is an async context manager that gives an empty store.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from enseada.storage.documents.base import Change, Conflict, Document, DocumentError, Unavailable, Unknown, prefix_range
from enseada.storage.documents.rules import DOCUMENT_BYTES, ID_BYTES
from tests.cancel import cancel_at_every_checkpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from enseada.storage.documents.base import DocumentStore

BACKENDS = ["trio", "asyncio"]
CHECKS: list[Callable[[Any], Awaitable[None]]] = []
DEADLINE = 30.0


def run(
    check: Callable[[Any], Awaitable[None]],
    make: Callable[[], AbstractAsyncContextManager[DocumentStore]],
    backend: str,
) -> None:
    """Run one check on a store of its own, under one event loop."""

    async def main() -> None:
        with anyio.fail_after(DEADLINE):
            async with make() as store:
                await check(store)

    anyio.run(main, backend=backend)


def _check(function: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    CHECKS.append(function)
    return function


async def settle(store: DocumentStore) -> None:
    """Let a store whose copies may lag catch up; nothing to do for the others."""
    if hasattr(store, "settle"):
        await store.settle()


@_check
async def check_what_is_put_is_got(store: DocumentStore) -> None:
    assert await store.get("a") is None
    data = {"text": "ünïcode \0 \U0001f600", "number": 1.5, "whole": -(2**53), "list": [None, True, {"a": {}}], "": ""}
    stored = await store.put(Document("a", data))
    assert stored.id == "a"
    assert stored.data == data
    assert stored.rev
    assert await store.get("a") == stored
    assert await store.leaves("a") == [stored]


@_check
async def check_what_is_got_is_nobody_elses(store: DocumentStore) -> None:
    data = {"list": [1]}
    await store.put(Document("a", data))
    data["list"].append(2)
    first = await store.get("a")
    assert first is not None
    assert first.data == {"list": [1]}
    first.data["list"].append(3)
    second = await store.get("a")
    assert second is not None
    assert second.data == {"list": [1]}


@_check
async def check_a_put_replaces_the_revision_it_names(store: DocumentStore) -> None:
    first = await store.put(Document("a", {"n": 1}))
    second = await store.put(Document("a", {"n": 2}, first.rev))
    assert second.rev != first.rev
    with pytest.raises(Conflict) as conflict:
        await store.put(Document("a", {"n": 3}, first.rev))
    assert conflict.value.id == "a"
    with pytest.raises(Conflict):
        await store.put(Document("a", {"n": 3}))
    with pytest.raises(Conflict):
        await store.put(Document("b", {"n": 3}, second.rev))
    assert await store.get("a") == second
    assert await store.get("b") is None


@_check
async def check_revisions_never_repeat(store: DocumentStore) -> None:
    seen = set()
    for _ in range(5):
        doc = await store.put(Document("a", {"same": "body"}))
        seen.add(doc.rev)
        doc = await store.put(Document("a", {"same": "body"}, doc.rev))
        seen.add(doc.rev)
        await store.delete(doc)
        assert await store.get("a") is None
    assert len(seen) == 10


@_check
async def check_what_is_deleted_is_gone(store: DocumentStore) -> None:
    first = await store.put(Document("a", {}))
    second = await store.put(Document("a", {}, first.rev))
    with pytest.raises(Conflict):
        await store.delete(first)
    assert await store.get("a") == second
    await store.delete(second)
    assert await store.get("a") is None
    assert await store.leaves("a") == []
    for gone in (first, second):
        with pytest.raises(Conflict):
            await store.delete(gone)
        with pytest.raises(Conflict):
            await store.put(Document("a", {}, gone.rev))
    again = await store.put(Document("a", {"again": True}))
    with pytest.raises(Conflict):
        await store.delete(second)
    assert await store.get("a") == again


@_check
async def check_get_many_answers_in_order(store: DocumentStore) -> None:
    docs = [await store.put(Document(f"id-{number}", {"n": number})) for number in range(100)]
    assert await store.get_many([]) == []
    ids = [doc.id for doc in docs]
    assert list(await store.get_many([*reversed(ids), "none", ids[0]])) == [*reversed(docs), None, docs[0]]


@_check
async def check_put_many_fails_one_by_one(store: DocumentStore) -> None:
    old = await store.put(Document("b", {"n": 0}))
    results = await store.put_many(
        [Document("a", {"n": 1}), Document("b", {"n": 1}), Document("c", {"n": 1}), Document("b", {"n": 2}, old.rev)]
    )
    a, b, c, d = results
    assert isinstance(a, Document)
    assert isinstance(b, Conflict)
    assert b.id == "b"
    assert isinstance(c, Document)
    assert isinstance(d, Document)
    assert list(await store.get_many(["a", "b", "c"])) == [a, d, c]
    assert list(await store.put_many([])) == []


@_check
async def check_put_in_order_stops_at_the_first_failure(store: DocumentStore) -> None:
    x, y = await store.put_in_order([Document("x", {"n": 1}), Document("y", {"n": 1})])
    assert list(await store.get_many(["x", "y"])) == [x, y]
    with pytest.raises(Conflict) as conflict:
        await store.put_in_order([Document("a", {}), Document("b", {}), Document("x", {"n": 2}), Document("c", {})])
    assert conflict.value.id == "x"
    a, b, c, kept = await store.get_many(["a", "b", "c", "x"])
    assert c is None
    assert kept == x
    # All or nothing, or else exactly those before the failed one.
    assert (a is None) == (b is None)
    with pytest.raises(ValueError, match="differ"):
        await store.put_in_order([Document("e", {}), Document("e", {})])
    assert await store.get("e") is None
    assert list(await store.put_in_order([])) == []


@_check
async def check_create_once_has_one_winner(store: DocumentStore) -> None:
    for round in range(5):
        won: list[Document] = []
        lost: list[DocumentError] = []
        id = f"unique-{round}"

        async def create(
            number: int, id: str = id, won: list[Document] = won, lost: list[DocumentError] = lost
        ) -> None:
            try:
                won.append(await store.create_once(Document(id, {"n": number})))
            except DocumentError as refusal:
                lost.append(refusal)

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(create, number)
        assert len(won) <= 1
        assert len(won) + len(lost) == 8
        if not any(isinstance(error, Unknown) for error in lost):
            # Nobody is left in doubt: what is there is the winner's, and on a cluster there may be none.
            assert await store.get(id) == (won[0] if won else None)
        if won:
            with pytest.raises(Conflict):
                await store.create_once(Document(id, {}))
            await store.delete(won[0])
            assert await store.get(id) is None
    with pytest.raises(ValueError, match="stored before"):
        await store.create_once(Document("a", {}, "1-a"))


@_check
async def check_create_once_alone_succeeds(store: DocumentStore) -> None:
    doc = await store.create_once(Document("a", {"n": 1}))
    assert await store.get("a") == doc
    with pytest.raises(Conflict):
        await store.create_once(Document("a", {"n": 1}))
    with pytest.raises(Conflict):
        await store.put(Document("a", {"n": 1}))
    assert await store.get("a") == doc
    await store.delete(doc)
    again = await store.create_once(Document("a", {"n": 2}))
    assert again.rev != doc.rev


@_check
async def check_what_was_created_once_is_changed_by_put(store: DocumentStore) -> None:
    """By its revision, by one of many at once, and never by another `create_once`, however often it changed."""
    created = await store.create_once(Document("a", {"n": 0}))
    changed = await store.put(Document("a", {"n": 1}, created.rev))
    assert changed.rev != created.rev
    assert await store.get("a") == changed
    for stale in (store.put(Document("a", {"n": 2}, created.rev)), store.delete(created)):
        with pytest.raises(Conflict):
            await stale
    for round in range(2, 6):
        won: list[Document] = []
        doubtful: list[int] = []
        created_again: list[Document] = []

        async def change(
            number: int, parent: Document = changed, won: list[Document] = won, doubtful: list[int] = doubtful
        ) -> None:
            try:
                won.append(await store.put(Document("a", {"n": number}, parent.rev)))
            except (Conflict, Unavailable):
                pass
            except Unknown:
                doubtful.append(number)

        async def create(created_again: list[Document] = created_again) -> None:
            with suppress(DocumentError):
                created_again.append(await store.create_once(Document("a", {"n": -1})))

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(change, 10 * round + number)
                group.start_soon(create)
        assert len(won) <= 1
        assert created_again == []
        found = await store.get("a")
        assert found is not None
        if won and not doubtful:
            assert found.data == won[0].data
        assert found == changed or found.data["n"] in [*doubtful, *(doc.data["n"] for doc in won)]
        changed = found
    with pytest.raises(Conflict):
        await store.create_once(Document("a", {}))
    await store.delete(changed)
    assert await store.get("a") is None
    await store.create_once(Document("a", {"again": True}))


@_check
async def check_no_increment_is_lost(store: DocumentStore) -> None:
    await store.put(Document("counter", {"n": 0}))
    acknowledged = 0
    doubtful = 0

    async def increment() -> None:
        nonlocal acknowledged, doubtful
        done = 0
        while done < 5:
            doc = await store.get("counter")
            assert doc is not None
            try:
                await store.put(Document("counter", {"n": doc.data["n"] + 1}, doc.rev))
            except (Conflict, Unavailable):
                continue
            except Unknown:
                doubtful += 1
            else:
                acknowledged += 1
            done += 1

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(increment)
    doc = await store.get("counter")
    assert doc is not None
    assert acknowledged <= doc.data["n"] <= acknowledged + doubtful
    if not hasattr(store, "settle"):
        assert acknowledged == 30


ASCII_IDS = ["a", "a ", "a\x7f", "a/b", "aa", "b", "z", "\x7f"]
IDS = [*ASCII_IDS, "\x80", "é", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff"]


@_check
async def check_scan_goes_by_bytes(store: DocumentStore) -> None:
    assert list(await store.scan("a", "z", 10)) == []
    docs = {id: await store.put(Document(id, {"id": id})) for id in reversed(IDS)}
    await settle(store)
    ordered = [docs[id] for id in sorted(IDS, key=lambda id: id.encode())]
    top = "\U0010ffff\U0010ffff"
    assert list(await store.scan("", top, 100)) == ordered
    assert list(await store.scan("", top, 100, descending=True)) == ordered[::-1]
    for limit in range(len(ordered) + 2):
        assert list(await store.scan("", top, limit)) == ordered[:limit]
        assert list(await store.scan("", top, limit, descending=True)) == ordered[::-1][:limit]
    for start in IDS:
        for stop in IDS:
            expected = [doc for doc in ordered if start.encode() <= doc.id.encode() < stop.encode()]
            assert list(await store.scan(start, stop, 100)) == expected
    assert [doc.id for doc in await store.scan(*prefix_range("a/"), 10)] == ["a/b"]
    assert [doc.id for doc in await store.scan(*prefix_range("a"), 10)] == ["a", "a ", "a/b", "aa", "a\x7f"]
    await store.delete(docs["aa"])
    await settle(store)
    assert [doc.id for doc in await store.scan(*prefix_range("a"), 10)] == ["a", "a ", "a/b", "a\x7f"]


@_check
async def check_long_scans_are_whole(store: DocumentStore) -> None:
    docs = await store.put_many([Document(f"d{number:03}", {"x": "x" * 3000}) for number in range(100)])
    await settle(store)
    assert list(await store.scan("d", "e", 1000)) == list(docs)
    assert list(await store.scan("d", "e", 1000, descending=True)) == list(docs)[::-1]
    assert list(await store.scan("d", "e", 50)) == list(docs)[:50]
    assert list(await store.scan("d", "e", 50, descending=True)) == list(docs)[::-1][:50]


async def _until(changes: AsyncIterator[Change], wanted: set[tuple[str, bool]]) -> str:
    """Follow ``changes`` until each of ``wanted`` (id, deleted) has come; return the last seq."""
    wanted = set(wanted)
    seq = ""
    async for change in changes:
        wanted.discard((change.id, change.deleted))
        seq = change.seq
        if not wanted:
            break
    return seq


@_check
async def check_changes_come_to_an_end_of_what_was(store: DocumentStore) -> None:
    docs = {id: await store.put(Document(id, {})) for id in "abcd"}
    await store.put(Document("a", {"again": True}, docs["a"].rev))
    await store.delete(docs["b"])
    await settle(store)
    wanted = {("a", False), ("b", True), ("c", False), ("d", False)}
    async with store.changes("") as changes:
        seq = await _until(changes, wanted)
    await store.put(Document("e", {}))
    async with store.changes(seq) as changes:
        await _until(changes, {("e", False)})
    # Recreated: it is not deleted any more.
    await store.put(Document("b", {}))
    await settle(store)
    async with store.changes("") as changes:
        await _until(changes, {("b", False), ("e", False)})


@_check
async def check_changes_wake_who_follows(store: DocumentStore) -> None:
    seen = anyio.Event()
    ready = anyio.Event()
    await store.put(Document("old", {}))
    await settle(store)

    async def follow() -> None:
        async with store.changes("now") as changes:
            ready.set()
            await _until(changes, {("new", False)})
            seen.set()

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        group.start_soon(follow)
        await ready.wait()
        await store.put(Document("new", {}))
        await settle(store)
        await seen.wait()


@_check
async def check_bad_ids_and_data_are_refused(store: DocumentStore) -> None:
    for bad in ["", "_", "_design/a", "a\0b", "\ud800", "é" * (ID_BYTES // 2) + "e"]:
        for call in (
            lambda bad=bad: store.get(bad),
            lambda bad=bad: store.get_many(["a", bad]),
            lambda bad=bad: store.leaves(bad),
            lambda bad=bad: store.put(Document(bad, {})),
            lambda bad=bad: store.create_once(Document(bad, {})),
            lambda bad=bad: store.delete(Document(bad, {}, "1-a")),
            lambda bad=bad: store.put_in_order([Document("a", {}), Document(bad, {})]),
            lambda bad=bad: store.put_many([Document("a", {}), Document(bad, {})]),
        ):
            with pytest.raises(ValueError, match="id"):
                await call()
    bad_data: list[Any] = [{"_id": 1}, {"_": 1}, {"x": object()}, {"x": "x" * DOCUMENT_BYTES}]
    for data in bad_data:
        for write in (store.put, store.create_once):
            with pytest.raises(ValueError, match="data"):
                await write(Document("a", data))
        for write_all in (store.put_many, store.put_in_order):
            with pytest.raises(ValueError, match="data"):
                await write_all([Document("b", {}), Document("a", data)])
    assert list(await store.get_many(["a", "b"])) == [None, None]
    longest = Document("é" * (ID_BYTES // 2), {"x": "x" * (DOCUMENT_BYTES - 100), "y": {"_deep": 1}})
    stored = await store.put(longest)
    assert await store.get(longest.id) == stored
    with pytest.raises(ValueError, match="never stored"):
        await store.delete(longest)


@_check
async def check_cancelled_anywhere_it_is_done_or_not(store: DocumentStore) -> None:
    """Each operation, cancelled at each await: what is there is whole, old or new, and the store goes on."""
    runs = 0

    async def works() -> None:
        nonlocal runs
        runs += 1
        probe = await store.put(Document(f"probe-{runs}", {"n": runs}))
        assert await store.get(probe.id) == probe

    current = await store.put(Document("a", {"n": 0}))

    async def put() -> None:
        await store.put(Document("a", {"n": current.data["n"] + 1}, current.rev))

    async def old_or_new() -> None:
        nonlocal current
        await works()
        doc = await store.get("a")
        assert doc is not None
        assert doc.data["n"] in (current.data["n"], current.data["n"] + 1)
        assert (doc.rev == current.rev) == (doc.data["n"] == current.data["n"])
        current = doc

    await cancel_at_every_checkpoint(put, old_or_new)
    assert current.data["n"] >= 1  # The last run was not cancelled.

    def two(first: str, second: str) -> list[Document]:
        return [Document(f"{first}{runs}", {}), Document(f"{second}{runs}", {})]

    await cancel_at_every_checkpoint(lambda: store.put_many(two("m", "n")), works)
    await cancel_at_every_checkpoint(lambda: store.put_in_order(two("o", "p")), works)
    for number in range(1, runs):
        first, second = await store.get_many([f"o{number}", f"p{number}"])
        assert first is not None or second is None

    async def create() -> None:
        await store.create_once(Document(f"c{runs}", {"n": 1}))

    await cancel_at_every_checkpoint(create, works)
    assert await store.get(f"c{runs - 1}") is not None

    async def delete() -> None:
        doc = await store.get("d") or await store.put(Document("d", {}))
        await store.delete(doc)

    await cancel_at_every_checkpoint(delete, works)
    assert await store.get("d") is None

    await cancel_at_every_checkpoint(lambda: store.get_many(["a", "d"]), works)
    await cancel_at_every_checkpoint(lambda: store.leaves("a"), works)
    await cancel_at_every_checkpoint(lambda: store.scan("a", "b", 10), works)

    async def follow() -> None:
        async with store.changes("") as changes:
            await _until(changes, {("a", False)})

    await cancel_at_every_checkpoint(follow, works)


@_check
async def check_cancelling_one_leaves_the_others(store: DocumentStore) -> None:
    """Many write at once, and half of them are cancelled in the middle: the others' answers come, and are true."""
    for round in range(4):
        stored: dict[str, Document] = {}
        doubtful: set[str] = set()

        async def put(id: str, stored: dict[str, Document] = stored, doubtful: set[str] = doubtful) -> None:
            try:
                stored[id] = await store.put(Document(id, {"id": id}))
            except (Unknown, Unavailable):
                doubtful.add(id)

        async with anyio.create_task_group() as group, anyio.create_task_group() as cancelled:
            for number in range(10):
                group.start_soon(put, f"kept-{round}-{number}")
                cancelled.start_soon(put, f"cancelled-{round}-{number}")
            for _ in range(round):
                await anyio.lowlevel.checkpoint()
            cancelled.cancel_scope.cancel()
        kept = {f"kept-{round}-{number}" for number in range(10)}
        assert kept <= stored.keys() | doubtful
        for id, doc in stored.items():
            assert await store.get(id) == doc


@_check
async def check_a_closed_store_says_so(store: DocumentStore) -> None:
    doc = await store.put(Document("a", {}))
    ready = anyio.Event()
    ended = []

    async def follow() -> None:
        with pytest.raises(anyio.ClosedResourceError):  # noqa: PT012
            async with store.changes("now") as changes:
                ready.set()
                async for _ in changes:
                    pass
        ended.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await ready.wait()
        await store.aclose()
    assert ended == [True]
    await store.aclose()
    for call in (
        lambda: store.get("a"),
        lambda: store.get_many(["a"]),
        lambda: store.leaves("a"),
        lambda: store.put(doc),
        lambda: store.create_once(Document("b", {})),
        lambda: store.delete(doc),
        lambda: store.scan("a", "b", 1),
    ):
        with pytest.raises(anyio.ClosedResourceError):
            await call()
