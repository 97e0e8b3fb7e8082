"""What a fault does to the request that meets it.

An act stands between the connection and the registry, as a handler around a handler. One rule: it does what a real
network, proxy or overloaded server does, and nothing that the code between could not meet in earnest. It asks whether
it may when it can, not before, and so is counted before the client can see it.

What cuts a connection does so at its transport; everything above finds a client that has gone, and is none the wiser.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from enseada.answer import close_all, content_length, has_no_content
from enseada.http import BodyError, RegistryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from enseada.http import Body, Chunk, Request, Response, ResponseBody
    from enseada.requestbody import RequestBody
    from enseada.testing.rules import Operation
    from enseada.transport import Transport

CODES = {
    401: "UNAUTHORIZED",
    403: "DENIED",
    405: "UNSUPPORTED",
    413: "SIZE_INVALID",
    416: "RANGE_INVALID",
    429: "TOOMANYREQUESTS",
    503: "UNAVAILABLE",
}
"""The code that a registry gives with a status; with 404 it depends on what was asked for (`NOT_FOUND_CODES`)."""
NOT_FOUND_CODES: dict[Operation | None, str] = {
    "blob": "BLOB_UNKNOWN",
    "manifest": "MANIFEST_UNKNOWN",
    "upload": "BLOB_UPLOAD_UNKNOWN",
}
OTHER_CODE = "UNKNOWN"
"""The code with every other status: not in the specification, and what other registries say then."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A request that meets a fault, and what can be done to it."""

    request: Request
    operation: Operation | None
    body: RequestBody
    """The request's content, as its connection knows it."""
    transport: Transport
    refusal: Callable[[RegistryError], Response]
    """The answer that tells of a failure, in the dialect of the request's format."""
    happens: Callable[[], bool]
    """To be called when the fault can happen: it must if the answer is True, and must not otherwise."""

    async def cut(self, *, reset: bool) -> None:
        """End the connection, by a reset or in good order. What is sent after it goes nowhere."""
        await (self.transport.abort() if reset else self.transport.aclose())


class Act(Protocol):
    """What a fault does. Its text says so: "refuse with 503"."""

    async def __call__(self, scene: Scene, proceed: Callable[[], Awaitable[Response]]) -> Response:
        """Answer the request; ``proceed`` lets the registry do it, or the next fault that is due."""
        ...


# -- before the registry


@dataclass(frozen=True, slots=True)
class Refuse:
    status: int
    code: str | None
    message: str
    headers: tuple[tuple[str, str], ...]

    async def __call__(self, scene: Scene, proceed: Callable[[], Awaitable[Response]]) -> Response:
        if not scene.happens():
            return await proceed()
        code = self.code or CODES.get(self.status, OTHER_CODE)
        if self.code is None and self.status == 404:
            code = NOT_FOUND_CODES.get(scene.operation, "NAME_UNKNOWN")
        return scene.refusal(RegistryError(self.status, code, self.message, headers=self.headers))

    def __str__(self) -> str:
        return f"refuse with {self.status}"


