"""Manifests and tags: pushed, pulled byte for byte, refused, deleted (distribution-spec, "Pushing Manifests")."""

from __future__ import annotations

import base64
import json
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from enseada.formats import oci_content, oci_manifests
from enseada.formats.oci_content import INLINE_BYTES
from enseada.formats.oci_manifests import MAX_TAGS
from enseada.http import BodyError
from enseada.limits import Limits
from enseada.protocols.oci.manifest import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    OCI_ARTIFACT,
    OCI_IMAGE,
    OCI_INDEX,
    Manifest,
    parse,
)
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.storage.documents.sqlite import SQLiteStore
from tests.enseada.oci_client import (
    CONFIG_TYPE,
    LAYER_TYPE,
    Client,
    PieceBody,
    client_of,
    descriptor,
    digest_of,
    image_manifest,
    in_memory,
    index_manifest,
    on_disk,
)

if TYPE_CHECKING:
    from pathlib import Path

NAME = "team/api"
LAYER = b"a layer"
UNKNOWN = digest_of(b"never pushed")


async def pulled(client: Client, reference: str, name: str = NAME) -> bytes | None:
    """What a pull gets; None: it is not there."""
    answer = await client.get(f"/v2/{name}/manifests/{reference}")
    if answer.status == 404:
        assert answer.codes == ["MANIFEST_UNKNOWN"]
        assert answer.detail == {"reference": reference}
        return None
    assert answer.status == 200
    return answer.body


async def with_blobs(client: Client, name: str = NAME) -> None:
    await client.push_blob(name, b"{}")
    await client.push_blob(name, LAYER)


# Push and pull


