"""One upload session and two processes over the same stores, each of which does not know what the other is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import trio

from enseada.blobs import Blobs
from enseada.http import RegistryError
from enseada.protocols.digests import Digest
from enseada.protocols.oci.upload import Input
from enseada.storage.blobs.local import LocalStore
from enseada.storage.documents.base import Document, Unknown
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.storage.documents.sqlite import SQLiteStore
from enseada.uploads import UploadPolicy, Uploads
from tests.enseada.upload_world import LentBody, World, link, new_session, payload

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("error")


@dataclass
class Late(MemoryDocuments):
    """Another process's way to the same documents: what it saves last comes late, and it never hears of it."""

    documents: MemoryDocuments
    held: list[Document] = field(default_factory=list)
    armed: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self._documents = self.documents._documents

    async def put(self, doc: Document) -> Document:
        if self.armed and doc.id.startswith("upload:"):
            self.held.append(doc)
            raise Unknown(doc.id, "no answer")
        return await self.documents.put(doc)


class Interposed(LentBody):
    """A body in whose midst something else happens."""

    def __init__(self, content: bytes, late: Late) -> None:
        super().__init__(content)
        self._late = late
        self.happened: Exception | None = None

    async def __anext__(self) -> memoryview:
        if self.pulled and self._late.held:
            try:
                await self._late.documents.put(self._late.held.pop())
            except Exception as error:
                self.happened = error
        return await super().__anext__()


async def test_a_save_that_comes_late_never_speaks_of_the_next_holders_bytes(tmp_path: Path) -> None:
    """The hash that one process saved, and the bytes that another one wrote in their place: not even then."""
    documents = MemoryDocuments()
    late = Late(documents)
    first = World(late, await LocalStore.at(tmp_path))
    second = World(documents, await LocalStore.at(tmp_path))
    session = new_session()
    begun, ours, theirs = b"0" * 1000, b"A" * 1000, b"B" * 1000
    assert await first.patch(session, begun) == 1000
    late.armed = True
    with pytest.raises((RegistryError, Unknown)):
        await first.patch(session, ours, span=(1000, 2000))
    assert late.held
    body = Interposed(theirs, late)
    assert await second.patch(session, body, span=(1000, 2000)) == 2000
    assert body.happened is not None  # it had been made impossible
    wrong, right = Digest.of(begun + ours), Digest.of(begun + theirs)
    assert await second.uploads.offset(session) == 2000
    blob = await second.put(session, b"", right)
    assert await second.read(blob.key) == begun + theirs
    assert await second.blob(wrong) is None
    await first.store.aclose()
    await second.store.aclose()


@pytest.mark.parametrize("more", [b"", b"x" * 100])
async def test_cancelled_by_another_process_while_a_request_writes(tmp_path: Path, more: bytes) -> None:
    """Its writer is told so: 404, never 202 for bytes that are gone, and never a defect. Nothing is left."""
    worlds = []
    for _ in range(2):
        documents = await SQLiteStore.open(tmp_path / "documents.sqlite")
        worlds.append(World(documents, await LocalStore.at(tmp_path / "blobs"), UploadPolicy(save_idle_bytes=1)))
    one, other = worlds
    session = new_session()
    assert await one.patch(session, payload(1000)) == 1000
    silence = trio.Event()
    body = LentBody(payload(5000) + more, silence=silence)
    answers: list[int] = []

    async def patch() -> None:
        with pytest.raises(RegistryError) as refusal:
            await one.patch(session, body)
        answers.append(refusal.value.status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(patch)
        await body.silent.wait()
        await other.uploads.cancel(session)
        await one.uploads.save_idle()
        silence.set()
    assert answers == [404]
    one.check_nothing_leaks()
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
    for world in worlds:
        await world.store.aclose()
        await world.documents.aclose()


async def test_equal_pushes_at_once_leave_one_file(tmp_path: Path) -> None:
    """The loser of the race had committed its bytes; nobody else will ever know of them."""
    documents = await SQLiteStore.open(tmp_path / "documents.sqlite")
    store = await LocalStore.at(tmp_path / "blobs")
    world = World(documents, store)
    content = payload(1000)
    digest = Digest.of(content)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            uploads = Uploads(documents, Blobs(documents, store), world.policy, world.clock)
            nursery.start_soon(push, uploads, content, digest)
    assert await world.blob(digest) == content
    assert len([path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]) == 1
    assert len(await documents.scan("object:", "object;", 10)) == 1
    await store.aclose()
    await documents.aclose()


async def push(uploads: Uploads, content: bytes, digest: Digest) -> None:
    async with uploads.open(new_session(), Input.PUT, length=len(content), keep=False) as upload:
        await upload.receive(LentBody(content))
        await upload.finish(digest, [link(digest)])
