"""The only loop that moves uploaded bytes: from a request's body, past a machine, into a blob store.

One rule: there is no queue. A chunk is pulled when the one before it has been taken, so a slow store closes the
client's TCP window and memory stays flat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from enseada.http import Body, Chunk
    from enseada.storage.blobs.base import BlobWriter


class Machine(Protocol):
    """What sees the bytes as they pass, without awaiting anything."""

    def receive(self, chunk: Chunk) -> None:
        """Count, hash, parse. Raises RegistryError, having taken nothing."""
        ...

    def mark(self) -> None:
        """Remember this offset: the store may make it durable."""
        ...


async def ingest(body: Body, machine: Machine, writer: BlobWriter, progress: Callable[[], Awaitable[None]]) -> None:
    """Move all of ``body`` through ``machine`` into ``writer``; ``progress`` is awaited after every write.

    Raises what they raise, BodyError included. Then, and when cancelled, ``machine`` and ``writer`` agree on the
    offset unless it happened within a write: the caller compares them, and goes back to a mark if they differ.
    """
    async for chunk in body:
        rest: Chunk | None = chunk
        while rest:
            piece, rest = _cut(rest, writer)
            machine.receive(piece)
            if writer.offset + len(piece) == writer.boundary:
                machine.mark()
            await writer.write(piece)
            await progress()


def _cut(chunk: Chunk, writer: BlobWriter) -> tuple[Chunk, Chunk | None]:
    """What to write now, which ends at the writer's boundary at the latest, and what is left."""
    rest: Chunk | None = None
    if writer.boundary is not None and len(chunk) > (room := writer.boundary - writer.offset):
        # What is left outlives the next await, and so must not be a view of a buffer that was lent.
        chunk, rest = chunk[:room], bytes(chunk[room:])
    return (chunk if writer.inline else bytes(chunk)), rest
