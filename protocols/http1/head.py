"""The head of an HTTP/1 request, checked on its raw bytes and taken apart.

The rule: what could mean one thing to us and another to somebody in front of us is refused, and the connection
closed. h11 is forgiving where it may be (line folding, a bare LF, Content-Length beside Transfer-Encoding); a server
behind proxies must not be (RFC 9112 11.2, request smuggling). Whatever is accepted here h11 accepts too, with the
same meaning; tests/protocols/http1/fuzz.py keeps that true. So a head of the usual form is not read a second time: h11
takes as long for it as all the rest of a small request.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enseada.limits import Limits

EMPTY_LINES = 4
"""Empty lines that are ignored before a request line (RFC 9112 2.2 wants at least one)."""
METHOD_BYTES = 32
"""The longest method; the longest that is registered has 17 letters (UPDATEREDIRECTREF)."""
LINE_SLACK = 64
"""Bytes of a request line beside its target: the method, the version, two spaces and the line's end."""
CONTINUE = b"100-continue"
"""The one expectation that there is (RFC 9110 10.1.1)."""
MAX_DIGITS = 18
"""Digits of a Content-Length: what follows is counted in 64 bits by somebody."""


class HeadError(Exception):
    """The head is refused. ``status`` is what the client is told before the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Target(NamedTuple):
    """A request target, taken apart. Nothing of it is percent-decoded."""

    path: str
    query: str
    authority: str | None
    """What an absolute-form target names; it then takes the place of Host (RFC 9112 3.2.2)."""


class Head(NamedTuple):
    """What a checked head says about where its request goes and where its content ends."""

    method: str
    path: str
    query: str
    fields: list[tuple[bytes, bytes]]
    """The header fields: names in lower case, values without the white space around them."""
    host: str
    """The authority asked for; empty if the client named none."""
    length: int | None
    """Bytes of content, 0 where there is none; None: chunked."""
    modern: bool = True
    """It is HTTP/1.1: chunks and 100-continue are known."""
    persists: bool = True
    """The client lets the connection live on after the answer (RFC 9112 9.3)."""
    expectation: bytes | None = None
    """What is expected of us beside an answer, in lower case; None: nothing (RFC 9110 10.1.1)."""
    usual: bool = True
    """It is of the plainest form, as nearly all heads are; h11 need not be asked what it means."""


_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 5.6.2
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*"  # RFC 9110 5.5, and OWS around it
# One expression decides; a head that does not match is looked at again, slowly, only to say what is wrong with it.
_HEAD = re.compile(
    rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n((?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*)\r\n"
)
_FIELD_LINE = re.compile(_TOKEN + rb":" + _VALUE)
_FIELDS = re.compile(rb"([^:]+):([^\r]*)\r\n")  # of what has matched already
_DECIDING = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"})
"""The fields that decide about framing, routing and the connection."""
_USUAL = frozenset({b"host", b"content-length", b"connection"})
_TLS_HANDSHAKE = 0x16  # the content type that a ClientHello begins with (RFC 8446 5.1)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_DIGITS = re.compile(rb"[0-9]{1,%d}" % MAX_DIGITS)
_CODING = re.compile(_TOKEN + rb"(?:[ \t]*;[^,]*)?")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE)
_LONG_METHOD = re.compile(rb"[^ \r]{%d}" % (METHOD_BYTES + 1))
# RFC 3986 3.2.2, without percent-encoding and sub-delims, which no host that serves packages has, and 3.2.3, without
# the empty port, which no client sends: what is accepted stands in the addresses that clients are told.
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::([0-9]{1,5}))?")
_LAST_PORT = 65535


class HeadBuffer:
    """Received bytes that nothing has used yet. Finds the heads in them, without looking twice at any byte."""

    __slots__ = ("_data", "_empty_lines", "_limits", "_searched")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._data = bytearray()
        self._searched = 0
        self._empty_lines = 0

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes | memoryview) -> None:
        """Add what was received."""
        self._data += data

    def take(self, count: int) -> bytes:
        """Remove up to ``count`` bytes from the front: they are content."""
        taken = bytes(self._data[:count])
        del self._data[:count]
        self._searched = 0
        return taken

    def put_back(self, data: bytes | memoryview) -> None:
        """Return to the front what was taken and turned out to be no content."""
        self._data[:0] = data
        self._searched = 0

    def next_head(self) -> bytes | None:
        """Remove the next head, its empty line included, and return it; None: it is not whole yet.

        Raises HeadError as soon as it can be seen that no acceptable head will come.
        """
        data = self._data
        while data.startswith(b"\r\n"):
            self._empty_lines += 1
            if self._empty_lines > EMPTY_LINES:
                raise HeadError(400, "nothing but empty lines")
            del data[:2]
            self._searched = 0
        end = data.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end >= 0:
            if end + 4 > self._limits.head_bytes:
                raise _too_large(data, self._limits)
            head = bytes(data[: end + 4])
            del data[: end + 4]
            self._searched = self._empty_lines = 0
            return head
        self._refuse_early(data)
        self._searched = len(data)
        return None

    def _refuse_early(self, data: bytearray) -> None:
        """Refuse at once what would otherwise be waited for in vain: the wrong protocol, or lines that end in LF."""
        if data and data != b"\r" and not 0x21 <= data[0] <= 0x7E:
            if data[0] == _TLS_HANDSHAKE:
                raise HeadError(400, "a TLS handshake; plain HTTP is spoken here")
            raise HeadError(400, "not an HTTP request")
        if _BARE_LF.search(data, max(0, self._searched - 1)):
            raise HeadError(400, "a line that ends without CR")
        if _LONG_METHOD.match(data):
            raise _long_method()
        if len(data) >= self._limits.head_bytes or (
            len(data) > self._limits.target_bytes + LINE_SLACK and data.find(b"\r\n") < 0
        ):
            raise _too_large(data, self._limits)


def _long_method() -> HeadError:
    return HeadError(501, f"no method is longer than {METHOD_BYTES} bytes")  # RFC 9112 3


def _too_large(data: bytearray, limits: Limits) -> HeadError:
    line = data.find(b"\r\n")
    if line < 0 or line > limits.target_bytes + LINE_SLACK:
        return HeadError(414, f"the request target is longer than {limits.target_bytes} bytes")
    return HeadError(431, f"the head is larger than {limits.head_bytes} bytes")


def check(head: bytes, limits: Limits) -> Head:
    """Check a whole head, and say where the request goes and how its content is framed. Raises HeadError."""
    match = _HEAD.fullmatch(head)
    if match is None:
        raise _diagnose(head)
    method, raw_target, version, fields = match.groups()
    if len(method) > METHOD_BYTES:
        raise _long_method()
    if len(raw_target) > limits.target_bytes:
        raise HeadError(414, f"the request target is longer than {limits.target_bytes} bytes")
    if version not in (b"1.1", b"1.0"):
        raise HeadError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    named = [(name.lower(), value.strip(b" \t")) for name, value in _FIELDS.findall(fields)]
    if len(named) > limits.head_count:
        raise HeadError(431, f"more than {limits.head_count} header fields")
    found: dict[bytes, list[bytes]] = {}
    for name, value in named:
        if name in _DECIDING:
            found.setdefault(name, []).append(value)
    target = split_target(method, raw_target)
    modern = version == b"1.1"
    return Head(
        method.decode("ascii"),
        target.path,
        target.query,
        named,
        _host(found.get(b"host", ()), version, target),
        _framing(found.get(b"content-length", ()), found.get(b"transfer-encoding", ()), version),
        modern,
        modern and not _says_close(found.get(b"connection", ())),
        _expectation(found.get(b"expect", ())) if modern else None,
        modern and target.authority is None and _USUAL.issuperset(found),
    )


def split_target(method: bytes, raw: bytes) -> Target:
    """Take a request target apart (RFC 9112 3.2). Raises HeadError for a form that the method does not have."""
    if method == b"CONNECT":
        raise HeadError(501, "this is no proxy")
    target = raw.decode("ascii")
    if "#" in target:
        raise HeadError(400, "a fragment in the request target")
    if target.startswith("/"):
        path, _, query = target.partition("?")
        return Target(path, query, None)
    if target == "*" and method == b"OPTIONS":
        return Target("*", "", None)
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise HeadError(400, "the request target is neither a path nor an http URL")
    authority, path, query = match.group(1, 2, 3)
    if not is_authority(authority):
        raise HeadError(400, "the request target has no valid host")
    if not path:
        # RFC 9112 3.2.4: OPTIONS for a URL without path or query is the asterisk form.
        path = "*" if method == b"OPTIONS" and query is None else "/"
    return Target(path, query or "", authority)


@lru_cache(maxsize=64)
def is_authority(text: str) -> bool:
    """Whether ``text`` is a host, perhaps with a port, as they are accepted here."""
    match = _AUTHORITY.fullmatch(text)
    return match is not None and (match[1] is None or 1 <= int(match[1]) <= _LAST_PORT)


def _says_close(values: Sequence[bytes]) -> bool:
    return any(option.strip(b" \t") == b"close" for value in values for option in value.lower().split(b","))


def _expectation(values: Sequence[bytes]) -> bytes | None:
    """What has to be met: the one thing that can be, or the first that cannot."""
    expectation = None
    for value in values:
        expectation = value.lower()
        if expectation != CONTINUE:
            break
    return expectation


def _host(hosts: Sequence[bytes], version: bytes, target: Target) -> str:
    if len(hosts) > 1:
        raise HeadError(400, "more than one Host")
    if not hosts:
        if version == b"1.1":
            raise HeadError(400, "no Host")
        return target.authority or ""
    host = hosts[0].decode("latin-1")
    if host and not is_authority(host):  # empty is valid: a client that knows no authority says so
        raise HeadError(400, "Host is no valid host")
    return target.authority or host


def _framing(lengths: Sequence[bytes], codings: Sequence[bytes], version: bytes) -> int | None:
    """Where the content ends (RFC 9112 6.3), if it says so once and clearly."""
    if codings:
        if lengths:
            raise HeadError(400, "Content-Length beside Transfer-Encoding")
        if version == b"1.0":
            raise HeadError(400, "Transfer-Encoding in HTTP/1.0")
        if len(codings) > 1:
            raise HeadError(400, "more than one Transfer-Encoding")
        if codings[0].lower() != b"chunked":
            raise _unknown_coding(codings[0].lower())
        return None
    if not lengths:
        return 0
    if len(lengths) > 1:
        raise HeadError(400, "more than one Content-Length")
    if not _DIGITS.fullmatch(lengths[0]):
        raise HeadError(400, "Content-Length is no number")
    return int(lengths[0])


def _unknown_coding(value: bytes) -> HeadError:
    """RFC 9112 6.1: 501 for codings that are merely unknown; 6.3: 400 for what nobody can have meant."""
    codings = [coding.strip(b" \t") for coding in value.split(b",")]
    if all(_CODING.fullmatch(coding) for coding in codings) and codings.count(b"chunked") <= 1:
        return HeadError(501, "the only transfer coding known is chunked")
    return HeadError(400, "Transfer-Encoding makes no sense")


def _diagnose(head: bytes) -> HeadError:
    """Say what is wrong with a head that did not match."""
    if _BARE_LF.search(head):
        return HeadError(400, "a line that ends without CR")
    line, *fields = head[:-4].split(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3 or not re.fullmatch(_TOKEN, parts[0]):
        return HeadError(400, "not an HTTP request line")
    if not re.fullmatch(rb"[\x21-\x7e]+", parts[1]):
        return HeadError(400, "a character in the request target that does not belong there")
    if not re.fullmatch(rb"HTTP/[0-9]\.[0-9]", parts[2]):
        return HeadError(505 if parts[2].startswith(b"HTTP/") else 400, "not a version of HTTP")
    for field in fields:
        if field[:1] in (b" ", b"\t"):
            return HeadError(400, "a folded header field")
        if not _FIELD_LINE.fullmatch(field):
            name, colon, _ = field.partition(b":")
            if colon and name != name.rstrip(b" \t"):
                return HeadError(400, "a space before the colon of a header field")
            return HeadError(400, "a malformed header field")
    return HeadError(400, "a malformed head")
