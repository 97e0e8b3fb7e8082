"""The folder that outlives runs: programs that were built once, and bytes for load that were made once.

One rule: what is in it is made under another name and renamed when it is whole, so that an interrupted run leaves
nothing that a later one believes.
"""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(
    os.environ.get("ENSEADA_TEST_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enseada-tests"
)
"""The same as the client tests'."""
PROGRAMS = FOLDER / "bin"
PATH = os.pathsep.join([str(PROGRAMS), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
MIB = 1024 * 1024
BLOCK = MIB
"""Bytes that are drawn at a time."""
FILE_BYTES = (MIB, 128 * MIB, 1024 * MIB)
"""Sizes of the files that are kept."""
HEAD_BYTES = 4096
"""Bytes by which two blobs of the same stretch of the file differ: a page, so that the rest stays aligned."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes for load: a head of its own, and then a stretch of a file."""

    digest: str
    head: bytes
    path: Path
    offset: int
    """Where the stretch begins."""
    length: int
    """Bytes of the stretch."""

    @property
    def size(self) -> int:
        """Bytes of the whole blob."""
        return len(self.head) + self.length

    def content(self) -> bytes:
        """The whole blob, in memory."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return self.head + file.read(self.length)


def random_file(size: int, folder: Path = FOLDER / "bench") -> Path:
    """A file of ``size`` bytes that no compression makes smaller; the same bytes on every machine."""
    path = folder / f"random-{size}"
    if path.exists() and path.stat().st_size == size:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(f"enseada {size}")
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for start in range(0, size, BLOCK):
                file.write(draw.randbytes(min(BLOCK, size - start)))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _file_bytes(wanted: int) -> int:
    """The size of the file for so many bytes: few sizes are kept, and beyond the largest one stretches overlap."""
    return next((size for size in FILE_BYTES if size >= wanted), FILE_BYTES[-1])


def blobs(label: str, count: int, size: int, folder: Path = FOLDER / "bench") -> list[Blob]:
    """``count`` blobs of ``size`` bytes each, the same for the same ``label``, and no two alike.

    A round has its own label, so that no registry finds that it has the bytes already; a head is all that is new. No
    blob is larger than the largest of `FILE_BYTES`.
    """
    head_bytes = min(HEAD_BYTES, size)
    length = size - head_bytes
    path = random_file(_file_bytes(length * count), folder)
    room = path.stat().st_size - length
    made = []
    with path.open("rb") as file:
        for number in range(count):
            head = random.Random(f"{label} {number} {size}").randbytes(head_bytes)
            digest = hashlib.sha256(head)
            offset = number * length % (room + 1) // HEAD_BYTES * HEAD_BYTES
            file.seek(offset)
            left = length
            while left:
                block = file.read(min(BLOCK, left))
                digest.update(block)
                left -= len(block)
            made.append(Blob(f"sha256:{digest.hexdigest()}", head, path, offset, length))
    return made
