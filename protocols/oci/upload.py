"""An upload session as a state machine: where the bytes are, what their hash is, and what may come next.

One rule: the hash and the offset always belong together. Bytes are hashed as they pass; wherever the store may make
them durable the hash is marked, and when bytes are lost both go back together to a mark, so that the digest is always
that of the bytes that are stored.

Sources: distribution-spec 1.1, "Pushing blobs"; the states between its lines are ours.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING

from enseada.protocols.oci.errors import error

if TYPE_CHECKING:
    from enseada.http import Chunk, RegistryError
    from enseada.protocols.digests import Digest, Hasher

_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,19})-(\d{1,19})(?:/(\d{1,19}|\*))?", re.ASCII)


class State(Enum):
    """Where a session is."""

    IDLE = auto()
    """Between requests."""
    RECEIVING = auto()
    """In a PATCH."""
    CLOSING = auto()
    """In the PUT that ends it."""
    DONE = auto()
    """Its blob is there."""
    ENDED = auto()
    """Refused for good."""


class Input(Enum):
    """What can happen to a session."""

    PATCH = auto()
    PUT = auto()
    DATA = auto()
    REST = auto()
    """The request is over, well or not; the session stays."""
    ACCEPT = auto()
    """The digest is right and the blob is visible."""
    REFUSE = auto()
    """The digest is wrong."""


TABLE: dict[State, dict[Input, State]] = {
    State.IDLE: {Input.PATCH: State.RECEIVING, Input.PUT: State.CLOSING},
    State.RECEIVING: {Input.DATA: State.RECEIVING, Input.REST: State.IDLE},
    State.CLOSING: {
        Input.DATA: State.CLOSING,
        Input.REST: State.IDLE,
        Input.ACCEPT: State.DONE,
        Input.REFUSE: State.ENDED,
    },
    State.DONE: {},
    State.ENDED: {},
}


def format_range(offset: int) -> str:
    """The Range header that tells of ``offset`` bytes: the last byte is inclusive, and nothing is written as one byte.

    distribution-spec has no other way to write an empty range, so no session may rest at offset 1 by accident.
    """
    return f"0-{max(0, offset - 1)}"


def parse_content_range(text: str | None) -> tuple[int, int] | None:
    """The first byte and the byte after the last that a chunk says it holds; None without the header.

    The form is ``first-last``, both inclusive; the form of RFC 9110 (``bytes first-last/total``), which some clients
    send, is taken too. Raises RANGE_INVALID (416) for anything else.
    """
    if text is None:
        return None
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is not None:
        first, last, total = int(match[1]), int(match[2]), match[3]
        if first <= last and (total in (None, "*") or last < int(total)):
            return first, last + 1
    raise error("RANGE_INVALID", "Content-Range must be <first byte>-<last byte>", {"range": text[:64]})


def wrong_place(offset: int, location: str | None = None) -> RegistryError:
    """416: the chunk does not begin where the session is; Range says where that is."""
    headers = [("Range", format_range(offset))]
    if location is not None:
        headers.append(("Location", location))
    return error("RANGE_INVALID", f"the next byte of this upload is byte {offset}", {"offset": offset}, headers=headers)


class UploadMachine:
    """One session in one request. It does no I/O: its owner moves the bytes that it counts.

    ``limit``: the largest blob accepted, in bytes, or None.
    """

    def __init__(self, hasher: Hasher, limit: int | None = None) -> None:
        """``hasher`` has been fed all bytes up to the session's offset."""
        self.state = State.IDLE
        self._hasher = hasher
        self._limit = limit
        self._expected: int | None = None
        self._marks: dict[int, Hasher] = {hasher.count: hasher.copy()}

    @property
    def offset(self) -> int:
        """Bytes received, in bytes from the blob's beginning."""
        return self._hasher.count

    @property
    def algorithm(self) -> str:
        """That of the running hash."""
        return self._hasher.algorithm

    def begin(self, kind: Input, span: tuple[int, int] | None, length: int | None) -> None:
        """A PATCH or PUT begins, with its Content-Range (parsed) and Content-Length, either of which may be None.

        Raises RANGE_INVALID (416), SIZE_INVALID (400: the two disagree; 413: more than the limit).
        """
        self._go(kind)
        if span is not None:
            first, stop = span
            if first != self.offset:
                self._go(Input.REST)
                raise wrong_place(self.offset)
            if length is not None and length != stop - first:
                self._go(Input.REST)
                raise error("SIZE_INVALID", f"Content-Range tells of {stop - first} bytes, Content-Length of {length}")
            length = stop - first
        self._expected = None if length is None else self.offset + length
        if self._expected is not None:
            try:
                self._check_limit(self._expected)
            except Exception:
                self._go(Input.REST)
                raise

    def receive(self, chunk: Chunk) -> None:
        """Count and hash the next bytes, which must then be stored.

        Raises SIZE_INVALID (400, 413), having taken nothing.
        """
        self._go(Input.DATA)
        offset = self.offset + len(chunk)
        if self._expected is not None and offset > self._expected:
            raise error("SIZE_INVALID", f"more than the {self._expected} bytes that were announced")
        self._check_limit(offset)
        self._hasher.update(chunk)

    def end_of_body(self) -> None:
        """The request's content is complete. Raises SIZE_INVALID (400) if it is less than Content-Range told of."""
        if self._expected is not None and self.offset != self._expected:
            raise error("SIZE_INVALID", f"{self.offset} bytes came of {self._expected} that were announced")

    def mark(self) -> None:
        """Remember hash and offset as they are now: the session may be asked to go back to here."""
        if self.offset not in self._marks:
            self._marks[self.offset] = self._hasher.copy()

    def marked(self, durable: int) -> int:
        """The last mark that is at or below ``durable``; those below it are forgotten."""
        at = max(mark for mark in self._marks if mark <= durable)
        self._marks = {mark: hasher for mark, hasher in self._marks.items() if mark >= at}
        return at

    def hash_state(self, at: int) -> bytes | None:
        """The saved state of the hash at a mark, or None where this platform cannot save it."""
        return self._marks[at].state()

    def rest(self, durable: int) -> int:
        """The request is over and ``durable`` bytes are sure: go back to the last mark among them, and return it."""
        self._go(Input.REST)
        at = self.marked(durable)
        self._hasher = self._marks[at].copy()
        self._marks = {at: self._marks[at]}
        return at

    def matches(self, digest: Digest) -> bool | None:
        """Whether the bytes have that digest; None if they were hashed by another algorithm and must be read again."""
        if digest.algorithm != self._hasher.algorithm:
            return None
        return self._hasher.hexdigest() == digest.hex

    def accept(self) -> None:
        """The blob is visible: nothing more can happen."""
        self._go(Input.ACCEPT)

    def refuse(self) -> None:
        """The digest was wrong: the session is over and its bytes are to be removed."""
        self._go(Input.REFUSE)

    def _check_limit(self, offset: int) -> None:
        if self._limit is not None and offset > self._limit:
            raise error("SIZE_INVALID", f"a blob may have at most {self._limit} bytes here", status=413)

    def _go(self, happened: Input) -> None:
        state = TABLE[self.state].get(happened)
        if state is None:
            if self.state in (State.DONE, State.ENDED):
                raise error("BLOB_UPLOAD_UNKNOWN", "this upload has ended")
            raise error("BLOB_UPLOAD_INVALID", f"{happened.name} while {self.state.name}")
        self.state = state