@pytest.mark.parametrize("reference", ["latest", "digest", "V1.0_rc-1", "_", "a" * 128, "sha512"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_push_and_pull(reference: str, method: str) -> None:
    content = image_manifest(b"{}", [LAYER])
    digest = digest_of(content)
    if reference in ("digest", "sha512"):
        digest = reference = digest_of(content, "sha256" if reference == "digest" else "sha512")
    async with in_memory() as client:
        await with_blobs(client)
        made = await client.put_manifest(NAME, quote(reference, safe=""), content)
        assert made.status == 201
        assert made.location == f"/v2/{NAME}/manifests/{digest}"
        assert made.header("docker-content-digest") == digest
        assert "oci-subject" not in made.headers
        assert "oci-tag" not in made.headers
        for asked, cache in ((reference, None), (digest, "private, max-age=31536000, immutable")):
            answer = await client.send(method, f"/v2/{NAME}/manifests/{asked}")
            assert answer.status == 200
            assert answer.length == len(content)
            assert answer.body == (content if method == "GET" else b"")
            assert answer.header("content-type") == OCI_IMAGE
            assert answer.header("docker-content-digest") == digest
            assert answer.header("etag") == f'"{digest}"'
            if cache is not None or ":" not in asked:
                assert answer.header("cache-control") == (cache or "no-cache")


async def test_one_manifest_under_both_algorithms() -> None:
    async with in_memory() as client:
        await with_blobs(client)
        content = image_manifest(b"{}", [LAYER])
        for algorithm in ("sha256", "sha512"):
            assert (await client.put_manifest(NAME, digest_of(content, algorithm), content)).status == 201
        assert (await client.delete(f"/v2/{NAME}/manifests/{digest_of(content)}")).status == 202
        assert await pulled(client, digest_of(content)) is None
        assert await pulled(client, digest_of(content, "sha512")) == content


@pytest.mark.parametrize(
    "content",
    [
        b' {"layers":[] ,\r\n\t"schemaVersion":2,"config":%s}\n' % json.dumps(descriptor(b"{}", CONFIG_TYPE)).encode(),
        image_manifest(b"{}", [LAYER], unknown={"b": [1.50, 1e400 > 1, None], "a": "\u00e9\u2028\U0001f433"}),
        json.dumps(json.loads(image_manifest(b"{}", [LAYER])) | {"é": "\x00\x7f"}, ensure_ascii=False).encode(),
        image_manifest(b"{}", [LAYER], annotations={"k": "v", "": "", "org.opencontainers.image.title": "x\ny"}),
    ],
    ids=["spaces", "custom", "unicode", "annotations"],
)
async def test_every_byte_is_kept(content: bytes) -> None:
    async with in_memory() as client:
        await with_blobs(client)
        await client.push_manifest(NAME, content, "latest")
        assert await pulled(client, "latest") == content


@pytest.mark.parametrize("spare", [-1, 0, 1, INLINE_BYTES])
async def test_large_manifests_are_kept_as_blobs(spare: int) -> None:
    """Which is seen nowhere: no blob of that digest shows."""
    content = image_manifest(b"{}", [LAYER], annotations={"k": ""})
    content = image_manifest(b"{}", [LAYER], annotations={"k": "x" * (INLINE_BYTES + spare - len(content))})
    assert len(content) == INLINE_BYTES + spare
    async with in_memory() as client:
        assert isinstance(client.blobs, MemoryBlobs)
        await with_blobs(client)
        before = len(client.blobs.keys)
        digest = await client.push_manifest(NAME, content, "latest")
        assert len(client.blobs.keys) - before == (spare > 0)
        assert await pulled(client, "latest") == content
        head = await client.head(f"/v2/{NAME}/manifests/{digest}")
        assert head.length == len(content)
        assert (await client.get(f"/v2/{NAME}/blobs/{digest}")).status == 404
        await client.push_manifest(NAME, content, "again")
        assert len(client.blobs.keys) - before == (spare > 0)
        await with_blobs(client, "team/other")
        await client.push_manifest("team/other", content, "latest")
        assert (await client.delete(f"/v2/{NAME}/manifests/{digest}")).status == 202
        assert await pulled(client, "latest") is None
        assert await pulled(client, "latest", "team/other") == content


SMALL = image_manifest(b"{}", [LAYER])
LARGE = image_manifest(b"{}", [LAYER], annotations={"k": "x" * INLINE_BYTES})


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_who_needs_a_manifests_bytes_can_be_asked_by_digest_and_name(content: bytes) -> None:
    link = f"oci-manifest-link:{digest_of(content)}@{{}}".format
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        for name in (NAME, "team/other"):
            await with_blobs(client, name)
            assert await client.documents.get(link(name)) is None
            digest = await client.push_manifest(name, content, "latest")
            assert await client.documents.get(link(name)) is not None
        assert (await client.delete(f"/v2/{NAME}/manifests/{digest}")).status == 202
        assert await client.documents.get(link(NAME)) is None
        assert await client.documents.get(link("team/other")) is not None
        # What a delete left behind does no harm: the next life of the manifest has its own.
        client.documents.fail("delete", "oci-manifest-link:")
        assert (await client.delete(f"/v2/team/other/manifests/{digest}")).status == 202
        left = await client.documents.get(link("team/other"))
        await client.push_manifest("team/other", content)
        assert await client.documents.get(link("team/other")) not in (None, left)
        assert (await client.delete(f"/v2/team/other/manifests/{digest}")).status == 202
        assert await client.documents.get(link("team/other")) is None


async def test_a_small_push_is_one_commit(tmp_path: Path) -> None:
    async with on_disk(tmp_path) as client:
        assert isinstance(client.documents, SQLiteStore)
        await with_blobs(client)
        before = client.documents.commits
        await client.push_manifest(NAME, SMALL, "latest")
        assert client.documents.commits == before + 1


async def test_only_a_pull_reads_bytes() -> None:
    """Lists, HEAD and conditions have enough in the manifest's own document, which is small."""
    content = image_manifest(b"{}", [LAYER], subject=descriptor(b"the subject", OCI_IMAGE), x="x" * 20_000)
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        await with_blobs(client)
        digest = await client.push_manifest(NAME, content, "latest")
        small = await client.documents.get(f"oci-manifest:{NAME}@{digest}")
        assert small is not None
        assert len(json.dumps(small.data)) < 1000
        for method in ("get", "get_many", "scan"):
            client.documents.fail(method, "oci-manifest-content:", times=1000)
        for reference in ("latest", digest):
            address = f"/v2/{NAME}/manifests/{reference}"
            assert (await client.head(address)).length == len(content)
            assert (await client.get(address, {"If-None-Match": f'"{digest}"'})).status == 304
            assert (await client.get(address)).status == 503
        assert await client.tags(NAME) == ["latest"]
        assert len(await client.referrers(NAME, digest_of(b"the subject"))) == 1


async def test_what_a_digest_means_is_remembered_and_a_name_is_asked() -> None:
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        await with_blobs(client)
        digest = await client.push_manifest(NAME, SMALL, "latest")
        assert await pulled(client, "latest") == SMALL
        client.documents.fail("get", "oci-manifest-content:", times=1000)
        assert await pulled(client, "latest") == SMALL
        assert await pulled(client, digest) == SMALL
        assert await pulled(client, digest, "team/other") is None
        assert (await client.delete(f"/v2/{NAME}/manifests/{digest}")).status == 202
        assert await pulled(client, digest) is None


async def test_what_was_not_pulled_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_content, "CACHE_BYTES", 2 * len(SMALL) + 100)
    contents = [image_manifest(b"{}", [LAYER], x=number) for number in range(3)]
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        await with_blobs(client)
        for content in contents:
            await client.push_manifest(NAME, content)
        for number in (0, 1, 0, 2):
            assert await pulled(client, digest_of(contents[number])) == contents[number]
        client.documents.fail("get", "oci-manifest-content:", times=1000)
        statuses = [(await client.get(f"/v2/{NAME}/manifests/{digest_of(content)}")).status for content in contents]
        assert statuses == [200, 503, 200]


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_bytes_that_are_lost_are_unknown_until_they_are_pushed_again(content: bytes) -> None:
    digest = digest_of(content)
    async with in_memory() as client:
        await with_blobs(client)
        before = set(client.blobs.keys) if isinstance(client.blobs, MemoryBlobs) else set()
        await client.push_manifest(NAME, content, "latest")
        if content == LARGE:
            assert isinstance(client.blobs, MemoryBlobs)
            [key] = set(client.blobs.keys) - before
            await client.blobs.delete(key)
            assert (await client.head(f"/v2/{NAME}/manifests/latest")).status == 404
        else:
            document = await client.documents.get(f"oci-manifest-content:{digest}")
            assert document is not None
            await client.documents.delete(document)
        assert await pulled(client, "latest") is None
        assert await pulled(client, digest) is None
        await client.push_manifest(NAME, content)
        assert await pulled(client, "latest") == content


async def test_four_megabytes_and_no_more() -> None:
    limit = Limits().manifest_bytes
    assert limit >= 4 * 1024 * 1024
    start = len(image_manifest(b"{}", [LAYER], annotations={"k": ""}))
    most = image_manifest(b"{}", [LAYER], annotations={"k": "x" * (limit - start)})
    async with in_memory() as client:
        await with_blobs(client)
        await client.push_manifest(NAME, most, "most")
        assert await pulled(client, "most") == most
        for body in (PieceBody([most, b" "], length=limit + 1), PieceBody([most, b" "])):
            answer = await client.put(f"/v2/{NAME}/manifests/more", body, {"Content-Type": OCI_IMAGE})
            assert (answer.status, answer.codes) == (413, ["SIZE_INVALID"])
            assert body.pulled == (0 if body.length else 2)
        assert await pulled(client, "more") is None


@pytest.mark.parametrize("size", [oci_content.THREAD_BYTES, oci_content.THREAD_BYTES + 1])
async def test_what_is_large_is_read_beside_the_loop(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def watched(content: bytes, media_type: str | None, **limits: int) -> Manifest:
        threads.append(threading.current_thread())
        return parse(content, media_type, **limits)

    monkeypatch.setattr(oci_manifests, "parse", watched)
    content = image_manifest(b"{}", [LAYER]).ljust(size)
    async with in_memory() as client:
        await with_blobs(client)
        await client.push_manifest(NAME, content, "latest")
        assert await pulled(client, "latest") == content
        refused = await client.put_manifest(NAME, "latest", b"{" + content)
        assert refused.codes == ["MANIFEST_INVALID"]
        wrong = await client.put_manifest(NAME, UNKNOWN, content)
        assert wrong.codes == ["DIGEST_INVALID"]
    assert [thread is threading.main_thread() for thread in threads] == [size <= oci_content.THREAD_BYTES, False]


async def test_in_pieces_of_unknown_length() -> None:
    content = image_manifest(b"{}", [LAYER])
    async with in_memory() as client:
        await with_blobs(client)
        body = PieceBody([content[at : at + 7] for at in range(0, len(content), 7)])
        answer = await client.put(f"/v2/{NAME}/manifests/latest", body, {"Content-Type": OCI_IMAGE})
        assert answer.status == 201
        assert await pulled(client, "latest") == content
        broken = PieceBody([content], failure=BodyError("the client has gone", None))
        with pytest.raises(BodyError):
            await client.put(f"/v2/{NAME}/manifests/broken", broken, {"Content-Type": OCI_IMAGE})
        assert await pulled(client, "broken") is None


# Types


def of_type(media_type: str, *, said: bool) -> bytes:
    """A manifest of that type, which says so itself if ``said``."""
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type}
    if media_type in (OCI_INDEX, DOCKER_LIST):
        document["manifests"] = []
    elif media_type == OCI_ARTIFACT:
        document["blobs"] = [descriptor(LAYER, LAYER_TYPE)]
    else:
        document |= {"config": descriptor(b"{}", CONFIG_TYPE), "layers": [descriptor(LAYER, LAYER_TYPE)]}
    if not said:
        del document["mediaType"]
    return json.dumps(document).encode()


@pytest.mark.parametrize("media_type", [OCI_IMAGE, OCI_INDEX, DOCKER_IMAGE, DOCKER_LIST, OCI_ARTIFACT])
@pytest.mark.parametrize("said", [True, False])
async def test_a_manifest_has_the_type_with_which_it_was_pushed(media_type: str, said: bool) -> None:
    content = of_type(media_type, said=said)
    async with in_memory() as client:
        await with_blobs(client)
        await client.push_manifest(NAME, content, "latest", media_type)
        for method in ("GET", "HEAD"):
            # Whatever is asked for: nothing is converted.
            answer = await client.send(method, f"/v2/{NAME}/manifests/latest", headers={"Accept": "text/plain"})
            assert answer.header("content-type") == media_type


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (of_type(DOCKER_IMAGE, said=True), DOCKER_IMAGE),
        (of_type(OCI_IMAGE, said=False), OCI_IMAGE),
        (of_type(OCI_INDEX, said=False), OCI_INDEX),
    ],
)
async def test_without_content_type_the_manifest_tells(content: bytes, media_type: str) -> None:
    async with in_memory() as client:
        await with_blobs(client)
        await client.push_manifest(NAME, content, "latest", None)
        assert (await client.head(f"/v2/{NAME}/manifests/latest")).header("content-type") == media_type


