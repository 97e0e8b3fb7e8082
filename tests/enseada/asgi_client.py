"""A server's side of ASGI, by hand: drives an application message by message, under whatever event loop runs.

One rule: it judges. An application that speaks out of turn, or whose content is not as long as it said, is a failure
of the test, whatever that is about.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from enseada.http import Headers
from tests.enseada.oci_client import basic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from enseada.asgiapp import ASGIApp, Message


@dataclass
class Answer:
    """What an application has sent, so far."""

    status: int = 0
    headers: Headers = field(default_factory=Headers)
    pieces: list[bytes] = field(default_factory=list)
    whole: bool = False
    """Whether the application has ended it."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def header(self, name: str) -> str:
        [value] = self.headers.get_all(name)
        return value


class Exchange:
    """One request: the messages that the application may receive, and the answer that it sends."""

    def __init__(self, method: str, content: Iterable[bytes] = (), *, then_gone: bool = False) -> None:
        """``content``: in messages; ``then_gone``: the client goes after them, and before the last."""
        self.method = method
        self.answer = Answer()
        self.received = 0
        """Messages with content that were asked for and given."""
        self.gone = anyio.Event()
        """Set it to have the client go away."""
        self.sent_piece = anyio.Event()
        """Set with the first piece of the answer's content."""
        self.hold = False
        """Whether the client, after the first piece, takes no more until it goes."""
        self._content = list(content)
        self._then_gone = then_gone
        self._receiving = False

    async def receive(self) -> Message:
        assert not self._receiving, "two receives at a time"
        self._receiving = True
        try:
            await anyio.lowlevel.checkpoint()
            if self.received < len(self._content):
                self.received += 1
                more = self._then_gone or self.received < len(self._content)
                return {"type": "http.request", "body": self._content[self.received - 1], "more_body": more}
            if self._then_gone:
                return {"type": "http.disconnect"}
            if not self._content and not self.received:
                self.received = 1
                return {"type": "http.request", "body": b"", "more_body": False}
            await self.gone.wait()
            return {"type": "http.disconnect"}
        finally:
            self._receiving = False

    async def send(self, message: Message) -> None:
        answer = self.answer
        assert not answer.whole, "more after the end"
        if message["type"] == "http.response.start":
            assert not answer.status, "two starts"
            answer.status = message["status"]
            answer.headers = Headers(message["headers"])
            assert all(name == name.lower() for name, _ in answer.headers.raw)
        else:
            assert message["type"] == "http.response.body"
            assert answer.status, "content before the start"
            body = message.get("body", b"")
            assert type(body) is bytes
            if body:
                answer.pieces.append(body)
                self.sent_piece.set()
            answer.whole = not message.get("more_body", False)
            if answer.whole:
                self._judge(answer)
        await anyio.lowlevel.checkpoint()
        if self.hold and answer.pieces:
            await self.gone.wait()

    def _judge(self, answer: Answer) -> None:
        length = answer.headers.get("content-length")
        if self.method == "HEAD" or answer.status in (204, 304):
            assert answer.body == b""
            assert length is None or self.method == "HEAD"
        else:
            assert length == str(len(answer.body))
        assert answer.header("x-request-id")


@dataclass
class Host:
    """An application, and how its host has mounted it."""

    app: ASGIApp
    scope: Mapping[str, Any] = field(default_factory=dict)
    """Goes into every scope."""
    authorization: str | None = basic("admin")

    def http(self, method: str, target: str, headers: Mapping[str, str], **more: Any) -> dict[str, Any]:
        path, _, query = target.partition("?")
        given = {} if self.authorization is None else {"Authorization": self.authorization}
        fields = Headers.of({"Host": "registry.test", **given, **headers})
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "query_string": query.encode(),
            "root_path": "",
            "headers": fields.raw,
            "client": ("192.0.2.1", 1234),
            "server": ("127.0.0.1", 80),
            **self.scope,
            **more,
        }

    async def run(self, exchange: Exchange, target: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        """One exchange, to its end."""
        await self.app(self.http(exchange.method, target, headers or {}, **more), exchange.receive, exchange.send)

    async def ask(
        self, method: str, target: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One exchange with content in one message, whose answer is whole."""
        exchange = Exchange(method, [content] if content else [])
        await self.run(exchange, target, {"Content-Length": str(len(content)), **(headers or {})})
        assert exchange.answer.whole
        return exchange.answer

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[list[Message]]:
        """The application's lifespan; what it sends. The block runs after its answer to the startup."""
        to_app, from_host = anyio.create_memory_object_stream[Any](math.inf)
        said: list[Message] = []
        answered = anyio.Event()

        async def send(message: Message) -> None:
            said.append(message)
            answered.set()
            await anyio.lowlevel.checkpoint()

        async def run() -> None:
            try:
                await self.app({"type": "lifespan", "asgi": {"version": "3.0"}}, from_host.receive, send)
            except Exception:
                # As a server does: what was the matter has been said.
                assert said[-1]["type"].endswith(".failed")

        with to_app, from_host:
            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await to_app.send({"type": "lifespan.startup"})
                await answered.wait()
                yield said
                await to_app.send({"type": "lifespan.shutdown"})
