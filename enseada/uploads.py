"""Upload sessions: a machine, a writer and a document, so that an upload outlives its request and its process.

The document is saved whenever more bytes became durable (`UploadPolicy`), and at the end of each request; what GET
reports is what is saved. A crash loses at most what came after the last save.

One rule: at every await, what is saved can be resumed. The offset, the state of the hash and the state of the writer
are saved together, in one document, and only for bytes that are durable already.
"""

from __future__ import annotations

import base64
import logging
import secrets
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from enseada.blobs import Blob
from enseada.http import Span, unavailable
from enseada.ingest import ingest
from enseada.protocols.digests import hasher, restore
from enseada.protocols.oci.errors import error
from enseada.protocols.oci.upload import Input, UploadMachine, wrong_place
from enseada.storage.blobs.base import BlobBusy, BlobError, BlobLost, BlobUnavailable
from enseada.storage.documents.base import Conflict, Document, DocumentError, Unavailable, Unknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from enseada.blobs import Blobs
    from enseada.http import Body, RegistryError
    from enseada.protocols.digests import Digest, Hasher
    from enseada.protocols.oci.session import Session
    from enseada.storage.blobs.base import BlobWriter
    from enseada.storage.documents.base import DocumentStore

_log = logging.getLogger(__name__)

_BUSY_POLL = 0.2
"""Seconds between two looks at an upload that another process has open."""


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


@dataclass(frozen=True, slots=True)
class Saved:
    """What a session's document says of one offset: from here an upload goes on."""

    offset: int
    algorithm: str
    hash: bytes | None
    writer: bytes

    def encode(self) -> dict[str, object]:
        return {
            "offset": self.offset,
            "algorithm": self.algorithm,
            "hash": None if self.hash is None else base64.b64encode(self.hash).decode("ascii"),
            "writer": base64.b64encode(self.writer).decode("ascii"),
        }

    @classmethod
    def decode(cls, data: dict[str, Any]) -> Saved:
        state = None if data["hash"] is None else base64.b64decode(data["hash"])
        return cls(data["offset"], data["algorithm"], state, base64.b64decode(data["writer"]))


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
        self._clock = clock
        self._open: set[Upload] = set()
        self._turns: dict[str, _Turn] = {}

    async def offset(self, session: Session) -> int:
        """The bytes of a session that are saved. Raises BLOB_UPLOAD_UNKNOWN (404), documents' Unavailable."""
        document = await self._document(session)
        return 0 if document is None else document.data["saved"]["offset"]

    async def finished(self, session: Session) -> str | None:
        """The digest with which a session ended well, or None: so that a PUT whose answer was lost can be repeated."""
        document = await self.documents.get(session.document_id)
        return None if document is None else document.data.get("digest")

    async def cancel(self, session: Session) -> None:
        """End a session and remove its bytes. Raises BLOB_UPLOAD_UNKNOWN (404), 503 while it is being written."""
        async with self._turn(session):
            document = await self._document(session)
            ended = {"state": "ended", "name": session.name}
            await self.documents.put(Document(session.document_id, ended, document.rev if document else None))
            if document is not None:
                # The session is over whatever happens now; what cannot be removed is left to the sweeper.
                try:
                    await self.blobs.store.discard(Saved.decode(document.data["saved"]).writer)
                except (BlobError, OSError) as reason:
                    _log.warning("the bytes of cancelled upload %s stay for now: %s", session.document_id, reason)

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
        document = await self._document(session)
        if span is not None:
            saved = document.data["saved"]["offset"] if document else 0
            if span[0] != saved:
                raise wrong_place(saved)  # at once: no wait makes a wrong place right
        async with self._turn(session):
            upload = await self._resume(session, kind, span, length, algorithm)
            self._open.add(upload)
            try:
                yield upload
                if not upload.over:
                    await upload.rest()
            except BaseException:
                if not upload.over:
                    with self.last_moments():
                        await (upload.interrupted() if keep else upload.abandon())
                raise
            finally:
                self._open.discard(upload)

    async def save_idle(self) -> None:
        """Save the sessions that gained `UploadPolicy.save_idle_bytes` since they were saved last."""
        async with anyio.create_task_group() as group:
            for upload in list(self._open):
                if upload.gained >= self.policy.save_idle_bytes:
                    group.start_soon(upload.checkpoint)

    async def run(self) -> None:
        """Save idle sessions, for ever: the one task for all uploads."""
        while True:
            await anyio.sleep(self.policy.save_interval)
            try:
                await self.save_idle()
            except* Exception:
                # A defect that one upload meets must not end the saving of all others.
                _log.exception("uploads could not be saved")

    def last_moments(self) -> anyio.CancelScope:
        """A shield for what must be put in order after a failure or a cancellation; it has a deadline."""
        return anyio.CancelScope(shield=True, deadline=anyio.current_time() + self.policy.suspend_time)

    async def _document(self, session: Session) -> Document | None:
        if self._clock() - session.created > self.policy.expiry:
            raise error("BLOB_UPLOAD_UNKNOWN", "this upload has expired")
        document = await self.documents.get(session.document_id)
        if document is not None and document.data["state"] != "open":
            raise error("BLOB_UPLOAD_UNKNOWN", "this upload has ended")
        return document

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
                raise _busy()
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[key]

    async def _resume(
        self, session: Session, kind: Input, span: tuple[int, int] | None, length: int | None, algorithm: str | None
    ) -> Upload:
        document = await self._document(session)
        upload = Upload(self, session, document, kind)
        if document is None:
            await upload.begin(span, length, algorithm or session.algorithm)
        else:
            data = document.data
            # A PUT of everything that broke off is sent again from its beginning, by clients that repeat it.
            repeated = kind is Input.PUT and span is None and length != 0 and "base" in data
            await upload.resume(Saved.decode(data["base" if repeated else "saved"]), span, length)
        return upload


