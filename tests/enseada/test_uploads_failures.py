"""What is left of an upload when a store fails, hangs or answers late, and when its request is cancelled anywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
from enseada.uploads import UploadPolicy
from tests.cancel import cancel_at_every_checkpoint
from tests.enseada.upload_world import LentBody, World, new_session, payload

if TYPE_CHECKING:
    from pathlib import Path

    from enseada.protocols.oci.session import Session

GONE = BodyError("the client has gone", None)
CONTENT = payload(100)
DIGEST = Digest.of(CONTENT)
WEEK = 7 * 24 * 3600


def memory(**stores: Any) -> World:
    return World(MemoryDocuments(), MemoryBlobs(**stores), UploadPolicy(save_idle_bytes=1))


async def refused(status: int, call: Any) -> RegistryError:
    with pytest.raises(RegistryError) as failure:
        await call
    assert failure.value.status == status
    return failure.value


async def in_pieces(world: World, session: Session, stops: list[int]) -> None:
    """PATCHes up to each of the offsets, each in a new process."""
    for stop in stops:
        world.uploads = world.restarted()
        at = await world.uploads.offset(session)
        assert await world.patch(session, CONTENT[at:stop], span=(at, stop)) == stop
        assert await world.restarted().offset(session) == stop
        world.check_nothing_leaks()


# What failures leave


async def test_a_request_that_brings_nothing_leaves_nothing() -> None:
    world = memory()
    session = new_session()
    assert await world.patch(session, b"") == 0
    with pytest.raises(BodyError):
        await world.patch(session, LentBody(b"", failure=GONE))
    assert isinstance(world.store, MemoryBlobs)
    assert world.store.keys == []
    assert await world.document(session) is None


@pytest.mark.parametrize("error", [Unavailable, Unknown, Conflict])
async def test_a_save_that_fails_once_is_done_again(error: type[Exception]) -> None:
    world = memory()
    assert isinstance(world.documents, MemoryDocuments)
    session = new_session()
    world.documents.fail("put", error=error)
    if error is Unavailable:
        with pytest.raises(Unavailable):  # and it is that which the client is told
            await world.patch(session, CONTENT)
    else:
        await world.patch(session, CONTENT)
    assert await world.uploads.offset(session) == 100
    world.check_nothing_leaks()


@pytest.mark.parametrize("applied", [False, True])
async def test_a_save_whose_answer_is_lost_again_and_again(applied: bool) -> None:
    world = memory()
    assert isinstance(world.documents, MemoryDocuments)
    session = new_session()
    await in_pieces(world, session, [10])
    world.documents.fail("put", error=Unknown, times=10, applied=applied)
    with pytest.raises(Unknown):
        await world.patch(session, CONTENT[10:50])
    world.heal()
    world.check_nothing_leaks()
    assert await world.uploads.offset(session) == (50 if applied else 10)
    await in_pieces(world, session, [60, 100])
    await world.put(session, b"", DIGEST)
    assert await world.blob(DIGEST) == CONTENT


async def test_when_nothing_can_be_saved_the_session_is_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    world = memory()
    assert isinstance(world.documents, MemoryDocuments)
    assert isinstance(world.store, MemoryBlobs)
    session, other = new_session(), new_session()
    await in_pieces(world, session, [10])
    world.documents.fail("put", times=100)
    for each in (session, other):
        with pytest.raises(Unavailable):
            await world.patch(each, CONTENT[10:])
    world.heal()
    world.check_nothing_leaks()
    assert len(world.store.keys) == 1  # what nobody will ever know of is removed
    assert await world.uploads.offset(session) == 10
    assert await world.uploads.offset(other) == 0
    assert caplog.text.count("could not be saved") == 2
    await in_pieces(world, session, [100])


@pytest.mark.parametrize("operation", ["create", "write"])
async def test_a_store_that_takes_nothing_now_is_503(operation: Any) -> None:
    world = memory()
    assert isinstance(world.store, MemoryBlobs)
    world.store.fail(operation)
    session = new_session()
    failure = await refused(503, world.patch(session, CONTENT))
    assert "Retry-After" in dict(failure.headers)
    assert world.store.keys == []
    await in_pieces(world, session, [100])


async def test_what_the_store_could_not_keep_is_not_acknowledged() -> None:
    world = memory(parts=30)
    session = new_session()
    await refused(503, world.patch(session, CONTENT[:80]))
    assert await world.uploads.offset(session) == 60
    assert isinstance(world.store, MemoryBlobs)
    await refused(503, world.patch(new_session(), CONTENT[:20]))
    assert len(world.store.keys) == 1
    world.check_nothing_leaks()


async def test_a_flush_that_fails_is_made_up_for_when_the_upload_is_let_go_of() -> None:
    world = memory()
    assert isinstance(world.store, MemoryBlobs)
    world.store.fail("flush")
    session = new_session()
    await world.patch(session, CONTENT)
    assert await world.uploads.offset(session) == 100


async def test_a_session_is_saved_before_its_bytes_are_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another process could take them up where they were before, and cut off what was acknowledged."""
    world = memory()
    session = new_session()
    suspend = MemoryWriter.suspend
    said: list[int] = []

    async def watched(writer: MemoryWriter) -> int:
        said.append(await world.restarted().offset(session))
        return await suspend(writer)

    monkeypatch.setattr(MemoryWriter, "suspend", watched)
    await world.patch(session, CONTENT)
    assert said == [100]


