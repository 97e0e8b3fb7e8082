"""Pushing blobs, in all the shapes in which clients do, and mounting them (distribution-spec, "Pushing blobs")."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import trio

from enseada.auth.policy import Action
from enseada.http import BodyError, unavailable
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from tests.enseada.oci_client import PieceBody, Rights, client_of, digest_of, in_memory, on_disk

if TYPE_CHECKING:
    from pathlib import Path

    from tests.enseada.oci_client import Answer, Client

NAME = "team/api/base"
CONTENT = bytes(range(256)) * 40
DIGEST = digest_of(CONTENT)


async def stored(client: Client, name: str, digest: str) -> bytes | None:
    """What a pull of the blob gets; None: it is not there."""
    answer = await client.get(f"/v2/{name}/blobs/{digest}")
    if answer.status == 404:
        assert answer.codes == ["BLOB_UNKNOWN"]
        return None
    assert answer.status == 200
    return answer.body


def check_created(answer: Answer, name: str = NAME, digest: str = DIGEST) -> None:
    assert answer.status == 201
    assert answer.location == f"/v2/{name}/blobs/{digest}"
    assert answer.header("docker-content-digest") == digest
    assert answer.body == b""


# The shapes


@pytest.mark.parametrize("content", [CONTENT, b"", b"1"], ids=["some", "none", "one"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_post_with_digest_brings_the_whole_blob(content: bytes, algorithm: str) -> None:
    digest = digest_of(content, algorithm)
    async with in_memory() as client:
        check_created(await client.post(f"/v2/{NAME}/blobs/uploads/?digest={digest}", content), digest=digest)
        assert await stored(client, NAME, digest) == content


@pytest.mark.parametrize("content", [CONTENT, b"", b"1"], ids=["some", "none", "one"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_post_then_put(content: bytes, algorithm: str, slash: str) -> None:
    digest = digest_of(content, algorithm)
    async with in_memory() as client:
        begun = await client.post(f"/v2/{NAME}/blobs/uploads{slash}")
        assert begun.status == 202
        assert begun.header("range") == "0-0"
        assert begun.header("docker-upload-uuid")
        check_created(await client.put(f"{begun.location}?digest={quote(digest)}", content), digest=digest)
        assert await stored(client, NAME, digest) == content


async def test_post_then_put_of_unknown_length() -> None:
    async with in_memory() as client:
        body = PieceBody([CONTENT[:100], CONTENT[100:]])
        check_created(await client.put(f"{await client.begin(NAME)}?digest={DIGEST}", body))
        assert await stored(client, NAME, DIGEST) == CONTENT


async def test_one_patch_of_unknown_length_then_put_with_nothing(tmp_path: Path) -> None:
    """As docker and podman push."""
    async with on_disk(tmp_path) as client:
        pieces = [CONTENT[at : at + 1000] for at in range(0, len(CONTENT), 1000)]
        patched = await client.patch(await client.begin(NAME), PieceBody(pieces))
        assert patched.status == 202
        assert patched.header("range") == f"0-{len(CONTENT) - 1}"
        check_created(await client.put(f"{patched.location}?digest={DIGEST}"))
        assert await stored(client, NAME, DIGEST) == CONTENT


async def test_patches_with_content_range_then_put_with_the_last_bytes(tmp_path: Path) -> None:
    """As regclient pushes."""
    async with on_disk(tmp_path) as client:
        location = await client.begin(NAME)
        for start, stop in ((0, 4000), (4000, 4001), (4001, 9000)):
            answer = await client.patch(
                location, CONTENT[start:stop], {"Content-Range": f"{start}-{stop - 1}", "Content-Type": "x/y"}
            )
            assert answer.status == 202
            assert answer.header("range") == f"0-{stop - 1}"
            location = answer.location
            status = await client.get(location)
            assert status.status == 204
            assert status.header("range") == f"0-{stop - 1}"
            location = status.location
        last = {"Content-Range": f"9000-{len(CONTENT) - 1}"}
        check_created(await client.put(f"{location}?digest={DIGEST}", CONTENT[9000:], last))
        assert await stored(client, NAME, DIGEST) == CONTENT


async def test_patches_without_content_range_append() -> None:
    async with in_memory() as client:
        location = await client.begin(NAME)
        for start in range(0, len(CONTENT), 3000):
            location = (await client.patch(location, CONTENT[start : start + 3000])).location
        check_created(await client.put(f"{location}?digest={DIGEST}"))
        assert await stored(client, NAME, DIGEST) == CONTENT


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_digest_algorithm_said_beforehand(algorithm: str) -> None:
    digest = digest_of(CONTENT, algorithm)
    async with in_memory() as client:
        begun = await client.post(f"/v2/{NAME}/blobs/uploads/?digest-algorithm={algorithm}")
        location = (await client.patch(begun.location, CONTENT)).location
        check_created(await client.put(f"{location}?digest={digest}"), digest=digest)


async def test_digest_algorithm_that_only_the_put_tells_of() -> None:
    """The session hashed sha256: the stored bytes are read once more."""
    digest = digest_of(CONTENT, "sha512")
    async with in_memory() as client:
        location = (await client.patch(await client.begin(NAME), CONTENT)).location
        check_created(await client.put(f"{location}?digest={digest}"), digest=digest)
        assert await stored(client, NAME, digest) == CONTENT


async def test_an_unknown_digest_algorithm_is_refused() -> None:
    async with in_memory() as client:
        answer = await client.post(f"/v2/{NAME}/blobs/uploads/?digest-algorithm=md5")
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


async def test_pushing_again_what_is_there() -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        await client.push_blob(NAME, CONTENT)
        assert await stored(client, NAME, DIGEST) == CONTENT
        assert isinstance(client.blobs, MemoryBlobs)
        assert len(client.blobs.keys) == 1


async def test_a_percent_encoded_digest() -> None:
    async with in_memory() as client:
        answer = await client.put(f"{await client.begin(NAME)}?digest={quote(DIGEST, safe='')}", CONTENT)
        check_created(answer)
        assert (await client.head(f"/v2/{NAME}/blobs/{quote(DIGEST, safe='')}")).status == 200


# Where an upload is


async def test_status_of_an_empty_session() -> None:
    async with in_memory() as client:
        status = await client.get(await client.begin(NAME))
        assert status.status == 204
        assert status.header("range") == "0-0"
        assert status.location


@pytest.mark.parametrize("span", ["1-10", "9000-9999", "0-9", "4999-5008", "5001-5010"])
async def test_a_chunk_in_the_wrong_place(span: str) -> None:
    """416 with Range and Location, and the upload goes on from where it was."""
    async with in_memory() as client:
        location = (await client.patch(await client.begin(NAME), CONTENT[:5000])).location
        refused = await client.patch(location, CONTENT[:10], {"Content-Range": span})
        assert refused.status == 416
        assert refused.codes == ["RANGE_INVALID"]
        assert refused.header("range") == "0-4999"
        rest = {"Content-Range": f"5000-{len(CONTENT) - 1}"}
        answer = await client.patch(refused.location, CONTENT[5000:], rest)
        check_created(await client.put(f"{answer.location}?digest={DIGEST}"))


async def test_a_last_chunk_in_the_wrong_place() -> None:
    async with in_memory() as client:
        location = (await client.patch(await client.begin(NAME), CONTENT[:5000])).location
        refused = await client.put(f"{location}?digest={DIGEST}", CONTENT[:10], {"Content-Range": "0-9"})
        assert refused.status == 416
        assert refused.header("range") == "0-4999"
        check_created(await client.put(f"{refused.location}?digest={DIGEST}", CONTENT[5000:]))


async def test_a_first_chunk_that_does_not_begin_at_the_beginning() -> None:
    async with in_memory() as client:
        refused = await client.patch(await client.begin(NAME), CONTENT[:10], {"Content-Range": "10-19"})
        assert refused.status == 416
        assert refused.header("range") == "0-0"


@pytest.mark.parametrize("span", ["", "nonsense", "5-1", "bytes */5", "-5", "5-", "٣-٤", "0-9, 10-19"])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_malformed_content_range_tells_where_the_session_is_too(span: str, method: str) -> None:
    async with in_memory() as client:
        location = (await client.patch(await client.begin(NAME), CONTENT[:5000])).location
        headers = {"Content-Range": span.encode().decode("latin-1")}
        refused = await client.send(method, f"{location}?digest={DIGEST}", CONTENT[:10], headers)
        assert refused.status == 416
        assert refused.header("range") == "0-4999"
        check_created(await client.put(f"{refused.location}?digest={DIGEST}", CONTENT[5000:]))


async def test_content_range_as_http_writes_it() -> None:
    async with in_memory() as client:
        length = len(CONTENT)
        answer = await client.patch(await client.begin(NAME), CONTENT, {"Content-Range": f"bytes 0-{length - 1}/*"})
        assert answer.status == 202


@pytest.mark.parametrize("more", [-1, 1])
async def test_content_range_and_content_length_that_disagree(more: int) -> None:
    async with in_memory() as client:
        location = await client.begin(NAME)
        refused = await client.patch(location, CONTENT[:100], {"Content-Range": f"0-{99 + more}"})
        assert (refused.status, refused.codes) == (400, ["SIZE_INVALID"])
        assert (await client.get(location)).header("range") == "0-0"


@pytest.mark.parametrize("count", [99, 101])
async def test_more_or_fewer_bytes_than_content_range_told_of(count: int) -> None:
    async with in_memory() as client:
        location = await client.begin(NAME)
        refused = await client.patch(location, PieceBody([CONTENT[:count]]), {"Content-Range": "0-99"})
        assert (refused.status, refused.codes) == (400, ["SIZE_INVALID"])


async def test_a_patch_that_breaks_off_is_resumed_where_it_was() -> None:
    async with in_memory() as client:
        location = await client.begin(NAME)
        body = PieceBody([CONTENT[:3000], CONTENT[3000:4000]], failure=BodyError("the client has gone", None))
        with pytest.raises(BodyError):
            await client.patch(location, body)
        status = await client.get(location)
        assert status.header("range") == "0-3999"
        rest = {"Content-Range": f"4000-{len(CONTENT) - 1}"}
        check_created(await client.put(f"{status.location}?digest={DIGEST}", CONTENT[4000:], rest))
        assert await stored(client, NAME, DIGEST) == CONTENT


@pytest.mark.parametrize("status", [400, 408])
async def test_a_malformed_or_slow_body_is_told_of(status: int) -> None:
    async with in_memory() as client:
        body = PieceBody([CONTENT[:3000]], failure=BodyError("broken", status))
        answer = await client.patch(await client.begin(NAME), body)
        assert (answer.status, answer.codes) == (status, ["SIZE_INVALID"])


async def test_bytes_that_the_store_lost_are_not_acknowledged() -> None:
    """What a PATCH is answered is what GET says, and what the next one may go on from."""
    async with in_memory() as client:
        assert isinstance(client.blobs, MemoryBlobs)
        location = (await client.patch(await client.begin(NAME), CONTENT[:1000])).location
        client.blobs.fail("flush")
        client.blobs.fail("suspend")
        answer = await client.patch(location, CONTENT[1000:])
        assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
        assert (await client.get(location)).header("range") == "0-999"
        check_created(await client.put(f"{location}?digest={DIGEST}", CONTENT[1000:]))
        assert await stored(client, NAME, DIGEST) == CONTENT


# What ends an upload


async def test_a_cancelled_upload_is_gone() -> None:
    async with in_memory() as client:
        location = (await client.patch(await client.begin(NAME), CONTENT)).location
        assert (await client.delete(location)).status == 204
        for answer in (
            await client.get(location),
            await client.patch(location, b"x"),
            await client.put(f"{location}?digest={DIGEST}"),
            await client.delete(location),
        ):
            assert (answer.status, answer.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])
        assert await stored(client, NAME, DIGEST) is None
        assert isinstance(client.blobs, MemoryBlobs)
        assert client.blobs.keys == []


async def test_an_upload_that_was_only_begun_can_be_cancelled() -> None:
    async with in_memory() as client:
        location = await client.begin(NAME)
        assert (await client.delete(location)).status == 204
        assert (await client.get(location)).status == 404


async def test_a_finished_upload_takes_nothing_more() -> None:
    async with in_memory() as client:
        location = (await client.patch(await client.begin(NAME), CONTENT)).location
        check_created(await client.put(f"{location}?digest={DIGEST}"))
        for answer in (await client.get(location), await client.patch(location, b"x"), await client.delete(location)):
            assert (answer.status, answer.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])
        assert await stored(client, NAME, DIGEST) == CONTENT


async def test_a_put_whose_answer_was_lost_can_be_repeated() -> None:
    async with in_memory() as client:
        location = (await client.patch(await client.begin(NAME), CONTENT)).location
        check_created(await client.put(f"{location}?digest={DIGEST}"))
        check_created(await client.put(f"{location}?digest={DIGEST}"))
        for digest in (digest_of(b"another"), await client.push_blob(NAME, b"yet another")):
            other = await client.put(f"{location}?digest={digest}")
            assert (other.status, other.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])


async def test_a_put_that_is_repeated_while_the_first_is_under_way() -> None:
    """It waits for its turn, and then finds that all is done."""
    async with in_memory() as client:
        location = await client.begin(NAME)
        assert (await client.patch(location, CONTENT)).status == 202
        answers: list[int] = []

        async def finish() -> None:
            answers.append((await client.put(f"{location}?digest={DIGEST}")).status)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(finish)
        assert answers == [201] * 3


async def test_a_put_repeated_after_the_blob_was_deleted_does_not_say_that_it_is_there() -> None:
    async with in_memory() as client:
        location = (await client.patch(await client.begin(NAME), CONTENT)).location
        check_created(await client.put(f"{location}?digest={DIGEST}"))
        assert (await client.delete(f"/v2/{NAME}/blobs/{DIGEST}")).status == 202
        again = await client.put(f"{location}?digest={DIGEST}")
        assert (again.status, again.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])


@pytest.mark.parametrize("shape", ["post", "put", "patch"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_wrong_digest_leaves_nothing(shape: str, algorithm: str) -> None:
    wrong = digest_of(b"something else", algorithm)
    async with in_memory() as client:
        assert isinstance(client.blobs, MemoryBlobs)
        if shape == "post":
            answer = await client.post(f"/v2/{NAME}/blobs/uploads/?digest={wrong}", CONTENT)
        else:
            location = await client.begin(NAME)
            if shape == "patch":
                location = (await client.patch(location, CONTENT)).location
            answer = await client.put(f"{location}?digest={wrong}", b"" if shape == "patch" else CONTENT)
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
        assert answer.detail == {"digest": wrong}
        assert client.blobs.keys == []
        for digest in (wrong, DIGEST):
            assert await stored(client, NAME, digest) is None
        if shape == "patch":
            assert (await client.get(location)).status == 404


@pytest.mark.parametrize("query", ["", "?digest=", "?digest=sha256:xyz", f"?digest={digest_of(CONTENT, 'md5')}"])
async def test_a_digest_that_is_none(query: str) -> None:
    """The upload stays: the client may say it again, and right."""
    async with in_memory() as client:
        location = (await client.patch(await client.begin(NAME), CONTENT)).location
        answer = await client.put(location + query)
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
        check_created(await client.put(f"{location}?digest={DIGEST}"))


async def test_a_monolithic_post_with_a_malformed_digest() -> None:
    async with in_memory() as client:
        body = PieceBody([CONTENT])
        answer = await client.post(f"/v2/{NAME}/blobs/uploads/?digest=sha256:1", body)
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
        assert body.pulled == 0


async def test_a_monolithic_post_that_breaks_off_leaves_nothing() -> None:
    async with in_memory() as client:
        body = PieceBody([CONTENT[:3000]], failure=unavailable("elsewhere"))
        assert (await client.post(f"/v2/{NAME}/blobs/uploads/?digest={DIGEST}", body)).status == 503
        assert isinstance(client.blobs, MemoryBlobs)
        assert client.blobs.keys == []


async def test_blobs_larger_than_allowed() -> None:
    async with in_memory(max_blob_bytes=1000) as client:
        body = PieceBody([CONTENT], length=len(CONTENT))
        announced = await client.put(f"{await client.begin(NAME)}?digest={DIGEST}", body)
        assert (announced.status, announced.codes) == (413, ["SIZE_INVALID"])
        assert body.pulled == 0
        found = await client.patch(await client.begin(NAME), PieceBody([CONTENT[:1000], CONTENT[1000:1001]]))
        assert (found.status, found.codes) == (413, ["SIZE_INVALID"])
        await client.push_blob(NAME, CONTENT[:1000])


# Whose an upload is


@pytest.mark.parametrize("id", ["x", "AAAA", "", "%2e%2e", "A" * 42, "%C3%A9"])
async def test_an_id_that_was_never_given(id: str) -> None:
    async with in_memory() as client:
        answer = await client.patch(f"/v2/{NAME}/blobs/uploads/{id}", b"x")
        assert (answer.status, answer.codes) in ((404, ["BLOB_UPLOAD_UNKNOWN"]), (405, ["UNSUPPORTED"]))
        assert (answer.status == 405) == (id == "")


async def test_an_upload_is_of_one_name_only() -> None:
    async with in_memory() as client:
        location = (await client.patch(await client.begin(NAME), CONTENT)).location
        elsewhere = location.replace(NAME, "team/other")
        for answer in (
            await client.get(elsewhere),
            await client.patch(elsewhere, b"x"),
            await client.put(f"{elsewhere}?digest={DIGEST}"),
            await client.delete(elsewhere),
        ):
            assert (answer.status, answer.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])
        check_created(await client.put(f"{location}?digest={DIGEST}"))


async def test_another_process_goes_on_with_an_upload() -> None:
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    one, other = await client_of(documents, blobs), await client_of(documents, blobs)
    location = (await one.patch(await one.begin(NAME), CONTENT[:5000])).location
    check_created(await other.put(f"{location}?digest={DIGEST}", CONTENT[5000:]))
    assert await stored(one, NAME, DIGEST) == CONTENT


async def test_addresses_under_a_prefix() -> None:
    async with in_memory() as plain:
        client = replace(plain, root_path="/registry/here")
        location = await client.begin(NAME)
        assert location.startswith("/registry/here/v2/team/api/base/blobs/uploads/")
        location = (await client.patch(location, CONTENT[:5000])).location
        assert (await client.patch(location, b"x", {"Content-Range": "0-0"})).location == location
        created = await client.put(f"{location}?digest={DIGEST}", CONTENT[5000:])
        assert created.location == f"/registry/here/v2/{NAME}/blobs/{DIGEST}"


# Mounts


async def test_mount_from_a_name() -> None:
    async with in_memory() as client:
        await client.push_blob("team/source", CONTENT)
        mounted = await client.post(f"/v2/{NAME}/blobs/uploads/?mount={DIGEST}&from=team/source")
        check_created(mounted)
        assert await stored(client, NAME, DIGEST) == CONTENT
        assert (await client.delete(f"/v2/team/source/blobs/{DIGEST}")).status == 202
        assert await stored(client, NAME, DIGEST) == CONTENT
        assert await stored(client, "team/source", DIGEST) is None


async def test_mount_without_from() -> None:
    async with in_memory() as client:
        await client.push_blob("team/source", CONTENT)
        check_created(await client.post(f"/v2/{NAME}/blobs/uploads/?mount={quote(DIGEST, safe='')}"))
        assert await stored(client, NAME, DIGEST) == CONTENT


async def test_mount_of_what_is_there_already() -> None:
    async with in_memory() as client:
        await client.push_blob(NAME, CONTENT)
        check_created(await client.post(f"/v2/{NAME}/blobs/uploads/?mount={DIGEST}&from={NAME}"))


@pytest.mark.parametrize("source", ["", "&from=team/source", "&from=team/none", "&from=", "&from=NO", "&from=../x"])
async def test_a_mount_that_cannot_be_done_is_an_upload(source: str) -> None:
    async with in_memory() as client:
        await client.push_blob("team/source", b"something else")
        begun = await client.post(f"/v2/{NAME}/blobs/uploads/?mount={DIGEST}{source}")
        assert begun.status == 202
        assert await stored(client, NAME, DIGEST) is None
        check_created(await client.put(f"{begun.location}?digest={DIGEST}", CONTENT))


async def test_a_mount_of_sha512_that_cannot_be_done_hashes_sha512() -> None:
    digest = digest_of(CONTENT, "sha512")
    async with in_memory() as client:
        begun = await client.post(f"/v2/{NAME}/blobs/uploads/?mount={digest}&from=team/source")
        check_created(await client.put(f"{begun.location}?digest={digest}", CONTENT), digest=digest)


@pytest.mark.parametrize("mount", ["", "sha256", "sha256:1", "latest", "sha256:" + "A" * 64])
async def test_a_mount_of_what_is_no_digest(mount: str) -> None:
    async with in_memory() as client:
        answer = await client.post(f"/v2/{NAME}/blobs/uploads/?mount={mount}&from=team/source")
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


async def test_a_mount_of_bytes_that_were_lost_is_an_upload() -> None:
    async with in_memory() as client:
        assert isinstance(client.blobs, MemoryBlobs)
        await client.push_blob("team/source", CONTENT)
        client.blobs.remove(client.blobs.keys[0])
        begun = await client.post(f"/v2/{NAME}/blobs/uploads/?mount={DIGEST}&from=team/source")
        assert begun.status == 202
        check_created(await client.put(f"{begun.location}?digest={DIGEST}", CONTENT))
        assert await stored(client, "team/source", DIGEST) == CONTENT


@pytest.mark.parametrize("source", ["&from=team/secret", ""])
async def test_a_mount_from_what_may_not_be_read_is_an_upload(source: str) -> None:
    """And it looks like one of what is not there: nothing tells of the other name's blobs."""
    rights = Rights(("maria", Action.READ, f"oci:{NAME}"), ("maria", Action.WRITE, f"oci:{NAME}"))
    async with in_memory(authorizer=rights) as admin:
        maria = await admin.add_user("maria")
        await admin.push_blob("team/secret", CONTENT)
        begun = await maria.post(f"/v2/{NAME}/blobs/uploads/?mount={DIGEST}{source}")
        absent = await maria.post(f"/v2/{NAME}/blobs/uploads/?mount={digest_of(b'absent')}{source}")
        assert begun.status == absent.status == 202
        assert begun.headers.raw[0][0] == b"location"
        assert [name for name, _ in begun.headers] == [name for name, _ in absent.headers]
        assert await stored(maria, NAME, DIGEST) is None


