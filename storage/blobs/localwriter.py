"""One upload to a local disk, under way.

One rule: bytes are written on the loop, into the page cache, only while few of them are not on the disk yet (a window
of one upload, and a limit for all), since beyond it write(2) sleeps when the kernel throttles. There the disk is waited
for, in a thread.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import msgspec

from enseada.storage.blobs import files
from enseada.storage.blobs.base import BlobLost, BlobUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from enseada.http import Chunk
    from enseada.storage.blobs.local import LocalStore

WINDOW_BYTES = 32 * 1024 * 1024
"""Bytes of one upload that may be in the page cache only: at every multiple of it, `write` waits for the disk."""

DIRTY_BYTES = 128 * 1024 * 1024
"""Bytes of all uploads together that may be in the page cache only: beyond it every `write` waits for the disk. Many
slow uploads never come to the end of a window, and the kernel throttles by what the whole machine has (at 10 to 20% of
its memory)."""

WRITEBACK_BYTES = 8 * 1024 * 1024
"""After so many bytes the kernel is told to begin to write them out."""


class LocalState(msgspec.Struct, frozen=True, tag="local-1", tag_field="store", forbid_unknown_fields=True):
    """An upload that was let go of: which one, and from where it goes on."""

    key: str
    offset: int


class LocalWriter:
    """A `BlobWriter`. `LocalStore.create` and `LocalStore.resume` make it."""

    def __init__(self, store: LocalStore, key: str, fd: int, offset: int, *, final: bool = False) -> None:
        """Takes over ``fd``, which holds the lock. ``final``: it was committed before, and is so long as ``offset``."""
        self.inline = True
        self.offset = offset
        self.boundary: int | None = (offset // store.window + 1) * store.window
        self.durable = offset
        self._store = store
        self._key = key
        self._path = store.path(key)
        self._fd = fd
        self._final = final
        self._named = offset > 0  # the folder is known to hold the name durably
        self._committed = False
        self._ended = False
        self._failure: str | None = None
        self._written_back = offset
        self._threads = 0  # that have the descriptor now
        self._syncing = anyio.Lock()
        store.enter(self)

    async def write(self, data: Chunk) -> None:
        """See `BlobWriter.write`. Suspends only when ``data`` is written already: at the boundary, and where all
        uploads together have too much that is not on the disk.

        Raises BlobUnavailable, also while the disk is full but for the reserve; BlobLost for bytes beyond a blob that
        was committed before.
        """
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self._check()
        if self.boundary is not None and self.offset + size > self.boundary:
            raise ValueError(f"a write of {size} bytes at {self.offset} crosses the boundary at {self.boundary}")
        if self._final:
            raise BlobLost(f"{self._key} has been committed with {self.offset} bytes")
        if self.offset + size - self.durable > self._store.window:
            # The wait at the last boundary was cancelled, and is made up for.
            data = bytes(data)
            await self._sync(self.offset)
            self._check()
        try:
            self._store.take_room(size)
        except OSError as error:
            raise unavailable(self._key, error) from error
        try:
            files.write_all(self._fd, data, self.offset)
        except OSError as error:
            self._cut()
            raise unavailable(self._key, error) from error
        self.offset += size
        self._store.dirty += size
        if self.offset - self._written_back >= WRITEBACK_BYTES:
            files.start_writeback(self._fd, self._written_back, self.offset)
            self._written_back = self.offset
        full = self._store.dirty > self._store.most_dirty
        if self.offset == self.boundary:
            self.boundary += self._store.window
            full = True
        if full:
            await self._sync(self.offset)

    async def flush(self) -> None:
        """See `BlobWriter.flush`."""
        self._check()
        await self._sync(self.offset)

    def state(self, durable: int) -> bytes:
        """See `BlobWriter.state`. Raises ValueError for an offset that never was durable."""
        if not 0 <= durable <= self.durable:
            raise ValueError(f"{self._key} is durable up to {self.durable}, not {durable}")
        return msgspec.json.encode(LocalState(self._key, durable))

    async def suspend(self) -> int:
        """See `BlobWriter.suspend`. Cancelled: the upload is let go of all the same."""
        if self._ended:
            await anyio.lowlevel.checkpoint()
            return self.durable
        try:
            if self._failure is None:
                await self._sync(self.offset)
        except BlobUnavailable:
            pass  # resumed at what is durable, the file is cut there
        finally:
            self.end()
        return self.durable

    async def commit(self) -> None:
        """See `BlobWriter.commit`."""
        if self._committed:
            await anyio.lowlevel.checkpoint()
            return
        self._check()
        async with self._syncing:
            self._check()
            try:
                await self._in_thread(_finish, self._fd, self._path)
                self._store.file_syncs += 1
                if not self._named:
                    await self._store.sync_folder(self._key)
            except BaseException as error:
                if not self._final:
                    with suppress(OSError):
                        os.chmod(self._path, files.UPLOAD_MODE)  # still an upload, that may be resumed anywhere
                if isinstance(error, OSError):
                    raise self._fail(error) from error
                raise
            self._committed = True
            self._reach(self.offset)
            self.end()

    async def abort(self) -> None:
        """See `BlobWriter.abort`. Raises BlobUnavailable. Cancelled: it may be called again."""
        async with self._syncing:
            if self._ended:
                return
            try:
                if not self._final:
                    await self._store.run(files.remove, self._path)
            except OSError as error:
                self.end()
                raise unavailable(self._key, error) from error
            self.end()

    def end(self) -> None:
        """Let go of the file, at once or when the last thread that has it now comes back."""
        if not self._ended:
            self._ended = True
            self._store.dirty -= self.offset - self.durable
            self._store.leave(self)
            if not self._threads:
                os.close(self._fd)

    async def _sync(self, target: int) -> None:
        """Make the first ``target`` bytes durable, which are written. Raises BlobUnavailable."""
        async with self._syncing:
            if self.durable >= target and self._named:
                return
            self._check()
            try:
                await self._in_thread(files.sync_data, self._fd)
            except OSError as error:
                raise self._fail(error) from error
            self._store.file_syncs += 1
            if not self._named:
                await self._store.sync_folder(self._key)
                self._named = True
            self._reach(target)

    def _reach(self, durable: int) -> None:
        """The first ``durable`` bytes are on the disk."""
        if durable > self.durable:
            if not self._ended:  # else none of it is counted any more
                self._store.dirty -= durable - self.durable
            self.durable = durable

    async def _in_thread(self, function: Callable[..., None], *args: object) -> None:
        self._threads += 1
        try:
            await self._store.run(function, *args)
        finally:
            self._threads -= 1
            if self._ended and not self._threads:
                os.close(self._fd)

    def _check(self) -> None:
        if self._failure is not None:
            raise BlobUnavailable(self._failure)
        if self._ended:
            raise RuntimeError(f"the writer of {self._key} has ended")

    def _fail(self, error: OSError) -> BlobUnavailable:
        # The kernel reports a failed write-back once, and drops the pages: the next fsync would succeed without them.
        # Only a new writer that begins at what is durable may go on.
        failure = unavailable(self._key, error)
        self._failure = str(failure)
        return failure

    def _cut(self) -> None:
        """Take back what a failed write may have left after the offset."""
        try:
            os.ftruncate(self._fd, self.offset)
        except OSError as error:
            self._fail(error)


def _finish(fd: int, path: str) -> None:
    os.chmod(path, files.FINAL_MODE)
    files.sync_all(fd)


def unavailable(key: str, error: OSError) -> BlobUnavailable:
    """What a failure of the disk is to the store's users."""
    return BlobUnavailable(f"the local disk failed with {key}: {error.strerror}")
