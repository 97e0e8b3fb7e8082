from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from enseada.storage.documents.base import Conflict, Document, Unavailable, Unknown
from enseada.storage.documents.memorycluster import ClusterMemoryStore
from tests.storage.document_suite import BACKENDS, CHECKS, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@asynccontextmanager
async def _make() -> AsyncIterator[ClusterMemoryStore]:
    store = ClusterMemoryStore()
    try:
        yield store
    finally:
        await store.aclose()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("check", CHECKS)
def test_suite(check: Callable[[Any], Awaitable[None]], backend: str) -> None:
    run(check, _make, backend)


async def test_the_ordered_call_fails() -> None:
    store = ClusterMemoryStore()
    store.fail("put", "tag:", skip=1, times=2)
    tag = await store.put(Document("tag:a", {}))
    await store.put(Document("blob:a", {}))
    for _ in range(2):
        with pytest.raises(Unavailable) as failure:
            await store.put(Document("tag:a", {"n": 1}, tag.rev))
        assert failure.value.id == "tag:a"
    assert await store.get("tag:a") == tag
    await store.put(Document("tag:a", {"n": 1}, tag.rev))


async def test_a_lost_answer_was_applied() -> None:
    store = ClusterMemoryStore()
    store.fail("create_once", error=Unknown, applied=True)
    with pytest.raises(Unknown):
        await store.create_once(Document("a", {"n": 1}))
    doc = await store.get("a")
    assert doc is not None
    assert doc.data == {"n": 1}


async def test_a_failing_batch() -> None:
    store = ClusterMemoryStore()
    store.fail("put_in_order", "b")
    with pytest.raises(Unavailable):
        await store.put_in_order([Document("a", {}), Document("b", {})])
    first = await store.get("a")  # What stands before the failed one stays.
    assert first is not None
    await store.delete(first)
    store.fail("put_many", "b", Unknown, applied=True)
    a, b = await store.put_many([Document("a", {}), Document("b", {})])
    assert isinstance(a, Document)
    assert isinstance(b, Unknown)
    assert await store.get("b") is not None
    with pytest.raises(Conflict):
        await store.put(Document("b", {}))
