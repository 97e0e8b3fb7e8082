"""What the local store does with files, as plain blocking functions, and a file opened for sending.

One rule: what another thread does to a file goes by its path, or harms nothing by a descriptor that has come to mean
another file meanwhile. A host may cancel a task natively while its thread works on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING

from anyio import to_thread

from enseada.storage.blobs.base import BlobBusy, BlobUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    import anyio

READ_BYTES = 256 * 1024
"""What one read in a thread asks for, for those who cannot send from the descriptor."""

UPLOAD_MODE = 0o600
FINAL_MODE = 0o400
"""A file's mode says whether it is an upload or a blob, so that no stale state of an upload ever cuts off or removes a
blob. It becomes durable with the bytes, by the same fsync."""

_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h: start to write out, and wait for nothing


def lock(fd: int, key: str) -> None:
    """Take the exclusive lock of an upload's file, which falls when the descriptor is closed or the process ends.

    Raises BlobBusy if another descriptor has it, here or in another process.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlobBusy(f"another writer has {key} open") from None


def is_final(mode: int) -> bool:
    """Whether a file of this mode is a whole blob."""
    return not mode & 0o200


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``. Raises OSError, having written some of it or nothing."""
    with memoryview(data) as items, items.cast("B") as view:
        done = 0
        while done < view.nbytes:
            written = os.pwrite(fd, view[done:], offset + done)
            if not written:
                raise OSError(errno.EIO, "the file takes no more bytes")
            done += written


def sync_data(fd: int) -> None:
    """Make a file's bytes and its length durable. Blocks. Raises OSError."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync(2) leaves them in the drive's cache there
    else:
        os.fdatasync(fd)


def sync_all(fd: int) -> None:
    """Make a file's bytes, length and mode durable. Blocks. Raises OSError."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def start_writeback(fd: int, start: int, stop: int) -> None:
    """Have the kernel begin to write these bytes out, if it can, so that the sync to come finds little to do."""
    function = _sync_file_range()
    if function is not None:
        function(fd, start, stop - start, _SYNC_FILE_RANGE_WRITE)  # a failure is the sync's to report


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        import ctypes  # 5 ms: only once an upload is large enough

        function = ctypes.CDLL(None).sync_file_range
    except (ImportError, OSError, AttributeError):  # only Linux has it
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    function.restype = ctypes.c_int
    result: Callable[[int, int, int, int], int] = function
    return result


def remove(path: str) -> None:
    """Remove a file that may be large or gone already. Blocks. Raises OSError."""
    try:
        # The blocks are given back here, and not where somebody on the loop closes the last descriptor.
        os.truncate(path, 0)
    except FileNotFoundError:
        return
    unlink(path)


def unlink(path: str) -> None:
    """Remove a file's name; who reads it now reads on. What is gone is no error. Blocks. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(path)


class FileContent:
    """A part of a file, opened to be sent by sendfile, or read in threads by who cannot."""

    def __init__(self, fd: int, start: int, length: int, limiter: anyio.CapacityLimiter) -> None:
        """Takes over ``fd``."""
        self.file: int | None = fd
        self.start = start
        self.length = length
        self._at = start
        self._limiter = limiter

    def __aiter__(self) -> FileContent:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes, at most `READ_BYTES`. Raises BlobUnavailable. Cancelled: they come with the next call."""
        left = self.start + self.length - self._at
        if not left:
            raise StopAsyncIteration
        if self.file is None:
            raise ValueError("the content has been closed")
        read = partial(os.pread, self.file, min(left, READ_BYTES), self._at)
        try:
            data = await to_thread.run_sync(read, limiter=self._limiter)
        except OSError as error:
            raise BlobUnavailable(f"stored bytes could not be read: {error.strerror}") from error
        if not data:
            raise BlobUnavailable("stored bytes end before their end")
        self._at += len(data)
        return data

    async def aclose(self) -> None:
        """Close the file. Does not suspend."""
        fd, self.file = self.file, None
        if fd is not None:
            os.close(fd)
