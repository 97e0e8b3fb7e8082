"""One upload, open in one request: a machine, a writer and the session's document, kept together.

One rule: at every await, what is saved can be resumed. The offset, the state of the hash and the state of the writer
are saved together, in one document, only for bytes that are durable already, and before the writer is let go of.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import anyio

from enseada.blobs import Blob
from enseada.http import RegistryError, Span, unavailable
from enseada.ingest import ingest
from enseada.protocols.digests import hasher, restore
from enseada.protocols.oci.errors import error
from enseada.protocols.oci.upload import Input, UploadMachine
from enseada.storage.blobs.base import BlobBusy, BlobError, BlobLost, BlobUnavailable
from enseada.storage.documents.base import Conflict, DocumentError, Unavailable, Unknown
from enseada.uploaddocument import Saved, UploadDocument

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from enseada.blobs import Blobs
    from enseada.http import Body
    from enseada.protocols.digests import Digest, Hasher
    from enseada.protocols.oci.session import Session
    from enseada.storage.blobs.base import BlobWriter
    from enseada.storage.documents.base import Document
    from enseada.uploads import Uploads

_log = logging.getLogger(__name__)

_BUSY_POLL = 0.2
"""Seconds between two looks at an upload that another process has open."""


class Upload:
    """A session, open in one request. Made by `Uploads.open`, which also saves or ends it."""

    # There may be thousands at one time, each waiting for a slow client.
    __slots__ = (
        *("_base", "_cancelled", "_checkpoint", "_document", "_holding", "_keep", "_key", "_kind", "_lock"),
        *("_repeated", "_rested", "_saved_at", "_session", "_tried_at", "_uploads", "_whole", "_writer"),
        *("machine", "over"),
    )

    machine: UploadMachine
    _writer: BlobWriter

    def __init__(self, uploads: Uploads, session: Session, kind: Input, *, keep: bool) -> None:
        """For `Uploads.open` alone."""
        self.over = False
        """The session has ended, well or not: there is nothing to be saved."""
        self._uploads = uploads
        self._session = session
        self._kind = kind
        self._keep = keep
        self._document = UploadDocument(uploads.documents, session, uploads.process, uploads.in_doubt)
        self._key = ""
        self._base: Saved | None = None
        self._saved_at = 0
        self._tried_at = 0
        self._whole: int | None = None  # the offset at which all bytes had come, and the blob may have become final
        self._repeated = False  # the request sends again what has come whole
        self._rested: int | None = None
        self._holding = False  # the writer is neither suspended nor aborted
        self._lock = anyio.Lock()  # held by whoever flushes, saves or ends the writer
        self._checkpoint: anyio.CancelScope | None = None
        self._cancelled: RegistryError | None = None  # why nothing more can be saved: somebody ended the session

    @property
    def gained(self) -> int:
        """Bytes that came since the session was saved last."""
        return self._writer.offset - self._saved_at

    async def start(self, span: tuple[int, int] | None, length: int | None, algorithm: str | None) -> None:
        """Begin the blob, or take it up where it was saved. Raises as `Uploads.open`.

        Then, and when cancelled, the session is as it was, save that a PUT which repeats another has gone back to
        where that one began.
        """
        document = await self._uploads.document(self._session)
        if document is None:
            await self._begin(span, length, algorithm or self._session.algorithm)
        else:
            self._document.known = document
            await self._resume(span, length)

    async def receive(self, body: Body) -> None:
        """Take all of ``body``. Raises RegistryError (400, 404, 413, 503), BodyError, documents' Conflict."""
        if self._repeated:
            left = self.machine.offset
            async for chunk in body:
                left -= len(chunk)
                if left < 0:
                    raise error("SIZE_INVALID", f"more than the {self.machine.offset} bytes that came the first time")
            return
        with _STORE_FAILURES:
            await ingest(body, self.machine, self._writer, self._progress)
        self.machine.end_of_body()

    async def finish(self, digest: Digest, links: Sequence[Document]) -> Blob:
        """End the session: check the digest, and make the blob visible by ``links``.

        Raises DIGEST_INVALID (400), which ends the session and leaves nothing, and 503 or documents' Conflict,
        Unavailable and Unknown, after which the PUT may be sent again. Cancelled: the blob is visible or the session
        is still there, or both.
        """
        committed = False

        async def commit() -> None:
            nonlocal committed
            committed = True
            await self._writer.commit()

        async with self._lock:
            with _STORE_FAILURES:
                matches = self.machine.matches(digest)
                await self._settle(whole=matches is not False)
                reread = matches is None
                if reread:
                    # Pushed without saying that this algorithm would be asked for: the stored bytes are read once more.
                    await commit()
                    again = hasher(digest.algorithm, resumable=False)
                    await _feed(self._blobs, Span(self._key, 0, self._writer.offset), again)
                    matches = again.hexdigest() == digest.hex
                if not matches:
                    await self._refuse(reread=reread)
                    raise error("DIGEST_INVALID", None, {"digest": str(digest)})
                blob = Blob(digest, self._key, self._writer.offset)
                done = self._document.end("done", digest)
                visible = await self._blobs.publish(blob, links, done, commit)
            self.over = True
            self.machine.accept()
            if visible.key != self._key:
                with self._uploads.last_moments():
                    await self._remove(committed=committed)
        return visible

    async def rest(self) -> None:
        """The request ended well and the session stays: everything that came is saved. Raises 503 if it is not."""
        self.machine.mark()
        came = self.machine.offset
        at = await self._rest()
        if at != came:
            raise unavailable(f"the blob store has kept {at} of {came} bytes: go on from there")

    async def interrupted(self) -> None:
        """The request broke off: save what can be. Failures are logged, since the request has its own already."""
        if self._cancelled is not None:
            await self.abandon()
            return
        # Within a write nobody knows how much was stored. And a session must not rest at offset 1 by accident: the
        # protocol writes it like offset 0.
        if self.machine.offset == self._writer.offset != 1:
            self.machine.mark()
        try:
            await self._rest()
        except (DocumentError, BlobError, RegistryError) as reason:
            _log.warning("upload %s could not be saved: %s", self._session.document_id, reason)
            if self._document.known is None and not self._document.unsure:
                await self._remove()  # nobody will ever know of them

    async def abandon(self) -> None:
        """The request broke off, and nobody can come back to it: remove what came."""
        async with self._lock:
            self.over = True
            await self._remove()

    async def let_go(self) -> None:
        """Leave the upload to whoever comes next; what was not saved by now is lost. Waits for nothing."""
        if self._checkpoint is not None:
            self._checkpoint.cancel()
        self._document.leave()
        if self._holding:
            self._holding = False
            with anyio.CancelScope(shield=True) as at_once:
                at_once.cancel()
                await self._writer.suspend()

    async def checkpoint(self) -> None:
        """Save what came so far, from another task, while the upload waits for its client. Failures are logged."""
        if self._checkpoint is not None or not self._keep:
            return
        try:
            with anyio.CancelScope() as self._checkpoint:
                async with self._lock:
                    await self._save_now()
        except (DocumentError, BlobError, RegistryError) as reason:
            _log.warning("upload %s could not be saved for now: %s", self._session.document_id, reason)
        finally:
            self._checkpoint = None

    @property
    def _blobs(self) -> Blobs:
        return self._uploads.blobs

    async def _begin(self, span: tuple[int, int] | None, length: int | None, algorithm: str) -> None:
        policy = self._uploads.policy
        self.machine = UploadMachine(hasher(algorithm, resumable=policy.resumable_hash), policy.limit)
        self.machine.begin(self._kind, span, length)
        store = self._blobs.store
        self._key = store.new_key()
        with _STORE_FAILURES:
            self._writer = await store.create(self._key, length)
        self._holding = True
        self._base = self._saved(0)

    async def _resume(self, span: tuple[int, int] | None, length: int | None) -> None:
        try:
            await self._take()
            data = self._document.data
            self._key = data["key"]
            # A PUT of everything that broke off is sent again from its beginning, by clients that repeat it. Whoever
            # appends, or says where its bytes begin, does not repeat it.
            base = data.get("base")
            repeated = base is not None and self._kind is Input.PUT and span is None and length != 0
            if data.get("whole"):
                self._whole = data["saved"]["offset"]
                self._repeated = repeated
            elif repeated:
                # Said before it is done: what came after the base is cut off where the writer begins there.
                await self._document.save({**data, "saved": base})
                await self.let_go()
                await self._take()
            elif base is not None and length != 0:
                await self._document.save({key: value for key, value in data.items() if key != "base"})
            saved = Saved.decode(self._document.data["saved"])
            self.machine = UploadMachine(await self._hasher(saved), self._uploads.policy.limit)
            self.machine.begin(self._kind, span, 0 if self._repeated else length)
        except BaseException:
            await self.let_go()
            raise
        self._saved_at = self._tried_at = saved.offset
        self._base = saved

    async def _take(self) -> None:
        """Wait until we have the writer to ourselves, where the newest document says that the upload is."""
        deadline = anyio.current_time() + self._uploads.policy.lease_time
        while True:
            lost: BlobLost | None = None
            try:
                with _UNAVAILABLE:
                    saved = Saved.decode(self._document.data["saved"])
                    self._writer = await self._blobs.store.resume(saved.writer)
                self._holding = True
            except BlobBusy:
                if anyio.current_time() >= deadline:
                    raise busy() from None
                await anyio.sleep(_BUSY_POLL)
            except BlobLost as reason:
                lost = reason
            # Another process may have saved, and let go, after the document was read and before the writer was ours.
            newest = await self._uploads.document(self._session)
            if newest is None:
                raise error("BLOB_UPLOAD_UNKNOWN", "this upload is gone")
            if lost is not None and self._document.is_at(newest):
                await self._uploads.documents.put_in_order(self._document.end("ended"))  # GET is to say so too
                raise error("BLOB_UPLOAD_UNKNOWN", f"the bytes of this upload are gone: {lost}") from lost
            if self._holding and self._document.is_at(newest):
                with suppress(Conflict):  # what was in doubt has happened: look again
                    await self._document.settle()
                    return
            await self.let_go()
            self._document.known = newest

    async def _save_now(self) -> None:
        # In the midst of a write nobody knows how much is stored, and after `finish` has begun its document says more.
        if self._holding and self._whole is None and self.machine.offset == self._writer.offset != 1:
            self.machine.mark()
            await self._writer.flush()
            await self._save(self.machine.marked(self._writer.durable))

    async def _progress(self) -> None:
        policy = self._uploads.policy
        if self._cancelled is not None:
            raise self._cancelled
        if self._writer.durable - self._tried_at < policy.save_bytes:
            return
        if not self._keep:
            self._tried_at = self.machine.marked(self._writer.durable)  # earlier marks are of no use
            return
        async with self._lock:
            self._tried_at = self._writer.durable
            try:
                await self._save(self.machine.marked(self._tried_at))
            except (Unavailable, Unknown) as reason:
                # The bytes are safe; only a crash before the next save would cost more of them.
                _log.warning("upload %s could not be saved for now: %s", self._session.document_id, reason)

    async def _rest(self) -> int:
        """Save, let go of the writer, and return where the session rests. May be called again after a failure."""
        async with self._lock:
            if self._cancelled is not None:
                raise self._cancelled
            if self._document.known is None and not self.machine.offset and not self._document.unsure:
                await self._remove()  # nothing came, and nothing is to be kept
                self._rested = self.machine.offset
            if self._rested is None:
                if self._holding and self._whole is None:
                    with suppress(BlobUnavailable):  # then it is given up below
                        await self._writer.flush()
                    if (at := self.machine.marked(self._writer.durable)) != self._saved_at:
                        await self._save(at)
                self._holding = False  # also when it is cancelled
                durable = await self._writer.suspend()
                self._rested = self.machine.rest(durable)
            if self._rested != self._saved_at:
                await self._save(self._rested)
            elif self._document.known is None and not self._document.unsure:
                await self._remove()
            return self._rested

    async def _settle(self, *, whole: bool) -> None:
        """Before the session ends: be sure of its document, and let it say that all bytes came, if they did.

        Else a crash would leave a document that speaks of an upload where there is a final blob. Without a document
        there is no need: then nothing ever began.
        """
        if self._cancelled is not None:
            raise self._cancelled
        self.machine.mark()
        if whole:
            self._whole = self.machine.offset
        known = self._document.known
        behind = whole and known is not None and (self._saved_at != self._whole or "base" in known.data)
        if (behind and not self._repeated) or self._document.unsure:
            await self._writer.flush()
            await self._save(self.machine.marked(self._writer.durable))

    async def _refuse(self, *, reread: bool) -> None:
        """``reread``: the bytes have been committed, only to be read."""
        with self._uploads.last_moments():
            await self._uploads.documents.put_in_order(self._document.end("ended"))
            self.over = True
            self.machine.refuse()
            await self._remove(committed=reread)

    async def _remove(self, *, committed: bool = False) -> None:
        """Remove the bytes. What cannot be removed is logged, and left to the sweeper.

        ``committed``: also if they have become final, unless a document tells whose they are.
        """
        with _logged(f"the bytes of upload {self._session.document_id} stay for now"):
            if self._holding:
                await self._writer.abort()
                self._holding = False
            else:
                await self._blobs.store.discard(self._writer.state(0))
            if committed:
                await self._blobs.remove(self._key)

    def _saved(self, at: int) -> Saved:
        state = self.machine.hash_state(at) if self._uploads.policy.resumable_hash else None
        return Saved(at, self.machine.algorithm, state, self._writer.state(at))

    async def _save(self, at: int) -> None:
        data: dict[str, object] = {"key": self._key, "saved": self._saved(at).encode()}
        if self._kind is Input.PUT and self._base is not None:
            data["base"] = self._base.encode()
        if at == self._whole:
            data["whole"] = True
        try:
            await self._document.save(data)
        except RegistryError as failure:
            # Whichever task finds it out, the request's own ends the upload.
            self._cancelled = failure
            raise
        self._saved_at = at
        self._tried_at = max(at, self._tried_at)

    async def _hasher(self, saved: Saved) -> Hasher:
        resumable = self._uploads.policy.resumable_hash
        if saved.hash is not None and resumable:
            try:
                return restore(saved.hash)
            except ValueError as reason:
                # Saved by another platform's library: as good as not saved.
                _log.info("the hash state of %s cannot be used: %s", self._session.document_id, reason)
        again = hasher(saved.algorithm, resumable=resumable)
        with _STORE_FAILURES:
            await _feed(self._blobs, Span(self._key, 0, saved.offset), again)
        return again


