"""The application: from a Request to a Response, whoever carries them.

The way of a request: find the format by its prefix and the route in its table, authenticate, ask whether the subject
may, call the handler. Every failure is translated here, once, into the dialect of its format.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from enseada.auth.policy import ANONYMOUS
from enseada.http import BodyError, Headers, RegistryError, Response, unavailable
from enseada.storage.blobs.base import BlobError
from enseada.storage.documents.base import DocumentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from enseada.auth.authenticate import Authenticator
    from enseada.auth.policy import Authorizer
    from enseada.http import Request
    from enseada.router import Format
    from enseada.uploads import Uploads

_log = logging.getLogger(__name__)

READY_PROBE = "ready"
"""The id of a document that is never there: that it can be asked for is what `/-/ready` says."""


class Application:
    """An `enseada.http.Handler`: the formats, and what they share. Made by `enseada.build.open_registry`."""

    def __init__(
        self,
        formats: Sequence[Format],
        authenticator: Authenticator,
        authorizer: Authorizer,
        uploads: Uploads,
        public_url: str | None = None,
    ) -> None:
        """``public_url``: scheme and authority by which clients reach us, where a proxy hides them."""
        self._public = None if public_url is None else public_url.split("://", 1)
        self._formats = tuple(formats)
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._uploads = uploads

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The paths under which the formats live, without a slash at their ends."""
        return tuple(each.prefix for each in self._formats)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do, while the block runs, what goes on beside requests.

        Also once it is cancelled: requests that are under way in it have their grace then.
        """
        lasting = anyio.CancelScope(shield=True)

        async def beside() -> None:
            with lasting:
                await self._uploads.run()

        async with anyio.create_task_group() as group:
            group.start_soon(beside)
            try:
                yield
            finally:
                lasting.cancel()

    async def __call__(self, request: Request) -> Response:
        """Answer a request. Raises only what is a defect, and BodyError when nobody is there to be answered."""
        if self._public is not None:
            request.scheme, request.host = self._public
        found = self._format(request.path)
        if found is None:
            return await self._outside(request)
        try:
            return await self._answer(request, found)
        except RegistryError as failure:
            return found.refuse(request, failure)
        except BodyError as failure:
            if failure.status is None:
                raise
            return found.refuse(request, found.broken(failure, failure.status))
        except (DocumentError, BlobError) as failure:
            _log.error("request %s: the store failed: %s: %s", request.id, type(failure).__name__, failure)
            return found.refuse(request, unavailable("the store does not answer for now; try again"))

    def refuse(self, request: Request, failure: RegistryError) -> Response | None:
        """The answer that tells of a failure, in the dialect of the format that the request is for; None: for none."""
        found = self._format(request.path)
        return None if found is None else found.refuse(request, failure)

    async def _answer(self, request: Request, found: Format) -> Response:
        call = found.route(request)
        subject = ANONYMOUS if call.route.open else await self._authenticator.authenticate(request)
        if call.route.action is not None:
            decision = self._authorizer.decide(subject, call.route.action, call.object)
            if not decision.allowed:
                raise found.deny(request, call, subject, decision)
        return await call.route.handler(request, call.params, subject)

    def _format(self, path: str) -> Format | None:
        for candidate in self._formats:
            if path.startswith(candidate.prefix) and path[len(candidate.prefix) :][:1] in ("", "/"):
                return candidate
        return None

    async def _outside(self, request: Request) -> Response:
        text = Headers.of({"Content-Type": "text/plain; charset=utf-8"})
        if request.method in ("GET", "HEAD"):
            if request.path == "/-/live":
                return Response(200, text, b"ok\n")
            if request.path == "/-/ready":
                try:
                    await self._uploads.documents.get(READY_PROBE)
                except DocumentError as failure:
                    _log.warning("not ready: %s", failure)
                    return Response(503, text, b"the document store does not answer\n")
                return Response(200, text, b"ok\n")
        return Response(404, text, b"nothing is at this address\n")
