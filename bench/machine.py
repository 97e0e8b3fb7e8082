"""What figures were taken on: the lines under a table that say so."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> str:
    """Processor, cores, memory, kernel and the file system of temporary files, in a sentence."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{processor()}, {cores()} cores, {memory:.0f} GiB, Linux {platform.release()}, {file_system(Path('/tmp'))}"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the kernel tells it."""
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def file_system(path: Path) -> str:
    """The kind of file system that ``path`` is on."""
    mounts = [each for each in psutil.disk_partitions(all=True) if path.is_relative_to(each.mountpoint)]
    return max(mounts, key=lambda each: len(each.mountpoint)).fstype if mounts else "an unknown file system"


def busy() -> str:
    """What else went on when the run began, as far as the kernel tells."""
    return f"load average {os.getloadavg()[0]:.1f} before the run"
