"""How uploads end: by their digest, by a wrong one, by DELETE, and twice at once."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from enseada.http import BodyError, RegistryError
from enseada.protocols.digests import Digest
from enseada.storage.blobs.base import BlobUnavailable
from enseada.storage.blobs.local import LocalStore
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.blobs.memory import MemoryWriter
from enseada.storage.documents.base import DocumentError, Unavailable
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.storage.documents.sqlite import SQLiteStore
from tests.cancel import cancel_at_every_checkpoint
from tests.enseada.upload_world import LentBody, OneByOne, World, new_session, payload

if TYPE_CHECKING:
    from pathlib import Path

    from enseada.blobs import Blob
    from enseada.protocols.oci.session import Session

GONE = BodyError("the client has gone", None)
CONTENT = payload(100)
DIGEST = Digest.of(CONTENT)
OTHER_WAY = Digest.of(CONTENT, "sha512")
WRONG = Digest.of(b"something else")


@pytest.fixture
def documents() -> MemoryDocuments:
    return MemoryDocuments()


@pytest.fixture
def store() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def world(documents: MemoryDocuments, store: MemoryBlobs) -> World:
    return World(documents, store)


async def hangs(*_: object) -> None:
    await trio.sleep_forever()


async def code(call: Any) -> tuple[int, str]:
    with pytest.raises(RegistryError) as failure:
        await call
    return failure.value.status, failure.value.code


# The digest


@pytest.mark.parametrize("shape", ["post", "put", "patch", "patches"])
@pytest.mark.parametrize("digest", [WRONG, Digest.of(b"", "sha512")], ids=["sha256", "sha512"])
@pytest.mark.parametrize("parts", [None, 30])
async def test_a_wrong_digest_leaves_nothing(shape: str, digest: Digest, parts: int | None) -> None:
    store = MemoryBlobs(parts=parts)
    documents = MemoryDocuments()
    world = World(documents, store)
    session = new_session()
    before = {"post": 0, "put": 0, "patch": 90, "patches": 30}[shape]
    if before:
        await world.patch(session, CONTENT[:before])
    put = world.put(session, CONTENT[before:], digest, keep=shape != "post")
    assert await code(put) == (400, "DIGEST_INVALID")
    world.check_nothing_leaks()
    assert store.keys == []
    left = [] if not before else [session.document_id]
    assert list(documents._documents) == left
    if before:
        for call in (world.uploads.offset(session), world.patch(session, b"x"), world.put(session, b"", DIGEST)):
            assert await code(call) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert await world.uploads.finished(session) is None


async def test_bytes_of_a_wrong_digest_that_cannot_be_removed_are_logged(
    world: World, store: MemoryBlobs, caplog: pytest.LogCaptureFixture
) -> None:
    session = new_session()
    store.fail("abort")
    assert await code(world.put(session, CONTENT, WRONG)) == (400, "DIGEST_INVALID")
    assert "stay for now" in caplog.text
    world.check_nothing_leaks()


@pytest.mark.parametrize("digest", [WRONG, Digest.of(b"", "sha512")], ids=["sha256", "sha512"])
async def test_a_refusal_that_cannot_be_written_is_503_and_the_session_stays(
    world: World, documents: MemoryDocuments, digest: Digest
) -> None:
    session = new_session()
    await world.patch(session, CONTENT)
    documents.fail("put_in_order", "upload:")
    with pytest.raises(Unavailable):
        await world.put(session, b"", digest)
    world.check_nothing_leaks()
    assert await world.uploads.offset(session) == 100
    await world.put(session, b"", DIGEST)
    assert await world.blob(DIGEST) == CONTENT


@pytest.mark.parametrize("before", [0, 100])
async def test_an_algorithm_that_is_asked_for_at_the_end(world: World, before: int) -> None:
    """The stored bytes are read once more, if they were hashed in another way."""
    session = new_session()
    await world.patch(session, CONTENT[:before])
    await world.put(session, CONTENT[before:], OTHER_WAY)
    assert await world.blob(OTHER_WAY) == CONTENT
    world.check_nothing_leaks()


async def test_the_algorithm_that_is_known_is_the_one_that_runs(world: World, store: MemoryBlobs) -> None:
    store.fail("open", times=100)
    await world.put(new_session(), CONTENT, OTHER_WAY)
    session = new_session("sha512")
    await world.patch(session, CONTENT[:50])
    await world.put(session, CONTENT[50:], OTHER_WAY)
    store._faults.clear()
    assert await world.blob(OTHER_WAY) == CONTENT


async def test_refused_bytes_that_are_a_blob_already_stay() -> None:
    """They were published under one digest, nobody heard of it, and now another one is asked for, and wrong."""
    documents = OneByOne()
    world = World(documents, MemoryBlobs())
    session = new_session()
    await world.patch(session, CONTENT)
    documents.fail("put", session.document_id)
    with pytest.raises(Unavailable):
        await world.put(session, b"", DIGEST)
    assert await world.blob(DIGEST) == CONTENT
    assert await code(world.put(session, b"", Digest.of(b"", "sha512"))) == (400, "DIGEST_INVALID")
    assert await world.blob(DIGEST) == CONTENT


# DELETE


@pytest.mark.parametrize("parts", [None, 10])
async def test_a_cancelled_upload_is_gone(parts: int | None) -> None:
    store = MemoryBlobs(parts=parts)
    world = World(MemoryDocuments(), store)
    session = new_session()
    await world.patch(session, CONTENT)
    await world.restarted().cancel(session)
    assert store.keys == []
    world.check_nothing_leaks()
    for call in (
        world.uploads.offset(session),
        world.uploads.cancel(session),
        world.patch(session, b"x"),
        world.put(session, CONTENT, DIGEST),
    ):
        assert await code(call) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_so_is_one_that_was_only_begun(world: World) -> None:
    session = new_session()
    await world.uploads.cancel(session)
    assert await code(world.patch(session, b"x")) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_what_cannot_be_removed_is_logged(
    world: World, store: MemoryBlobs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = new_session()
    await world.patch(session, CONTENT)

    async def failing(state: bytes) -> None:
        raise BlobUnavailable("the disk is away")

    monkeypatch.setattr(store, "discard", failing)
    await world.uploads.cancel(session)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert session.document_id in caplog.text
    assert "the disk is away" in caplog.text
    assert await code(world.uploads.offset(session)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_cancellation_waits_for_the_writer(world: World, autojump_clock: trio.testing.MockClock) -> None:
    session = new_session()
    quiet = trio.Event()
    async with trio.open_nursery() as nursery:
        body = LentBody(CONTENT, silence=quiet)
        nursery.start_soon(world.patch, session, body)
        await body.silent.wait()
        assert await code(world.uploads.cancel(session)) == (503, "UNAVAILABLE")
        assert trio.current_time() == world.policy.lease_time
        nursery.start_soon(world.uploads.cancel, session)
        await trio.testing.wait_all_tasks_blocked()
        quiet.set()
    assert await code(world.uploads.offset(session)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_cancellation_cut_off_anywhere_leaves_all_or_nothing(world: World, store: MemoryBlobs) -> None:
    sessions: list[Session] = []

    async def make() -> None:
        sessions.append(new_session())
        with trio.CancelScope(shield=True):
            await world.patch(sessions[-1], CONTENT)
        await world.uploads.cancel(sessions[-1])

    async def after() -> None:
        world.check_nothing_leaks()
        with suppress(RegistryError):
            assert await world.uploads.offset(sessions[-1]) == len(store.keys) * 100
            await world.uploads.cancel(sessions[-1])
        assert store.keys == []

    assert await cancel_at_every_checkpoint(make, after) > 5


async def test_a_cancellation_does_not_wait_for_ever(
    world: World, documents: MemoryDocuments, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    session = new_session()
    await world.patch(session, CONTENT)
    with monkeypatch.context() as patched:
        patched.setattr(documents, "put", hangs)
        assert await code(world.uploads.cancel(session)) == (503, "UNAVAILABLE")
    assert trio.current_time() == world.policy.suspend_time
    assert await world.uploads.offset(session) == 100


@pytest.mark.parametrize("kind", ["patch", "put"])
async def test_a_cancellation_in_another_process_ends_the_writer(world: World, store: MemoryBlobs, kind: str) -> None:
    """Which finds out when it saves, and removes what it holds."""
    theirs = World(world.documents, store, world.policy)
    session = new_session()
    await world.patch(session, CONTENT[:10])
    quiet = trio.Event()
    answers: list[BaseException] = []

    async def ours() -> None:
        try:
            if kind == "patch":
                await world.patch(session, body)
            else:
                await world.put(session, body, DIGEST)
        except (RegistryError, DocumentError) as failure:
            answers.append(failure)

    async with trio.open_nursery() as nursery:
        body = LentBody(CONTENT[10:], silence=quiet)
        nursery.start_soon(ours)
        await body.silent.wait()
        await theirs.uploads.cancel(session)
        quiet.set()
    [answer] = answers
    assert isinstance(answer, RegistryError)
    assert answer.status == 404
    assert store.keys == []
    assert await world.blob(DIGEST) is None
    world.check_nothing_leaks()


# Twice at once


async def test_two_uploads_of_the_same_bytes_at_once_end_in_one_blob(world: World, store: MemoryBlobs) -> None:
    sessions = [new_session() for _ in range(5)]
    blobs = []

    async def push(session: Session) -> None:
        blobs.append(await world.put(session, LentBody(CONTENT, [30]), DIGEST))

    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(push, session)
    assert len({blob.key for blob in blobs}) == 1
    assert await world.blob(DIGEST) == CONTENT
    world.check_nothing_leaks()


async def test_who_comes_second_leaves_no_bytes(
    world: World, store: MemoryBlobs, caplog: pytest.LogCaptureFixture
) -> None:
    first = await world.put(new_session(), CONTENT, DIGEST)
    session = new_session()
    await world.patch(session, CONTENT)
    assert await world.put(session, b"", DIGEST) == first
    assert store.keys == [first.key]
    store.fail("abort")
    assert await world.put(new_session(), CONTENT, DIGEST) == first  # the blob is there, whatever stays beside it
    assert "stay for now" in caplog.text
    assert await world.blob(DIGEST) == CONTENT
    world.check_nothing_leaks()


async def test_who_loses_when_its_bytes_are_final_leaves_them_to_the_sweeper(
    world: World, store: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = MemoryWriter.commit
    winners: list[Blob] = []

    async def slow(writer: MemoryWriter) -> None:
        monkeypatch.undo()
        winners.append(await world.put(new_session(), CONTENT, DIGEST))
        await commit(writer)

    monkeypatch.setattr(MemoryWriter, "commit", slow)
    blob = await world.put(new_session(), CONTENT, DIGEST)
    assert [blob] == winners
    assert blob.key in store.keys
    assert await world.blob(DIGEST) == CONTENT
    world.check_nothing_leaks()


# Cancelled at every await


async def cancelled_puts(world: World, before: int, *, keep: bool = True, right: bool = True) -> None:
    """The blob is visible or the session is still there, or both; and the PUT may be sent again."""
    tried: list[tuple[Session, bytes]] = []

    def digest(content: bytes) -> Digest:
        return Digest.of(content) if right else WRONG

    async def make() -> None:
        session, content = new_session(), payload(100, len(tried))
        tried.append((session, content))
        with trio.CancelScope(shield=True):
            await world.patch(session, content[:before])
        await world.put(session, LentBody(content[before:], [40]), digest(content), keep=keep)

    async def make_refused() -> None:
        assert await code(make()) == (400, "DIGEST_INVALID")

    async def after() -> None:
        world.check_nothing_leaks()
        session, content = tried[-1]
        assert await world.blob(digest(content)) in (None, content)
        if not right:
            if await world.document(session) is None:
                return
            with suppress(RegistryError):
                await world.uploads.cancel(session)
        elif await world.uploads.finished(session) is None:
            await world.put(session, content[before:], digest(content))
            assert await world.blob(digest(content)) == content
        world.check_nothing_leaks()

    assert await cancel_at_every_checkpoint(make if right else make_refused, after) > 10


@pytest.mark.parametrize("before", [0, 30, 100])
@pytest.mark.parametrize("inline", [True, False])
async def test_a_put_cancelled_at_any_await_can_be_sent_again(before: int, inline: bool) -> None:
    await cancelled_puts(World(MemoryDocuments(), MemoryBlobs(inline=inline)), before)


@pytest.mark.parametrize("before", [0, 30])
async def test_also_on_the_local_disk_and_sqlite(tmp_path: Path, before: int) -> None:
    store = await LocalStore.at(tmp_path / "blobs", window=25)
    async with await SQLiteStore.open(tmp_path / "documents") as documents:
        await cancelled_puts(World(documents, store), before)


@pytest.mark.parametrize("before", [0, 30])
async def test_a_refusal_cancelled_at_any_await_leaves_a_session_or_nothing(store: MemoryBlobs, before: int) -> None:
    await cancelled_puts(World(MemoryDocuments(), store), before, right=False)
    assert store.keys == []


async def test_what_nobody_can_come_back_to_is_a_blob_or_nothing(store: MemoryBlobs) -> None:
    await cancelled_puts(World(MemoryDocuments(), store), 0, keep=False)
