"""A lock between processes, held on a file: whoever dies gives it back.

One rule: waiting ends. A process that was stopped while it held the lock must not make the others unstoppable, so
waiting has a deadline and can be called off. (A blocking flock(2) has neither.)
"""

from __future__ import annotations

import fcntl
import os
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threading import Event

POLL = 0.0005
"""Seconds between two tries. Short against a commit (a millisecond or more), so that whoever waits is not passed over
for long by a process that lets go and takes again."""


class FileLock:
    """An exclusive flock(2) on the file ``path``, which is made with mode 600. For one thread at a time.

    Must be opened after a fork, not before: a forked child shares its parent's lock.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises OSError."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self, timeout: float, stop: Event) -> bool:
        """Wait in this thread for at most ``timeout`` seconds, or until ``stop`` is set; tell whether it is held."""
        deadline = monotonic() + timeout
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                return True
            if monotonic() >= deadline:
                return False
            if stop.wait(POLL):
                return False

    def release(self) -> None:
        """Let others have it."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the lock and of the file. Must be called once."""
        os.close(self._file)
