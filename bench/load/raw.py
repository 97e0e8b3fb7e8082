"""Sends blobs to `bench.floors.sink`: the bytes of ``push`` on as many connections, with nothing around them."""

from __future__ import annotations

import base64
import os
import time
from typing import TYPE_CHECKING, Any

from bench.floors.sink import LENGTH
from bench.load.client import BadAnswer, Client
from bench.load.loop import Loop
from bench.load.program import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.load.loop import Task


def _send(client: Client, blobs: Iterator[Mapping[str, Any]], files: Mapping[str, int]) -> Task[None]:
    yield from client.connect()
    answer = memoryview(bytearray(32))
    for blob in blobs:
        head = base64.b64decode(blob["head"])
        yield from client.send(LENGTH.pack(len(head) + blob["length"]) + head)
        yield from client.send_file(files[blob["path"]], blob["offset"], blob["length"])
        got = 0
        while got < len(answer):
            got += yield from client.receive(answer[got:])
        if blob["digest"] != f"sha256:{answer.hex()}":
            raise BadAnswer("another digest than was sent")
    client.close()


def work(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Send all blobs."""
    files = {path: os.open(path, os.O_RDONLY) for path in {each["path"] for each in orders["blobs"]}}
    began = time.perf_counter()
    loop, blobs = Loop(), iter(orders["blobs"])
    for _ in range(orders["connections"]):
        loop.spawn(_send(Client(loop, orders["port"], ()), blobs, files))
    loop.run()
    return {"wall": time.perf_counter() - began}


if __name__ == "__main__":
    main(work)
