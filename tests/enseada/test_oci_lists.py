"""Lists: tags, the catalogue, referrers; their order, and their pages to the very end."""

from __future__ import annotations

import json
import threading
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from enseada.auth.policy import CATALOG, Action
from enseada.formats import oci_lists
from enseada.formats.oci_content import INLINE_BYTES
from enseada.formats.oci_lists import MAX_PAGE, MAX_REFERRERS_BYTES
from enseada.formats.oci_referrers import KEPT_ANNOTATIONS, KEPT_TYPE
from enseada.protocols.oci.manifest import DOCKER_IMAGE, OCI_ARTIFACT, OCI_IMAGE, OCI_INDEX, Manifest, parse
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from tests.enseada.oci_client import (
    CONFIG_TYPE,
    Rights,
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

    from tests.enseada.oci_client import Client

NAME = "team/api"
TAGS = sorted(["10", "9", "A", "Z", "_x", "a", "a-b", "a.b", "a_b", "aa", "b", "latest", "v1", "v1.0", "z" * 128])
SUBJECT = digest_of(b"the subject")
FILTERED = "OCI-Filters-Applied"


def subject(content: bytes = b"the subject") -> dict[str, Any]:
    return descriptor(content, OCI_IMAGE)


async def with_tags(client: Client, tags: list[str]) -> None:
    image = await client.push_image(NAME, None)
    for start in range(0, len(tags), 100):
        query = "&".join(f"tag={tag}" for tag in tags[start : start + 100])
        answer = await client.put(f"/v2/{NAME}/manifests/{image.digest}?{query}", image.manifest)
        assert answer.status == 201


# Tags


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
async def test_tags_in_the_order_of_their_bytes(disk: bool, tmp_path: Path) -> None:
    async with on_disk(tmp_path) if disk else in_memory() as client:
        shuffled = list(TAGS)
        Random(1).shuffle(shuffled)
        await with_tags(client, shuffled)
        await client.push_image("team/api-2", "elsewhere")
        await client.push_image("team/api/deeper", "deeper")
        answer = await client.get(f"/v2/{NAME}/tags/list")
        assert answer.status == 200
        assert answer.header("content-type") == "application/json"
        assert answer.json == {"name": NAME, "tags": TAGS}
        assert answer.next is None


@pytest.mark.parametrize("count", range(1, len(TAGS) + 2))
async def test_tags_page_after_page(count: int) -> None:
    async with in_memory() as client:
        await with_tags(client, TAGS)
        pages = await client.pages(f"/v2/{NAME}/tags/list?n={count}")
        assert [tag for page in pages for tag in page.json["tags"]] == TAGS
        assert len(pages) == -(-len(TAGS) // count)
        assert {len(page.json["tags"]) for page in pages[:-1]} <= {count}
        if len(pages) > 1:
            last = quote(pages[0].json["tags"][-1])
            assert pages[0].next == f"/v2/{NAME}/tags/list?n={count}&last={last}"


async def test_pages_shorter_than_what_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many documents are read at once, and however many of them are of manifests that are gone."""
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        await with_tags(client, TAGS[::2])
        gone = await client.push_image(NAME, None, [b"gone"])
        query = "&".join(f"tag={tag}" for tag in TAGS[1::2])
        await client.put(f"/v2/{NAME}/manifests/{gone.digest}?{query}", gone.manifest)
        assert await client.tags(NAME) == TAGS
        client.documents.fail("scan", "oci-tag:")  # the delete leaves its tags behind
        assert (await client.delete(f"/v2/{NAME}/manifests/{gone.digest}")).status == 202
        for size in (1, 2, 3, len(TAGS), 200):
            monkeypatch.setattr(oci_lists, "SCAN_PAGE", size)
            for count in (1, 2, 8, 9):
                pages = await client.pages(f"/v2/{NAME}/tags/list?n={count}")
                assert [tag for page in pages for tag in page.json["tags"]] == TAGS[::2]


async def test_a_page_of_tags_leads_past_those_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are: a page looks at so many documents, and its link goes on from there."""
    monkeypatch.setattr(oci_lists, "SCAN_PAGE", 2)
    monkeypatch.setattr(oci_lists, "MAX_LOOKED", 4)
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        await with_tags(client, ["a", "z"])
        gone = await client.push_image(NAME, None, [b"gone"])
        query = "&".join(f"tag=t{number}" for number in range(10))
        await client.put(f"/v2/{NAME}/manifests/{gone.digest}?{query}", gone.manifest)
        client.documents.fail("scan", "oci-tag:")  # the delete leaves its tags behind
        assert (await client.delete(f"/v2/{NAME}/manifests/{gone.digest}")).status == 202
        for count in ("", "?n=1", "?n=2", "?n=5"):
            pages = await client.pages(f"/v2/{NAME}/tags/list{count}")
            assert [tag for page in pages for tag in page.json["tags"]] == ["a", "z"]
            assert [] in [page.json["tags"] for page in pages]
        assert (await client.get(f"/v2/{NAME}/tags/list?n=0")).next is None


@pytest.mark.parametrize(("query", "tags"), [("n=0", []), ("n=0&last=a", []), ("n=00", [])])
async def test_no_results_and_no_link(query: str, tags: list[str]) -> None:
    async with in_memory() as client:
        await with_tags(client, TAGS)
        answer = await client.get(f"/v2/{NAME}/tags/list?{query}")
        assert (answer.status, answer.json["tags"], answer.next) == (200, tags, None)


@pytest.mark.parametrize("last", ["zz", "~", "%F0%9F%90%B3", "%00", "%ff", "a" * 200, "b%2Fc", ":", "%3B", ""])
async def test_last_need_not_be_a_tag(last: str) -> None:
    async with in_memory() as client:
        await with_tags(client, TAGS)
        for count in ("", "n=2&"):
            answer = await client.get(f"/v2/{NAME}/tags/list?{count}last={last}")
            assert answer.status == 200
            expected = {"zz": 1, "~": 0, "%F0%9F%90%B3": 0, "%ff": 0, "a" * 200: 5, "b%2Fc": 4, ":": 13, "%3B": 13}
            left = TAGS[len(TAGS) - expected.get(last, len(TAGS)) :]
            assert answer.json["tags"] == (left[:2] if count else left)


async def test_past_the_end_is_a_list_too() -> None:
    async with in_memory() as client:
        await with_tags(client, TAGS)
        answer = await client.get(f"/v2/{NAME}/tags/list?last={TAGS[-1]}")
        assert answer.json == {"name": NAME, "tags": []}
        assert answer.next is None


@pytest.mark.parametrize("count", ["-1", "x", "1.5", "", "%2B1", "1_0", "%D9%A3", "0x10", "1e3", "%201"])
@pytest.mark.parametrize("address", [f"/v2/{NAME}/tags/list", "/v2/_catalog", f"/v2/{NAME}/referrers/{SUBJECT}"])
async def test_counts_that_are_none(count: str, address: str) -> None:
    async with in_memory() as client:
        await with_tags(client, ["a"])
        answer = await client.get(f"{address}?n={count}")
        assert (answer.status, answer.codes) == (400, ["PAGINATION_NUMBER_INVALID"])


@pytest.mark.parametrize("count", ["", f"n={MAX_PAGE}", f"n={MAX_PAGE + 1}", "n=" + "9" * 5000, "n=00001000"])
async def test_as_many_as_a_page_holds(count: str) -> None:
    tags = sorted(f"t{number}" for number in range(MAX_PAGE + 1))
    async with in_memory() as client:
        await with_tags(client, tags)
        pages = await client.pages(f"/v2/{NAME}/tags/list?{count}")
        assert [len(page.json["tags"]) for page in pages] == [MAX_PAGE, 1]
        assert [tag for page in pages for tag in page.json["tags"]] == tags


async def test_tags_of_a_name_that_has_none() -> None:
    async with in_memory() as client:
        unknown = await client.get(f"/v2/{NAME}/tags/list")
        assert (unknown.status, unknown.codes, unknown.detail) == (404, ["NAME_UNKNOWN"], {"name": NAME})
        await client.push_blob(NAME, b"{}")
        assert (await client.get(f"/v2/{NAME}/tags/list")).status == 404
        image = await client.push_image(NAME, None)
        assert (await client.get(f"/v2/{NAME}/tags/list")).json["tags"] == []
        await client.push_manifest(NAME, image.manifest, "a")
        await client.delete(f"/v2/{NAME}/manifests/{image.digest}")
        assert (await client.get(f"/v2/{NAME}/tags/list")).json["tags"] == []


# The catalogue


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
async def test_catalogue(disk: bool, tmp_path: Path) -> None:
    images = ["a", "a-b/c", "a/b", "a/b/c", "b", "z"]
    async with on_disk(tmp_path) if disk else in_memory() as client:
        assert (await client.get("/v2/_catalog")).json == {"repositories": []}
        for name in reversed(images):
            await client.push_manifest(name, index_manifest([]), "latest", OCI_INDEX)
        await client.push_blob("only-blobs", b"{}")
        assert (await client.get("/v2/_catalog")).json == {"repositories": images}
        for count in range(1, len(images) + 2):
            pages = await client.pages(f"/v2/_catalog?n={count}")
            assert [name for page in pages for name in page.json["repositories"]] == images
            assert len(pages) == -(-len(images) // count)
        none = await client.get("/v2/_catalog?n=0")
        assert (none.json, none.next) == ({"repositories": []}, None)
        assert (await client.get("/v2/_catalog?last=zz")).json == {"repositories": []}
        assert (await client.get("/v2/_catalog?last=a/b")).json["repositories"] == images[3:]


async def test_the_catalogue_shows_what_may_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [f"team/{number:02}" for number in range(0, 30, 7)]
    rights = Rights(("maria", Action.READ, CATALOG), *(("maria", Action.READ, f"oci:{name}") for name in shown))
    async with in_memory(authorizer=rights) as admin:
        maria = await admin.add_user("maria")
        for number in range(30):
            await admin.push_manifest(f"team/{number:02}", index_manifest([]), "latest", OCI_INDEX)
        for size in (1, 4, 200):
            monkeypatch.setattr(oci_lists, "SCAN_PAGE", size)
            for client in (maria, await maria.with_token("registry:catalog:*")):
                for count in (1, 2, 3, 5, 6):
                    pages = await client.pages(f"/v2/_catalog?n={count}")
                    assert [name for page in pages for name in page.json["repositories"]] == shown
                    assert len(pages) == -(-len(shown) // count)


# Referrers


async def push_referrer(client: Client, number: int = 0, **fields: object) -> dict[str, Any]:
    """Push an artefact that refers to the subject; the entry that lists it."""
    content = image_manifest(b"{}", **{"subject": subject(), "artifactType": "a/b", "x": number, **fields})
    await client.push_blob(NAME, b"{}")
    await client.push_manifest(NAME, content)
    document = json.loads(content)
    entry = descriptor(content, OCI_IMAGE, artifactType=document["artifactType"])
    return entry | ({"annotations": document["annotations"]} if document.get("annotations") else {})


@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
async def test_referrers(disk: bool, tmp_path: Path) -> None:
    async with on_disk(tmp_path) if disk else in_memory() as client:
        entries = [await push_referrer(client, number, annotations={"n": "\u00e9" * number}) for number in range(4)]
        await push_referrer(client, subject=subject(b"another"))
        answer = await client.get(f"/v2/{NAME}/referrers/{quote(SUBJECT, safe='')}")
        assert answer.status == 200
        assert answer.header("content-type") == OCI_INDEX
        assert FILTERED not in answer.headers
        assert answer.next is None
        assert answer.json["schemaVersion"] == 2
        assert answer.json["mediaType"] == OCI_INDEX
        assert answer.json["manifests"] == sorted(entries, key=lambda entry: str(entry["digest"]))


@pytest.mark.parametrize("name", [NAME, "never/pushed"])
@pytest.mark.parametrize("query", ["", "?artifactType=a/b", "?n=3", f"?last={SUBJECT}"])
async def test_referrers_to_the_unknown(name: str, query: str) -> None:
    async with in_memory() as client:
        await client.push_image(NAME)
        answer = await client.get(f"/v2/{name}/referrers/{SUBJECT}{query}")
        assert answer.status == 200
        assert answer.header("content-type") == OCI_INDEX
        assert answer.json["manifests"] == []
        assert answer.next is None


@pytest.mark.parametrize("digest", ["latest", "sha256:1", "md5:" + "a" * 32, "sha256:" + "G" * 64])
async def test_referrers_to_what_is_no_digest(digest: str) -> None:
    async with in_memory() as client:
        answer = await client.get(f"/v2/{NAME}/referrers/{digest}")
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


async def test_the_artifact_type_of_an_entry() -> None:
    """The manifest's own; of an image without one, the config's media type; of an index without one, none."""
    async with in_memory() as client:
        await client.push_blob(NAME, b"{}")
        contents = {
            image_manifest(b"{}", subject=subject(), artifactType="own/type"): (OCI_IMAGE, "own/type"),
            image_manifest(b"{}", subject=subject()): (OCI_IMAGE, CONFIG_TYPE),
            image_manifest(b"{}", subject=subject(), artifactType=""): (OCI_IMAGE, CONFIG_TYPE),
            index_manifest([], subject=subject(), artifactType="of/index"): (OCI_INDEX, "of/index"),
            index_manifest([], subject=subject()): (OCI_INDEX, None),
            json.dumps({"mediaType": OCI_ARTIFACT, "subject": subject(), "artifactType": "o/a"}).encode(): (
                OCI_ARTIFACT,
                "o/a",
            ),
        }
        for content, (media_type, _) in contents.items():
            answer = await client.put_manifest(NAME, digest_of(content), content, media_type)
            assert answer.header("oci-subject") == SUBJECT
        listed = {entry["digest"]: entry for entry in await client.referrers(NAME, SUBJECT)}
        assert len(listed) == len(contents)
        for content, (media_type, artifact_type) in contents.items():
            entry = listed[digest_of(content)]
            assert entry["mediaType"] == media_type
            assert entry["size"] == len(content)
            assert entry.get("artifactType") == artifact_type
            filtered = await client.referrers(NAME, SUBJECT, f"?artifactType={quote(artifact_type or 'x', safe='')}")
            assert (entry in filtered) == (artifact_type is not None)


async def test_referrers_page_after_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async with in_memory() as client:
        entries = [await push_referrer(client, number, artifactType=f"a/{number % 2}") for number in range(9)]
        entries.sort(key=lambda entry: str(entry["digest"]))
        for size in (1, 3, 200):
            monkeypatch.setattr(oci_lists, "SCAN_PAGE", size)
            for count in range(1, 11):
                pages = await client.pages(f"/v2/{NAME}/referrers/{SUBJECT}?n={count}")
                assert [entry for page in pages for entry in page.json["manifests"]] == entries
                assert len(pages) == -(-len(entries) // count)
                pages = await client.pages(f"/v2/{NAME}/referrers/{SUBJECT}?n={count}&artifactType=a%2F1")
                found = [entry for page in pages for entry in page.json["manifests"]]
                assert found == [entry for entry in entries if entry["artifactType"] == "a/1"]
                assert len(pages) == -(-len(found) // count)
                assert all(page.header(FILTERED) == "artifactType" for page in pages)


async def test_no_page_of_referrers_is_larger_than_clients_read() -> None:
    text = "x" * (INLINE_BYTES - 1000)
    count = MAX_REFERRERS_BYTES // len(text) + 10
    async with in_memory() as client:
        entries = [await push_referrer(client, number, annotations={"text": text}) for number in range(count)]
        for query in ("", f"?n={count}"):
            pages = await client.pages(f"/v2/{NAME}/referrers/{SUBJECT}{query}")
            assert len(pages) == 2
            assert all(len(page.body) <= MAX_REFERRERS_BYTES for page in pages)
            assert len(pages[0].body) > MAX_REFERRERS_BYTES - len(text) - 1000
            found = [entry for page in pages for entry in page.json["manifests"]]
            assert found == sorted(entries, key=lambda entry: str(entry["digest"]))


@pytest.mark.parametrize("size", [5000, INLINE_BYTES - 1000, INLINE_BYTES, 1024 * 1024, 4 * 1024 * 1024 - 1000])
async def test_annotations_as_large_as_a_manifest_may_be(size: int) -> None:
    """And no document holds them: those are small."""
    async with in_memory() as client:
        small = await push_referrer(client, 1)
        large = await push_referrer(client, 2, annotations={"text": "x" * size, "more": "y"})
        found = await client.referrers(NAME, SUBJECT)
        assert found == sorted([small, large], key=lambda entry: str(entry["digest"]))
        assert await client.referrers(NAME, SUBJECT, "?artifactType=a/b") == found
        for document in await client.documents.scan("a", "z", 1000):
            assert len(json.dumps(document.data)) < 64 * 1024
        other = await client_of(client.documents, client.blobs)  # it has nothing cached
        assert await other.referrers(NAME, SUBJECT) == found


async def test_an_artifact_type_as_large_as_a_manifest_may_be() -> None:
    async with in_memory() as client:
        entry = await push_referrer(client, artifactType="a/" + "b" * 2 * 1024 * 1024)
        assert await client.referrers(NAME, SUBJECT) == [entry]


@pytest.mark.parametrize("size", [KEPT_ANNOTATIONS, INLINE_BYTES, 1024 * 1024])
async def test_a_filter_reads_no_manifest_that_it_leaves_out(size: int) -> None:
    async with in_memory() as pushing:
        assert isinstance(pushing.documents, MemoryDocuments)
        small = await push_referrer(pushing, artifactType="c/d")
        large = await push_referrer(pushing, annotations={"text": "x" * size})
        client = await client_of(pushing.documents, pushing.blobs)  # it has nothing cached
        for prefix in ("oci-manifest-content:", "blob:"):
            pushing.documents.fail("get", prefix)
        assert await client.referrers(NAME, SUBJECT, "?artifactType=x/y") == []
        assert await client.referrers(NAME, SUBJECT, "?artifactType=c/d") == [small]
        assert (await client.get(f"/v2/{NAME}/referrers/{SUBJECT}?artifactType=a/b")).status == 503
        assert await client.referrers(NAME, SUBJECT, "?artifactType=a/b") == [large]


async def test_a_page_ends_when_enough_was_read_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it shows nothing of what was read; and what is larger than that is read alone."""
    async with in_memory() as client:
        entries = [await push_referrer(client, number, annotations={"a": "x" * 60_000}) for number in range(5)]
        entries.append(await push_referrer(client, annotations={"a": "x" * 200_000}))
        entries.append(await push_referrer(client, artifactType="c/d"))
        entries.sort(key=lambda entry: str(entry["digest"]))
        monkeypatch.setattr(oci_lists, "MAX_READ_BYTES", 130_000)
        pages = await client.pages(f"/v2/{NAME}/referrers/{SUBJECT}")
        assert [entry for page in pages for entry in page.json["manifests"]] == entries
        for page in pages:
            sizes = [entry["size"] for entry in page.json["manifests"] if "annotations" in entry]
            assert sum(sizes) <= 130_000 or page.json["manifests"][0]["size"] > 200_000
        assert len(pages) >= 4
        found = await client.referrers(NAME, SUBJECT, "?artifactType=c/d")
        assert found == [entry for entry in entries if entry["artifactType"] == "c/d"]


async def test_a_page_looks_at_so_many_and_leads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci_lists, "SCAN_PAGE", 2)
    monkeypatch.setattr(oci_lists, "MAX_LOOKED", 4)
    async with in_memory() as client:
        entries = [await push_referrer(client, number, artifactType=f"a/{number % 2}") for number in range(9)]
        entries.sort(key=lambda entry: str(entry["digest"]))
        for wanted in ("a/0", "a/1", "x/y"):
            pages = await client.pages(f"/v2/{NAME}/referrers/{SUBJECT}?artifactType={wanted}")
            assert len(pages) == 3
            found = [entry for page in pages for entry in page.json["manifests"]]
            assert found == [entry for entry in entries if entry["artifactType"] == wanted]


async def test_a_referrer_whose_bytes_are_lost_is_left_out() -> None:
    async with in_memory() as client:
        small = await push_referrer(client)
        large = await push_referrer(client, annotations={"text": "x" * (INLINE_BYTES - 1000)})
        document = await client.documents.get(f"oci-manifest-content:{large['digest']}")
        assert document is not None
        await client.documents.delete(document)
        assert await client.referrers(NAME, SUBJECT) == [small]
        await push_referrer(client, annotations={"text": "x" * (INLINE_BYTES - 1000)})
        assert len(await client.referrers(NAME, SUBJECT)) == 2


@pytest.mark.parametrize("size", [KEPT_TYPE, KEPT_TYPE + 1, 8000])
async def test_a_filter_by_a_long_artifact_type_is_exact(size: int) -> None:
    async with in_memory() as client:
        entries = [await push_referrer(client, artifactType=letter * size) for letter in "ab"]
        await push_referrer(client, 5, artifactType="a/b", annotations={"text": "x" * INLINE_BYTES})
        for letter, entry in zip("ab", entries, strict=True):
            assert await client.referrers(NAME, SUBJECT, f"?artifactType={letter * size}") == [entry]
        assert await client.referrers(NAME, SUBJECT, f"?artifactType={'c' * size}") == []


async def test_large_manifests_are_read_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def watched(content: bytes, media_type: str | None, **limits: int) -> Manifest:
        threads.append(threading.current_thread())
        return parse(content, media_type, **limits)

    monkeypatch.setattr(oci_lists, "parse", watched)
    async with in_memory() as client:
        entry = await push_referrer(client, annotations={"text": "x" * 500_000})
        assert await client.referrers(NAME, SUBJECT) == [entry]
    assert threads
    assert threading.main_thread() not in threads


async def test_a_referrer_that_is_deleted_is_listed_no_more() -> None:
    async with in_memory() as client:
        one, two = await push_referrer(client, 1), await push_referrer(client, 2)
        assert (await client.delete(f"/v2/{NAME}/manifests/{one['digest']}")).status == 202
        assert await client.referrers(NAME, SUBJECT) == [two]
        await push_referrer(client, 1)
        assert len(await client.referrers(NAME, SUBJECT)) == 2


async def test_referrers_are_by_name() -> None:
    async with in_memory() as client:
        await push_referrer(client)
        assert await client.referrers("team/other", SUBJECT) == []


async def test_a_referrer_pushed_again_with_another_type_is_listed_with_it() -> None:
    async with in_memory() as client:
        content = image_manifest(b"{}", subject=subject(), mediaType=None)
        await client.push_blob(NAME, b"{}")
        for media_type in (OCI_IMAGE, DOCKER_IMAGE):
            await client.push_manifest(NAME, content, None, media_type)
            [entry] = await client.referrers(NAME, SUBJECT)
            assert entry["mediaType"] == media_type


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_lists_that_old_clients_keep_under_a_tag(algorithm: str) -> None:
    """The referrers tag schema: of what such a list names, what is here and names this subject is listed, once."""
    subject_digest = digest_of(b"the subject", algorithm)
    tag = f"{algorithm}-{subject_digest.partition(':')[2]}"[: 32 + 1 + 64]
    async with in_memory() as client:
        await client.push_blob(NAME, b"{}")
        named = descriptor(b"the subject", OCI_IMAGE, algorithm)
        referring = image_manifest(b"{}", subject=named)
        stranger = image_manifest(b"{}", x=1)
        for content in (referring, stranger):
            await client.push_manifest(NAME, content)
        absent = image_manifest(b"{}", subject=named, x=2)
        fallback = index_manifest([referring, stranger])
        await client.push_manifest(NAME, fallback, tag, OCI_INDEX)
        listed = await client.referrers(NAME, subject_digest)
        assert [entry["digest"] for entry in listed] == [digest_of(referring)]
        refused = await client.put_manifest(NAME, tag, index_manifest([referring, absent]), OCI_INDEX)
        assert refused.codes == ["MANIFEST_BLOB_UNKNOWN"]
        assert [entry["digest"] for entry in await client.referrers(NAME, subject_digest)] == [digest_of(referring)]
        # What the client keeps by itself stays its own.
        assert (await client.get(f"/v2/{NAME}/manifests/{tag}")).body == fallback
