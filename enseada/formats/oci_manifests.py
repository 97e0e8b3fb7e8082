"""Manifests and tags: end-3, end-7 and end-9 of the distribution-spec.

A manifest's bytes are kept verbatim: in its document if they are few, else as a blob. What is visible hangs on the
manifest's document; a tag says which manifest it is on, and which life of it: a manifest that is deleted and pushed
again does not bring its old tags back.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from enseada.auth.policy import Action, image
from enseada.blobs import Blob
from enseada.formats.oci_blobs import FOREVER
from enseada.formats.oci_common import (
    check_repository,
    image_id,
    link_id,
    manifest_id,
    referrer_id,
    reply,
    repository_document,
    repository_id,
    tag_id,
)
from enseada.protocols.digests import Digest
from enseada.protocols.http1.ranges import select
from enseada.protocols.oci import errors, names, referrers
from enseada.protocols.oci.manifest import Manifest, parse
from enseada.storage.documents.base import Conflict, Document, prefix_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enseada.auth.policy import Authorizer, Subject
    from enseada.formats.oci_common import OCIStores
    from enseada.http import Body, RegistryError, Request, Response
    from enseada.router import Params
    from enseada.storage.blobs.base import BlobWriter

INLINE_BYTES = 32 * 1024
"""A manifest up to this size lives in its document; documents stay under 64 KiB, also when JSON escapes double it."""
MAX_TAGS = 100
"""Tags that one PUT may set."""
_PUT_TRIES = 8
_TAG_PAGE = 500


class ManifestHandlers:
    """The routes under ``manifests/``."""

    def __init__(self, stores: OCIStores, authorizer: Authorizer) -> None:
        self._stores = stores
        self._authorizer = authorizer

    async def get(self, request: Request, params: Params, subject: Subject) -> Response:
        """GET and HEAD by tag or digest: the bytes as they were pushed, under the type with which they were."""
        name, reference = params["name"], names.check_reference(params["reference"])
        document = await self._find(name, reference)
        digest = document.id.rpartition("@")[2]
        data = document.data
        fields = [
            ("Docker-Content-Digest", digest),
            ("ETag", f'"{digest}"'),
            ("Cache-Control", FOREVER if isinstance(reference, Digest) else "no-cache"),
        ]
        selection = select("HEAD", request.headers, digest, data["size"])  # no ranges of manifests
        if selection.status != 200:
            return reply(selection.status, fields)
        if request.method == "HEAD":
            return reply(200, fields, b"", data["media_type"], length=data["size"])
        if "content" in data:
            return reply(200, fields, data["content"].encode(), data["media_type"])
        content = await self._stores.blobs.open(Digest.parse(digest))
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
        digest = _digest(content, reference)
        manifest = parse(
            content, request.headers.get("content-type"), values=limits.json_values, depth=limits.json_depth
        )
        await self._check_references(name, manifest)
        set_tags = tags if isinstance(reference, Digest) else [reference]
        if len(content) > INLINE_BYTES:
            await self._store(digest, content)
        await self._publish(name, digest, content, manifest, set_tags, subject)
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
            await self._find(name, reference)
            tag = await documents.get(tag_id(name, reference))
            if tag is None:
                raise _unknown(reference)
            await self._delete(tag, reference)
            return reply(202)
        document = await self._find(name, reference)
        await self._delete(document, str(reference))
        # From here on the manifest is gone for everybody. What is left hangs on nothing, and shows nowhere.
        if "subject" in document.data:
            listed = await documents.get(referrer_id(name, Digest.parse(document.data["subject"]), reference))
            if listed is not None and listed.data["born"] == document.data["born"]:
                await _delete_if_unchanged(self._stores, listed)
        start, stop = prefix_range(tag_id(name, ""))
        while page := await documents.scan(start, stop, _TAG_PAGE):
            for tag in page:
                if tag.data["born"] == document.data["born"]:
                    await _delete_if_unchanged(self._stores, tag)
            start = page[-1].id + "\0"
        return reply(202)

    async def _find(self, name: str, reference: Digest | str) -> Document:
        documents = self._stores.documents
        if isinstance(reference, Digest):
            found = await documents.get(manifest_id(name, reference))
        else:
            tag = await documents.get(tag_id(name, reference))
            found = None if tag is None else await documents.get(manifest_id(name, tag.data["digest"]))
            if tag is not None and found is not None and found.data["born"] != tag.data["born"]:
                found = None
        if found is None:
            raise _unknown(str(reference))
        return found

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
            failures = [{"digest": str(digest)} for digest in missing]
            raise errors.error("MANIFEST_BLOB_UNKNOWN", f"{name} does not have {missing[0]}", failures)

    async def _store(self, digest: Digest, content: bytes) -> None:
        """Keep a large manifest's bytes as a blob; no link makes it visible as one."""
        blobs = self._stores.blobs
        if await blobs.is_stored(digest) is not None:
            return
        key = blobs.store.new_key()
        writer = await blobs.store.create(key, len(content))
        try:
            await _write(writer, content)
            visible = await blobs.publish(Blob(digest, key, len(content)), [], commit=writer.commit)
        except BaseException:
            with self._stores.uploads.last_moments():
                await writer.abort()
            raise
        if visible.key != key:
            await writer.abort()

    async def _publish(
        self, name: str, digest: Digest, content: bytes, manifest: Manifest, tags: Sequence[str], subject: Subject
    ) -> None:
        """Write the documents, the manifest's after what it depends on and the tags' after it.

        Others may write the same ones at the same time: then all are read and written again, so that the last push of
        a tag wins.
        """
        documents = self._stores.documents
        for attempt in range(_PUT_TRIES):
            tag_ids = [tag_id(name, tag) for tag in tags]
            ids = [repository_id(name), image_id(name), manifest_id(name, digest), *tag_ids]
            repository, image, known, *tagged = await documents.get_many(ids)
            now = int(self._stores.clock())
            docs: list[Document] = []
            if repository is None:
                docs.append(repository_document(name))
            if image is None:
                docs.append(Document(image_id(name), {"created": now}))
            born = secrets.token_hex(8) if known is None else known.data["born"]
            if known is None or known.data["media_type"] != manifest.media_type:
                docs += await self._referrer(name, digest, len(content), manifest, born)
                docs.append(_manifest_document(name, digest, content, manifest, born, now, known))
            for tag, id, old in zip(tags, tag_ids, tagged, strict=True):
                data = {"digest": str(digest), "born": born, "updated": now}
                if old is None:
                    docs.append(Document(id, data))
                elif old.data["digest"] != data["digest"] or old.data["born"] != born:
                    self._check_overwrite(name, tag, subject)
                    docs.append(Document(id, data, old.rev))
            try:
                await documents.put_in_order(docs)
            except Conflict:
                if attempt == _PUT_TRIES - 1:
                    raise
                continue
            return

    def _check_overwrite(self, name: str, tag: str, subject: Subject) -> None:
        decision = self._authorizer.decide(subject, Action.OVERWRITE, image(name))
        if not decision.allowed:
            raise errors.error("DENIED", f"the tag {tag} is there already: {decision.reason}")

    async def _referrer(
        self, name: str, digest: Digest, size: int, manifest: Manifest, born: str
    ) -> list[Document]:
        if manifest.subject is None:
            return []
        id = referrer_id(name, manifest.subject.digest, digest)
        known = await self._stores.documents.get(id)
        entry = referrers.entry(manifest, digest, size)
        return [Document(id, {"born": born, "entry": entry}, None if known is None else known.rev)]

    async def _delete(self, document: Document, reference: str) -> None:
        try:
            await self._stores.documents.delete(document)
        except Conflict:
            if await self._stores.documents.get(document.id) is None:
                raise _unknown(reference) from None  # another delete was first
            raise


