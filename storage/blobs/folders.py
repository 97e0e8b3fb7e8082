"""Folders that outlive a crash: made ahead, and their fsyncs shared.

One rule: an fsync speaks for what was in the folder when it began. Whoever comes while one is running waits for the
next, together with all others who came meanwhile.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from enseada.storage.blobs.base import BlobUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER_MODE = 0o700


def make_folders(root: str, names: Iterable[str]) -> None:
    """Make ``root`` with the folders ``names`` in it, as far as they are missing, and make that durable. Blocks.

    ``root`` is absolute. Folders that are there keep their modes. Raises OSError, also where nothing may be written.
    """
    _make_root(root)
    present = set(os.listdir(root))
    for name in names:
        if name not in present:
            _make_one(os.path.join(root, name))
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), root)
    sync_folder(root)  # also if all were there: who made them may have died before this


def _make_root(path: str) -> None:
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_root(parent)
    _make_one(path)
    sync_folder(parent)


def _make_one(path: str) -> None:
    try:
        os.mkdir(path, FOLDER_MODE)
    except FileExistsError:  # another process was faster
        if not os.path.isdir(path):
            raise


def sync_folder(path: str) -> None:
    """Make the names in a folder durable. Blocks. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Folder:
    """How far the fsyncs of one folder are. They are numbered from 1."""

    __slots__ = ("begun", "done", "failed", "running")

    def __init__(self) -> None:
        self.begun = 0
        self.done = 0
        self.failed = 0
        self.running: anyio.Event | None = None


class SharedSync:
    """Makes folders durable for many tasks with few fsyncs. For one event loop."""

    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        """``limiter``: of the threads in which fsync waits."""
        self.count = 0
        """Fsyncs done."""
        self._limiter = limiter
        self._folders: dict[str, _Folder] = {}

    async def sync(self, path: str) -> None:
        """Return when an fsync of the folder that began after this call has ended.

        The first who waits runs it for all. Raises BlobUnavailable. Cancelled: another who waits runs it.
        """
        folder = self._folders.setdefault(path, _Folder())
        mine = folder.begun + 1
        while folder.done < mine:
            if folder.failed >= mine:
                raise BlobUnavailable(f"fsync of the folder {path} failed")
            if folder.running is not None:
                await folder.running.wait()
            else:
                await self._run(path, folder)

    async def _run(self, path: str, folder: _Folder) -> None:
        folder.begun += 1
        number = folder.begun
        folder.running = ended = anyio.Event()
        try:
            await to_thread.run_sync(sync_folder, path, limiter=self._limiter)
        except OSError as error:
            # The kernel reports a failure once: those who waited with us would see the next fsync succeed.
            folder.failed = number
            raise BlobUnavailable(f"fsync of the folder {path} failed: {error.strerror}") from error
        else:
            folder.done = number
            self.count += 1
        finally:
            folder.running = None
            ended.set()
