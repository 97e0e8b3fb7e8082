"""What every blob store must do: a backend's tests derive from `BlobSuite` and say how a store is made.

One rule: it asks for what enseada/storage/blobs/base.py promises and for nothing else, so a store that makes bytes
durable by parts, or takes chunks late, passes it as well as one that does not.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enseada.http import Span
from enseada.protocols.digests import hasher
from enseada.storage.blobs.base import BlobBusy, BlobLost, BlobMissing
from tests import cancel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from enseada.protocols.digests import Hasher
    from enseada.storage.blobs.base import BlobStore, BlobWriter

HOSTS = ("trio", "asyncio")


def payload(size: int, seed: int = 0) -> bytes:
    """Bytes of which no two runs are alike, always the same."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def on_every_host(test: Callable[[Any, Any], Awaitable[None]]) -> Callable[..., None]:
    """Make a test of an async method that takes a store: it runs under trio and under asyncio."""

    @pytest.mark.parametrize("host", HOSTS)
    def run(self: BlobSuite, host: str, tmp_path: Path) -> None:
        async def main() -> None:
            async with self.store(tmp_path) as store:
                await test(self, store)

        anyio.run(main, backend=host)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def lend(writer: BlobWriter, data: bytes) -> None:
    """Write ``data`` from a buffer that is overwritten as soon as the contract allows it."""
    buffer = bytearray(data)

    def spoil() -> None:
        buffer[:] = b"\xdd" * len(buffer)

    with memoryview(buffer) as view:
        if writer.inline:
            await cancel._watched(writer.write(view), spoil)
        else:
            await writer.write(view)
        spoil()


async def write(writer: BlobWriter, data: bytes, piece: int | None = None) -> set[int]:
    """Write ``data`` in pieces, cut at the boundaries too, and return the offsets at which writes ended."""
    ends = set()
    while data:
        step = min(len(data), piece or len(data))
        if writer.boundary is not None:
            step = min(step, writer.boundary - writer.offset)
        assert step > 0
        before = writer.offset
        await lend(writer, data[:step])
        assert writer.offset == before + step
        assert writer.durable <= writer.offset
        ends.add(writer.offset)
        data = data[step:]
    return ends


async def put(store: BlobStore, data: bytes) -> str:
    """Store a blob."""
    key = store.new_key()
    writer = await store.create(key, len(data))
    await write(writer, data)
    await writer.commit()
    return key


async def read(store: BlobStore, span: Span) -> bytes:
    """Read by iteration, and compare with what a descriptor gives, if there is one."""
    content = await store.open(span)
    try:
        data = b"".join([chunk async for chunk in content])
        assert len(data) == content.length
        if content.file is not None:
            assert os.pread(content.file, content.length + 1, content.start)[: content.length] == data
    finally:
        await content.aclose()
        await content.aclose()
    return data


