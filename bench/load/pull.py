"""Downloads files, and throws their bytes away.

They are thrown away in the kernel (MSG_TRUNC): a client on another machine would cost this one nothing either. With
``check`` they are read, and their digests must be right; nothing is measured then.
"""

from __future__ import annotations

import hashlib
import socket
import time
from typing import TYPE_CHECKING, Any

from bench.load.client import BadAnswer, Client, body_length
from bench.load.loop import Loop
from bench.load.program import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.load.loop import Task

BUFFER_BYTES = 1 << 20


def _pull(client: Client, downloads: Iterator[tuple[str, str]], buffer: memoryview, check: bool) -> Task[None]:
    for target, digest in downloads:
        yield from client.send_head("GET", target, None)
        status, headers = yield from client.answer_head()
        if status != 200:
            raise BadAnswer(f"{status} for {target}")
        left, found = body_length(headers), hashlib.sha256()
        while left:
            part = buffer[: min(left, len(buffer))]
            count = yield from client.receive(part, 0 if check else socket.MSG_TRUNC)
            if check:
                found.update(part[:count])
            left -= count
        if check and digest != f"sha256:{found.hexdigest()}":
            raise BadAnswer(f"{target} has other bytes than it should")
    client.close()


def work(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Download all, on as many connections as are wanted: who is free takes the next."""
    downloads = iter([(each["target"], each["digest"]) for each in orders["downloads"]])
    fields = [(name, value) for name, value in orders["fields"]]
    buffer = memoryview(bytearray(BUFFER_BYTES))  # shared: nobody reads what is in it after another's turn
    began = time.perf_counter()
    loop = Loop()
    for _ in range(orders["connections"]):
        loop.spawn(_pull(Client(loop, orders["port"], fields), downloads, buffer, orders["check"]))
    loop.run()
    return {"wall": time.perf_counter() - began}


if __name__ == "__main__":
    main(work)
