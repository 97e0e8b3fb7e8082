"""Cold files: out of the page cache, and proof that they are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.errors import CannotMeasure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEAST_BYTES = 64 * 1024
"""Smaller files are left alone: they are no bytes for load."""
PROBES = 16
"""Places of a file that are looked at."""
TRIES = 5
WARM_SHARE = 0.05
"""What share of the places may still be in memory: somebody else may read ahead, or write back."""


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
    """What share of the places looked at is in the page cache; looking brings nothing in."""
    looks = [_is_warm(path, number) for path in _large_files(folder) for number in range(PROBES)]
    if not looks:
        raise CannotMeasure(f"there are no large files in {folder}")
    return sum(looks) / len(looks)


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


def _is_warm(path: Path, number: int) -> bool:
    file = os.open(path, os.O_RDONLY)
    try:
        offset = path.stat().st_size * number // PROBES
        return bool(os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT))
    except BlockingIOError:
        return False
    finally:
        os.close(file)
