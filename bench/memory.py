"""Memory that the machine has at hand: what a hypervisor took back is fetched before a round, not within it.

On a virtual machine whose balloon reports free pages, the hypervisor takes what was freed within seconds, and gives
each page again when it is touched. For a GiB of files that costs more CPU than a server needs to receive, hash and
write it, and it falls on whoever comes first. So here, before each round, free memory is filled with a file's pages, as
it is filled on a server that has run for a while: what a round needs is then taken from those.

Source: virtio 1.2, 5.5.3, VIRTIO_BALLOON_F_PAGE_REPORTING.
"""

from __future__ import annotations

import mmap
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEVICES = Path("/sys/bus/virtio/devices")
BALLOON = 5
"""The device's number."""
PAGE_REPORTING = 5
"""The bit of that feature."""
ZONES = Path("/proc/zoneinfo")
MARGIN = 16 << 20
"""Bytes that may be free beside what the kernel keeps so for itself."""
STEP = 64 << 20
"""Bytes between two looks at what is free."""
READ_BYTES = 1 << 20


def is_taken_back(devices: Path = DEVICES) -> bool:
    """Whether a hypervisor takes free memory back."""
    return any(
        int((device / "device").read_text(), 16) == BALLOON
        and (device / "features").read_text()[PAGE_REPORTING : PAGE_REPORTING + 1] == "1"
        for device in devices.glob("*")
    )


def kept_free(zones: Path = ZONES) -> int:
    """Bytes that the kernel keeps free: from each zone's upper watermark, and what it holds back from others, on."""
    kept, managed, high = 0, 0, 0
    for line in zones.read_text().splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "managed":
            managed = int(value)
        elif name == "high":
            high = int(value)
        elif name == "protection:":
            reserved = max(map(int, value.strip(" ()").split(",")))
            kept += min(managed, high + reserved)
    return kept * mmap.PAGESIZE


@contextmanager
def cache(folder: Path) -> Iterator[Callable[[], None]]:
    """Gives what fills free memory with pages that the kernel drops when it needs others; they go with the block.

    They belong to a file without any blocks on the disk, in ``folder``. Raises OSError.
    """
    path = folder / "pages"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        path.unlink()
        size = psutil.virtual_memory().total
        os.ftruncate(file, size)
        buffer = bytearray(READ_BYTES)
        position = 0

        def fill() -> None:
            nonlocal position
            for _ in range(0, size, STEP):  # not for ever where reading takes no memory, as on a tmpfs
                if psutil.virtual_memory().free <= kept_free() + MARGIN:
                    return
                for _ in range(0, STEP, READ_BYTES):
                    position = (position + os.preadv(file, [buffer], position)) % size

        yield fill
    finally:
        os.close(file)
