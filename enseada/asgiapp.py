"""A registry as an ASGI 3 application, for the servers and frameworks that speak it, on asyncio and on trio.

The rule: the host's server carries the bytes, and nothing is collected here: a body is received as it is pulled, an
answer is sent as it is read. What a server of our own checks and limits is the host's server's to do; docs/library.md
says what. Specification: ASGI 3.0, HTTP & WebSocket 2.5, Lifespan 2.0.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, unquote

import anyio

from enseada.answer import close_all, content_length, first_piece, has_no_content, instead
from enseada.exchange import CLIENT_GONE, Exchange, new_id
from enseada.http import BodyError, Headers, Request
from enseada.logs import mask_path
from enseada.protocols.http1.head import MAX_DIGITS, is_authority
from enseada.requestbody import check_rate
from enseada.wire import CONNECTION_FIELDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from enseada.embedding import Registry
    from enseada.http import Chunk, Response
    from enseada.limits import Limits

logger = logging.getLogger("enseada.server")

Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_AS_SENT = "".join(map(chr, range(0x21, 0x7F)))
"""What a request target may consist of; whatever else a server lets through is percent-encoded."""


class ASGIApp:
    """An ASGI 3 application. Made by `asgi`."""

    def __init__(self, registry: Registry, on_exchange: Callable[[Exchange], None] | None) -> None:
        self.registry = registry
        self._on_exchange = on_exchange
        self._complained = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope (ASGI 3.0)."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._lifespan(receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})
            case unknown:
                raise ValueError(f"ASGI scopes of type {unknown!r} are not spoken here")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Run the registry from startup to shutdown, unless the host has entered `Registry.running` itself."""
        await receive()
        phase = "startup"
        try:
            if self.registry.is_running:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            else:
                async with self.registry.running():
                    if self.registry.admin_password is not None:
                        # It is told nowhere else, and without it nobody gets in.
                        print(f"admin password: {self.registry.admin_password} (shown once)", file=sys.stderr)
                    phase = "shutdown"
                    await send({"type": "lifespan.startup.complete"})
                    await receive()
        except Exception as error:
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.registry.is_running and not self._complained:
            self._complained = True
            logger.error("requests are answered 503: the registry is mounted, and its running() not entered")
        headers = Headers((name.lower(), value) for name, value in scope["headers"])
        body = ASGIBody(receive, _length(scope, headers), self.registry.limits, _expects(scope, headers))
        root_path, path = locate(scope, self.registry.prefixes)
        client, *_ = scope.get("client") or (None,)
        request = Request(
            method=scope["method"],
            path=path,
            query=quote(scope.get("query_string", b""), safe=_AS_SENT),
            headers=headers,
            body=body,
            scheme=scope.get("scheme", "http"),
            host=_host(scope, headers),
            root_path=root_path,
            client=client or None,
            id=new_id(),
        )
        answering = _Answering(request, body, receive, send)
        try:
            await answering.run(self.registry)
        finally:
            body.close()
            self._report(answering)

    def _report(self, answering: _Answering) -> None:
        if self._on_exchange is None:
            return
        try:
            self._on_exchange(answering.over())
        except Exception:
            logger.exception("on_exchange failed for request %s", answering.request.id)


def asgi(registry: Registry, *, on_exchange: Callable[[Exchange], None] | None = None) -> ASGIApp:
    """An ASGI 3 application that answers from ``registry``, whichever event loop the host's server runs on.

    As a server's only application it runs the registry from the lifespan's startup to its shutdown, and prints the
    password of ``admin`` on standard error if the first start made one. A mounted application is sent no lifespan:
    the host then enters ``registry.running()`` in its own, and until it does every answer is 503.

    It respects ``root_path``, and may be mounted anywhere. Where it is mounted at a path that ends with a format's own
    prefix, such as ``/v2``, it is that format alone. ``on_exchange`` is called after each request, and must neither
    block nor raise (`log_exchange` writes a line).
    """
    return ASGIApp(registry, on_exchange)


