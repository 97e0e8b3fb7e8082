"""Many tasks' jobs, done in batches by one thread at a time: so a hundred writers cost one commit.

One rule: a job is either still in the queue, and leaves it when its task is cancelled, or taken, and then it is done
whatever happens to its task. There is no task and no thread of our own: one of the tasks that wait leads, and hands
on to another as soon as its own job is done.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Job = TypeVar("Job")

BATCH = 256
"""Jobs in one batch at most."""


class Entry(Generic[Job]):
    """A job in the queue. Whoever works on it sets ``result`` or ``error``."""

    __slots__ = ("error", "finished", "job", "result", "wake")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.result: Any = None
        self.error: BaseException | None = None
        self.finished = False
        self.wake = anyio.Event()


Take: TypeAlias = "Callable[[], Sequence[Entry[Job]]]"


class GroupCommit(Generic[Job]):
    """Jobs are given to ``work(take, stop)``, in a thread; never two such calls at once.

    ``work`` calls ``take()`` when it is ready to begin, and gets all jobs that wait by then. Before that it should
    return early once ``stop`` is set. What it raises goes to the tasks whose jobs it has taken. ``after()`` is called
    on the loop after each call of ``work``.
    """

    def __init__(self, work: Callable[[Take[Job], threading.Event], None], after: Callable[[], None]) -> None:
        self._work = work
        self._after = after
        self._queue: deque[Entry[Job]] = deque()
        self._mutex = threading.Lock()
        self._limiter = anyio.CapacityLimiter(1)
        self._leading = False
        self._closed = False
        self._idle = anyio.Event()

    async def submit(self, job: Job) -> Any:
        """Wait until ``job`` is done; return its result or raise its error.

        Cancelled: if the job was not taken yet, it will not be; otherwise it is done or under way. Raises
        anyio.ClosedResourceError after `aclose`.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise anyio.ClosedResourceError
        entry = Entry(job)
        with self._mutex:
            self._queue.append(entry)
        try:
            while not entry.finished:
                if not self._leading:
                    await self._lead()
                else:
                    await entry.wake.wait()
                    if not entry.finished:
                        entry.wake = anyio.Event()
        finally:
            self._leave(entry)
        if entry.error is not None:
            raise entry.error
        return entry.result

    async def aclose(self) -> None:
        """Refuse new jobs, and wait until those that are here are done."""
        self._closed = True
        while self._leading or self._queue:
            self._idle = anyio.Event()
            await self._idle.wait()

    def _leave(self, entry: Entry[Job]) -> None:
        if not entry.finished:
            with self._mutex:
                if entry in self._queue:
                    self._queue.remove(entry)
        # Each entry in the queue has a task that waits for it. Whoever leaves wakes the first of them to lead; if that
        # one is being cancelled just now, it comes through here too and wakes the next.
        if not self._leading:
            if self._queue:
                self._queue[0].wake.set()
            else:
                self._idle.set()

    async def _lead(self) -> None:
        self._leading = True
        stop = threading.Event()
        over = anyio.Event()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._run, stop, over)
                try:
                    await over.wait()
                except anyio.get_cancelled_exc_class():
                    stop.set()
                    raise
        finally:
            self._leading = False

    async def _run(self, stop: threading.Event, over: anyio.Event) -> None:
        taken: list[Entry[Job]] = []

        def take() -> Sequence[Entry[Job]]:
            with self._mutex:
                while self._queue and len(taken) < BATCH:
                    taken.append(self._queue.popleft())
            return taken

        try:
            # A thread cannot be cancelled. Before it takes a job ``stop`` ends it; after that it is soon done.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._work, take, stop, limiter=self._limiter)
        except Exception as error:
            for entry in taken or take():
                entry.error = error
        finally:
            for entry in taken:
                entry.finished = True
                entry.wake.set()
            over.set()
            self._after()