async def test_who_read_the_session_too_early_does_not_write_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process saved more, and let go, between our look at the document and our taking of the bytes."""
    world = memory()
    store = world.store
    assert isinstance(store, MemoryBlobs)
    theirs = World(world.documents, store, world.policy)
    session = new_session()
    await world.patch(session, CONTENT[:10])
    resume = store.resume

    async def late(state: bytes) -> MemoryWriter:
        monkeypatch.undo()
        await theirs.patch(session, CONTENT[10:40])
        return await resume(state)

    monkeypatch.setattr(store, "resume", late)
    body = LentBody(CONTENT[10:])
    await refused(404, world.patch(session, body))
    assert body.pulled == 0
    await refused(404, world.uploads.offset(session))
    world.check_nothing_leaks()


async def test_a_doubt_stays_until_a_write_has_settled_it() -> None:
    world = memory()
    documents = world.documents
    assert isinstance(documents, MemoryDocuments)
    session = new_session()
    quiet = trio.Event()

    async def push() -> None:
        with pytest.raises(Unavailable):
            await world.patch(session, body)

    async with trio.open_nursery() as nursery:
        body = LentBody(CONTENT, silence=quiet)
        nursery.start_soon(push)
        await body.silent.wait()
        documents.fail("put", error=Unknown, applied=True)
        documents.fail("get", session.document_id)
        await world.uploads.save_idle()
        documents.fail("put", times=2)
        quiet.set()
    assert world.uploads.in_doubt == {session.document_id}
    assert await world.uploads.offset(session) == 100
    await world.put(session, b"", DIGEST)
    assert not world.uploads.in_doubt
    assert await world.blob(DIGEST) == CONTENT


async def test_bytes_that_are_gone_end_the_session() -> None:
    world = memory()
    session = new_session()
    await in_pieces(world, session, [10])
    assert isinstance(world.store, MemoryBlobs)
    await world.store.delete(world.store.keys[0])
    assert (await refused(404, world.patch(session, CONTENT[10:]))).code == "BLOB_UPLOAD_UNKNOWN"
    assert (await refused(404, world.uploads.offset(session))).code == "BLOB_UPLOAD_UNKNOWN"


async def test_a_store_that_hangs_does_not_hold_a_broken_upload_for_ever(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = memory()
    session = new_session()
    await in_pieces(world, session, [10])
    with monkeypatch.context() as hanging:
        hanging.setattr(MemoryWriter, "flush", hangs)
        with pytest.raises(BodyError):
            await world.patch(session, LentBody(CONTENT[10:50], failure=GONE))
    assert trio.current_time() == world.policy.suspend_time
    assert "in time" in caplog.text
    world.check_nothing_leaks()
    assert await world.uploads.offset(session) == 10
    await in_pieces(world, session, [100])


async def hangs(*_: object) -> None:
    await trio.sleep_forever()


class LateDocuments(MemoryDocuments):
    """Documents whose next put is never answered, and is done when ``release`` is set."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__()
        self.armed = False
        self.release = trio.Event()
        self.outcome: list[object] = []
        self._nursery = nursery

    async def put(self, doc: Document) -> Document:
        if not self.armed:
            return await super().put(doc)
        self.armed = False
        self._nursery.start_soon(self._late, doc)
        await trio.sleep_forever()
        raise AssertionError

    async def _late(self, doc: Document) -> None:
        await self.release.wait()
        try:
            self.outcome.append(await super().put(doc))
        except Conflict as conflict:
            self.outcome.append(conflict)


