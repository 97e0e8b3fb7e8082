"""A client's connection: HTTP/1.1 requests with bodies from files, as tasks of `bench.load.loop`.

One rule: it reads answers that it can measure (a Content-Length, or no body), and raises for all else: a load that
misunderstands its server must never give a figure.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.load.loop import Readable, Writable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bench.load.loop import Loop, Task

SEND_BYTES = 1 << 20
"""Bytes of one sendfile."""
HEAD_LIMIT = 64 * 1024
RECEIVE_BYTES = 256 * 1024


class BadAnswer(Exception):
    """An answer that was not to be expected."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes

    def expect(self, *statuses: int) -> Answer:
        """Itself. Raises BadAnswer where its status is another."""
        if self.status not in statuses:
            raise BadAnswer(f"{self.status} in place of {statuses}: {self.body[:500]!r}")
        return self


class Client:
    """One connection, opened by its first request, and again after it was closed."""

    def __init__(
        self, loop: Loop, port: int, fields: Iterable[tuple[str, str]], receive_buffer: int | None = None
    ) -> None:
        """``fields``: those that every request has. ``receive_buffer``: bytes that the kernel takes for us, at most."""
        self._loop = loop
        self._address = ("127.0.0.1", port)
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields)
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._receive_buffer = receive_buffer

    @property
    def fd(self) -> int:
        """The connection's; only while it is open."""
        assert self._socket is not None
        return self._socket.fileno()

    def is_open(self) -> bool:
        """Whether the connection is open on both ends, and nothing lies in it."""
        if self._socket is None:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def connect(self) -> Task[None]:
        """Open the connection. Raises OSError."""
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._receive_buffer is not None:  # before it connects: the window's size hangs on it
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        self._buffer.clear()
        with suppress(BlockingIOError):
            self._socket.connect(self._address)
        yield Writable(self.fd)
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def request(
        self, method: str, target: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()
    ) -> Task[Answer]:
        """A request with a small body, and its answer. Raises BadAnswer, OSError."""
        yield from self.send_head(method, target, len(body) if method not in ("GET", "HEAD") else None, headers, body)
        return (yield from self.answer(method))

    def send_head(
        self, method: str, target: str, length: int | None, headers: Iterable[tuple[str, str]] = (), more: bytes = b""
    ) -> Task[None]:
        """Send a head for a body of ``length`` bytes, and ``more`` behind it in the same segment."""
        if self._socket is None:
            yield from self.connect()
        lines = [f"{method} {target} HTTP/1.1\r\n", self._fields]
        lines += [f"{name}: {value}\r\n" for name, value in headers]
        if length is not None:
            lines.append(f"Content-Length: {length}\r\n")
        yield from self.send("".join([*lines, "\r\n"]).encode() + more)

    def send(self, data: bytes) -> Task[None]:
        """Send all of ``data``."""
        assert self._socket is not None
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                yield Writable(self.fd)

    def send_file(self, file: int, offset: int, length: int) -> Task[None]:
        """Send a stretch of an open file."""
        assert self._socket is not None
        out = self.fd
        while length:
            try:
                sent = os.sendfile(out, file, offset, min(length, SEND_BYTES))
            except BlockingIOError:
                yield Writable(out)
                continue
            if not sent:
                raise BadAnswer("the file that is sent is shorter than it was")
            offset += sent
            length -= sent

    def answer(self, method: str) -> Task[Answer]:
        """The answer to a request that was sent. Raises BadAnswer, OSError."""
        status, headers = yield from self.answer_head()
        length = 0 if method == "HEAD" or status in (204, 304) else body_length(headers)
        while len(self._buffer) < length:
            yield from self._receive()
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body)

    def answer_head(self) -> Task[tuple[int, dict[str, str]]]:
        """The status and the fields of an answer, whose body is left to be read."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise BadAnswer("an answer's head without an end")
            yield from self._receive()
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        words = first.split(" ", 2)
        if not words[0].startswith("HTTP/1.") or len(words) < 2 or not words[1].isdecimal():
            raise BadAnswer(f"no answer of HTTP/1: {first[:100]!r}")
        pairs = (line.partition(":") for line in lines)
        return int(words[1]), {name.lower(): value.strip() for name, _, value in pairs}

    def receive(self, buffer: memoryview, flags: int = 0) -> Task[int]:
        """Some bytes of a body into ``buffer``; how many. ``flags`` are those of recv(2)."""
        if self._buffer:
            count = min(len(self._buffer), len(buffer))
            buffer[:count] = self._buffer[:count]
            del self._buffer[:count]
            return count
        assert self._socket is not None
        while True:
            try:
                count = self._socket.recv_into(buffer, 0, flags)
            except BlockingIOError:
                yield Readable(self.fd)
                continue
            if not count:
                raise BadAnswer("the server closed the connection within an answer")
            return count

    def _receive(self) -> Task[None]:
        assert self._socket is not None
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                yield Readable(self.fd)
                continue
            if not data:
                raise BadAnswer("the server closed the connection before it answered")
            self._buffer += data
            return


def body_length(headers: Mapping[str, str]) -> int:
    """The bytes of a body. Raises BadAnswer where they are not told beforehand."""
    if "transfer-encoding" in headers or not headers.get("content-length", "").isdecimal():
        raise BadAnswer(f"an answer whose length is not told: {dict(headers)!r}")
    return int(headers["content-length"])
