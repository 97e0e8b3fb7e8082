"""Signed tokens: who one is, and at most what it may be used for.

One rule: a token is believed only if it was signed by our key, with our one algorithm, for our service, as the kind
that is asked for, and now is within its time. What its subject may do is never in it.

The algorithm is EdDSA with Ed25519 (RFC 8037): its signature needs no random number that could repeat, it has no
parameters to choose wrongly, and its key is any 32 random bytes, so that the first start need not load a library for
it. PyJWT and cryptography take 100 ms to import, so they are loaded at the first token, by `TokenSigner.ready`.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec

from enseada.auth.docker_scopes import grants
from enseada.auth.documents import UnusableDocument, read_as
from enseada.protocols.oci.scopes import Access
from enseada.storage.documents.once import get_or_create_once

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from jwt.types import Options

    from enseada.auth.policy import Grant, Subject
    from enseada.storage.documents.base import DocumentStore

ALGORITHM = "EdDSA"
KEY_DOCUMENT = "key:tokens"
PRIVATE_BYTES = 32
"""Bytes of an Ed25519 private key (RFC 8032 5.1.5)."""
MAX_TOKEN_LENGTH = 48 * 1024
"""Characters; a longer token is not looked at. A request's head is smaller, a form's field may be larger."""
VERIFIED = 2048
"""Tokens whose signature is remembered as right; above it the one unused the longest is forgotten."""
SKEW = 10
"""Seconds by which another machine's clock may be ahead of ours."""


class Kind(StrEnum):
    """What a token is for: said in its header's ``typ``, so that one can never pass for the other (RFC 8725 3.11)."""

    ACCESS = "at+jwt"
    REFRESH = "rt+jwt"


class TokenError(Exception):
    """A token that is not believed. Its text says why, and never quotes the token."""


class TokenExpired(TokenError):
    """It was right, and its time is over."""


class TokenInvalid(TokenError):
    """It is malformed, of another key, algorithm, issuer, audience or kind, or not valid yet."""


class _Access(msgspec.Struct, frozen=True):
    type: str
    name: str
    actions: list[str]


class _Payload(msgspec.Struct, frozen=True, kw_only=True):
    iss: str
    aud: str
    sub: str
    exp: int
    nbf: int
    iat: int
    jti: str
    access: list[_Access]
    gen: str


class _KeyData(msgspec.Struct, frozen=True, kw_only=True):
    kid: str
    algorithm: str
    private: str


@dataclass(frozen=True)
class Claims:
    """What a token says."""

    subject: str
    """The account's name; empty: nobody in particular."""
    generation: str
    """Of the account's credentials, when it was issued."""
    access: tuple[Access, ...]
    issued: int
    expires: int
    """Seconds since the epoch, as ``issued``."""
    id: str

    @cached_property
    def grants(self) -> tuple[Grant, ...]:
        """What ``access`` allows at most."""
        return grants(self.access)


