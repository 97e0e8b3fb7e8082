"""Whoever was first: one document, and all who ask go on with it."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from enseada.storage.documents.base import Conflict, Document, DocumentError, Unavailable, Unknown
from enseada.storage.documents.memory import MemoryStore
from enseada.storage.documents.memorycluster import ClusterMemoryStore
from enseada.storage.documents.once import get_or_create_once

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from enseada.storage.documents.base import DocumentStore


def maker(value: int, made: list[int] | None = None) -> Callable[[], Awaitable[Mapping[str, Any]]]:
    async def make() -> Mapping[str, Any]:
        await anyio.lowlevel.checkpoint()
        if made is not None:
            made.append(value)
        return {"value": value}

    return make


async def test_it_is_made_once_and_found_from_then_on() -> None:
    store, made = MemoryStore(), list[int]()
    first, ours = await get_or_create_once(store, "a", maker(1, made))
    assert (first.data, ours) == ({"value": 1}, True)
    assert await store.get("a") == first
    assert await get_or_create_once(store, "a", maker(2, made)) == (first, False)
    assert made == [1]


@pytest.mark.parametrize("make_store", [MemoryStore, lambda: ClusterMemoryStore(Random(3))])
async def test_all_who_start_at_once_go_on_with_the_same(make_store: Callable[[], DocumentStore]) -> None:
    for _ in range(5):
        store = make_store()
        got: list[Document] = []
        makers: list[bool] = []

        async def start(
            number: int, store: DocumentStore = store, got: list[Document] = got, makers: list[bool] = makers
        ) -> None:
            try:
                document, made = await get_or_create_once(store, "a", maker(number))
            except DocumentError:  # on copies nobody may have won
                return
            got.append(document)
            makers.append(made)
            assert not made or document.data == {"value": number}

        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(start, number)
        assert len({document.data["value"] for document in got}) <= 1
        assert sum(makers) <= 1
        if isinstance(store, MemoryStore):
            assert (len(got), sum(makers)) == (6, 1)


async def test_a_lost_answer_is_known_by_its_data() -> None:
    store = MemoryStore()
    store.fail("create_once", "a", Unknown, applied=True)
    document, ours = await get_or_create_once(store, "a", maker(1))
    assert ours
    assert document == await store.get("a")


async def test_what_others_made_meanwhile_is_theirs() -> None:
    for error in (Conflict, Unknown):
        store = MemoryStore()
        store.fail("create_once", "a", error)

        async def make(store: MemoryStore = store) -> Mapping[str, Any]:
            await store.put(Document("a", {"value": 2}))
            return {"value": 1}

        document, ours = await get_or_create_once(store, "a", make)
        assert (document.data, ours) == ({"value": 2}, False)


@pytest.mark.parametrize("error", [Conflict, Unavailable, Unknown])
async def test_nothing_made_is_a_failure(error: type[DocumentError]) -> None:
    store = MemoryStore()
    store.fail("create_once", "a", error)
    with pytest.raises(error):
        await get_or_create_once(store, "a", maker(1))
    assert await store.get("a") is None
    assert (await get_or_create_once(store, "a", maker(2)))[1]