class _Turn:
    """Whose turn it is to write to a session, and how many want it."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.wanted = 0


class Upload:
    """A session, open in one request. Made by `Uploads.open`, which also saves or ends it."""

    machine: UploadMachine
    _writer: BlobWriter

    def __init__(self, uploads: Uploads, session: Session, document: Document | None, kind: Input) -> None:
        self.over = False
        self._session = session
        self._policy = uploads.policy
        self._last_moments = uploads.last_moments
        self._blobs = uploads.blobs
        self._documents = uploads.documents
        self._document = document
        self._holder = secrets.token_hex(8)
        self._kind = kind
        self._base: Saved | None = None
        self._key = "" if document is None else document.data["key"]
        self._saved_at = 0
        self._lock = anyio.Lock()  # held by whoever flushes, saves or ends the writer

    @property
    def gained(self) -> int:
        """Bytes that came since the session was saved last."""
        return self._writer.offset - self._saved_at

    async def begin(self, span: tuple[int, int] | None, length: int | None, algorithm: str) -> None:
        """Begin the blob. Raises as `Uploads.open`; then, and when cancelled, nothing is left."""
        self.machine = UploadMachine(hasher(algorithm, resumable=self._policy.resumable_hash), self._policy.limit)
        self.machine.begin(self._kind, span, length)
        store = self._blobs.store
        self._key = store.new_key()
        with _store_failures():
            self._writer = await store.create(self._key, length)
        self._base = self._saved(0)

    async def resume(self, saved: Saved, span: tuple[int, int] | None, length: int | None) -> None:
        """Take up the session where it was saved. Raises as `Uploads.open`; then, and when cancelled, it stays so."""
        self._writer = await self._reopen(saved)
        try:
            self.machine = UploadMachine(await self._hasher(saved), self._policy.limit)
            self.machine.begin(self._kind, span, length)
        except BaseException:
            with self._last_moments():
                await self._writer.suspend()
            raise
        self._saved_at = saved.offset
        self._base = saved

    async def receive(self, body: Body) -> None:
        """Take all of ``body``. Raises RegistryError (400, 413, 503), BodyError."""
        with _store_failures():
            await ingest(body, self.machine, self._writer, self._progress)
        self.machine.end_of_body()

    async def finish(self, digest: Digest, links: Sequence[Document]) -> Blob:
        """End the session: check the digest, and make the blob visible by ``links``.

        Raises DIGEST_INVALID (400), which ends the session and leaves nothing, and 503, after which the PUT may be
        sent again. Cancelled: the blob is visible or the session is still there, or both.
        """
        async with self._lock:
            with _store_failures():
                if not await self._verify(digest):
                    await self._refuse()
                    raise error("DIGEST_INVALID", None, {"digest": str(digest)})
                blob = Blob(digest, self._key, self._writer.offset)
                visible = await self._blobs.publish(blob, links, self._ended("done", digest), self._writer.commit)
            self.over = True
            self.machine.accept()
            with self._last_moments():
                if visible.key == self._key:
                    await self._writer.suspend()
                else:
                    await self._writer.abort()
        return visible

    async def rest(self) -> None:
        """The request ended well and the session stays: everything that came is saved."""
        self.machine.mark()
        await self._suspend()

    async def interrupted(self) -> None:
        """The request broke off: save what can be. Failures are logged, since the request has its own already."""
        # Within a write nobody knows how much was stored. And a session must not rest at offset 1 by accident: the
        # protocol writes it like offset 0.
        if self.machine.offset == self._writer.offset != 1:
            self.machine.mark()
        try:
            await self._suspend()
        except (DocumentError, BlobError) as reason:
            _log.warning("upload %s could not be saved: %s", self._session.document_id, reason)

    async def abandon(self) -> None:
        """The request broke off, and nobody can come back to it: remove what came."""
        async with self._lock:
            self.over = True
            await self._writer.abort()

    async def checkpoint(self) -> None:
        """Save what came so far, from another task, while the upload waits for its client. Failures are logged."""
        async with self._lock:
            if self.over or self.machine.offset != self._writer.offset or self.machine.offset == 1:
                return
            self.machine.mark()
            try:
                await self._writer.flush()
                await self._save(self.machine.marked(self._writer.durable))
            except (DocumentError, BlobError) as reason:
                _log.warning("upload %s could not be saved for now: %s", self._session.document_id, reason)

    async def _progress(self) -> None:
        if self._writer.durable - self._saved_at < self._policy.save_bytes:
            return
        async with self._lock:
            try:
                await self._save(self.machine.marked(self._writer.durable))
            except (Unavailable, Unknown) as reason:
                # The bytes are safe; only a crash before the next save would cost more of them.
                _log.warning("upload %s could not be saved for now: %s", self._session.document_id, reason)

    async def _suspend(self) -> None:
        async with self._lock:
            if self._document is None and self.machine.offset == 0:
                await self._writer.abort()  # nothing came, and nothing is to be kept
                self.machine.rest(0)
                return
            durable = await self._writer.suspend()
            at = self.machine.rest(durable)
            if at or self._document is not None:
                await self._save(at)
            else:
                await self._blobs.store.discard(self._writer.state(at))

    def _saved(self, at: int) -> Saved:
        state = self.machine.hash_state(at) if self._policy.resumable_hash else None
        return Saved(at, self.machine.algorithm, state, self._writer.state(at))

    async def _save(self, at: int) -> None:
        data = {
            "state": "open",
            "name": self._session.name,
            "holder": self._holder,
            "key": self._key,
            "saved": self._saved(at).encode(),
        }
        if self._kind is Input.PUT and self._base is not None:
            data["base"] = self._base.encode()
        rev = None if self._document is None else self._document.rev
        try:
            self._document = await self._documents.put(Document(self._session.document_id, data, rev))
        except (Conflict, Unknown):
            # It may be our own earlier write, whose answer was lost or cancelled.
            found = await self._documents.get(self._session.document_id)
            if found is None or found.data.get("holder") != self._holder:
                raise
            self._document = await self._documents.put(Document(found.id, data, found.rev))
        self._saved_at = at

    def _ended(self, state: str, digest: Digest | None = None) -> list[Document]:
        """The document that says that the session is over; none where no document ever said that it began."""
        if self._document is None:
            return []
        data = {"state": state, "name": self._session.name}
        if digest is not None:
            data["digest"] = str(digest)
        return [Document(self._document.id, data, self._document.rev)]

    async def _verify(self, digest: Digest) -> bool:
        matches = self.machine.matches(digest)
        if matches is not None:
            return matches
        # Pushed without saying that this algorithm would be asked for: the stored bytes are read once more.
        await self._writer.commit()
        again = hasher(digest.algorithm, resumable=False)
        await _feed(self._blobs, Span(self._key, 0, self._writer.offset), again)
        return again.hexdigest() == digest.hex

    async def _refuse(self) -> None:
        await self._documents.put_in_order(self._ended("ended"))
        self.over = True
        self.machine.refuse()
        with self._last_moments():
            await self._writer.abort()
            await self._blobs.store.delete(self._key)  # for the case that it had to be committed to be read

    async def _reopen(self, saved: Saved) -> BlobWriter:
        deadline = anyio.current_time() + self._policy.lease_time
        while True:
            try:
                with _store_failures():
                    return await self._blobs.store.resume(saved.writer)
            except BlobBusy:
                if anyio.current_time() >= deadline:
                    raise _busy() from None
            except BlobLost as reason:
                raise error("BLOB_UPLOAD_UNKNOWN", f"the bytes of this upload are gone: {reason}") from reason
            await anyio.sleep(_BUSY_POLL)

    async def _hasher(self, saved: Saved) -> Hasher:
        if saved.hash is not None and self._policy.resumable_hash:
            try:
                return restore(saved.hash)
            except ValueError as reason:
                # Saved by another platform's library: as good as not saved.
                _log.info("the hash state of %s cannot be used: %s", self._session.document_id, reason)
        again = hasher(saved.algorithm, resumable=self._policy.resumable_hash)
        with _store_failures():
            await _feed(self._blobs, Span(self._key, 0, saved.offset), again)
        return again


async def _feed(blobs: Blobs, span: Span, into: Hasher) -> None:
    content = await blobs.store.open(span)
    try:
        async for chunk in content:
            into.update(chunk)
    finally:
        await content.aclose()


@contextmanager
def _store_failures() -> Iterator[None]:
    """Translate a blob store's failure to do something now into a 503."""
    try:
        yield
    except BlobUnavailable as reason:
        raise unavailable(f"the blob store does not take this upload for now: {reason}") from reason


def _busy() -> RegistryError:
    return unavailable("another request is writing to this upload")
