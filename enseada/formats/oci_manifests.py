"""Manifests and tags: end-3, end-7 and end-9 of the distribution-spec.

What is visible hangs on the manifest's document, which is small: its bytes are elsewhere (`oci_content`), by digest. A
tag says which manifest it is on, and which life of it: a manifest that is deleted and pushed again does not bring its
old tags back.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import anyio

from enseada.auth.policy import Action, image
from enseada.formats.oci_blobs import FOREVER
from enseada.formats.oci_common import (
    TRIES,
    check_repository,
    content_id,
    delete_found,
    image_id,
    link_id,
    manifest_id,
    manifest_link_id,
    referrer_id,
    reply,
    repository_document,
    repository_id,
    tag_id,
)
from enseada.formats.oci_content import INLINE_BYTES, content_document
from enseada.formats.oci_referrers import kept
from enseada.http import unavailable
from enseada.protocols.digests import Digest
from enseada.protocols.http1.ranges import select
from enseada.protocols.oci import errors, names
from enseada.protocols.oci.manifest import Manifest, parse
from enseada.storage.blobs.base import BlobMissing
from enseada.storage.documents.base import Conflict, Document, DocumentError, prefix_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enseada.auth.policy import Authorizer, Subject
    from enseada.formats.oci_common import OCIStores
    from enseada.formats.oci_content import ManifestContents
    from enseada.http import Body, RegistryError, Request, Response
    from enseada.limits import Limits
    from enseada.router import Params
    from enseada.storage.documents.base import DocumentStore

_log = logging.getLogger(__name__)

MAX_MISSING = 100
"""Missing members of a manifest that its refusal lists."""
MAX_TAGS = 100
"""Tags that one PUT may set."""
TAG_PAGE = 500
"""Tags that are read, and removed, at once when what they are on is deleted."""
MAX_TAG_PAGES = 20
"""Pages of an image's tags that one DELETE looks through."""
MAX_TIDIED = 2000
"""Tags that one DELETE removes: eight commits or so. The others show nowhere either."""


@dataclass(frozen=True, slots=True)
class _Pushed:
    """A manifest that somebody pushes."""

    content: bytes
    digest: Digest
    manifest: Manifest

    @property
    def inline(self) -> bool:
        """Whether it is so small that its bytes are kept in a document."""
        return len(self.content) <= INLINE_BYTES