class Hold:
    """Holds requests until it is released; from then on it lets all pass."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._released = False
        self._wake: list[Callable[[], None]] = []

    async def __call__(self, scene: Scene, proceed: Callable[[], Awaitable[Response]]) -> Response:
        if scene.happens():
            released = trio.Event()
            token = trio.lowlevel.current_trio_token()
            with self._lock:
                if self._released:
                    released.set()
                else:
                    self._wake.append(partial(token.run_sync_soon, released.set))
            await released.wait()
        return await proceed()

    def release(self) -> None:
        """Let them go. For any thread; safe any number of times."""
        with self._lock:
            self._released = True
            wake, self._wake = self._wake, []
        for each in wake:
            with suppress(trio.RunFinishedError):
                each()

    def __str__(self) -> str:
        return "hold"


@dataclass(frozen=True, slots=True)
class LoseRequest:
    reset: bool

    async def __call__(self, scene: Scene, proceed: Callable[[], Awaitable[Response]]) -> Response:
        if not scene.happens():
            return await proceed()
        await scene.cut(reset=self.reset)
        scene.body.error = BodyError("the connection was cut before the registry saw the request: a fault", None)
        raise scene.body.error

    def __str__(self) -> str:
        return "lose the request"


@dataclass(frozen=True, slots=True)
class CutRequest:
    after: int

    async def __call__(self, scene: Scene, proceed: Callable[[], Awaitable[Response]]) -> Response:
        body = _CutBody(scene.request.body, self.after, scene.happens)
        scene.request.body = body
        try:
            return await proceed()
        finally:
            # The registry has done by now what it does for a client that has gone: one that comes back finds what was
            # saved, and need not wait.
            if body.error is not None:
                scene.body.error = body.error
                await scene.cut(reset=True)

    def __str__(self) -> str:
        return f"cut the connection after {self.after} bytes of the request's content"


class _CutBody:
    """The first ``after`` bytes of a body; when there are more, and it ``happens``, the client has gone."""

    def __init__(self, body: Body, after: int, happens: Callable[[], bool]) -> None:
        self.length = body.length
        self.error: BodyError | None = None
        self._chunks = aiter(body)
        self._after = after
        self._left = after
        self._happens: Callable[[], bool] | None = happens
        self._is_cut = False

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        if not self._is_cut:
            chunk = await anext(self._chunks)
            if self._happens is not None and len(chunk) > self._left:
                self._is_cut = self._happens()
                self._happens = None
            if not self._is_cut:
                self._left -= len(chunk)
                return chunk
            if self._left:
                return chunk[: self._left]
        self.error = BodyError(f"the connection was cut after {self._after} bytes: a fault", None)
        raise self.error


# -- after the registry


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    reset: bool

    async def __call__(self, scene: Scene, proceed: Callable[[], Awaitable[Response]]) -> Response:
        response = await proceed()
        if scene.happens():
            await scene.cut(reset=self.reset)
        return response

    def __str__(self) -> str:
        return "lose the answer"


@dataclass(frozen=True, slots=True)
class CutAnswer:
    after: int
    reset: bool

    async def __call__(self, scene: Scene, proceed: Callable[[], Awaitable[Response]]) -> Response:
        response = await proceed()
        if not has_no_content(scene.request, response):
            _change(response, partial(self._pieces, scene), content_length(scene.request, response))
        return response

    async def _pieces(self, scene: Scene, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        left = self.after
        yield b""  # the head goes out before anything can be cut
        async for piece in pieces:
            if len(piece) > left >= 0 and scene.happens():
                yield piece[:left]
                await scene.cut(reset=self.reset)
                yield piece[left:]  # there is nobody to send it to, and so the connection finds out
                return
            left -= len(piece)
            yield piece

    def __str__(self) -> str:
        return f"cut the connection after {self.after} bytes of the answer's content"


@dataclass(frozen=True, slots=True)
class Truncate:
    after: int

    async def __call__(self, scene: Scene, proceed: Callable[[], Awaitable[Response]]) -> Response:
        response = await proceed()
        length = content_length(scene.request, response)
        # The length is in the head, so it is decided now; where nobody knows it, content cannot be short of it.
        if not has_no_content(scene.request, response) and (length or 0) > self.after and scene.happens():
            _change(response, self._pieces, self.after)
        return response

    async def _pieces(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        left = self.after
        async for piece in pieces:
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return

    def __str__(self) -> str:
        return f"truncate the answer's content to {self.after} bytes"


@dataclass(frozen=True, slots=True)
class Corrupt:
    at: int

    async def __call__(self, scene: Scene, proceed: Callable[[], Awaitable[Response]]) -> Response:
        response = await proceed()
        if not has_no_content(scene.request, response):
            _change(response, partial(self._pieces, scene), content_length(scene.request, response))
        return response

    async def _pieces(self, scene: Scene, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        begin = 0
        async for piece in pieces:
            here = self.at - begin
            begin += len(piece)
            if 0 <= here < len(piece) and scene.happens():
                yield piece[:here] + bytes([piece[here] ^ 0xFF]) + piece[here + 1 :]
            else:
                yield piece

    def __str__(self) -> str:
        return f"corrupt byte {self.at} of the answer's content"


@dataclass(frozen=True, slots=True)
class ChangeHeaders:
    headers: tuple[tuple[str, str | None], ...]

    async def __call__(self, scene: Scene, proceed: Callable[[], Awaitable[Response]]) -> Response:
        response = await proceed()
        for name, value in self.headers if scene.happens() else ():
            if value is None:
                key = name.lower().encode("ascii")
                response.headers.raw = [pair for pair in response.headers.raw if pair[0] != key]
            else:
                response.headers.set(name, value)
        return response

    def __str__(self) -> str:
        return f"change the answer's {', '.join(name for name, _ in self.headers)}"


class _Pieces:
    """An answer's content on its way through ``change``, of a length that is not known."""

    def __init__(
        self, source: ResponseBody, change: Callable[[AsyncIterator[bytes]], AsyncGenerator[bytes, None]]
    ) -> None:
        self._source = source
        self._unchanged = _once(source) if isinstance(source, bytes) else aiter(source)
        self._pieces = change(self._unchanged)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        await close_all(self._pieces, self._unchanged, self._source)


class _Content(_Pieces):
    """The same, when the length is known."""

    file: int | None = None
    start = 0

    def __init__(
        self,
        source: ResponseBody,
        change: Callable[[AsyncIterator[bytes]], AsyncGenerator[bytes, None]],
        length: int,
    ) -> None:
        super().__init__(source, change)
        self.length = length


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _change(
    response: Response,
    change: Callable[[AsyncIterator[bytes]], AsyncGenerator[bytes, None]],
    length: int | None,
) -> None:
    """Send an answer's content through ``change``, which makes ``length`` bytes of it."""
    source = response.body
    response.body = _Pieces(source, change) if length is None else _Content(source, change, length)