async def _delete_if_unchanged(stores: OCIStores, document: Document) -> None:
    try:
        await stores.documents.delete(document)
    except Conflict:
        return  # somebody has just moved or deleted it: it is theirs


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


async def _write(writer: BlobWriter, content: bytes) -> None:
    """Write all of ``content``, cut at the writer's boundaries."""
    while writer.offset < len(content):
        stop = len(content) if writer.boundary is None else min(writer.boundary, len(content))
        await writer.write(content[writer.offset : stop])


def _digest(content: bytes, reference: Digest | str) -> Digest:
    algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
    digest = Digest(algorithm, hashlib.new(algorithm, content).hexdigest())
    if isinstance(reference, Digest) and digest != reference:
        raise errors.error("DIGEST_INVALID", None, {"digest": str(reference), "content": str(digest)})
    return digest


def _manifest_document(
    name: str, digest: Digest, content: bytes, manifest: Manifest, born: str, now: int, known: Document | None
) -> Document:
    data: dict[str, object] = {
        "media_type": manifest.media_type,
        "size": len(content),
        "born": born,
        "created": now,
    }
    if len(content) <= INLINE_BYTES:
        data["content"] = content.decode()
    if manifest.subject is not None:
        data["subject"] = str(manifest.subject.digest)
    return Document(manifest_id(name, digest), data, None if known is None else known.rev)


def _unknown(reference: str) -> RegistryError:
    return errors.error("MANIFEST_UNKNOWN", None, {"reference": reference})
