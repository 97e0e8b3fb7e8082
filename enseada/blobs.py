"""What a digest means: the stored bytes behind it, and how they come to be visible.

Two facts, two documents. ``blob:<digest>`` says under which key the bytes are and how many; it is the same for every
name, never changes while the bytes live, and is cached. A link (a document of the format's) says that a name has the
blob; it is asked for at every use. Links come last: nothing half-written ever shows.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enseada.http import Span
from enseada.storage.blobs.base import BlobMissing
from enseada.storage.documents.base import Conflict, Document

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from enseada.http import Content
    from enseada.protocols.digests import Digest
    from enseada.storage.blobs.base import BlobStore
    from enseada.storage.documents.base import DocumentStore

_log = logging.getLogger(__name__)

CACHE_ENTRIES = 16_384
"""Digests whose key and size are remembered, at about 400 bytes each."""
_PUBLISH_TRIES = 5


@dataclass(frozen=True, slots=True)
class Blob:
    """Stored bytes: their digest, the key they are under, and how many they are."""

    digest: Digest
    key: str
    size: int

    @property
    def document_id(self) -> str:
        return f"blob:{self.digest}"


class Blobs:
    """The blobs of every format."""

    def __init__(self, documents: DocumentStore, store: BlobStore) -> None:
        self.store = store
        self._documents = documents
        self._cache: OrderedDict[str, Blob] = OrderedDict()

    async def find(self, digest: Digest) -> Blob | None:
        """The blob with that digest, whoever may see it, or None. Raises documents' Unavailable.

        What a digest means is kept for good; that it means nothing is never remembered.
        """
        text = str(digest)
        if (blob := self._cache.get(text)) is not None:
            self._cache.move_to_end(text)
            return blob
        found = await self._documents.get(f"blob:{text}")
        return None if found is None else self._remember(_read(digest, found))

    async def open(self, digest: Digest, start: int = 0, stop: int | None = None) -> Content:
        """Open a blob's bytes. Raises BlobMissing, BlobUnavailable, documents' Unavailable.

        Bytes that are missing, or fewer than they should be, may have been replaced under another key since the blob
        was cached: it is read again before that is an error.
        """
        blob = await self.find(digest)
        if blob is not None:
            try:
                return await self._open(blob, start, stop)
            except BlobMissing:
                self._cache.pop(str(digest), None)
        fresh = await self.find(digest)
        if fresh is None or fresh == blob:
            raise BlobMissing(str(digest))
        return await self._open(fresh, start, stop)

    async def _open(self, blob: Blob, start: int, stop: int | None) -> Content:
        stop = blob.size if stop is None else min(stop, blob.size)
        content = await self.store.open(Span(blob.key, start, stop))
        if content.length != max(0, stop - start):
            await content.aclose()
            raise BlobMissing(f"{blob.key} has not all of the {blob.size} bytes of {blob.digest}")
        return content

    async def is_stored(self, digest: Digest) -> Blob | None:
        """The blob with that digest if its bytes are really there, else None; for whoever is about to rely on them."""
        cached = self._cache.get(str(digest))
        if cached is not None and await self._has_bytes(cached):
            return cached
        self._cache.pop(str(digest), None)
        blob = await self.find(digest)
        if blob is None or await self._has_bytes(blob):
            return blob
        self._cache.pop(str(digest), None)
        _log.error("the bytes of %s are not under %s, or not all %d of them", digest, blob.key, blob.size)
        return None

    async def publish(
        self,
        blob: Blob,
        links: Sequence[Document],
        then: Sequence[Document] = (),
        commit: Callable[[], Awaitable[None]] | None = None,
    ) -> Blob:
        """Make ``blob``, whose bytes are there and verified, visible by ``links``; return the blob that is linked.

        That is another one, with the same digest and another key, if somebody stored the same bytes before: then the
        caller's bytes are not needed. Otherwise ``commit`` (a writer's) is awaited before any document is written.
        Links that are there already are left alone. ``then`` is written last, whatever was there. Raises what
        ``commit`` raises, documents' Conflict (only for ``then``), Unavailable, Unknown; then, and when cancelled,
        the bytes must stay, since the documents may have been written.
        """
        for _ in range(_PUBLISH_TRIES):
            ids = [blob.document_id, f"object:{blob.key}", *(link.id for link in links)]
            known, announced, *linked = await self._documents.get_many(ids)
            docs: list[Document] = []
            visible = blob
            stands = None if known is None else _read(blob.digest, known)
            if stands is not None and await self._has_bytes(stands):
                visible = stands
            else:
                if stands is not None:
                    _log.error("the bytes of %s are not under %s: others replace them", blob.digest, stands.key)
                if commit is not None:
                    await commit()
                data = {"key": blob.key, "size": blob.size}
                # The sweeper asks by key whose bytes an object is. Bytes that were lost are replaced by these.
                if announced is None:
                    docs.append(Document(f"object:{blob.key}", {"digest": str(blob.digest), "size": blob.size}))
                docs.append(Document(blob.document_id, data, None if known is None else known.rev))
            docs += [link for link, found in zip(links, linked, strict=True) if found is None]
            try:
                await self._documents.put_in_order([*docs, *then])
            except Conflict as conflict:
                if any(conflict.id == doc.id for doc in then):
                    raise
                continue  # somebody else has just written it: look again
            return self._remember(visible)
        raise Conflict(blob.document_id, "others kept changing it")

    async def remove(self, key: str) -> None:
        """Remove committed bytes that were refused. Raises BlobUnavailable, documents' Unavailable.

        Bytes that were ever announced as a blob's are not removed: they are the sweeper's.
        """
        if await self._documents.get(f"object:{key}") is None:
            await self.store.delete(key)

    async def _has_bytes(self, blob: Blob) -> bool:
        try:
            return await self.store.size(blob.key) == blob.size
        except BlobMissing:
            return False

    def _remember(self, blob: Blob) -> Blob:
        self._cache[str(blob.digest)] = blob
        if len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return blob


def _read(digest: Digest, document: Document) -> Blob:
    return Blob(digest, document.data["key"], document.data["size"])