async def test_a_save_that_lands_late_does_not_speak_of_the_bytes_of_the_next_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        documents = LateDocuments(nursery)
        world = World(documents, MemoryBlobs())
        session = new_session()
        await world.patch(session, CONTENT[:10])
        documents.armed = True
        with pytest.raises(BodyError):
            await world.patch(session, LentBody(b"y" * 30, failure=GONE))
        assert await world.uploads.offset(session) == 10
        quiet = trio.Event()
        body = LentBody(CONTENT[10:40], silence=quiet)
        nursery.start_soon(world.patch, session, body)
        await body.silent.wait()
        documents.release.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert isinstance(documents.outcome[0], Conflict)
        quiet.set()
    assert await world.uploads.offset(session) == 40
    assert not world.uploads.in_doubt
    await world.put(session, CONTENT[40:], DIGEST)
    assert await world.blob(DIGEST) == CONTENT


async def test_who_finds_that_another_has_the_session_does_not_write_over_it() -> None:
    world = memory()
    session = new_session()
    await in_pieces(world, session, [10])
    async with world.uploads.open(session, Input.PATCH) as upload:
        await upload.receive(LentBody(CONTENT[10:20]))
        document = await world.document(session)
        assert document is not None
        theirs = await world.documents.put(Document(document.id, {**document.data, "holder": "another"}, document.rev))
        with pytest.raises(Conflict):
            await upload.rest()
        await upload.abandon()
    assert await world.document(session) == theirs


async def test_what_nobody_can_come_back_to_is_never_saved_and_is_removed() -> None:
    world = memory(parts=10)
    world.policy = replace(world.policy, save_bytes=1)
    world.uploads = world.restarted()
    assert isinstance(world.store, MemoryBlobs)
    session = new_session()
    quiet = trio.Event()

    async def push() -> None:
        with pytest.raises(BodyError):
            await world.put(session, LentBody(CONTENT, [7], silence=quiet, failure=GONE), DIGEST, keep=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        await trio.testing.wait_all_tasks_blocked()
        await world.uploads.save_idle()
        assert len(world.store.keys) == 1
        assert await world.document(session) is None
        quiet.set()
    assert world.store.keys == []
    assert await world.document(session) is None
    await world.put(session, CONTENT, DIGEST, keep=False)
    assert await world.document(session) is None
    assert await world.blob(DIGEST) == CONTENT
    world.check_nothing_leaks()


# Cancelled at every await


async def check_sound(world: World, session: Session, least: int) -> None:
    """The upload can go on where GET says, and ends well."""
    world.check_nothing_leaks()
    at = await world.restarted().offset(session)
    assert least <= at <= 70
    if at:
        document = await world.document(session)
        assert document is not None
        assert await world.read(document.data["key"], at) == CONTENT[:at]
    await world.patch(session, CONTENT[at:], span=(at, 100))
    await world.put(session, b"", DIGEST)
    assert await world.blob(DIGEST) == CONTENT


async def cancelled_patches(world: World, before: int) -> None:
    sessions: list[Session] = []

    async def make() -> None:
        sessions.append(new_session())
        if before:
            with trio.CancelScope(shield=True):
                await world.patch(sessions[-1], CONTENT[:before])
        await world.patch(sessions[-1], LentBody(CONTENT[before:70], [20]))

    async def after() -> None:
        await check_sound(world, sessions[-1], before)

    assert await cancel_at_every_checkpoint(make, after) > 10


@pytest.mark.parametrize("before", [0, 10])
@pytest.mark.parametrize("inline", [True, False])
async def test_a_patch_cancelled_at_any_await_leaves_a_sound_session(inline: bool, before: int) -> None:
    await cancelled_patches(memory(inline=inline), before)


@pytest.mark.parametrize("before", [0, 10])
async def test_also_on_the_local_disk_and_sqlite(tmp_path: Path, before: int) -> None:
    store = await LocalStore.at(tmp_path / "blobs", window=15)
    async with await SQLiteStore.open(tmp_path / "documents") as documents:
        await cancelled_patches(World(documents, store), before)
    assert len([path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]) == 1
