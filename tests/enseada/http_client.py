"""A client that sends the bytes it is told to and takes answers apart with h11: for tests of the connection loop.

One rule: it judges. An answer that is cut, or that h11 refuses, is a `Truncated`, never a short body; and whatever is
served here is served with lent buffers that are overwritten (`tests.poison`).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import trio
import trio.testing

from enseada.connection import Ending, serve_connection
from enseada.http import Headers, Request, Response
from enseada.limits import Limits
from enseada.serving import Started, serve
from enseada.transport import StreamTransport
from tests.poison import poison

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from enseada.config import Settings
    from enseada.exchange import Exchange
    from enseada.http import Handler


class Truncated(Exception):
    """The connection ended before the answer did."""


@dataclass(frozen=True)
class Answer:
    """One answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    raw_names: tuple[str, ...]
    """The fields' names as they were written."""


class Client:
    """One client's end of a connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""
        self.eof = False

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(data)

    async def send_eof(self) -> None:
        """End our half."""
        assert isinstance(self.stream, trio.abc.HalfCloseableStream)
        await self.stream.send_eof()

    async def answer(self, method: str = "GET") -> Answer:
        """The next final answer, to a request of that method. Raises Truncated."""
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("host", "x"), ("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        if self.buffer:
            connection.receive_data(self.buffer)
        head: h11.Response | None = None
        body = b""
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                raise Truncated(f"{error}; got {head} {body[:100]!r}") from error
            if event is h11.NEED_DATA:
                connection.receive_data(await self._read())
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise Truncated("no answer")
        self.buffer = connection.trailing_data[0]
        assert head is not None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, headers, body, tuple(name.decode() for name, _ in head.headers.raw_items()))

    async def interim(self) -> bytes:
        """The next 100-continue, whole."""
        while b"\r\n\r\n" not in self.buffer:
            data = await self._read()
            assert data, "no interim answer"
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return line

    async def rest(self) -> bytes:
        """Everything until the server ends."""
        while await self._read_more():
            pass
        rest, self.buffer = self.buffer, b""
        return rest

    async def _read_more(self) -> bytes:
        data = await self._read()
        self.buffer += data
        return data

    async def _read(self) -> bytes:
        try:
            data = bytes(await self.stream.receive_some(65536))
        except trio.BrokenResourceError:
            data = b""
        self.eof = self.eof or not data
        return data


@dataclass
class Service:
    """A connection being served in the background."""

    client: Client
    exchanges: list[Exchange]
    ending: Ending
    over: trio.Event
    """Set when the server has ended the connection."""


@asynccontextmanager
async def served(handler: Handler, limits: Limits | None = None, *, lockstep: bool = False) -> AsyncIterator[Service]:
    """Serve one connection over a memory stream. ``lockstep``: a sender waits until its bytes are read."""
    poison()
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    ours, theirs = make()
    service = Service(Client(ours), [], Ending(), trio.Event())

    async def run() -> None:
        try:
            await serve_connection(
                StreamTransport(theirs, "192.0.2.1"),
                handler,
                limits=limits or Limits(),
                on_exchange=service.exchanges.append,
                ending=service.ending,
            )
        finally:
            service.over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield service
        nursery.cancel_scope.cancel()


@dataclass
class Registry:
    """A whole registry, served on sockets by `enseada.serving.serve`."""

    started: Started
    shutdown: trio.Event
    over: trio.Event
    """Set when it has ended."""

    @asynccontextmanager
    async def connected(self, number: int = 0) -> AsyncIterator[Client]:
        """A client at its ``number``-th address."""
        scheme, _, where = self.started.addresses[number].partition("://")
        if scheme == "http+unix":
            stream: trio.abc.Stream = await trio.open_unix_socket(where)
        else:
            host, _, port = where.rpartition(":")
            stream = await trio.open_tcp_stream(host, int(port))
        try:
            yield Client(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def ask(self, method: str, target: str, **fields: str) -> Answer:
        """One request without content, on a connection of its own."""
        lines = [f"{method} {target} HTTP/1.1", "Host: registry.test", "Content-Length: 0"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        async with self.connected() as client:
            await client.send("\r\n".join([*lines, "", ""]).encode())
            return await client.answer(method)


@asynccontextmanager
async def registry_served(settings: Settings) -> AsyncIterator[Registry]:
    """Serve a registry until the block is left; requests that are under way then have their grace."""
    poison()
    shutdown, over = trio.Event(), trio.Event()

    async def run(task_status: trio.TaskStatus[Started]) -> None:
        await serve(settings, shutdown=shutdown, task_status=task_status)
        over.set()

    async with trio.open_nursery() as nursery:
        started: Started = await nursery.start(run)
        try:
            yield Registry(started, shutdown, over)
        finally:
            shutdown.set()


# -- requests, and handlers for them

GET = b"GET /a?b=c HTTP/1.1\r\nHost: example.org\r\n\r\n"


async def echo(request: Request) -> Response:
    """Answers with what was asked, and with the content as it was received."""
    content = b"".join([bytes(chunk) async for chunk in request.body])
    line = f"{request.method} {request.path} {request.query} {request.host} {request.body.length}\n"
    return Response(200, Headers.of({"content-type": "text/plain"}), line.encode() + content)


async def ignore(request: Request) -> Response:
    """Answers without looking at the content."""
    return Response(202, body=b"ignored")


def post(content: bytes, *fields: bytes, target: bytes = b"/p") -> bytes:
    lines = [b"POST " + target + b" HTTP/1.1", b"Host: h", b"Content-Length: %d" % len(content), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + content


def chunked(*pieces: bytes, fields: tuple[bytes, ...] = ()) -> bytes:
    lines = [b"POST /c HTTP/1.1", b"Host: h", b"Transfer-Encoding: chunked", *fields]
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"\r\n".join(lines) + b"\r\n\r\n" + coded + b"0\r\n\r\n"


async def pieces(*values: bytes) -> AsyncGenerator[bytes, None]:
    for value in values:
        yield value


class Closing:
    """Content that knows whether it was closed."""

    file = None
    start = 0

    def __init__(self, *values: bytes) -> None:
        self.length = sum(map(len, values))
        self.closed = 0
        self._pieces = pieces(*values)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        self.closed += 1
        await self._pieces.aclose()
