"""Keep-alive connections that have each asked once, and then are only held open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.load.client import BadAnswer, Client
from bench.load.loop import Loop
from bench.load.program import main, say_ready, until_told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.load.loop import Task

AT_ONCE = 64
"""Connections that are opened at one time."""


def _open(clients: Iterator[Client], opened: list[Client]) -> Task[None]:
    for client in clients:
        (yield from client.request("GET", "/v2/")).expect(200)
        opened.append(client)


def work(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Open all, hold them, and look at the end that all are still open."""
    fields = [(name, value) for name, value in orders["fields"]]
    loop = Loop()
    clients = iter([Client(loop, orders["port"], fields) for _ in range(orders["connections"])])
    opened: list[Client] = []
    for _ in range(AT_ONCE):
        loop.spawn(_open(clients, opened))
    loop.run()
    say_ready()
    hold = Loop()
    hold.spawn(until_told(lambda: None))
    hold.run()
    closed = sum(1 for client in opened if not client.is_open())
    if closed:
        raise BadAnswer(f"the server closed {closed} of {len(opened)} idle connections")
    return {"connections": len(opened)}


if __name__ == "__main__":
    main(work)
