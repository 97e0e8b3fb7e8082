"""A trio loop in a thread of its own, for programs that have none.

One rule: whoever waits for the loop waits for a limited time, and what ends the loop reaches whoever ends the thread.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

START_TIMEOUT = 30.0
"""Seconds in which what runs in the thread must have started."""
CALL_TIMEOUT = 30.0
"""Seconds in which a call into the loop must be answered."""
STOP_TIMEOUT = 30.0
"""Seconds in which the thread must end."""

T = TypeVar("T")
R = TypeVar("R")


class LoopEnded(RuntimeError):
    """The loop is not there any more to do what it was asked for."""


class LoopThread(Generic[T]):
    """Runs an asynchronous context manager in a trio loop in a thread of its own, from `start` to `stop`.

    All methods are for other threads, and block them; also for those of tasks of other loops.
    """

    def __init__(self, context: AbstractAsyncContextManager[T], name: str) -> None:
        self._context = context
        self._started: Future[T] = Future()
        self._stop = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._failure: BaseException | None = None
        # A daemon, so that one which does not end (which is an error, see `stop`) does not keep the process.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> T:
        """Start, and return what the context manager gives. Raises what it raises, and TimeoutError."""
        self._thread.start()
        return self._started.result(START_TIMEOUT)

    def call(self, function: Callable[..., Awaitable[R]], *args: object) -> R:
        """Call an asynchronous function in the loop, and return what it returns.

        Raises what it raises, LoopEnded, and TimeoutError after `CALL_TIMEOUT`, when it may go on by itself.
        """
        answer: Future[R] = Future()

        async def run() -> None:
            try:
                answer.set_result(await function(*args))
            except Exception as error:
                answer.set_exception(error)
            except BaseException:  # the loop is being ended
                answer.set_exception(LoopEnded("the loop was ended meanwhile"))
                raise

        def begin() -> None:
            if self._nursery is None:
                answer.set_exception(LoopEnded("the loop has ended"))
            else:
                self._nursery.start_soon(run)

        self._soon(begin)
        return answer.result(CALL_TIMEOUT)

    def stop(self) -> None:
        """End what runs, and wait until the thread has ended. Safe any number of times.

        Raises what had ended it before, or went wrong at its end; TimeoutError if it does not end.
        """
        with suppress(LoopEnded):
            self._soon(self._stop.set)
        self._thread.join(STOP_TIMEOUT)
        if self._thread.is_alive():
            raise TimeoutError(f"the thread {self._thread.name} has not ended within {STOP_TIMEOUT:g} seconds")
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _soon(self, function: Callable[[], object]) -> None:
        if self._token is None:
            raise LoopEnded("the loop was never started")
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            raise LoopEnded("the loop has ended") from None

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as failure:
            if self._started.done():
                self._failure = failure
            else:
                self._started.set_exception(failure)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with self._context as value, trio.open_nursery() as nursery:
            self._nursery = nursery
            self._started.set_result(value)
            try:
                await self._stop.wait()
            finally:
                self._nursery = None
            nursery.cancel_scope.cancel()
