"""Whether anything was committed to a SQLite file since one looked: asked of the write-ahead log's index in memory.

SQLite keeps that index in memory which all processes share, and every commit writes its head before it is answered: a
counter, the length of the log and checksums over it (sqlite.org/walformat.html, 2.1). A reader begins by comparing it
with what it has seen. Here the same is done without a reader's locks and calls: in half a microsecond rather than five.

One rule: it is only ever asked whether two heads are the same, and where it cannot be had, everything is new.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD_BYTES = 48
"""One copy of the head."""
VERSION = 3007000
"""The version of the index's format, with which its head begins."""


def watch(path: str) -> Callable[[], bytes] | None:
    """What reads the head of the log's index of the database at ``path``; None where it cannot be had.

    For a database that a connection of this process has read in WAL mode, and only until that is closed: what is read
    is the connection's own map of the index, so that no further file is opened. (To close one would drop the locks
    that this process holds on it.) Blocks for as long as it takes to read a file of /proc.
    """
    address = _mapped_at(f"{path}-shm")
    if address is None:
        return None
    head = (ctypes.c_char * HEAD_BYTES).from_address(address)

    def read() -> bytes:
        return head.raw

    return read if int.from_bytes(read()[:4], sys.byteorder) == VERSION else None


def _mapped_at(path: str) -> int | None:
    """Where this process has mapped the beginning of a file (proc(5), /proc/pid/maps)."""
    try:
        wanted = os.stat(path)
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                span, _, offset, _, inode, *name = line.rstrip("\n").split(maxsplit=5)
                if int(inode) == wanted.st_ino and int(offset, 16) == 0 and name and os.path.samefile(name[0], path):
                    return int(span.partition("-")[0], 16)
    except (OSError, ValueError):
        pass
    return None