async def test_pushed_again_with_another_type() -> None:
    """The same bytes, which do not say what they are: the last push counts."""
    content = of_type(OCI_IMAGE, said=False)
    async with in_memory() as client:
        await with_blobs(client)
        await client.push_manifest(NAME, content, "latest", OCI_IMAGE)
        await client.push_manifest(NAME, content, None, DOCKER_IMAGE)
        assert (await client.head(f"/v2/{NAME}/manifests/latest")).header("content-type") == DOCKER_IMAGE


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"", OCI_IMAGE),
        (b"{", OCI_IMAGE),
        (b"[]", OCI_IMAGE),
        (b"null", OCI_IMAGE),
        (b"\xff\xfe", OCI_IMAGE),
        (b"\xef\xbb\xbf" + image_manifest(), OCI_IMAGE),
        (b'{"schemaVersion":2}', OCI_IMAGE),
        (image_manifest(schemaVersion=1), OCI_IMAGE),
        (image_manifest(schemaVersion=True), OCI_IMAGE),
        (image_manifest(config=None), OCI_IMAGE),
        (image_manifest(layers=[], manifests=[]), OCI_IMAGE),
        (image_manifest(layers={}), OCI_IMAGE),
        (image_manifest(config={"mediaType": "a/b", "digest": "sha256:1", "size": 2}), OCI_IMAGE),
        (image_manifest(config=descriptor(b"{}", CONFIG_TYPE) | {"size": -1}), OCI_IMAGE),
        (image_manifest(config=descriptor(b"{}", CONFIG_TYPE) | {"size": "2"}), OCI_IMAGE),
        (image_manifest(config=descriptor(b"{}", CONFIG_TYPE, data="e30")), OCI_IMAGE),
        (image_manifest(config=descriptor(b"{}", CONFIG_TYPE, data=base64.b64encode(b"[]").decode())), OCI_IMAGE),
        (image_manifest(subject="sha256:1"), OCI_IMAGE),
        (image_manifest(annotations={"a": 1}), OCI_IMAGE),
        (image_manifest(artifactType=5), OCI_IMAGE),
        (image_manifest(), DOCKER_IMAGE),  # says otherwise
        (image_manifest(), "application/json"),
        (b'{"schemaVersion":1}', "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (index_manifest([], config=descriptor(b"{}", CONFIG_TYPE)), OCI_INDEX),
        (index_manifest([], manifests=None), OCI_INDEX),
        (b'{"schemaVersion":2,"schemaVersion":2}', OCI_IMAGE),
        (b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", OCI_IMAGE),
        (b'{"a":[' + b",".join([b"0"] * 20_001) + b"]}", OCI_IMAGE),
    ],
)
async def test_what_is_no_manifest(content: bytes, media_type: str) -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, b"{}")
        for reference in ("latest", digest_of(content)):
            answer = await client.put_manifest(NAME, reference, content, media_type)
            assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
            assert await pulled(client, reference) is None
        assert (await client.get(f"/v2/{NAME}/tags/list")).codes == ["NAME_UNKNOWN"]


