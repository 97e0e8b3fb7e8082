"""The registry as a whole: which format answers, how failures of every kind are told, what goes on beside requests."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from enseada.build import open_registry
from enseada.http import BodyError, BytesBody, Headers, RegistryError, Request
from enseada.protocols.oci.manifest import OCI_IMAGE
from enseada.storage.blobs.base import BlobBusy, BlobLost, BlobUnavailable
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import Conflict, Unavailable, Unknown
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from tests.enseada.oci_client import Client, PieceBody, cheap_settings, descriptor, digest_of, image_manifest, in_memory

if TYPE_CHECKING:
    from enseada.http import Chunk, Response

NAME = "team/api"
CONTENT = b"content"
DIGEST = digest_of(CONTENT)
MIB = 1024 * 1024


async def outside(client: Client, method: str, path: str) -> Response:
    return await client.registry(Request(method, path, "", Headers(), BytesBody()))


# Addresses


@pytest.mark.parametrize("path", ["/", "", "/v2x", "/v2.", "/v1/", "/V2/", "/v", "//v2/", "/-/", "/-/livex", "*"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_nothing_is_at_other_addresses(method: str, path: str) -> None:
    async with in_memory() as client:
        response = await outside(client, method, path)
        assert response.status == 404
        assert response.headers.get("content-type") == "text/plain; charset=utf-8"


@pytest.mark.parametrize("path", ["/-/live", "/-/ready"])
async def test_whether_it_lives(path: str) -> None:
    async with in_memory() as client:
        for method, status in (("GET", 200), ("HEAD", 200), ("POST", 404)):
            assert (await outside(client, method, path)).status == status


async def test_it_is_ready_while_the_documents_answer() -> None:
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        client.documents.fail("get", "", Unavailable)
        assert (await outside(client, "GET", "/-/ready")).status == 503
        assert (await outside(client, "GET", "/-/live")).status == 200
        assert (await outside(client, "GET", "/-/ready")).status == 200


async def test_behind_a_proxy_the_challenge_names_the_public_address() -> None:
    """Else clients would be told to send the password to an address that is not encrypted."""
    settings = cheap_settings(public_url="https://registry.example")
    opened = await open_registry(settings, MemoryDocuments(), MemoryBlobs())
    headers = Headers.of({"Host": "10.0.0.1:9623", "X-Forwarded-Proto": "http"})
    answer = await opened.registry(Request("GET", "/v2/", "", headers, BytesBody(), host="10.0.0.1:9623"))
    assert answer.status == 401
    assert 'realm="https://registry.example/v2/_token"' in (answer.headers.get("www-authenticate") or "")


@pytest.mark.parametrize(
    "path", ["/v2/a", "/v2/a/b", "/v2/a/tags", "/v2/_other", "/v2//", "/v2/tags/list", "/v2/a/blobs/x/y", "/v2/%"]
)
async def test_nothing_is_at_other_addresses_of_the_format(path: str) -> None:
    async with in_memory() as client:
        answer = await client.get(path)
        assert (answer.status, answer.codes) == (404, ["NOT_FOUND"])


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("", "GET, HEAD"),
        ("/", "GET, HEAD"),
        ("/_token", "GET, POST"),
        ("/_catalog", "GET"),
        ("/a/b/manifests/latest", "DELETE, GET, HEAD, PUT"),
        ("/a/b/blobs/uploads/", "POST"),
        ("/a/b/blobs/uploads/x", "DELETE, GET, PATCH, PUT"),
        (f"/a/b/blobs/{DIGEST}", "DELETE, GET, HEAD"),
        ("/a/b/tags/list", "GET"),
        (f"/a/b/referrers/{DIGEST}", "GET"),
    ],
)
async def test_every_address_says_what_it_takes(path: str, allow: str) -> None:
    async with in_memory() as client:
        for method in ("OPTIONS", "TRACE", "PROPFIND", "get"):
            answer = await client.send(method, f"/v2{path}")
            assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])
            assert answer.header("allow") == allow


@pytest.mark.parametrize("name", ["A", "a_", "-a", "a..b", "a/", "a//b", "a" * 256, "a%0a", "%00", "%ff", "a%20b", "ü"])
async def test_what_is_no_name(name: str) -> None:
    async with in_memory() as client:
        for address in ("manifests/latest", f"blobs/{DIGEST}", "tags/list", f"referrers/{DIGEST}"):
            answer = await client.get(f"/v2/{name}/{address}")
            assert (answer.status, answer.codes) == (400, ["NAME_INVALID"])
        assert (await client.post(f"/v2/{name}/blobs/uploads/")).status == 400


@pytest.mark.parametrize("name", ["a", "0", "a.b_c__d-e---f/g", "a" * 255, "blobs/uploads", "manifests", "tags/list"])
async def test_names_that_look_like_addresses(name: str) -> None:
    async with in_memory() as client:
        await client.push_image(name)
        assert await client.tags(name) == ["latest"]
        assert (await client.get("/v2/_catalog")).json == {"repositories": [name]}


async def test_everything_under_a_prefix() -> None:
    """What the client asserts of every answer: no address leads out of the prefix."""
    async with in_memory() as plain:
        client = replace(plain, root_path="/some/where")
        image = await client.push_image(NAME, "one")
        made = await client.put_manifest(NAME, "two", image.manifest)
        assert made.location == f"/some/where/v2/{NAME}/manifests/{image.digest}"
        assert await client.tags(NAME) == ["one", "two"]
        first = await client.get(f"/v2/{NAME}/tags/list?n=1")
        assert first.next == f"/some/where/v2/{NAME}/tags/list?n=1&last=one"
        assert (await client.get(first.next)).json["tags"] == ["two"]
        for number in range(2):
            referring = image_manifest(b"{}", subject=descriptor(image.manifest, OCI_IMAGE), x=number)
            await client.push_manifest(NAME, referring)
        assert len(await client.referrers(NAME, image.digest, "?n=1")) == 2
        await client.push_image("team/zoo")
        assert len(await client.pages("/v2/_catalog?n=1")) == 2
        mounted = await client.post(f"/v2/team/new/blobs/uploads/?mount={image.blobs[0]}&from={NAME}")
        assert mounted.location == f"/some/where/v2/team/new/blobs/{image.blobs[0]}"
        assert (await client.anonymous.get("/v2/")).status == 401


# Failures


@pytest.mark.parametrize("error", [Unavailable, Unknown, Conflict])
async def test_documents_that_fail(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        await client.push_blob(NAME, CONTENT)
        client.documents.fail("get", "oci-link:", error)
        with caplog.at_level(logging.ERROR):
            answer = await client.get(f"/v2/{NAME}/blobs/{DIGEST}")
        assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
        assert "oci-link:" not in answer.body.decode()
        assert f"oci-link:{DIGEST}@{NAME}" in caplog.text
        assert error.__name__ in caplog.text


@pytest.mark.parametrize("error", [BlobUnavailable, BlobBusy, BlobLost])
async def test_blobs_that_fail(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    async with in_memory() as client:
        assert isinstance(client.blobs, MemoryBlobs)
        await client.push_blob(NAME, CONTENT)
        client.blobs.fail("open", error=error, times=2)
        with caplog.at_level(logging.ERROR):
            answer = await client.get(f"/v2/{NAME}/blobs/{DIGEST}")
        assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
        assert error.__name__ in caplog.text


async def test_a_defect_is_left_to_whoever_carries_us() -> None:
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        client.documents.fail("get", "oci-link:", RuntimeError)
        with pytest.raises(RuntimeError):
            await client.get(f"/v2/{NAME}/blobs/{DIGEST}")


async def test_a_refusal_by_somebody_else_is_in_the_dialect_of_the_format() -> None:
    async with in_memory() as client:
        failure = RegistryError(401, "UNAUTHORIZED", "not you", headers=[("Retry-After", "3")])
        for path, known in ((f"/v2/{NAME}/tags/list", True), ("/v2/nothing", True), ("/-/live", False)):
            response = client.registry.refuse(Request("GET", path, "", Headers(), BytesBody()), failure)
            assert (response is not None) == known
            if response is not None:
                assert isinstance(response.body, bytes)
                assert json.loads(response.body) == {"errors": [{"code": "UNAUTHORIZED", "message": "not you"}]}
                assert response.headers.get("retry-after") == "3"
                assert "www-authenticate" in response.headers


async def test_a_client_that_has_gone_is_told_nothing() -> None:
    async with in_memory() as client:
        for status in (400, 408):
            body = PieceBody([b"{"], failure=BodyError("broken", status))
            answer = await client.put(f"/v2/{NAME}/manifests/latest", body)
            assert (answer.status, answer.json["errors"][0]["message"]) == (status, "broken")
        with pytest.raises(BodyError):
            await client.put(f"/v2/{NAME}/manifests/latest", PieceBody([b"{"], failure=BodyError("gone", None)))


async def test_too_many_parameters() -> None:
    async with in_memory() as client:
        answer = await client.get(f"/v2/_catalog?{'n=1&' * 300}")
        assert (answer.status, answer.codes) == (400, ["BAD_REQUEST"])


async def test_the_subject_is_known_to_the_log() -> None:
    async with in_memory() as client:
        fields = Headers.of({"authorization": client.authorization or ""})
        request = Request("GET", "/v2/", "", fields, BytesBody())
        await client.registry(request)
        assert request.subject == "admin"


# Beside requests


class StalledBody:
    """Two MiB, and then nothing until it is told to end."""

    def __init__(self) -> None:
        self.length: int | None = None
        self.stalled = trio.Event()
        self.end = trio.Event()
        self._pieces = [b"x" * MIB] * 2

    def __aiter__(self) -> StalledBody:
        return self

    async def __anext__(self) -> Chunk:
        if self._pieces:
            await trio.lowlevel.checkpoint()
            return self._pieces.pop()
        self.stalled.set()
        await self.end.wait()
        raise StopAsyncIteration


@pytest.mark.parametrize("cancelled", [False, True])
async def test_slow_uploads_are_saved_while_it_runs(autojump_clock: trio.testing.MockClock, cancelled: bool) -> None:
    """Also when it is cancelled, until it has ended: requests under way have their grace then."""
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    settings = cheap_settings(anonymous="push", save_interval=30.0, save_idle_bytes=MIB)
    registry = (await open_registry(settings, documents, blobs)).registry
    client = Client(registry, documents, blobs)
    body = StalledBody()
    location = await client.begin(NAME)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.patch, location, body)
        await body.stalled.wait()
        await trio.sleep(100)
        assert (await client.get(location)).header("range") == "0-0"  # it does not run yet
        with trio.CancelScope() as scope:
            async with registry.running():
                if cancelled:
                    scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.sleep(31)
                    assert (await client.get(location)).header("range") == f"0-{2 * MIB - 1}"
        body.end.set()
    digest = digest_of(b"x" * 2 * MIB)
    assert (await client.put(f"{location}?digest={digest}")).status == 201
