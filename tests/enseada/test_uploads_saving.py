"""When sessions are saved while their bytes come: by size, by time, many at once, whatever happens to one of them."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from enseada.http import BodyError, RegistryError
from enseada.protocols.digests import Digest
from enseada.protocols.oci.upload import Input
from enseada.storage.blobs.local import LocalStore
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.blobs.memory import MemoryWriter
from enseada.storage.documents.base import Conflict, Document, Unavailable, Unknown
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.storage.documents.sqlite import SQLiteStore
from enseada.upload import Upload
from enseada.uploads import UploadPolicy
from tests.enseada.upload_world import LentBody, World, new_session, payload

if TYPE_CHECKING:
    from pathlib import Path

    from enseada.http import Chunk
    from enseada.protocols.oci.session import Session

GONE = BodyError("the client has gone", None)
CONTENT = payload(100)
DIGEST = Digest.of(CONTENT)
POLICY = UploadPolicy(save_bytes=30, save_idle_bytes=10)


def memory(*, parts: int | None = None, inline: bool = True) -> World:
    return World(MemoryDocuments(), MemoryBlobs(parts=parts, inline=inline), POLICY)


class Slow:
    """A PATCH whose client has sent ``count`` bytes and is silent; leaving the block, it sends nothing more."""

    def __init__(self, world: World, count: int, pieces: int = 10) -> None:
        self.world = world
        self.session: Session = new_session()
        self._quiet = trio.Event()
        self._body = LentBody(CONTENT[:count], [pieces], silence=self._quiet)
        self._nursery = trio.open_nursery()

    async def __aenter__(self) -> Slow:
        nursery = await self._nursery.__aenter__()
        nursery.start_soon(self.world.patch, self.session, self._body)
        await self._body.silent.wait()
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._quiet.set()
        await self._nursery.__aexit__(*raised)  # type: ignore[arg-type]

    @property
    def upload(self) -> Upload:
        """The upload, as the saving task sees it."""
        [upload] = [each for each in self.world.uploads._open if each._session == self.session]
        return upload

    async def offset(self) -> int:
        """What GET says, in another process."""
        return await self.world.restarted().offset(self.session)


async def saves(world: World, content: bytes, pieces: int = 1) -> list[int]:
    """The offsets at which a PATCH is saved."""
    documents = world.documents
    assert isinstance(documents, MemoryDocuments)
    seen: list[int] = []
    put = documents._put

    def recorded(doc, body):  # type: ignore[no-untyped-def]  # the store's own, watched
        seen.append(doc.data["saved"]["offset"])
        return put(doc, body)

    documents._put = recorded  # type: ignore[method-assign]
    await world.patch(new_session(), LentBody(content, [pieces]))
    return seen


# By size


@pytest.mark.parametrize("pieces", [1, 7, 100])
@pytest.mark.parametrize("inline", [True, False])
async def test_a_session_is_saved_whenever_so_much_more_is_durable(pieces: int, inline: bool) -> None:
    assert await saves(memory(parts=10, inline=inline), CONTENT, pieces) == [30, 60, 90, 100]


async def test_and_only_at_its_end_where_nothing_becomes_durable_by_itself() -> None:
    assert await saves(memory(), CONTENT) == [100]


async def test_after_kill_9_a_client_goes_on_from_the_last_save() -> None:
    world = memory(parts=10)
    async with Slow(world, 80) as slow:
        left = world.copy()
    assert await left.uploads.offset(slow.session) == 60
    await left.patch(slow.session, CONTENT[60:], span=(60, 100))
    await left.put(slow.session, b"", DIGEST)
    assert await left.blob(DIGEST) == CONTENT


@pytest.mark.parametrize("error", [Unavailable, Unknown])
async def test_a_save_on_the_way_that_fails_is_made_up_for_by_the_next(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """And is not tried again with every chunk."""
    world = memory(parts=10)
    assert isinstance(world.documents, MemoryDocuments)
    world.documents.fail("put", error=error, times=1 if error is Unavailable else 2)
    assert await saves(world, CONTENT, 5) == [60, 90, 100]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_document_that_stays_away_is_asked_once_a_step(caplog: pytest.LogCaptureFixture) -> None:
    world = memory(parts=10)
    assert isinstance(world.documents, MemoryDocuments)
    world.documents.fail("put", times=100)
    with pytest.raises(Unavailable):
        await world.patch(new_session(), LentBody(CONTENT, [1]))
    assert caplog.text.count("for now") == 3


async def test_who_has_lost_the_session_takes_no_more_bytes() -> None:
    world = memory(parts=10)
    session = new_session()
    await world.patch(session, CONTENT[:20])
    body = LentBody(CONTENT[20:], [10])

    async def push() -> None:
        async with world.uploads.open(session, Input.PATCH) as upload:
            document = await world.document(session)
            assert document is not None
            await world.documents.put(Document(document.id, {**document.data, "holder": "another"}, document.rev))
            await upload.receive(body)

    with pytest.raises(Conflict):
        await push()
    assert body.pulled == 30
    world.check_nothing_leaks()


# By time


@pytest.mark.parametrize("inline", [True, False])
async def test_slow_uploads_are_saved_while_their_clients_are_silent(inline: bool) -> None:
    world = memory(inline=inline)
    async with Slow(world, 20) as slow, Slow(world, 9) as slower:
        assert await slow.offset() == 0
        await world.uploads.save_idle()
        assert await slow.offset() == 20
        assert await slower.offset() == 0  # it has not gained enough
        left = world.copy()
    await left.patch(slow.session, CONTENT[20:], span=(20, 100))
    await left.put(slow.session, b"", DIGEST)
    assert await left.blob(DIGEST) == CONTENT
    assert await slower.offset() == 9
    world.check_nothing_leaks()


async def test_what_gained_nothing_since_is_not_saved_again() -> None:
    world = memory()
    assert isinstance(world.documents, MemoryDocuments)
    async with Slow(world, 20):
        await world.uploads.save_idle()
        before = world.documents._seq
        await world.uploads.save_idle()
        assert world.documents._seq == before


async def test_one_byte_is_no_place_to_rest() -> None:
    world = memory()
    world.policy = replace(POLICY, save_idle_bytes=1)
    world.uploads = world.restarted()
    async with Slow(world, 1) as slow:
        await world.uploads.save_idle()
        assert await slow.offset() == 0


async def test_nothing_is_saved_in_the_midst_of_a_write(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A writer is used by one task at a time."""
    world = memory(inline=False)
    session = new_session()
    stored = trio.Event()
    writing = trio.Event()
    write = MemoryWriter.write

    async def slow(writer: MemoryWriter, data: Chunk) -> None:
        writing.set()
        await stored.wait()
        await write(writer, data)

    async with trio.open_nursery() as nursery:
        monkeypatch.setattr(MemoryWriter, "write", slow)
        with monkeypatch.context() as patched:
            patched.setattr(MemoryWriter, "flush", fails)
            patched.setattr(Upload, "gained", 1000)
            nursery.start_soon(world.patch, session, CONTENT)
            await writing.wait()
            await world.uploads.save_idle()
        stored.set()
    assert caplog.records == []
    assert await world.uploads.offset(session) == 100