# What a manifest names


async def test_blobs_that_the_name_lacks() -> None:
    content = image_manifest(b"{}", [LAYER, b"never pushed"])
    async with in_memory() as client:
        await with_blobs(client)
        await client.push_blob("team/other", b"never pushed")  # somewhere else does not count
        answer = await client.put_manifest(NAME, "latest", content)
        assert (answer.status, answer.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])
        assert answer.detail == [{"digest": UNKNOWN}]
        assert await pulled(client, "latest") is None
        assert await pulled(client, digest_of(content)) is None
        await client.push_blob(NAME, b"never pushed")
        await client.push_manifest(NAME, content, "latest")


async def test_a_config_that_the_name_lacks() -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, LAYER)
        answer = await client.put_manifest(NAME, "latest", image_manifest(b"{}", [LAYER]))
        assert answer.codes == ["MANIFEST_BLOB_UNKNOWN"]
        assert answer.detail == [{"digest": digest_of(b"{}")}]


async def test_a_blob_that_was_deleted() -> None:
    async with in_memory() as client:
        await with_blobs(client)
        assert (await client.delete(f"/v2/{NAME}/blobs/{digest_of(LAYER)}")).status == 202
        answer = await client.put_manifest(NAME, "latest", image_manifest(b"{}", [LAYER]))
        assert answer.codes == ["MANIFEST_BLOB_UNKNOWN"]


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
async def test_layers_that_are_fetched_elsewhere_may_be_absent(media_type: str) -> None:
    layers = [descriptor(b"never pushed", media_type, urls=["https://elsewhere.test/x"])]
    async with in_memory() as client:
        await client.push_blob(NAME, b"{}")
        await client.push_manifest(NAME, image_manifest(layers=layers), "latest")


