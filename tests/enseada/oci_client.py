"""A client in the registry's own process: builds a registry over any stores, calls it, and reads answers to their end.

One rule: it judges. Whatever a test is about, every answer is held to what is true of all of them (`_judge`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import trio
from argon2 import PasswordHasher

from enseada.auth.policy import Action, Authorizer, Decision
from enseada.build import open_registry
from enseada.config import Secret, Settings
from enseada.http import Headers, Request
from enseada.protocols.oci.manifest import OCI_IMAGE, OCI_INDEX
from enseada.storage.blobs.local import LocalStore
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import Document
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.storage.documents.sqlite import SQLiteStore
from tests.poison import poison

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from pathlib import Path

    from enseada.app import Application
    from enseada.auth.policy import Subject
    from enseada.http import Body, Chunk, Response
    from enseada.storage.blobs.base import BlobStore
    from enseada.storage.documents.base import DocumentStore

PASSWORD = "correct horse"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY = hashlib.sha256(b"").hexdigest()

_CODE = re.compile(r"[A-Z_]+")
_SCHEME, _HOST = "https", "registry.test"
_CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """The digest, as OCI writes it."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def descriptor(content: bytes, media_type: str, algorithm: str = "sha256", **fields: object) -> dict[str, Any]:
    """What names ``content`` in a manifest."""
    return {"mediaType": media_type, "digest": digest_of(content, algorithm), "size": len(content), **fields}


def image_manifest(config: bytes = b"{}", layers: Sequence[bytes] = (), /, **fields: object) -> bytes:
    """The bytes of an image's manifest; ``fields`` are added to it, or replace what is there."""
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_IMAGE,
        "config": descriptor(config, CONFIG_TYPE),
        "layers": [descriptor(layer, LAYER_TYPE) for layer in layers],
    }
    return json.dumps(document | fields).encode()


def index_manifest(members: Iterable[bytes], **fields: object) -> bytes:
    """The bytes of an index of image manifests."""
    manifests = [descriptor(member, OCI_IMAGE) for member in members]
    document: dict[str, object] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    return json.dumps(document | fields).encode()


def basic(name: str, password: str = PASSWORD) -> str:
    """The value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


class PieceBody:
    """A body in pieces, each lent until the next await of whoever pulls it."""

    def __init__(self, pieces: Iterable[bytes], length: int | None = None, failure: Exception | None = None) -> None:
        """``failure`` is raised after the last piece."""
        self.length = length
        self.pulled = 0
        """Pieces that were asked for."""
        self._pieces = list(pieces)
        self._failure = failure

    def __aiter__(self) -> PieceBody:
        return self

    async def __anext__(self) -> Chunk:
        self.pulled += 1
        await trio.lowlevel.checkpoint()
        if self._pieces:
            return poison().lend(self._pieces.pop(0))
        if self._failure is not None:
            raise self._failure
        raise StopAsyncIteration


@dataclass(frozen=True)
class Answer:
    """One answer, read to its end. ``length`` is what Content-Length says, also in answer to HEAD."""

    status: int
    headers: Headers
    body: bytes
    length: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """The codes of the errors that it tells of."""
        return [error["code"] for error in self.json["errors"]]

    @property
    def detail(self) -> Any:
        """The first error's."""
        return self.json["errors"][0]["detail"]

    @property
    def location(self) -> str:
        return self.header("location")

    def header(self, name: str) -> str:
        """The one field of that name, which must be there."""
        values = self.headers.get_all(name)
        assert len(values) == 1, (name, self)
        return values[0]

    @property
    def next(self) -> str | None:
        """Where the Link of a page leads; None on the last one."""
        link = self.headers.get("link")
        if link is None:
            return None
        match = re.fullmatch(r'<([^>]+)>; rel="next"', link)
        assert match is not None, link
        return match[1]


@dataclass(frozen=True)
class Image:
    """What `Client.push_image` pushed."""

    name: str
    digest: str
    manifest: bytes
    blobs: tuple[str, ...]
    """Digests of config and layers."""