async def test_the_task_saves_in_its_interval(autojump_clock: trio.testing.MockClock) -> None:
    world = memory()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.uploads.run)
        async with Slow(world, 20) as slow:
            await trio.sleep(world.policy.save_interval - 1)
            assert await slow.offset() == 0
            await trio.sleep(2)
            assert await slow.offset() == 20
        nursery.cancel_scope.cancel()


async def test_many_uploads_share_a_commit(tmp_path: Path) -> None:
    async with await SQLiteStore.open(tmp_path / "documents") as documents, AsyncExitStack() as stack:
        world = World(documents, MemoryBlobs(), POLICY)
        slow = [await stack.enter_async_context(Slow(world, 20)) for _ in range(40)]
        before = documents.commits
        await world.uploads.save_idle()
        assert documents.commits - before <= 2
        assert [await each.offset() for each in slow] == [20] * 40


async def test_slow_uploads_to_the_local_disk(tmp_path: Path) -> None:
    store = await LocalStore.at(tmp_path / "blobs")
    async with await SQLiteStore.open(tmp_path / "documents") as documents, AsyncExitStack() as stack:
        world = World(documents, store, POLICY)
        slow = [await stack.enter_async_context(Slow(world, 20 + number)) for number in range(5)]
        await world.uploads.save_idle()
        assert [await each.offset() for each in slow] == [20, 21, 22, 23, 24]
        for number, each in enumerate(slow):
            document = await world.document(each.session)
            assert document is not None
            assert await world.read(document.data["key"]) == CONTENT[: 20 + number]


