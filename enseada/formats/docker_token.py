"""The token endpoint of the Docker token flow: scopes in, a signed token out.

One rule: a token is always given to who is who they say, with what is left of the scopes that were asked for; what a
token allows is decided again wherever it is shown. Sources: distribution's docs/spec/auth/token.md (GET) and oauth.md
(POST); RFC 6749; RFC 7617.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from enseada.auth import docker_scopes
from enseada.auth.tokens import Kind
from enseada.http import Headers, RegistryError, Response
from enseada.protocols.oci import scopes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from enseada.auth.authenticate import Authenticator
    from enseada.auth.policy import Authorizer, Subject
    from enseada.auth.tokens import TokenSigner
    from enseada.config import Settings
    from enseada.http import Body, Request

PATH = "/v2/_token"
"""No image's name begins with an underscore."""
MAX_FORM_FIELDS = 128
"""Fields of one form: each scope may be one."""
REALM = "Enseada"
"""What people are shown when they are asked for name and password."""
FORM = "application/x-www-form-urlencoded"


class TokenEndpoint:
    """Answers GET and POST at `PATH`, and sends clients there."""

    def __init__(
        self,
        authenticator: Authenticator,
        authorizer: Authorizer,
        signer: TokenSigner,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` gives seconds since the epoch."""
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._signer = signer
        self._settings = settings
        self._clock = clock

    def challenge(self, request: Request, accesses: Iterable[scopes.Access] = (), error: str | None = None) -> str:
        """The value of WWW-Authenticate that sends the client of ``request`` here for ``accesses``.

        ``error`` is RFC 6750's: ``invalid_token`` or ``insufficient_scope``.
        """
        return scopes.bearer_challenge(request.url(PATH), self._settings.token_service, tuple(accesses), error)

    async def token(self, request: Request) -> Response:
        """Handle one request. Failures are answers too: OCI's JSON errors, and for POST OAuth2's beside them.

        Raises what the body (BodyError) and the document store raise.
        """
        try:
            return await (self._post(request) if request.method == "POST" else self._get(request))
        except RegistryError as failure:
            return _refuse(failure, {})
        except OAuthError as failure:
            return _refuse(failure.failure, {"error": failure.code, "error_description": failure.failure.message})

    async def _get(self, request: Request) -> Response:
        subject = await self._authenticator.authenticate_by_password(request)
        answer, _ = await self._issue(subject, request.param_all("scope"))
        if request.param("offline_token") == "true" and subject.kind != "anonymous":
            answer["refresh_token"] = self._refresh_token(subject)
        return _reply(200, answer)

    async def _post(self, request: Request) -> Response:
        form = await self._form(request)
        asked = [value for name, value in form if name == "scope"]
        fields = dict(reversed(form))  # of repeated fields the first counts
        refresh_token = ""
        match fields.get("grant_type"):
            case "password":
                name, password = _required(fields, "username"), _required(fields, "password")
                subject = await _granted(self._authenticator.password(request, name, password))
            case "refresh_token":
                refresh_token = _required(fields, "refresh_token")
                subject = await _granted(self._authenticator.refresh(refresh_token))
            case None:
                raise _invalid_request("the form lacks grant_type")
            case _:
                reason = "grant_type must be password or refresh_token"
                raise OAuthError("unsupported_grant_type", RegistryError(400, "UNSUPPORTED", reason))
        request.subject = subject.name
        try:
            answer, left = await self._issue(subject, asked)
        except RegistryError as failure:
            raise OAuthError("invalid_scope", failure) from None
        answer["token_type"] = "Bearer"
        answer["scope"] = scopes.format_scopes(left)
        if refresh_token:
            answer["refresh_token"] = refresh_token  # it stays valid, and clients keep what they are answered
        elif fields.get("access_type") == "offline":
            answer["refresh_token"] = self._refresh_token(subject)
        return _reply(200, answer)

    async def _issue(self, subject: Subject, asked: Iterable[str]) -> tuple[dict[str, Any], tuple[scopes.Access, ...]]:
        """The answer's fields, and the scopes that are left. Raises RegistryError (400) for too many scopes."""
        try:
            accesses = scopes.parse(asked)
        except scopes.ScopeError as reason:
            raise RegistryError(400, "UNSUPPORTED", str(reason)) from None
        left = docker_scopes.allowed(self._authorizer, subject, accesses)
        await self._signer.ready()
        now, lifetime = int(self._clock()), int(self._settings.token_lifetime)
        token = self._signer.issue(subject, left, now, lifetime)
        answer = {
            "token": token,  # one, in the words of token.md and in those of OAuth2: some clients read only the first
            "access_token": token,
            "expires_in": lifetime,
            "issued_at": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return answer, left

    def _refresh_token(self, subject: Subject) -> str:
        return self._signer.issue(subject, (), self._clock(), self._settings.refresh_lifetime, Kind.REFRESH)

    async def _form(self, request: Request) -> list[tuple[str, str]]:
        """The form's fields. Raises OAuthError for what is not a form, or too large."""
        media_type = (request.headers.get("content-type") or "").partition(";")[0].strip().lower()
        if media_type != FORM:
            raise _invalid_request(f"the content must be {FORM}")
        content = await _read(request.body, self._settings.limits.form_bytes)
        try:
            # Keys and values are text only once their percent-encoding is undone, so the bytes must be ASCII.
            text = content.decode("ascii")
            return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS)
        except ValueError:
            raise _invalid_request("the form is malformed, or has too many fields") from None


class OAuthError(Exception):
    """A failure of POST, to be told in OAuth2's words too: its ``code`` (RFC 6749 5.2), and what the others read."""

    def __init__(self, code: str, failure: RegistryError) -> None:
        super().__init__(failure.message)
        self.code = code
        self.failure = failure


async def _read(body: Body, limit: int) -> bytes:
    """The whole of a small body. Raises OAuthError (413) above ``limit`` bytes, before they are read if it can."""
    too_large = RegistryError(413, "SIZE_INVALID", f"the form is larger than {limit} bytes")
    if body.length is not None and body.length > limit:
        raise OAuthError("invalid_request", too_large)
    content = bytearray()
    async for chunk in body:
        content += chunk
        if len(content) > limit:
            raise OAuthError("invalid_request", too_large)
    return bytes(content)


async def _granted(proof: Awaitable[Subject]) -> Subject:
    """The subject that was proved; what was not is told as ``invalid_grant``.

    With 401, where RFC 6749 5.2 says 400: docker and skopeo take only 401 for "wrong password", and containerd then
    tries GET, which tells the same.
    """
    try:
        return await proof
    except RegistryError as failure:
        if failure.status != 401:
            raise
        raise OAuthError("invalid_grant", failure) from None


def _required(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name)
    if not value:
        raise _invalid_request(f"the form lacks {name}")
    return value


def _invalid_request(message: str) -> OAuthError:
    return OAuthError("invalid_request", RegistryError(400, "UNSUPPORTED", message))


def _refuse(failure: RegistryError, oauth: Mapping[str, str]) -> Response:
    entry = {"code": failure.code, "message": failure.message}
    response = _reply(failure.status, {**oauth, "errors": [entry]})
    for name, value in failure.headers:
        response.headers.add(name, value)
    if failure.status == 401:
        # Basic: a Bearer challenge at the token endpoint would send the client in a circle.
        response.headers.add("WWW-Authenticate", scopes.basic_challenge(REALM))
    return response


def _reply(status: int, answer: Mapping[str, object]) -> Response:
    # A token must not stay in any cache (RFC 6749 5.1).
    headers = Headers.of(
        {
            "Content-Type": "application/json",
            "Cache-Control": "no-store",
            "Docker-Distribution-Api-Version": "registry/2.0",
            "X-Content-Type-Options": "nosniff",
        }
    )
    return Response(status, headers, msgspec.json.encode(answer))
