"""Pulling and deleting blobs: ranges and conditions (RFC 9110), and whose a blob is."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import Document
from tests.enseada.oci_client import EMPTY, client_of, digest_of, in_memory, on_disk

if TYPE_CHECKING:
    from pathlib import Path

NAME = "team/api"
CONTENT = bytes(range(256)) * 1000
SIZE = len(CONTENT)
DIGEST = digest_of(CONTENT)
ADDRESS = f"/v2/{NAME}/blobs/{DIGEST}"
OTHER = digest_of(b"other")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
async def test_pull(method: str, disk: bool, tmp_path: Path) -> None:
    async with on_disk(tmp_path) if disk else in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        answer = await client.send(method, ADDRESS)
        assert answer.status == 200
        assert answer.length == SIZE
        assert answer.body == (CONTENT if method == "GET" else b"")
        assert answer.header("docker-content-digest") == DIGEST
        assert answer.header("content-type") == "application/octet-stream"
        assert answer.header("etag") == f'"{DIGEST}"'
        assert answer.header("accept-ranges") == "bytes"
        assert answer.header("cache-control") == "private, max-age=31536000, immutable"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_an_empty_blob(algorithm: str) -> None:
    async with in_memory() as client:
        digest = await client.push_blob(NAME, b"", algorithm)
        for method in ("GET", "HEAD"):
            answer = await client.send(method, f"/v2/{NAME}/blobs/{digest}")
            assert (answer.status, answer.length, answer.body) == (200, 0, b"")
        ranged = await client.get(f"/v2/{NAME}/blobs/{digest}", {"Range": "bytes=0-"})
        assert ranged.status == 416
        assert ranged.header("content-range") == "bytes */0"


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        (f"bytes=10-{SIZE * 2}", 10, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        ("bytes=70000-200000", 70000, 200001),
    ],
)
async def test_ranges(asked: str, start: int, stop: int, disk: bool, tmp_path: Path) -> None:
    async with on_disk(tmp_path) if disk else in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        answer = await client.get(ADDRESS, {"Range": asked})
        assert answer.status == 206
        assert answer.header("content-range") == f"bytes {start}-{stop - 1}/{SIZE}"
        assert answer.length == stop - start
        assert answer.body == CONTENT[start:stop]
        assert answer.header("docker-content-digest") == DIGEST


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=-0", f"bytes={'9' * 40}-", f"bytes={SIZE}-{SIZE}"])
async def test_ranges_beyond_the_end(asked: str) -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        answer = await client.get(ADDRESS, {"Range": asked})
        assert (answer.status, answer.codes) == (416, ["RANGE_INVALID"])
        assert answer.header("content-range") == f"bytes */{SIZE}"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=1-2", "bytes=a-b", "bytes=-", "0-1", ""])
async def test_ranges_that_are_not_understood_get_everything(asked: str) -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        answer = await client.get(ADDRESS, {"Range": asked})
        assert (answer.status, answer.body) == (200, CONTENT)


async def test_head_has_no_ranges() -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        answer = await client.head(ADDRESS, {"Range": "bytes=0-9"})
        assert (answer.status, answer.length) == (200, SIZE)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": f'"{DIGEST}"'}, 304),
        ({"If-None-Match": f'W/"{DIGEST}"'}, 304),
        ({"If-None-Match": f'"{OTHER}", "{DIGEST}"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": f'"{OTHER}"'}, 200),
        ({"If-Match": f'"{DIGEST}"'}, 200),
        ({"If-Match": f'"{OTHER}"'}, 412),
        ({"If-Match": f'W/"{DIGEST}"'}, 412),
        ({"If-Match": f'"{OTHER}"', "If-None-Match": f'"{DIGEST}"'}, 412),
        ({"If-None-Match": f'"{DIGEST}"', "Range": "bytes=0-9"}, 304),
        ({"If-Modified-Since": "Sun, 06 Nov 2044 08:49:37 GMT"}, 200),
    ],
)
async def test_conditions(method: str, headers: dict[str, str], status: int) -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        answer = await client.send(method, ADDRESS, headers=headers)
        assert answer.status == status
        if status != 200:
            assert answer.body == b""
            assert answer.header("etag") == f'"{DIGEST}"'


@pytest.mark.parametrize(
    ("condition", "status"),
    [(f'"{DIGEST}"', 206), (f'"{OTHER}"', 200), (f'W/"{DIGEST}"', 200), ("Sun, 06 Nov 2044 08:49:37 GMT", 200)],
)
async def test_if_range(condition: str, status: int) -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        answer = await client.get(ADDRESS, {"Range": "bytes=100-", "If-Range": condition})
        assert (answer.status, answer.body) == (status, CONTENT[100:] if status == 206 else CONTENT)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_blob_that_is_not_there(method: str) -> None:
    async with in_memory() as client:
        await client.push_blob("team/other", CONTENT)  # blobs are by name
        answer = await client.send(method, ADDRESS)
        assert answer.status == 404
        if method != "HEAD":
            assert answer.codes == ["BLOB_UNKNOWN"]
            assert answer.detail == {"digest": DIGEST}


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize(
    "digest",
    [
        "sha256:1",
        "sha256:" + "g" * 64,
        "sha256:" + EMPTY.upper(),
        "sha256:" + "a" * 128,
        "sha512:" + "a" * 64,
        "md5:" + "a" * 32,
        "latest",
        "sha256:" + "%00" * 64,
        "sha256:" + "%ff" * 64,
    ],
)
async def test_what_is_no_digest(method: str, digest: str) -> None:
    async with in_memory() as client:
        answer = await client.send(method, f"/v2/{NAME}/blobs/{digest}")
        assert answer.status == 400
        if method != "HEAD":
            assert answer.codes == ["DIGEST_INVALID"]


async def test_percent_encoded_names_and_digests() -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        for address in (
            f"/v2/team%2Fapi/blobs/{quote(DIGEST, safe='')}",
            f"/v2/{NAME}/blobs/sha256%3a{DIGEST[7:]}",
            f"/v2/%74eam/api/blobs/{DIGEST}",
        ):
            assert (await client.get(address)).body == CONTENT


# Deletes


async def test_delete() -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        await client.push_blob("team/other", CONTENT)
        assert (await client.delete(ADDRESS)).status == 202
        assert (await client.get(ADDRESS)).status == 404
        assert (await client.head(ADDRESS)).status == 404
        gone = await client.delete(ADDRESS)
        assert (gone.status, gone.codes) == (404, ["BLOB_UNKNOWN"])
        # The other name keeps it, bytes and all.
        assert (await client.get(f"/v2/team/other/blobs/{DIGEST}")).body == CONTENT


async def test_a_deleted_blob_can_be_pushed_again() -> None:
    async with in_memory() as client:
        for _ in range(3):
            await client.push_blob(NAME, CONTENT)
            assert (await client.get(ADDRESS)).body == CONTENT
            assert (await client.delete(ADDRESS)).status == 202


# What the registry knows by heart


async def test_bytes_that_moved_are_looked_for_again() -> None:
    """A stored object that is missing: the cached document is dropped and read again before it is an error."""
    async with in_memory() as client:
        assert isinstance(client.blobs, MemoryBlobs)
        await client.push_blob(NAME, CONTENT)
        assert (await client.get(ADDRESS)).body == CONTENT  # now it is cached
        known = await client.documents.get(f"blob:{DIGEST}")
        assert known is not None
        key = client.blobs.new_key()
        writer = await client.blobs.create(key, SIZE)
        await writer.write(CONTENT)
        await writer.commit()
        await client.documents.put(Document(known.id, {"key": key, "size": SIZE}, known.rev))
        await client.blobs.delete(known.data["key"])
        answer = await client.get(ADDRESS, {"Range": "bytes=5-9"})
        assert (answer.status, answer.body) == (206, CONTENT[5:10])


async def test_bytes_that_are_lost_are_not_answered_with_others() -> None:
    """And another push brings them back."""
    async with in_memory() as client:
        assert isinstance(client.blobs, MemoryBlobs)
        await client.push_blob(NAME, CONTENT)
        client.blobs.remove(client.blobs.keys[0])
        assert (await client.head(ADDRESS)).status == 404  # or clients would leave out the push that heals it
        answer = await client.get(ADDRESS)
        assert (answer.status, answer.codes) == (404, ["BLOB_UNKNOWN"])
        await client.push_blob(NAME, CONTENT)
        assert (await client.head(ADDRESS)).status == 200
        assert (await client.get(ADDRESS)).body == CONTENT


async def test_another_process_sees_every_change_at_once() -> None:
    """A link is asked for at every use, though what a digest means is kept for good; absence is not kept at all."""
    async with in_memory() as one:
        other = await client_of(one.documents, one.blobs)
        for _ in range(2):
            assert (await other.get(ADDRESS)).status == 404
            await one.push_blob(NAME, CONTENT)
            assert (await other.get(ADDRESS)).body == CONTENT
            assert (await one.delete(ADDRESS)).status == 202
