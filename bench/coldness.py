"""Cold files: out of the page cache, and proof that they are.

mincore(2) looks: a read that must not wait (RWF_NOWAIT) would make the kernel read ahead, and so bring in what it asks
for.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING

from bench.errors import CannotMeasure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEAST_BYTES = 64 * 1024
"""Smaller files are left alone: they are no bytes for load."""
TRIES = 5
WARM_SHARE = 0.01
"""What share of the pages may still be in memory: somebody else may have one in hand."""
FAILED = ctypes.c_void_p(-1).value

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


def make_cold(folder: Path) -> None:
    """Drop all large files under ``folder`` from the page cache. Raises CannotMeasure where they stay in memory."""
    for _ in range(TRIES):
        for path in _large_files(folder):
            _drop(path)
        share = warm_share(folder)
        if share <= WARM_SHARE:
            return
    raise CannotMeasure(f"{share:.0%} of the bytes in {folder} stay in memory when they are to be read cold")


def warm_share(folder: Path) -> float:
    """What share of the pages of large files is in memory. Raises CannotMeasure."""
    counts = [_pages(path) for path in _large_files(folder)]
    if not counts:
        raise CannotMeasure(f"there are no large files in {folder}")
    return sum(warm for warm, _ in counts) / sum(pages for _, pages in counts)


def _large_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size >= LEAST_BYTES:
            yield path


def _drop(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(file)  # what is not on the disk yet cannot be dropped
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def _pages(path: Path) -> tuple[int, int]:
    """How many pages of a file are in memory, and how many it has."""
    size = path.stat().st_size
    file = os.open(path, os.O_RDONLY)
    try:
        # Mapped and never touched.
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
    finally:
        os.close(file)
    if address == FAILED:
        raise CannotMeasure(f"{path} cannot be mapped: {os.strerror(ctypes.get_errno())}")
    try:
        pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
        if libc.mincore(address, size, pages):
            raise CannotMeasure(f"{path} does not show its pages: {os.strerror(ctypes.get_errno())}")
    finally:
        libc.munmap(address, size)
    return sum(page & 1 for page in pages.raw), len(pages)