class ManifestHandlers:
    """The routes under ``manifests/``."""

    def __init__(self, stores: OCIStores, authorizer: Authorizer, contents: ManifestContents) -> None:
        self._stores = stores
        self._authorizer = authorizer
        self._contents = contents
        self._turns: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    async def get(self, request: Request, params: Params, subject: Subject) -> Response:
        """GET and HEAD by tag or digest: the bytes as they were pushed, under the type with which they were."""
        name, reference = params["name"], names.check_reference(params["reference"])
        document = await self._find(name, reference)
        digest = Digest.parse(document.id.rpartition("@")[2])
        data = document.data
        fields = [
            ("Docker-Content-Digest", str(digest)),
            ("ETag", f'"{digest}"'),
            ("Cache-Control", FOREVER if isinstance(reference, Digest) else "no-cache"),
        ]
        selection = select("HEAD", request.headers, str(digest), data["size"])  # no ranges of manifests
        if selection.status != 200:
            return reply(selection.status, fields)
        try:
            if request.method == "HEAD":
                await self._contents.check(digest, inline=data["inline"])
                return reply(200, fields, b"", data["media_type"], length=data["size"])
            content = await self._contents.open(digest, inline=data["inline"])
        except BlobMissing:
            _log.error("request %s: the bytes of %s are lost; a push of it heals it", request.id, document.id)
            raise _unknown(reference) from None
        return reply(200, fields, content, data["media_type"])

    async def put(self, request: Request, params: Params, subject: Subject) -> Response:
        """PUT by tag, or by digest with any number of ``tag`` parameters."""
        name, reference = params["name"], names.check_reference(params["reference"])
        tags = [names.check_tag(tag) for tag in dict.fromkeys(request.param_all("tag"))]
        if isinstance(reference, Digest):
            if len(tags) > MAX_TAGS:
                raise errors.error("TAG_INVALID", f"at most {MAX_TAGS} tags at once", status=414)
        elif tags:
            raise errors.error("TAG_INVALID", "tag parameters go with a push by digest")
        limits = self._stores.limits
        await check_repository(self._stores, name)
        content = await _read(request.body, limits.manifest_bytes)
        media_type = request.headers.get("content-type")
        pushed = await self._contents.work(len(content), partial(_examine, content, reference, media_type, limits))
        digest, manifest = pushed.digest, pushed.manifest
        await self._check_references(name, manifest)
        set_tags = tags if isinstance(reference, Digest) else [reference]
        if not pushed.inline:
            await self._contents.store(digest, content)
        await self._publish(name, pushed, set_tags, subject)
        fields = [
            ("Location", request.reference(f"/v2/{name}/manifests/{digest}")),
            ("Docker-Content-Digest", str(digest)),
        ]
        if manifest.subject is not None:
            fields.append(("OCI-Subject", str(manifest.subject.digest)))
        fields += [("OCI-Tag", tag) for tag in tags]
        return reply(201, fields)

    async def delete(self, request: Request, params: Params, subject: Subject) -> Response:
        """DELETE by tag: the tag alone; by digest: the manifest, and every tag on it."""
        name, reference = params["name"], names.check_reference(params["reference"])
        documents = self._stores.documents
        if isinstance(reference, str):
            await delete_found(documents, lambda: self._find_tag(name, reference))
        else:
            document = await delete_found(documents, lambda: self._find(name, reference))
            await self._clean(name, reference, document)
        return reply(202)

    async def _find(self, name: str, reference: Digest | str) -> Document:
        if isinstance(reference, Digest):
            found = await self._stores.documents.get(manifest_id(name, reference))
            if found is None:
                raise _unknown(reference)
            return found
        return (await self._follow(name, reference))[1]

    async def _find_tag(self, name: str, tag: str) -> Document:
        return (await self._follow(name, tag))[0]

    async def _follow(self, name: str, tag: str) -> tuple[Document, Document]:
        """The tag, and the manifest that it is on."""
        documents = self._stores.documents
        last = None
        while (document := await documents.get(tag_id(name, tag))) is not None and document.rev != last:
            found = await documents.get(manifest_id(name, document.data["digest"]))
            if found is not None and found.data["born"] == document.data["born"]:
                return document, found
            # Between the two reads the tag may have been moved and what it was on deleted: only a tag that is still
            # the same is on nothing.
            last = document.rev
        raise _unknown(tag)

    async def _check_references(self, name: str, manifest: Manifest) -> None:
        """Raise MANIFEST_BLOB_UNKNOWN unless ``name`` has all that the manifest names, save what is fetched elsewhere.

        A missing subject is fine: it may come later, or never (distribution-spec, "Pushing Manifests with Subject").
        """
        needed = {blob.digest: link_id(name, blob.digest) for blob in manifest.blobs if blob.distributable}
        members = {member.digest: manifest_id(name, member.digest) for member in manifest.manifests}
        found = await self._stores.documents.get_many([*needed.values(), *members.values()])
        wanted = [*needed, *members]
        missing = [digest for digest, document in zip(wanted, found, strict=True) if document is None]
        if missing and members:
            # An index may list other content than manifests (image-spec, "Image Index"): then it is a blob.
            blobs = await self._stores.documents.get_many([link_id(name, digest) for digest in missing])
            missing = [
                digest
                for digest, document in zip(missing, blobs, strict=True)
                if document is None or digest not in members
            ]
        if missing:
            failures = [{"digest": str(digest)} for digest in missing[:MAX_MISSING]]
            raise errors.error("MANIFEST_BLOB_UNKNOWN", f"{name} does not have {missing[0]}", failures)

    async def _publish(self, name: str, pushed: _Pushed, tags: Sequence[str], subject: Subject) -> None:
        """Make the manifest and the tags visible. The last push of a tag wins."""
        write = partial(self._write_documents, name, pushed, tags, subject)
        with suppress(Conflict):
            return await write()
        # Others write the same ones. From here on those of this process take turns, so that each gets through.
        turn = self._turns.setdefault(name, anyio.Lock())
        async with turn:
            for _ in range(TRIES):
                with suppress(Conflict):
                    return await write()
        raise unavailable("others keep changing it")

    async def _write_documents(self, name: str, pushed: _Pushed, tags: Sequence[str], subject: Subject) -> None:
        """Write what is not there: the manifest's document after what it depends on, and the tags' after it.

        Raises Conflict if somebody else has written one of them since they were read.
        """
        documents = self._stores.documents
        digest = pushed.digest
        tag_ids = [tag_id(name, tag) for tag in tags]
        ids = [repository_id(name), image_id(name), manifest_id(name, digest), manifest_link_id(name, digest)]
        ids += [content_id(digest), *tag_ids]
        repository, image, known, link, stored, *tagged = await documents.get_many(ids)
        now = int(self._stores.clock())
        docs: list[Document] = []
        if repository is None:
            docs.append(repository_document(name))
        if image is None:
            docs.append(Document(image_id(name), {"created": now}))
        born = secrets.token_hex(8) if known is None else known.data["born"]
        if link is None or link.data["born"] != born:
            # Each life of a manifest writes its own: so whoever cleans up after the one before never removes it.
            data = {"born": born, "created": now}
            docs.append(Document(manifest_link_id(name, digest), data, None if link is None else link.rev))
        if stored is None and pushed.inline:
            docs.append(content_document(digest, pushed.content))
        if known is None or known.data["media_type"] != pushed.manifest.media_type:
            docs += await self._referrer(name, pushed, born)
            docs.append(_manifest_document(name, pushed, born, now, known))
        for id, old in zip(tag_ids, tagged, strict=True):
            data = {"digest": str(digest), "born": born, "updated": now}
            if old is None:
                docs.append(Document(id, data))
            elif old.data["digest"] != data["digest"] or old.data["born"] != born:
                await self._check_overwrite(name, old, subject)
                docs.append(Document(id, data, old.rev))
        await documents.put_in_order(docs)

    async def _check_overwrite(self, name: str, tag: Document, subject: Subject) -> None:
        """Raise DENIED (403) if ``tag`` is on something, and ``subject`` may not move it away."""
        decision = self._authorizer.decide(subject, Action.OVERWRITE, image(name))
        if not decision.allowed:
            manifest = await self._stores.documents.get(manifest_id(name, tag.data["digest"]))
            if manifest is not None and manifest.data["born"] == tag.data["born"]:
                moved = tag.id.rpartition(":")[2]
                raise errors.error("DENIED", f"the tag {moved} is there already: {decision.reason}")

    async def _referrer(self, name: str, pushed: _Pushed, born: str) -> list[Document]:
        if pushed.manifest.subject is None:
            return []
        id = referrer_id(name, pushed.manifest.subject.digest, pushed.digest)
        known = await self._stores.documents.get(id)
        data = {"born": born, **kept(pushed.manifest, pushed.digest, len(pushed.content))}
        return [Document(id, data, None if known is None else known.rev)]

    async def _clean(self, name: str, digest: Digest, document: Document) -> None:
        """Remove what hung on a manifest that is deleted. It shows nowhere any more, so what cannot be removed stays,
        and so does what is too much for one request.

        What belongs to another life of the manifest is left alone.
        """
        documents = self._stores.documents
        try:
            ids = [manifest_link_id(name, digest)]
            if "subject" in document.data:
                ids.append(referrer_id(name, Digest.parse(document.data["subject"]), digest))
            found = [hung for hung in await documents.get_many(ids) if hung is not None]
            await _delete_of(documents, found, document.data["born"], len(found))
            start, stop = prefix_range(tag_id(name, ""))
            left = MAX_TIDIED
            for _ in range(MAX_TAG_PAGES):
                page = await documents.scan(start, stop, TAG_PAGE)
                left -= await _delete_of(documents, page, document.data["born"], left)
                if not left or len(page) < TAG_PAGE:
                    break
                start = page[-1].id + "\0"
        except DocumentError as reason:
            _log.warning("what hung on %s stays for now: %s", document.id, reason)


