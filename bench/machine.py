"""What figures were taken on: the lines under a table that say so."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

IN_MEMORY = ("tmpfs", "ramfs")
"""Kinds of file systems that have no disk."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def describe(folder: Path) -> str:
    """Processor, cores, memory, kernel and the file system of the data in ``folder``, in a sentence."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{processor()}, {cores()} cores, {memory:.0f} GiB, Linux {platform.release()}, {file_system(folder)}"


def caveats(folder: Path) -> list[str]:
    """What must be known of a machine whose data is in ``folder`` to read its figures."""
    if file_system(folder) in IN_MEMORY:
        return [f"data is in memory ({file_system(folder)}): fsync costs nothing, and nothing is read from a disk"]
    return []


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the kernel tells it."""
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def file_system(path: Path) -> str:
    """The kind of file system that ``path`` is on."""
    path = path.resolve()
    mounts = [each for each in psutil.disk_partitions(all=True) if path.is_relative_to(each.mountpoint)]
    # The last that is mounted on a folder hides those before it.
    longest = max(reversed(mounts), key=lambda each: len(each.mountpoint), default=None)
    return longest.fstype if longest is not None else "an unknown file system"


def busy() -> str:
    """What else went on when the run began, as far as the kernel tells."""
    return f"load average {os.getloadavg()[0]:.1f} before the run"
