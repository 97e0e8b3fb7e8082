"""Overwrites every lent buffer as soon as its loan is over: what still reads it then reads 0xDD.

One rule: a chunk of a request's body is the consumer's until the consumer's next await, and not a step longer.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from enseada.connection import shared_buffer

if TYPE_CHECKING:
    from collections.abc import Iterator

POISON = 0xDD


class Poison(trio.abc.Instrument):
    """Overwrites what the running event loop has lent whenever a task gives up its turn."""

    def __init__(self) -> None:
        self.poisoned = 0
        """Bytes overwritten so far."""
        self._shared = shared_buffer()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by trio."""
        lent = self._shared.lent
        if lent is not None:
            lent[:] = bytes([POISON]) * len(lent)
            self._shared.lent = None
            self.poisoned += len(lent)


@contextmanager
def poisoned_loans() -> Iterator[Poison]:
    """While this is open, in the running trio loop, lent buffers are overwritten when their loan is over."""
    poison = Poison()
    trio.lowlevel.add_instrument(poison)
    try:
        yield poison
    finally:
        trio.lowlevel.remove_instrument(poison)
