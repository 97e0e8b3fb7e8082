"""What an HTTP exchange is made of: the vocabulary shared by the server, the formats and any host program.

Nothing here does I/O. A handler is ``async def handler(request: Request) -> Response``; it fails by raising
`RegistryError`, which the format it belongs to renders in its own dialect.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol, TypeAlias
from urllib.parse import parse_qsl

Chunk: TypeAlias = bytes | memoryview
"""Bytes lent by whoever yields them: valid only until the consumer's next ``await``."""


TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""What a field's name is, all of it (RFC 9110 5.1, 5.6.2)."""
VALUE_BYTES = bytes({*b"\t", *range(0x20, 0x7F), *range(0x80, 0x100)})
"""What a field's value may consist of (RFC 9110 5.5): no control characters but the tab. It is asked by
``bytes.translate``, which leaves what may not."""


@lru_cache(maxsize=256)
def _key(name: str) -> bytes:
    return name.lower().encode("ascii")


@lru_cache(maxsize=256)
def _new_key(name: str) -> bytes:
    key = _key(name)
    if not TOKEN.fullmatch(key):
        raise ValueError(f"{name!r} is no name of a field")
    return key


def _field(name: str, value: str) -> tuple[bytes, bytes]:
    written = value.encode("latin-1")
    # What is printable holds no control character, and that is soon known.
    if not value.isprintable() and written.translate(None, VALUE_BYTES):
        raise ValueError(f"the value of {name} holds a line break or another control character: {value!r}")
    return _new_key(name), written


class Headers:
    """The fields of a message's head, in order, repeated ones kept. Names compare without case.

    Holds bytes, as h11 and ASGI have them, and decodes (latin-1) what is asked for.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """``raw``: (name, value) pairs whose names are in lower case."""
        self.raw: list[tuple[bytes, bytes]] = list(raw)

    @classmethod
    def of(cls, fields: Mapping[str, str] | Iterable[tuple[str, str]]) -> Headers:
        """Make headers from text. Raises ValueError as `add`."""
        headers = cls()
        for name, value in fields.items() if isinstance(fields, Mapping) else fields:
            headers.add(name, value)
        return headers

    def add(self, name: str, value: str) -> None:
        """Append a field. Raises ValueError for what is no name, and for a value that holds a control character other
        than the tab, or is not latin-1."""
        self.raw.append(_field(name, value))

    def set(self, name: str, value: str) -> None:
        """Replace every field of that name by one. Raises ValueError as `add`."""
        new = _field(name, value)
        self.raw = [*(pair for pair in self.raw if pair[0] != new[0]), new]

    def get(self, name: str) -> str | None:
        """The value of the first field of that name, or None."""
        key = _key(name)
        for field_name, value in self.raw:
            if field_name == key:
                return value.decode("latin-1")
        return None

    def get_all(self, name: str) -> list[str]:
        """The values of all fields of that name, in order."""
        key = _key(name)
        return [value.decode("latin-1") for field_name, value in self.raw if field_name == key]

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"Headers({list(self)!r})"


class Body(Protocol):
    """A message's content as it comes. One chunk a pull; not pulling is the backpressure."""

    length: int | None
    """Bytes in all, or None where the client did not say."""

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Iterate over the chunks, once. Raises `BodyError` when the content breaks off or is malformed."""
        ...


class BodyError(Exception):
    """The request's content could not be read to its end.

    ``status`` is what the client is told, if it still listens: 400 for malformed framing, 408 when it was too slow;
    None when it has gone and nobody is there to be told.
    """

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class BytesBody:
    """A body that is there already: for tests, and for hosts that have read it themselves."""

    def __init__(self, content: bytes = b"") -> None:
        self.length: int | None = len(content)
        self._content = content

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        content, self._content = self._content, b""
        if not content:
            raise StopAsyncIteration
        return content


@dataclass(frozen=True, slots=True)
class Span:
    """Stored bytes, named and not held: those of ``key`` from ``start`` up to ``stop``, exclusive (None: the end)."""

    key: str
    start: int = 0
    stop: int | None = None


class Content(Protocol):
    """Stored bytes, opened to be sent. Whoever holds it closes it."""

    length: int
    """Bytes that will come."""
    file: int | None
    """A file descriptor from which the bytes may be sent by sendfile, or None where there is no file."""
    start: int
    """Where in ``file`` the bytes begin."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes, once, for whoever cannot send from ``file``."""
        ...

    async def aclose(self) -> None:
        """Give back what it holds. Safe any number of times, and when cancelled."""
        ...


