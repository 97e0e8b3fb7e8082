"""A registry seen from the inside, for the test: what is in it, and putting things in.

One rule: it asks the registry itself, in the registry's loop, as an admin would. What it asks is not on record, is
counted by no fault, and meets none.
"""

from __future__ import annotations

import json
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from enseada.auth.accounts import Account, document_id, normalise
from enseada.blobs import Blobs
from enseada.http import BytesBody, Headers, Request
from enseada.protocols.digests import Digest
from enseada.storage.blobs.base import BlobMissing
from enseada.storage.documents.base import Document
from enseada.testing.images import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enseada.app import Application
    from enseada.auth.accounts import Accounts
    from enseada.http import Response, ResponseBody
    from enseada.storage.blobs.base import BlobStore
    from enseada.storage.documents.base import DocumentStore
    from enseada.testing.images import PushedImage

PAGE = 1000
"""Entries of a list that are asked for at once."""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest that is in the registry."""

    digest: str
    media_type: str
    content: bytes

    @property
    def json(self) -> Any:
        """The content, parsed."""
        return json.loads(self.content)


class Inside:
    """The inside of one registry. All methods are for its loop."""

    def __init__(
        self,
        registry: Application,
        documents: DocumentStore,
        store: BlobStore,
        accounts: Accounts,
        username: str,
        password: str,
    ) -> None:
        """``username`` and ``password`` are an admin's."""
        self._registry = registry
        self._documents = documents
        self._accounts = accounts
        self._blobs = Blobs(documents, store)
        self._authorization = "Basic " + b64encode(f"{username}:{password}".encode()).decode()

    async def repositories(self) -> list[str]:
        """The names under which there are, or were, images; in order."""
        return await self._list("/v2/_catalog", "repositories")

    async def tags(self, name: str) -> list[str]:
        """The tags of a name, in order; none where nothing is there."""
        with suppress(KeyError):
            return await self._list(f"/v2/{name}/tags/list", "tags")
        return []

    async def manifest(self, name: str, reference: str) -> StoredManifest:
        """What a tag or a digest names. Raises KeyError if there is none."""
        answer, content = await self._ask("GET", f"/v2/{name}/manifests/{reference}")
        if answer.status != 200:
            raise KeyError(f"{name}: {reference}")
        told = answer.headers
        return StoredManifest(told.get("docker-content-digest") or "", told.get("content-type") or "", content)

    async def blob(self, digest: str) -> bytes:
        """A blob's bytes, whichever name has it. Raises KeyError if there is none, ValueError for no digest."""
        try:
            return await _read(await self._blobs.open(Digest.parse(digest)))
        except BlobMissing:
            raise KeyError(digest) from None

    async def push(self, image: PushedImage) -> None:
        """Put an image in."""
        for content in (image.config, *image.layers):
            await self.push_blob(image.name, content)
        media_type = json.loads(image.manifest)["mediaType"]
        await self.push_manifest(image.name, image.manifest, image.tag, media_type)

    async def push_blob(self, name: str, content: bytes) -> None:
        """Put a blob in. Raises ValueError for what the registry refuses."""
        digest = quote(digest_of(content), safe="")
        await self._put("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", content, {})

    async def push_manifest(self, name: str, content: bytes, reference: str, media_type: str) -> None:
        """Put a manifest in, under a tag or its digest. Raises ValueError for what the registry refuses."""
        await self._put("PUT", f"/v2/{name}/manifests/{reference}", content, {"Content-Type": media_type})

    async def add_account(self, username: str, password: str, *, admin: bool) -> None:
        """Make an account. Raises ValueError for a name that none can have, documents' Conflict if it is there."""
        if normalise(username) != username:
            raise ValueError(f"no account can be named {username!r}")
        hashed = await self._accounts.hash(password)
        account = Account(name=username, admin=admin, password=hashed, generation="made by a test")
        await self._documents.put(Document(document_id(username), msgspec.to_builtins(account)))

    async def _list(self, path: str, key: str) -> list[str]:
        """All entries of a list, page by page. Raises KeyError if there is no such list."""
        entries: list[str] = []
        target: str | None = f"{path}?n={PAGE}"
        while target is not None:
            answer, content = await self._ask("GET", target)
            if answer.status != 200:
                raise KeyError(path)
            entries += json.loads(content)[key]
            link = answer.headers.get("link")
            target = None if link is None else link.partition("<")[2].partition(">")[0]
        return entries

    async def _put(self, method: str, target: str, content: bytes, headers: Mapping[str, str]) -> None:
        answer, said = await self._ask(method, target, content, headers)
        if answer.status != 201:
            raise ValueError(f"{method} {target} was answered {answer.status}: {said.decode(errors='replace')}")

    async def _ask(
        self, method: str, target: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[Response, bytes]:
        path, _, query = target.partition("?")
        fields = Headers.of({"Authorization": self._authorization, **(headers or {})})
        answer = await self._registry(Request(method, path, query, fields, BytesBody(content)))
        return answer, await _read(answer.body)


async def _read(body: ResponseBody) -> bytes:
    """All of an answer's content."""
    if isinstance(body, bytes):
        return body
    try:
        return b"".join([piece async for piece in body])
    finally:
        if hasattr(body, "aclose"):
            await body.aclose()
