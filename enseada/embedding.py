"""A registry in a host's program: over listeners, beside handlers of the host's own, or mounted by `enseada.asgiapp`.

The rule: it can be made anywhere, at once, and opens nothing before `Registry.running` is entered; whoever asks it
outside of that is told so, and not left to guess.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import anyio

from enseada.build import CLOSE_TIMEOUT, open_data, open_registry
from enseada.wire import plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from typing import Self

    from enseada.app import Application
    from enseada.build import Opened
    from enseada.config import Settings
    from enseada.http import Request, Response
    from enseada.storage.blobs.base import BlobStore
    from enseada.storage.documents.base import DocumentStore

Stores: TypeAlias = "Callable[[], AbstractAsyncContextManager[tuple[DocumentStore, BlobStore]]]"

NOT_RUNNING = (
    "this registry is not running: its host must serve it within `async with registry.running():`, "
    "in the lifespan of a web application into which it is mounted"
)


class Registry:
    """A registry, and an `enseada.Handler`: it answers requests while `running` is entered, and 503 otherwise."""

    def __init__(self, settings: Settings, *, stores: Stores | None = None) -> None:
        """Opens nothing yet.

        ``stores`` opens the document store and the blob store, and closes them: `memory_stores`, or a host's own async
        context manager; None: the folder ``settings.data``, with SQLite and the local disk.
        """
        self.limits = settings.limits
        """What a client may ask of it."""
        self.admin_password: str | None = None
        """The password of ``admin``, if `running` made that account, which it does at the first start unless
        ``settings.admin_password`` gives one. It is told nowhere else, and never again."""
        self._settings = settings
        self._stores = stores
        self._entered = False
        self._application: Application | None = None

    @property
    def is_running(self) -> bool:
        """Whether `running` is entered."""
        return self._application is not None

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The paths under which its formats live (``/v2``); none while it is not running."""
        return () if self._application is None else self._application.prefixes

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Open it, do while the block runs what goes on beside requests, and close it.

        Raises StartError for a data folder that cannot be used, RuntimeError if it is running already, and what
        ``stores`` raises. End first what sends it requests: those that are under way when the block is left find the
        stores closed; later ones are answered 503. It may be entered again afterwards.
        """
        if self._entered:
            raise RuntimeError("this registry is running already")
        self._entered = True
        try:
            async with self._opened() as opened, opened.registry.running():
                self._application, self.admin_password = opened.registry, opened.admin_password
                try:
                    yield self
                finally:
                    self._application = self.admin_password = None
        finally:
            self._entered = False

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Opened]:
        if self._stores is None:
            async with open_data(self._settings) as opened:
                yield opened
        else:
            async with self._stores() as (documents, blobs):
                yield await open_registry(self._settings, documents, blobs)

    async def __call__(self, request: Request) -> Response:
        """Answer a request (`enseada.Handler`)."""
        if self._application is None:
            return plain(503, NOT_RUNNING)
        return await self._application(request)


@asynccontextmanager
async def memory_stores() -> AsyncIterator[tuple[DocumentStore, BlobStore]]:
    """Stores in memory, gone when they are closed: for tests, and for a first look."""
    from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
    from enseada.storage.documents.memory import MemoryStore as MemoryDocuments

    documents, blobs = MemoryDocuments(), MemoryBlobs()
    try:
        yield documents, blobs
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await blobs.aclose()
            await documents.aclose()
