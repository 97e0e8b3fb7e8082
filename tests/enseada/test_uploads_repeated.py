"""A PUT that has to be sent again: it broke off, a store failed, its answer was lost, its process was killed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from enseada.http import BodyError, RegistryError
from enseada.protocols.digests import Digest
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.blobs.memory import MemoryWriter
from enseada.storage.documents.base import Unavailable, Unknown
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from tests.enseada.upload_world import LentBody, World, at_step, new_session, payload

if TYPE_CHECKING:

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


async def code(call: Any) -> tuple[int, str]:
    with pytest.raises(RegistryError) as failure:
        await call
    return failure.value.status, failure.value.code


async def broken(world: World, session: Session, content: bytes, digest: Digest = DIGEST) -> None:
    """A PUT whose client goes away after ``content``."""
    with pytest.raises(BodyError):
        await world.put(session, LentBody(content, failure=GONE), digest)


# A PUT that is sent again


@pytest.mark.parametrize("before", [0, 30])
async def test_a_put_that_broke_off_can_be_repeated_whole(world: World, before: int) -> None:
    session = new_session()
    await world.patch(session, CONTENT[:before])
    await broken(world, session, CONTENT[before:60])
    assert await world.uploads.offset(session) == 60
    world.uploads = world.restarted()
    await broken(world, session, CONTENT[before:50])
    assert await world.uploads.offset(session) == 50
    await world.put(session, CONTENT[before:], DIGEST)
    assert await world.blob(DIGEST) == CONTENT
    world.check_nothing_leaks()


@pytest.mark.parametrize("before", [0, 30])
async def test_or_go_on_where_it_was(world: World, before: int) -> None:
    session = new_session()
    await world.patch(session, CONTENT[:before])
    await broken(world, session, CONTENT[before:60])
    await world.put(session, CONTENT[60:], DIGEST, span=(60, 100))
    assert await world.blob(DIGEST) == CONTENT


async def test_a_put_after_a_patch_does_not_repeat_an_older_put(world: World) -> None:
    session = new_session()
    await broken(world, session, CONTENT[:30])
    await world.patch(session, CONTENT[30:60])
    await world.put(session, CONTENT[60:], DIGEST)
    assert await world.blob(DIGEST) == CONTENT


async def test_nor_does_one_after_a_patch_that_was_killed(world: World, documents: MemoryDocuments) -> None:
    session = new_session()
    await broken(world, session, CONTENT[:30])
    quiet = trio.Event()
    async with trio.open_nursery() as nursery:
        body = LentBody(CONTENT[30:60], silence=quiet)
        nursery.start_soon(world.patch, session, body)
        await body.silent.wait()
        left = world.copy()
        quiet.set()
    assert await left.uploads.offset(session) == 30
    await left.put(session, CONTENT[30:], DIGEST)
    assert await left.blob(DIGEST) == CONTENT


@pytest.mark.parametrize("before", [0, 30, 100])
@pytest.mark.parametrize("error", [Unavailable, Unknown])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_put_whose_documents_failed_can_be_repeated(
    world: World, documents: MemoryDocuments, before: int, error: type[Exception], restarted: bool
) -> None:
    """Its bytes are final by then: they are neither cut off nor taken again."""
    session = new_session()
    await world.patch(session, CONTENT[:before])
    documents.fail("put_in_order", "blob:", error)
    with pytest.raises(error):
        await world.put(session, CONTENT[before:], DIGEST)
    world.check_nothing_leaks()
    assert await world.blob(DIGEST) is None
    assert await world.uploads.offset(session) == 100
    if restarted:
        world.uploads = world.restarted()
    if before < 100:
        await broken(world, session, CONTENT[before:60])
        assert await world.uploads.offset(session) == 100
    await world.put(session, CONTENT[before:], DIGEST)
    assert await world.blob(DIGEST) == CONTENT
    assert isinstance(world.store, MemoryBlobs)
    assert len(world.store.keys) == 1
    world.check_nothing_leaks()


@pytest.mark.parametrize(("operation", "parts"), [("flush", None), ("commit", None), ("commit", 30)])
async def test_a_put_whose_commit_failed_can_be_repeated(operation: Any, parts: int | None) -> None:
    store = MemoryBlobs(parts=parts)
    world = World(MemoryDocuments(), store)
    session = new_session()
    await world.patch(session, CONTENT[:30])
    store.fail(operation, after_bytes=31)
    assert await code(world.put(session, CONTENT[30:], DIGEST)) == (503, "UNAVAILABLE")
    assert await world.uploads.offset(session) == (90 if parts else 100)
    await world.put(session, CONTENT[30:], DIGEST)
    assert await world.blob(DIGEST) == CONTENT


async def test_a_put_that_was_saved_while_it_came_can_be_repeated_too(
    world: World, documents: MemoryDocuments
) -> None:
    world.policy = replace(world.policy, save_idle_bytes=1)
    world.uploads = world.restarted()
    session = new_session()
    quiet = trio.Event()

    async def first() -> None:
        documents.fail("put_in_order", "blob:")
        with pytest.raises(Unavailable):
            await world.put(session, body, DIGEST)

    async with trio.open_nursery() as nursery:
        body = LentBody(CONTENT, silence=quiet)
        nursery.start_soon(first)
        await body.silent.wait()
        await world.uploads.save_idle()
        quiet.set()
    assert await world.uploads.offset(session) == 100
    await world.put(session, CONTENT, DIGEST)
    assert await world.blob(DIGEST) == CONTENT


async def test_a_repeated_put_that_is_killed_at_any_step() -> None:
    """What GET says then is there, also while the upload goes back to where the PUT began."""
    number, left = 0, [World()]
    while left:
        number += 1
        world = World(MemoryDocuments(), MemoryBlobs())
        session = new_session()
        await world.patch(session, CONTENT[:30])
        await broken(world, session, CONTENT[30:60])
        left = []
        with at_step(number, lambda: left.append(world.copy())):  # noqa: B023
            await world.put(session, LentBody(CONTENT[30:], [40]), DIGEST)
        for each in left:
            if await each.blob(DIGEST) is None:
                at = await each.uploads.offset(session)
                document = await each.document(session)
                assert document is not None
                assert await each.read(document.data["key"], at) == CONTENT[:at]
                await each.put(session, CONTENT[30:], DIGEST)
            assert await each.blob(DIGEST) == CONTENT
    assert number > 20


async def test_a_put_that_is_repeated_after_kill_9_in_its_commit(
    world: World, store: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session says before the commit that all is there: GET's offset is true whether the blob is final or not."""
    session = new_session()
    await world.patch(session, CONTENT[:30])
    left: list[World] = []
    commit = MemoryWriter.commit

    async def killed(writer: MemoryWriter) -> None:
        left.append(world.copy())
        await commit(writer)
        left.append(world.copy())

    with monkeypatch.context() as patched:
        patched.setattr(MemoryWriter, "commit", killed)
        await world.put(session, CONTENT[30:], DIGEST)
    for each in left:
        assert await each.uploads.offset(session) == 100
        await each.put(session, CONTENT[30:], DIGEST)
        assert await each.blob(DIGEST) == CONTENT