def locate(scope: Scope, prefixes: Iterable[str]) -> tuple[str, str]:
    """The prefix under which the host has mounted us, and the path after it, both percent-encoded as they were sent.

    By the specification ``path`` includes ``root_path``; Starlette before 0.33, and servers behind a proxy that cuts
    the prefix off, leave it out. Where ``root_path`` ends with one of ``prefixes``, that part is the format's: whoever
    mounts us at ``/v2`` has asked for what is under ``/v2`` here.
    """
    root: str = scope.get("root_path", "").rstrip("/")
    path: str = scope["path"]
    raw = quote(scope.get("raw_path") or b"", safe=_AS_SENT)
    # Who rewrites ``path`` on the way to us may leave ``raw_path`` as it was.
    if unquote(raw) not in (path, root + path):
        raw = quote(path)
    parts = raw.split("/")
    depth = root.count("/") + 1
    if unquote("/".join(parts[:depth])) == root:
        root, path = "/".join(parts[:depth]), "/".join(["", *parts[depth:]])
    else:
        root, path = quote(root), raw
    for prefix in prefixes:
        if root.endswith(prefix):
            return root.removesuffix(prefix), prefix + path
    return root, path


def _length(scope: Scope, headers: Headers) -> int | None:
    """Bytes of content, as far as the head says."""
    length = headers.get("content-length")
    if length is not None:
        return int(length) if length.isascii() and length.isdigit() and len(length) <= MAX_DIGITS else None
    # In HTTP/1 content is announced (RFC 9112 6.3); in HTTP/2 and 3 it just comes.
    return 0 if _is_http1(scope) and "transfer-encoding" not in headers else None


def _expects(scope: Scope, headers: Headers) -> bool:
    """Whether the client waits for 100-continue before it sends its content."""
    return _is_http1(scope) and (headers.get("expect") or "").lower() == "100-continue"


def _is_http1(scope: Scope) -> bool:
    version: str = scope.get("http_version", "1.1")
    return version < "2"


def _host(scope: Scope, headers: Headers) -> str:
    """The authority that the client asked for: it stands in the addresses that clients are told, and so is checked."""
    host = headers.get("host") or ""
    if not is_authority(host):
        name, port = scope.get("server") or ("localhost", None)
        host = name if port is None else f"{name}:{port}"
    return host if is_authority(host) else "localhost"


class ASGIBody:
    """The content of one request (`enseada.Body`), received as it is pulled, and not a message before."""

    def __init__(self, receive: Receive, length: int | None, limits: Limits, expects: bool) -> None:
        self.length = length
        self.expects = expects
        """Whether the client waits for 100-continue: the server says it when content is received for the first time."""
        self.bytes_in = 0
        self.error: BodyError | None = None
        self._receive = receive
        self._limits = limits
        self._complete = False
        self._over = False
        self._waited = 0.0

    def close(self) -> None:
        """The exchange is over: whoever still holds this gets no more."""
        self._over = True

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        if self.error is not None:
            raise self.error
        if self._over:
            raise BodyError("the request is over", None)
        try:
            while not self._complete:
                chunk = await self._next()
                if chunk:
                    self.bytes_in += len(chunk)
                    return chunk
            if self.length is not None and self.bytes_in != self.length:
                raise BodyError("the content is not as long as it was said to be", 400)
        except BodyError as error:
            self.error = error
            raise
        raise StopAsyncIteration

    async def _next(self) -> bytes:
        self.expects = False
        limits, began = self._limits, anyio.current_time()
        try:
            with anyio.fail_after(limits.read_timeout):
                message = await self._receive()
        except TimeoutError as error:
            raise BodyError(f"no content came for {limits.read_timeout:g} seconds", 408) from error
        if message["type"] == "http.disconnect":
            raise BodyError("the client has gone", None)
        self._waited += anyio.current_time() - began
        chunk: bytes = message.get("body", b"")
        check_rate(self.bytes_in + len(chunk), self._waited, limits)
        self._complete = not message.get("more_body", False)
        return chunk


class _ClientGone(Exception):
    """There is nobody to send to."""


class AnswerBroken(Exception):
    """The content of an answer broke off. It leaves the application, for that is how a server learns that it must cut
    the connection, so that nobody takes the answer for whole."""


