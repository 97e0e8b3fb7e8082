"""The data folder, which one server has at a time: one process, or a supervisor and its workers.

One rule: who has it holds a lock on a file in it, from before anything in it is touched until the last process that
may touch it is gone. The lock belongs to the open file (flock(2)): whoever inherits that, holds it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from enseada.starterror import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enseada.config import Settings


@contextmanager
def hold(settings: Settings) -> Iterator[int]:
    """Have the folder ``settings.data``, which is made if it is missing, and yield the descriptor of the lock's file.

    Raises StartError: the folder cannot be used, or another server has it.
    """
    _make(settings.data)
    path = settings.lock_path
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as reason:
        raise StartError(f"{path} cannot be opened: {reason.strerror}") from reason
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            if _is_gone(holder):
                holder += ", which is gone, and whose workers are ending"
            raise StartError(
                f"another Enseada (process {holder}) has the data folder {path.parent}; "
                "stop it, or choose another folder with --data"
            ) from None
        with suppress(OSError):  # a full disk; it is only for the sentence above
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        yield fd
    finally:
        os.close(fd)


def _is_gone(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError, PermissionError):
        pass
    return False


def _make(folder: Path) -> None:
    """Make the folder, for us alone, if it is not there. Raises StartError unless files can be made in it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise StartError(f"the data folder {folder} is not a folder; choose another with --data") from None
    except OSError as reason:
        raise StartError(
            f"the data folder {folder} cannot be made: {reason.strerror}; choose another with --data"
        ) from reason
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StartError(f"the data folder {folder} may not be written by this user; choose another with --data")
