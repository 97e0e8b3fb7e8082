"""Failures to order, for the stores in memory: the third put of a tag fails, the answer to a create is lost.

One rule: a failure says what really happened. What it says did not happen did not; what it says may have happened
has happened if ``applied`` was ordered.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enseada.storage.documents.base import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(slots=True)
class _Order:
    operation: str
    prefix: str
    error: Callable[[str], Exception]
    skip: int
    times: int
    applied: bool


class Failing:
    """A store whose calls fail when they were told to."""

    def __init__(self) -> None:
        self._orders: list[_Order] = []

    def fail(
        self,
        operation: str,
        prefix: str = "",
        error: Callable[[str], Exception] = Unavailable,
        *,
        skip: int = 0,
        times: int = 1,
        applied: bool = False,
    ) -> None:
        """Let calls of the method ``operation`` on ids that begin with ``prefix`` raise ``error(id)``.

        The first ``skip`` of them are let through, then ``times`` fail. With ``applied`` they fail after having done
        what was asked, as when an answer is lost: say Unknown then. A batch counts each of its documents.
        """
        self._orders.append(_Order(operation, prefix, error, skip, times, applied))

    @contextmanager
    def _failing(self, operation: str, id: str) -> Iterator[None]:
        order = self._next_order(operation, id)
        if order is not None and not order.applied:
            raise order.error(id)
        yield
        if order is not None:
            raise order.error(id)

    def _next_order(self, operation: str, id: str) -> _Order | None:
        for order in self._orders:
            if order.operation != operation or not id.startswith(order.prefix):
                continue
            if order.skip:
                order.skip -= 1
                continue
            order.times -= 1
            if not order.times:
                self._orders.remove(order)
            return order
        return None
