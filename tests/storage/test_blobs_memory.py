"""Blobs in memory: the suite in each of its guises, and the faults that it has to order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
import pytest

from enseada.http import Span
from enseada.storage.blobs.base import BlobLost, BlobMissing, BlobUnavailable
from enseada.storage.blobs.memory import MemoryStore
from tests.storage.blob_suite import BlobSuite, payload, put, read, write

if TYPE_CHECKING:
    from pathlib import Path

    from enseada.storage.blobs.base import BlobStore


class TestMemory(BlobSuite):
    size = 200_000

    async def make(self, folder: Path) -> BlobStore:
        return MemoryStore()


class TestMemoryNotInline(BlobSuite):
    size = 100

    async def make(self, folder: Path) -> BlobStore:
        return MemoryStore(inline=False)


class TestMemoryByParts(BlobSuite):
    size = 100

    async def make(self, folder: Path) -> BlobStore:
        return MemoryStore(parts=40)


class TestMemoryByPartsNotInline(BlobSuite):
    size = 100

    async def make(self, folder: Path) -> BlobStore:
        return MemoryStore(parts=7, inline=False)


async def test_a_write_fails_at_the_byte_that_was_ordered() -> None:
    store = MemoryStore()
    store.fail("write", after_bytes=10)
    writer = await store.create(store.new_key(), None)
    await writer.write(bytes(10))
    with pytest.raises(BlobUnavailable, match="ordered"):
        await writer.write(b"x")
    assert writer.offset == 10
    await writer.write(b"x")
    assert writer.offset == 11


async def test_a_write_that_goes_over_the_byte_fails_whole() -> None:
    store = MemoryStore()
    store.fail("write", after_bytes=10)
    writer = await store.create(store.new_key(), None)
    with pytest.raises(BlobUnavailable):
        await writer.write(bytes(11))
    assert writer.offset == 0
    assert await writer.suspend() == 0


async def test_a_failed_write_loses_the_part_and_no_more() -> None:
    store = MemoryStore(parts=10)
    store.fail("write", after_bytes=15)
    key = store.new_key()
    writer = await store.create(key, None)
    await write(writer, payload(15))
    with pytest.raises(BlobUnavailable, match="ordered"):
        await writer.write(b"x")
    for again in (writer.write(b"x"), writer.flush(), writer.commit()):
        with pytest.raises(BlobUnavailable, match="goes on from 10"):
            await again
    assert (writer.offset, await writer.suspend()) == (15, 10)
    writer = await store.resume(writer.state(10))
    await write(writer, payload(30)[10:])
    await writer.commit()
    assert await read(store, Span(key)) == payload(30)


async def test_by_parts_a_flush_makes_nothing_durable() -> None:
    store = MemoryStore(parts=10)
    writer = await store.create(store.new_key(), None)
    await write(writer, bytes(19))
    await writer.flush()
    assert (writer.durable, writer.boundary) == (10, 20)
    assert await writer.suspend() == 10


async def test_a_fault_strikes_as_often_as_ordered_with_the_error_ordered() -> None:
    store = MemoryStore()
    store.fail("create", times=2, error=OSError("the error itself"))
    for _ in range(2):
        with pytest.raises(OSError, match="the error itself"):
            await store.create(store.new_key(), None)
    writer = await store.create(store.new_key(), None)
    store.fail("flush", times=math.inf, error=BlobLost)
    for _ in range(3):
        with pytest.raises(BlobLost):
            await writer.flush()
    store.fail("abort")
    with pytest.raises(BlobUnavailable):
        await writer.abort()
    await writer.abort()
    assert store.keys == []


async def test_a_commit_that_failed_may_be_called_again() -> None:
    store = MemoryStore()
    key = store.new_key()
    writer = await store.create(key, None)
    await writer.write(b"data")
    store.fail("commit")
    with pytest.raises(BlobUnavailable):
        await writer.commit()
    await writer.commit()
    assert await read(store, Span(key)) == b"data"


async def test_suspend_gives_up_what_a_failing_store_does_not_take() -> None:
    store = MemoryStore()
    writer = await store.create(store.new_key(), None)
    await writer.write(b"durable")
    await writer.flush()
    await writer.write(b", lost")
    store.fail("suspend")
    assert await writer.suspend() == 7
    resumed = await store.resume(writer.state(7))
    assert resumed.offset == 7


async def test_reading_fails_at_the_byte_that_was_ordered() -> None:
    store = MemoryStore()
    key = await put(store, payload(100))
    store.fail("open")
    with pytest.raises(BlobUnavailable):
        await store.open(Span(key))
    store.fail("read", after_bytes=50)
    assert await read(store, Span(key, 0, 50)) == payload(50)
    content = await store.open(Span(key, 40, 60))
    with pytest.raises(BlobUnavailable):
        await content.__anext__()
    assert await content.__anext__() == payload(100)[40:60]


async def test_a_resumption_can_fail() -> None:
    store = MemoryStore()
    writer = await store.create(store.new_key(), None)
    state = writer.state(await writer.suspend())
    store.fail("resume")
    with pytest.raises(BlobUnavailable):
        await store.resume(state)
    await store.resume(state)


async def test_a_crash_kills_writers_and_leaves_what_is_durable() -> None:
    store = MemoryStore()
    key = store.new_key()
    writer = await store.create(key, None)
    await writer.write(b"durable")
    await writer.flush()
    await writer.write(b", lost")
    store.crash()
    for dead in (writer.write(b"x"), writer.flush(), writer.commit()):
        with pytest.raises(RuntimeError, match="ended"):
            await dead
    await writer.abort()
    assert await read(store, Span(key)) == b"durable"
    resumed = await store.resume(writer.state(7))
    await resumed.commit()
    assert await read(store, Span(key)) == b"durable"


async def test_what_was_removed_cannot_be_committed() -> None:
    store = MemoryStore()
    key = store.new_key()
    writer = await store.create(key, None)
    await store.delete(key)
    with pytest.raises(BlobUnavailable):
        await writer.commit()
    with pytest.raises(BlobMissing):
        await store.size(key)


async def test_a_writer_that_is_not_inline_takes_the_chunk_late() -> None:
    """So that a caller who lends it the shared buffer is found out."""
    store = MemoryStore(inline=False)
    key = store.new_key()
    writer = await store.create(key, None)
    buffer = bytearray(b"lent")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.write, memoryview(buffer))
        await anyio.lowlevel.checkpoint()
        buffer[:] = b"\xdd" * 4
    await writer.commit()
    assert await read(store, Span(key)) == b"\xdd" * 4


def test_a_part_has_a_size() -> None:
    with pytest.raises(ValueError, match="one byte"):
        MemoryStore(parts=0)
