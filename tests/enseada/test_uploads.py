"""Upload sessions over requests and processes: where they are, whose turn it is, and when they are too old."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from enseada.http import BodyError, RegistryError
from enseada.protocols.digests import Digest
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import Document
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.uploads import UploadPolicy
from tests.enseada.upload_world import NOW, LentBody, World, new_session, payload

if TYPE_CHECKING:

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


# Where a session is


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("parts", [None, 10])
async def test_each_request_goes_on_where_the_last_one_was_in_another_process(parts: int | None, inline: bool) -> None:
    world = memory(parts=parts, inline=inline)
    session = new_session()
    assert await world.uploads.offset(session) == 0
    await in_pieces(world, session, [10, 30, 70])
    world.uploads = world.restarted()
    await world.put(session, CONTENT[70:], DIGEST, span=(70, 100))
    assert await world.blob(DIGEST) == CONTENT
    world.check_nothing_leaks()


async def test_no_byte_is_read_twice() -> None:
    world = memory()
    assert isinstance(world.store, MemoryBlobs)
    world.store.fail("open", times=1000)
    session = new_session()
    await in_pieces(world, session, [10, 70])
    await world.put(session, CONTENT[70:], DIGEST)
    world.heal()
    assert await world.blob(DIGEST) == CONTENT


async def test_where_the_hash_cannot_be_saved_the_stored_bytes_are_read_again() -> None:
    world = memory()
    world.policy = replace(world.policy, resumable_hash=False)
    world.uploads = world.restarted()
    session = new_session()
    await in_pieces(world, session, [10, 70])
    document = await world.document(session)
    assert document is not None
    assert document.data["saved"]["hash"] is None
    await world.put(session, CONTENT[70:], DIGEST)
    assert await world.blob(DIGEST) == CONTENT


@pytest.mark.parametrize("state", ["bm9uc2Vuc2U=", None])
async def test_a_hash_state_that_cannot_be_used_is_as_good_as_none(state: str | None) -> None:
    world = memory()
    session = new_session()
    await in_pieces(world, session, [10])
    document = await world.document(session)
    assert document is not None
    saved = {**document.data["saved"], "hash": state}
    await world.documents.put(Document(document.id, {**document.data, "saved": saved}, document.rev))
    await world.put(session, CONTENT[10:], DIGEST)
    assert await world.blob(DIGEST) == CONTENT


async def test_when_the_stored_bytes_cannot_be_read_again_the_upload_stays() -> None:
    world = memory()
    assert isinstance(world.store, MemoryBlobs)
    world.policy = replace(world.policy, resumable_hash=False)
    world.uploads = world.restarted()
    session = new_session()
    await in_pieces(world, session, [10])
    world.store.fail("read")
    await refused(503, world.patch(session, CONTENT[10:]))
    world.check_nothing_leaks()
    assert await world.uploads.offset(session) == 10
    await in_pieces(world, session, [100])


async def test_a_chunk_in_the_wrong_place_is_told_so_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """Also while another request has the upload, for which a chunk in the right place waits."""
    world = memory()
    session = new_session()
    await in_pieces(world, session, [10])
    quiet = trio.Event()
    async with trio.open_nursery() as nursery:
        body = LentBody(CONTENT[10:20], silence=quiet)
        nursery.start_soon(world.patch, session, body)
        await body.silent.wait()
        for first in (9, 11, 20):
            failure = await refused(416, world.patch(session, b"x", span=(first, first + 1)))
            assert ("Range", "0-9") in failure.headers
        assert trio.current_time() == 0
        failure = await refused(503, world.patch(session, b"x", span=(10, 11)))
        assert "Retry-After" in dict(failure.headers)
        assert trio.current_time() == world.policy.lease_time
        quiet.set()
    assert await world.uploads.offset(session) == 20


async def test_a_chunk_in_the_right_place_waits_its_turn(autojump_clock: trio.testing.MockClock) -> None:
    world = memory()
    session = new_session()
    quiet = trio.Event()
    body = LentBody(CONTENT[:20], silence=quiet, failure=GONE)
    told: list[int] = []

    async def first() -> None:
        with pytest.raises(BodyError):
            await world.patch(session, body)

    async def second() -> None:
        told.append(await world.patch(session, CONTENT[20:30]))

    async def third() -> None:
        # Where it belonged when it came, and does not when its turn has come.
        failure = await refused(416, world.patch(session, CONTENT[:5], span=(0, 5)))
        assert ("Range", "0-29") in failure.headers

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await body.silent.wait()
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(third)
        await trio.sleep(world.policy.lease_time - 1)
        assert told == []
        quiet.set()
    assert told == [30]
    world.check_nothing_leaks()


async def test_another_process_waits_for_the_writer_too(autojump_clock: trio.testing.MockClock) -> None:
    """And goes on from where that one was when it let go, not from where it was when the waiting began."""
    ours = memory()
    theirs = World(ours.documents, ours.store, ours.policy)
    session = new_session()
    await in_pieces(ours, session, [10])
    quiet = trio.Event()

    async def waiting(first: int, status: int) -> None:
        failure = await refused(status, theirs.patch(session, CONTENT[10:15], span=(first, first + 5)))
        assert status != 416 or ("Range", "0-39") in failure.headers

    async with trio.open_nursery() as nursery:
        body = LentBody(CONTENT[10:40], silence=quiet)
        nursery.start_soon(ours.patch, session, body)
        await body.silent.wait()
        await waiting(10, 503)
        nursery.start_soon(waiting, 10, 416)
        await trio.testing.wait_all_tasks_blocked()
        quiet.set()
    theirs.check_nothing_leaks()
    assert await ours.uploads.offset(session) == 40
    await in_pieces(theirs, session, [100])
    await theirs.put(session, b"", DIGEST)
    assert await ours.blob(DIGEST) == CONTENT


@pytest.mark.parametrize("count", [1, 2])
async def test_no_session_rests_at_offset_1_by_accident(count: int) -> None:
    """The protocol writes it as it writes offset 0. One byte that was a whole chunk is no accident."""
    world = memory()
    session = new_session()
    with pytest.raises(BodyError):
        await world.patch(session, LentBody(CONTENT[:count], [1], failure=GONE))
    assert await world.uploads.offset(session) == (0 if count == 1 else 2)
    session = new_session()
    await world.patch(session, CONTENT[:1])
    assert await world.uploads.offset(session) == 1
    with pytest.raises(BodyError):
        await world.patch(session, LentBody(b"", failure=GONE))
    assert await world.uploads.offset(session) == 1


@pytest.mark.parametrize("call", ["offset", "patch", "put", "cancel"])
async def test_a_session_ends_by_its_age(call: str) -> None:
    now = float(NOW)
    world = World(clock=lambda: now)
    session = new_session()
    await in_pieces(world, session, [10])
    now += WEEK
    assert await world.uploads.offset(session) == 10
    now += 1
    calls = {
        "offset": world.uploads.offset,
        "patch": lambda session: world.patch(session, CONTENT[10:]),
        "put": lambda session: world.put(session, CONTENT[10:], DIGEST),
        "cancel": world.uploads.cancel,
    }
    assert (await refused(404, calls[call](session))).code == "BLOB_UPLOAD_UNKNOWN"
    world.check_nothing_leaks()


async def test_more_than_the_limit_is_refused_before_and_while_it_comes() -> None:
    world = memory()
    world.policy = replace(world.policy, limit=50)
    world.uploads = world.restarted()
    session = new_session()
    assert (await refused(413, world.patch(session, CONTENT, length=100))).code == "SIZE_INVALID"
    assert await world.document(session) is None
    assert (await refused(413, world.patch(session, LentBody(CONTENT, [20])))).code == "SIZE_INVALID"
    assert await world.uploads.offset(session) == 40
    world.check_nothing_leaks()
