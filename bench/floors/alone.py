"""What single steps of an upload take alone, on the same bytes: sha256, and write with fsync."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

from bench.cache import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bench.cache import Blob


def hash_seconds(blobs: Sequence[Blob]) -> float:
    """Seconds to hash ``blobs``, 1 MiB at a time; bringing them into memory does not count."""
    seconds = 0.0
    for blob in blobs:
        digest = hashlib.sha256()
        for block in _blocks(blob):
            began = time.perf_counter()
            digest.update(block)
            seconds += time.perf_counter() - began
    return seconds


def write_seconds(blobs: Sequence[Blob], folder: Path) -> float:
    """Seconds to write ``blobs`` into files of their own, one after the other, and fsync each; removed after."""
    seconds = 0.0
    for number, blob in enumerate(blobs):
        path = folder / f"alone-{number}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            for block in _blocks(blob):
                began = time.perf_counter()
                os.write(file, block)
                seconds += time.perf_counter() - began
            began = time.perf_counter()
            os.fsync(file)
            seconds += time.perf_counter() - began
        finally:
            os.close(file)
            path.unlink()
    return seconds


def _blocks(blob: Blob) -> Iterator[bytes]:
    yield blob.head
    left = blob.length
    with blob.path.open("rb") as file:
        file.seek(blob.offset)
        while left:
            block = file.read(min(BLOCK, left))
            yield block
            left -= len(block)