@dataclass(frozen=True)
class Client:
    """Somebody with certain credentials, at a registry that is mounted at ``root_path``."""

    registry: Application
    documents: DocumentStore
    blobs: BlobStore
    authorization: str | None = None
    root_path: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request."""

    @property
    def anonymous(self) -> Client:
        return replace(self, authorization=None)

    def as_user(self, name: str, password: str = PASSWORD) -> Client:
        return replace(self, authorization=basic(name, password))

    async def with_token(self, *scopes: str) -> Client:
        """The same client with a token for ``scopes`` in place of its credentials."""
        query = "&".join(f"scope={quote(scope, safe='')}" for scope in scopes)
        answer = await self.get(f"/v2/_token?service=enseada&{query}")
        assert answer.status == 200, answer
        return replace(self, authorization=f"Bearer {answer.json['token']}")

    async def add_user(self, name: str) -> Client:
        """Make an account, no admin; the same client with its credentials."""
        data = {"name": name, "admin": False, "disabled": False, "password": _CHEAP.hash(PASSWORD), "generation": "1"}
        await self.documents.put(Document(f"user:{name}", data))
        return self.as_user(name)

    async def send(
        self, method: str, target: str, body: bytes | Body = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One exchange. ``target`` may be what Location or Link said."""
        path, _, query = target.removeprefix(self.root_path).partition("?")
        fields = Headers.of({**self.fields, **(headers or {})})
        if self.authorization is not None and "authorization" not in fields:
            fields.add("Authorization", self.authorization)
        request = Request(
            method=method,
            path=path,
            query=query,
            headers=fields,
            body=PieceBody([body] if body else [], len(body)) if isinstance(body, bytes) else body,
            scheme=_SCHEME,
            host=_HOST,
            root_path=self.root_path,
        )
        answer = await _read(method, await self.registry(request))
        self._judge(request, answer)
        return answer

    async def get(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.send("GET", target, headers=headers)

    async def head(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.send("HEAD", target, headers=headers)

    async def post(self, target: str, body: bytes | Body = b"", headers: Mapping[str, str] | None = None) -> Answer:
        return await self.send("POST", target, body, headers)

    async def patch(self, target: str, body: bytes | Body, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.send("PATCH", target, body, headers)

    async def put(self, target: str, body: bytes | Body = b"", headers: Mapping[str, str] | None = None) -> Answer:
        return await self.send("PUT", target, body, headers)

    async def delete(self, target: str) -> Answer:
        return await self.send("DELETE", target)

    async def begin(self, name: str) -> str:
        """Begin an upload; its address."""
        answer = await self.post(f"/v2/{name}/blobs/uploads/")
        assert answer.status == 202, answer
        return answer.location

    async def push_blob(self, name: str, content: bytes, algorithm: str = "sha256") -> str:
        """Push a blob by POST and PUT; its digest."""
        digest = digest_of(content, algorithm)
        answer = await self.put(f"{await self.begin(name)}?digest={digest}", content)
        assert answer.status == 201, answer
        return digest

    async def put_manifest(
        self, name: str, reference: str, content: bytes, media_type: str | None = OCI_IMAGE
    ) -> Answer:
        headers = {} if media_type is None else {"Content-Type": media_type}
        return await self.put(f"/v2/{name}/manifests/{reference}", content, headers)

    async def push_manifest(
        self, name: str, content: bytes, reference: str | None = None, media_type: str | None = OCI_IMAGE
    ) -> str:
        """Push a manifest, by its digest unless a reference is given; its digest."""
        digest = digest_of(content)
        answer = await self.put_manifest(name, reference or digest, content, media_type)
        assert answer.status == 201, answer
        assert answer.header("docker-content-digest") == digest
        return digest

    async def push_image(
        self, name: str, reference: str | None = "latest", layers: Sequence[bytes] = (b"layer",), **fields: object
    ) -> Image:
        """Push config, layers and manifest, as clients do."""
        blobs = [await self.push_blob(name, content) for content in (b"{}", *layers)]
        manifest = image_manifest(b"{}", layers, **fields)
        digest = await self.push_manifest(name, manifest, reference)
        return Image(name, digest, manifest, tuple(blobs))

    async def tags(self, name: str) -> list[str]:
        """All tags, page after page."""
        return [tag for page in await self.pages(f"/v2/{name}/tags/list") for tag in page.json["tags"]]

    async def referrers(self, name: str, digest: str, query: str = "") -> list[dict[str, Any]]:
        """All that refers to a digest, page after page."""
        pages = await self.pages(f"/v2/{name}/referrers/{digest}{query}")
        return [entry for page in pages for entry in page.json["manifests"]]

    async def pages(self, target: str | None) -> list[Answer]:
        """The pages of a list, to its end."""
        pages: list[Answer] = []
        while target is not None:
            pages.append(await self.get(target))
            assert pages[-1].status == 200, pages[-1]
            assert pages[-1].next != target
            target = pages[-1].next
        return pages

    def _judge(self, request: Request, answer: Answer) -> None:
        headers = answer.headers
        assert answer.status < 500 or answer.status == 503, answer
        assert answer.header("docker-distribution-api-version") == "registry/2.0"
        assert answer.header("x-content-type-options") == "nosniff"
        assert "content-length" not in headers
        assert "transfer-encoding" not in headers
        for name in ("location", "link"):
            value = headers.get(name)
            assert value is None or value.lstrip("<").startswith(f"{self.root_path}/v2/"), value
        if answer.status >= 400 and answer.status != 412 and request.method != "HEAD":
            assert headers.get("content-type") == "application/json", answer
            assert answer.json["errors"], answer
            for error in answer.json["errors"]:
                assert _CODE.fullmatch(error["code"]), answer
                assert error["message"], answer
        if answer.status == 401:
            realm = f'realm="{_SCHEME}://{_HOST}{self.root_path}/v2/_token"'
            challenge = answer.header("www-authenticate")
            assert challenge.startswith((f'Bearer {realm},service="enseada"', "Basic realm=")), challenge
        if answer.status == 405:
            assert answer.header("allow")
        if answer.status == 503:
            assert answer.header("retry-after").isdigit()
        if answer.status == 416 and "/blobs/uploads/" in request.path:
            assert re.fullmatch(r"0-\d+", answer.header("range"))
            assert answer.location
        if answer.status == 202 and request.method in ("POST", "PATCH"):
            assert re.fullmatch(r"0-\d+", answer.header("range"))
            assert answer.location
        if answer.status == 201:
            assert answer.location


async def _read(method: str, response: Response) -> Answer:
    """As the connection loop does: an answer to HEAD has the length that the content would have had."""
    body = response.body
    if isinstance(body, bytes):
        content, length = body, len(body)
        if method == "HEAD" and response.length is not None:
            length = response.length
    elif hasattr(body, "aclose"):
        try:
            content = b"".join([bytes(chunk) async for chunk in body])
        finally:
            await body.aclose()
        length = getattr(body, "length", len(content))
        assert len(content) == length
    else:
        content = b"".join([bytes(chunk) async for chunk in body])
        length = len(content)
    return Answer(response.status, response.headers, b"" if method == "HEAD" else content, length)


class Rights(Authorizer):
    """A policy of the test's own: who may do what is said one by one, after what the settings allow anybody."""

    def __init__(self, *rights: tuple[str, Action, str]) -> None:
        super().__init__()
        self._rights = set(rights)

    def decide(self, subject: Subject, action: Action, object: str) -> Decision:
        if (subject.name, action, object) not in self._rights:
            return super().decide(subject, action, object)
        grants = subject.scopes
        if grants is None or any(grant.object == object and action in grant.actions for grant in grants):
            return Decision(True, f"{subject.name} may {action} {object}")
        return Decision(False, f"the token's scopes lack {action} on {object}", scope_missing=True)


def cheap_settings(**fields: Any) -> Settings:
    """Settings under which a password costs next to nothing."""
    return Settings(
        **{"admin_password": Secret(PASSWORD), "argon2_time": 1, "argon2_memory": 8192, "lease_time": 1.0, **fields}
    )


async def client_of(
    documents: DocumentStore, blobs: BlobStore, *, authorizer: Authorizer | None = None, **fields: Any
) -> Client:
    """A client with the admin's credentials, of a new registry over these stores. ``fields`` are settings."""
    opened = await open_registry(cheap_settings(**fields), documents, blobs, authorizer)
    return Client(opened.registry, documents, blobs, basic("admin"))


@asynccontextmanager
async def in_memory(*, authorizer: Authorizer | None = None, **fields: Any) -> AsyncIterator[Client]:
    """A client of a registry in memory."""
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    yield await client_of(documents, blobs, authorizer=authorizer, **fields)
    await blobs.aclose()
    await documents.aclose()


@asynccontextmanager
async def on_disk(folder: Path, **fields: Any) -> AsyncIterator[Client]:
    """A client of a registry over SQLite and the local disk."""
    blobs = await LocalStore.at(folder / "blobs")
    async with await SQLiteStore.open(folder / "documents.sqlite") as documents:
        try:
            yield await client_of(documents, blobs, **fields)
        finally:
            await blobs.aclose()
