"""Who asks: every form of the Authorization header, and accounts that change under a token."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from enseada.auth.accounts import Accounts
from enseada.auth.authenticate import Authenticator
from enseada.auth.policy import ANONYMOUS, Action, Grant, Subject
from enseada.auth.tokens import Kind, TokenSigner
from enseada.http import BytesBody, Headers, RegistryError, Request
from enseada.protocols.oci.scopes import repository
from enseada.storage.documents.base import Document, Unavailable

if TYPE_CHECKING:
    from enseada.config import Settings
    from enseada.storage.documents.memory import MemoryStore
    from tests.enseada.auth.conftest import Clock

PASSWORD = "sésame: öffne dich"


def request(*authorization: str) -> Request:
    headers = Headers((b"authorization", value.encode("latin-1")) for value in authorization)
    return Request("GET", "/v2/", "", headers, BytesBody())


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


class Parts:
    """An authenticator with the account ann, and what it is made of."""

    def __init__(self, documents: MemoryStore, settings: Settings, clock: Clock) -> None:
        self.documents = documents
        self.accounts = Accounts(documents, settings, clock)
        self.signer = TokenSigner("k", bytes(32), "enseada")
        self.clock = clock
        self.authenticator = Authenticator(self.accounts, self.signer, clock)

    async def change(self, **fields: object) -> None:
        document = await self.documents.get("user:ann")
        data = {"name": "ann"} if document is None else document.data
        rev = None if document is None else document.rev
        await self.documents.put(Document("user:ann", {**data, **fields}, rev))

    async def token(self, *actions: str, kind: Kind = Kind.ACCESS) -> str:
        ann = await self.accounts.lookup("ann")
        assert ann is not None
        return self.signer.issue(ann, [repository("a", *actions)] if actions else [], self.clock(), 300, kind)

    async def refused(self, *authorization: str) -> str:
        with pytest.raises(RegistryError) as caught:
            await self.authenticator.authenticate(request(*authorization))
        assert (caught.value.status, caught.value.code) == (401, "UNAUTHORIZED")
        for value in authorization:
            assert value.partition(" ")[2] == "" or value.partition(" ")[2] not in str(caught.value)
        return str(caught.value)


@pytest.fixture
async def parts(documents: MemoryStore, settings: Settings, clock: Clock) -> Parts:
    parts = Parts(documents, settings, clock)
    await parts.change(password=await parts.accounts.hash(PASSWORD), generation="g1")
    return parts


async def test_no_header_is_anonymous(parts: Parts) -> None:
    asked = request()
    assert await parts.authenticator.authenticate(asked) == ANONYMOUS
    assert asked.subject == "anonymous"


async def test_empty_credentials_are_none(parts: Parts) -> None:
    assert await parts.authenticator.authenticate(request(basic("", ""))) == ANONYMOUS


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC "])
async def test_basic(parts: Parts, scheme: str) -> None:
    asked = request(basic("ann", PASSWORD).replace("Basic", scheme))
    assert await parts.authenticator.authenticate(asked) == Subject("ann", "user", generation="g1")
    assert asked.subject == "ann"


@pytest.mark.parametrize(
    "value",
    [
        basic("ann", "wrong"), basic("bob", PASSWORD), basic("", PASSWORD), basic("ann", ""),
        "Basic", "Basic ", "Basic !!!", "Basic YQ",
        "Basic YW5u", "Basic " + base64.b64encode(b"ann:\xff").decode(), "", "Digest x=y", "Bearer", "Bearer a b",
        "Bearer " + "x" * 100, "Basic caf\u00e9", "Bearer caf\u00e9",
    ],
)  # fmt: skip
async def test_what_is_malformed_or_wrong_is_401(parts: Parts, value: str) -> None:
    await parts.refused(value)


@pytest.mark.parametrize("disabled", [True, False])
async def test_a_refused_login_is_logged_by_the_account_that_was_tried(parts: Parts, disabled: bool) -> None:
    await parts.change(disabled=disabled)
    for password in ("wrong", "", "x" * 2000):
        asked = request(basic("Ann", password))
        with pytest.raises(RegistryError):
            await parts.authenticator.authenticate(asked)
        assert asked.subject == "ann (refused)"


@pytest.mark.parametrize("typed", [PASSWORD, "ann ", "bob", "", "hunter2", "a" * 100, "x\ny"])
async def test_what_was_typed_for_a_name_is_never_logged(parts: Parts, typed: str) -> None:
    asked = request(basic(typed, "wrong"))
    before = asked.subject
    with pytest.raises(RegistryError):
        await parts.authenticator.authenticate(asked)
    assert asked.subject == before == "-"


async def test_a_refusal_stays_one_if_the_log_cannot_say_whose(parts: Parts) -> None:
    parts.documents.fail("get", "user:ann", skip=1)
    asked = request(basic("ann", "wrong"))
    with pytest.raises(RegistryError) as caught:
        await parts.authenticator.authenticate(asked)
    assert (caught.value.status, asked.subject) == (401, "-")


async def test_two_headers_are_401(parts: Parts) -> None:
    assert "more than one" in await parts.refused(basic("ann", PASSWORD), basic("ann", PASSWORD))


async def test_bearer_narrows(parts: Parts) -> None:
    asked = request("Bearer " + await parts.token("pull"))
    subject = await parts.authenticator.authenticate(asked)
    assert subject.scopes == (Grant("oci:a", frozenset({Action.READ})),)
    assert (subject.name, asked.subject) == ("ann", "ann")


async def test_a_bearer_of_nobody_is_anonymous_and_narrowed(parts: Parts) -> None:
    token = parts.signer.issue(ANONYMOUS, [], parts.clock(), 300)
    subject = await parts.authenticator.authenticate(request(f"Bearer {token}"))
    assert subject == ANONYMOUS.narrowed(())


async def test_a_token_runs_out(parts: Parts) -> None:
    token = await parts.token("pull")
    parts.clock.now += 300
    assert "expired" in await parts.refused(f"Bearer {token}")


@pytest.mark.parametrize("change", [{"disabled": True}, {"generation": "g2"}, None])
async def test_a_changed_account_ends_its_tokens_at_once(parts: Parts, change: dict[str, object] | None) -> None:
    token, refresh = await parts.token("pull"), await parts.token(kind=Kind.REFRESH)
    await parts.authenticator.authenticate(request(f"Bearer {token}"))
    assert (await parts.authenticator.refresh(refresh)).name == "ann"
    if change is None:
        document = await parts.documents.get("user:ann")
        assert document is not None
        await parts.documents.delete(document)
    else:
        await parts.change(**change)
    await parts.refused(f"Bearer {token}")
    with pytest.raises(RegistryError):
        await parts.authenticator.refresh(refresh)


async def test_the_kinds_of_tokens_are_not_taken_for_each_other(parts: Parts) -> None:
    await parts.refused("Bearer " + await parts.token(kind=Kind.REFRESH))
    with pytest.raises(RegistryError):
        await parts.authenticator.refresh(await parts.token("pull"))


async def test_where_tokens_are_given_out_a_token_is_no_proof(parts: Parts) -> None:
    with pytest.raises(RegistryError) as caught:
        await parts.authenticator.authenticate_by_password(request("Bearer " + await parts.token("pull")))
    assert caught.value.status == 401
    assert (await parts.authenticator.authenticate_by_password(request(basic("ann", PASSWORD)))).name == "ann"
    assert await parts.authenticator.authenticate_by_password(request()) == ANONYMOUS


async def test_a_store_that_does_not_answer_is_no_401(parts: Parts) -> None:
    token = await parts.token("pull")
    for value in (basic("ann", PASSWORD), f"Bearer {token}"):
        parts.documents.fail("get", "user:")
        with pytest.raises(Unavailable):
            await parts.authenticator.authenticate(request(value))
