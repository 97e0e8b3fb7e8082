"""Blobs on a local disk: one file each, written in place, never renamed.

One rule: an answer waits for the disk, and the loop never does: what may stall (fsync, removing and cutting large
files) waits in a thread; what is a system call on names in the cache is done on the loop.

An upload's file has mode 600 and an exclusive flock(2) by its writer; a blob's has mode 400.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import msgspec
from anyio import to_thread

from enseada.storage.blobs import files
from enseada.storage.blobs.base import BlobBusy, BlobLost, BlobMissing, BlobUnavailable
from enseada.storage.blobs.folders import SharedSync, make_folders
from enseada.storage.blobs.keys import BUCKETS, KeyMaker, check_key
from enseada.storage.blobs.localwriter import DIRTY_BYTES, WINDOW_BYTES, LocalState, LocalWriter, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from enseada.http import Span

RESERVE_BYTES = 64 * 1024 * 1024
"""Disk space that uploads leave to others, the document store first of all."""

MEASURE_BYTES = 1024 * 1024
"""After so many bytes of all uploads together it is looked how much space is left: far fewer than are reserved."""

THREADS = 16
"""Threads that wait for the disk at most."""

_T = TypeVar("_T")


class LocalStore:
    """Blobs in a folder of the local disk. Several processes may use it at once. For one event loop each."""

    def __init__(
        self, folder: str, *, reserve: int = RESERVE_BYTES, window: int = WINDOW_BYTES, most_dirty: int = DIRTY_BYTES
    ) -> None:
        """Use `at`, which makes the folders. ``reserve``, ``window`` and ``most_dirty`` in bytes."""
        self.window = window
        self.most_dirty = most_dirty
        self.dirty = 0
        """Bytes of all open uploads together that are not known to be on the disk. The writers keep count."""
        self.file_syncs = 0
        """Files' fsyncs done."""
        self._folder = folder
        self._reserve = reserve
        self._unmeasured = 0
        self._keys = KeyMaker()
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._folder_sync = SharedSync(self._limiter)
        self._writers: set[LocalWriter] = set()

    @classmethod
    async def at(
        cls,
        folder: str | os.PathLike[str],
        *,
        reserve: int = RESERVE_BYTES,
        window: int = WINDOW_BYTES,
        most_dirty: int = DIRTY_BYTES,
    ) -> LocalStore:
        """The store in ``folder``, which is made if it is missing, with mode 700. Raises BlobUnavailable.

        Cancelled: some folders may have been made.
        """
        path = os.path.abspath(folder)  # noqa: ASYNC240  # asks for the working directory, not for the disk
        try:
            await to_thread.run_sync(make_folders, path, BUCKETS)
        except OSError as error:
            raise BlobUnavailable(f"blobs cannot be kept in {path}: {error.strerror}") from error
        return cls(path, reserve=reserve, window=window, most_dirty=most_dirty)

    @property
    def folder_syncs(self) -> int:
        """Folders' fsyncs done; commits that wait at the same time share them."""
        return self._folder_sync.count

    def new_key(self) -> str:
        """A key that nothing has ever had."""
        return self._keys.new()

    async def create(self, key: str, length: int | None) -> LocalWriter:
        """Begin a blob under ``key``. Raises BlobBusy if there is one, BlobUnavailable, ValueError for no key."""
        path = self.path(key)
        # Preallocating would count against a quota what may never come; so this only refuses what cannot go well.
        await anyio.lowlevel.checkpoint()
        try:
            self._measure(length or 0)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.UPLOAD_MODE)
        except FileExistsError:
            raise BlobBusy(f"there is something under {key} already") from None
        except OSError as error:
            raise unavailable(key, error) from error
        try:
            files.lock(fd, key)
        except BaseException:
            os.close(fd)
            raise
        return LocalWriter(self, key, fd, 0)

    async def resume(self, state: bytes) -> LocalWriter:
        """Go on with an upload. A blob that was committed since can only be committed again, at its whole size.

        Raises BlobBusy, BlobLost (also for a state of another store), BlobUnavailable, also where more bytes would go
        into the reserve. Then, and when cancelled, it stays as it is.
        """
        try:
            saved = msgspec.json.decode(state, type=LocalState)
            path = self.path(saved.key)
        except ValueError as error:
            raise BlobLost(f"the upload's state is none of a local store: {error}") from None
        await anyio.lowlevel.checkpoint()
        found = self._lock_existing(saved.key)
        if found is None:
            raise BlobLost(f"the upload {saved.key} is not there any more")
        fd, status = found
        try:
            final = files.is_final(status.st_mode)
            if saved.offset < 0 or status.st_size < saved.offset:
                raise BlobLost(f"the upload {saved.key} has {status.st_size} bytes and not {saved.offset}")
            if final and status.st_size > saved.offset:
                raise BlobLost(f"the upload {saved.key} has become a blob of {status.st_size} bytes")
            if not final:
                self._measure(saved.offset - status.st_size)  # what is cut off makes room
            if status.st_size > saved.offset:
                await self.run(os.truncate, path, saved.offset)
        except OSError as error:
            os.close(fd)
            raise unavailable(saved.key, error) from error
        except BaseException:
            os.close(fd)
            raise
        return LocalWriter(self, saved.key, fd, saved.offset, final=final)

    async def open(self, span: Span) -> files.FileContent:
        """Open a file for sending. Its ``length`` is what is there of the span: a file may be shorter than it ought.

        Raises BlobMissing, BlobUnavailable, ValueError for no key. Does not suspend.
        """
        try:
            fd = os.open(self.path(span.key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BlobMissing(f"nothing is stored under {span.key}") from None
        except OSError as error:
            raise unavailable(span.key, error) from error
        try:
            size = os.fstat(fd).st_size
        except OSError as error:
            os.close(fd)
            raise unavailable(span.key, error) from error
        start = min(span.start, size)
        stop = size if span.stop is None else min(span.stop, size)
        return files.FileContent(fd, start, max(0, stop - start), self._limiter)

    async def size(self, key: str) -> int:
        """The number of bytes stored. Raises BlobMissing, BlobUnavailable, ValueError for no key. Does not suspend."""
        try:
            return os.stat(self.path(key)).st_size
        except FileNotFoundError:
            raise BlobMissing(f"nothing is stored under {key}") from None
        except OSError as error:
            raise unavailable(key, error) from error

    async def delete(self, key: str) -> None:
        """Remove a blob, durably; who reads it now reads on. Raises BlobUnavailable, ValueError for no key."""
        path = self.path(key)
        try:
            await self.run(files.unlink, path)
        except OSError as error:
            raise unavailable(key, error) from error
        await self.sync_folder(key)

    async def discard(self, state: bytes) -> None:
        """Remove an upload that is not open; never a blob. Raises BlobBusy, BlobUnavailable."""
        try:
            key = msgspec.json.decode(state, type=LocalState).key
            path = self.path(key)
        except ValueError:
            return  # of another store: here it is gone
        await anyio.lowlevel.checkpoint()
        found = self._lock_existing(key)
        if found is None:
            return
        fd, status = found
        try:
            if not files.is_final(status.st_mode):
                await self.run(files.remove, path)
        except OSError as error:
            raise unavailable(key, error) from error
        finally:
            os.close(fd)
        await self.sync_folder(key)

    async def url(self, span: Span, expires: float) -> None:
        """None: a local disk has no addresses."""

    async def aclose(self) -> None:
        """Let go of all uploads, as if the process had ended."""
        for writer in list(self._writers):
            writer.end()

    def path(self, key: str) -> str:
        """Where a blob is. Raises ValueError for what is no key."""
        return f"{self._folder}/{check_key(key)}"

    async def run(self, function: Callable[..., _T], *args: object) -> _T:
        """Call ``function`` in a thread, and wait for it, also when cancelled."""
        return await to_thread.run_sync(function, *args, limiter=self._limiter)

    async def sync_folder(self, key: str) -> None:
        """Make it durable that ``key`` is there, or is not. Raises BlobUnavailable."""
        await self._folder_sync.sync(os.path.dirname(self.path(key)))

    def enter(self, writer: LocalWriter) -> None:
        """A writer begins."""
        self._writers.add(writer)

    def leave(self, writer: LocalWriter) -> None:
        """A writer has ended."""
        self._writers.discard(writer)

    def take_room(self, size: int) -> None:
        """Be asked before ``size`` bytes are written. Raises BlobUnavailable if the disk is full, OSError."""
        if self._unmeasured + size >= MEASURE_BYTES:
            self._measure(size)
        self._unmeasured += size

    def _measure(self, size: int) -> None:
        # If it fails, the next who asks, for whatever upload, has it measured again.
        status = os.statvfs(self._folder)
        free = status.f_bavail * status.f_frsize
        if free < self._reserve + size:
            raise BlobUnavailable(f"the disk is full: {free} bytes are free, {self._reserve} of them reserved")
        self._unmeasured = 0

    def _lock_existing(self, key: str) -> tuple[int, os.stat_result] | None:
        """Open and lock a file, and look at it; None: it is not there. Raises BlobBusy, BlobUnavailable."""
        path = self.path(key)
        try:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except PermissionError:  # a blob's mode allows no more, save to root
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unavailable(key, error) from error
        try:
            files.lock(fd, key)
            status = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        if not status.st_nlink:  # removed after it was opened, and before it was locked
            os.close(fd)
            return None
        return fd, status