@pytest.mark.parametrize(
    "content",
    [
        image_manifest(b"{}"),
        image_manifest(b"{}", layers=None),
        image_manifest(config=descriptor(b"{}", CONFIG_TYPE, data=base64.b64encode(b"{}").decode())),
        image_manifest(config=descriptor(b"{}", "application/vnd.unknown"), artifactType="application/vnd.x"),
        image_manifest(layers=[descriptor(LAYER, "application/vnd.oci.image.layer.v1.tar+zstd")] * 3),
        image_manifest(layers=[descriptor(LAYER, LAYER_TYPE, "sha512")]),
    ],
    ids=["no layers", "null layers", "data", "artifact", "one layer thrice", "sha512"],
)
async def test_images_of_every_kind(content: bytes) -> None:
    async with in_memory() as client:
        await with_blobs(client)
        await client.push_blob(NAME, LAYER, "sha512")
        await client.push_manifest(NAME, content, "latest")
        assert await pulled(client, "latest") == content


async def test_index_and_nested_index() -> None:
    async with in_memory() as client:
        one = await client.push_image(NAME, None, [b"one"])
        two = await client.push_image(NAME, None, [b"two"])
        inner = index_manifest([one.manifest, two.manifest])
        await client.push_manifest(NAME, inner, None, OCI_INDEX)
        outer = index_manifest([], manifests=[descriptor(inner, OCI_INDEX), descriptor(two.manifest, OCI_IMAGE)])
        await client.push_manifest(NAME, outer, "latest", OCI_INDEX)
        assert await pulled(client, "latest") == outer


