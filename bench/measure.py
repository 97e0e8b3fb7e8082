"""One measurement: what a tree of processes used between two moments.

One rule: what is watched is watched from outside, by a thread that looks at /proc; nothing in the measured program
knows that it is measured.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.accounts import socket_buffers
from bench.errors import CannotMeasure
from bench.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.accounts import Tree

INTERVAL = 0.1
"""Seconds between two looks at the memory. A look costs the kernel a walk over the process's pages."""


@dataclass(slots=True)
class Usage:
    """Filled in when the measurement ends; memory is also there meanwhile."""

    wall: float = 0.0
    """Seconds."""
    cpu: float = 0.0
    """CPU seconds, user and system, of the whole tree."""
    memory: int = 0
    """Bytes: the peak of PSS together with what socket buffers grew by, those of the whole machine."""
    pss: int = 0
    """Bytes: the peak of PSS alone."""
    memory_before: int = 0
    """Bytes: PSS when it began."""


PEAKS = (Figure("memory at the peak", "MiB"), Figure("memory at the peak, PSS", "MiB"))
"""The figures that every scenario has which looks at memory; the first with socket buffers."""


def peaks(*usages: Usage) -> dict[str, float]:
    """The values of `PEAKS`, of several measurements the largest."""
    whole, alone = PEAKS
    return {
        whole.name: max(each.memory for each in usages) / 2**20,
        alone.name: max(each.pss for each in usages) / 2**20,
    }


@contextmanager
def measuring(tree: Tree, *, memory: bool = True) -> Iterator[Usage]:
    """Measure what ``tree`` uses while the block runs. ``memory``: also look at that, again and again.

    Raises CannotMeasure, also where the tree ended meanwhile.
    """
    usage = Usage()
    if not memory:
        with _timed(tree, usage):
            yield usage
        return
    usage.memory_before = tree.pss()
    buffers_before = socket_buffers()
    end = threading.Event()
    failed: list[CannotMeasure] = []

    def look() -> None:
        pss = tree.pss()
        usage.pss = max(usage.pss, pss)
        usage.memory = max(usage.memory, pss + max(0, socket_buffers() - buffers_before))

    def watch() -> None:
        try:
            while not end.wait(INTERVAL):
                look()
        except CannotMeasure as reason:
            failed.append(reason)

    watcher = threading.Thread(target=watch, name="bench-memory")
    watcher.start()
    try:
        with _timed(tree, usage):
            yield usage
    finally:
        end.set()
        watcher.join()
    if failed:
        raise failed[0]
    look()


@contextmanager
def _timed(tree: Tree, usage: Usage) -> Iterator[None]:
    cpu, began = tree.cpu(), time.perf_counter()
    yield
    usage.wall = time.perf_counter() - began
    usage.cpu = tree.cpu() - cpu
