"""Slow readers: downloads that hang on, each taking a little now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bench.load.client import BadAnswer, Client
from bench.load.loop import Loop, Pause
from bench.load.program import main, say_ready, until_told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.load.loop import Task

RECEIVE_BUFFER = 16 * 1024
READ_BYTES = 4096


class Readers:
    """All of them."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._ended = False

    def end(self) -> None:
        """Let them end at their next read."""
        self._ended = True

    def read(self, client: Client, target: str, interval: float) -> Task[None]:
        """One reader."""
        yield from client.send_head("GET", target, None)
        status, _ = yield from client.answer_head()
        if status != 200:
            raise BadAnswer(f"{status} for {target}")
        self._missing -= 1
        if not self._missing:
            say_ready()
        buffer, due = memoryview(bytearray(READ_BYTES)), time.perf_counter()
        while not self._ended:
            yield from client.receive(buffer)
            due += interval
            yield Pause(due)
        client.close()


def work(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Read until told to end."""
    fields = [(name, value) for name, value in orders["fields"]]
    loop, readers = Loop(), Readers(orders["connections"])
    loop.spawn(until_told(readers.end))
    for _ in range(orders["connections"]):
        client = Client(loop, orders["port"], fields, RECEIVE_BUFFER)
        loop.spawn(readers.read(client, orders["target"], READ_BYTES / orders["rate"]))
    loop.run()
    return {}


if __name__ == "__main__":
    main(work)
