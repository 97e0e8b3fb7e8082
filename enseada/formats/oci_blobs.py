"""Blobs: end-2 and end-10 of the distribution-spec. Bytes leave by ranges, straight from the store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from enseada.formats.oci_common import delete_found, link_id, reply
from enseada.protocols.http1.ranges import select
from enseada.protocols.oci import errors, names
from enseada.storage.blobs.base import BlobMissing

if TYPE_CHECKING:
    from enseada.auth.policy import Subject
    from enseada.formats.oci_common import OCIStores
    from enseada.http import RegistryError, Request, Response
    from enseada.protocols.digests import Digest
    from enseada.router import Params
    from enseada.storage.documents.base import Document

_log = logging.getLogger(__name__)

FOREVER = "private, max-age=31536000, immutable"
"""Cache-Control of what a digest names: it never changes, and is for those who may read it."""


class BlobHandlers:
    """The routes of stored blobs."""

    def __init__(self, stores: OCIStores) -> None:
        self._stores = stores

    async def get(self, request: Request, params: Params, subject: Subject) -> Response:
        """GET and HEAD: the blob, or a range of it."""
        name, digest = params["name"], names.check_digest(params["digest"])
        await self._find(name, digest)
        # HEAD is what a client asks before it leaves out an upload, so it promises only bytes that are really there.
        blobs = self._stores.blobs
        blob = await (blobs.is_stored(digest) if request.method == "HEAD" else blobs.find(digest))
        if blob is None:
            raise _unknown(digest)
        fields = [
            ("Docker-Content-Digest", str(digest)),
            ("ETag", f'"{digest}"'),
            ("Accept-Ranges", "bytes"),
            ("Cache-Control", FOREVER),
        ]
        selection = select(request.method, request.headers, str(digest), blob.size)
        if selection.status in (304, 412):
            return reply(selection.status, fields)
        if selection.status == 416:
            size = ("Content-Range", f"bytes */{blob.size}")
            raise errors.error("RANGE_INVALID", f"the blob has {blob.size} bytes", headers=[size])
        if selection.status == 206:
            last = selection.stop - 1
            fields.append(("Content-Range", f"bytes {selection.start}-{last}/{blob.size}"))
        length = selection.stop - selection.start
        if request.method == "HEAD" or not length:
            return reply(selection.status, fields, b"", "application/octet-stream", length=length)
        try:
            content = await blobs.open(digest, selection.start, selection.stop)
        except BlobMissing:
            _log.error("request %s: the bytes of %s are lost; a push of the same blob heals it", request.id, digest)
            raise _unknown(digest) from None
        return reply(selection.status, fields, content, "application/octet-stream")

    async def delete(self, request: Request, params: Params, subject: Subject) -> Response:
        """DELETE: this name has the blob no longer. The bytes are the sweeper's, and other names keep them."""
        name, digest = params["name"], names.check_digest(params["digest"])
        await delete_found(self._stores.documents, lambda: self._find(name, digest))
        return reply(202)

    async def _find(self, name: str, digest: Digest) -> Document:
        """The link by which ``name`` has the blob. Raises BLOB_UNKNOWN (404)."""
        link = await self._stores.documents.get(link_id(name, digest))
        if link is None:
            raise _unknown(digest)
        return link


def _unknown(digest: Digest) -> RegistryError:
    return errors.error("BLOB_UNKNOWN", None, {"digest": str(digest)})
