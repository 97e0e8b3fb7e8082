"""Every limit that a client can run into: sizes, counts and times, in one place.

The rule: a limit is named here, has its unit in its docstring, and nothing that reads from a client does without one.
Sizes are bytes, times are seconds. Deadlines are for one read or one write, never for a whole request: a slow upload
that keeps moving is never cut.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

KIB = 1024
MIB = 1024 * KIB
MAY_BE_ZERO = frozenset({"gather_time"})
"""Limits that are switched off by 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may ask of us. Raises ValueError for a limit that is not positive; 0 switches `MAY_BE_ZERO` off."""

    # The head of a request (RFC 9112 3, 5; RFC 6585 5).
    head_bytes: int = 32 * KIB
    """The whole head, request line and fields; above it 431."""
    head_count: int = 100
    """Fields of the head; above it 431."""
    target_bytes: int = 8 * KIB
    """The request target; above it 414 (RFC 9112 3 wants at least 8,000)."""

    # Times of a connection.
    idle_timeout: float = 75.0
    """Between two requests, and before the first; then the connection is closed without a word."""
    head_timeout: float = 10.0
    """From the first byte of a head to its last; then 408."""
    read_timeout: float = 60.0
    """For one read of a body; then 408."""
    write_timeout: float = 60.0
    """Of waiting for a client to take an answer: when it has taken nothing in that time, or less than ``min_rate``
    asks for, the connection is cut."""
    min_rate: int = 128
    """Bytes a second that a body must average while we wait for it; slower, for longer than ``rate_grace``, is 408.
    An answer must be taken as fast, in every ``write_timeout`` of waiting."""
    rate_grace: float = 60.0
    """Seconds of waiting for a body before ``min_rate`` is asked of it."""
    gather_time: float = 1.0
    """How long the packets of a slow client may lie in the kernel to be taken together, where more are sure to come:
    to be told of each would cost more than to take it. So late a handler may get them, and so much of what came last
    may have to be sent again by a client that was cut. 0: not at all."""

    # Answers that leave while a body is still coming.
    drain_bytes: int = 64 * KIB
    """Unread body that is thrown away to keep the connection; where more is left, it is closed."""
    drain_timeout: float = 2.0
    """For throwing it away, and for the client to close after us when we end a connection."""

    # Chunked bodies (RFC 9112 7.1).
    chunk_extension_bytes: int = 16 * KIB
    """Chunk extensions of one body, all together; above it 400."""
    trailer_bytes: int = 8 * KIB
    """The trailer section of one body; above it 400."""

    # The server.
    connections: int = 4096
    """Open at once; further clients wait in the listener's backlog, one at each of a host's own trio listeners in our
    hands."""

    # Bodies that are parsed rather than streamed.
    manifest_bytes: int = 4 * MIB
    """A manifest, or any other JSON document that a client sends; above it 413."""
    json_values: int = 20_000
    """Values in one JSON document, counted before it is parsed."""
    json_depth: int = 32
    """Nesting of one JSON document, counted before it is parsed."""
    form_bytes: int = 64 * KIB
    """An application/x-www-form-urlencoded body; above it 413."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (value > 0 or (value == 0 and each.name in MAY_BE_ZERO)):
                raise ValueError(f"{each.name} must be more than zero")