class TokenSigner:
    """Issues and verifies tokens with the one key of an installation."""

    def __init__(self, kid: str, private: bytes, service: str) -> None:
        """``private``: an Ed25519 private key, 32 bytes. ``service``: who issues the tokens, and for whom."""
        self._kid = kid
        self._private = private
        self._service = service
        self._keys: tuple[Ed25519PrivateKey, Ed25519PublicKey] | None = None
        self._verified: OrderedDict[bytes, Claims] = OrderedDict()
        self._loading = anyio.Lock()

    @classmethod
    async def load(cls, documents: DocumentStore, service: str) -> TokenSigner:
        """Read the key, or make it at the first start. Processes that start at once get the same one.

        Raises UnusableDocument if what is stored is no key for this release; Conflict, Unavailable, Unknown.
        Cancelled: the key is there or not; the next one to load finds out.
        """

        async def fresh() -> Mapping[str, Any]:
            private = base64.b64encode(secrets.token_bytes(PRIVATE_BYTES)).decode()
            data = _KeyData(kid=secrets.token_hex(8), algorithm=ALGORITHM, private=private)
            made: dict[str, Any] = msgspec.to_builtins(data)
            return made

        document, _ = await get_or_create_once(documents, KEY_DOCUMENT, fresh)
        key = read_as(document, _KeyData)
        if key.algorithm != ALGORITHM:
            raise UnusableDocument(KEY_DOCUMENT, f"it is not a key of {ALGORITHM}, the one algorithm of this release")
        try:
            private = base64.b64decode(key.private, validate=True)
        except ValueError:
            private = b""
        if len(private) != PRIVATE_BYTES:
            raise UnusableDocument(KEY_DOCUMENT, f"its private key is not {PRIVATE_BYTES} bytes in base64")
        return cls(key.kid, private, service)

    async def ready(self) -> None:
        """Load what signing needs, in a thread, the first time; then it costs nothing. `issue` and `verify` do it
        too, but on the loop."""
        if self._keys is None:
            async with self._loading:
                if self._keys is None:
                    await anyio.to_thread.run_sync(self._load)

    def issue(
        self, subject: Subject, access: Sequence[Access], now: float, lifetime: float, kind: Kind = Kind.ACCESS
    ) -> str:
        """A token for ``subject`` with at most ``access``, from ``now`` (seconds since the epoch) for ``lifetime``."""
        import jwt

        named = subject.kind != "anonymous"
        payload = {
            "iss": self._service,
            "aud": self._service,
            "sub": subject.name if named else "",
            "exp": int(now) + int(lifetime),
            "nbf": int(now),
            "iat": int(now),
            "jti": secrets.token_urlsafe(16),
            "access": [{"type": a.type, "name": a.name, "actions": a.sorted_actions()} for a in access],
            "gen": subject.generation if named else "",
        }
        headers = {"kid": self._kid, "typ": kind.value}
        return jwt.encode(payload, self._load()[0], algorithm=ALGORITHM, headers=headers)

    def verify(self, token: str, now: float, kind: Kind = Kind.ACCESS) -> Claims:
        """What ``token`` says, if it is to be believed at ``now``. Raises TokenExpired, TokenInvalid."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise TokenInvalid("the token is too long")
        # A digest stands for the token, so that what is remembered is small and is no token.
        digest = hashlib.sha256(f"{kind}:{token}".encode("utf-8", "surrogatepass")).digest()
        claims = self._verified.get(digest)
        if claims is None:
            claims = self._verify(token, now, kind)
            if claims.expires > now:
                self._verified[digest] = claims
                if len(self._verified) > VERIFIED:
                    self._verified.popitem(last=False)
        else:
            self._verified.move_to_end(digest)
        if claims.expires <= now:
            self._verified.pop(digest, None)
            raise TokenExpired("the token has expired")
        return claims

    def _verify(self, token: str, now: float, kind: Kind) -> Claims:
        import jwt

        options: Options = {
            "require": ["iss", "aud", "sub", "exp", "nbf", "iat", "jti"],
            "verify_exp": False,  # time is an argument here, and PyJWT would ask its own clock
            "verify_nbf": False,
            "verify_iat": False,
        }
        try:
            decoded = jwt.decode_complete(
                token,
                self._load()[1],
                algorithms=[ALGORITHM],
                audience=self._service,
                issuer=self._service,
                options=options,
            )
        except jwt.InvalidAudienceError:
            raise TokenInvalid("the token is for another service") from None
        except jwt.InvalidIssuerError:
            raise TokenInvalid("the token is another issuer's") from None
        except jwt.InvalidSignatureError:
            raise TokenInvalid("the token's signature is not ours") from None
        except (jwt.InvalidTokenError, ValueError):
            raise TokenInvalid("the token is malformed") from None
        header = decoded["header"]
        if header.get("typ") != kind or header.get("kid") != self._kid:
            raise TokenInvalid("the token is of another kind, or of another key")
        try:
            payload = msgspec.convert(decoded["payload"], _Payload)
        except msgspec.ValidationError:
            raise TokenInvalid("the token is malformed") from None
        if payload.nbf > now + SKEW:
            raise TokenInvalid("the token is not valid yet")
        access = tuple(Access(each.type, each.name, frozenset(each.actions)) for each in payload.access)
        return Claims(payload.sub, payload.gen, access, payload.iat, payload.exp, payload.jti)

    def _load(self) -> tuple[Ed25519PrivateKey, Ed25519PublicKey]:
        if self._keys is None:
            import jwt  # noqa: F401  # so that `ready` has it loaded too
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

            private = Ed25519PrivateKey.from_private_bytes(self._private)
            self._keys = (private, private.public_key())
        return self._keys
