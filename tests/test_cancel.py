from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest
import trio

from tests.cancel import cancel_at_every_checkpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def _check_each_await_is_cancelled_once() -> None:
    reached: list[int] = []
    ended: list[int] = []

    async def three_steps() -> None:
        reached.append(0)
        for step in (1, 2, 3):
            await anyio.lowlevel.checkpoint()
            reached[-1] = step

    async def after() -> None:
        await anyio.lowlevel.checkpoint()
        ended.append(reached[-1])

    runs = await cancel_at_every_checkpoint(three_steps, after)
    assert runs == len(ended)
    # An await may be one suspension or, on asyncio and with trio's last step, more: each state is seen, in order.
    assert ended == sorted(ended)
    assert set(ended) == {0, 1, 2, 3}


async def _check_event_waits_are_cancelled() -> None:
    results: list[str] = []

    async def forever() -> None:
        results.append("cancelled")
        with anyio.move_on_after(0):
            await anyio.Event().wait()
        results[-1] = "through"

    async def after() -> None:
        await anyio.lowlevel.checkpoint()

    await cancel_at_every_checkpoint(forever, after)
    assert results[0] == "cancelled"
    assert results[-1] == "through"


async def _check_errors_go_through() -> None:
    async def broken() -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("broken")

    async def after() -> None:
        await anyio.lowlevel.checkpoint()

    with pytest.raises(LookupError):
        await cancel_at_every_checkpoint(broken, after)


async def _check_endless_operations_are_told() -> None:
    async def swallows() -> None:
        for _ in range(50):
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()

    async def after() -> None:
        await anyio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="still suspending after 10 runs"):
        await cancel_at_every_checkpoint(swallows, after, limit=10)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize(
    "check",
    [
        _check_each_await_is_cancelled_once,
        _check_event_waits_are_cancelled,
        _check_errors_go_through,
        _check_endless_operations_are_told,
    ],
)
def test_helper(check: Callable[[], Awaitable[None]], backend: str) -> None:
    anyio.run(check, backend=backend)


async def test_suspensions_of_tasks_below_count() -> None:
    steps: list[int] = []

    async def child() -> None:
        for number in range(3):
            await trio.lowlevel.checkpoint()
            steps[-1] = number + 1

    async def with_a_child() -> None:
        steps.append(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    await cancel_at_every_checkpoint(with_a_child, trio.lowlevel.checkpoint)
    assert set(steps) == {0, 1, 2, 3}
