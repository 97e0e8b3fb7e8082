"""The files that a process has open: how many there may be, connections among them, and the first three."""

from __future__ import annotations

import logging
import os
import resource
from contextlib import suppress

logger = logging.getLogger("enseada.server")

RESERVED_FILES = 64
"""File descriptors that are kept for everything but connections: listeners, stores, the log."""
FILES_A_CONNECTION = 2
"""File descriptors that a connection may need: its own, and the content's that it receives or sends."""


def raise_file_limit() -> None:
    """Raise this process's limit of open files as far as the system lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connection_limit(wanted: int) -> int:
    """How many connections may be open at once: ``wanted``, or as many as there are file descriptors for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    possible = max(1, (files - RESERVED_FILES) // FILES_A_CONNECTION)
    if possible < wanted:
        logger.info("%d connections at once rather than %d: %d files may be open", possible, wanted, files)
    return min(wanted, possible)


def open_standard_files() -> None:
    """Where a standard file is closed, open /dev/null: else the next socket gets its number, and passes for it in
    every process that is started. Raises OSError.
    """
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