async def test_a_mount_without_from_passes_over_what_may_not_be_read() -> None:
    rights = Rights(
        ("maria", Action.READ, f"oci:{NAME}"),
        ("maria", Action.WRITE, f"oci:{NAME}"),
        ("maria", Action.READ, "oci:team/zoo"),
    )
    async with in_memory(authorizer=rights) as admin:
        maria = await admin.add_user("maria")
        await admin.push_blob("team/secret", CONTENT)
        await admin.push_blob("team/zoo", CONTENT)
        check_created(await maria.post(f"/v2/{NAME}/blobs/uploads/?mount={DIGEST}"))


# Repositories


async def test_the_first_push_makes_the_repository() -> None:
    async with in_memory() as client:
        assert await client.documents.get("repository:oci:team") is None
        await client.begin(NAME)
        assert await client.documents.get("repository:oci:team") is None
        await client.push_blob(NAME, CONTENT)
        made = await client.documents.get("repository:oci:team")
        assert made is not None
        assert made.data == {"format": "oci", "name": "team", "visibility": "private", "policy": {}}
        await client.push_blob("team/other", CONTENT)
        again = await client.documents.get("repository:oci:team")
        assert again is not None
        assert again.rev == made.rev


async def test_without_create_on_push_a_push_needs_the_repository() -> None:
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    await (await client_of(documents, blobs)).push_blob("team/one", CONTENT)
    client = await client_of(documents, blobs, create_on_push=False)
    body = PieceBody([CONTENT])
    for query in ("", f"?digest={DIGEST}", f"?mount={DIGEST}&from=team/one"):
        answer = await client.post(f"/v2/other/one/blobs/uploads/{query}", body)
        assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])
        assert answer.detail == {"name": "other/one"}
    assert body.pulled == 0
    assert await documents.get("repository:oci:other") is None
    await client.push_blob("team/two", CONTENT)
