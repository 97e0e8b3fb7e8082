"""What a process and all that it started have used: CPU seconds, memory, and the kernel's socket buffers.

One rule: nothing is lost and nothing counted twice. The CPU of a process that ended and was waited for is in its
parent's account (``cutime``, ``cstime``); that of one which still runs, or was not waited for yet, is in its own. A
process whose parent died before it stays known from an earlier look.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil

from bench.errors import CannotMeasure

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SOCKSTAT = Path("/proc/net/sockstat")
CPUCLOCK_SCHED = 2
LOOKS = 10
"""How often the tree is looked at again because a process came or went meanwhile."""


class Tree:
    """The process ``pid`` and its descendants."""

    def __init__(self, pid: int) -> None:
        """Raises CannotMeasure where there is no such process."""
        try:
            self._root = psutil.Process(pid)
        except psutil.NoSuchProcess:
            raise CannotMeasure(f"there is no process {pid}") from None
        self._known: dict[int, psutil.Process] = {pid: self._root}
        self._lock = threading.Lock()  # the thread that looks at the memory, and the one that asks for the CPU

    @property
    def pid(self) -> int:
        """Of the root."""
        return self._root.pid

    def processes(self) -> list[psutil.Process]:
        """Those that live now, orphans of the tree that were seen before among them. Raises CannotMeasure."""
        if not _lives(self._root):
            raise CannotMeasure(f"the process {self._root.pid} that is measured has ended")
        with self._lock:
            for each in list(self._known.values()):
                try:
                    for child in each.children(recursive=True):
                        self._known.setdefault(child.pid, child)
                except psutil.NoSuchProcess:
                    del self._known[each.pid]
            return [each for each in self._known.values() if each.is_running()]

    def cpu(self) -> float:
        """CPU seconds, user and system, that the tree has used since it began. Raises CannotMeasure."""
        before = self._pids()
        for _ in range(LOOKS):
            total = 0.0
            for each in self.processes():
                try:
                    times = each.cpu_times()
                    total += time.clock_gettime(_clock(each.pid)) + times.children_user + times.children_system
                except psutil.NoSuchProcess:
                    continue
                except OSError as reason:
                    if each.is_running():
                        raise CannotMeasure(f"the clock of process {each.pid} cannot be read: {reason}") from None
            after = self._pids()
            if before == after:
                break
            before = after  # one that ended between two looks would be missed, or counted twice
        return total

    def pss(self) -> int:
        """Bytes of memory: each page's share of those that map it, summed. Raises CannotMeasure."""
        total = 0
        for each in self.processes():
            try:
                total += each.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied:
                raise CannotMeasure(f"the memory of process {each.pid} is not ours to read: run as its user") from None
        return total

    def _pids(self) -> set[int]:
        return {each.pid for each in self.processes()}


def _clock(pid: int) -> int:
    """The clock that the kernel keeps for a process: all its threads, also those that ended, in nanoseconds.

    /proc tells the same in steps of 10 ms. The number is what clock_getcpuclockid(3) gives on Linux.
    """
    return ~pid << 3 | CPUCLOCK_SCHED


def _lives(process: psutil.Process) -> bool:
    try:
        # One that ended and that its parent has not waited for is still listed, with what it used.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def socket_buffers() -> int:
    """Bytes of memory that the kernel holds for all TCP sockets of this machine, those of the load among them."""
    for line in SOCKSTAT.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "TCP":
            words = rest.split()
            return int(words[words.index("mem") + 1]) * PAGE_BYTES
    raise CannotMeasure(f"{SOCKSTAT} does not tell about TCP")
