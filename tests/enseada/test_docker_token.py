"""The token endpoint as docker, containerd, podman and skopeo use it."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from enseada.auth.accounts import Accounts
from enseada.auth.authenticate import Authenticator
from enseada.auth.policy import Authorizer
from enseada.auth.tokens import Kind, TokenSigner
from enseada.config import Settings
from enseada.formats.docker_token import PATH, TokenEndpoint
from enseada.http import BytesBody, Headers, Request
from enseada.limits import Limits
from enseada.protocols.oci.scopes import MAX_SCOPES, repository
from enseada.storage.documents.base import Document
from enseada.storage.documents.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from enseada.http import Body, Chunk, Response

PASSWORD = "sésame"
NOW = 1_800_000_000.0
FORM = "application/x-www-form-urlencoded"


class Pieces:
    """A body of unknown length whose chunks are overwritten as soon as they are not lent any more."""

    def __init__(self, content: bytes) -> None:
        self.length: int | None = None
        self.sent = 0
        self._content = content
        self._buffer = bytearray(7)

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        self._buffer[:] = b"\xdd" * 7
        await trio.lowlevel.checkpoint()
        piece = self._content[self.sent : self.sent + 7]
        if not piece:
            raise StopAsyncIteration
        self.sent += len(piece)
        self._buffer[: len(piece)] = piece
        return memoryview(self._buffer)[: len(piece)]


class Endpoint:
    """An endpoint with the admin's and ann's accounts."""

    def __init__(self, anonymous: Literal["none", "pull", "push"] = "none") -> None:
        limits = Limits(form_bytes=2000)
        self.settings = Settings(argon2_time=1, argon2_memory=8192, password_queue=0, password_workers=1, limits=limits)
        self.documents = MemoryStore()
        self.accounts = Accounts(self.documents, self.settings, lambda: NOW)
        self.signer = TokenSigner("k", bytes(32), "enseada")
        authenticator = Authenticator(self.accounts, self.signer, lambda: NOW)
        self.endpoint = TokenEndpoint(authenticator, Authorizer(anonymous), self.signer, self.settings, lambda: NOW)

    async def prepare(self) -> Endpoint:
        await self.accounts.ensure_admin(PASSWORD)
        hashed = await self.accounts.hash(PASSWORD)
        await self.documents.put(Document("user:ann", {"name": "ann", "password": hashed, "generation": "g1"}))
        return self

    async def get(self, query: Any = "", *, basic: tuple[str, str] | None = None, bearer: str = "") -> Response:
        headers = Headers()
        if basic is not None:
            headers.add("Authorization", "Basic " + base64.b64encode(":".join(basic).encode()).decode())
        if bearer:
            headers.add("Authorization", f"Bearer {bearer}")
        text = query if isinstance(query, str) else urlencode(query, doseq=True)
        return await self.endpoint.token(Request("GET", PATH, text, headers, BytesBody()))

    async def post(self, form: Any, *, content_type: str | None = FORM, body: Body | None = None) -> Response:
        headers = Headers.of({"Content-Type": content_type} if content_type is not None else {})
        encoded = form if isinstance(form, bytes) else urlencode(form, doseq=True).encode()
        return await self.endpoint.token(Request("POST", PATH, "", headers, body or Pieces(encoded)))


def read(response: Response, status: int = 200) -> dict[str, Any]:
    assert isinstance(response.body, bytes)
    assert response.status == status, response.body
    assert response.headers.get("cache-control") == "no-store"
    assert response.headers.get("content-type") == "application/json"
    answer: dict[str, Any] = json.loads(response.body)
    return answer


@pytest.fixture
async def endpoint() -> Endpoint:
    return await Endpoint().prepare()


def granted(endpoint: Endpoint, answer: dict[str, Any]) -> list[str]:
    return [str(access) for access in endpoint.signer.verify(answer["access_token"], NOW).access]


async def test_a_get_as_docker_sends_it(endpoint: Endpoint) -> None:
    asked = endpoint.get(
        "account=admin&client_id=docker&offline_token=true&service=enseada"
        "&scope=repository%3Ateam%2Fapi%3Apush%2Cpull&scope=repository%3Abase%3Apull",
        basic=("admin", PASSWORD),
    )
    answer = read(await asked)
    assert answer["token"] == answer["access_token"]
    assert answer["expires_in"] == 300
    assert answer["issued_at"] == "2027-01-15T08:00:00Z"
    assert granted(endpoint, answer) == ["repository:team/api:pull,push", "repository:base:pull"]
    claims = endpoint.signer.verify(answer["token"], NOW)
    assert (claims.subject, claims.expires) == ("admin", NOW + 300)
    refresh = endpoint.signer.verify(answer["refresh_token"], NOW, Kind.REFRESH)
    assert (refresh.subject, refresh.access) == ("admin", ())
    assert refresh.expires == NOW + endpoint.settings.refresh_lifetime


async def test_several_scopes_in_one_parameter(endpoint: Endpoint) -> None:
    query = {"scope": "repository:a:pull repository(plugin):b:* registry:catalog:* volume:x:mount"}
    answer = read(await endpoint.get(query, basic=("admin", PASSWORD)))
    assert granted(endpoint, answer) == ["repository:a:pull", "repository:b:*", "registry:catalog:*"]
    assert "refresh_token" not in answer


async def test_it_always_answers_with_what_is_left(endpoint: Endpoint) -> None:
    for basic in (None, ("ann", PASSWORD)):
        query = {"scope": "repository:a:pull,push", "offline_token": "true"}
        answer = read(await endpoint.get(query, basic=basic))
        assert granted(endpoint, answer) == []
        assert ("refresh_token" in answer) == (basic is not None)
    pull = await Endpoint("pull").prepare()
    for basic in (None, ("ann", PASSWORD)):
        answer = read(await pull.get({"scope": "repository:a:pull,push"}, basic=basic))
        assert granted(pull, answer) == ["repository:a:pull"]


async def test_a_wrong_password_by_get(endpoint: Endpoint) -> None:
    response = await endpoint.get(basic=("admin", "wrong"))
    [error] = read(response, 401)["errors"]
    assert error == {"code": "UNAUTHORIZED", "message": "the name or the password is wrong"}
    assert response.headers.get("www-authenticate") == 'Basic realm="Enseada",charset="UTF-8"'


async def test_a_token_begets_no_token(endpoint: Endpoint) -> None:
    answer = read(await endpoint.get({"scope": "repository:a:pull"}, basic=("admin", PASSWORD)))
    read(await endpoint.get({"scope": "repository:a:pull,push"}, bearer=answer["token"]), 401)


async def test_too_many_scopes(endpoint: Endpoint) -> None:
    query = {"scope": [f"repository:n{n}:pull" for n in range(MAX_SCOPES + 1)]}
    [error] = read(await endpoint.get(query, basic=("admin", PASSWORD)), 400)["errors"]
    assert str(MAX_SCOPES) in error["message"]


async def test_a_post_with_a_password_as_containerd_sends_it(endpoint: Endpoint) -> None:
    form = {
        "client_id": "containerd-client", "grant_type": "password", "password": PASSWORD, "service": "enseada",
        "scope": "repository:a:pull,push repository:b:pull", "username": "admin", "access_type": "offline",
    }  # fmt: skip
    answer = read(await endpoint.post(form, content_type=f"{FORM}; charset=utf-8"))
    assert answer["scope"] == "repository:a:pull,push repository:b:pull"
    assert granted(endpoint, answer) == answer["scope"].split()
    assert endpoint.signer.verify(answer["refresh_token"], NOW, Kind.REFRESH).subject == "admin"
    assert answer["token_type"] == "Bearer"
    answer = read(await endpoint.post({**form, "access_type": "online", "username": "ann"}))
    assert answer["scope"] == ""
    assert "refresh_token" not in answer


async def test_a_refresh_token_as_docker_and_skopeo_send_it(endpoint: Endpoint) -> None:
    first = read(await endpoint.get({"offline_token": "true"}, basic=("admin", PASSWORD)))
    form = {
        "grant_type": "refresh_token", "refresh_token": first["refresh_token"], "service": "enseada",
        "client_id": "docker", "scope": ["repository:a:pull", "repository:b:push"],
    }  # fmt: skip
    answer = read(await endpoint.post(form))
    assert answer["scope"] == "repository:a:pull repository:b:push"
    assert answer["refresh_token"] == first["refresh_token"]
    assert answer["token"] == answer["access_token"]


@pytest.mark.parametrize(
    "grant",
    [
        {"grant_type": "password", "username": "admin", "password": "wrong"},
        {"grant_type": "refresh_token", "refresh_token": "nonsense"},
    ],
)
async def test_a_wrong_grant(endpoint: Endpoint, grant: dict[str, str]) -> None:
    response = await endpoint.post(grant)
    answer = read(response, 401)
    assert answer["error"] == "invalid_grant"
    assert answer["errors"] == [{"code": "UNAUTHORIZED", "message": answer["error_description"]}]
    assert (response.headers.get("www-authenticate") or "").startswith("Basic ")


async def test_an_access_token_is_no_refresh_token(endpoint: Endpoint) -> None:
    answer = read(await endpoint.get("", basic=("admin", PASSWORD)))
    read(await endpoint.post({"grant_type": "refresh_token", "refresh_token": answer["token"]}), 401)


async def test_a_refresh_token_dies_with_the_password_it_was_given_for(endpoint: Endpoint) -> None:
    form = {"grant_type": "refresh_token"}
    first = read(await endpoint.get({"offline_token": "true"}, basic=("ann", PASSWORD)))
    form["refresh_token"] = first["refresh_token"]
    read(await endpoint.post(form))
    ann = await endpoint.documents.get("user:ann")
    assert ann is not None
    await endpoint.documents.put(Document(ann.id, {**ann.data, "generation": "g2"}, ann.rev))
    assert read(await endpoint.post(form), 401)["error"] == "invalid_grant"


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": ""}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
        ({"grant_type": "password", "username": "admin"}, "invalid_request"),
        ({"grant_type": "password", "password": "x"}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        (b"grant_type=%ff", "invalid_request"),
        (b"grant_type=\xff", "invalid_request"),
        (b"&".join(b"a=b" for _ in range(200)), "invalid_request"),
        (
            {
                "grant_type": "password", "username": "admin", "password": PASSWORD,
                "scope": " ".join(f"repository:n{n}:pull" for n in range(MAX_SCOPES + 1)),
            },
            "invalid_scope",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_understood_is_400(endpoint: Endpoint, form: Any, error: str) -> None:
    answer = read(await endpoint.post(form), 400)
    assert answer["error"] == error
    assert answer["errors"][0]["message"] == answer["error_description"]


@pytest.mark.parametrize("content_type", [None, "", "application/json", "multipart/form-data"])
async def test_what_is_no_form_is_400(endpoint: Endpoint, content_type: str | None) -> None:
    body = Pieces(b"{}" * 100)
    read(await endpoint.post(b"", content_type=content_type, body=body), 400)
    assert body.sent == 0


async def test_a_large_form_is_413_and_not_read_to_its_end(endpoint: Endpoint) -> None:
    content = b"a=" + b"b" * 100_000
    body = Pieces(content)
    read(await endpoint.post(b"", body=body), 413)
    assert body.sent <= 2007
    declared = Pieces(content)
    declared.length = len(content)
    read(await endpoint.post(b"", body=declared), 413)
    assert declared.sent == 0


async def test_of_repeated_fields_the_first_counts(endpoint: Endpoint) -> None:
    form = [("grant_type", "password"), ("username", "admin"), ("username", "ann"), ("password", PASSWORD)]
    answer = read(await endpoint.post(form))
    assert endpoint.signer.verify(answer["token"], NOW).subject == "admin"


async def test_too_many_who_wait_is_503_and_no_wrong_password(endpoint: Endpoint) -> None:
    limiter = endpoint.accounts._limiter
    async with trio.open_nursery() as nursery:
        await limiter.acquire_on_behalf_of(endpoint)  # the only thread for passwords
        nursery.start_soon(endpoint.accounts.verify, "admin", "waits")
        await wait_all_tasks_blocked()
        form = {"grant_type": "password", "username": "admin", "password": PASSWORD}
        for response in (await endpoint.get(basic=("admin", PASSWORD)), await endpoint.post(form)):
            assert read(response, 503)["errors"][0]["code"] == "UNAVAILABLE"
            assert response.headers.get("retry-after") is not None
            assert "www-authenticate" not in response.headers
        limiter.release_on_behalf_of(endpoint)


async def test_the_log_is_told_who_asked(endpoint: Endpoint) -> None:
    body = BytesBody(urlencode({"grant_type": "password", "username": "ann", "password": PASSWORD}).encode())
    request = Request("POST", PATH, "", Headers.of({"Content-Type": FORM}), body)
    await endpoint.endpoint.token(request)
    assert request.subject == "ann"


@pytest.mark.parametrize(("name", "subject"), [("Ann", "ann (refused)"), ("hunter2", "-")])
async def test_the_log_is_told_who_was_refused(endpoint: Endpoint, name: str, subject: str) -> None:
    headers = Headers.of({"Authorization": "Basic " + base64.b64encode(f"{name}:wrong".encode()).decode()})
    by_get = Request("GET", PATH, "", headers, BytesBody())
    body = BytesBody(urlencode({"grant_type": "password", "username": name, "password": "wrong"}).encode())
    by_post = Request("POST", PATH, "", Headers.of({"Content-Type": FORM}), body)
    for request in (by_get, by_post):
        assert (await endpoint.endpoint.token(request)).status == 401
        assert request.subject == subject


async def test_the_challenge_leads_here() -> None:
    request = Request("GET", "/v2/", "", Headers(), BytesBody(), host="h:1", root_path="/registry")
    made = (await Endpoint().prepare()).endpoint.challenge(request, [repository("a", "pull")], "insufficient_scope")
    assert made == (
        'Bearer realm="http://h:1/registry/v2/_token",service="enseada",scope="repository:a:pull",'
        'error="insufficient_scope"'
    )
