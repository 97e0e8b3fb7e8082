"""Operations on a small registry that can be stopped, or made to fail, at any call of its document store.

One rule: the same operations in the same order leave the same `state`, whatever the store; so what came of a race can
be compared with what comes of every order in which the racers might have gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from enseada.formats.oci_content import INLINE_BYTES
from enseada.protocols.oci.manifest import DOCKER_IMAGE, OCI_IMAGE
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import Document
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from tests.enseada.oci_client import Client, client_of, descriptor, digest_of, image_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from enseada.storage.documents.base import Change, DocumentError, DocumentStore
    from tests.enseada.oci_client import Answer

T = TypeVar("T")
Hook = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]
Operation = Callable[[Client], Awaitable["Answer"]]

WRITES = frozenset({"put", "put_many", "put_in_order", "create_once", "delete"})
NAME, SOURCE = "team/api", "team/source"
CONFIG, KEPT, EXTRA = b"{}", b"kept " * 1000, b"extra " * 1000
ONE, TWO, NEW = (image_manifest(CONFIG, x=number) for number in (1, 2, 3))
LARGE = image_manifest(CONFIG, annotations={"text": "x" * INLINE_BYTES})
UNTYPED = image_manifest(CONFIG, mediaType=None)
REFERRER = image_manifest(CONFIG, subject=descriptor(ONE, OCI_IMAGE))
MANIFESTS = {"one": ONE, "two": TWO, "new": NEW, "large": LARGE, "untyped": UNTYPED, "referrer": REFERRER}
NAMES = {digest_of(content): name for name, content in MANIFESTS.items()}


class Gate:
    """A document store all of whose calls go through ``hook``, which is given the method's name and the call."""

    def __init__(self, store: DocumentStore) -> None:
        self.store = store
        self.hook: Hook | None = None

    async def _call(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        if self.hook is None:
            return await call()
        result: T = await self.hook(method, call)
        return result

    async def get(self, id: str) -> Document | None:
        return await self._call("get", lambda: self.store.get(id))

    async def get_many(self, ids: Sequence[str]) -> Sequence[Document | None]:
        return await self._call("get_many", lambda: self.store.get_many(ids))

    async def put(self, doc: Document) -> Document:
        return await self._call("put", lambda: self.store.put(doc))

    async def put_many(self, docs: Sequence[Document]) -> Sequence[Document | DocumentError]:
        return await self._call("put_many", lambda: self.store.put_many(docs))

    async def put_in_order(self, docs: Sequence[Document]) -> Sequence[Document]:
        return await self._call("put_in_order", lambda: self.store.put_in_order(docs))

    async def create_once(self, doc: Document) -> Document:
        return await self._call("create_once", lambda: self.store.create_once(doc))

    async def delete(self, doc: Document) -> None:
        await self._call("delete", lambda: self.store.delete(doc))

    async def leaves(self, id: str) -> Sequence[Document]:
        return await self._call("leaves", lambda: self.store.leaves(id))

    async def scan(self, start: str, stop: str, limit: int, *, descending: bool = False) -> Sequence[Document]:
        return await self._call("scan", lambda: self.store.scan(start, stop, limit, descending=descending))

    def changes(self, since: str) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        return self.store.changes(since)

    async def aclose(self) -> None:
        await self.store.aclose()


class Interruption:
    """Before the ``number``-th call of the documents (or of one of their methods) ``action`` runs, once."""

    def __init__(
        self, gate: Gate, number: int, action: Callable[[], Awaitable[object]], method: str | None = None
    ) -> None:
        self.met = False
        """Whether there were so many calls."""
        self._gate = gate
        self._left = number
        self._action = action
        self._method = method
        gate.hook = self._hook

    async def _hook(self, method: str, call: Callable[[], Awaitable[object]]) -> object:
        if self._method in (None, method):
            self._left -= 1
            if not self._left:
                self.met = True
                self._gate.hook = None
                await self._action()
        return await call()


# What can be done


def get(reference: str) -> Operation:
    return lambda client: client.get(f"/v2/{NAME}/manifests/{reference}")


def put(content: bytes, reference: str | None = None, query: str = "", media_type: str = OCI_IMAGE) -> Operation:
    return lambda client: client.put_manifest(NAME, f"{reference or digest_of(content)}{query}", content, media_type)


def delete(reference: str) -> Operation:
    return lambda client: client.delete(f"/v2/{NAME}/manifests/{reference}")


def push_blob(content: bytes) -> Operation:
    return lambda client: client.post(f"/v2/{NAME}/blobs/uploads/?digest={digest_of(content)}", content)


def delete_blob(content: bytes, name: str = NAME) -> Operation:
    return lambda client: client.delete(f"/v2/{name}/blobs/{digest_of(content)}")


async def patch_and_put(client: Client) -> Answer:
    """A push in three requests: the answer to the first that fails, or to the last."""
    begun = await client.post(f"/v2/{NAME}/blobs/uploads/")
    if begun.status != 202:
        return begun
    patched = await client.patch(begun.location, EXTRA[:4000])
    if patched.status != 202:
        return patched
    return await client.put(f"{patched.location}?digest={digest_of(EXTRA)}", EXTRA[4000:])


async def mount(client: Client) -> Answer:
    """A mount; where it became an upload, that is made good."""
    answer = await client.post(f"/v2/{NAME}/blobs/uploads/?mount={digest_of(EXTRA)}&from={SOURCE}")
    return answer if answer.status != 202 else await client.put(f"{answer.location}?digest={digest_of(EXTRA)}", EXTRA)


READS: dict[str, Operation] = {
    "get latest": get("latest"),
    "get one": get(digest_of(ONE)),
    "get large": get("large"),
    "get kept": lambda client: client.get(f"/v2/{NAME}/blobs/{digest_of(KEPT)}"),
}
CHANGES: dict[str, Operation] = {
    "latest to one": put(ONE, "latest"),
    "latest to two": put(TWO, "latest"),
    "latest to new": put(NEW, "latest"),
    "fresh to one": put(ONE, "fresh"),
    "two with tags": put(TWO, None, "?tag=a&tag=latest"),
    "large to large": put(LARGE, "large"),
    "retype": put(UNTYPED, None, "", DOCKER_IMAGE),
    "delete one": delete(digest_of(ONE)),
    "delete latest": delete("latest"),
    "delete untyped": delete(digest_of(UNTYPED)),
    "push kept": push_blob(KEPT),
    "delete kept": delete_blob(KEPT),
    "push extra": push_blob(EXTRA),
    "patch and put": patch_and_put,
    "mount extra": mount,
    "delete source": delete_blob(EXTRA, SOURCE),
    "refer": put(REFERRER),
    "delete referrer": delete(digest_of(REFERRER)),
}


async def prepare() -> World:
    """What every run begins with."""
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    client = (await client_of(documents, blobs, anonymous="push")).anonymous
    for name, content in ((NAME, CONFIG), (NAME, KEPT), (SOURCE, EXTRA)):
        await client.push_blob(name, content)
    for content, reference in ((ONE, "latest"), (ONE, "other"), (TWO, None), (UNTYPED, None), (REFERRER, None)):
        await client.push_manifest(NAME, content, reference)
    return World(tuple(await documents.scan("a", "z", 1000)), blobs)


@dataclass(frozen=True)
class World:
    """Documents to begin with, and the bytes that they speak of."""

    documents: tuple[Document, ...]
    blobs: MemoryBlobs

    async def fresh(self, documents: DocumentStore | None = None, blobs: MemoryBlobs | None = None) -> Client:
        """A registry that has them, over a `Gate`. The bytes are shared: no run removes another's."""
        gate = Gate(documents or MemoryDocuments())
        for result in await gate.put_many([Document(each.id, each.data) for each in self.documents]):
            assert isinstance(result, Document), result
        return (await client_of(gate, blobs or self.blobs, anonymous="push")).anonymous


def gate_of(client: Client) -> Gate:
    """The gate below the client's registry."""
    assert isinstance(client.documents, Gate)
    return client.documents


async def state(client: Client) -> dict[str, object]:
    """All that shows."""
    shown: dict[str, object] = {}
    for tag in ("latest", "other", "fresh", "a", "large"):
        answer = await client.head(f"/v2/{NAME}/manifests/{tag}")
        shown[tag] = NAMES[answer.header("docker-content-digest")] if answer.status == 200 else answer.status
    for digest, name in NAMES.items():
        answer = await client.get(f"/v2/{NAME}/manifests/{digest}")
        shown[name] = answer.header("content-type") if answer.status == 200 else answer.status
        assert answer.status == 404 or answer.body == MANIFESTS[name]
        # Of what is visible, the sweeper finds that it is needed.
        assert answer.status == 404 or await client.documents.get(f"oci-manifest-link:{digest}@{NAME}") is not None
    for name, content in ((NAME, CONFIG), (NAME, KEPT), (NAME, EXTRA), (SOURCE, EXTRA)):
        answer = await client.get(f"/v2/{name}/blobs/{digest_of(content)}")
        shown[f"{name} {content[:5]!r}"] = answer.status
        assert answer.status == 404 or answer.body == content
    shown["tags"] = await client.tags(NAME)
    shown["referrers"] = [NAMES[entry["digest"]] for entry in await client.referrers(NAME, digest_of(ONE))]
    shown["catalog"] = (await client.get("/v2/_catalog")).json["repositories"]
    # The lists and what they list agree.
    assert shown["tags"] == sorted(tag for tag in ("latest", "other", "fresh", "a", "large") if shown[tag] != 404)
    assert shown["referrers"] == (["referrer"] if shown["referrer"] != 404 else [])
    return shown


def told(answer: Answer) -> tuple[int, str | None]:
    """Of an answer, what may not depend on chance."""
    return answer.status, answer.headers.get("docker-content-digest")
