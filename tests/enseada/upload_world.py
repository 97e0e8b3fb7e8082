"""What the tests of uploads stand on: bodies that lend their chunks, and a world that can die at any step.

One rule: a lent chunk is overwritten as soon as the borrower gives up its turn, so nobody can have kept it.
"""

from __future__ import annotations

import hashlib
import itertools
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from enseada.blobs import Blobs
from enseada.http import Span
from enseada.protocols.oci.session import Session
from enseada.protocols.oci.upload import Input
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.blobs.memory import _Blob
from enseada.storage.documents.base import Document
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.uploads import UploadPolicy, Uploads
from tests.poison import POISON, poison

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from enseada.blobs import Blob
    from enseada.protocols.digests import Digest
    from enseada.storage.blobs.base import BlobStore
    from enseada.storage.documents.base import DocumentStore

NAME = "team/app"
NOW = 1_790_000_000
_numbers = itertools.count()


def payload(size: int, seed: int = 0) -> bytes:
    """Bytes of which no two runs are alike, none of them poison, always the same."""
    return hashlib.shake_128(str(seed).encode()).digest(size).replace(bytes([POISON]), b"\0")


def new_session(algorithm: str = "sha256", created: int = NOW) -> Session:
    """A session that nothing is known of."""
    return Session(NAME, created, algorithm, next(_numbers).to_bytes(12, "big"))


def link(digest: Digest, name: str = NAME) -> Document:
    """That ``name`` has the blob."""
    return Document(f"link:{digest}@{name}", {"created": NOW})


class LentBody:
    """A request's content, every chunk of which is lent."""

    def __init__(
        self,
        content: bytes,
        sizes: Sequence[int] = (),
        *,
        failure: Exception | None = None,
        silence: trio.Event | None = None,
    ) -> None:
        """``sizes``: of the chunks, again and again. After them it waits for ``silence``, raises ``failure``."""
        self.length: int | None = None
        self.pulled = 0
        """Bytes lent so far."""
        self.silent = trio.Event()
        """Set when all of the content was taken, and the client says nothing more for now."""
        self._content = content
        self._sizes = itertools.cycle(sizes or [max(1, len(content))])
        self._failure = failure
        self._silence = silence

    def __aiter__(self) -> LentBody:
        return self

    async def __anext__(self) -> memoryview:
        await trio.lowlevel.checkpoint()
        chunk = self._content[self.pulled : self.pulled + next(self._sizes)]
        if chunk:
            self.pulled += len(chunk)
            return poison().lend(chunk)
        self.silent.set()
        if self._silence is not None:
            await self._silence.wait()
        if self._failure is not None:
            raise self._failure
        raise StopAsyncIteration


class OneByOne(MemoryDocuments):
    """Documents without transactions: what stands before a failure in `put_in_order` stays."""

    async def put_in_order(self, docs: Sequence[Document]) -> Sequence[Document]:
        return [await self.put(doc) for doc in docs]


class _AtStep(trio.abc.Instrument):
    def __init__(self, number: int, action: Callable[[], None]) -> None:
        self._task = trio.lowlevel.current_task()
        self._left = number
        self._action = action

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if not self._left:
                self._action()


@contextmanager
def at_step(number: int, action: Callable[[], None]) -> Iterator[None]:
    """Call ``action`` when the current task gives up its turn for the ``number``-th time from now on."""
    instrument = _AtStep(number, action)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)


@dataclass
class World:
    """Stores, and a registry's uploads over them."""

    documents: DocumentStore = field(default_factory=MemoryDocuments)
    store: BlobStore = field(default_factory=MemoryBlobs)
    policy: UploadPolicy = field(default_factory=UploadPolicy)
    clock: Callable[[], float] = lambda: float(NOW)

    def __post_init__(self) -> None:
        self.uploads = self.restarted()

    def restarted(self) -> Uploads:
        """What a new process makes of the stores."""
        return Uploads(self.documents, Blobs(self.documents, self.store), self.policy, self.clock)

    def copy(self) -> World:
        """What kill -9 would leave of it just now, and a process that begins there. In memory only."""
        assert isinstance(self.documents, MemoryDocuments)
        assert isinstance(self.store, MemoryBlobs)
        documents = MemoryDocuments()
        documents._documents.update(self.documents._documents)
        store = MemoryBlobs(parts=self.store.parts, inline=self.store.inline)
        for key, blob in self.store._blobs.items():
            store._blobs[key] = _Blob(blob.content[: blob.durable], blob.durable, blob.final)
        return World(documents, store, self.policy, self.clock)

    def heal(self) -> None:
        """Forget the faults that were ordered and have not come."""
        if isinstance(self.documents, MemoryDocuments):
            self.documents._orders.clear()
        if isinstance(self.store, MemoryBlobs):
            self.store._faults.clear()

    def check_nothing_leaks(self) -> None:
        """No request is under way: nobody holds a turn, an upload, or a writer."""
        assert not self.uploads._turns
        assert not self.uploads._open
        if isinstance(self.store, MemoryBlobs):
            assert [key for key, blob in self.store._blobs.items() if blob.writer is not None] == []
        else:
            assert not self.store._writers  # type: ignore[attr-defined]

    async def read(self, key: str, stop: int | None = None) -> bytes:
        """Stored bytes."""
        content = await self.store.open(Span(key, 0, stop))
        try:
            return b"".join([chunk async for chunk in content])
        finally:
            await content.aclose()

    async def blob(self, digest: Digest) -> bytes | None:
        """What a new process finds under a digest that is linked; None: nothing."""
        if await self.documents.get(link(digest).id) is None:
            return None
        content = await self.restarted().blobs.open(digest)
        try:
            return b"".join([chunk async for chunk in content])
        finally:
            await content.aclose()

    async def document(self, session: Session) -> Document | None:
        """The session's document, whatever it says."""
        return await self.documents.get(session.document_id)

    async def patch(
        self,
        session: Session,
        content: bytes | LentBody,
        *,
        span: tuple[int, int] | None = None,
        length: int | None = None,
    ) -> int:
        """A PATCH; returns the offset that it is answered with."""
        body = content if isinstance(content, LentBody) else LentBody(content)
        async with self.uploads.open(session, Input.PATCH, span=span, length=length) as upload:
            await upload.receive(body)
        return upload.machine.offset

    async def put(
        self,
        session: Session,
        content: bytes | LentBody,
        digest: Digest,
        *,
        span: tuple[int, int] | None = None,
        length: int | None = None,
        keep: bool = True,
    ) -> Blob:
        """A PUT (or, if nobody can come back to it, a POST with a digest)."""
        body = content if isinstance(content, LentBody) else LentBody(content)
        if content == b"":
            length = 0
        async with self.uploads.open(
            session, Input.PUT, span=span, length=length, algorithm=digest.algorithm, keep=keep
        ) as upload:
            await upload.receive(body)
            return await upload.finish(digest, [link(digest)])
