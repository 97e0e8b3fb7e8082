"""Many connections in one thread: generators that say what they wait for, and epoll.

One rule: a task is a generator that yields `Readable`, `Writable` or `Pause`, and nothing else blocks. The loop is as
thin as it can be, since whatever it costs is taken from the machine that is measured.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar


@dataclass(frozen=True, slots=True)
class Readable:
    """Until ``fd`` can be read."""

    fd: int


@dataclass(frozen=True, slots=True)
class Writable:
    """Until ``fd`` can be written."""

    fd: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Until ``time.perf_counter()`` is ``until``."""

    until: float


T = TypeVar("T")
Wait: TypeAlias = Readable | Writable | Pause
Task: TypeAlias = Generator[Wait, None, T]
"""What runs in the loop: sub-tasks are called with ``yield from`` and return a T."""

STALL = 120.0
"""Seconds without anything that comes to pass; then the load gives up."""


class Stalled(Exception):
    """Nothing came to pass for too long."""


class Loop:
    """Runs tasks until all have ended. What a task raises ends the loop and is raised by `run`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: set[int] = set()
        self._waiting: dict[int, Task[None]] = {}
        self._pauses: list[tuple[float, int, Task[None]]] = []
        self._ready: list[Task[None]] = []
        self._order = itertools.count()

    def spawn(self, task: Task[None]) -> None:
        """Begin ``task`` at the next turn."""
        self._ready.append(task)

    def forget(self, fd: int) -> None:
        """To be called before ``fd`` is closed: its number may come again."""
        self._watched.discard(fd)

    def run(self) -> None:
        """Run to the end. Raises Stalled, and what the tasks raise."""
        try:
            while self._ready or self._waiting or self._pauses:
                ready, self._ready = self._ready, []
                for task in ready:
                    self._step(task)
                if not self._ready:
                    self._wait()
        finally:
            self._epoll.close()

    def _step(self, task: Task[None]) -> None:
        try:
            wait = next(task)
        except StopIteration:
            return
        if isinstance(wait, Pause):
            heapq.heappush(self._pauses, (wait.until, next(self._order), task))
            return
        events = (select.EPOLLIN if isinstance(wait, Readable) else select.EPOLLOUT) | select.EPOLLONESHOT
        if wait.fd in self._watched:
            self._epoll.modify(wait.fd, events)
        else:
            self._epoll.register(wait.fd, events)
            self._watched.add(wait.fd)
        self._waiting[wait.fd] = task

    def _wait(self) -> None:
        if not self._waiting and not self._pauses:
            return
        timeout = STALL
        if self._pauses:
            timeout = min(timeout, max(0.0, self._pauses[0][0] - time.perf_counter()))
        events = self._epoll.poll(timeout) if self._waiting else self._sleep(timeout)
        for fd, _ in events:
            self._ready.append(self._waiting.pop(fd))
        now = time.perf_counter()
        while self._pauses and self._pauses[0][0] <= now:
            self._ready.append(heapq.heappop(self._pauses)[2])
        if not events and not self._ready and timeout >= STALL:
            raise Stalled(f"nothing came to pass in {STALL} s")

    @staticmethod
    def _sleep(seconds: float) -> list[tuple[int, int]]:
        time.sleep(seconds)
        return []
