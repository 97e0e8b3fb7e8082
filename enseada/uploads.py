"""Upload sessions: they outlive their requests and their process, by one small document each.

The document is saved whenever more bytes became durable (`UploadPolicy`), and at the end of each request; what GET
reports is what is saved. A crash loses at most what came after the last save.

One rule: a session is open in one request at a time. Who comes with the right offset waits for the lease time.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from enseada.http import unavailable
from enseada.protocols.oci.errors import error
from enseada.protocols.oci.upload import Input, wrong_place
from enseada.storage.blobs.base import BlobError
from enseada.storage.documents.base import Document
from enseada.upload import Upload, busy
from enseada.uploaddocument import Saved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from enseada.blobs import Blobs
    from enseada.protocols.oci.session import Session
    from enseada.storage.documents.base import DocumentStore

_log = logging.getLogger(__name__)

__all__ = ["Upload", "UploadPolicy", "Uploads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPolicy:
    """The settings of uploads; bytes and seconds."""

    save_bytes: int = 64 * 1024 * 1024
    """A session is saved when so much more is durable."""
    save_idle_bytes: int = 1024 * 1024
    """A session that gained so much is saved at the next turn of `Uploads.run`."""
    save_interval: float = 30.0
    """Time between two turns of `Uploads.run`."""
    lease_time: float = 15.0
    """How long a request waits for another one that has its upload open."""
    suspend_time: float = 10.0
    """How long a request that was cut off or cancelled may take to save its upload."""
    expiry: float = 7 * 24 * 3600.0
    """The age at which a session ends."""
    limit: int | None = None
    """The largest blob accepted."""
    resumable_hash: bool = True
    """False: never save the state of a hash, and read stored bytes again instead, as where it cannot be saved."""


class Uploads:
    """All upload sessions of this process, and the way to those that other processes left."""

    def __init__(
        self,
        documents: DocumentStore,
        blobs: Blobs,
        policy: UploadPolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock``: seconds since 1970."""
        self.policy = policy
        self.documents = documents
        self.blobs = blobs
        self.process = secrets.token_hex(8)
        """Names this process in the documents that it writes."""
        self.in_doubt: set[str] = set()
        """Sessions' documents of which nobody knows whether the last write has happened, or may yet happen."""
        self._clock = clock
        self._open: set[Upload] = set()
        self._turns: dict[str, _Turn] = {}

    async def offset(self, session: Session) -> int:
        """The bytes of a session that are saved. Raises BLOB_UPLOAD_UNKNOWN (404), documents' Unavailable."""
        document = await self.document(session)
        return 0 if document is None else document.data["saved"]["offset"]

    async def finished(self, session: Session) -> str | None:
        """The digest with which a session ended well, or None: so that a PUT whose answer was lost can be repeated."""
        document = await self.documents.get(session.document_id)
        return None if document is None else document.data.get("digest")

    async def cancel(self, session: Session) -> None:
        """End a session and remove its bytes. Raises BLOB_UPLOAD_UNKNOWN (404), 503 while it is being written."""
        async with self._turn(session):
            document = await self.document(session)
            ended = {"state": "ended", "name": session.name}
            if document is not None:
                ended["key"] = document.data["key"]  # for the sweeper, if the bytes cannot be removed
            with self.last_moments() as moments:
                await self.documents.put(Document(session.document_id, ended, document.rev if document else None))
                if document is not None:
                    # The session is over whatever happens now; what cannot be removed is left to the sweeper.
                    try:
                        await self.blobs.store.discard(Saved.decode(document.data["saved"]).writer)
                    except (BlobError, OSError) as reason:
                        _log.warning("the bytes of cancelled upload %s stay for now: %s", session.document_id, reason)
            if moments.cancelled_caught:
                raise unavailable("the upload could not be cancelled in time")

    @asynccontextmanager
    async def open(
        self,
        session: Session,
        kind: Input,
        *,
        span: tuple[int, int] | None = None,
        length: int | None = None,
        algorithm: str | None = None,
        keep: bool = True,
    ) -> AsyncIterator[Upload]:
        """Open a session for one request (``kind``: PATCH or PUT) and save or end it on the way out.

        ``span``: the Content-Range; ``length``: the body's; ``algorithm``: that of the digest, where it is known;
        ``keep`` False: nobody knows the session, and what breaks off is removed.
        Raises BLOB_UPLOAD_UNKNOWN (404), RANGE_INVALID (416), SIZE_INVALID (400, 413) and 503 when another request
        has the upload and does not let go within the lease time. When the block raises or is cancelled, what came is
        saved under a shield of ``policy.suspend_time``, and the session stays.
        """
        if span is not None:
            saved = await self.offset(session)
            if span[0] != saved:
                raise wrong_place(saved)  # at once: no wait makes a wrong place right
        async with self._turn(session):
            upload = Upload(self, session, kind, keep=keep)
            await upload.start(span, length, algorithm)
            self._open.add(upload)
            try:
                yield upload
                if not upload.over:
                    await upload.rest()
            except BaseException:
                if not upload.over:
                    with self.last_moments() as moments:
                        await (upload.interrupted() if keep else upload.abandon())
                    if moments.cancelled_caught:
                        _log.warning("upload %s could not be saved in time", session.document_id)
                raise
            finally:
                self._open.discard(upload)
                await upload.let_go()

    async def save_idle(self) -> None:
        """Save the sessions that gained `UploadPolicy.save_idle_bytes` since they were saved last."""
        async with anyio.create_task_group() as group:
            for upload in list(self._open):
                if upload.gained >= self.policy.save_idle_bytes:
                    group.start_soon(self._checkpoint, upload)

    async def run(self) -> None:
        """Save idle sessions, for ever: the one task for all uploads."""
        while True:
            await anyio.sleep(self.policy.save_interval)
            await self.save_idle()

    def last_moments(self) -> anyio.CancelScope:
        """A shield for what must be put in order after a failure or a cancellation; it has a deadline."""
        return anyio.CancelScope(shield=True, deadline=anyio.current_time() + self.policy.suspend_time)

    async def document(self, session: Session) -> Document | None:
        """What is saved of a session. Raises BLOB_UPLOAD_UNKNOWN (404) when it is over, documents' Unavailable."""
        if self._clock() - session.created > self.policy.expiry:
            raise error("BLOB_UPLOAD_UNKNOWN", "this upload has expired")
        document = await self.documents.get(session.document_id)
        if document is not None and document.data["state"] != "open":
            raise error("BLOB_UPLOAD_UNKNOWN", "this upload has ended")
        return document

    async def _checkpoint(self, upload: Upload) -> None:
        try:
            await upload.checkpoint()
        except Exception:
            # A defect that one upload meets must not end the saving of all others.
            _log.exception("an upload could not be saved")

    @asynccontextmanager
    async def _turn(self, session: Session) -> AsyncIterator[None]:
        """Wait until no other request of this process has the session; 503 after the lease time."""
        key = session.document_id
        turn = self._turns.setdefault(key, _Turn())
        turn.wanted += 1
        try:
            with anyio.move_on_after(self.policy.lease_time) as wait:
                await turn.lock.acquire()
            if wait.cancelled_caught:
                raise busy()
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[key]


class _Turn:
    """Whose turn it is to write to a session, and how many want it."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.wanted = 0
