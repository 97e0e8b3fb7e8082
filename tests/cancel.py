"""Cancel an operation at each of its awaits in turn, and look at what every one of the cancellations left behind.

One rule: a suspension is counted as the event loop sees it, so no await is missed because somebody forgot it.
"""

from __future__ import annotations

from types import coroutine
from typing import TYPE_CHECKING, Any

import anyio
import sniffio
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

LIMIT = 1000
"""Suspensions of one operation; one that has more is taken for one that never ends."""


async def cancel_at_every_checkpoint(
    make: Callable[[], Awaitable[object]], after: Callable[[], Awaitable[object]], limit: int = LIMIT
) -> int:
    """Run ``make()`` cancelled from the start, then cancelled at its 1st, 2nd, ... suspension, until it has no more.

    ``after()`` runs, not cancelled, after every run, also after the last one, which nothing cancelled. Under trio the
    suspensions of the tasks that ``make()`` starts count too; under asyncio only its own do. What ``make()`` raises,
    save the cancellation, goes through. Returns how often ``make()`` ran. Raises AssertionError after ``limit`` runs.
    """
    run = _run_on_trio if sniffio.current_async_library() == "trio" else _run_anywhere
    for number in range(limit):
        suspensions = await run(make, number)
        await after()
        if suspensions < number:
            return number + 1
    raise AssertionError(f"still suspending after {limit} runs")


async def _run_on_trio(make: Callable[[], Awaitable[object]], number: int) -> int:
    with trio.CancelScope() as scope:
        steps = _Steps(trio.lowlevel.current_task(), scope, number)
        if number == 0:
            scope.cancel()
        trio.lowlevel.add_instrument(steps)
        try:
            await make()
        finally:
            trio.lowlevel.remove_instrument(steps)
    return steps.count


class _Steps(trio.abc.Instrument):
    """Counts the suspensions of a task and of the tasks below it, and cancels ``scope`` at the ``number``-th."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, number: int) -> None:
        self.count = 0
        self._tasks = {task}
        self._scope = scope
        self._number = number

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.parent_nursery is not None and task.parent_nursery.parent_task in self._tasks:
            self._tasks.add(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task in self._tasks:
            self.count += 1
            if self.count == self._number:
                self._scope.cancel()


async def _run_anywhere(make: Callable[[], Awaitable[object]], number: int) -> int:
    count = 0
    with anyio.CancelScope() as scope:
        if number == 0:
            scope.cancel()

        def suspended() -> None:
            nonlocal count
            count += 1
            if count == number:
                scope.cancel()

        await _watched(make(), suspended)
    return count


@coroutine
def _watched(operation: Awaitable[object], suspended: Callable[[], None]) -> Generator[Any, Any, object]:
    """Await ``operation`` and call ``suspended()`` each time that it gives the loop its turn."""
    steps = operation.__await__()
    step: Callable[[Any, Any], Any] = _send
    argument: Any = None
    while True:
        try:
            value = step(steps, argument)
        except StopIteration as end:
            return end.value
        suspended()
        try:
            argument = yield value
            step = _send
        except BaseException as error:
            step, argument = _throw, error


def _send(steps: Any, value: Any) -> Any:
    # What a future's __await__ gives is a plain iterator, which takes no value.
    return steps.send(value) if hasattr(steps, "send") else next(steps)


def _throw(steps: Any, error: BaseException) -> Any:
    if hasattr(steps, "throw"):
        return steps.throw(error)
    raise error
