"""Documents in memory, exact and fast: for tests, and for registries that forget everything when they end.

One rule: it behaves as SQLite does, save that nothing outlives it. Every call gives other tasks their turn before
and after its effect, so that tests meet each interleaving, and a cancellation on either side of it.

`enseada.storage.documents.memorycluster` is the one that behaves as a cluster does.
"""

from __future__ import annotations

from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from enseada.storage.documents import rules
from enseada.storage.documents.base import Change, Conflict, Document, DocumentError
from enseada.storage.documents.failures import Failing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence


class MemoryStore(Failing):
    """A `DocumentStore` in this process."""

    def __init__(self) -> None:
        super().__init__()
        self._documents: dict[str, tuple[str, bytes]] = {}
        self._changes: dict[str, Change] = {}  # In the order of seq: what changes again moves to the end.
        self._seq = 0
        self._news = anyio.Event()
        self._closed = False

    async def get(self, id: str) -> Document | None:
        """See `DocumentStore.get`."""
        rules.check_id(id)
        await self._checkpoint()
        with self._failing("get", id):
            return self._read(id)

    async def get_many(self, ids: Sequence[str]) -> Sequence[Document | None]:
        """See `DocumentStore.get_many`."""
        for id in ids:
            rules.check_id(id)
        await self._checkpoint()
        with ExitStack() as stack:
            for id in ids:
                stack.enter_context(self._failing("get_many", id))
            return [self._read(id) for id in ids]

    async def put(self, doc: Document) -> Document:
        """See `DocumentStore.put`."""
        [(doc, body)] = _checked([doc])
        await self._checkpoint()
        with self._failing("put", doc.id):
            stored = self._put(doc, body)
        await self._checkpoint()
        return stored

    async def put_many(self, docs: Sequence[Document]) -> Sequence[Document | DocumentError]:
        """See `DocumentStore.put_many`."""
        checked = _checked(docs)
        await self._checkpoint()
        results: list[Document | DocumentError] = []
        for doc, body in checked:
            try:
                with self._failing("put_many", doc.id):
                    stored = self._put(doc, body)
            except DocumentError as error:
                results.append(error)
            else:
                results.append(stored)
        await self._checkpoint()
        return results

    async def put_in_order(self, docs: Sequence[Document]) -> Sequence[Document]:
        """See `DocumentStore.put_in_order`. All or nothing."""
        rules.check_different(docs)
        checked = _checked(docs)
        await self._checkpoint()
        with ExitStack() as stack:
            for doc, _ in checked:
                stack.enter_context(self._failing("put_in_order", doc.id))
                self._check(doc)
            stored = [self._put(doc, body) for doc, body in checked]
        await self._checkpoint()
        return stored

    async def create_once(self, doc: Document) -> Document:
        """See `DocumentStore.create_once`."""
        if doc.rev is not None:
            raise ValueError(f"{doc.id} was stored before")
        [(doc, body)] = _checked([doc])
        await self._checkpoint()
        with self._failing("create_once", doc.id):
            stored = self._put(doc, body)
        await self._checkpoint()
        return stored

    async def delete(self, doc: Document) -> None:
        """See `DocumentStore.delete`."""
        rules.check_id(doc.id)
        if doc.rev is None:
            raise ValueError(f"{doc.id} was never stored")
        await self._checkpoint()
        with self._failing("delete", doc.id):
            self._check(doc)
            del self._documents[doc.id]
            self._announce(doc.id, deleted=True)
        await self._checkpoint()

    async def leaves(self, id: str) -> Sequence[Document]:
        """See `DocumentStore.leaves`. Here there is never more than one."""
        rules.check_id(id)
        await self._checkpoint()
        with self._failing("leaves", id):
            doc = self._read(id)
        return [] if doc is None else [doc]

    async def scan(self, start: str, stop: str, limit: int, *, descending: bool = False) -> Sequence[Document]:
        """See `DocumentStore.scan`."""
        await self._checkpoint()
        with self._failing("scan", start):
            # The order of code points is the order of their UTF-8.
            ids = sorted((id for id in self._documents if start <= id < stop), reverse=descending)
            return [doc for id in ids[: max(limit, 0)] if (doc := self._read(id)) is not None]

    @asynccontextmanager
    async def changes(self, since: str) -> AsyncIterator[AsyncIterator[Change]]:
        """See `DocumentStore.changes`. In order, each document's last change only."""
        await self._checkpoint()
        changes = self._follow(self._seq if since == "now" else int(since or "0"))
        try:
            yield changes
        finally:
            await changes.aclose()

    async def aclose(self) -> None:
        """See `DocumentStore.aclose`. Safe any number of times."""
        self._closed = True
        self._news.set()
        await anyio.lowlevel.checkpoint()

    async def _follow(self, seq: int) -> AsyncGenerator[Change, None]:
        while True:
            news = self._news
            for change in [change for change in self._changes.values() if int(change.seq) > seq]:
                seq = int(change.seq)
                yield change
            await self._checkpoint()
            if news is self._news:
                await news.wait()

    async def _checkpoint(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self._closed:
            raise anyio.ClosedResourceError

    def _read(self, id: str) -> Document | None:
        stored = self._documents.get(id)
        if stored is None:
            return None
        rev, body = stored
        return Document(id, rules.decode(body), rev)

    def _check(self, doc: Document) -> None:
        stored = self._documents.get(doc.id)
        if doc.rev != (stored and stored[0]):
            raise Conflict(doc.id, "the document exists" if doc.rev is None else "the document was changed or deleted")

    def _put(self, doc: Document, body: bytes) -> Document:
        self._check(doc)
        rev = rules.new_token()
        self._documents[doc.id] = (rev, body)
        self._announce(doc.id, deleted=False)
        return Document(doc.id, doc.data, rev)

    def _announce(self, id: str, *, deleted: bool) -> None:
        self._seq += 1
        self._changes.pop(id, None)
        self._changes[id] = Change(str(self._seq), id, deleted)
        self._news.set()
        self._news = anyio.Event()


def _checked(docs: Sequence[Document]) -> list[tuple[Document, bytes]]:
    for doc in docs:
        rules.check_id(doc.id)
    return [(doc, rules.encode(doc.data)) for doc in docs]