async def test_an_index_with_members_that_the_name_lacks() -> None:
    async with in_memory() as client:
        here = await client.push_image(NAME, None)
        elsewhere = await client.push_image("team/other", None, [b"elsewhere"])
        index = index_manifest([here.manifest, elsewhere.manifest, b"never pushed"])
        answer = await client.put_manifest(NAME, "latest", index, OCI_INDEX)
        assert (answer.status, answer.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])
        assert answer.detail == [{"digest": elsewhere.digest}, {"digest": UNKNOWN}]
        assert await pulled(client, "latest") is None


async def test_an_index_may_list_blobs() -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, LAYER)
        index = index_manifest([], manifests=[descriptor(LAYER, "application/octet-stream")])
        await client.push_manifest(NAME, index, "latest", OCI_INDEX)


@pytest.mark.parametrize("present", [True, False])
async def test_a_subject_may_be_missing(present: bool) -> None:
    async with in_memory() as client:
        subject = await client.push_image(NAME, None)
        digest = subject.digest if present else UNKNOWN
        named = {"mediaType": OCI_IMAGE, "digest": digest, "size": 5}
        await client.push_blob(NAME, b"{}")
        answer = await client.put_manifest(NAME, "sbom", image_manifest(subject=named))
        assert answer.status == 201
        assert answer.header("oci-subject") == digest


async def test_a_digest_that_is_not_the_contents() -> None:
    content = image_manifest(b"{}", [LAYER])
    async with in_memory() as client:
        await with_blobs(client)
        for wrong in (UNKNOWN, digest_of(b"other", "sha512")):
            answer = await client.put_manifest(NAME, wrong, content)
            assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
            assert answer.detail["digest"] == wrong
            assert await pulled(client, wrong) is None


