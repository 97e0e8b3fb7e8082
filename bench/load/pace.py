"""Small requests that are timed one by one: at a fixed pace, or each when the one before was answered.

One rule: at a pace, a request has its moment, and its wait counts from then. A client that asks again only when it was
answered leaves out just the requests that would have waited; it is for the cost of writes that are never many at once.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bench.load.client import Client
from bench.load.loop import Loop, Pause
from bench.load.program import main, say_ready, until_told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.load.loop import Task

NICE = -10
"""It is woken before others, where it may be: it is to measure the server, and not its own turn."""


class Prober:
    """All connections, and the waits so far."""

    def __init__(self, orders: Mapping[str, Any]) -> None:
        self.waits: list[float] = []
        self._method: str = orders["method"]
        self._target: str = orders["target"]
        self._body = orders["body"].encode()
        self._ended = False

    def end(self) -> None:
        """Ask no more."""
        self._ended = True

    def probe(self, client: Client, name: str, begin: float, interval: float | None) -> Task[None]:
        """One connection: a request every ``interval`` seconds, or one after the other. ``name`` is its own."""
        due, number = begin, 0
        while not self._ended:
            if interval is not None:
                yield Pause(due)
            else:
                due = time.perf_counter()
            target = self._target.replace("{unique}", f"{name}-{number}")
            (yield from client.request(self._method, target, self._body)).expect(200, 201)
            self.waits.append(time.perf_counter() - due)
            due += interval or 0.0
            number += 1
        client.close()


def work(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Ask until told to end; the waits in seconds, in no order."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    fields = [(name, value) for name, value in orders["fields"]]
    loop, prober, count = Loop(), Prober(orders), orders["connections"]
    interval = None if orders["rate"] is None else count / orders["rate"]
    began = time.perf_counter()
    loop.spawn(until_told(prober.end))
    for number in range(count):
        begin = began + (interval or 0.0) * number / count
        loop.spawn(prober.probe(Client(loop, orders["port"], fields), str(number), begin, interval))
    say_ready()
    loop.run()
    return {"waits": prober.waits}


if __name__ == "__main__":
    main(work)
