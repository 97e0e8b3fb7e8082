"""What a digest means: found, cached, opened, published once, and healed when its bytes are lost."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from enseada import blobs as blobs_module
from enseada.blobs import Blob, Blobs
from enseada.protocols.digests import Digest
from enseada.storage.blobs.base import BlobMissing, BlobUnavailable
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import Conflict, Document, Unavailable, Unknown
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from tests.cancel import cancel_at_every_checkpoint
from tests.enseada.upload_world import OneByOne, link, payload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from enseada.storage.blobs.memory import MemoryWriter

CONTENT = payload(100)
DIGEST = Digest.of(CONTENT)
LINK = link(DIGEST)


class Writes:
    """Two stores, and a count of commits that were asked for."""

    def __init__(self, documents: MemoryDocuments | None = None) -> None:
        self.documents = documents or MemoryDocuments()
        self.store = MemoryBlobs()
        self.blobs = Blobs(self.documents, self.store)
        self.commits = 0

    def elsewhere(self) -> Blobs:
        """Those of another process."""
        return Blobs(self.documents, self.store)

    async def written(self, content: bytes = CONTENT) -> tuple[Blob, MemoryWriter]:
        key = self.store.new_key()
        writer = await self.store.create(key, None)
        await writer.write(content)
        return Blob(Digest.of(content), key, len(content)), writer

    def counting(self, commit: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def counted() -> None:
            self.commits += 1
            await commit()

        return counted

    async def push(self, links: Sequence[Document] = (LINK,), content: bytes = CONTENT) -> Blob:
        blob, writer = await self.written(content)
        visible = await self.elsewhere().publish(blob, links, commit=self.counting(writer.commit))
        await writer.abort()
        return visible

    async def read(self, blobs: Blobs, start: int = 0, stop: int | None = None) -> bytes:
        content = await blobs.open(DIGEST, start, stop)
        return b"".join([chunk async for chunk in content])


async def test_what_was_published_is_found_and_opened() -> None:
    writes = Writes()
    assert await writes.blobs.find(DIGEST) is None
    assert await writes.blobs.is_stored(DIGEST) is None
    blob = await writes.push()
    assert await writes.blobs.find(DIGEST) == blob  # absence was not remembered
    assert await writes.blobs.is_stored(DIGEST) == blob
    assert await writes.read(writes.blobs) == CONTENT
    assert await writes.read(writes.blobs, 10, 20) == CONTENT[10:20]
    announced = await writes.documents.get(f"object:{blob.key}")
    assert announced is not None
    assert announced.data == {"digest": str(DIGEST), "size": len(CONTENT)}
    assert await writes.documents.get(LINK.id) is not None


async def test_what_a_digest_means_is_asked_once() -> None:
    writes = Writes()
    blob = await writes.push()
    await writes.blobs.find(DIGEST)
    writes.documents.fail("get", times=100)
    assert await writes.blobs.find(DIGEST) == blob
    assert await writes.read(writes.blobs) == CONTENT


async def test_the_publisher_knows_without_asking() -> None:
    writes = Writes()
    blob, writer = await writes.written()
    await writes.blobs.publish(blob, [LINK], commit=writer.commit)
    writes.documents.fail("get", times=100)
    assert await writes.blobs.find(DIGEST) == blob


async def test_the_cache_forgets_what_was_not_used_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_module, "CACHE_ENTRIES", 2)
    writes = Writes()
    contents = [payload(10, seed) for seed in range(3)]
    for content in contents:
        await writes.push([], content)
    first, second, third = [Digest.of(content) for content in contents]
    for digest in (first, second, first, third):
        await writes.blobs.find(digest)
    writes.documents.fail("get", times=100)
    await writes.blobs.find(first)
    await writes.blobs.find(third)
    with pytest.raises(Unavailable):
        await writes.blobs.find(second)


async def test_a_stored_object_that_is_missing_is_asked_for_again() -> None:
    """Another process replaced lost bytes, under another key, after this one had cached the blob."""
    writes = Writes()
    old = await writes.push()
    assert await writes.blobs.find(DIGEST) == old
    await writes.store.delete(old.key)
    new = await writes.push()
    assert new.key != old.key
    assert await writes.read(writes.blobs) == CONTENT
    assert await writes.blobs.find(DIGEST) == new


async def test_is_stored_asks_again_too() -> None:
    writes = Writes()
    old = await writes.push()
    assert await writes.blobs.find(DIGEST) == old
    await writes.store.delete(old.key)
    new = await writes.push()
    assert await writes.blobs.is_stored(DIGEST) == new


async def test_bytes_that_are_nowhere_are_missing(caplog: pytest.LogCaptureFixture) -> None:
    writes = Writes()
    with pytest.raises(BlobMissing):
        await writes.blobs.open(DIGEST)
    blob = await writes.push()
    await writes.blobs.find(DIGEST)
    await writes.store.delete(blob.key)
    with pytest.raises(BlobMissing):
        await writes.blobs.open(DIGEST)
    assert await writes.blobs.is_stored(DIGEST) is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_bytes_of_another_length_are_not_the_blob(caplog: pytest.LogCaptureFixture) -> None:
    writes = Writes()
    blob = await writes.push()
    del writes.store._blobs[blob.key].content[50:]
    assert await writes.blobs.is_stored(DIGEST) is None
    assert blob.key in caplog.text


@pytest.mark.parametrize(("start", "stop"), [(0, None), (10, 90), (60, 70)])
async def test_bytes_that_were_cut_off_are_never_sent_for_the_whole(start: int, stop: int | None) -> None:
    """Nor for ever by a process that knew the blob before another one replaced its bytes."""
    writes = Writes()
    blob = await writes.push()
    await writes.blobs.find(DIGEST)
    del writes.store._blobs[blob.key].content[50:]
    with pytest.raises(BlobMissing):
        await writes.blobs.open(DIGEST, start, stop)
    assert await writes.read(writes.blobs, 5, 50) == CONTENT[5:50]  # what is there is what it was
    healed = await writes.push()
    assert healed.key != blob.key
    assert await writes.read(writes.blobs, start, stop) == CONTENT[start:stop]


@pytest.mark.parametrize("lost", ["all", "some"])
@pytest.mark.parametrize("cached", [True, False])
async def test_publishing_heals_a_blob_whose_bytes_are_lost(lost: str, cached: bool) -> None:
    writes = Writes()
    old = await writes.push()
    if cached:
        await writes.blobs.find(DIGEST)
    if lost == "all":
        await writes.store.delete(old.key)
    else:
        del writes.store._blobs[old.key].content[50:]
    blob, writer = await writes.written()
    visible = await writes.blobs.publish(blob, [LINK], commit=writer.commit)
    assert visible == blob
    assert await writes.read(writes.elsewhere()) == CONTENT
    assert await writes.read(writes.blobs) == CONTENT


async def test_publishing_the_same_bytes_again_keeps_the_first_and_commits_nothing() -> None:
    writes = Writes()
    first = await writes.push()
    other = link(DIGEST, "another/name")
    again = await writes.push([LINK, other])
    assert again == first
    assert writes.commits == 1
    assert await writes.documents.get(other.id) is not None
    assert writes.store.keys == [first.key]


async def test_a_link_that_is_there_stays_as_it_is() -> None:
    writes = Writes()
    await writes.push()
    before = await writes.documents.get(LINK.id)
    await writes.push([Document(LINK.id, {"created": 1})])
    assert await writes.documents.get(LINK.id) == before


async def test_the_bytes_are_whole_before_any_document_says_so_and_the_last_document_is_last() -> None:
    writes = Writes()
    blob, writer = await writes.written()
    then = Document("upload:x", {"state": "done"})
    written: list[str] = []

    async def commit() -> None:
        assert not writes.documents._documents
        await writer.commit()

    await writes.blobs.publish(blob, [LINK], [then], commit)
    written = [change.id for change in writes.documents._changes.values()]
    assert written == [f"object:{blob.key}", blob.document_id, LINK.id, then.id]


async def test_when_the_commit_fails_nothing_is_visible() -> None:
    writes = Writes()
    blob, writer = await writes.written()
    writes.store.fail("commit")
    with pytest.raises(BlobUnavailable):
        await writes.blobs.publish(blob, [LINK], commit=writer.commit)
    assert not writes.documents._documents
    assert await writes.blobs.find(DIGEST) is None
    assert await writes.blobs.publish(blob, [LINK], commit=writer.commit) == blob


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("error", [Unavailable, Unknown])
async def test_when_documents_fail_it_can_be_done_again(error: type[Exception], applied: bool) -> None:
    writes = Writes()
    blob, writer = await writes.written()
    writes.documents.fail("put_in_order", "blob:", error, applied=applied and error is Unknown)
    with pytest.raises(error):
        await writes.blobs.publish(blob, [LINK], commit=writer.commit)
    assert await writes.blobs.publish(blob, [LINK], commit=writer.commit) == blob
    assert await writes.read(writes.elsewhere()) == CONTENT


async def test_what_stands_of_an_earlier_try_is_no_hindrance() -> None:
    """Where documents have no transactions."""
    writes = Writes(OneByOne())
    blob, writer = await writes.written()
    for id in (blob.document_id, LINK.id, "upload:x"):
        writes.documents.fail("put", id)
        with pytest.raises(Unavailable):
            await writes.blobs.publish(blob, [LINK], [Document("upload:x", {})], writer.commit)
    await writes.blobs.publish(blob, [LINK], [Document("upload:x", {})], writer.commit)
    assert await writes.documents.get("upload:x") is not None
    assert await writes.read(writes.elsewhere()) == CONTENT


async def test_whoever_loses_a_race_takes_the_winners_blob() -> None:
    writes = Writes()
    mine, writer = await writes.written()
    winners: list[Blob] = []

    async def slow_commit() -> None:
        if not winners:
            winners.append(await writes.push([]))
        await writer.commit()

    visible = await writes.blobs.publish(mine, [LINK], commit=slow_commit)
    assert visible == winners[0] != mine
    assert await writes.documents.get(LINK.id) is not None
    assert await writes.documents.get(f"object:{mine.key}") is None
    assert await writes.read(writes.elsewhere()) == CONTENT


async def test_a_race_for_a_link_alone_ends_well() -> None:
    writes = Writes()
    blob, writer = await writes.written()

    async def slow_commit() -> None:
        if await writes.documents.get(LINK.id) is None:
            await writes.documents.put(LINK)
        await writer.commit()

    assert await writes.blobs.publish(blob, [LINK], commit=slow_commit) == blob


async def test_a_conflict_about_what_comes_last_is_the_callers() -> None:
    writes = Writes()
    blob, writer = await writes.written()
    stale = Document("upload:x", {"state": "done"}, "1-stale")
    with pytest.raises(Conflict) as conflict:
        await writes.blobs.publish(blob, [LINK], [stale], writer.commit)
    assert conflict.value.id == stale.id


async def test_conflicts_without_end_are_given_up() -> None:
    writes = Writes()
    blob, writer = await writes.written()
    writes.documents.fail("put_in_order", "blob:", Conflict, times=100)
    with pytest.raises(Conflict):
        await writes.blobs.publish(blob, [LINK], commit=writer.commit)


async def test_cancelled_at_any_await_publishing_leaves_nothing_half() -> None:
    """Whoever sees the link gets the bytes, and doing it again ends well."""
    rounds: list[tuple[Writes, Blob, MemoryWriter]] = []

    async def make() -> None:
        writes = Writes()
        key = writes.store.new_key()
        rounds.append((writes, Blob(DIGEST, key, len(CONTENT)), None))  # type: ignore[arg-type]
        writer = await writes.store.create(key, None)
        rounds[-1] = (writes, rounds[-1][1], writer)
        await writer.write(CONTENT)
        await writes.blobs.publish(rounds[-1][1], [LINK], commit=writer.commit)

    async def after() -> None:
        writes, blob, writer = rounds[-1]
        if await writes.documents.get(LINK.id) is not None:
            assert await writes.read(writes.elsewhere()) == CONTENT
        elif writer is not None and writer.offset == len(CONTENT):
            assert await writes.elsewhere().publish(blob, [LINK], commit=writer.commit) == blob
            assert await writes.read(writes.elsewhere()) == CONTENT

    assert await cancel_at_every_checkpoint(make, after) > 8


async def test_refused_bytes_are_removed_unless_they_were_announced() -> None:
    writes = Writes()
    refused, writer = await writes.written(payload(10, 1))
    await writer.commit()
    published = await writes.push()
    await writes.blobs.remove(refused.key)
    await writes.blobs.remove(published.key)
    assert writes.store.keys == [published.key]