async def _delete_of(documents: DocumentStore, found: Sequence[Document], born: str, most: int) -> int:
    """Delete those of one life of a manifest, at most so many; return how many they were.

    All at once, so that they share commits. Raises DocumentError if one could not be deleted; the others are.
    """
    failures: list[DocumentError] = []

    async def delete(document: Document) -> None:
        try:
            with suppress(Conflict):  # somebody has just moved or deleted it: it is theirs
                await documents.delete(document)
        except DocumentError as failure:
            failures.append(failure)

    mine = [document for document in found if document.data["born"] == born][:most]
    async with anyio.create_task_group() as group:
        for document in mine:
            group.start_soon(delete, document)
    if failures:
        raise failures[0]
    return len(mine)


async def _read(body: Body, limit: int) -> bytes:
    """All of a body that is parsed, and so has to be held. Raises SIZE_INVALID (413) over ``limit`` bytes."""
    too_large = errors.error("SIZE_INVALID", f"a manifest may have at most {limit} bytes", status=413)
    if body.length is not None and body.length > limit:
        raise too_large
    content = bytearray()
    async for chunk in body:
        if len(content) + len(chunk) > limit:
            raise too_large
        content += chunk
    return bytes(content)


def _examine(content: bytes, reference: Digest | str, media_type: str | None, limits: Limits) -> _Pushed:
    """All that takes its time with ``content``. Raises DIGEST_INVALID, MANIFEST_INVALID (400)."""
    digest = _digest(content, reference)
    manifest = parse(content, media_type, values=limits.json_values, depth=limits.json_depth)
    return _Pushed(content, digest, manifest)


def _digest(content: bytes, reference: Digest | str) -> Digest:
    algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
    digest = Digest(algorithm, hashlib.new(algorithm, content).hexdigest())
    if isinstance(reference, Digest) and digest != reference:
        raise errors.error("DIGEST_INVALID", None, {"digest": str(reference), "content": str(digest)})
    return digest


def _manifest_document(name: str, pushed: _Pushed, born: str, now: int, known: Document | None) -> Document:
    manifest = pushed.manifest
    data: dict[str, object] = {
        "media_type": manifest.media_type,
        "size": len(pushed.content),
        "inline": pushed.inline,
        "born": born,
        "created": now,
    }
    if manifest.subject is not None:
        data["subject"] = str(manifest.subject.digest)
    return Document(manifest_id(name, pushed.digest), data, None if known is None else known.rev)


def _unknown(reference: Digest | str) -> RegistryError:
    return errors.error("MANIFEST_UNKNOWN", None, {"reference": str(reference)})
