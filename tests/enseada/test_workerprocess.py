"""A worker's process, and what becomes of one that does not listen."""

from __future__ import annotations

import os
import signal
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from enseada.orders import END
from enseada.workerprocess import WorkerProcess
from tests.enseada.server_process import MIB, wait_for_ends

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def deaf() -> Iterator[WorkerProcess]:
    """A worker that takes nothing of what it is told."""
    process = WorkerProcess([])
    with closing(process):
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield process
        finally:
            process.kill()
            wait_for_ends([process.pid])
            assert process.ended() == -signal.SIGKILL


@pytest.mark.parametrize(("message", "times"), [(bytes(64 * MIB), 1), (END, 10_000)], ids=["long", "many"])
def test_who_does_not_take_what_it_is_told_is_killed(message: bytes, times: int) -> None:
    """A message that does not go in as a whole, and one for which there is no room at all."""
    with deaf() as process:
        for _ in range(times):
            process.tell(message)
        wait_for_ends([process.pid])
        assert process.ended() == -signal.SIGKILL


def test_who_has_ended_may_be_told_anything() -> None:
    with deaf() as process:
        process.kill()
        wait_for_ends([process.pid])
        process.tell(END)
