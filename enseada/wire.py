"""How an answer is written: its head, its content and its end (RFC 9112 4, 6, 7.1).

The rule: an answer is whole, or it can be seen that it is not. What would break out of its place is never written, and
content is held to the length that was announced. What is the same for many answers is made once.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from enseada.http import TOKEN, VALUE_BYTES, Headers, RegistryError, Response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SERVER = b"enseada"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CONNECTION_FIELDS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"x-request-id"})
"""Fields that only the connection writes: how a message is framed, and what its request is called."""
_SPELLED = {b"etag": b"ETag", b"www-authenticate": b"WWW-Authenticate", b"oci": b"OCI"}


class AnswerError(Exception):
    """An answer that cannot be written as it is: a head that would be malformed, or content of another length."""


class AnswerWriter:
    """One answer as bytes to be sent: `head`, then content, then `end`.

    After an AnswerError from `head` nothing is begun, and another answer may be written in its place.
    """

    __slots__ = ("_chunked", "_left", "begun", "ended")

    def __init__(self) -> None:
        self.begun = False
        self.ended = False
        self._chunked = False
        self._left: int | None = 0  # bytes of content that are still to come; None: as many as there will be

    def head(
        self, response: Response, length: int | None, request_id: str, *, content: bool, close: bool, chunks: bool
    ) -> bytes:
        """The head. ``length``: what Content-Length says; None: nothing. ``content``: whether any follows it, as it
        does not after HEAD; ``close``: the connection ends after the answer; ``chunks``: the client knows chunks.

        Raises AnswerError.
        """
        lines = [_status_line(response.status)]
        origin: dict[bytes, bytes] = {}
        for name, value in response.headers.raw:
            written = wire_name(name)
            if written not in _OURS:
                lines.append(b"%b: %b\r\n" % (written, value))
            elif written in _ORIGIN:
                origin[written] = value
        self._chunked = False
        self._left = length if content else 0
        if length is not None:
            lines.append(b"Content-Length: %d\r\n" % length)
        elif response.status not in (204, 304):
            self._chunked = chunks and content
            if chunks:  # said also to HEAD: it is what GET would get
                lines.append(b"Transfer-Encoding: chunked\r\n")
        else:
            self._left = 0
        lines.append(_date_and_server(int(time.time())) if not origin else _origin(origin, int(time.time())))
        lines.append(b"X-Request-Id: %b\r\n" % request_id.encode("ascii"))
        if close:
            lines.append(b"Connection: close\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        # Each is one line, save date and server, which are two.
        if head.translate(None, VALUE_BYTES) != b"\r\n" * (len(lines) + 1):
            raise AnswerError("a field's value holds a line break or another control character")
        self.begun = True
        return head

    def content(self, data: bytes) -> Sequence[bytes]:
        """Content, framed. Raises AnswerError if it is more than was announced."""
        if not data:
            return ()
        self.promise(len(data))
        return (b"%x\r\n" % len(data), data, b"\r\n") if self._chunked else (data,)

    def promise(self, count: int) -> None:
        """Bytes of content that are sent by other means, and not in chunks. Raises AnswerError as `content`."""
        if self._left is not None:
            if count > self._left:
                raise AnswerError("more content than was announced")
            self._left -= count

    def end(self) -> bytes:
        """What follows the content. Raises AnswerError if that was less than was announced."""
        if self._left:
            raise AnswerError("less content than was announced")
        self.ended = True
        return b"0\r\n\r\n" if self._chunked else b""


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    if not 200 <= status <= 999:
        raise AnswerError(f"{status} is no final status")
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    return f"HTTP/1.1 {status} {reason}\r\n".encode("ascii")


@lru_cache(maxsize=256)
def wire_name(name: bytes) -> bytes:
    """A field's name as it is usually written: ``content-type`` is ``Content-Type``. Raises AnswerError for no name."""
    if not TOKEN.fullmatch(name):
        raise AnswerError(f"{name!r} is no name of a field")
    if name in _SPELLED:
        return _SPELLED[name]
    return b"-".join(_SPELLED.get(word, word.capitalize()) for word in name.split(b"-"))


_ORIGIN = (b"Date", b"Server")
_OURS = frozenset({*map(wire_name, CONNECTION_FIELDS), *_ORIGIN})


@lru_cache(maxsize=2)
def _date_and_server(second: int) -> bytes:
    return _origin({}, second)


def _origin(given: Mapping[bytes, bytes], second: int) -> bytes:
    """Date (RFC 9110 6.6.1) and Server: those of the answer if it has come from elsewhere, otherwise ours."""
    date = given.get(b"Date") or formatdate(second, usegmt=True).encode("ascii")
    return b"Date: %b\r\nServer: %b\r\n" % (date, given.get(b"Server") or SERVER)


def plain(status: int, message: str) -> Response:
    """An answer in plain text, for whoever has no format of its own to say it in."""
    return Response(status, Headers.of({"Content-Type": "text/plain; charset=utf-8"}), f"{message}\n".encode())


def refusal(error: RegistryError) -> Response:
    """A `RegistryError` that no format has rendered, in plain text."""
    response = plain(error.status, f"{error.code}: {error.message}")
    for name, value in error.headers:
        response.headers.add(name, value)
    return response
