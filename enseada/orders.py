"""What a supervisor and a worker say to each other: lines of JSON over a pair of sockets.

One rule: the order, which holds all settings and their secrets, goes this way and no other: a command line and an
environment are there for others to read. The end of the stream means what `END` does, so that a worker ends with its
supervisor, however that ended.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from enseada.config import Settings  # noqa: TC001  # a field of a struct

if TYPE_CHECKING:
    from collections.abc import Iterator

END = b"end"
"""To a worker: end gracefully, also before the order."""
NOW = b"now"
"""To a worker: end at once."""


class Passed(msgspec.Struct, frozen=True):
    """A listening socket that is inherited."""

    fd: int
    address: str
    """See `enseada.listeners.Listener`."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """To a worker: serve. Descriptors are those that it has inherited."""

    settings: Settings
    """The whole server's, without the addresses: those are there already."""
    number: int
    """Which worker it is, from 1."""
    listeners: tuple[Passed, ...]
    turn: int
    """See `enseada.logs.make_turn`."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it serves."""

    admin_password: str | None
    """That of ``admin``, if it has made one up."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """From a worker: it cannot serve, and ends."""

    sentence: str


def encode(message: Order | Ready | Failed) -> bytes:
    """A line that the functions below read. Raises UnicodeEncodeError for text that is no Unicode, save in paths."""
    return msgspec.json.encode(message, enc_hook=_path_to_bytes) + b"\n"


def decode_order(line: bytes) -> Order:
    """Raises msgspec.ValidationError."""
    return msgspec.json.decode(line, type=Order, dec_hook=_path_from_bytes)


def decode_answer(line: bytes) -> Ready | Failed:
    """Raises msgspec.ValidationError."""
    return msgspec.json.decode(line, type=Ready | Failed)


class Lines:
    """Takes bytes as they come, and gives lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that ``data`` completes, without their ends. To be exhausted."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from lines


def _path_to_bytes(value: Any) -> list[int]:
    # Not text: a name on a disk need not be Unicode.
    assert isinstance(value, Path)
    return list(os.fsencode(value))


def _path_from_bytes(kind: type, value: Any) -> Path:
    assert kind is Path
    return Path(os.fsdecode(bytes(value)))
