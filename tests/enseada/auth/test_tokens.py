"""Tokens: believed only if they are ours, of the right kind, and in their time."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from enseada.auth import tokens as module
from enseada.auth.documents import UnusableDocument
from enseada.auth.policy import ANONYMOUS, Subject
from enseada.auth.tokens import Claims, Kind, TokenError, TokenExpired, TokenInvalid, TokenSigner
from enseada.protocols.oci.scopes import catalog, repository
from enseada.storage.documents.base import Document, Unavailable, Unknown

if TYPE_CHECKING:
    from enseada.storage.documents.memory import MemoryStore

NOW = 1_800_000_000.0
PRIVATE = bytes(range(32))
ANN = Subject("ann", "user", generation="g1")
ACCESS = (repository("team/api", "pull", "push"), catalog())


def signer(kid: str = "k1", private: bytes = PRIVATE, service: str = "enseada") -> TokenSigner:
    return TokenSigner(kid, private, service)


def forge(
    key: Any = None, algorithm: str = "EdDSA", headers: dict[str, Any] | None = None, **claims: Any
) -> str:
    """A token as `signer` would issue it, but for what is given."""
    payload = {
        "iss": "enseada", "aud": "enseada", "sub": "ann", "exp": int(NOW) + 300, "nbf": int(NOW), "iat": int(NOW),
        "jti": "j", "access": [], "gen": "g1",
    }  # fmt: skip
    payload |= claims
    payload = {name: value for name, value in payload.items() if value is not None}
    if key is None and algorithm == "EdDSA":
        key = Ed25519PrivateKey.from_private_bytes(PRIVATE)
    return jwt.encode(payload, key, algorithm=algorithm, headers={"kid": "k1", "typ": "at+jwt", **(headers or {})})


def test_what_is_issued_is_believed() -> None:
    token = signer().issue(ANN, ACCESS, NOW, 300)
    claims = signer().verify(token, NOW + 299)
    assert claims == Claims("ann", "g1", ACCESS, int(NOW), int(NOW) + 300, claims.id)
    header = jwt.get_unverified_header(token)
    assert header == {"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}
    assert signer().issue(ANN, ACCESS, NOW, 300) != token


def test_a_token_of_nobody_in_particular() -> None:
    claims = signer().verify(signer().issue(ANONYMOUS, (), NOW, 300), NOW)
    assert (claims.subject, claims.generation, claims.access) == ("", "", ())


def test_the_forger_of_these_tests_can_be_believed() -> None:
    assert signer().verify(forge(), NOW).subject == "ann"


def test_a_token_has_its_time() -> None:
    ours = signer()
    token = ours.issue(ANN, (), NOW, 300)
    assert ours.verify(token, NOW - module.SKEW).subject == "ann"
    assert ours.verify(token, NOW + 299.9).subject == "ann"
    for _ in range(2):  # remembered or not
        with pytest.raises(TokenExpired):
            ours.verify(token, NOW + 300)
    with pytest.raises(TokenExpired):
        signer().verify(token, NOW + 300)
    with pytest.raises(TokenInvalid, match="not valid yet"):
        signer().verify(token, NOW - module.SKEW - 1)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (forge(aud="other"), "another service"),
        (forge(iss="other"), "another issuer"),
        (forge(key=Ed25519PrivateKey.from_private_bytes(bytes(32))), "signature"),
        (forge(algorithm="none", key=None), "malformed"),
        (forge(algorithm="HS256", key=Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()),
         "malformed"),
        (forge(algorithm="HS256", key=PRIVATE), "malformed"),
        (forge(headers={"kid": "k2"}), "another key"),
        (forge(headers={"typ": "JWT"}), "another kind"),
        (forge(headers={"typ": "rt+jwt"}), "another kind"),
        (forge(access=None), "malformed"),
        (forge(access=[{"type": "repository"}]), "malformed"),
        (forge(access="all"), "malformed"),
        (forge(gen=3), "malformed"),
        (forge(sub=3), "malformed"),
        (forge(exp=None), "malformed"),
        (forge(exp="tomorrow"), "malformed"),
        (forge(jti=None), "malformed"),
        (forge(aud=["enseada", "other"]), "malformed"),
        ("", "malformed"),
        ("a.b.c", "malformed"),
        ("\udcff", "malformed"),
        ("\ud800.a.b", "malformed"),
        ("x" * (module.MAX_TOKEN_LENGTH + 1), "too long"),
    ],
)  # fmt: skip
def test_what_is_not_believed(token: str, why: str) -> None:
    with pytest.raises(TokenInvalid, match=why) as caught:
        signer().verify(token, NOW)
    assert token == "" or token not in str(caught.value)


def test_one_kind_never_passes_for_the_other() -> None:
    ours = signer()
    access, refresh = ours.issue(ANN, ACCESS, NOW, 300), ours.issue(ANN, (), NOW, 300, Kind.REFRESH)
    for _ in range(2):  # remembered or not
        assert ours.verify(access, NOW).subject == ours.verify(refresh, NOW, Kind.REFRESH).subject == "ann"
        with pytest.raises(TokenInvalid):
            ours.verify(access, NOW, Kind.REFRESH)
        with pytest.raises(TokenInvalid):
            ours.verify(refresh, NOW)


SHARED = signer()
TOKEN = SHARED.issue(ANN, ACCESS, NOW, 300)


@given(st.integers(0, len(TOKEN) - 1), st.characters(min_codepoint=33, max_codepoint=126))
def test_no_character_can_be_changed(place: int, character: str) -> None:
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]
    try:
        claims = signer().verify(changed, NOW)
    except TokenError:
        return
    # The last character of base64 has bits that mean nothing.
    assert claims == SHARED.verify(TOKEN, NOW)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    part = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    for token in (text, f"{TOKEN}{text}x", f"{part}.{part}.{part}"):
        with pytest.raises(TokenInvalid):
            SHARED.verify(token, NOW)


def test_what_is_remembered_is_bounded_and_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERIFIED", 3)
    ours = signer()
    issued = [ours.issue(ANN, (), NOW, 300) for _ in range(6)]
    for token in issued:
        ours.verify(token, NOW)
    assert len(ours._verified) == 3
    assert not any(token.encode() in key for key in ours._verified for token in issued)
    assert ours.verify(issued[0], NOW).subject == "ann"


async def test_the_key_is_made_once_and_survives(documents: MemoryStore) -> None:
    token = (await TokenSigner.load(documents, "enseada")).issue(ANN, ACCESS, NOW, 300)
    assert (await TokenSigner.load(documents, "enseada")).verify(token, NOW).subject == "ann"
    with pytest.raises(TokenInvalid, match="another issuer"):
        (await TokenSigner.load(documents, "other")).verify(token, NOW)


async def test_processes_that_start_at_once_agree(documents: MemoryStore) -> None:
    signers: list[TokenSigner] = []

    async def start() -> None:
        signers.append(await TokenSigner.load(documents, "enseada"))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(start)
    token = signers[0].issue(ANN, ACCESS, NOW, 300)
    assert [each.verify(token, NOW).subject for each in signers] == ["ann"] * 3


async def test_a_lost_answer_when_the_key_is_made(documents: MemoryStore) -> None:
    documents.fail("create_once", module.KEY_DOCUMENT, Unknown, applied=True)
    token = (await TokenSigner.load(documents, "enseada")).issue(ANN, (), NOW, 300)
    assert (await TokenSigner.load(documents, "enseada")).verify(token, NOW).subject == "ann"


@pytest.mark.parametrize("error", [Unknown, Unavailable])
async def test_a_key_that_could_not_be_made(documents: MemoryStore, error: type[Exception]) -> None:
    documents.fail("create_once", module.KEY_DOCUMENT, error)
    with pytest.raises(error):
        await TokenSigner.load(documents, "enseada")
    await TokenSigner.load(documents, "enseada")


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kid": "k", "algorithm": "RS256", "private": base64.b64encode(PRIVATE).decode()},
        {"kid": "k", "algorithm": "EdDSA", "private": base64.b64encode(b"short").decode()},
        {"kid": "k", "algorithm": "EdDSA", "private": "!"},
        {"kid": "k", "algorithm": "EdDSA", "private": "\u00e9" * 44},
    ],
)
async def test_a_stored_key_of_another_kind_is_refused(documents: MemoryStore, data: dict[str, str]) -> None:
    stored = await documents.put(Document(module.KEY_DOCUMENT, data))
    with pytest.raises(UnusableDocument) as caught:
        await TokenSigner.load(documents, "enseada")
    assert caught.value.id == "key:tokens"
    assert str(caught.value) == f"key:tokens: {caught.value.why}"
    assert not any(value in str(caught.value) for name, value in data.items() if name == "private" and len(value) > 1)
    assert await documents.get(module.KEY_DOCUMENT) == stored


async def test_getting_ready_at_once_is_fine() -> None:
    ours = signer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.ready)
        nursery.start_soon(ours.ready)
    assert ours.verify(ours.issue(ANN, (), NOW, 300), NOW).subject == "ann"


def test_what_is_expensive_is_imported_late() -> None:
    program = """
import json, sys
import enseada.cli, enseada.auth.accounts, enseada.auth.authenticate, enseada.formats.docker_token
print(json.dumps(sorted({"jwt", "cryptography", "argon2", "trio", "sqlite3"} & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
