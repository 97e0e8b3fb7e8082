"""The interface of a blob store: bytes under random keys that are final from the first byte.

One rule: nothing is renamed or copied at commit. A blob is written in place under the key it will keep; that it
exists for anybody is said by a document, and never by the store.

Every store passes tests/storage/blob_suite.py whole. All of it is anyio: it runs under trio and under asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from enseada.http import Chunk, Content, Span


class BlobError(Exception):
    """A blob store's failure."""


class BlobMissing(BlobError):
    """Nothing is stored under that key (any more)."""


class BlobBusy(BlobError):
    """Another writer, here or in another process, has this upload open."""


class BlobLost(BlobError):
    """What an upload's saved state speaks of is not there any more: it cannot go on, and must begin anew."""


class BlobUnavailable(BlobError):
    """The store did not do it, now; it may be tried again (full, unreachable, overloaded)."""


class BlobWriter(Protocol):
    """One upload, under way in this process.

    Bytes are accepted by `write`, in order, each exactly once. Some of them are durable: a crash of this process or
    of its machine cannot lose them. Not safe for use by two tasks at once, save `flush`, which another task may call
    while the first waits for its client.
    """

    inline: bool
    """True: `write` takes the chunk before it first suspends, so the chunk may be a shared buffer. False: the chunk
    must stay valid until `write` returns."""
    offset: int
    """Bytes accepted."""
    boundary: int | None
    """Where bytes become durable by themselves next. A write never crosses it: the caller cuts there, and snapshots
    the hash there. None: no such place."""
    durable: int
    """Bytes that a crash cannot lose. It is always an offset at which a write or a flush ended."""

    async def write(self, data: Chunk) -> None:
        """Accept ``data``, and return when there is room for more.

        Raises BlobUnavailable; then, and when cancelled, ``offset`` tells whether it was accepted (all of it or
        nothing).
        """
        ...

    async def flush(self) -> None:
        """Make durable what was accepted before the call, as far as the store can: ``durable`` tells how far.

        Raises BlobUnavailable. Cancelled: nothing is lost, and nothing more is promised.
        """
        ...

    def state(self, durable: int) -> bytes:
        """The state from which `BlobStore.resume` goes on at ``durable``, an offset that was durable at some time."""
        ...

    async def suspend(self) -> int:
        """Flush, end this writer and let go of the upload, so that another may resume it; return ``durable``.

        Safe when the store is failing: what cannot be made durable is given up. After it only `state` may be called.
        Cancelled: the upload is let go of all the same.
        """
        ...

    async def commit(self) -> None:
        """Make the blob whole, final and durable under its key. Raises BlobUnavailable; may then be called again.

        Cancelled: the blob is there whole or the upload is still there; calling again, or resuming, finds out.
        """
        ...

    async def abort(self) -> None:
        """Remove what was written. Safe any number of times, also after commit or suspend (then it does nothing).

        Raises BlobUnavailable. Cancelled: the upload is still there and still open; so call it under a shield.
        """
        ...


class BlobStore(Protocol):
    """Where blobs' bytes are kept."""

    def new_key(self) -> str:
        """A key that nothing has ever had, random enough that no two processes make the same."""
        ...

    async def create(self, key: str, length: int | None) -> BlobWriter:
        """Begin a blob under ``key``; ``length`` in bytes if it is known. Raises BlobUnavailable.

        Cancelled: nothing is left.
        """
        ...

    async def resume(self, state: bytes) -> BlobWriter:
        """Go on with an upload at the offset that ``state`` was made for; bytes after it are gone.

        Raises BlobBusy, BlobLost, BlobUnavailable.
        """
        ...

    async def open(self, span: Span) -> Content:
        """Open stored bytes for reading. Raises BlobMissing, BlobUnavailable.

        ``span.stop`` beyond the end is the end. Bytes of an upload that was suspended may be read too.
        """
        ...

    async def size(self, key: str) -> int:
        """The number of bytes stored. Raises BlobMissing, BlobUnavailable."""
        ...

    async def delete(self, key: str) -> None:
        """Remove what is stored under ``key``, if it is there. Raises BlobUnavailable."""
        ...

    async def discard(self, state: bytes) -> None:
        """Remove an upload, by its saved state. What is gone already, or was committed, is no error.

        Raises BlobBusy if it is open, BlobUnavailable.
        """
        ...

    async def url(self, span: Span, expires: float) -> str | None:
        """A URL, valid for ``expires`` seconds, from which a client can fetch the bytes itself; None: there is none."""
        ...

    async def aclose(self) -> None:
        """Let go of everything."""
        ...
