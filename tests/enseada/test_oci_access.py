"""Who may do what, and how a refusal tells clients what they lack."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from enseada.auth.policy import CATALOG, Action, Authorizer, Decision
from enseada.storage.documents.base import Document
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from tests.enseada.oci_client import (
    Answer,
    Client,
    PieceBody,
    Rights,
    basic,
    digest_of,
    image_manifest,
    in_memory,
)

if TYPE_CHECKING:
    from enseada.auth.policy import Subject

NAME = "team/api"
LAYER = b"layer"
DIGEST = digest_of(LAYER)
MANIFEST = image_manifest(b"{}", [LAYER])
CHALLENGE = 'Bearer realm="https://registry.test/v2/_token",service="enseada"'

PULL, PUSH, DELETE = "pull", "pull,push", "delete"
Call = tuple[str, str, str]

CALLS: list[Call] = [
    # method, what follows the name, the scope that it needs
    ("GET", "manifests/latest", PULL),
    ("HEAD", "manifests/latest", PULL),
    ("GET", f"manifests/{digest_of(MANIFEST)}", PULL),
    ("GET", f"blobs/{DIGEST}", PULL),
    ("HEAD", f"blobs/{DIGEST}", PULL),
    ("GET", "tags/list", PULL),
    ("GET", f"referrers/{DIGEST}", PULL),
    ("PUT", "manifests/latest", PUSH),
    ("POST", "blobs/uploads/", PUSH),
    ("POST", f"blobs/uploads/?digest={DIGEST}", PUSH),
    ("PATCH", "blobs/uploads/x", PUSH),
    ("PUT", f"blobs/uploads/x?digest={DIGEST}", PUSH),
    ("GET", "blobs/uploads/x", PUSH),
    ("DELETE", "blobs/uploads/x", PUSH),
    ("DELETE", "manifests/latest", DELETE),
    ("DELETE", f"blobs/{DIGEST}", DELETE),
]


async def call(client: Client, made: Call, name: str = NAME) -> Answer:
    """Make the call; its body must not be asked for if it is refused."""
    method, rest, _ = made
    body = PieceBody([MANIFEST if "manifests" in rest else LAYER])
    answer = await client.send(method, f"/v2/{name}/{rest}", body)
    if answer.status in (401, 403):
        assert body.pulled == 0
    return answer


def check_challenged(answer: Answer, made: Call, *, error: str | None = None, name: str = NAME) -> None:
    method, _, actions = made
    assert answer.status == 401
    scope = f',scope="repository:{name}:{actions}"'
    told = "" if error is None else f',error="{error}"'
    assert answer.header("www-authenticate") == CHALLENGE + scope + told
    if method != "HEAD":
        assert answer.codes == ["UNAUTHORIZED"]


# Without credentials


@pytest.mark.parametrize("made", CALLS, ids=lambda made: f"{made[0]} {made[1]}"[:30])
async def test_nothing_is_for_everybody_by_default(made: Call) -> None:
    async with in_memory() as admin:
        await admin.push_image(NAME)
        for name in (NAME, "team/none"):  # what is there and what is not are told apart by nobody
            answer = await call(admin.anonymous, made, name)
            check_challenged(answer, made, name=name)
            if made[0] != "HEAD":
                assert answer.detail == [{"type": "repository", "name": name, "actions": made[2].split(",")}]
                assert f"oci:{name}" in answer.json["errors"][0]["message"]
        assert (await admin.get(f"/v2/{NAME}/manifests/latest")).body == MANIFEST


@pytest.mark.parametrize("made", CALLS, ids=lambda made: f"{made[0]} {made[1]}"[:30])
async def test_anonymous_pull(made: Call) -> None:
    async with in_memory(anonymous="pull") as admin:
        await admin.push_image(NAME)
        for client in (admin.anonymous, await admin.anonymous.with_token(f"repository:{NAME}:{made[2]}")):
            answer = await call(client, made)
            if made[2] == PULL:
                assert answer.status == 200
            else:
                shown = None if client.authorization is None else "insufficient_scope"
                check_challenged(answer, made, error=shown)


@pytest.mark.parametrize("made", CALLS, ids=lambda made: f"{made[0]} {made[1]}"[:30])
async def test_anonymous_push(made: Call) -> None:
    async with in_memory(anonymous="push") as admin:
        for client in (admin.anonymous, await admin.anonymous.with_token(f"repository:{NAME}:{made[2]}")):
            await admin.push_image(NAME)
            answer = await call(client, made)
            assert answer.status in (200, 201, 202) or answer.codes == ["BLOB_UPLOAD_UNKNOWN"]


@pytest.mark.parametrize(("anonymous", "status"), [("none", 401), ("pull", 401), ("push", 200)])
async def test_the_catalogue_of_the_anonymous(anonymous: str, status: int) -> None:
    async with in_memory(anonymous=anonymous) as admin:
        answer = await admin.anonymous.get("/v2/_catalog")
        assert answer.status == status
        if status == 401:
            assert answer.header("www-authenticate") == CHALLENGE + ',scope="registry:catalog:*"'


# Asking whether this is a registry


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("address", ["/v2", "/v2/"])
@pytest.mark.parametrize("anonymous", ["none", "pull", "push"])
async def test_ping(method: str, address: str, anonymous: str) -> None:
    async with in_memory(anonymous=anonymous) as admin:
        known = await admin.send(method, address)
        assert known.status == 200
        assert known.length == len(b"{}")
        assert known.body == (b"{}" if method == "GET" else b"")
        assert known.header("content-type") == "application/json"
        unknown = await admin.anonymous.send(method, address)
        assert unknown.status == 401
        assert unknown.header("www-authenticate") == CHALLENGE
        assert (await (await admin.anonymous.with_token()).send(method, address)).status == 200
        assert (await (await admin.with_token()).send(method, address)).status == 200
        wrong = await replace(admin, authorization=basic("admin", "wrong")).send(method, address)
        assert (wrong.status, wrong.header("www-authenticate")) == (401, CHALLENGE)


# With wrong credentials


@pytest.mark.parametrize(
    ("authorization", "error"),
    [
        (basic("admin", "wrong"), None),
        (basic("nobody"), None),
        ("Basic !", None),
        ("Basic", None),
        ("Digest x", None),
        ("Bearer x.y.z", "invalid_token"),
        ("bearer x", "invalid_token"),
    ],
)
async def test_wrong_credentials_are_never_taken_for_none(authorization: str, error: str | None) -> None:
    async with in_memory(anonymous="push") as admin:
        client = replace(admin, authorization=authorization)
        for made in CALLS:
            check_challenged(await call(client, made), made, error=error)
        catalog = await client.get("/v2/_catalog")
        assert 'scope="registry:catalog:*"' in catalog.header("www-authenticate")


async def test_wrong_credentials_on_a_request_that_is_wrong_otherwise_too() -> None:
    async with in_memory() as admin:
        client = replace(admin, authorization=basic("admin", "wrong"))
        query = "&".join("mount=x" for _ in range(300))
        assert (await client.post(f"/v2/{NAME}/blobs/uploads/?{query}")).status == 401
        assert (await admin.post(f"/v2/{NAME}/blobs/uploads/?{query}")).status == 400


async def test_a_token_ends_with_its_account() -> None:
    rights = Rights(("maria", Action.READ, f"oci:{NAME}"))
    async with in_memory(authorizer=rights) as admin:
        await admin.push_image(NAME)
        token = await (await admin.add_user("maria")).with_token(f"repository:{NAME}:pull")
        assert (await token.get(f"/v2/{NAME}/manifests/latest")).status == 200
        account = await admin.documents.get("user:maria")
        assert account is not None
        await admin.documents.put(Document(account.id, {**account.data, "generation": "2"}, account.rev))
        check_challenged(await token.get(f"/v2/{NAME}/manifests/latest"), CALLS[0], error="invalid_token")


# Tokens narrow


@pytest.mark.parametrize("made", CALLS, ids=lambda made: f"{made[0]} {made[1]}"[:30])
async def test_a_token_allows_its_scopes_and_no_more(made: Call) -> None:
    async with in_memory() as admin:
        await admin.push_image(NAME)
        needed = {PULL: {"pull"}, PUSH: {"push"}, DELETE: {"delete"}}[made[2]]
        for scope in ("pull", "push", "delete", "pull,push", "pull,push,delete", "*"):
            token = await admin.with_token(f"repository:{NAME}:{scope}", "repository:team/other:*")
            answer = await call(token, made)
            if scope == "*" or needed <= set(scope.split(",")):
                assert answer.status in (200, 201, 202) or answer.codes == ["BLOB_UPLOAD_UNKNOWN"]
                await admin.push_image(NAME)
            else:
                check_challenged(answer, made, error="insufficient_scope")
        for scopes in ([], ["repository:team/other:*"], ["registry:catalog:*"]):
            check_challenged(await call(await admin.with_token(*scopes), made), made, error="insufficient_scope")


async def test_a_token_for_the_catalogue() -> None:
    async with in_memory() as admin:
        await admin.push_image(NAME)
        token = await admin.with_token("registry:catalog:*")
        assert (await token.get("/v2/_catalog")).json == {"repositories": [NAME]}
        narrow = await (await admin.with_token(f"repository:{NAME}:*")).get("/v2/_catalog")
        assert narrow.header("www-authenticate") == CHALLENGE + ',scope="registry:catalog:*",error="insufficient_scope"'


@pytest.mark.parametrize("query", [f"mount={DIGEST}&from=team/source", f"from=team/source&mount={DIGEST}&x"])
async def test_the_challenge_of_a_mount_names_both(query: str) -> None:
    async with in_memory() as admin:
        answer = await admin.anonymous.post(f"/v2/{NAME}/blobs/uploads/?{query}")
        scope = f'scope="repository:{NAME}:pull,push repository:team/source:pull"'
        assert answer.header("www-authenticate") == f"{CHALLENGE},{scope}"
        assert answer.detail[1] == {"type": "repository", "name": "team/source", "actions": ["pull"]}


@pytest.mark.parametrize("query", ["mount=x", f"mount={DIGEST}&from={NAME}", "mount=x&from=A", "from=x"])
async def test_the_challenge_of_a_mount_from_nowhere_else(query: str) -> None:
    async with in_memory() as admin:
        answer = await admin.anonymous.post(f"/v2/{NAME}/blobs/uploads/?{query}")
        assert answer.header("www-authenticate") == f'{CHALLENGE},scope="repository:{NAME}:pull,push"'


@pytest.mark.parametrize("source", ["&from=team/source", ""])
async def test_a_mount_reads_by_the_subjects_right_and_not_the_tokens(source: str) -> None:
    async with in_memory() as admin:
        await admin.push_blob("team/source", LAYER)
        token = await admin.with_token(f"repository:{NAME}:pull,push")
        mounted = await token.post(f"/v2/{NAME}/blobs/uploads/?mount={DIGEST}{source}")
        assert mounted.status == 201
        assert (await token.get(f"/v2/{NAME}/blobs/{DIGEST}")).body == LAYER
        assert (await token.get(f"/v2/team/source/blobs/{DIGEST}")).status == 401


# Those who are known, and lack the right

MARIA = Rights(
    ("maria", Action.READ, "oci:team/a"),
    ("maria", Action.WRITE, "oci:team/a"),
    ("maria", Action.READ, "oci:team/public"),
)


@pytest.mark.parametrize("made", CALLS, ids=lambda made: f"{made[0]} {made[1]}"[:30])
async def test_a_refusal_names_what_is_missing(made: Call) -> None:
    async with in_memory(authorizer=MARIA) as admin:
        maria = await admin.add_user("maria")
        await admin.push_image("team/secret")
        action = {PULL: "read", PUSH: "write", DELETE: "delete"}[made[2]]
        for client in (maria, await maria.with_token("repository:team/secret:*", "repository:team/a:*")):
            for name in ("team/secret", "team/none"):
                answer = await call(client, made, name)
                assert answer.status == 403
                assert "www-authenticate" not in answer.headers
                if made[0] != "HEAD":
                    assert answer.codes == ["DENIED"]
                    message = answer.json["errors"][0]["message"]
                    assert message == f"maria lacks the right to {action} oci:{name}"
                    assert answer.detail == [{"type": "repository", "name": name, "actions": made[2].split(",")}]


async def test_a_right_on_one_name_reads_nothing_of_another() -> None:
    """Not its blobs by any address, not by a mount, not by a manifest that names them, not by a longer name."""
    async with in_memory(authorizer=MARIA) as admin:
        maria = await admin.add_user("maria")
        secret = await admin.push_image("team/secret", "latest", [b"the secret"])
        digest = digest_of(b"the secret")
        for name in ("team/a", "team/public"):
            assert (await maria.get(f"/v2/{name}/blobs/{digest}")).status == 404
            assert (await maria.get(f"/v2/{name}/manifests/{secret.digest}")).status == 404
        for name in ("team/secret", "team/a/deeper", "team", "a", "team/a2"):
            for address in (f"blobs/{digest}", "manifests/latest", "tags/list", f"referrers/{digest}"):
                assert (await maria.get(f"/v2/{name}/{address}")).status == 403
        # Nor from a name that she may read and that does not have it.
        for source in ("&from=team/secret", "", "&from=team/public", "&from=team/a"):
            assert (await maria.post(f"/v2/team/a/blobs/uploads/?mount={digest}{source}")).status == 202
        await maria.push_blob("team/a", b"{}")
        answer = await maria.put_manifest("team/a", "latest", secret.manifest)
        assert answer.codes == ["MANIFEST_BLOB_UNKNOWN"]
        assert (await maria.get(f"/v2/team/a/blobs/{digest}")).status == 404
        # Who has the bytes may push them, and has shown then that it knows them.
        await maria.push_blob("team/a", b"the secret")
        assert (await maria.get(f"/v2/team/a/blobs/{digest}")).body == b"the secret"


async def test_a_right_is_asked_for_on_the_decoded_name() -> None:
    async with in_memory(authorizer=MARIA) as admin:
        maria = await admin.add_user("maria")
        await admin.push_image("team/secret")
        for address in ("team%2Fsecret", "%74eam/secret", "team/%73ecret"):
            assert (await maria.get(f"/v2/{address}/manifests/latest")).status == 403
        for address in ("team/a/../secret", "team/a%2f..%2fsecret", "team//secret", "team/a/%2e%2e/secret"):
            answer = await maria.get(f"/v2/{address}/manifests/latest")
            assert (answer.status, answer.codes) == (400, ["NAME_INVALID"])


async def test_a_known_user_without_the_catalogue() -> None:
    async with in_memory(authorizer=MARIA) as admin:
        maria = await admin.add_user("maria")
        answer = await maria.get("/v2/_catalog")
        assert (answer.status, answer.codes) == (403, ["DENIED"])
        assert answer.json["errors"][0]["message"] == f"maria lacks the right to read {CATALOG}"


class NoMoving(Authorizer):
    """Who may do anything may do it, save moving a tag."""

    def decide(self, subject: Subject, action: Action, object: str) -> Decision:
        if action is Action.OVERWRITE:
            return Decision(False, f"{subject.name} lacks the right to {action} {object}")
        return super().decide(subject, action, object)


async def test_moving_a_tag_is_a_right_of_its_own() -> None:
    async with in_memory(authorizer=NoMoving()) as client:
        one = await client.push_image(NAME, "latest", [b"one"])
        await client.push_manifest(NAME, one.manifest, "latest")  # it is there already
        two = await client.push_image(NAME, None, [b"two"])
        answer = await client.put_manifest(NAME, "latest", two.manifest)
        assert (answer.status, answer.codes) == (403, ["DENIED"])
        query = "?tag=new&tag=latest"
        answer = await client.put(f"/v2/{NAME}/manifests/{two.digest}{query}", two.manifest)
        assert (answer.status, answer.codes) == (403, ["DENIED"])
        assert await client.tags(NAME) == ["latest"]
        assert (await client.get(f"/v2/{NAME}/manifests/latest")).body == one.manifest
        # A tag whose manifest is gone says nothing, if it is still there: to set it is not to move it.
        assert isinstance(client.documents, MemoryDocuments)
        client.documents.fail("scan", "oci-tag:")
        assert (await client.delete(f"/v2/{NAME}/manifests/{one.digest}")).status == 202
        await client.push_manifest(NAME, two.manifest, "latest")


async def test_what_goes_wrong_while_authenticating_is_no_401() -> None:
    async with in_memory() as client:
        assert isinstance(client.documents, MemoryDocuments)
        client.documents.fail("get", "user:admin")
        answer = await client.get("/v2/")
        assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
