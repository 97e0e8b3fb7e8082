"""Lists: tags, the catalogue of images, and referrers (end-8 and end-12 of the distribution-spec).

They are ranges of documents, read page by page. On a cluster a range may lag by a copy's delay; members are asked for
by id before they are listed, so nothing is shown that is gone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from enseada.auth.policy import Action, image
from enseada.formats.oci_common import image_id, manifest_id, reply, tag_id
from enseada.protocols.oci import errors, names, referrers
from enseada.protocols.oci.manifest import OCI_INDEX
from enseada.protocols.oci.paging import next_link, parse_count
from enseada.storage.documents.base import prefix_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enseada.auth.policy import Authorizer, Subject
    from enseada.formats.oci_common import OCIStores
    from enseada.http import Request, Response
    from enseada.router import Params
    from enseada.storage.documents.base import Document

MAX_PAGE = 1000
"""Entries of one page, and what a client gets that does not say how many it wants."""
MAX_REFERRERS_BYTES = 4 * 1024 * 1024
"""A page of referrers: clients read an index of at most this size (distribution-spec, "Listing Referrers")."""


class ListHandlers:
    """The routes that list."""

    def __init__(self, stores: OCIStores, authorizer: Authorizer) -> None:
        self._stores = stores
        self._authorizer = authorizer

    async def tags(self, request: Request, params: Params, subject: Subject) -> Response:
        """The tags of an image, in the order of their bytes."""
        name = params["name"]
        count = parse_count(request.param("n"), MAX_PAGE)
        if await self._stores.documents.get(image_id(name)) is None:
            raise errors.error("NAME_UNKNOWN", None, {"name": name})
        start, stop = _after(tag_id(name, ""), request.param("last"))
        tags: list[str] = []
        more = count > 0
        while more and len(tags) <= count:
            page = await self._stores.documents.scan(start, stop, count + 1)
            tags += [tag.id[len(tag_id(name, "")) :] for tag in await self._living(name, page)]
            more = len(page) > count
            start = page[-1].id + "\0" if page else stop
        shown = tags[:count]
        fields = []
        if len(tags) > count > 0:
            path = request.reference(f"/v2/{name}/tags/list")
            fields.append(("Link", next_link(path, n=count, last=shown[-1])))
        return reply(200, fields, _json({"name": name, "tags": shown}), "application/json")

    async def catalog(self, request: Request, params: Params, subject: Subject) -> Response:
        """The images that the subject may read, in the order of their names' bytes."""
        count = parse_count(request.param("n"), MAX_PAGE)
        start, stop = _after(image_id(""), request.param("last"))
        # A token for the catalogue names no image: what may be seen is decided by the subject's own rights.
        reader = subject.unscoped()
        images: list[str] = []
        more = count > 0
        while more and len(images) <= count:
            page = await self._stores.documents.scan(start, stop, MAX_PAGE)
            for document in page:
                name = document.id[len(image_id("")) :]
                if self._authorizer.decide(reader, Action.READ, image(name)).allowed:
                    images.append(name)
            more = len(page) == MAX_PAGE
            start = page[-1].id + "\0" if page else stop
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
        prefix = f"oci-referrer:{name}@{digest}@"
        start, stop = _after(prefix, request.param("last"))
        entries: list[dict[str, object]] = []
        size = 0
        more = True
        while more and len(entries) <= count and size <= MAX_REFERRERS_BYTES:
            page = await self._stores.documents.scan(start, stop, count + 1)
            for document in await self._living(name, page):
                entry = document.data["entry"]
                if wanted is None or entry.get("artifactType") == wanted:
                    entries.append(entry)
                    size += len(json.dumps(entry)) + 2
            more = len(page) > count
            start = page[-1].id + "\0" if page else stop
        shown = _fitting(entries[:count])
        fields = []
        if wanted is not None:
            fields.append(("OCI-Filters-Applied", "artifactType"))
        if len(shown) < len(entries):
            path = request.reference(f"/v2/{name}/referrers/{digest}")
            last = str(shown[-1]["digest"])
            fields.append(("Link", next_link(path, artifactType=wanted, n=request.param("n"), last=last)))
        return reply(200, fields, referrers.index(shown), OCI_INDEX)

    async def _living(self, name: str, page: Sequence[Document]) -> list[Document]:
        """Those of the documents (tags, referrers) whose manifest is there, in the life that they speak of."""
        digests = [doc.data["digest"] if "digest" in doc.data else doc.data["entry"]["digest"] for doc in page]
        manifests = await self._stores.documents.get_many([manifest_id(name, digest) for digest in digests])
        return [
            document
            for document, manifest in zip(page, manifests, strict=True)
            if manifest is not None and manifest.data["born"] == document.data["born"]
        ]


def _after(prefix: str, last: str | None) -> tuple[str, str]:
    """The range of ids with ``prefix``, after the entry ``last``."""
    start, stop = prefix_range(prefix)
    return (start if last is None else start + last + "\0"), stop


def _fitting(entries: list[dict[str, object]]) -> list[dict[str, object]]:
    """As many of the entries as make an index of MAX_REFERRERS_BYTES; one at least, since a page must lead on."""
    room = MAX_REFERRERS_BYTES - len(referrers.index([]))
    for place, entry in enumerate(entries):
        room -= len(json.dumps(entry)) + 2
        if room < 0:
            return entries[: max(1, place)]
    return entries


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
