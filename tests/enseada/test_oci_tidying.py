"""What is over leaves nothing behind: a deleted manifest no document that hung on it, a loan no view of the buffer.

One rule: what is looked at is what is stored, and not what is shown.
"""

from __future__ import annotations

import hashlib
import random
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from enseada.build import open_registry
from enseada.server import open_listeners, serve_http
from enseada.storage.blobs.local import LocalStore
from enseada.storage.documents.base import prefix_range
from enseada.storage.documents.sqlite import SQLiteStore
from tests.enseada.http_client import Client as HTTPClient
from tests.enseada.oci_client import (
    cheap_settings,
    descriptor,
    digest_of,
    image_manifest,
    in_memory,
    on_disk,
)
from tests.poison import poison

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.enseada.http_client import Answer
    from tests.enseada.oci_client import Client

NAME = "team/api"
OTHER = "team/other"
KINDS = ("oci-tag:", "oci-referrer:", "oci-manifest:", "oci-manifest-link:")
"""The documents of a manifest under one name. Its bytes, which any name may need, are the sweeper's."""


# -- a manifest that is deleted


@pytest.fixture(params=["in memory", "on disk"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[Client]:
    """To be entered by the test: what is opened in an event loop is closed there."""
    return in_memory() if request.param == "in memory" else on_disk(tmp_path)


async def stored(client: Client) -> dict[str, str]:
    """All documents of manifests: by id, what they say."""
    found: dict[str, str] = {}
    for kind in KINDS:
        for document in await client.documents.scan(*prefix_range(kind), 5000):
            found[document.id] = str(dict(document.data))
    return found


async def test_the_documents_of_deleted_tags_are_gone(registry: AbstractAsyncContextManager[Client]) -> None:
    async with registry as admin:
        image = await admin.push_image(NAME, "one")
        for tag in ("two", "three.4", "moved"):
            await admin.push_manifest(NAME, image.manifest, tag)
        kept = await admin.push_image(NAME, "kept", layers=(b"another layer",))
        await admin.push_manifest(NAME, kept.manifest, "moved")
        elsewhere = await admin.push_image(OTHER, "one")
        assert elsewhere.digest == image.digest
        before = await stored(admin)
        assert (await admin.delete(f"/v2/{NAME}/manifests/{image.digest}")).status == 202
        after = await stored(admin)
        assert {id for id in before if id.startswith("oci-tag:")} - set(after) == {
            f"oci-tag:{NAME}:{tag}" for tag in ("one", "two", "three.4")
        }
        assert {id for id in after if id.startswith("oci-tag:")} == {
            f"oci-tag:{NAME}:kept", f"oci-tag:{NAME}:moved", f"oci-tag:{OTHER}:one"
        }  # fmt: skip
        for id, said in after.items():
            assert before[id] == said
            assert image.digest not in id + said or OTHER in id, (id, said)


async def test_more_tags_than_are_read_at_once(registry: AbstractAsyncContextManager[Client]) -> None:
    async with registry as admin:
        kept = await admin.push_image(NAME, "k-350")
        image = await admin.push_image(NAME, None, layers=(b"of many tags",))
        for start in range(0, 700, 100):
            tags = "&".join(f"tag=t-{number:03}" for number in range(start, start + 100))
            answer = await admin.put(
                f"/v2/{NAME}/manifests/{image.digest}?{tags}",
                image.manifest,
                {"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
            )
            assert answer.status == 201
        assert len([id for id in await stored(admin) if id.startswith("oci-tag:")]) == 701
        assert (await admin.delete(f"/v2/{NAME}/manifests/{image.digest}")).status == 202
        assert [id for id in await stored(admin) if id.startswith("oci-tag:")] == [f"oci-tag:{NAME}:k-350"]
        assert (await admin.get(f"/v2/{NAME}/manifests/k-350")).body == kept.manifest


async def test_a_deleted_tag_is_gone_alone(registry: AbstractAsyncContextManager[Client]) -> None:
    async with registry as admin:
        image = await admin.push_image(NAME, "one")
        await admin.push_manifest(NAME, image.manifest, "two")
        before = await stored(admin)
        assert (await admin.delete(f"/v2/{NAME}/manifests/one")).status == 202
        assert before.pop(f"oci-tag:{NAME}:one")
        assert await stored(admin) == before


async def test_the_document_of_a_deleted_referrer_is_gone(registry: AbstractAsyncContextManager[Client]) -> None:
    async with registry as admin:
        subject = await admin.push_image(NAME)
        about = descriptor(subject.manifest, "application/vnd.oci.image.manifest.v1+json")
        manifests = [image_manifest(b"{}", [b"layer"], subject=about, annotations={"n": n}) for n in "12"]
        digests = [await admin.push_manifest(NAME, each) for each in manifests]
        entries = [f"oci-referrer:{NAME}@{subject.digest}@{digest}" for digest in digests]
        before = await stored(admin)
        assert set(entries) <= set(before)
        assert (await admin.delete(f"/v2/{NAME}/manifests/{digests[0]}")).status == 202
        after = await stored(admin)
        assert entries[0] not in after
        assert entries[1] in after
        assert not [id for id in after if digests[0] in id + after[id]]
        # Without its subject it is still one: a subject may come later, or again.
        assert (await admin.delete(f"/v2/{NAME}/manifests/{subject.digest}")).status == 202
        assert [id for id in await stored(admin) if id.startswith("oci-referrer:")] == [entries[1]]
        assert (await admin.delete(f"/v2/{NAME}/manifests/{digests[1]}")).status == 202
        assert await stored(admin) == {}


# -- a loan that is over

MIB = 1024 * 1024
CONTENT = random.Random(7).randbytes(5 * MIB + 3)
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
Framing = tuple[str, "Callable[[bytes], bytes]", bytes]
"""A field of the head, what becomes of each piece of content, and how it ends."""

FRAMINGS: dict[str, Framing] = {
    "known length": (f"Content-Length: {len(CONTENT)}", bytes, b""),
    "chunked": ("Transfer-Encoding: chunked", lambda piece: b"%x\r\n%b\r\n" % (len(piece), piece), b"0\r\n\r\n"),
}


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[HTTPClient]:
    """A client of a whole registry, on sockets, whose lent buffers are overwritten.

    Its store syncs every MiB, so that chunks are cut there, and what is left of one waits for the disk.
    """
    poison()
    settings = cheap_settings(anonymous="push")
    blobs = await LocalStore.at(folder / "blobs", window=MIB)
    async with aclosing(blobs), await SQLiteStore.open(folder / "documents.sqlite") as documents:
        opened = await open_registry(settings, documents, blobs)
        listeners = await open_listeners(["127.0.0.1:0"])
        serve = partial(serve_http, opened.registry, listeners, limits=settings.limits, grace=0)
        async with opened.registry.running(), trio.open_nursery() as nursery:
            await nursery.start(serve)
            stream = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
            async with stream:
                yield HTTPClient(stream)
            nursery.cancel_scope.cancel()


async def ask(client: HTTPClient, method: str, target: str, *fields: str, content: bytes = b"") -> Answer:
    lines = [f"{method} {target} HTTP/1.1", "Host: registry.test", f"Content-Length: {len(content)}", *fields]
    await client.send("\r\n".join([*lines, "", ""]).encode() + content)
    return await client.answer(method)


async def send_content(client: HTTPClient, method: str, target: str, framing: Framing) -> Answer:
    """All of `CONTENT`, in pieces of many sizes, each of which the server may get in any number of reads."""
    field, encode, end = framing
    await client.send(f"{method} {target} HTTP/1.1\r\nHost: registry.test\r\n{field}\r\n\r\n".encode())

    async def send() -> None:
        start, sizes = 0, random.Random(8)
        while start < len(CONTENT):
            size = sizes.choice([1, 17, 4000, 65_536, 300_000])
            await client.send(encode(CONTENT[start : start + size]))
            start += size
        await client.send(end)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        return await client.answer(method)


async def check_pulled(client: HTTPClient) -> None:
    """What is stored is what was sent: whole, and in ranges."""
    blob = f"/v2/{NAME}/blobs/{DIGEST}"
    whole = await ask(client, "GET", blob)
    assert whole.status == 200
    assert digest_of(whole.body) == whole.headers["docker-content-digest"] == DIGEST
    size = len(CONTENT)
    for start, stop in [(0, 1), (1, 70_000), (MIB - 1, MIB + 1), (3 * MIB, size), (size - 1, size)]:
        part = await ask(client, "GET", blob, f"Range: bytes={start}-{stop - 1}")
        assert part.status == 206
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert part.body == CONTENT[start:stop]
    part = await ask(client, "GET", blob, "Range: bytes=-1000")
    assert (part.status, part.body) == (206, CONTENT[-1000:])


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("shape", ["POST", "PUT", "PATCH"])
async def test_stored_bytes_are_those_that_were_sent(tmp_path: Path, shape: str, framing: Framing) -> None:
    """Pushed and pulled over sockets, stored on the disk, every loan being overwritten when it is over."""
    async with connected(tmp_path) as client:
        begin = f"/v2/{NAME}/blobs/uploads/"
        if shape == "POST":
            answer = await send_content(client, "POST", f"{begin}?digest={DIGEST}", framing)
        else:
            location = (await ask(client, "POST", begin)).headers["location"]
            if shape == "PATCH":
                answer = await send_content(client, "PATCH", location, framing)
                assert (answer.status, answer.headers["range"]) == (202, f"0-{len(CONTENT) - 1}")
                answer = await ask(client, "PUT", f"{answer.headers['location']}?digest={DIGEST}")
            else:
                answer = await send_content(client, "PUT", f"{location}?digest={DIGEST}", framing)
        assert (answer.status, answer.body) == (201, b"")
        assert answer.headers["docker-content-digest"] == DIGEST
        # A loan that is followed by the next one without a pause is overwritten by that.
        assert poison().poisoned > MIB // 4
        await check_pulled(client)


@pytest.mark.parametrize("size", [10_000, 300_000])
async def test_so_are_those_of_a_manifest(tmp_path: Path, size: int) -> None:
    content = image_manifest(b"{}", (), annotations={"text": "x" * size})
    async with connected(tmp_path) as client:
        config = await ask(client, "POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(b'{}')}", content=b"{}")
        assert config.status == 201
        kind = "Content-Type: application/vnd.oci.image.manifest.v1+json"
        answer = await ask(client, "PUT", f"/v2/{NAME}/manifests/latest", kind, content=content)
        assert (answer.status, answer.headers["docker-content-digest"]) == (201, digest_of(content))
        assert (await ask(client, "GET", f"/v2/{NAME}/manifests/latest")).body == content
        assert poison().poisoned > 0
