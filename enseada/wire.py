"""How an answer's head is written, apart from its framing: names, the date, the standard phrases.

The rule: what is the same for many answers is made once.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from enseada.http import Headers, RegistryError, Response

SERVER = b"enseada"
REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
CONNECTION_FIELDS = frozenset({b"content-length", b"transfer-encoding", b"connection"})
"""Fields that say how a message is framed, and that only the connection writes."""
_SPELLED = {b"etag": b"ETag", b"www-authenticate": b"WWW-Authenticate", b"oci": b"OCI"}


@lru_cache(maxsize=256)
def wire_name(name: bytes) -> bytes:
    """A field's name as it is usually written: ``content-type`` is ``Content-Type``."""
    if name in _SPELLED:
        return _SPELLED[name]
    return b"-".join(_SPELLED.get(word, word.capitalize()) for word in name.split(b"-"))


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")


def http_date() -> bytes:
    """The present time, for Date (RFC 9110 6.6.1)."""
    return _date(int(time.time()))


def fields(response: Response, length: int | None, request_id: str, close: bool) -> list[tuple[bytes, bytes]]:
    """The fields of an answer's head. ``length``: its Content-Length, None where it has none or it is not known."""
    written = [(wire_name(name), value) for name, value in response.headers.raw if name not in CONNECTION_FIELDS]
    if length is not None:
        written.append((b"Content-Length", b"%d" % length))
    written += ((b"Date", http_date()), (b"Server", SERVER), (b"X-Request-Id", request_id.encode("ascii")))
    if close:
        written.append((b"Connection", b"close"))
    return written


def plain(status: int, message: str) -> Response:
    """An answer in plain text, for whoever has no format of its own to say it in."""
    return Response(status, Headers.of({"Content-Type": "text/plain; charset=utf-8"}), f"{message}\n".encode())


def refusal(error: RegistryError) -> Response:
    """A `RegistryError` that no format has rendered, in plain text."""
    response = plain(error.status, f"{error.code}: {error.message}")
    for name, value in error.headers:
        response.headers.add(name, value)
    return response
