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
        self._lent: list[memoryview] = []

    def lend(self, data: bytes) -> memoryview:
        """``data``, until the next await of whoever asks: for bodies that come from no connection."""
        self._lent.append(memoryview(bytearray(data)))
        return self._lent[-1]

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Called by trio."""
        if self._shared.lent is not None:
            self._lent.append(self._shared.lent)
            self._shared.lent = None
        for buffer in self._lent:
            buffer[:] = bytes([POISON]) * len(buffer)
            self.poisoned += len(buffer)
        self._lent.clear()


_poison: trio.lowlevel.RunVar[Poison] = trio.lowlevel.RunVar("poison")


def poison() -> Poison:
    """That of the running trio loop; from the first call on, lent buffers are overwritten when their loan is over."""
    try:
        return _poison.get()
    except LookupError:
        made = Poison()
        _poison.set(made)
        trio.lowlevel.add_instrument(made)
        return made


@contextmanager
def poisoned_loans() -> Iterator[Poison]:
    """The same as a block, for a test that wants it said."""
    yield poison()
