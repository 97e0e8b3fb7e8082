"""What another process does to a document store's file: ``python -m tests.storage.sqlite_child ROLE PATH ...``."""

from __future__ import annotations

import json
import resource
import signal
import sys
from time import monotonic
from typing import TYPE_CHECKING

import anyio

from enseada.storage.documents.base import Conflict, Document, DocumentError, prefix_range
from enseada.storage.documents.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def echo(path: str) -> None:
    """For each line, a revision: print what ``ping`` is, after having put the same into ``pong``."""
    async with await SQLiteStore.open(path) as store:
        pong = Document("pong", {})
        async for line in anyio.wrap_file(sys.stdin):
            ping = await store.get("ping")
            assert ping is not None
            assert ping.rev == line.strip()
            pong = await store.put(Document("pong", ping.data, pong.rev))
            print(json.dumps({"ping": ping.data, "rev": ping.rev}), flush=True)


async def increment(path: str, times: str, id: str) -> None:
    """Add one to ``n`` of a document, so many times, by compare-and-swap; print the longest wait."""
    longest = 0.0
    async with await SQLiteStore.open(path) as store:
        for _ in range(int(times)):
            begun = monotonic()
            while True:
                doc = await store.get(id) or Document(id, {"n": 0})
                try:
                    await store.put(Document(id, {"n": doc.data["n"] + 1}, doc.rev))
                except Conflict:
                    continue
                break
            longest = max(longest, monotonic() - begun)
    print(json.dumps({"longest": longest}))


async def write(path: str, name: str) -> None:
    """Put documents, four at once, until killed; print the id of each that was acknowledged."""

    async def put(writer: int) -> None:
        number = 0
        while True:
            id = f"id-{name}-{writer}-{number}"
            await store.put(Document(id, {"x": "x" * 1000}))
            sys.stdout.write(f"{id}\n")
            sys.stdout.flush()
            number += 1

    async with await SQLiteStore.open(path) as store, anyio.create_task_group() as group:
        for writer in range(4):
            group.start_soon(put, writer)


async def limited(path: str) -> None:
    """Put documents until the file may not grow any more; tell what happened, and whether it works afterwards."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # Then write(2) fails with EFBIG.
    async with await SQLiteStore.open(path) as store:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        stored = 0
        failed = ""
        while not failed:
            try:
                await store.put(Document(f"id-{stored:03}", {"x": "x" * 50_000}))
            except DocumentError as error:
                failed = type(error).__name__
            else:
                stored += 1
        read = len(await store.scan(*prefix_range("id-"), 1000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await store.put(Document("small", {}))
    print(json.dumps({"failed": failed, "stored": stored, "read": read, "afterwards": "done"}))


if __name__ == "__main__":
    roles: dict[str, Callable[..., Awaitable[None]]] = {
        "echo": echo,
        "increment": increment,
        "write": write,
        "limited": limited,
    }
    anyio.run(roles[sys.argv[1]], *sys.argv[2:], backend="trio")
