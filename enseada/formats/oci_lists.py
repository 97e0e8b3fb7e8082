"""Lists: tags, the catalogue of images, and referrers (end-8 and end-12 of the distribution-spec).

They are ranges of documents, read page by page. On a cluster a range may lag by a copy's delay; members are asked for
by id before they are listed, so nothing is shown that is gone.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from enseada.auth.policy import Action, image
from enseada.formats.oci_common import image_id, manifest_id, referrer_id, reply, tag_id
from enseada.formats.oci_referrers import may_be_of_type
from enseada.protocols.digests import Digest
from enseada.protocols.oci import errors, names, referrers
from enseada.protocols.oci.manifest import OCI_INDEX, parse
from enseada.protocols.oci.paging import next_link, parse_count
from enseada.storage.blobs.base import BlobMissing
from enseada.storage.documents.base import prefix_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enseada.auth.policy import Authorizer, Subject
    from enseada.formats.oci_common import OCIStores
    from enseada.formats.oci_content import ManifestContents
    from enseada.http import Request, Response
    from enseada.router import Params
    from enseada.storage.documents.base import Document

MAX_PAGE = 1000
"""Entries of one page, and what a client gets that does not say how many it wants."""
SCAN_PAGE = 200
"""Documents read at once."""
MAX_REFERRERS_BYTES = 4 * 1024 * 1024
"""A page of referrers: clients read an index of at most this size (distribution-spec, "Listing Referrers")."""
MAX_READ_BYTES = 8 * 1024 * 1024
"""Bytes of manifests that a page of referrers reads, for annotations that are kept nowhere else."""
MAX_LOOKED = 2000
"""Documents of tags or of referrers that a page looks at, also when it shows few of them; a link leads on."""

_log = logging.getLogger(__name__)


class ListHandlers:
    """The routes that list."""

    def __init__(self, stores: OCIStores, authorizer: Authorizer, contents: ManifestContents) -> None:
        self._stores = stores
        self._authorizer = authorizer
        self._contents = contents

    async def tags(self, request: Request, params: Params, subject: Subject) -> Response:
        """The tags of an image, in the order of their bytes."""
        name = params["name"]
        count = parse_count(request.param("n"), MAX_PAGE)
        if await self._stores.documents.get(image_id(name)) is None:
            raise errors.error("NAME_UNKNOWN", None, {"name": name})
        start, stop = _after(tag_id(name, ""), request.param("last"))
        tags: list[str] = []
        looked = 0
        last = ""
        while len(tags) <= count > 0 and start < stop and looked < MAX_LOOKED:
            page = await self._stores.documents.scan(start, stop, SCAN_PAGE)
            manifests = await self._manifests(name, [tag.data["digest"] for tag in page])
            for tag, manifest in zip(page, manifests, strict=True):
                # A tag is on one life of its manifest: what was deleted and pushed again does not have it.
                if manifest is not None and manifest.data["born"] == tag.data["born"]:
                    tags.append(_tag_in(tag))
                    if len(tags) > count:
                        break
                last = _tag_in(tag)
            start = _next(page, stop)
            looked += len(page)
        shown = tags[:count]
        fields = []
        if count > 0 and (len(tags) > count or start < stop):
            path = request.reference(f"/v2/{name}/tags/list")
            fields.append(("Link", next_link(path, n=count, last=last)))
        return reply(200, fields, _json({"name": name, "tags": shown}), "application/json")

    async def catalog(self, request: Request, params: Params, subject: Subject) -> Response:
        """The images that the subject may read, in the order of their names' bytes."""
        count = parse_count(request.param("n"), MAX_PAGE)
        start, stop = _after(image_id(""), request.param("last"))
        # A token for the catalogue names no image: what may be seen is decided by the subject's own rights.
        reader = subject.unscoped()
        images: list[str] = []
        while len(images) <= count > 0 and start < stop:
            page = await self._stores.documents.scan(start, stop, SCAN_PAGE)
            for document in page:
                name = document.id[len(image_id("")) :]
                if self._authorizer.decide(reader, Action.READ, image(name)).allowed:
                    images.append(name)
            start = _next(page, stop)
        shown = images[:count]
        fields = []
        if len(images) > count > 0:
            fields.append(("Link", next_link(request.reference("/v2/_catalog"), n=count, last=shown[-1])))
        return reply(200, fields, _json({"repositories": shown}), "application/json")

    async def referrers(self, request: Request, params: Params, subject: Subject) -> Response:
        """What refers to a digest. 200 with an empty index for what is unknown; only a malformed digest is 400."""
        name, digest = params["name"], names.check_digest(params["digest"])
        wanted = request.param("artifactType")
        count = max(1, parse_count(request.param("n"), MAX_PAGE))
        start, stop = _after(referrer_id(name, digest, ""), request.param("last"))
        entries: list[dict[str, Any]] = []
        room = MAX_REFERRERS_BYTES - len(referrers.index([]))
        reading = MAX_READ_BYTES
        looked = 0
        last = ""
        more = False
        while not more and start < stop:
            page = await self._stores.documents.scan(start, stop, SCAN_PAGE)
            # What refers is listed as long as it is there; whichever life of it said so, it says the same.
            manifests = await self._manifests(name, [_digest_in(document) for document in page])
            for document, manifest in zip(page, manifests, strict=True):
                if manifest is not None and may_be_of_type(document.data, wanted):
                    size = 0 if document.data["whole"] else document.data["entry"]["size"]
                    # The first has room, whatever its size: a page must lead on.
                    if len(entries) == count or (last and size > reading):
                        more = True
                        break
                    reading -= size
                    entry, length = await self._entry(document, manifest)
                    if entry is not None and (wanted is None or entry.get("artifactType") == wanted):
                        room -= length + len(", ")
                        if entries and room < 0:
                            more = True
                            break
                        entries.append(entry)
                last = _digest_in(document)
            start = _next(page, stop)
            looked += len(page)
            if looked >= MAX_LOOKED and start < stop:
                more = True
        fields = []
        if wanted is not None:
            fields.append(("OCI-Filters-Applied", "artifactType"))
        if more:
            path = request.reference(f"/v2/{name}/referrers/{digest}")
            following = next_link(path, artifactType=wanted, n=request.param("n"), last=last)
            fields.append(("Link", following))
        body = await self._contents.work(MAX_REFERRERS_BYTES - room, partial(referrers.index, entries))
        return reply(200, fields, body, OCI_INDEX)

    async def _manifests(self, name: str, digests: Sequence[str]) -> list[Document | None]:
        """The manifests of those digests, each asked for by its id, and once."""
        ids = list(dict.fromkeys(manifest_id(name, digest) for digest in digests))
        found = dict(zip(ids, await self._stores.documents.get_many(ids), strict=True))
        return [found[manifest_id(name, digest)] for digest in digests]

    async def _entry(self, referrer: Document, manifest: Document) -> tuple[dict[str, Any] | None, int]:
        """The entry that lists ``manifest``, and its length in JSON. None: the manifest's bytes are lost."""
        if referrer.data["whole"]:
            entry = referrer.data["entry"]
            return entry, len(json.dumps(entry))
        digest = Digest.parse(_digest_in(referrer))
        try:
            content = await self._contents.read(digest, inline=manifest.data["inline"])
        except BlobMissing:
            _log.error("the bytes of %s are lost, so no list has it; a push of it heals it", manifest.id)
            return None, 0
        return await self._contents.work(len(content), partial(_entry_of, content, digest, manifest.data["media_type"]))


def _entry_of(content: bytes, digest: Digest, media_type: str) -> tuple[dict[str, Any], int]:
    # Its structure was counted when it was pushed.
    manifest = parse(content, media_type, values=len(content), depth=len(content))
    entry = referrers.entry(manifest, digest, len(content))
    return entry, len(json.dumps(entry))


def _tag_in(document: Document) -> str:
    """The tag, out of its document's id."""
    return document.id.rpartition(":")[2]


def _digest_in(referrer: Document) -> str:
    """The digest of the manifest that refers, out of the document's id."""
    return referrer.id.rpartition("@")[2]


def _after(prefix: str, last: str | None) -> tuple[str, str]:
    """The range of ids with ``prefix``, after the entry ``last``."""
    start, stop = prefix_range(prefix)
    return (start if last is None else start + last + "\0"), stop


def _next(page: Sequence[Document], stop: str) -> str:
    """Where a scan goes on after ``page``; at ``stop`` if that was the last one."""
    return page[-1].id + "\0" if len(page) == SCAN_PAGE else stop


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
