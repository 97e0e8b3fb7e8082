"""The bytes of manifests: what a manifest's digest means, which is the same for every name.

They are kept verbatim: in a document of their own if they are few, else as a blob. One rule: nobody is shown them for
knowing a digest. Whoever asks for them has read the manifest's document of a name, just now; so what a digest means
can be remembered for good, and lists and conditions never touch it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

from enseada.blobs import Blob
from enseada.formats.oci_common import content_id
from enseada.storage.blobs.base import BlobMissing
from enseada.storage.documents.base import Document

if TYPE_CHECKING:
    from collections.abc import Callable

    from enseada.formats.oci_common import OCIStores
    from enseada.http import Content
    from enseada.protocols.digests import Digest
    from enseada.storage.blobs.base import BlobWriter

INLINE_BYTES = 32 * 1024
"""A manifest up to this size lives in a document; documents stay under 64 KiB, also when JSON escapes double it."""
CACHE_BYTES = 16 * 1024 * 1024
"""Manifests that are remembered, by the sum of their sizes."""
THREAD_BYTES = 256 * 1024
"""Above this size hashing, parsing and writing JSON is done in a thread: a megabyte of it takes up to 30 ms."""
THREADS = 2

T = TypeVar("T")


class ManifestContents:
    """The bytes of the manifests of all names."""

    def __init__(self, stores: OCIStores) -> None:
        self._stores = stores
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._room = CACHE_BYTES
        self._limiter = anyio.CapacityLimiter(THREADS)

    async def open(self, digest: Digest, *, inline: bool) -> bytes | Content:
        """The bytes, to be sent; ``inline`` as the manifest's document says.

        Raises BlobMissing if they are lost, BlobUnavailable, documents' Unavailable.
        """
        if not inline:
            return await self._stores.blobs.open(digest)
        text = str(digest)
        if (content := self._cache.get(text)) is not None:
            self._cache.move_to_end(text)
            return content
        document = await self._stores.documents.get(content_id(digest))
        if document is None:
            raise BlobMissing(content_id(digest))
        loaded: bytes = document.data["content"].encode()
        self._remember(text, loaded)
        return loaded

    async def check(self, digest: Digest, *, inline: bool) -> None:
        """Raise BlobMissing if the bytes, being a blob, are lost: a client leaves out a push of what HEAD promises."""
        if not inline and await self._stores.blobs.is_stored(digest) is None:
            raise BlobMissing(str(digest))

    async def read(self, digest: Digest, *, inline: bool) -> bytes:
        """As `open`, all of them."""
        content = await self.open(digest, inline=inline)
        if isinstance(content, bytes):
            return content
        try:
            return b"".join([chunk async for chunk in content])
        finally:
            await content.aclose()

    async def store(self, digest: Digest, content: bytes) -> None:
        """Keep a large manifest's bytes as a blob; no name is given it as one.

        Raises what `Blobs.publish` does, and BlobUnavailable. Cancelled: bytes that no document tells of are removed.
        """
        blobs = self._stores.blobs
        if await blobs.is_stored(digest) is not None:
            return
        key = blobs.store.new_key()
        writer = await blobs.store.create(key, len(content))
        committed = False

        async def commit() -> None:
            nonlocal committed
            committed = True
            await writer.commit()

        try:
            await _write(writer, content)
            visible = await blobs.publish(Blob(digest, key, len(content)), [], commit=commit)
        except BaseException:
            with self._stores.uploads.last_moments():
                await writer.abort()
            raise
        if visible.key != key:
            with self._stores.uploads.last_moments():
                await writer.abort()
                if committed:
                    await blobs.remove(key)

    async def work(self, size: int, function: Callable[[], T]) -> T:
        """What ``function`` returns, which works on ``size`` bytes of manifests: in a thread if they are many.

        Raises what it raises. Cancelled: once it is done.
        """
        if size <= THREAD_BYTES:
            return function()
        return await anyio.to_thread.run_sync(function, limiter=self._limiter)

    def _remember(self, digest: str, content: bytes) -> None:
        if digest in self._cache:  # somebody else was reading it too
            return
        self._cache[digest] = content
        self._room -= len(content)
        while self._room < 0:
            self._room += len(self._cache.popitem(last=False)[1])


def content_document(digest: Digest, content: bytes) -> Document:
    """A small manifest's bytes, which are UTF-8."""
    return Document(content_id(digest), {"content": content.decode()})


async def _write(writer: BlobWriter, content: bytes) -> None:
    """Write all of ``content``, cut at the writer's boundaries."""
    while writer.offset < len(content):
        stop = len(content) if writer.boundary is None else min(writer.boundary, len(content))
        await writer.write(content[writer.offset : stop])
