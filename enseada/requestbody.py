"""The content of one request, read from its connection as it is pulled, and not a byte before.

The rule: what is received is lent, in a buffer that all connections of an event loop share, until the consumer's next
await. Nobody else runs before that, so nothing is copied and nothing waits.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from enseada.http import BodyError, Chunk
from enseada.limits import KIB, MIB, Limits
from enseada.protocols.http1.chunked import ChunkedDecoder, ChunkedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from enseada.protocols.http1.head import HeadBuffer

SHARED_BYTES = 1 * MIB
"""The buffer into which content is received, one for each event loop."""
CHUNKED_READ = 256 * KIB
"""Bytes of a chunked body read at once, at most."""
CHUNKS_AT_ONCE = 256
"""Chunks decoded before others get their turn: content in chunks of one byte must not hold up the loop."""


class SharedBuffer:
    """The buffer that all bodies of one event loop are received into.

    What is received is lent to one consumer until its next await, and nobody else runs before that.
    """

    __slots__ = ("lent", "memory")

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(SHARED_BYTES))
        self.lent: memoryview | None = None
        """What is lent at present; tests overwrite it as soon as the borrower awaits."""

    def lend(self, count: int) -> memoryview:
        """The first ``count`` bytes, to be given to a consumer without an await in between."""
        self.lent = self.memory[:count]
        return self.lent


class Source(Protocol):
    """The connection, as far as a body needs it."""

    limits: Limits
    received: HeadBuffer
    """What came together with the head."""
    shared: SharedBuffer

    async def receive_content(self, most: int, certain: int) -> tuple[int, float]:
        """Receive into ``shared.memory``, at most ``most`` bytes: how many, and the seconds they were waited for.

        ``certain``: so many are still to come.
        """
        ...

    async def let_others_run(self) -> None:
        """Give up the turn."""
        ...

    async def say_continue(self) -> None:
        """Ask the client, who waits for it, to send the content."""
        ...


def check_rate(received: int, waited: float, limits: Limits) -> None:
    """Raise BodyError (408) for content of which too little came in the seconds that it was waited for."""
    if waited > limits.rate_grace and received < waited * limits.min_rate:
        raise BodyError(f"content came slower than {limits.min_rate} bytes a second", 408)


class RequestBody:
    """One request's content: `enseada.http.Body`, and what its connection must know of it."""

    def __init__(self, source: Source, length: int | None, expects: bool = False) -> None:
        self.length = length
        self.expects = expects
        """Whether the client waits for 100-continue before it sends the content."""
        self.bytes_in = 0
        self.error: BodyError | None = None
        self._source = source
        self._limits = source.limits
        self._over = False
        self._waited = 0.0
        self._decoder: ChunkedDecoder | None = None
        if length is None:
            self._decoder = ChunkedDecoder(self._limits.chunk_extension_bytes, self._limits.trailer_bytes)

    @property
    def complete(self) -> bool:
        """Whether all of it has been received."""
        return self._decoder.done if self._decoder is not None else self.bytes_in == self.length

    @property
    def least_left(self) -> int:
        """Bytes that are still to come, as far as is known."""
        return 0 if self.length is None else self.length - self.bytes_in

    def close(self) -> None:
        """The exchange is over: whoever still holds this may not read what is the next request."""
        self._over = True

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        if self.error is not None:
            raise self.error
        if self.complete:
            raise StopAsyncIteration
        if self._over:
            raise BodyError("the request is over", None)
        return await self._pull()

    async def drain(self, most: int) -> bool:
        """Throw away what is still to come, up to about ``most`` bytes; return whether that was all."""
        stop = self.bytes_in + most
        with suppress(BodyError, StopAsyncIteration):
            while not self.complete and self.bytes_in <= stop:
                await self._pull()
        return self.complete

    async def _pull(self) -> Chunk:
        try:
            if self.expects:
                self.expects = False
                await self._source.say_continue()
            return await (self._next_sized() if self._decoder is None else self._next_chunked(self._decoder))
        except ChunkedError as error:
            self.error = BodyError(str(error), 400)
            raise self.error from error
        except BodyError as error:
            self.error = error
            raise

    async def _next_sized(self) -> Chunk:
        if self._source.received:
            early = self._source.received.take(self.least_left)
            self.bytes_in += len(early)
            return early
        count = await self._receive(self.least_left)
        self.bytes_in += count
        return self._source.shared.lend(count)

    async def _next_chunked(self, decoder: ChunkedDecoder) -> Chunk:
        memory = self._source.shared.memory
        received = self._source.received
        while True:
            if received:
                await self._source.let_others_run()
                early = received.take(CHUNKED_READ)
                count = len(early)
                memory[:count] = early
            else:
                count = await self._receive(CHUNKED_READ)
            pieces = decoder.receive(memory[:count], CHUNKS_AT_ONCE)
            if decoder.used < count:
                received.put_back(memory[decoder.used : count])
            # Moved together, so that they are one chunk to the consumer: the buffer is not ours after its next await.
            size = 0
            for piece in pieces:
                memory[size : size + len(piece)] = piece
                size += len(piece)
            self.bytes_in += size
            if size:
                return self._source.shared.lend(size)
            if decoder.done:
                raise StopAsyncIteration

    async def _receive(self, most: int) -> int:
        count, waited = await self._source.receive_content(most, self.least_left or 1)
        self._waited += waited
        if not count:
            raise BodyError("the content ended before it was complete", 400)
        check_rate(self.bytes_in + count, self._waited, self._limits)
        return count