def busy() -> RegistryError:
    """503: another request has the upload."""
    return unavailable("another request is writing to this upload")


async def _feed(blobs: Blobs, span: Span, into: Hasher) -> None:
    content = await blobs.store.open(span)
    try:
        async for chunk in content:
            into.update(chunk)
    finally:
        await content.aclose()


class _Told:
    """A context in which a blob store's failures become what clients are told. It keeps nothing of its uses: one does
    for all uploads."""

    __slots__ = ("_lost_too",)

    def __init__(self, *, lost_too: bool) -> None:
        self._lost_too = lost_too

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, failure: BaseException | None, traceback: object) -> None:
        if isinstance(failure, BlobUnavailable):
            raise unavailable(f"the blob store does not take this upload for now: {failure}") from failure
        if self._lost_too and isinstance(failure, BlobLost):
            raise error("BLOB_UPLOAD_UNKNOWN", f"the bytes of this upload are gone: {failure}") from failure


_UNAVAILABLE = _Told(lost_too=False)
"""What a blob store does not do now is 503."""
_STORE_FAILURES = _Told(lost_too=True)
"""The same; and an upload whose bytes the store has lost, or made final, is gone for good: 404."""


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log a store's failure, where nothing depends on its success."""
    try:
        yield
    except (BlobError, DocumentError) as reason:
        _log.warning("%s: %s", what, reason)
