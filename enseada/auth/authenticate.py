"""Who asks: a request's Authorization header, made into a subject.

One rule: what a header says is believed for this request only. The account is looked up afresh every time, so one
that was disabled, deleted or given another password is refused at once, whatever token it holds.
"""

from __future__ import annotations

import base64
import binascii
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from enseada.auth.policy import ANONYMOUS
from enseada.auth.tokens import Kind, TokenError, TokenExpired
from enseada.http import RegistryError
from enseada.storage.documents.base import DocumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from enseada.auth.accounts import Accounts
    from enseada.auth.policy import Subject
    from enseada.auth.tokens import TokenSigner
    from enseada.http import Request

WRONG = "the name or the password is wrong"


def unauthorized(message: str) -> RegistryError:
    """401, without a challenge: the format that answers knows which one its clients understand."""
    return RegistryError(401, "UNAUTHORIZED", message)


class Authenticator:
    """Knows every way in which a client can say who it is."""

    def __init__(self, accounts: Accounts, signer: TokenSigner, clock: Callable[[], float] = time.time) -> None:
        """``clock`` gives seconds since the epoch."""
        self._accounts = accounts
        self._signer = signer
        self._clock = clock

    async def authenticate(self, request: Request) -> Subject:
        """The request's subject: anonymous without a header, by Basic (RFC 7617) or by Bearer (RFC 6750).

        Raises RegistryError: 401 for what is malformed or wrong, 503 when too many passwords wait to be verified.
        Sets ``request.subject`` for the log, as `password` does.
        """
        scheme, credentials = self._header(request)
        match scheme:
            case "":
                subject = ANONYMOUS
            case "basic":
                name, password = _split(credentials)
                # Clients without credentials send them empty (the OCI conformance suite among them).
                subject = await self.password(request, name, password) if name or password else ANONYMOUS
            case "bearer":
                subject = await self._token(credentials)
            case _:
                raise unauthorized("Authorization must be Basic or Bearer")
        request.subject = subject.name
        return subject

    async def authenticate_by_password(self, request: Request) -> Subject:
        """As `authenticate`, but a token is refused: where tokens are given out, one must not beget a wider one."""
        if self._header(request)[0] == "bearer":
            raise unauthorized("a token is given for name and password, not for another token")
        return await self.authenticate(request)

    async def password(self, request: Request, name: str, password: str) -> Subject:
        """The subject with that name and password, as ``request`` says. Raises RegistryError (401, 503).

        Sets ``request.subject`` for the log: where it refuses, to the account that was tried, if there is such a one.
        """
        subject = await self._accounts.verify(name, password)
        if subject is None:
            with suppress(DocumentError):  # it is 401, whether the log can say more or not
                if (known := await self._accounts.known(name)) is not None:
                    request.subject = f"{known} (refused)"
            raise unauthorized(WRONG)
        request.subject = subject.name
        return subject

    async def refresh(self, token: str) -> Subject:
        """The subject that a refresh token was given to, if its account still has the same credentials.

        Raises RegistryError (401).
        """
        return await self._believed(token, Kind.REFRESH)

    async def _token(self, token: str) -> Subject:
        return await self._believed(token, Kind.ACCESS)

    async def _believed(self, token: str, kind: Kind) -> Subject:
        await self._signer.ready()
        try:
            claims = self._signer.verify(token, self._clock(), kind)
        except TokenExpired:
            raise unauthorized("the token has expired") from None
        except TokenError as exc:
            raise unauthorized(str(exc)) from None
        subject: Subject | None = ANONYMOUS
        if claims.subject:
            subject = await self._accounts.lookup(claims.subject)
            if subject is None or subject.generation != claims.generation:
                raise unauthorized("the token's account is gone, disabled, or has another password by now")
        assert subject is not None
        return subject.narrowed(claims.grants) if kind is Kind.ACCESS else subject

    def _header(self, request: Request) -> tuple[str, str]:
        values = request.headers.get_all("authorization")
        if len(values) > 1:
            raise unauthorized("more than one Authorization header")
        if not values:
            return "", ""
        scheme, _, credentials = values[0].strip().partition(" ")
        if not scheme or not credentials.strip():
            raise unauthorized("the Authorization header is malformed")
        return scheme.lower(), credentials.strip()


def _split(credentials: str) -> tuple[str, str]:
    """Name and password of Basic credentials (RFC 7617 2, in UTF-8 as our challenge asks)."""
    try:
        decoded = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):
        raise unauthorized("the Basic credentials are malformed") from None
    name, colon, password = decoded.partition(":")
    if not colon:
        raise unauthorized("the Basic credentials lack a colon")
    return name, password