# References


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("tag", [".hidden", "-x", "a" * 129, "a%20b", "a%2fb", "%C3%A9", "a%00", "a+b"])
async def test_what_is_no_tag(method: str, tag: str) -> None:
    async with in_memory() as client:
        answer = await client.send(method, f"/v2/{NAME}/manifests/{tag}", image_manifest())
        assert answer.status == 400
        if method != "HEAD":
            assert answer.codes == ["TAG_INVALID"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("digest", ["sha256:1", "sha256:", ":", "md5:" + "a" * 32, "SHA256:" + "a" * 64])
async def test_what_is_no_digest(method: str, digest: str) -> None:
    async with in_memory() as client:
        answer = await client.send(method, f"/v2/{NAME}/manifests/{digest}", image_manifest())
        assert answer.status == 400
        if method != "HEAD":
            assert answer.codes == ["DIGEST_INVALID"]


@pytest.mark.parametrize("reference", ["latest", UNKNOWN])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_what_is_not_there(reference: str, method: str) -> None:
    async with in_memory() as client:
        await client.push_image("team/other")
        answer = await client.send(method, f"/v2/{NAME}/manifests/{reference}")
        assert answer.status == 404
        if method != "HEAD":
            assert answer.codes == ["MANIFEST_UNKNOWN"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_conditions(method: str) -> None:
    async with in_memory() as client:
        image = await client.push_image(NAME)
        for reference in ("latest", image.digest):
            address = f"/v2/{NAME}/manifests/{reference}"
            same = await client.send(method, address, headers={"If-None-Match": f'"{image.digest}"'})
            assert (same.status, same.body) == (304, b"")
            assert same.header("docker-content-digest") == image.digest
            other = await client.send(method, address, headers={"If-None-Match": f'"{UNKNOWN}"'})
            assert other.status == 200
            ranged = await client.send(method, address, headers={"Range": "bytes=0-3"})
            assert (ranged.status, ranged.length) == (200, len(image.manifest))


# Several tags at once


@pytest.mark.parametrize("count", [0, 1, 3, MAX_TAGS])
async def test_tags_with_a_push_by_digest(count: int) -> None:
    content = image_manifest(b"{}", [LAYER])
    tags = [f"t{number}" for number in range(count)]
    query = "&".join(f"tag={tag}" for tag in [*tags, *tags])  # each twice: it is set once
    async with in_memory() as client:
        await with_blobs(client)
        answer = await client.put(f"/v2/{NAME}/manifests/{digest_of(content)}?{query}", content)
        assert answer.status == 201
        assert answer.headers.get_all("oci-tag") == tags
        assert await client.tags(NAME) == sorted(tags)
        for tag in tags[:3]:
            assert await pulled(client, tag) == content


@pytest.mark.parametrize(
    ("reference", "query", "status"),
    [
        ("latest", "tag=a", 400),
        (None, "tag=.a", 400),
        (None, "tag=", 400),
        (None, "tag=a&tag=b%20c", 400),
        (None, f"tag={UNKNOWN}", 400),
        (None, "&".join(f"tag=t{number}" for number in range(MAX_TAGS + 1)), 414),
        (None, "&".join(f"tag=t{number}" for number in range(300)), 400),
    ],
)
async def test_tag_parameters_that_are_refused_set_none(reference: str | None, query: str, status: int) -> None:
    content = image_manifest(b"{}", [LAYER])
    async with in_memory() as client:
        await with_blobs(client)
        answer = await client.put(f"/v2/{NAME}/manifests/{reference or digest_of(content)}?{query}", content)
        assert answer.status == status
        assert await pulled(client, digest_of(content)) is None
        assert await pulled(client, "a") is None


# Tags move, and go


async def test_a_tag_moves() -> None:
    async with in_memory() as client:
        one = await client.push_image(NAME, "latest", [b"one"])
        two = await client.push_image(NAME, "latest", [b"two"])
        assert await pulled(client, "latest") == two.manifest
        assert await pulled(client, one.digest) == one.manifest
        await client.push_manifest(NAME, one.manifest, "latest")
        assert await pulled(client, "latest") == one.manifest
        assert await client.tags(NAME) == ["latest"]


async def test_deleting_a_tag_leaves_the_rest() -> None:
    async with in_memory() as client:
        image = await client.push_image(NAME, "one")
        await client.push_manifest(NAME, image.manifest, "two")
        assert (await client.delete(f"/v2/{NAME}/manifests/one")).status == 202
        assert await pulled(client, "one") is None
        assert await pulled(client, "two") == image.manifest
        assert await pulled(client, image.digest) == image.manifest
        assert await client.tags(NAME) == ["two"]
        again = await client.delete(f"/v2/{NAME}/manifests/one")
        assert (again.status, again.codes) == (404, ["MANIFEST_UNKNOWN"])


async def test_deleting_a_digest_removes_every_tag_on_it() -> None:
    async with in_memory() as client:
        image = await client.push_image(NAME, "one", [b"one"])
        other = await client.push_image(NAME, "other", [b"other"])
        for tag in ("two", "three"):
            await client.push_manifest(NAME, image.manifest, tag)
        await client.push_blob("elsewhere", b"{}")
        await client.push_image("elsewhere", "one", [b"one"])
        assert (await client.delete(f"/v2/{NAME}/manifests/{quote(image.digest, safe='')}")).status == 202
        for reference in (image.digest, "one", "two", "three"):
            assert await pulled(client, reference) is None
            answer = await client.delete(f"/v2/{NAME}/manifests/{reference}")
            assert (answer.status, answer.codes) == (404, ["MANIFEST_UNKNOWN"])
        assert await client.tags(NAME) == ["other"]
        assert await pulled(client, "other") == other.manifest
        assert await pulled(client, "one", "elsewhere") == image.manifest
        # Blobs are no manifests: they stay.
        for digest in image.blobs:
            assert (await client.head(f"/v2/{NAME}/blobs/{digest}")).status == 200


async def with_tags(client: Client, content: bytes, tags: list[str]) -> str:
    """Push ``content`` under all of them; its digest."""
    digest = digest_of(content)
    for start in range(0, len(tags), MAX_TAGS):
        query = "&".join(f"tag={tag}" for tag in tags[start : start + MAX_TAGS])
        assert (await client.put(f"/v2/{NAME}/manifests/{digest}?{query}", content)).status == 201
    return digest


async def test_tags_of_what_is_deleted_go_together(tmp_path: Path) -> None:
    """In a few commits, however many they are."""
    async with on_disk(tmp_path) as client:
        assert isinstance(client.documents, SQLiteStore)
        await with_blobs(client)
        digest = await with_tags(client, SMALL, [f"t{number}" for number in range(300)])
        before = client.documents.commits
        assert (await client.delete(f"/v2/{NAME}/manifests/{digest}")).status == 202
        assert client.documents.commits - before < 15
        assert await client.documents.scan("oci-tag:", "oci-tag;", 1000) == []


@pytest.mark.parametrize(("tidied", "pages", "left"), [(3, 20, 5), (2, 20, 6), (8, 20, 0), (9, 20, 0), (8, 3, 3)])
async def test_tags_that_are_too_many_for_one_request_are_gone_too(
    tidied: int, pages: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_manifests, "TAG_PAGE", 2)
    monkeypatch.setattr(oci_manifests, "MAX_TIDIED", tidied)
    monkeypatch.setattr(oci_manifests, "MAX_TAG_PAGES", pages)
    async with in_memory() as client:
        await with_blobs(client)
        await client.push_image(NAME, "t3-other", [b"other"])
        digest = await with_tags(client, SMALL, [f"t{number}" for number in range(8)])
        assert (await client.delete(f"/v2/{NAME}/manifests/{digest}")).status == 202
        assert len(await client.documents.scan("oci-tag:", "oci-tag;", 1000)) == left + 1
        await client.push_manifest(NAME, SMALL)
        assert await client.tags(NAME) == ["t3-other"]
        for number in range(8):
            assert await pulled(client, f"t{number}") is None
        await with_tags(client, SMALL, ["t0", "t7"])
        assert await client.tags(NAME) == ["t0", "t3-other", "t7"]


async def test_one_tag_that_cannot_be_removed_keeps_no_other() -> None:
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        await with_blobs(client)
        digest = await with_tags(client, SMALL, ["a", "b", "c"])
        client.documents.fail("delete", f"oci-tag:{NAME}:b")
        assert (await client.delete(f"/v2/{NAME}/manifests/{digest}")).status == 202
        [tag] = await client.documents.scan("oci-tag:", "oci-tag;", 1000)
        assert tag.id == f"oci-tag:{NAME}:b"
        assert await client.tags(NAME) == []


async def test_a_manifest_pushed_again_does_not_bring_its_old_tags_back() -> None:
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        image = await client.push_image(NAME, "one")
        await client.push_manifest(NAME, image.manifest, "two")
        client.documents.fail("scan", "oci-tag:")  # the delete finds no tags, as where a range lags
        await client.delete(f"/v2/{NAME}/manifests/{image.digest}")
        assert await client.documents.get(f"oci-tag:{NAME}:two") is not None
        await client.push_manifest(NAME, image.manifest, "one")
        assert await client.tags(NAME) == ["one"]
        assert await pulled(client, "two") is None
        assert (await client.delete(f"/v2/{NAME}/manifests/two")).status == 404
        await client.push_manifest(NAME, image.manifest, "two")
        assert await pulled(client, "two") == image.manifest


async def test_a_member_of_an_index_may_be_deleted() -> None:
    async with in_memory() as client:
        member = await client.push_image(NAME, None)
        index = index_manifest([member.manifest])
        await client.push_manifest(NAME, index, "latest", OCI_INDEX)
        assert (await client.delete(f"/v2/{NAME}/manifests/{member.digest}")).status == 202
        assert await pulled(client, "latest") == index


async def test_another_process_sees_every_change_at_once() -> None:
    async with in_memory() as one:
        other = await client_of(one.documents, one.blobs)
        assert await pulled(other, "latest") is None
        first = await one.push_image(NAME, "latest", [b"first"])
        assert await pulled(other, "latest") == first.manifest
        second = await one.push_image(NAME, "latest", [b"second"])
        assert await pulled(other, "latest") == second.manifest
        await one.delete(f"/v2/{NAME}/manifests/{second.digest}")
        assert await pulled(other, "latest") is None
        assert await pulled(other, second.digest) is None


async def test_without_create_on_push_a_manifest_needs_the_repository() -> None:
    async with in_memory(create_on_push=False) as client:
        body = PieceBody([index_manifest([])])
        answer = await client.put(f"/v2/{NAME}/manifests/latest", body, {"Content-Type": OCI_INDEX})
        assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])
        assert body.pulled == 0


async def test_an_index_of_nothing_makes_the_repository() -> None:
    async with in_memory() as client:
        await client.push_manifest(NAME, index_manifest([]), "latest", OCI_INDEX)
        assert await client.documents.get("repository:oci:team") is not None
