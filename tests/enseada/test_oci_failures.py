"""Stores that fail, and requests that are cancelled, at every call: a clear answer, nothing half-written, and it can be
done again."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from enseada.storage.blobs.base import BlobUnavailable
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import Conflict, Unavailable, Unknown
from tests.cancel import cancel_at_every_checkpoint
from tests.enseada.oci_client import PieceBody, digest_of, in_memory, on_disk
from tests.enseada.oci_steps import (
    CHANGES,
    EXTRA,
    LARGE,
    NAME,
    NEW,
    READS,
    WRITES,
    Interruption,
    gate_of,
    mount,
    patch_and_put,
    prepare,
    put,
    state,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from enseada.storage.blobs.memory import Operation as BlobOperation
    from tests.enseada.oci_client import Answer, Client
    from tests.enseada.oci_steps import Operation, World

LISTS: dict[str, Operation] = {
    "tags": lambda client: client.get(f"/v2/{NAME}/tags/list"),
    "catalog": lambda client: client.get("/v2/_catalog"),
    "referrers": lambda client: client.get(f"/v2/{NAME}/referrers/{digest_of(LARGE)}"),
}
OPERATIONS = READS | LISTS | CHANGES


class Trouble:
    """The ``number``-th call of the documents fails; or with ``lasting``, every one from there on."""

    def __init__(self, client: Client, number: int, kind: str, *, lasting: bool) -> None:
        self.met = False
        self._gate = gate_of(client)
        self._gate.hook = self._hook
        self._left = number
        self._kind = kind
        self._lasting = lasting

    def end(self) -> None:
        self._gate.hook = None

    async def _hook(self, method: str, call: Callable[[], Awaitable[object]]) -> object:
        if method not in WRITES and self._kind != "unavailable":
            return await call()  # reads have no other failure
        self._left -= 1
        if self._left and not (self._lasting and self._left < 0):
            return await call()
        self.met = True
        if self._kind == "unknown, and done":
            await call()
            raise Unknown("the id", "the answer was lost")
        raise {"unavailable": Unavailable, "unknown": Unknown, "conflict": Conflict}[self._kind]("the id")


async def before_and_after(world: World, operation: Operation) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """The answer and what shows when it is done once, and when it is done again."""
    client = await world.fresh()
    once = told(await operation(client)), await state(client)
    again = told(await operation(client)), await state(client)
    return once, again


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("kind", ["unavailable", "unknown", "unknown, and done", "conflict"])
async def test_documents_that_fail(kind: str, lasting: bool) -> None:
    world = await prepare()
    untouched = await state(await world.fresh())
    for name, operation in OPERATIONS.items():
        once, again = await before_and_after(world, operation)
        number = 0
        while True:
            number += 1
            client = await world.fresh()
            trouble = Trouble(client, number, kind, lasting=lasting)
            answer = await operation(client)
            trouble.end()
            if not trouble.met:
                break
            where = f"{name}, call {number}: {answer}"
            left = await state(client)
            if answer.status == 503:
                # Where a call is one transaction, either all of it shows or nothing.
                assert left in (untouched, once[1]), where
                assert left == untouched or kind == "unknown, and done" or name == "patch and put", where
            else:
                # It found out what had happened, or the failing call decided nothing.
                assert (told(answer), left) == once, where
            repeated = told(await operation(client)), await state(client)
            assert repeated in (once, again), where
        assert number > 1 or (kind != "unavailable" and name in READS | LISTS)


@pytest.mark.parametrize("operation", ["create", "write", "flush", "suspend", "commit", "resume", "abort"])
@pytest.mark.parametrize("parts", [None, 1000])
@pytest.mark.parametrize("inline", [True, False])
async def test_blobs_that_fail(operation: BlobOperation, parts: int | None, inline: bool) -> None:
    """A push into a store that fails once is 503 or done; sent again, it is done."""
    world = await prepare()
    for name in ("push extra", "patch and put", "large to large", "mount extra"):
        once, again = await before_and_after(world, CHANGES[name])
        for after in (0, 2500, 5999):
            blobs = MemoryBlobs(parts=parts, inline=inline)
            client = await world.fresh(blobs=blobs)
            blobs.fail(operation, after_bytes=after, error=BlobUnavailable)
            answer = await CHANGES[name](client)
            if answer.status == 503:
                shown = await tags_and_blobs(client)
                assert shown == (404, 404), (name, answer)
            else:
                assert told(answer) == once[0], (name, answer)
            assert told(await CHANGES[name](client)) in (once[0], again[0])
            assert 200 in await tags_and_blobs(client)


async def tags_and_blobs(client: Client) -> tuple[int, int]:
    """What the pushes of blobs would leave. (The other blobs of the world are in another store.)"""
    manifest = await client.get(f"/v2/{NAME}/manifests/large")
    assert manifest.status == 404 or manifest.body == LARGE
    blob = await client.get(f"/v2/{NAME}/blobs/{digest_of(EXTRA)}")
    assert blob.status == 404 or blob.body == EXTRA
    return manifest.status, blob.status


async def test_a_store_that_cannot_be_read() -> None:
    async with in_memory() as client:
        assert isinstance(client.blobs, MemoryBlobs)
        await client.push_blob(NAME, b"{}")
        await client.push_blob(NAME, EXTRA)
        await client.push_manifest(NAME, LARGE, "large")
        for address in (f"blobs/{digest_of(EXTRA)}", "manifests/large"):
            client.blobs.fail("open")
            answer = await client.get(f"/v2/{NAME}/{address}")
            assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
            assert (await client.get(f"/v2/{NAME}/{address}")).status == 200


async def test_a_large_manifest_that_was_not_stored_leaves_no_bytes() -> None:
    async with in_memory() as client:
        assert isinstance(client.blobs, MemoryBlobs)
        await client.push_blob(NAME, b"{}")
        before = client.blobs.keys
        for operation in ("write", "commit"):
            client.blobs.fail(operation)
            assert (await put(LARGE, "large")(client)).status == 503
            assert client.blobs.keys == before


async def test_a_large_manifest_that_another_push_stored_meanwhile_leaves_no_bytes() -> None:
    """Nor where both had committed before either could say so."""
    world = await prepare()
    added: list[int] = []
    while True:
        blobs = MemoryBlobs()
        client = await world.fresh(blobs=blobs)
        stop = Interruption(gate_of(client), len(added) + 1, partial(put(LARGE, "other"), client))
        assert (await put(LARGE, "large")(client)).status == 201
        if not stop.met:
            break
        added.append(len(blobs.keys))
    assert set(added) == {1}


# Cancelled


async def check_cancelled(client: Client, operation: Operation, reference: str) -> None:
    """Cancel ``operation`` at each of its awaits; then all of it is there or nothing, and it can be done again."""
    seen = set()

    async def after() -> None:
        answer = await client.get(f"/v2/{NAME}/{reference}")
        assert answer.status in (200, 404)
        seen.add(answer.status)
        if answer.status == 404:
            again = await operation(client)
            assert again.status == 201, again
        whole = await client.get(f"/v2/{NAME}/{reference}")
        assert whole.body in (EXTRA, NEW, LARGE)
        assert (await client.delete(f"/v2/{NAME}/{reference}")).status == 202
        assert (await client.get(f"/v2/{NAME}/{reference}")).status == 404

    async def once() -> None:
        answer = await operation(client)
        assert answer.status == 201

    assert await cancel_at_every_checkpoint(once, after) > 3
    assert seen == {200, 404}


async def chunked(client: Client) -> Answer:
    """A push whose bytes come slowly."""
    body = PieceBody([EXTRA[at : at + 1000] for at in range(0, len(EXTRA), 1000)])
    return await client.put(f"{await client.begin(NAME)}?digest={digest_of(EXTRA)}", body)


BLOB = f"blobs/{digest_of(EXTRA)}"


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize(
    ("operation", "reference"),
    [
        (patch_and_put, BLOB),
        (chunked, BLOB),
        (put(NEW, "latest"), f"manifests/{digest_of(NEW)}"),
        (put(NEW, "latest"), "manifests/latest"),
        (put(LARGE, "large"), f"manifests/{digest_of(LARGE)}"),
        (put(LARGE, None, "?tag=a&tag=b"), "manifests/b"),
    ],
    ids=["patches", "put", "manifest", "tag", "large manifest", "tags"],
)
async def test_a_push_that_is_cancelled(operation: Operation, reference: str, disk: bool, tmp_path: Path) -> None:
    async with on_disk(tmp_path, anonymous="push") if disk else in_memory(anonymous="push") as client:
        await client.push_blob(NAME, b"{}")
        await check_cancelled(client.anonymous, operation, reference)


async def test_a_mount_that_is_cancelled() -> None:
    async with in_memory(anonymous="push") as client:
        await client.push_blob("team/source", EXTRA)
        await check_cancelled(client.anonymous, mount, BLOB)


async def test_a_delete_that_is_cancelled() -> None:
    """The manifest and its tags are there, or all are gone."""
    async with in_memory(anonymous="push") as admin:
        client = admin.anonymous
        await client.push_blob(NAME, b"{}")

        async def push() -> None:
            for tag in ("a", "b"):
                assert (await put(NEW, tag)(client)).status == 201

        async def delete() -> None:
            assert (await client.delete(f"/v2/{NAME}/manifests/{digest_of(NEW)}")).status == 202

        async def after() -> None:
            status = (await client.get(f"/v2/{NAME}/manifests/{digest_of(NEW)}")).status
            assert await client.tags(NAME) == (["a", "b"] if status == 200 else [])
            for tag in ("a", "b"):
                assert (await client.get(f"/v2/{NAME}/manifests/{tag}")).status == status
            await push()

        await push()
        assert await cancel_at_every_checkpoint(delete, after) > 3