class _Answering:
    """One request, its answer, and what is told of them."""

    def __init__(self, request: Request, body: ASGIBody, receive: Receive, send: Send) -> None:
        self.request = request
        self._body = body
        self._receive = receive
        self._send = send
        self._began = anyio.current_time()
        self._status = CLIENT_GONE
        self._bytes_out = 0
        self._error: str | None = None
        self._gone = False

    def over(self) -> Exchange:
        """What is told of it when it is over."""
        request, seconds = self.request, anyio.current_time() - self._began
        return Exchange(
            request.method,
            request.path,
            request.query,
            self._status,
            self._body.bytes_in,
            self._bytes_out,
            seconds,
            request.subject,
            request.client,
            request.id,
            self._error,
        )

    async def run(self, registry: Registry) -> None:
        """Ask the registry, and send what it answers. Raises AnswerBroken."""
        response: Response | None = None
        rest: AsyncIterator[bytes] | None = None
        try:
            try:
                response = await registry(self.request)
                first, rest = await first_piece(self.request, response, by_file=False)
            except Exception as error:
                broken, response = response, None
                await close_all(broken and broken.body)
                self._error, response = instead(self.request, error, self._body.error)
                if response is None:
                    return
                first = b""
            await self._send_answer(response, first, rest)
        except _ClientGone:
            self._error = "the client has gone"
        except BaseException as error:
            self._error = str(error) if isinstance(error, Exception) else "cancelled"
            raise
        finally:
            await close_all(rest, response and response.body)

    async def _send_answer(self, response: Response, first: bytes, rest: AsyncIterator[bytes] | None) -> None:
        length = content_length(self.request, response)
        fields = ((name.lower(), value) for name, value in response.headers.raw)  # ASGI has no others
        headers = [pair for pair in fields if pair[0] not in CONNECTION_FIELDS]
        # Content-Length may be in a 304 (RFC 9110 8.6), but there are servers that would wait for the content.
        if length is not None and response.status != 304:
            headers.append((b"content-length", b"%d" % length))
        headers.append((b"x-request-id", self.request.id.encode("ascii")))
        if self._body.expects:
            # The client may send the content after this answer, or not: nobody could tell where the next head begins.
            headers.append((b"connection", b"close"))
        await self._deliver({"type": "http.response.start", "status": response.status, "headers": headers})
        self._status = response.status
        if rest is not None:
            await self._send_pieces(length, first, rest)
        whole = response.body if isinstance(response.body, bytes) else b""
        await self._send_body(b"" if has_no_content(self.request, response) else whole, more=False)

    async def _send_pieces(self, length: int | None, first: bytes, rest: AsyncIterator[bytes]) -> None:
        """Send the content piece by piece, unless the client goes away meanwhile. Raises AnswerBroken."""
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._cancel_when_gone, group.cancel_scope)
            try:
                await self._pump(length, first, rest)
            except Exception as error:
                failure = error
            group.cancel_scope.cancel()
        if self._gone or isinstance(failure, _ClientGone):
            raise _ClientGone
        if failure is not None:
            request, path = self.request, mask_path(self.request.path)
            logger.error("answer %s broke off: %s %s", request.id, request.method, path, exc_info=failure)
            raise AnswerBroken(f"{type(failure).__name__}: {failure}") from failure

    async def _pump(self, length: int | None, first: bytes, rest: AsyncIterator[bytes]) -> None:
        piece: bytes | None = first
        while piece is not None:
            if length is not None and self._bytes_out + len(piece) > length:
                raise ValueError("the content is longer than it was said to be")
            if piece:
                await self._send_body(piece, more=True)
            piece = await anext(rest, None)
        if length is not None and self._bytes_out < length:
            raise ValueError("the content is shorter than it was said to be")

    async def _cancel_when_gone(self, scope: anyio.CancelScope) -> None:
        """Cancel ``scope`` when the client has gone: many servers say so by no other means."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone = True
                scope.cancel()
                return
            if message.get("more_body", False):  # a body that nobody wanted: what follows stays where it is
                return

    async def _send_body(self, piece: bytes, *, more: bool) -> None:
        await self._deliver({"type": "http.response.body", "body": piece, "more_body": more})
        self._bytes_out += len(piece)

    async def _deliver(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError as error:  # ASGI HTTP 2.4: the client has gone
            raise _ClientGone from error
