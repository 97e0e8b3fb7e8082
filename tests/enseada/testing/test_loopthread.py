"""A loop in a thread: what goes in comes back, what fails is told, and it ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from enseada.testing import loopthread
from enseada.testing.loopthread import LoopEnded, LoopThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class World:
    """A context manager of a test's, and what became of it."""

    def __init__(self) -> None:
        self.thread = LoopThread(self.running(), "a loop")
        self.nursery: trio.Nursery | None = None
        self.over = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        try:
            async with trio.open_nursery() as self.nursery:
                yield "started"
        finally:
            self.over = True

    async def break_down(self) -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        assert self.nursery is not None
        self.nursery.start_soon(fail)


async def half(number: int) -> float:
    await trio.lowlevel.checkpoint()
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number / 2


def gone() -> bool:
    return "a loop" not in [thread.name for thread in threading.enumerate()]


def test_start_call_and_stop() -> None:
    world = World()
    assert world.thread.start() == "started"
    assert world.thread.call(half, 3) == 1.5
    with pytest.raises(ValueError, match="-1 is negative"):
        world.thread.call(half, -1)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda number: world.thread.call(half, number), range(50))) == [n / 2 for n in range(50)]
    world.thread.stop()
    assert world.over
    assert gone()
    with pytest.raises(LoopEnded):
        world.thread.call(half, 3)
    world.thread.stop()


async def test_called_from_a_task_of_another_loop() -> None:
    world = World()
    world.thread.start()
    assert world.thread.call(half, 3) == 1.5
    world.thread.stop()


def test_what_cannot_start() -> None:
    class Broken(AbstractAsyncContextManager[None]):
        async def __aenter__(self) -> None:
            await trio.lowlevel.checkpoint()
            raise ZeroDivisionError

        async def __aexit__(self, *_: object) -> None:
            pytest.fail("it was never entered")

    thread = LoopThread(Broken(), "a loop")
    with pytest.raises(ZeroDivisionError):
        thread.start()
    thread.stop()
    assert gone()
    with pytest.raises(LoopEnded, match="has ended"):
        thread.call(half, 1)


def test_what_was_never_started() -> None:
    thread = LoopThread(World().running(), "a loop")
    with pytest.raises(LoopEnded, match="never started"):
        thread.call(half, 1)


def test_what_breaks_down_meanwhile_is_told_at_the_end() -> None:
    world = World()
    world.thread.start()
    world.thread.call(world.break_down)
    with pytest.raises(LoopEnded):
        world.thread.call(trio.sleep_forever)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        world.thread.stop()
    world.thread.stop()
    assert gone()


def test_calls_that_are_under_way_at_the_end() -> None:
    world = World()
    world.thread.start()
    begun = threading.Event()

    async def wait() -> None:
        begun.set()
        await trio.sleep_forever()

    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(world.thread.call, wait)
        assert begun.wait(30)
        world.thread.stop()
        with pytest.raises(LoopEnded, match="meanwhile"):
            calling.result(30)


def test_no_wait_is_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("CALL_TIMEOUT", "STOP_TIMEOUT"):
        monkeypatch.setattr(loopthread, limit, 0.01)
    release = threading.Event()

    @asynccontextmanager
    async def stuck() -> AsyncIterator[None]:
        yield
        release.wait(30)  # as if the loop itself hung

    thread = LoopThread(stuck(), "a loop")
    thread.start()
    with pytest.raises(TimeoutError):
        thread.call(trio.sleep_forever)
    with pytest.raises(TimeoutError, match=r"the thread a loop has not ended within 0\.01 seconds"):
        thread.stop()
    monkeypatch.undo()
    release.set()
    thread.stop()
    assert gone()
