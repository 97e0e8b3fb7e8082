"""The chunked transfer coding (RFC 9112 7.1), decoded as it comes and without copying content.

The rule: strict, and bounded in everything that is not content. Chunk extensions and trailer fields are checked and
dropped. It never accepts what h11 refuses.
"""

from __future__ import annotations

import re
from enum import Enum, auto


class ChunkedError(Exception):
    """The coding is malformed, or carries more beside its content than it may. Where the message ends is unknown."""


class State(Enum):
    """What comes next."""

    SIZE = auto()
    """The line with a chunk's size."""
    DATA = auto()
    """Content of a chunk."""
    DATA_END = auto()
    """The CRLF that ends a chunk's content."""
    TRAILER = auto()
    """A trailer field, or the empty line that ends the message."""
    DONE = auto()


MANY = 2**63
"""Chunks: no bound."""
WINDOW = 64
"""Bytes looked at for a line's end at once: a size without extensions always fits."""
MAX_SIZE_DIGITS = 15
"""Hex digits of one chunk's size, so that it fits in 63 bits with room to spare."""

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,%d})(;[\t\x20-\x7e]*)?\r\n" % MAX_SIZE_DIGITS)
_TRAILER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t\x20-\x7e\x80-\xff]*\r\n")
_FORBIDDEN_TRAILERS = frozenset({b"content-length", b"transfer-encoding", b"host"})  # RFC 9110 6.5.1


class ChunkedDecoder:
    """Decodes one chunked message."""

    __slots__ = ("_extension_room", "_left", "_line", "_trailer_room", "state", "used")

    def __init__(self, extension_bytes: int, trailer_bytes: int) -> None:
        """``extension_bytes``, ``trailer_bytes``: what the message may carry of each, in all."""
        self.state = State.SIZE
        self.used = 0
        """Bytes of the last input that were decoded; when the message is done, what follows them is the next one."""
        self._left = 0
        self._line = bytearray()  # the beginning of a line whose end has not come
        self._extension_room = extension_bytes
        self._trailer_room = trailer_bytes

    @property
    def done(self) -> bool:
        """Whether the message has ended."""
        return self.state is State.DONE

    def receive(self, data: memoryview, chunks: int = MANY) -> list[memoryview]:
        """Decode the next bytes; return the content in them, as slices of ``data``. Raises ChunkedError.

        Stops at the message's end, and before it begins more than ``chunks`` chunks: ``used`` says where.
        """
        content: list[memoryview] = []
        position, end = 0, len(data)
        while position < end and self.state is not State.DONE:
            if self.state is State.SIZE and not self._line:
                if not chunks:
                    break
                chunks -= 1
            if self.state is State.DATA:
                piece = data[position : position + self._left]
                content.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self.state = State.DATA_END
            else:
                position = self._read_line(data, position)
        self.used = position
        return content

    def _read_line(self, data: memoryview, position: int) -> int:
        """Go on with the line at ``position``; return where it, or what has come of it, ends."""
        window = bytes(data[position : position + WINDOW])
        stop = window.find(b"\n") + 1
        if not stop:
            self._line += window
            self._refuse_long_line()
            return position + len(window)
        line = window[:stop]
        if self._line:
            line = bytes(self._line) + line
            self._line.clear()
        if self.state is State.SIZE:
            self._size(line)
        elif self.state is State.DATA_END:
            if line != b"\r\n":
                raise ChunkedError("a chunk is longer than its size")
            self.state = State.SIZE
        else:
            self._trailer(line)
        return position + stop

    def _refuse_long_line(self) -> None:
        if self.state is State.DATA_END:
            room = len(b"\r")
        elif self.state is State.SIZE:
            room = MAX_SIZE_DIGITS + self._extension_room + len(b"\r")
        else:
            room = self._trailer_room
        if len(self._line) > room:
            raise ChunkedError("a line of the chunked coding is too long")

    def _size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise ChunkedError("a malformed chunk size")
        digits, extension = match.groups()
        if extension is not None:
            self._extension_room -= len(extension)
            if self._extension_room < 0:
                raise ChunkedError("too many chunk extensions")
        self._left = int(digits, 16)
        self.state = State.DATA if self._left else State.TRAILER

    def _trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.state = State.DONE
            return
        self._trailer_room -= len(line)
        if self._trailer_room < 0:
            raise ChunkedError("too many trailer fields")
        match = _TRAILER_LINE.fullmatch(line)
        if match is None or match[1].lower() in _FORBIDDEN_TRAILERS:
            raise ChunkedError("a malformed or forbidden trailer field")