# Whatever happens to one of them


async def fails(*_: object) -> None:
    raise RuntimeError("a defect")


async def hangs(*_: object) -> None:
    await trio.sleep_forever()


async def test_a_defect_in_one_upload_ends_neither_the_task_nor_the_saving_of_others(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = memory()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.uploads.run)
        async with AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(Slow(world, 20)) for _ in range(5)]
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(slow[2].upload._writer, "flush", fails)
                await trio.sleep(world.policy.save_interval + 1)
                assert [await each.offset() for each in slow] == [20, 20, 0, 20, 20]
            assert "a defect" in caplog.text
            await trio.sleep(world.policy.save_interval)
            assert await slow[2].offset() == 20
        nursery.cancel_scope.cancel()
    world.check_nothing_leaks()


@pytest.mark.parametrize("fault", ["flush", "put"])
async def test_a_store_that_fails_is_tried_again_at_the_next_turn(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = memory()
    async with Slow(world, 20) as slow:
        if fault == "flush":
            assert isinstance(world.store, MemoryBlobs)
            world.store.fail("flush")
        else:
            assert isinstance(world.documents, MemoryDocuments)
            world.documents.fail("put")
        await world.uploads.save_idle()
        assert await slow.offset() == 0
        await world.uploads.save_idle()
        assert await slow.offset() == 20
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("stuck", ["flush", "put"])
async def test_a_save_that_hangs_holds_up_nobody_for_ever(
    stuck: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request that breaks off waits for its last moments, and no longer; nothing of it goes on after that."""
    world = memory()
    session = new_session()
    saved = trio.Event()

    async def save() -> None:
        await world.uploads.save_idle()
        saved.set()

    async with trio.open_nursery() as nursery:
        quiet = trio.Event()
        body = LentBody(CONTENT[:20], silence=quiet, failure=GONE)

        async def push() -> None:
            with pytest.raises(BodyError):
                await world.patch(session, body)

        with monkeypatch.context() as patched:
            nursery.start_soon(push)
            await body.silent.wait()
            if stuck == "flush":
                patched.setattr(MemoryWriter, "flush", hangs)
            else:
                patched.setattr(world.documents, "put", hangs)
            nursery.start_soon(save)
            await trio.testing.wait_all_tasks_blocked()
            quiet.set()
            await saved.wait()
            assert trio.current_time() == world.policy.suspend_time
    world.check_nothing_leaks()
    await world.patch(session, CONTENT[:50])
    assert await world.uploads.offset(session) == 50


@pytest.mark.parametrize("ending", ["rest", "finish", "break", "refuse"])
async def test_saving_races_with_every_ending(ending: str) -> None:
    """The save begins at each step of the request's end, and hurts neither."""

    digest = Digest.of(CONTENT[:50])

    async def race(start: int, world: World) -> bool:
        session = new_session()
        quiet = trio.Event()
        ended = trio.Event()
        body = LentBody(CONTENT[:50], silence=quiet, failure=GONE if ending == "break" else None)

        async def request() -> None:
            if ending == "rest":
                await world.patch(session, body)
            elif ending == "break":
                with pytest.raises(BodyError):
                    await world.patch(session, body)
            elif ending == "finish":
                await world.put(session, body, digest)
            else:
                with pytest.raises(RegistryError):
                    await world.put(session, body, DIGEST)
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(request)
            await body.silent.wait()
            quiet.set()
            for _ in range(start):
                await trio.lowlevel.checkpoint()
            over = ended.is_set()
            await world.uploads.save_idle()
        world.check_nothing_leaks()
        if ending in ("rest", "break"):
            assert await world.restarted().offset(session) == 50
        elif ending == "finish":
            assert await world.blob(digest) == CONTENT[:50]
        else:
            assert isinstance(world.store, MemoryBlobs)
            assert world.store.keys == []
        return over

    start = 0
    while not await race(start, memory()):
        start += 1
    assert start > 3