async def test_a_put_whose_answer_was_lost_is_answered_from_the_session(world: World) -> None:
    session = new_session()
    assert await world.uploads.finished(session) is None
    await world.patch(session, CONTENT)
    assert await world.uploads.finished(session) is None
    await world.put(session, b"", DIGEST)
    assert await world.restarted().finished(session) == str(DIGEST)
    assert await code(world.put(session, b"", DIGEST)) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert await code(world.uploads.offset(session)) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_more_bytes_for_a_blob_that_is_final_are_refused(world: World, documents: MemoryDocuments) -> None:
    session = new_session()
    documents.fail("put_in_order", "blob:")
    with pytest.raises(Unavailable):
        await world.put(session, CONTENT, DIGEST)
    assert await code(world.patch(session, b"more")) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert await world.uploads.offset(session) == 100
    await world.put(session, b"", DIGEST)
    assert await world.blob(DIGEST) == CONTENT


@pytest.mark.parametrize("lost", ["twice", "with all knowledge of it"])
async def test_a_write_of_the_session_in_doubt_is_no_hindrance(
    world: World, documents: MemoryDocuments, lost: str
) -> None:
    """The answer to a save was lost: the PUT ends the session all the same."""
    world.policy = replace(world.policy, save_idle_bytes=1)
    world.uploads = world.restarted()
    session = new_session()
    quiet = trio.Event()
    async with trio.open_nursery() as nursery:
        body = LentBody(CONTENT, silence=quiet)
        nursery.start_soon(world.put, session, body, DIGEST)
        await body.silent.wait()
        if lost == "twice":
            documents.fail("put", error=Unknown, times=2, applied=True)
        else:
            documents.fail("put", error=Unknown, applied=True)
            documents.fail("get", session.document_id)
        await world.uploads.save_idle()
        quiet.set()
    assert await world.blob(DIGEST) == CONTENT
    assert await world.uploads.finished(session) == str(DIGEST)