ResponseBody: TypeAlias = bytes | Content | AsyncIterable[bytes]


@dataclass(slots=True)
class Response:
    """What a handler answers. Content-Length, Transfer-Encoding, Connection and X-Request-Id are the connection's, and
    never in ``headers``. A Date or a Server that is there, as in an answer that is relayed, is sent in place of ours;
    under ASGI the host's server may add its own.

    An answer to HEAD carries the same headers; where its body is not made, ``length`` says what Content-Length
    would have been.
    """

    status: int
    headers: Headers = field(default_factory=Headers)
    body: ResponseBody = b""
    """Bytes; or what yields them, and is closed (``aclose``) when the answer is over, whole or not; or stored bytes
    that are sent from their file."""
    length: int | None = None


@dataclass(slots=True)
class Request:
    """A request's head, and its body as it comes."""

    method: str
    """As it was sent; ``GET`` is in capitals."""
    path: str
    """The path as it was sent: percent-encoding is left to the routes, which know what a segment means. It does not
    include ``root_path``."""
    query: str
    """What follows the question mark, as it was sent."""
    headers: Headers
    body: Body
    """Nothing of it is asked for before it is iterated over: a client that waits for 100-continue waits until then."""
    scheme: str = "http"
    """That of the URL by which the client reaches us, as far as is known: ``http`` or ``https``."""
    host: str = "localhost"
    """The authority that the client asked for: the Host header's, or what a trusted proxy says."""
    root_path: str = ""
    """The prefix under which a host program has mounted us."""
    client: str | None = None
    """The address of the peer, or None for a unix socket."""
    id: str = "-"
    """Names this request in the log and in answers to failures."""
    subject: str = "-"
    """Who asks, for the log: filled in once it is known."""
    _params: list[tuple[str, str]] | None = None

    @property
    def params(self) -> list[tuple[str, str]]:
        """The query's parameters, decoded, in order, blank ones kept. Raises RegistryError (400) for too many."""
        if self._params is None:
            try:
                self._params = parse_qsl(self.query, keep_blank_values=True, max_num_fields=MAX_PARAMS)
            except ValueError:
                raise RegistryError(400, "BAD_REQUEST", f"more than {MAX_PARAMS} query parameters") from None
        return self._params

    def param(self, name: str) -> str | None:
        """The first parameter of that name, or None."""
        for key, value in self.params:
            if key == name:
                return value
        return None

    def param_all(self, name: str) -> list[str]:
        """All parameters of that name, in order."""
        return [value for key, value in self.params if key == name]

    def reference(self, path: str) -> str:
        """``path`` (from our root, beginning with ``/``) as a reference for the client to follow: Location, Link."""
        return self.root_path + path

    def url(self, path: str) -> str:
        """``path`` as an absolute URL, where a protocol wants one (a realm, a redirect for people)."""
        return f"{self.scheme}://{self.host}{self.root_path}{path}"


MAX_PARAMS = 256
"""Query parameters of one request; above it the answer is 400."""

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]
"""What answers requests: any ``async def handler(request: Request) -> Response``. It is called once for each request,
for many at a time, and may be cancelled at any await. What it raises is answered for it: a `RegistryError` as that
says, anything else as a 500 that is logged."""


class RegistryError(Exception):
    """What went wrong, whose fault it is, and what the client is told.

    ``status`` is the HTTP status; ``code`` is a name in the format's dialect (``BLOB_UNKNOWN``); ``message`` is a
    sentence for people; ``detail`` is for programs and must be JSON-serialisable; ``headers`` go with the answer.
    Never holds a secret.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        detail: object = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail
        self.headers = list(headers)


def unavailable(message: str, retry_after: int = 5) -> RegistryError:
    """503 with Retry-After (whole seconds): the request may be sent again as it is."""
    return RegistryError(503, "UNAVAILABLE", message, headers=[("Retry-After", str(retry_after))])
