"""Uploads of blobs: end-4a to end-6, end-11, end-13 of the distribution-spec, in all the shapes in which clients push.

POST begins a session and writes nothing; PATCH appends; PUT ends it with a digest. A POST may also mount a blob that
another name has, or bring the whole blob by itself.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from enseada.auth.policy import Action, image
from enseada.formats.oci_common import (
    check_repository,
    link_document,
    link_id,
    reply,
    repository_document,
)
from enseada.http import RegistryError
from enseada.protocols.digests import OCI_ALGORITHMS
from enseada.protocols.oci import errors, names, session
from enseada.protocols.oci.session import Session
from enseada.protocols.oci.upload import Input, format_range, parse_content_range
from enseada.storage.documents.base import prefix_range

if TYPE_CHECKING:

    from enseada.auth.policy import Authorizer, Subject
    from enseada.blobs import Blob
    from enseada.formats.oci_common import OCIStores
    from enseada.http import Request, Response
    from enseada.protocols.digests import Digest
    from enseada.router import Params
    from enseada.storage.documents.base import Document
    from enseada.upload import Upload

MOUNT_CANDIDATES = 100
"""Names that are looked at for a mount that does not say from where."""


class UploadHandlers:
    """The routes under ``blobs/uploads/``."""

    def __init__(self, stores: OCIStores, authorizer: Authorizer) -> None:
        self._stores = stores
        self._authorizer = authorizer

    async def begin(self, request: Request, params: Params, subject: Subject) -> Response:
        """POST: mount, take the whole blob, or begin a session."""
        name = params["name"]
        await check_repository(self._stores, name)
        mount = request.param("mount")
        if mount is not None:
            digest = names.check_digest(mount)
            if await self._mount(name, digest, request.param("from"), subject):
                return self._created(request, name, digest)
            # What may not or cannot be mounted is an ordinary session: clients then send the blob.
            return self._accepted(request, self._new_session(name, digest.algorithm), 0)
        whole = request.param("digest")
        if whole is not None:
            digest = names.check_digest(whole)
            upload_session = self._new_session(name, digest.algorithm)
            async with self._stores.uploads.open(
                upload_session, Input.PUT, length=request.body.length, keep=False
            ) as upload:
                await upload.receive(request.body)
                await self._publish(upload, name, digest)
            return self._created(request, name, digest)
        algorithm = request.param("digest-algorithm") or OCI_ALGORITHMS[0]
        if algorithm not in OCI_ALGORITHMS:
            raise errors.error("DIGEST_INVALID", f"digest algorithms are {', '.join(OCI_ALGORITHMS)}")
        return self._accepted(request, self._new_session(name, algorithm), 0)

    async def append(self, request: Request, params: Params, subject: Subject) -> Response:
        """PATCH: the next bytes."""
        upload_session = self._session(params)
        try:
            span = parse_content_range(request.headers.get("content-range"))
            async with self._stores.uploads.open(
                upload_session, Input.PATCH, span=span, length=request.body.length
            ) as upload:
                await upload.receive(request.body)
                offset = upload.machine.offset
        except RegistryError as failure:
            await self._locate(request, upload_session, failure)
            raise
        return self._accepted(request, upload_session, offset)

    async def finish(self, request: Request, params: Params, subject: Subject) -> Response:
        """PUT: the last bytes, if any, and the digest of all."""
        upload_session = self._session(params)
        wanted = request.param("digest")
        if wanted is None:
            raise errors.error("DIGEST_INVALID", "the digest parameter is missing")
        digest = names.check_digest(wanted)
        name = params["name"]
        if await self._finished(upload_session, name, digest):
            return self._created(request, name, digest)  # the answer to an earlier PUT was lost
        try:
            span = parse_content_range(request.headers.get("content-range"))
            async with self._stores.uploads.open(
                upload_session, Input.PUT, span=span, length=request.body.length, algorithm=digest.algorithm
            ) as upload:
                await upload.receive(request.body)
                await self._publish(upload, name, digest)
        except RegistryError as failure:
            await self._locate(request, upload_session, failure)
            # The earlier PUT may have been under way still, and have ended while this one waited for its turn.
            if failure.code != "BLOB_UPLOAD_UNKNOWN" or not await self._finished(upload_session, name, digest):
                raise
        return self._created(request, name, digest)

    async def _finished(self, upload_session: Session, name: str, digest: Digest) -> bool:
        """Whether the session has ended with that digest, and its blob is still there."""
        if await self._stores.uploads.finished(upload_session) != str(digest):
            return False
        return await self._stores.documents.get(link_id(name, digest)) is not None

    async def status(self, request: Request, params: Params, subject: Subject) -> Response:
        """GET: how far the session is. 204, as the specification says since 1.0."""
        upload_session = self._session(params)
        offset = await self._stores.uploads.offset(upload_session)
        return reply(204, self._fields(request, upload_session, offset))

    async def cancel(self, request: Request, params: Params, subject: Subject) -> Response:
        """DELETE: the session is over, and its bytes go."""
        await self._stores.uploads.cancel(self._session(params))
        return reply(204)

    async def _publish(self, upload: Upload, name: str, digest: Digest) -> Blob:
        return await upload.finish(digest, self._links(name, digest))

    def _links(self, name: str, digest: Digest) -> list[Document]:
        return [repository_document(name), link_document(self._stores, name, digest)]

    async def _mount(self, name: str, digest: Digest, source: str | None, subject: Subject) -> bool:
        """Link a blob that ``source``, or any name that the subject may read, has. False: it cannot be done."""
        documents = self._stores.documents
        candidates = [source] if source is not None else await self._holders(digest)
        # The right to read the source is the subject's own: clients ask for a token before they know of the mount.
        reader = subject.unscoped()
        for candidate in candidates:
            if not names.is_name(candidate):
                continue
            if not self._authorizer.decide(reader, Action.READ, image(candidate)).allowed:
                continue
            if await documents.get(link_id(candidate, digest)) is None:
                continue
            blob = await self._stores.blobs.is_stored(digest)
            if blob is None:
                return False
            await self._stores.blobs.publish(blob, self._links(name, digest))
            return True
        return False

    async def _holders(self, digest: Digest) -> list[str]:
        start, stop = prefix_range(f"oci-link:{digest}@")
        links = await self._stores.documents.scan(start, stop, MOUNT_CANDIDATES)
        return [link.id[len(start) :] for link in links]

    def _new_session(self, name: str, algorithm: str) -> Session:
        return Session(name, int(self._stores.clock()), algorithm, secrets.token_bytes(session.NONCE_BYTES))

    def _session(self, params: Params) -> Session:
        found = session.verify(params["upload"], params["name"], self._stores.upload_secret)
        if found is None:
            raise errors.error("BLOB_UPLOAD_UNKNOWN", "no upload to this name has that id")
        return found

    async def _locate(self, request: Request, upload_session: Session, failure: RegistryError) -> None:
        """Have a 416 tell where the session is, and its address, whatever was wrong with the range."""
        if failure.status == 416:
            told = {name for name, _ in failure.headers}
            offset = 0 if "Range" in told else await self._stores.uploads.offset(upload_session)
            fields = self._fields(request, upload_session, offset)
            failure.headers += [(name, value) for name, value in fields if name not in told]

    def _fields(self, request: Request, upload_session: Session, offset: int) -> list[tuple[str, str]]:
        text = upload_session.sign(self._stores.upload_secret)
        return [
            ("Location", request.reference(f"/v2/{upload_session.name}/blobs/uploads/{text}")),
            ("Range", format_range(offset)),
            ("Docker-Upload-UUID", upload_session.nonce.hex()),
        ]

    def _accepted(self, request: Request, upload_session: Session, offset: int) -> Response:
        return reply(202, self._fields(request, upload_session, offset))

    def _created(self, request: Request, name: str, digest: Digest) -> Response:
        location = request.reference(f"/v2/{name}/blobs/{digest}")
        return reply(201, [("Location", location), ("Docker-Content-Digest", str(digest))])
