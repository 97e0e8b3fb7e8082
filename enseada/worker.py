"""A worker: one of several processes that serve. ``python -m enseada.worker FD`` is how `enseada.supervisor` starts it.

One rule: it does what it is told over the socket FD, and ends when nobody is left to tell it anything. SIGTERM ends it
gracefully, any number of times, and SIGINT does nothing: both may be meant for the supervisor, and have reached the
whole group of processes.
"""

from __future__ import annotations

import importlib
import logging
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from enseada import logs
from enseada.build import open_stores
from enseada.listeners import Listener, close_all
from enseada.orders import END, NOW, Failed, Lines, Order, Ready, decode_order, encode
from enseada.serving import serve_over
from enseada.shares import share_of
from enseada.starterror import StartError, sentences
from enseada.watchdog import LAST_MOMENTS, Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enseada.serving import Started

log = logging.getLogger("enseada.worker")

ENDED = 0
FAILED = 1
CHUNK = 65536
"""Bytes of what the supervisor says that are received at once."""
NEEDED = (
    "enseada.app",
    "enseada.formats.docker_token",
    "enseada.formats.oci",
    "enseada.storage.blobs.local",
    "enseada.storage.documents.sqlite",
)
"""What is imported before the order comes, while others get ready, though it is needed only then."""


def main(fd: int) -> int:
    """Wait for the order, and follow it; return the exit code."""
    for name in NEEDED:
        importlib.import_module(name)
    with socket.socket(fileno=fd) as control:
        lines = Lines()
        said: list[bytes] = []
        while not said:
            data = control.recv(CHUNK)
            if not data:
                return ENDED
            said += lines.feed(data)
        if said[0] in (END, NOW):
            return ENDED
        order = decode_order(said[0])
        settings = order.settings
        with logs.configure(settings.log_format, settings.log_level, sys.stderr, turn=order.turn, worker=order.number):
            return trio.run(_follow, order, control, lines, said[1:])


async def _follow(order: Order, control: socket.socket, lines: Lines, said: Iterable[bytes]) -> int:
    """Serve until told to end; ``said`` is what was said since the order."""
    code = ENDED
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what comes after the receiver is gone finds us at the end
    with trio.open_signal_receiver(signal.SIGTERM) as signals, ExitStack() as stack:
        # It was blocked since the process began, as SIGINT is for ever.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        ending = _Ending(order.settings.grace)
        stack.enter_context(ending.watchdog)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(control.dup()))
        async with stream, trio.open_nursery() as everything:
            ending.scope = everything.cancel_scope
            everything.start_soon(_heed, signals, ending)
            everything.start_soon(_obey, stream, lines, said, ending)
            try:
                async with trio.open_nursery() as serving:
                    started: Started = await serving.start(partial(_serve, order, ending.shutdown))
                    await _answer(stream, Ready(started.admin_password))
            except* StartError as group:
                code = FAILED
                await _answer(stream, Failed(logs.escape("; ".join(sentences(group)))))
            everything.cancel_scope.cancel()
    return code


async def _serve(order: Order, shutdown: trio.Event, *, task_status: trio.TaskStatus[Started]) -> None:
    """Serve a worker's share, over what it has inherited. Raises StartError."""
    share = share_of(order.settings, order.number)
    listeners = []
    for passed in order.listeners:
        listening = socket.socket(fileno=passed.fd)
        listening.setblocking(False)
        listeners.append(Listener(listening, passed.address))  # the supervisor removes a unix socket's file
    try:
        async with open_stores(share.settings, held=True, most_dirty=share.most_dirty) as (documents, store):
            for listener in listeners:
                listener.listen()
            await serve_over(share.settings, documents, store, listeners, shutdown=shutdown, task_status=task_status)
    finally:
        close_all(listeners)


class _Ending:
    """How this worker ends."""

    def __init__(self, grace: float) -> None:
        self.shutdown = trio.Event()
        self.watchdog = Watchdog()
        self.scope = trio.CancelScope()
        self.grace = grace

    def begin(self) -> None:
        """Gracefully. Safe any number of times."""
        if not self.shutdown.is_set():
            self.watchdog.start(self.grace + LAST_MOMENTS)
            self.shutdown.set()

    def cut(self) -> None:
        """At once: what is under way is cancelled, and saved."""
        self.begin()
        self.watchdog.start(LAST_MOMENTS)
        self.scope.cancel()


async def _heed(signals: Any, ending: _Ending) -> None:
    async for _ in signals:
        ending.begin()


async def _obey(stream: trio.SocketStream, lines: Lines, said: Iterable[bytes], ending: _Ending) -> None:
    """Do what the supervisor says, until it is gone."""
    while True:
        for line in said:
            if line == NOW:
                ending.cut()
            elif line == END:
                ending.begin()
        try:
            data = await stream.receive_some(CHUNK)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            break
        said = lines.feed(bytes(data))
    if not ending.shutdown.is_set():
        log.warning("the supervisor is gone: ending; requests under way have %g seconds", ending.grace)
    ending.begin()


async def _answer(stream: trio.SocketStream, answer: Ready | Failed) -> None:
    with suppress(trio.BrokenResourceError):  # there is no supervisor any more, and `_obey` notices
        await stream.send_all(encode(answer))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
