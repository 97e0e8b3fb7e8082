"""The interface of a document store: JSON documents by id, in CouchDB's shape; SQLite is the easy one.

One rule: what is promised here is what a CouchDB cluster can keep, and handlers rely on nothing more. A revision is
the only lock. Only a full yes is a yes: `Conflict`, `Unavailable` and `Unknown` are three different answers.

Every store passes tests/storage/document_suite.py whole. All of it is anyio: it runs under trio and under asyncio.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  # msgspec reads the annotations
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager


class Document(msgspec.Struct, frozen=True):
    """A document. ``rev`` is None until it was stored; a put needs the revision that it replaces."""

    id: str
    data: Mapping[str, Any]
    """JSON: keys never begin with an underscore. Under 64 KiB serialised; what is larger belongs into a blob."""
    rev: str | None = None


class DocumentError(Exception):
    """A document store's refusal or failure, about one document."""

    def __init__(self, id: str, message: str = "") -> None:
        super().__init__(f"{id}: {message}" if message else id)
        self.id = id


class Conflict(DocumentError):
    """The revision given is not the newest (or none was given and the document exists). Nothing happened."""


class Unavailable(DocumentError):
    """The store did not do it, now. Nothing happened; the same call may succeed later."""


class Unknown(DocumentError):
    """The store may have done it, or may yet do it. Read before trying again."""


class Change(msgspec.Struct, frozen=True):
    """A hint that a document changed: read it to know. ``seq`` is opaque and goes back into `changes`."""

    seq: str
    id: str
    deleted: bool


class DocumentStore(Protocol):
    """Documents by id. Ids are non-empty text that does not begin with an underscore; their order is by bytes (UTF-8).

    Revisions never repeat for an id. Every write is told from every other one by a random value of the store's, so
    two writers of equal bodies never make the same revision.
    """

    async def get(self, id: str) -> Document | None:
        """The document as a majority has it: a read after an acknowledged write sees it. Raises Unavailable."""
        ...

    async def get_many(self, ids: Sequence[str]) -> Sequence[Document | None]:
        """As `get`, for each id, in order. Not a snapshot of one moment. Raises Unavailable."""
        ...

    async def put(self, doc: Document) -> Document:
        """Store ``doc`` in place of the revision it carries; return it with its new one.

        Raises Conflict, Unavailable, Unknown. Cancelled: as Unknown.
        """
        ...

    async def put_many(self, docs: Sequence[Document]) -> Sequence[Document | DocumentError]:
        """As `put` for each, not atomic. Returns in order what `put` would have returned or raised; raises nothing."""
        ...

    async def put_in_order(self, docs: Sequence[Document]) -> Sequence[Document]:
        """As `put`, one after the other: none is visible unless all before it are acknowledged.

        The one batch in which a document may stand beside what it depends on. Where the store can (SQLite) it is one
        transaction and one commit, all or nothing; elsewhere those before the failed one stand. Raises what `put`
        would have raised for the first that failed. Ids must differ.
        """
        ...

    async def create_once(self, doc: Document) -> Document:
        """Create a document that must be unique, also on a cluster: of all callers, ever, at most one succeeds.

        Raises Conflict (somebody else has it), Unavailable, Unknown. Once acknowledged it is a document like any other:
        `put` may change it, and it stays the only one of its id until it is deleted.
        """
        ...

    async def delete(self, doc: Document) -> None:
        """Delete the revision that ``doc`` carries. Raises Conflict (also if it is gone), Unavailable, Unknown."""
        ...

    async def leaves(self, id: str) -> Sequence[Document]:
        """All living revisions that conflicting writes left, asked of a majority; [] if there is none."""
        ...

    async def scan(self, start: str, stop: str, limit: int, *, descending: bool = False) -> Sequence[Document]:
        """At most ``limit`` documents with start <= id < stop, ordered by ids' bytes. May lag: it decides nothing."""
        ...

    def changes(self, since: str) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """Changes after ``since`` ("": the beginning; "now": from now on), without end. A hint, never the truth."""
        ...

    async def aclose(self) -> None:
        """Let go of everything."""
        ...


def prefix_range(prefix: str) -> tuple[str, str]:
    """The (start, stop) of `DocumentStore.scan` for all ids that begin with ``prefix`` (which ends in ASCII)."""
    return prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)
