"""Slow uploads: many PATCHes at one time, each at the pace of a bad line."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bench.load.client import Client
from bench.load.loop import Loop, Pause
from bench.load.program import main
from bench.load.push import OCTETS, target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.load.loop import Task


@dataclass(frozen=True, slots=True)
class Pace:
    """What an upload sends."""

    piece: bytes
    interval: float
    """Seconds from one piece to the next."""
    pieces: int


def _upload(client: Client, repository: str, pace: Pace, begin: float, digest: str) -> Task[None]:
    yield Pause(begin)
    path = f"/v2/{repository}/blobs/uploads/"
    location = target((yield from client.request("POST", path)).expect(202).headers["location"])
    yield from client.send_head("PATCH", location, len(pace.piece) * pace.pieces, OCTETS)
    due = time.perf_counter()
    for _ in range(pace.pieces):
        yield from client.send(pace.piece)
        due += pace.interval
        yield Pause(due)
    location = target((yield from client.answer("PATCH")).expect(202).headers.get("location", location))
    joint = "&" if "?" in location else "?"
    (yield from client.request("PUT", f"{location}{joint}digest={quote(digest, safe='')}")).expect(201)
    client.close()


def work(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Upload on all connections, begun one after the other so that no two are in step."""
    pace = Pace(bytes(range(256)) * (orders["piece"] // 256), orders["interval"], orders["pieces"])
    found = hashlib.sha256()
    for _ in range(pace.pieces):
        found.update(pace.piece)
    digest = f"sha256:{found.hexdigest()}"
    fields = [(name, value) for name, value in orders["fields"]]
    loop, count, began = Loop(), orders["connections"], time.perf_counter()
    for number in range(count):
        client = Client(loop, orders["port"], fields)
        loop.spawn(_upload(client, orders["repository"], pace, began + orders["ramp"] * number / count, digest))
    loop.run()
    return {"wall": time.perf_counter() - began}


if __name__ == "__main__":
    main(work)