class BlobSuite:
    """The suite. ``size`` is a length in bytes that goes beyond a boundary or two, if the store has any."""

    size: int

    async def make(self, folder: Path) -> BlobStore:
        """A store. Called again with the same folder, one that has the same blobs, if it can."""
        raise NotImplementedError

    @asynccontextmanager
    async def store(self, folder: Path) -> AsyncIterator[BlobStore]:
        store = await self.make(folder)
        try:
            yield store
        finally:
            await store.aclose()

    # -- whole blobs

    @on_every_host
    async def test_blobs_of_all_lengths(self, store: BlobStore) -> None:
        for size in (0, 1, 2, self.size):
            data = payload(size)
            key = await put(store, data)
            assert await store.size(key) == size
            assert await read(store, Span(key)) == data

    @on_every_host
    async def test_the_length_need_not_be_known(self, store: BlobStore) -> None:
        key = store.new_key()
        writer = await store.create(key, None)
        assert (writer.offset, writer.durable) == (0, 0)
        await write(writer, payload(self.size), 1 + self.size // 3)
        await writer.commit()
        assert writer.durable == writer.offset == self.size
        assert await read(store, Span(key)) == payload(self.size)

    @on_every_host
    async def test_ranges(self, store: BlobStore) -> None:
        size = self.size
        data = payload(size)
        key = await put(store, data)
        for start, stop in [
            (0, None), (0, 0), (0, 1), (1, 2), (size - 1, None), (size - 1, size), (size // 2, size // 2),
            (size // 3, size // 2), (0, size + 1), (5, size * 9), (size, None), (size + 1, None), (size + 1, size + 9),
        ]:  # fmt: skip
            assert await read(store, Span(key, start, stop)) == data[start:stop]

    @on_every_host
    async def test_an_open_blob_outlives_the_next_ones(self, store: BlobStore) -> None:
        first, second = payload(self.size, 1), payload(self.size, 2)
        content = await store.open(Span(await put(store, first)))
        await put(store, second)
        assert b"".join([chunk async for chunk in content]) == first
        await content.aclose()

    @on_every_host
    async def test_what_is_missing(self, store: BlobStore) -> None:
        key = store.new_key()
        with pytest.raises(BlobMissing):
            await store.open(Span(key))
        with pytest.raises(BlobMissing):
            await store.size(key)
        await store.delete(key)
        key = await put(store, b"data")
        await store.delete(key)
        await store.delete(key)
        with pytest.raises(BlobMissing):
            await store.open(Span(key))
        with pytest.raises(BlobMissing):
            await store.size(key)

    @on_every_host
    async def test_what_is_no_key_is_refused(self, store: BlobStore) -> None:
        good = store.new_key()
        bad = [
            "", "x", "../x", "/etc/passwd", "\0", f"{good}\0", f"../{good}", f"/{good}", f"{good}/", f"{good}\n",
            f"./{good}", good.upper() + "X", good.replace("/", "//"), good.replace("/", "/../"), good[:-1], good + "0",
            good.replace(good[-1], "\u0665"), f"{good[:2]}\\{good[3:]}",
        ]  # fmt: skip
        for key in bad:
            with pytest.raises(ValueError, match="key"):
                await store.create(key, None)
            with pytest.raises(ValueError, match="key"):
                await store.open(Span(key))
            with pytest.raises(ValueError, match="key"):
                await store.size(key)
            with pytest.raises(ValueError, match="key"):
                await store.delete(key)

    @on_every_host
    async def test_keys_do_not_repeat(self, store: BlobStore) -> None:
        assert len({store.new_key() for _ in range(5000)}) == 5000

    @on_every_host
    async def test_urls_are_urls(self, store: BlobStore) -> None:
        url = await store.url(Span(await put(store, b"data")), 60.0)
        assert url is None or url.startswith(("http://", "https://"))

    # -- the writer

    @on_every_host
    async def test_a_write_never_crosses_a_boundary(self, store: BlobStore) -> None:
        writer = await store.create(store.new_key(), None)
        if writer.boundary is not None:
            boundary = writer.boundary
            with pytest.raises(ValueError, match="boundary"):
                await writer.write(bytes(boundary + 1))
            assert (writer.offset, writer.durable) == (0, 0)
            await write(writer, bytes(boundary - 1))
            assert writer.boundary == boundary
            await write(writer, b"!")
            assert writer.durable == writer.offset == boundary
            assert writer.boundary is not None
            assert writer.boundary > boundary
        await writer.abort()

    @on_every_host
    async def test_durable_is_where_a_write_or_a_flush_ended(self, store: BlobStore) -> None:
        writer = await store.create(store.new_key(), None)
        ends = {0}
        for number in range(9):
            ends |= await write(writer, payload(self.size // 7), 1 + self.size // 16)
            if number % 3 == 0:
                await writer.flush()
            assert writer.durable in ends
        await writer.abort()

    @on_every_host
    async def test_another_task_may_flush(self, store: BlobStore) -> None:
        key = store.new_key()
        writer = await store.create(key, None)
        data = payload(self.size)
        done = anyio.Event()

        async def flush() -> None:
            last = 0
            while not done.is_set():
                await writer.flush()
                assert last <= writer.durable <= writer.offset
                last = writer.durable

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flush)
            tasks.start_soon(flush)
            for at in range(0, self.size, 1 + self.size // 20):
                await write(writer, data[at : at + 1 + self.size // 20])
                await anyio.lowlevel.checkpoint()
            done.set()
        await writer.commit()
        assert await read(store, Span(key)) == data

    @on_every_host
    async def test_commit_is_final(self, store: BlobStore) -> None:
        key = store.new_key()
        writer = await store.create(key, None)
        await write(writer, b"data")
        await writer.commit()
        await writer.commit()
        await writer.abort()
        assert await writer.suspend() == 4
        await writer.abort()
        assert await read(store, Span(key)) == b"data"
        with pytest.raises(RuntimeError):
            await writer.write(b"more")

    @on_every_host
    async def test_abort_leaves_nothing_in_any_order(self, store: BlobStore) -> None:
        for size in (0, 1, self.size):
            for flush in (False, True):
                key = store.new_key()
                writer = await store.create(key, size)
                await write(writer, payload(size))
                if flush:
                    await writer.flush()
                state = writer.state(writer.durable)
                await writer.abort()
                await writer.abort()
                await writer.suspend()
                await writer.abort()
                with pytest.raises(BlobMissing):
                    await store.size(key)
                with pytest.raises(BlobLost):
                    await store.resume(state)
                await store.discard(state)

    @on_every_host
    async def test_abort_after_suspend_removes_nothing(self, store: BlobStore) -> None:
        key = store.new_key()
        writer = await store.create(key, None)
        await write(writer, payload(self.size))
        durable = await writer.suspend()
        assert await writer.suspend() == durable
        await writer.abort()
        resumed = await store.resume(writer.state(durable))
        await write(resumed, payload(self.size)[durable:])
        await writer.abort()  # of the old writer, while another has the upload
        await resumed.commit()
        assert await read(store, Span(key)) == payload(self.size)

    # -- suspended and resumed

    @on_every_host
    async def test_an_upload_goes_on_from_every_offset_that_was_durable(self, store: BlobStore) -> None:
        key = store.new_key()
        data = payload(self.size)
        writer = await store.create(key, None)
        offsets = {0}
        for at in range(0, self.size, 1 + self.size // 5):
            await write(writer, data[at : at + 1 + self.size // 5])
            await writer.flush()
            offsets.add(writer.durable)
        offsets.add(await writer.suspend())
        for offset in sorted(offsets, reverse=True):
            state = writer.state(offset)
            assert isinstance(state, bytes)
            resumed = await store.resume(state)
            assert (resumed.offset, resumed.durable) == (offset, offset)
            assert resumed.boundary is None or resumed.boundary > offset
            await resumed.suspend()
            assert await read(store, Span(key, 0, offset)) == data[:offset]
            assert await store.size(key) == offset, "the bytes after it are gone"
        resumed = await store.resume(writer.state(0))
        await write(resumed, b"other bytes")
        await resumed.commit()
        assert await read(store, Span(key)) == b"other bytes"

    @on_every_host
    async def test_only_one_may_have_an_upload(self, store: BlobStore) -> None:
        key = store.new_key()
        writer = await store.create(key, None)
        await writer.flush()
        state = writer.state(0)
        for _ in range(2):
            with pytest.raises(BlobBusy):
                await store.resume(state)
            with pytest.raises(BlobBusy):
                await store.discard(state)
            await writer.suspend()
            writer = await store.resume(state)
        await write(writer, b"data")
        await writer.commit()
        assert await read(store, Span(key)) == b"data"

    @on_every_host
    async def test_what_was_discarded_is_lost(self, store: BlobStore) -> None:
        key = store.new_key()
        writer = await store.create(key, None)
        await write(writer, payload(self.size))
        state = writer.state(await writer.suspend())
        await store.discard(state)
        await store.discard(state)
        with pytest.raises(BlobLost):
            await store.resume(state)
        with pytest.raises(BlobMissing):
            await store.size(key)

    @on_every_host
    async def test_a_state_that_cannot_be_read_is_lost(self, store: BlobStore) -> None:
        writer = await store.create(store.new_key(), None)
        good = writer.state(await writer.suspend())
        for state in (b"", b"\xff", b"{}", b"null", good[:-1], good.replace(b"/", b"../"), b'{"store":"other-1"}'):
            with pytest.raises(BlobLost):
                await store.resume(state)
            await store.discard(state)
        await (await store.resume(good)).abort()

    @on_every_host
    async def test_a_state_is_only_for_what_was_durable(self, store: BlobStore) -> None:
        writer = await store.create(store.new_key(), None)
        for durable in (-1, 1):
            with pytest.raises(ValueError, match="durable"):
                writer.state(durable)
        await writer.abort()

    @on_every_host
    async def test_a_stale_state_does_no_harm_to_a_blob(self, store: BlobStore) -> None:
        """A crash between the commit and the document that tells of it leaves a session whose state is old."""
        key = store.new_key()
        data = payload(self.size)
        writer = await store.create(key, None)
        await write(writer, data[:-1])
        await writer.flush()
        durable = writer.durable
        await write(writer, data[-1:])
        await writer.commit()
        for offset in {0, durable} - {self.size}:
            with pytest.raises(BlobLost):
                await store.resume(writer.state(offset))
        for offset in (0, durable, self.size):
            await store.discard(writer.state(offset))
        again = await store.resume(writer.state(self.size))
        assert again.offset == again.durable == self.size
        with pytest.raises(BlobLost):
            await again.write(b"more")
        await again.abort()
        again = await store.resume(writer.state(self.size))
        await again.suspend()
        again = await store.resume(writer.state(self.size))
        await again.commit()
        assert await read(store, Span(key)) == data

    @pytest.mark.parametrize("host", HOSTS)
    def test_any_writes_flushes_and_resumptions_give_the_bytes_of_the_digest(self, host: str, tmp_path: Path) -> None:
        """The hash goes back with the writer to a snapshot at what is durable, and is always that of the bytes."""
        step = st.tuples(st.just("write"), st.integers(0, self.size // 2)) | st.tuples(
            st.sampled_from(["flush", "suspend", "fall back"]), st.just(0)
        )

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(st.lists(step, max_size=12))
        def check(steps: list[tuple[str, int]]) -> None:
            anyio.run(self._run, steps, tmp_path, backend=host)

        check()

    async def _run(self, steps: list[tuple[str, int]], folder: Path) -> None:
        async with self.store(folder) as store:
            key = store.new_key()
            writer: BlobWriter = await store.create(key, None)
            hash_ = hasher("sha256")
            snapshots: dict[int, Hasher] = {0: hash_.copy()}
            intended = b""
            for seed, (what, size) in enumerate(steps):
                if what == "write":
                    data = payload(size, seed)
                    while data:
                        room = len(data) if writer.boundary is None else writer.boundary - writer.offset
                        piece, data = data[:room], data[room:]
                        hash_.update(piece)
                        snapshots[hash_.count] = hash_.copy()
                        await lend(writer, piece)
                        intended += piece
                elif what == "flush":
                    await writer.flush()
                else:
                    durable = await writer.suspend()
                    if what == "fall back":  # to an older snapshot, as after a crash
                        durable = max(offset for offset in snapshots if offset <= durable // 2)
                    hash_ = snapshots[durable].copy()
                    snapshots = {offset: hash_ for offset, hash_ in snapshots.items() if offset <= durable}
                    intended = intended[:durable]
                    writer = await store.resume(writer.state(durable))
            await writer.commit()
            stored = await read(store, Span(key))
            assert stored == intended
            assert hashlib.sha256(stored).hexdigest() == hash_.hexdigest()

    # -- cancelled at every await

    @on_every_host
    async def test_create_cancelled_leaves_nothing(self, store: BlobStore) -> None:
        key = ""
        writer: BlobWriter | None = None

        async def make() -> None:
            nonlocal key, writer
            key, writer = store.new_key(), None
            writer = await store.create(key, 5)

        async def after() -> None:
            if writer is not None:
                await writer.abort()
            with pytest.raises(BlobMissing):
                await store.size(key)

        assert await cancel.cancel_at_every_checkpoint(make, after) > 1

    async def _cancel(
        self,
        store: BlobStore,
        operation: Callable[[BlobWriter], Awaitable[object]],
        after: Callable[[str, BlobWriter, bytes], Awaitable[None]],
    ) -> None:
        """Cancel ``operation`` at each await, of writers that have been fed some bytes; ``after`` gets these too."""
        data = payload(self.size // 2)
        fresh: list[tuple[str, BlobWriter]] = []

        async def prepare() -> None:
            key = store.new_key()
            writer = await store.create(key, None)
            await write(writer, data)
            fresh.append((key, writer))

        async def check() -> None:
            key, writer = fresh[-1]
            await after(key, writer, data)
            await prepare()

        async def make() -> None:
            await operation(fresh[-1][1])

        await prepare()
        assert await cancel.cancel_at_every_checkpoint(make, check) > 1
        await fresh[-1][1].abort()

    async def _finish(self, store: BlobStore, key: str, writer: BlobWriter, data: bytes) -> None:
        """An upload whose bytes so far are the beginning of ``data`` can be completed."""
        await write(writer, data[writer.offset :])
        await writer.commit()
        assert await read(store, Span(key)) == data

    @on_every_host
    async def test_write_cancelled_took_all_or_nothing(self, store: BlobStore) -> None:
        more = b""

        async def operation(writer: BlobWriter) -> None:
            nonlocal more
            room = self.size if writer.boundary is None else writer.boundary - writer.offset
            more = payload(room, 2)
            await lend(writer, more)

        async def after(key: str, writer: BlobWriter, data: bytes) -> None:
            assert writer.offset in (len(data), len(data) + len(more))
            await self._finish(store, key, writer, data + more + b"rest")

        await self._cancel(store, operation, after)

    @on_every_host
    async def test_write_cancelled_and_then_resumed(self, store: BlobStore) -> None:
        more = b""

        async def operation(writer: BlobWriter) -> None:
            nonlocal more
            room = self.size if writer.boundary is None else writer.boundary - writer.offset
            more = payload(room, 2)
            await lend(writer, more)

        async def after(key: str, writer: BlobWriter, data: bytes) -> None:
            writer = await store.resume(writer.state(await writer.suspend()))
            await self._finish(store, key, writer, data + more + b"rest")

        await self._cancel(store, operation, after)

    @on_every_host
    async def test_flush_cancelled_loses_nothing(self, store: BlobStore) -> None:
        async def after(key: str, writer: BlobWriter, data: bytes) -> None:
            assert writer.offset == len(data)
            await self._finish(store, key, writer, data + b"rest")

        await self._cancel(store, lambda writer: writer.flush(), after)

    @on_every_host
    async def test_suspend_cancelled_can_be_called_again(self, store: BlobStore) -> None:
        async def after(key: str, writer: BlobWriter, data: bytes) -> None:
            writer = await store.resume(writer.state(await writer.suspend()))
            await self._finish(store, key, writer, data + b"rest")

        await self._cancel(store, lambda writer: writer.suspend(), after)

    @on_every_host
    async def test_commit_cancelled_can_be_called_again(self, store: BlobStore) -> None:
        async def after(key: str, writer: BlobWriter, data: bytes) -> None:
            await writer.commit()
            assert await read(store, Span(key)) == data

        await self._cancel(store, lambda writer: writer.commit(), after)

    @on_every_host
    async def test_commit_cancelled_can_be_found_out_by_resuming(self, store: BlobStore) -> None:
        async def after(key: str, writer: BlobWriter, data: bytes) -> None:
            writer = await store.resume(writer.state(await writer.suspend()))
            await self._finish(store, key, writer, data)

        await self._cancel(store, lambda writer: writer.commit(), after)

    @on_every_host
    async def test_abort_cancelled_can_be_called_again(self, store: BlobStore) -> None:
        async def after(key: str, writer: BlobWriter, data: bytes) -> None:
            await writer.abort()
            with pytest.raises(BlobMissing):
                await store.size(key)

        await self._cancel(store, lambda writer: writer.abort(), after)

    @on_every_host
    async def test_resume_cancelled_leaves_the_upload_as_it_was(self, store: BlobStore) -> None:
        key = store.new_key()
        data = payload(self.size)
        writer = await store.create(key, None)
        await write(writer, data)
        state = writer.state(await writer.suspend())
        resumed: BlobWriter | None = None

        async def make() -> None:
            nonlocal resumed
            resumed = None
            resumed = await store.resume(state)

        async def after() -> None:
            if resumed is not None:
                await resumed.suspend()

        assert await cancel.cancel_at_every_checkpoint(make, after) > 1
        await self._finish(store, key, await store.resume(state), data + b"rest")

    @on_every_host
    async def test_reading_cancelled_goes_on_where_it_was(self, store: BlobStore) -> None:
        data = payload(self.size)
        key = await put(store, data)
        content: Any = None
        got = b""

        async def make() -> None:
            nonlocal content, got
            content, got = None, b""
            content = await store.open(Span(key))
            async for chunk in content:
                got += chunk

        async def after() -> None:
            if content is not None:
                rest = b"".join([chunk async for chunk in content])
                await content.aclose()
                assert got + rest == data

        assert await cancel.cancel_at_every_checkpoint(make, after) > 1
